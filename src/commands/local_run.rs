//! A run in this process: preflight, staging, the six steps, the report.

use std::sync::Arc;
use std::time::Instant;

use crate::bundle;
use refresh_events::event::{Events, Subscriber};
use refresh_events::run_report::{HeldBack, ModelsSummary, Phase, Report};
use refresh_host::host::presence;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation::Installation;
use refresh_installation::journal::recover;
use refresh_installation::status_file;
use refresh_programs::process::{ExitKind, ProcessId, Runner};
use refresh_programs::units::Role;
use refresh_run::plan::{Incoming, Observed, Target, confinement, preflight};
use refresh_run::refresh;
use refresh_run::refresh::{begin, status};
use refresh_run::relay::spool;
use refresh_run::relay::spool::{Spool, Spooler};
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, RunId};
use refresh_settings::trust;
use refresh_source::exchange;
use refresh_source::exchange::Exchanges;
use refresh_system::error::Outcome;
use refresh_system::{clock, interrupt};

use super::held_back;
use super::run_request::{RunRequest, answers, start_probe_beforehand};
use super::{lock, settings, with_command_to_repeat};

/// A run in this process.
pub(super) struct LocalRun {
    /// Its ID.
    pub(super) run: RunId,
    /// When it began, in UTC.
    pub(super) started_at: jiff::Timestamp,
    /// The receiver of its events.
    pub(super) events: Arc<Events>,
    /// The files for its followers.
    pub(super) spool: Spool,
}

impl LocalRun {
    pub(super) fn new(layout: &Layout, run: RunId, subscribers: Vec<Box<dyn Subscriber>>) -> Self {
        let spool = Spool::of(layout, &run);
        Self { run, started_at: clock::now(), events: Arc::new(Events::new(subscribers)), spool }
    }

    /// From now on, sends its events to followers. The holder of the run lock must call this: before that, nothing is
    /// written. A failure to create the spool does not prevent the refresh.
    pub(super) fn open_spool(&self, layout: &Layout) {
        if let Ok(spooler) = Spooler::open(&self.spool) {
            self.events.subscribe(Box::new(spooler));
            let _ = self.spool.set_worker(ProcessId::own());
        }
        spool::prune(layout, &self.run);
    }

    /// Writes its end for its followers.
    pub(super) fn end(&self, result: &Result<Success, Error>) {
        if self.spool.is_there() {
            let code = result.as_ref().map_or_else(Error::code, |_| 0);
            if let Err(failure) = self.spool.set_end(ExitKind::Code(code.into())) {
                let reason = failure.chain().join(": ");
                self.events
                    .warn(&format!("the end of the run cannot be written for those who follow: {reason}"));
            }
        }
    }

    /// Performs the run of `request`.
    pub(super) fn refresh(&self, layout: &Layout, request: &RunRequest) -> Result<Success, Error> {
        let start = clock::monotonic();
        presence::check_there(layout)
            .map_err(|failure| Refusal::of(&Phase::Preflight.to_string(), failure))?;
        let layers = settings(layout, request.overrides.clone())?;
        let _lock = lock(layout, request.command(), Some(&self.run), &request.lock)
            .map_err(|error| with_command_to_repeat(error, &request.again))?;
        self.open_spool(layout);

        let runner = Runner::new(Arc::clone(&self.events)).for_run(self.run.clone());
        let on = Installation::open(layers, runner)
            .map_err(Error::Usage)?
            .with_offline_source(bundle::offline_source(request.bundle.clone()));
        let done = self.carry_out(&on, request, start);
        let tidied = interrupt::shielded(|| bundle::remove_unpacked(layout));
        if let (Ok(_), Err(failure)) = (&done, tidied) {
            let reason = failure.chain().join(": ");
            self.events.warn(&format!("the unpacked bundle cannot be removed: {reason}"));
        }
        done
    }

    /// Performs a run whose installation is open and whose lock is held.
    fn carry_out(&self, on: &Installation, request: &RunRequest, start: Instant) -> Result<Success, Error> {
        let mut report = Report::new(self.run.clone(), request.command(), self.started_at);
        let checked = begin::preflight(&self.events, &mut report, start, || {
            let (target, found) = examine(on, request, &self.run)?;
            let summary = found.summary();
            Ok(((target, found), summary))
        });
        let (target, found) = match checked {
            Ok(checked) => checked,
            Err(failure) => return Err(status::refused_in_preflight(on, report, &failure, &request.again)),
        };
        let (observed, aimed, warnings) = match found {
            Preflighted::Fit { observed, aimed, warnings } => (observed, aimed, warnings),
            Preflighted::Held(held) => {
                report.branch = target.branch().clone();
                status::held_back(on, &self.events, report, *held);
                return Ok(Success::Done);
            }
            Preflighted::AllThere { models } => {
                (report.branch, report.models) = (target.branch().clone(), models);
                status::unchanged(on, &self.events, report);
                return Ok(Success::Done);
            }
        };
        let running = observed.service.running().cloned();
        let mut known = observed.known();
        known.extend(aimed);
        report.staged = !on.settings.strict_order;
        report.commit_before.clone_from(&observed.tree.commit);
        report.environment.name_before = observed.live();
        report.warnings = warnings;
        let aim = (target, request.again.clone());
        let planned = begin(on, report, aim, known, Arc::clone(&self.events))
            .map_err(|failure| super::refuse(on, "preflight", failure, &request.again))?
            .with_service(running);
        let planned = if on.settings.strict_order { planned } else { planned.stage()? };
        refresh::execute(planned)?;
        Ok(Success::Done)
    }
}

/// The result of preflight.
enum Preflighted {
    /// Nothing must be done. The models were verified if the settings require it.
    AllThere { models: Option<ModelsSummary> },
    /// The commit to deploy is held back from this unattended run.
    Held(Box<HeldBack>),
    /// The installation may be refreshed.
    Fit { observed: Box<Observed>, aimed: Vec<CommitId>, warnings: Vec<String> },
}

impl Preflighted {
    fn summary(&self) -> String {
        match self {
            Self::AllThere { .. } => "everything is up to date".to_owned(),
            Self::Held(held) => format!("{} is held back: {}", held.commit.short(), held.cause()),
            Self::Fit { observed, .. } if observed.service.running().is_some() => {
                "ready, the service is running".to_owned()
            }
            Self::Fit { .. } => "ready, the service is stopped".to_owned(),
        }
    }
}

/// Preflight: cleans up after an interrupted run; everything else is only read.
fn examine(on: &Installation, request: &RunRequest, run: &RunId) -> Outcome<(Target, Preflighted)> {
    interrupt::check()?;
    on.units.start_beforehand(Role::Inspect);
    on.units.start_beforehand(Role::Build);
    start_probe_beforehand(on);
    let recovered = recover::recover(&on.layout, on.runner.events(), &Exchanges::of(on))?;
    // This run holds the lock and has not begun, so a run in progress by the status file no longer exists.
    status_file::clear_current(&on.layout)?;
    bundle::remove_unpacked(&on.layout)?;
    keep_down(on)?;
    confinement::check(on)?;
    let mut observed = Observed::of(on)?;
    let checked = preflight::check(on, &observed, request.makes());
    interrupt::check()?;
    let mut warnings = checked?;
    warnings.extend(trust::ignored(&on.layout).map(|ignored| ignored.to_string()));
    for warning in &warnings {
        on.runner.events().warn(warning);
    }
    let target = request.target(on)?;
    // This comes before the first query of the remote, which may be down as well.
    if request.unattended
        && let Target::Latest(branch) = &target
        && let Some(held) = held_back::by_stop(on, run, branch, &observed)?
    {
        return Ok((target, Preflighted::Held(Box::new(held))));
    }
    if let Target::Latest(branch) = &target
        && on.settings.strict_order
    {
        // Staging would find this before the stop; without staging, only a query of the remote is possible.
        on.check_source(branch)?;
    }
    let mut tip = None;
    if request.if_changed {
        observed = observed.with_drift(on, &recovered.aimed, None)?;
        let incoming = Incoming::examine(on, &target, &observed, run)?;
        if incoming.is_up_to_date(&target, &observed) && answers(on, &incoming.commit)? {
            let models = refresh::models::verified(on, &incoming.commit)?;
            return Ok((target, Preflighted::AllThere { models }));
        }
        tip = Some(incoming.commit);
    }
    if request.unattended
        && let Target::Latest(branch) = &target
        && let Some(held) = held_back::find(on, run, branch, tip.as_ref(), &observed)?
    {
        return Ok((target, Preflighted::Held(Box::new(held))));
    }
    if let Target::Earlier(pair) = &target {
        on.mirror.ensure_earlier(&pair.branch, &pair.commit)?;
    }
    if on.settings.strict_order {
        // Staging tries this with the prepared tree.
        exchange::try_borders(&on.layout, run)?;
    }
    Ok((target, Preflighted::Fit { observed: Box::new(observed), aimed: recovered.aimed, warnings }))
}

/// Stops a service that a killed run left running behind the fence (RW-7.1a): independent of the result of this run,
/// that service has not passed its health check.
fn keep_down(on: &Installation) -> Outcome<()> {
    if on.is_fenced() && !on.service.is_all_down()? {
        on.runner
            .events()
            .warn("the service was running behind the fence without a passed health check; it is stopped");
        interrupt::shielded(|| on.service.stop())?;
    }
    Ok(())
}
