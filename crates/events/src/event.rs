//! The events of a run, as a closed and versioned set.
//!
//! An event is a contract with programs that read `--format json`; `docs/events.schema.json` is its schema and a test
//! compares the two. Subscribers render events; none of them can stop a run.

use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::run_report::{Phase, Report};
use refresh_settings::names::RunId;

/// The version of the event stream; the first record carries it.
pub const SCHEMA: u32 = 2;

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
        /// The part.
        phase: Phase,
    },
    /// Progress of the current work: `done` of `total`, both in the unit that `what` names.
    Progress {
        /// The part of the run.
        phase: Phase,
        /// The current work.
        what: String,
        /// How much is done.
        done: Option<u64>,
        /// How much there is to do.
        total: Option<u64>,
    },
    /// A line that another program wrote.
    Output {
        /// The part of the run.
        phase: Phase,
        /// The program or hook.
        source: String,
        /// The line.
        line: String,
    },
    /// Something worth knowing.
    Note {
        /// The part of the run.
        phase: Phase,
        /// The text.
        message: String,
    },
    /// Something that a person should check.
    Warning {
        /// The part of the run.
        phase: Phase,
        /// The text.
        message: String,
    },
    /// A part of the run is done.
    PhaseFinished {
        /// The part.
        phase: Phase,
        /// How long it took, in milliseconds.
        duration_ms: u64,
        /// Its result, in a few words.
        summary: String,
    },
    /// A part of the run failed; the run ends.
    PhaseFailed {
        /// The part.
        phase: Phase,
        /// How long it took, in milliseconds.
        duration_ms: u64,
        /// The causes, the outermost first.
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
    /// Receives one event. A failure of the output stays with the subscriber.
    fn take(&mut self, event: &Event);
}

/// Passes events to every subscriber, in order.
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

    /// Adds a subscriber, which receives all further events.
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

    /// Reports the progress of the current work.
    pub fn progress(&self, what: &str, done: Option<u64>, total: Option<u64>) {
        self.emit(&Event::Progress { phase: self.phase(), what: what.to_owned(), done, total });
    }

    fn phase(&self) -> Phase {
        self.with(|inner| inner.phase)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A subscriber that panicked has damaged at most its own output.
        let mut inner = self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut inner)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
