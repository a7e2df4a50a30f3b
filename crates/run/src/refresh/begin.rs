//! The beginning of a run: its preflight, its directory, its journal, its log.

use std::sync::Arc;
use std::time::Instant;

use crate::plan::Target;
use refresh_events::event::{Event, Events, SCHEMA};
use refresh_events::log::Log;
use refresh_events::run_report::{Phase, Report, Requested};
use refresh_git::Hold;
use refresh_installation::installation::Installation;
use refresh_installation::journal::{Entry, Journal, record, recover};
use refresh_installation::status_file::{Current, CurrentRunWriter};
use refresh_programs::process::ProcessId;
use refresh_settings::names::CommitId;
use refresh_system::error::Outcome;
use refresh_system::{checkpoint, clock, disk};

use super::account::{self, Account};
use super::steps::{Planned, Refresh};

/// Sends the event for the beginning of a run, and performs its preflight, which began at `start`.
///
/// # Errors
/// The preflight's own failure.
pub fn preflight<T>(
    events: &Events,
    report: &mut Report,
    start: Instant,
    check: impl FnOnce() -> Outcome<(T, String)>,
) -> Outcome<T> {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    events.emit(&Event::RunStarted { schema: SCHEMA, program, run: report.run.clone(), at: clock::now() });
    events.emit(&Event::PhaseStarted { phase: Phase::Preflight });
    let checked = check();
    account::over(events, report, Phase::Preflight, start, checked)
}

/// Creates the directory of a run and writes the first record of its journal. From here on, the next run finds a killed
/// run. `aim` is the target with the command that requests it; `known` are commits whose files are not local changes.
///
/// # Errors
/// The tool's own state cannot be written. Then the run has no directory: a later run would take it for a killed one.
pub fn begin(
    on: &Installation,
    mut report: Report,
    aim: (Target, String),
    known: Vec<CommitId>,
    events: Arc<Events>,
) -> Outcome<Refresh<'_, Planned>> {
    let branch = aim.0.branch().clone();
    let journal = make_records(on, &report, &aim.0, &events).inspect_err(|_| {
        let _ = disk::remove_tree(&on.layout.run(&report.run));
    })?;
    report.branch = branch.clone();
    report.requested = Some(Requested { branch, commit: None, subject: None, author: None });
    let account = Account::new(report, aim, known, events, journal);
    Ok(Refresh { on, account, at: Planned { staged: None } })
}

/// Creates the directory, the log and the journal of a run.
fn make_records(on: &Installation, report: &Report, target: &Target, events: &Events) -> Outcome<Journal> {
    let (run, branch, process) = (report.run.clone(), target.branch().clone(), ProcessId::own());
    let directory = on.layout.run(&run);
    let sequence = recover::next_sequence(&on.layout)?;
    disk::make_directory(&directory, 0o755)?;
    checkpoint::reach("begin:directory-made");
    events.subscribe(Box::new(Log::open(&on.layout.run_log(&run))?));
    let current = Current {
        run: run.clone(),
        command: report.command.clone(),
        branch: branch.clone(),
        started_at: report.started_at,
        phase: Phase::Preflight,
        process,
    };
    events.subscribe(Box::new(CurrentRunWriter::new(&on.layout, current)?));
    let mut journal = Journal::create(&directory)?;
    journal.append(Entry::Begun {
        schema: record::SCHEMA,
        run: run.clone(),
        process,
        branch: branch.clone(),
        before: report.commit_before.clone(),
        unit: on.settings.service.unit.clone(),
        sequence,
    })?;
    if let Target::Earlier(deployment) = target {
        on.mirror.hold(Hold::Run, &run, &deployment.commit)?;
    }
    Ok(journal)
}
