//! The account of a run: its journal, and its report, which is filled during the run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plan::Target;
use refresh_events::event::{Event, Events};
use refresh_events::run_report::{Outage, Phase, PhaseReport, Report};
use refresh_installation::journal::{Entry, Journal};
use refresh_service::Running;
use refresh_service::deployed::Deployment;
use refresh_service::others::{Trigger, Untied};
use refresh_settings::names::{BranchName, CommitId, EnvironmentName};
use refresh_source::hook_outputs::HookTime;
use refresh_system::clock;
use refresh_system::error::Outcome;

use super::socket_holder::SocketHolder;
use super::staged_assets::StagedAssets;

/// The account of one run. Steps add facts to its report; only [`Account::part`] writes intents and outcomes.
#[derive(Debug)]
pub struct Account {
    /// The report so far: its commit is set after `app/` is verified to equal it.
    pub(crate) report: Report,
    /// Its target.
    pub(crate) target: Target,
    /// The command that repeats the run.
    pub(crate) again: String,
    /// Commits whose files are not local changes: the deployed one, and targets of interrupted runs.
    pub(crate) known: Vec<CommitId>,
    /// When hooks worked in `app/`, if their products are not recorded yet.
    pub(crate) hook_time: Option<HookTime>,
    /// The service at preflight, if it ran.
    pub(crate) running: Option<Running>,
    /// The hooks that a rollback leaves out, by number, with the reason; `None` before they are checked.
    pub(crate) left_out: Option<BTreeMap<usize, String>>,
    /// The products of staged hooks for step 4.
    pub(crate) staged_assets: Option<StagedAssets>,
    /// The units without a relation to the service, in their state before the stop.
    pub(crate) untied: Vec<Untied>,
    /// The timers and other units that start a unit of the application at any time.
    pub(crate) triggers: Vec<Trigger>,
    /// The unit that holds the service's sockets, from before the stop until the service has passed its health check.
    pub(crate) held: Option<SocketHolder>,
    /// The number of requests to the service on its own port until it answered.
    pub(crate) asked_here: u32,
    /// The time without the service until this run, if an earlier one had fenced it.
    pub(crate) outage: Option<Outage>,
    /// When the stop of the service began.
    pub(crate) down_since: Option<Instant>,
    /// When step 5 began.
    pub(crate) restart_since: Option<Instant>,
    /// The time from there to the first good answer.
    pub(crate) start_took: Option<Duration>,
    events: Arc<Events>,
    journal: Journal,
}

impl Account {
    /// Creates the account of a run with the report of its preflight.
    pub(crate) fn new(
        report: Report,
        (target, again): (Target, String),
        known: Vec<CommitId>,
        events: Arc<Events>,
        journal: Journal,
    ) -> Self {
        Self {
            report,
            target,
            again,
            known,
            hook_time: None,
            running: None,
            left_out: None,
            staged_assets: None,
            untied: Vec::new(),
            triggers: Vec::new(),
            held: None,
            asked_here: 0,
            outage: None,
            down_since: None,
            restart_since: None,
            start_took: None,
            events,
            journal,
        }
    }

    /// Performs one part of the run: writes the intent, acts, writes the outcome, reports both.
    ///
    /// # Errors
    /// The part's own failure, or that the journal cannot be written.
    pub(crate) fn part<T>(
        &mut self,
        phase: Phase,
        act: impl FnOnce(&mut Self) -> Outcome<(T, String)>,
    ) -> Outcome<T> {
        let start = self.started(phase);
        let acted = self
            .record(Entry::Intent { phase })
            .and_then(|()| act(self))
            .and_then(|done| self.done(phase).map(|()| done));
        if let Err(failure) = &acted {
            // Only the failure counts. It does not matter if the journal cannot be written (a full disk).
            let _ = self.record(Entry::Failed { phase, error: failure.open_chain() });
        }
        self.over(phase, start, acted)
    }

    /// Writes the outcome of a part that succeeded. After the fence is lowered, the run has succeeded, even if the
    /// record cannot be written.
    fn done(&mut self, phase: Phase) -> Outcome<()> {
        match self.record(Entry::Done { phase }) {
            Err(failure) if phase == Phase::Restart => {
                self.warn(format!("the journal cannot be written: {}", failure.chain().join(": ")));
                Ok(())
            }
            other => other,
        }
    }

    /// Performs the last part of a run that has already succeeded; a journal that cannot be written is a warning.
    pub(crate) fn last_part(&mut self, phase: Phase, act: impl FnOnce(&mut Self) -> String) {
        let start = self.started(phase);
        let intent = self.record(Entry::Intent { phase });
        let summary = act(self);
        let done = intent.and_then(|()| self.record(Entry::Done { phase }));
        if let Err(failure) = done {
            self.warn(format!("the journal cannot be written: {}", failure.chain().join(": ")));
        }
        let _ = self.over(phase, start, Ok(((), summary)));
    }

    fn started(&self, phase: Phase) -> Instant {
        self.events.emit(&Event::PhaseStarted { phase });
        clock::monotonic()
    }

    fn over<T>(&mut self, phase: Phase, start: Instant, done: Outcome<(T, String)>) -> Outcome<T> {
        over(&self.events, &mut self.report, phase, start, done)
    }

    /// Writes a record of the journal that is neither intent nor outcome.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn record(&mut self, entry: Entry) -> Outcome<()> {
        self.journal.append(entry)
    }

    /// Adds something that a person should check, and reports it.
    pub(crate) fn warn(&mut self, message: String) {
        self.events.warn(&message);
        self.report.warnings.push(message);
    }

    /// Reports a note.
    pub(crate) fn note(&self, message: &str) {
        self.events.note(message);
    }

    /// Reports the progress of the present work.
    pub(crate) fn progress(&self, what: &str) {
        self.events.progress(what, None, None);
    }

    /// Sends an event.
    pub(crate) fn emit(&self, event: &Event) {
        self.events.emit(event);
    }

    /// Returns the deployment of the run: a commit with its environment.
    pub(crate) fn deployment(&self, commit: &CommitId, environment: &EnvironmentName) -> Deployment {
        Deployment {
            commit: commit.clone(),
            branch: self.branch().clone(),
            environment: environment.clone(),
            refreshed_at: self.report.started_at,
            run: self.report.run.clone(),
        }
    }

    /// Returns the branch.
    pub(crate) fn branch(&self) -> &BranchName {
        self.target.branch()
    }
}

/// Adds a finished part of a run to the report, and sends its event.
pub(super) fn over<T>(
    events: &Events,
    report: &mut Report,
    phase: Phase,
    start: Instant,
    done: Outcome<(T, String)>,
) -> Outcome<T> {
    let duration_ms = clock::millis_since(start);
    let (ok, summary, event) = match &done {
        Ok((_, summary)) => {
            (true, summary.clone(), Event::PhaseFinished { phase, duration_ms, summary: summary.clone() })
        }
        Err(failure) => {
            let event = Event::PhaseFailed { phase, duration_ms, error: failure.chain() };
            (false, failure.summary().to_owned(), event)
        }
    };
    report.phases.push(PhaseReport { phase, duration_ms, ok, summary });
    events.emit(&event);
    done.map(|(value, _)| value)
}
