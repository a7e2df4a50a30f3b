//! The past runs: their reports, the ones that a rollback can return to, and the data of them that is kept.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;

use crate::installation::{Installation, as_typed};
use crate::journal::recover;
use crate::status_file;
use refresh_environments::Record;
use refresh_events::run_report::{Report, RunResult};
use refresh_service::deployed::Deployment;
use refresh_service::fence;
use refresh_service::fence::Fence;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, EnvironmentName, RunId};
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};

/// The name of the report in the directory of a run.
pub(crate) const REPORT: &str = "report.json";

/// Writes the report of a run, which every user may read ([`Report::open`]).
///
/// # Errors
/// It cannot be written.
pub fn write_report(directory: &Path, report: &Report) -> Outcome<()> {
    disk::write_json(&directory.join(REPORT), report, 0o644)
}

/// One run of the past.
#[derive(Debug, Clone)]
pub struct PastRun {
    /// Its name.
    pub run: RunId,
    /// Its report, if it wrote one.
    pub report: Option<Report>,
}

/// Returns every run, the latest first.
///
/// # Errors
/// The directory of the runs cannot be read.
pub fn all(layout: &Layout) -> Outcome<Vec<PastRun>> {
    let mut runs = recover::in_order(layout)?;
    runs.reverse();
    runs.into_iter().map(|run| one(layout, &run)).collect()
}

/// Returns one run.
///
/// # Errors
/// Its files cannot be read.
pub fn one(layout: &Layout, run: &RunId) -> Outcome<PastRun> {
    let directory = layout.run(run);
    let report = disk::read_own_json(&directory.join(REPORT)).ok().flatten();
    Ok(PastRun { run: run.clone(), report })
}

/// Returns the command that brings back the service behind `fence`: the command in the report of the halted run, else
/// `run`.
pub fn way_out(layout: &Layout, fence: &Fence) -> String {
    let report = fence.record().and_then(|record| one(layout, &record.run).ok()?.report);
    let error = report.filter(|report| report.result == RunResult::Halted).and_then(|report| report.error);
    as_typed(layout, &error.map_or_else(|| "ladylinux-refresh run".to_owned(), |error| error.next))
}

/// Returns the run that left the version in `app/` without a good health check, although the service is not fenced: a
/// person has removed the fence. `None` if a later run has succeeded.
///
/// # Errors
/// The fence or the directory of the runs cannot be read.
pub fn unfenced(layout: &Layout) -> Outcome<Option<Report>> {
    if fence::read(layout)?.is_some() {
        return Ok(None);
    }
    let status = status_file::read(layout);
    let is_deployed = |report: &Report| {
        let deployed = status.deployed.as_ref();
        report.result == RunResult::Refreshed || deployed.is_some_and(|pair| pair.run == report.run)
    };
    let last = match status.last_run.clone().filter(has_stopped) {
        Some(report) => Some(report),
        // The last run was refused; one before it may have halted.
        None => recover::in_order(layout)?
            .iter()
            .rev()
            .filter_map(|run| one(layout, run).ok()?.report)
            .find(has_stopped),
    };
    Ok(last.filter(|report| !is_deployed(report)))
}

/// Returns whether a run has stopped the service.
fn has_stopped(report: &Report) -> bool {
    let step = report.error.as_ref().and_then(|error| error.phase.step());
    match report.result {
        RunResult::Refreshed | RunResult::Halted => true,
        RunResult::Interrupted => step.is_some(),
        RunResult::Unchanged | RunResult::HeldBack | RunResult::Refused => false,
    }
}

/// Returns the runs before `run` that fenced the service after `since`, and did not succeed: the earliest first.
///
/// # Errors
/// The directory of the runs cannot be read.
pub fn failed_before(layout: &Layout, run: &RunId, since: Timestamp) -> Outcome<Vec<RunId>> {
    let runs = recover::in_order(layout)?;
    let before = runs.iter().rev().skip_while(|other| *other != run).skip(1);
    let reports = before.filter_map(|run| one(layout, run).ok()?.report);
    let mut failed: Vec<RunId> = reports
        .take_while(|report| report.result != RunResult::Refreshed)
        .filter(|report| has_stopped(report) && report.finished_at >= since)
        .map(|report| report.run)
        .collect();
    failed.reverse();
    Ok(failed)
}

/// Returns the pairs that passed their health check, the latest first.
///
/// # Errors
/// The directory of the runs cannot be read.
pub(crate) fn good(layout: &Layout) -> Outcome<Vec<Deployment>> {
    Ok(each_good(layout)?.collect())
}

/// Returns the same pairs as an iterator: each report is read when it is needed.
fn each_good(layout: &Layout) -> Outcome<impl Iterator<Item = Deployment>> {
    let runs = recover::in_order(layout)?;
    Ok(runs.into_iter().rev().filter_map(|run| good_pair(one(layout, &run).ok()?.report?)))
}

fn good_pair(report: Report) -> Option<Deployment> {
    (report.result == RunResult::Refreshed).then_some(())?;
    Some(Deployment {
        run: report.run,
        commit: report.commit?,
        environment: report.environment.name?,
        branch: report.branch,
        refreshed_at: report.started_at,
    })
}

/// Returns the latest good pair with a commit other than `now` and an environment that can be used unchanged.
pub fn ready_pair(on: &Installation, now: Option<&CommitId>) -> Option<Deployment> {
    let environments = on.environments();
    let is_ready = |pair: &Deployment| {
        Some(&pair.commit) != now && environments.good(&pair.environment).is_ok_and(|found| found.is_some())
    };
    each_good(&on.layout).ok()?.find(is_ready)
}

/// The state of the installation when a rollback is requested.
#[derive(Debug)]
pub struct CurrentState {
    /// Whether the fence stands.
    pub fenced: bool,
    /// The commit in `app/`.
    pub commit: Option<CommitId>,
    /// The live environment.
    pub environment: Option<EnvironmentName>,
}

/// Finds the pair to return to. If the service is fenced, or if `app/` and `venv` are not the pair that last passed its
/// health check, it is that pair. Else it is the good one before it (after a rollback: the one before the pair that it
/// returned to).
///
/// # Errors
/// No such pair exists, or the named run is unknown or did not succeed.
pub fn rollback_target(layout: &Layout, run: Option<&RunId>, now: &CurrentState) -> Outcome<Deployment> {
    if let Some(run) = run {
        let pairs = good(layout)?;
        let of_commit = pairs.iter().find(|pair| pair.commit.as_str().starts_with(run.as_str()));
        let failure = match of_commit {
            Some(pair) => Failure::new(format!("{run} is a commit, not a run; run {} deployed it", pair.run))
                .command("ladylinux-refresh rollback", &[&pair.run]),
            None => Failure::new(format!("run {run} did not succeed or does not exist"))
                .command("ladylinux-refresh history", &[]),
        };
        return pairs.into_iter().find(|pair| pair.run == *run).ok_or(failure);
    }
    let is_there = |commit: &CommitId, environment: &EnvironmentName| {
        (Some(commit), Some(environment)) == (now.commit.as_ref(), now.environment.as_ref())
    };
    // An environment that no longer exists, or was changed manually, would be built again as the live one.
    let is_same = |pair: &Deployment| {
        is_there(&pair.commit, &pair.environment)
            || (now.commit.as_ref() == Some(&pair.commit) && !is_good(layout, &pair.environment))
    };
    if let Some(last) = status_file::read(layout).deployed
        && (now.fenced || !is_there(&last.commit, &last.environment))
    {
        return Ok(last);
    }
    let earlier = trail(layout)?.into_iter().rev().find(|pair| !is_same(pair));
    let next = if now.fenced { "ladylinux-refresh run" } else { "ladylinux-refresh history" };
    earlier.ok_or_else(|| Failure::new("no earlier good run exists").command(next, &[]))
}

/// Returns the good pairs that led to the deployed one, the oldest first; before them the pair from before the first
/// run. A rollback shortens the trail, and the next one goes further back. A rollback to a pair that is not on the
/// trail extends it, as a run does.
fn trail(layout: &Layout) -> Outcome<Vec<Deployment>> {
    let mut trail: Vec<Deployment> = adopted_pair(layout)?.into_iter().collect();
    for report in all(layout)?.into_iter().rev().filter_map(|past| past.report) {
        let is_rollback = report.command == "rollback";
        let Some(pair) = good_pair(report) else { continue };
        let is_it =
            |other: &Deployment| (&other.commit, &other.environment) == (&pair.commit, &pair.environment);
        let known = if is_rollback { trail.iter().rposition(is_it) } else { None };
        let last = trail.len().checked_sub(1).filter(|last| is_it(&trail[*last]));
        trail.truncate(known.or(last).unwrap_or(trail.len()));
        trail.push(pair);
    }
    Ok(trail)
}

/// Returns the pair from before the tool, as the run that adopted the environment found it. It counts as good: it
/// worked before the first run.
fn adopted_pair(layout: &Layout) -> Outcome<Option<Deployment>> {
    let before = |report: Report| {
        let (environment, commit) = (report.environment.name_before?, report.commit_before?);
        let is_there = is_adopted(layout, &environment);
        let (run, branch, refreshed_at) = (report.run, report.branch, report.started_at);
        is_there.then_some(Deployment { commit, branch, environment, refreshed_at, run })
    };
    Ok(all(layout)?.into_iter().rev().filter_map(|past| past.report).find_map(before))
}

/// Returns whether an environment is recorded, was never found changed, and still exists.
fn is_good(layout: &Layout, environment: &EnvironmentName) -> bool {
    let is_good = |found: Option<Record>| found.is_some_and(|record| record.is_good());
    layout.environment(environment).is_dir() && Record::read(layout, environment).is_ok_and(is_good)
}

/// Returns whether an environment is a directory from before the tool that still exists.
pub fn is_adopted(layout: &Layout, environment: &EnvironmentName) -> bool {
    let is_adopted = |found: Option<Record>| found.is_some_and(|record| record.built().is_none());
    layout.environment(environment).is_dir() && Record::read(layout, environment).is_ok_and(is_adopted)
}

/// How many runs keep their directory; a run with saved changes keeps its directory until they are pruned by name.
const KEPT_RUNS: usize = 200;

/// Removes the directories of refused runs that are older than the last `keep` runs: a timer can make hundreds a day, and
/// only a success removes the others. Nothing refers to them.
fn prune_refused_before(layout: &Layout, keep: usize) -> Outcome<()> {
    let mut runs = recover::in_order(layout)?;
    runs.truncate(runs.len().saturating_sub(keep));
    for run in runs {
        if one(layout, &run)?.report.is_some_and(|report| report.result == RunResult::Refused) {
            disk::remove_tree(&layout.run(&run))?;
        }
    }
    Ok(())
}

/// Removes the directories of refused runs, except the last runs.
///
/// # Errors
/// One cannot be removed.
pub fn prune_refused(layout: &Layout) -> Outcome<()> {
    prune_refused_before(layout, KEPT_RUNS)
}

/// The runs and environments that are kept for a rollback.
#[derive(Debug, Default)]
pub struct Kept {
    /// The runs.
    pub runs: BTreeSet<RunId>,
    /// Their environments.
    pub environments: BTreeSet<EnvironmentName>,
}

/// Returns which runs and environments are kept if `keep` good pairs are. The live environment and that of the pair
/// that last passed its health check are always among them. If an environment was changed manually, everything needed
/// to build it again is kept, but not its directory.
///
/// # Errors
/// The runs or the records cannot be read.
pub fn kept(on: &Installation, keep: usize) -> Outcome<Kept> {
    let mut pairs = BTreeSet::new();
    let mut kept = Kept::default();
    for pair in each_good(&on.layout)? {
        if pairs.len() >= keep {
            break;
        }
        if pairs.insert((pair.commit, pair.environment.clone())) {
            kept.environments.insert(pair.environment);
            kept.runs.insert(pair.run);
        }
    }
    kept.environments.extend(status_file::read(&on.layout).deployed.map(|pair| pair.environment));
    kept.environments.extend(on.live());
    if kept.environments.iter().filter(|environment| is_good(&on.layout, environment)).count() <= keep {
        // An adopted directory worked before the first run: it is the oldest of all, and is removed when enough others
        // exist.
        let adopted =
            on.environments().list()?.into_iter().filter(|environment| environment.record.built().is_none());
        kept.environments.extend(adopted.map(|environment| environment.name));
    }
    Ok(kept)
}

/// Removes the environments that none of the kept good runs needs, and releases the commits of all other runs. The live
/// environment and that of the current run always stay.
///
/// # Errors
/// Something cannot be removed.
pub fn prune(on: &Installation, current: &RunId) -> Outcome<()> {
    let Kept { runs: mut kept_runs, environments } = kept(on, on.settings.keep)?;
    kept_runs.insert(current.clone());
    let keep: Vec<EnvironmentName> = environments.into_iter().collect();
    on.environments().prune(&keep)?;
    on.environments().prune_locks()?;
    on.mirror.release_all_but(&kept_runs)?;
    let mut runs = recover::in_order(&on.layout)?;
    runs.truncate(runs.len().saturating_sub(KEPT_RUNS));
    for run in runs.iter().filter(|run| !kept_runs.contains(run)) {
        let directory = on.layout.run(run);
        if !directory.join("saved").exists() {
            disk::remove_tree(&directory)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_refused_runs_are_removed_and_halted_and_recent_ones_stay() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let results = [RunResult::Refused, RunResult::Halted, RunResult::Refused, RunResult::Refused];
        for (name, result) in ["r-1", "r-2", "r-3", "r-4"].into_iter().zip(results) {
            let mut report = Report::new(RunId::parse(name).unwrap(), "run", Timestamp::UNIX_EPOCH);
            report.result = result;
            disk::make_directory(&layout.run(&report.run), 0o755).unwrap();
            write_report(&layout.run(&report.run), &report).unwrap();
        }
        prune_refused_before(&layout, 1).unwrap();
        let names: Vec<String> = all(&layout).unwrap().iter().map(|past| past.run.to_string()).collect();
        assert_eq!(names, ["r-4", "r-2"]);
    }
}
