//! What a run has done so far: the journal it writes and the facts that its report is made from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Failure, Outcome};
use crate::event::{Event, Events, Phase};
use crate::journal::{Entry, Journal};
use crate::models::verify::Summary;
use crate::report::{self, OtherUnit, PhaseReport};
use crate::service::others::Untied;
use crate::settings::names::{BranchName, CommitId, GenerationName, RunId};
use crate::source::hook_outputs::HookTime;

use super::begin::Target;
use super::rehearsal::StagedAssets;
use super::socket::Held;

/// The account of one run. Steps add facts; only [`Account::part`] writes intents and outcomes.
#[derive(Debug)]
pub struct Account {
    /// The run.
    pub run: RunId,
    /// What it aims at.
    pub target: Target,
    /// The command that asks for the same once more.
    pub again: String,
    /// Whether staging came first.
    pub staged: bool,
    /// When it began, in UTC.
    pub started_at: jiff::Timestamp,
    /// The commit that was checked out before.
    pub commit_before: Option<CommitId>,
    /// The generation that was live before.
    pub generation_before: Option<GenerationName>,
    /// Commits whose files are no local changes: deployed, or aimed at by interrupted runs.
    pub known: Vec<CommitId>,
    /// The commit, from when `app/` is proved to be it.
    pub commit: Option<CommitId>,
    /// The environment, from when it is ready.
    pub environment: report::Environment,
    /// What was found when the models were looked at.
    pub models: Option<Summary>,
    /// What was saved of local changes.
    pub saved: report::Saved,
    /// Preserved files, relative to `app/`.
    pub preserved: Vec<String>,
    /// Git-ignored paths that moved across, relative to `app/`.
    pub ignored: Vec<String>,
    /// When hooks worked in `app/`, if their products are not recorded yet.
    pub hook_time: Option<HookTime>,
    /// What staged hooks have built for step 4.
    pub staged_assets: Option<StagedAssets>,
    /// What became of the protected paths.
    pub protected: report::Protected,
    /// The URL that was probed.
    pub url: Option<String>,
    /// The other units of the application.
    pub others: Vec<OtherUnit>,
    /// Those of them that nothing ties to the service, as they were before the stop.
    pub untied: Vec<Untied>,
    /// The unit that has the service's sockets, from before the stop until the service is proved.
    pub held: Option<Held>,
    /// What became of connections, where such a unit had the sockets.
    pub connections: Option<report::Connections>,
    /// How often the service was asked on its own port until it answered.
    pub asked_here: u32,
    /// When the service began to be stopped.
    pub down_since: Option<Instant>,
    /// How long it did not answer.
    pub downtime: Option<Duration>,
    /// When step 5 began.
    pub restart_since: Option<Instant>,
    /// From there to the first good answer.
    pub start_took: Option<Duration>,
    /// The parts of the run that are over.
    pub phases: Vec<PhaseReport>,
    /// Things a person should look at.
    pub warnings: Vec<String>,
    events: Arc<Events>,
    journal: Journal,
}

/// What an account starts with.
#[derive(Debug)]
pub struct Opening {
    /// The run.
    pub run: RunId,
    /// What it aims at.
    pub target: Target,
    /// The command that asks for the same once more.
    pub again: String,
    /// Whether staging comes first.
    pub staged: bool,
    /// When it began, in UTC.
    pub started_at: jiff::Timestamp,
    /// The commit that is checked out.
    pub commit_before: Option<CommitId>,
    /// The live generation.
    pub generation_before: Option<GenerationName>,
    /// Commits whose files are no local changes.
    pub known: Vec<CommitId>,
    /// What preflight took and found, in milliseconds.
    pub preflight: PhaseReport,
    /// What preflight warned of.
    pub warnings: Vec<String>,
}

impl Account {
    /// Opens an account.
    pub fn open(opening: Opening, events: Arc<Events>, journal: Journal) -> Self {
        Self {
            run: opening.run,
            target: opening.target,
            again: opening.again,
            staged: opening.staged,
            started_at: opening.started_at,
            commit_before: opening.commit_before,
            generation_before: opening.generation_before,
            known: opening.known,
            commit: None,
            environment: report::Environment::default(),
            models: None,
            saved: report::Saved::default(),
            preserved: Vec::new(),
            ignored: Vec::new(),
            hook_time: None,
            staged_assets: None,
            protected: report::Protected::default(),
            url: None,
            others: Vec::new(),
            untied: Vec::new(),
            held: None,
            connections: None,
            asked_here: 0,
            down_since: None,
            downtime: None,
            restart_since: None,
            start_took: None,
            phases: vec![opening.preflight],
            warnings: opening.warnings,
            events,
            journal,
        }
    }

    /// Does one part of the run: writes the intent, acts, writes the outcome, tells both.
    ///
    /// # Errors
    /// The part's own failure, or that the journal cannot be written.
    pub fn part<T>(
        &mut self,
        phase: Phase,
        act: impl FnOnce(&mut Self) -> Outcome<(T, String)>,
    ) -> Outcome<T> {
        let start = self.started(phase);
        let acted = self
            .record(Entry::Intent { phase })
            .and_then(|()| act(self))
            .and_then(|done| self.done(phase).map(|()| done));
        match acted {
            Ok((value, summary)) => {
                self.finished(phase, start, summary);
                Ok(value)
            }
            Err(failure) => {
                // The failure itself is what counts; a journal that cannot take it (a full disk) changes nothing.
                let _ = self.record(Entry::Failed { phase, error: failure.open_chain() });
                self.failed(phase, start, &failure);
                Err(failure)
            }
        }
    }

    /// Writes the outcome of a part that succeeded. When the fence has fallen the run has succeeded, whatever becomes of
    /// the record.
    fn done(&mut self, phase: Phase) -> Outcome<()> {
        match self.record(Entry::Done { phase }) {
            Err(failure) if phase == Phase::Restart => {
                self.warn(format!("the journal cannot be written: {}", failure.chain().join(": ")));
                Ok(())
            }
            other => other,
        }
    }

    /// Does the last part of a run that has succeeded already; trouble with the journal is worth a warning only.
    pub fn last_part(&mut self, phase: Phase, act: impl FnOnce(&mut Self) -> String) {
        let start = self.started(phase);
        let intent = self.record(Entry::Intent { phase });
        let summary = act(self);
        let done = intent.and_then(|()| self.record(Entry::Done { phase }));
        if let Err(failure) = done {
            self.warn(format!("the journal cannot be written: {}", failure.chain().join(": ")));
        }
        self.finished(phase, start, summary);
    }

    fn started(&self, phase: Phase) -> Instant {
        self.events.emit(&Event::PhaseStarted { phase });
        clock::monotonic()
    }

    fn finished(&mut self, phase: Phase, start: Instant, summary: String) {
        let duration_ms = millis(clock::monotonic().duration_since(start));
        self.phases.push(PhaseReport { phase, duration_ms, ok: true, summary: summary.clone() });
        self.events.emit(&Event::PhaseFinished { phase, duration_ms, summary });
    }

    fn failed(&mut self, phase: Phase, start: Instant, failure: &Failure) {
        let duration_ms = millis(clock::monotonic().duration_since(start));
        let summary = failure.summary().to_owned();
        self.phases.push(PhaseReport { phase, duration_ms, ok: false, summary });
        self.events.emit(&Event::PhaseFailed { phase, duration_ms, error: failure.chain() });
    }

    /// Writes a record of the journal that is neither intent nor outcome.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn record(&mut self, entry: Entry) -> Outcome<()> {
        self.journal.append(entry)
    }

    /// Adds something that a person should look at, and tells it.
    pub fn warn(&mut self, message: String) {
        self.events.warn(&message);
        self.warnings.push(message);
    }

    /// Tells something worth knowing.
    pub fn note(&self, message: &str) {
        self.events.note(message);
    }

    /// Returns how far the work in hand is.
    pub fn progress(&self, what: &str) {
        self.events.progress(what, None, None);
    }

    /// Returns where events go.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Sends an event.
    pub fn emit(&self, event: &Event) {
        self.events.emit(event);
    }

    /// Returns the branch.
    pub fn branch(&self) -> &BranchName {
        &self.target.branch
    }
}

/// Returns whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
