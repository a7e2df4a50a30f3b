//! Completes a run whose process was killed: the service must not run behind the fence (RW-7.1a), and the report must
//! state how the run ended (RW-7.1b).
//!
//! A command that systemd starts does this immediately, so it need not wait for the next run. The journal stays open:
//! the next run repairs the state of the tree, as usual.

use refresh_events::run_report;
use refresh_events::run_report::{Phase, PhaseReport, Report, RunResult};
use refresh_installation::installation::Installation;
use refresh_installation::journal::recover::Exchanges as _;
use refresh_installation::journal::store;
use refresh_installation::journal::store::Line;
use refresh_installation::journal::{Entry, Status};
use refresh_installation::{exit, history, status_file};
use refresh_programs::process::ExitKind;
use refresh_service::fence;
use refresh_service::fence::{Fence, Halt};
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_source::exchange::Exchanges;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::quoted;
use refresh_system::{clock, disk};

use super::status::complete;
use super::{others, page, socket};

/// Completes the run `run`, whose process ended with `end`. A run that ended by itself stays unchanged. The caller must
/// hold the run lock.
///
/// # Errors
/// The service cannot be stopped, or the result cannot be recorded.
pub fn settle(on: &Installation, run: &RunId, end: ExitKind) -> Outcome<()> {
    let directory = on.layout.run(run);
    let Some(read) = store::read(&directory)? else { return forget(on, run) };
    if matches!(read.status, Some(Status::Ended { .. })) {
        return forget(on, run);
    }
    disk::remove_file_if_there(&on.layout.admit())?;
    let phase = read.last_phase().unwrap_or(Phase::Preflight);
    let mut failure = Failure::new(format!("the process of run {run} was killed in {phase}"))
        .because(Failure::new(format!("it {}", in_words(end))));
    let mut stopped = Ok(());
    if on.is_fenced() {
        if !on.service.is_all_down().is_ok_and(|down| down) {
            stopped = on.service.stop().map(drop);
        }
        if let Err(stuck) = &stopped {
            let reason = format!("the service cannot be stopped: {}", stuck.chain().join(": "));
            failure = failure.rooted_in(Failure::new(reason));
        }
        if let Some(warning) = socket::open_left(on) {
            on.runner.events().warn(&warning);
        }
        // From now on, a starting service must find one version in app/, not a mixture.
        let completed = stopped.as_ref().map_or(Ok(false), |()| Exchanges::of(on).complete(run));
        if let Err(failed) = completed {
            let what = format!("app/ holds two versions: {}", failed.chain().join(": "));
            failure = failure.rooted_in(Failure::new(what));
        }
        // The fence of an earlier run keeps its own reason, which must be repaired.
        if !is_of_another_run(fence::read(&on.layout)?.as_ref(), run) {
            let halt = Halt { phase, commit: None };
            fence::explain(&on.layout, run, &format!("run {run} was killed in {phase}"), &failure, halt)?;
        }
        if let Err(warning) = page::show(on) {
            on.runner.events().warn(&warning);
        }
    }
    if !on.is_fenced() {
        // The run was killed after the service had passed its health check: the units that were stopped with it are
        // still down.
        for warning in others::start_noted(on) {
            on.runner.events().warn(&warning);
        }
    }
    // If the run was killed between its report and the end of its journal, the report is complete.
    if history::one(&on.layout, run)?.report.is_some() {
        forget(on, run)?;
        return stopped;
    }
    if let Some(report) = interrupted(on, run, &read.lines, (phase, end), &failure) {
        history::write_report(&directory, &report)?;
        status_file::set_last_run(&on.layout, &report)?;
    }
    stopped
}

/// Stops the service that run `run` left behind its fence, while another command holds the run lock. That command may
/// take long, or be refused; the next run does the rest. If another run has raised the fence for itself, that run
/// handles the service.
///
/// # Errors
/// The service cannot be stopped.
pub fn keep_down(on: &Installation, run: &RunId) -> Outcome<()> {
    let fence = fence::read(&on.layout)?;
    if fence.as_ref().and_then(Fence::record).is_none_or(|record| record.run != *run) {
        return Ok(());
    }
    fence::remove_stale_admission(&on.layout)?;
    if on.service.is_all_down().is_ok_and(|down| down) {
        return Ok(());
    }
    on.service.stop().map(drop)
}

fn is_of_another_run(fence: Option<&Fence>, run: &RunId) -> bool {
    fence.and_then(Fence::record).is_some_and(|record| record.run != *run)
}

/// Records that the run is no longer in progress, whatever its status.
fn forget(on: &Installation, run: &RunId) -> Outcome<()> {
    match status_file::read(&on.layout).current {
        Some(current) if current.run == *run => status_file::clear_current(&on.layout),
        _ => Ok(()),
    }
}

fn in_words(end: ExitKind) -> String {
    match end {
        ExitKind::Code(code) => format!("ended with exit code {code} before its time"),
        ExitKind::Signal(_) => format!("was {end}"),
    }
}

/// Returns the report that the run could not write itself, from the records of its journal.
fn interrupted(
    on: &Installation,
    run: &RunId,
    lines: &[Line],
    (phase, end): (Phase, ExitKind),
    failure: &Failure,
) -> Option<Report> {
    let (branch, before) = begun(lines)?;
    let status = status_file::read(&on.layout);
    let current = status.current.filter(|current| current.run == *run);
    let usual = on.settings.branch_to_follow(status.deployed.map(|pair| pair.branch));
    let named = if branch == usual { String::new() } else { format!(" {}", quoted(branch.as_str())) };
    let (command, started_at) = match current {
        Some(current) => (current.command, current.started_at),
        None => ("run".to_owned(), lines.first()?.at),
    };
    let mut report = Report::new(run.clone(), &command, started_at);
    report.commit_before = before;
    report.staged = lines.iter().any(|line| line.entry == Entry::Intent { phase: Phase::Staging });
    report.phases = phases(lines);
    report.error = Some(run_report::Error {
        phase,
        chain: failure.open_chain(),
        hints: failure.hint_texts(),
        next: on.as_typed(&format!("ladylinux-refresh run{named}")),
    });
    // Even a process that ended by itself has not succeeded.
    complete(on, &mut report, RunResult::Interrupted, exit::of_process(end).max(1));
    report.branch = branch;
    report.changed = report.commit != report.commit_before;
    Some(report)
}

fn begun(lines: &[Line]) -> Option<(BranchName, Option<CommitId>)> {
    match &lines.first()?.entry {
        Entry::Begun { branch, before, .. } => Some((branch.clone(), before.clone())),
        _ => None,
    }
}

/// Returns all parts that began; the one without an outcome was interrupted.
fn phases(lines: &[Line]) -> Vec<PhaseReport> {
    let mut phases: Vec<PhaseReport> = Vec::new();
    let mut since = None;
    for line in lines {
        match &line.entry {
            Entry::Intent { phase } => {
                since = Some(line.at);
                let summary = "cut off".to_owned();
                phases.push(PhaseReport { phase: *phase, duration_ms: 0, ok: false, summary });
            }
            Entry::Done { .. } | Entry::Failed { .. } => {
                let Some(part) = phases.last_mut() else { continue };
                let took = since.and_then(|since| line.at.duration_since(since).try_into().ok());
                part.duration_ms = clock::millis(took.unwrap_or_default());
                part.ok = matches!(line.entry, Entry::Done { .. });
                part.summary = if part.ok { "done".to_owned() } else { "failed".to_owned() };
            }
            _ => {}
        }
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: i64, entry: Entry) -> Line {
        Line { seq: 0, at: jiff::Timestamp::from_second(second).unwrap(), entry }
    }

    #[test]
    fn rw_7_1b_the_part_in_which_a_run_was_killed_is_reported_as_cut_off() {
        let lines = [
            line(10, Entry::Intent { phase: Phase::Staging }),
            line(12, Entry::Done { phase: Phase::Staging }),
            line(12, Entry::Intent { phase: Phase::Stop }),
        ];
        let parts = phases(&lines);
        assert_eq!((parts[0].phase, parts[0].duration_ms, parts[0].ok), (Phase::Staging, 2000, true));
        assert_eq!((parts[1].phase, parts[1].ok, parts[1].summary.as_str()), (Phase::Stop, false, "cut off"));
    }
}
