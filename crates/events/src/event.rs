//! What happens during a run, as a closed and versioned set of events.
//!
//! An event is a contract with programs that read `--format json`; `docs/events.schema.json` is its schema and a test
//! holds the two together. Subscribers render events; none of them can stop a run.

use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::run_report::{Phase, Report};
use refresh_settings::names::RunId;

/// The version of the event stream; the first record carries it.
pub const SCHEMA: u32 = 1;

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began. Always first.
    RunStarted {
        /// The version of the stream, [`SCHEMA`].
        schema: u32,
        /// The version of the program.
        program: String,
        /// The run.
        run: RunId,
        /// When, in UTC.
        at: jiff::Timestamp,
    },
    /// A part of the run began.
    PhaseStarted {
        /// Which.
        phase: Phase,
    },
    /// Work in hand: `done` of `total`, both in the unit that `what` names.
    Progress {
        /// During which part.
        phase: Phase,
        /// What is being done.
        what: String,
        /// How much is done.
        done: Option<u64>,
        /// Of how much.
        total: Option<u64>,
    },
    /// A line that another program wrote.
    Output {
        /// During which part.
        phase: Phase,
        /// The program or hook.
        source: String,
        /// The line.
        line: String,
    },
    /// Something worth knowing.
    Note {
        /// During which part.
        phase: Phase,
        /// What.
        message: String,
    },
    /// Something a person should look at.
    Warning {
        /// During which part.
        phase: Phase,
        /// What.
        message: String,
    },
    /// A part of the run is done.
    PhaseFinished {
        /// Which.
        phase: Phase,
        /// How long it took, in milliseconds.
        duration_ms: u64,
        /// What it did, in a few words.
        summary: String,
    },
    /// A part of the run failed; the run ends.
    PhaseFailed {
        /// Which.
        phase: Phase,
        /// How long it took, in milliseconds.
        duration_ms: u64,
        /// What happened, outermost first.
        error: Vec<String>,
    },
    /// The run ended. Always last.
    RunFinished {
        /// All about it.
        report: Box<Report>,
    },
}

/// Something that renders or keeps events.
pub trait Subscriber: Send {
    /// Takes one event. Trouble with the output stays with the subscriber.
    fn take(&mut self, event: &Event);
}

/// Where events go: to every subscriber, in order.
pub struct Events {
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    subscribers: Vec<Box<dyn Subscriber>>,
}

impl Events {
    /// Makes a stream with its subscribers.
    pub fn new(subscribers: Vec<Box<dyn Subscriber>>) -> Self {
        Self { inner: Mutex::new(Inner { phase: Phase::Preflight, subscribers }) }
    }

    /// Makes a stream without readers.
    pub fn silent() -> Self {
        Self::new(Vec::new())
    }

    /// Adds a subscriber, which sees everything from now on.
    pub fn subscribe(&self, subscriber: Box<dyn Subscriber>) {
        self.with(|inner| inner.subscribers.push(subscriber));
    }

    /// Sends an event.
    pub fn emit(&self, event: &Event) {
        self.with(|inner| {
            if let Event::PhaseStarted { phase } = event {
                inner.phase = *phase;
            }
            for subscriber in &mut inner.subscribers {
                subscriber.take(event);
            }
        });
    }

    /// Reports something about the work in progress.
    pub fn note(&self, message: &str) {
        self.emit(&Event::Note { phase: self.phase(), message: message.to_owned() });
    }

    /// Reports something that a person should check.
    pub fn warn(&self, message: &str) {
        self.emit(&Event::Warning { phase: self.phase(), message: message.to_owned() });
    }

    /// Passes on a line that another program wrote.
    pub fn output(&self, source: &str, line: &str) {
        self.emit(&Event::Output { phase: self.phase(), source: source.to_owned(), line: line.to_owned() });
    }

    /// Returns how far the work in hand is.
    pub fn progress(&self, what: &str, done: Option<u64>, total: Option<u64>) {
        self.emit(&Event::Progress { phase: self.phase(), what: what.to_owned(), done, total });
    }

    fn phase(&self) -> Phase {
        self.with(|inner| inner.phase)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A subscriber that panicked has spoiled at most its own output.
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut inner)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
