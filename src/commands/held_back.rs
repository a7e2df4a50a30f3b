//! Checks whether an unattended run may deploy a commit. A rollback by a person holds back the commit that it left; a
//! halted run holds back its own. A service that was stopped on request holds back every commit. Reads status and
//! mirror, and writes only what the status has lost.

use refresh_events::run_report::{HeldBack, HeldBy, RunResult};
use refresh_git::Hold;
use refresh_installation::installation::Installation;
use refresh_installation::{history, status_file};
use refresh_run::plan::Observed;
use refresh_run::relay::spool::Spool;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::error::Outcome;

use super::start_request;

/// Returns the record that holds back the tip of `branch`; `None` if there is none. `tip` is the tip if it is already
/// known; otherwise the mirror fetches it, but only if any commit is held back.
///
/// # Errors
/// The remote cannot be reached, or the mirror cannot be read.
pub(super) fn find(
    on: &Installation,
    run: &RunId,
    branch: &BranchName,
    tip: Option<&CommitId>,
    observed: &Observed,
) -> Outcome<Option<HeldBack>> {
    let mut held = status_file::read(&on.layout).held_back;
    let lost = unwritten(on, observed).or_else(|| forgotten(on));
    if let Some(found) = lost.filter(|found| !held.iter().any(|known| known.run == found.run)) {
        write(on, &found);
        held.push(found);
    }
    if held.is_empty() {
        return Ok(None);
    }
    let tip = if let Some(tip) = tip { tip.clone() } else { fetched_tip(on, run, branch)? };
    // The deployed commit is already deployed: a run only repairs the rest of the installation. But a person may have
    // returned to another environment of the same commit.
    let is_deployed = observed.deployed.as_ref().is_some_and(|pair| pair.commit == tip);
    if is_deployed && observed.fence.is_none() {
        held.retain(|held| held.by == HeldBy::Rollback && held.commit == tip);
    }
    for held in held.into_iter().rev() {
        if applies(on, &held, &tip)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Returns the record of a service that was stopped on request, which holds back every commit of `branch`; `None` if it was
/// not. A remote that cannot be reached changes nothing: the deployed commit stands for its tip.
///
/// # Errors
/// The query of the remote was interrupted.
pub(super) fn by_stop(
    on: &Installation,
    run: &RunId,
    branch: &BranchName,
    observed: &Observed,
) -> Outcome<Option<HeldBack>> {
    let Some(at) = stopped(on, observed.fence.is_some()) else { return Ok(None) };
    let tip = match fetched_tip(on, run, branch) {
        Ok(tip) => tip,
        Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
        Err(failure) => {
            let Some(deployed) = status_file::read(&on.layout).deployed else { return Err(failure) };
            on.runner.events().warn(&failure.chain().join(": "));
            deployed.commit
        }
    };
    Ok(Some(HeldBack {
        subject: on.mirror.commit_line(&tip).ok().map(|line| line.subject),
        commit: tip,
        branch: branch.clone(),
        by: HeldBy::Stop,
        run: None,
        at,
        user: None,
        why: None,
    }))
}

/// Returns the tip of `branch`, which the mirror fetches.
fn fetched_tip(on: &Installation, run: &RunId, branch: &BranchName) -> Outcome<CommitId> {
    let tip = on.ensure_commit(run, branch)?;
    on.mirror.release(Hold::Run, run)?;
    Ok(tip)
}

/// Returns since when the service is down because of a request to stop it. With a fence, and after a run whose fence a
/// person has removed, the program itself has stopped it. Before the first refresh there is no deployed version to keep
/// down. If the manager cannot be reached, the result is `None`.
pub(super) fn stopped(on: &Installation, is_fenced: bool) -> Option<jiff::Timestamp> {
    if is_fenced || status_file::read(&on.layout).deployed.is_none() {
        return None;
    }
    let since = on.service.asked_to_stop().ok().flatten()?;
    if start_request::came_after(&on.layout, since) {
        return None;
    }
    let is_unfenced = history::unfenced(&on.layout).map_or(true, |report| report.is_some());
    (!is_unfenced).then_some(since)
}

/// Writes a record to the status, from which other commands read it, if possible.
fn write(on: &Installation, held: &HeldBack) {
    if let Err(failure) = status_file::hold_back(&on.layout, held.clone()) {
        let reason = failure.chain().join(": ");
        on.runner.events().warn(&format!("what is held back cannot be written: {reason}"));
    }
}

/// Returns the commit that the halted run behind the fence holds back, from its events in memory: on a full or
/// read-only disk, the run could not write it to the status.
fn unwritten(on: &Installation, observed: &Observed) -> Option<HeldBack> {
    let run = &observed.fence.as_ref()?.record()?.run;
    Spool::of(&on.layout, run).report()?.held_back_by_halt(None)
}

/// Returns the commit that the last run holds back which stopped the service, from its report, if the status is lost: then
/// it has no deployed pair.
fn forgotten(on: &Installation) -> Option<HeldBack> {
    if status_file::read(&on.layout).deployed.is_some() {
        return None;
    }
    let reports = history::all(&on.layout).ok()?.into_iter().filter_map(|past| past.report);
    let last =
        reports.into_iter().find(|it| matches!(it.result, RunResult::Refreshed | RunResult::Halted))?;
    last.held_back_by_rollback().or_else(|| last.held_back_by_halt(None))
}

/// Returns whether a record applies to `tip`: a rollback also withdraws the commits before the one that it left.
fn applies(on: &Installation, held: &HeldBack, tip: &CommitId) -> Outcome<bool> {
    Ok(held.commit == *tip || held.by == HeldBy::Rollback && on.mirror.is_before(tip, &held.commit)?)
}
