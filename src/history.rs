//! The runs of the past: their reports, which of them can be returned to, and what of theirs is kept.

use std::collections::BTreeSet;
use std::path::Path;

use crate::disk;
use crate::error::{Failure, Outcome};
use crate::installation::{Installation, as_typed};
use crate::journal::record::Ending;
use crate::journal::recover;
use crate::python::Record;
use crate::report::Report;
use crate::service::fence::Fence;
use crate::settings::layout::Layout;
use crate::settings::names::{CommitId, GenerationName, RunId};
use crate::status_file::{self, DeployedPair};

/// The name of the report in the directory of a run.
pub const REPORT: &str = "report.json";

/// Writes the report of a run, which everybody may read ([`Report::open`]).
///
/// # Errors
/// It cannot be written.
pub fn write_report(directory: &Path, report: &Report) -> Outcome<()> {
    disk::write_json(&directory.join(REPORT), report, 0o644)
}

/// One run of the past.
#[derive(Debug, Clone)]
pub struct Past {
    /// Its name.
    pub run: RunId,
    /// Its report, where it lived to write one.
    pub report: Option<Report>,
}

/// Returns every run, the latest first.
///
/// # Errors
/// The directory of the runs cannot be read.
pub fn all(layout: &Layout) -> Outcome<Vec<Past>> {
    let mut runs = recover::all(&layout.runs())?;
    runs.reverse();
    runs.into_iter().map(|run| one(layout, &run)).collect()
}

/// Returns one run.
///
/// # Errors
/// Its files cannot be read.
pub fn one(layout: &Layout, run: &RunId) -> Outcome<Past> {
    let directory = layout.run(run);
    let report = disk::read_own_json(&directory.join(REPORT)).ok().flatten();
    Ok(Past { run: run.clone(), report })
}

/// Returns the command that brings back the service behind `fence`: what the run told that halted there, else a run.
pub fn way_out(layout: &Layout, fence: &Fence) -> String {
    let report = fence.record().and_then(|record| one(layout, &record.run).ok()?.report);
    let told = report.filter(|report| report.result == Ending::Halted).and_then(|report| report.error);
    told.map_or_else(|| as_typed(layout, "ladylinux-refresh run"), |error| error.next)
}

/// A pair that proved itself once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoodPair {
    /// The run that proved it.
    pub run: RunId,
    /// Its commit.
    pub commit: CommitId,
    /// Its environment.
    pub generation: GenerationName,
    /// The branch.
    pub branch: crate::settings::names::BranchName,
}

/// Returns the pairs that proved themselves, the latest first.
///
/// # Errors
/// The directory of the runs cannot be read.
pub fn good(layout: &Layout) -> Outcome<Vec<GoodPair>> {
    Ok(all(layout)?.into_iter().filter_map(|past| good_pair(past.report?)).collect())
}

fn good_pair(report: Report) -> Option<GoodPair> {
    (report.result == Ending::Refreshed).then_some(())?;
    Some(GoodPair {
        run: report.run,
        commit: report.commit?,
        generation: report.environment.generation?,
        branch: report.branch,
    })
}

/// What is there when a rollback is asked for.
#[derive(Debug)]
pub struct Now {
    /// Whether the fence stands.
    pub fenced: bool,
    /// The commit that `app/` is at.
    pub commit: Option<CommitId>,
    /// The live generation.
    pub generation: Option<GenerationName>,
}

/// Finds the pair to return to. While the service is fenced, or when `app/` and `venv` are not the pair that proved
/// itself last, it is that pair; else the last good one that differs from it (after a rollback: the one that was left).
///
/// # Errors
/// There is none, or the named run is unknown or did not succeed.
pub fn rollback_target(layout: &Layout, run: Option<&RunId>, now: &Now) -> Outcome<GoodPair> {
    let pairs = good(layout)?;
    if let Some(run) = run {
        return pairs.into_iter().find(|pair| pair.run == *run).ok_or_else(|| {
            Failure::new(format!("run {run} did not succeed, or is not known"))
                .hint("ladylinux-refresh history")
        });
    }
    let is_there = |commit: &CommitId, generation: &GenerationName| {
        (Some(commit), Some(generation)) == (now.commit.as_ref(), now.generation.as_ref())
    };
    // The same commit with an environment that is gone, or that somebody changed, would be built again as what is there.
    let is_same = |pair: &GoodPair| {
        is_there(&pair.commit, &pair.generation)
            || (now.commit.as_ref() == Some(&pair.commit) && !is_good(layout, &pair.generation))
    };
    if let Some(last) = status_file::read(layout).deployed
        && (now.fenced || !is_there(&last.commit, &last.generation))
    {
        let DeployedPair { run, commit, generation, branch, .. } = last;
        return Ok(GoodPair { run, commit, generation, branch });
    }
    let earlier = match pairs.into_iter().find(|pair| !is_same(pair)) {
        None => adopted_pair(layout)?.filter(|pair| !is_there(&pair.commit, &pair.generation)),
        found => found,
    };
    earlier.ok_or_else(|| {
        Failure::new("there is no earlier good run to return to").hint("ladylinux-refresh history")
    })
}

/// The pair from before the tool: what the run that adopted the environment had found. It proved itself before there were
/// runs.
fn adopted_pair(layout: &Layout) -> Outcome<Option<GoodPair>> {
    let before = |report: Report| {
        let (generation, commit) = (report.environment.generation_before?, report.commit_before?);
        let is_there = is_adopted(layout, &generation);
        is_there.then_some(GoodPair { run: report.run, commit, generation, branch: report.branch })
    };
    Ok(all(layout)?.into_iter().rev().filter_map(|past| past.report).find_map(before))
}

/// Returns whether a generation is recorded, was never found changed, and is still there.
fn is_good(layout: &Layout, generation: &GenerationName) -> bool {
    let is_good = |found: Option<Record>| found.is_some_and(|record| record.is_good());
    layout.environment(generation).is_dir() && Record::read(layout, generation).is_ok_and(is_good)
}

/// Returns whether a generation is a directory from before the tool, and still there.
pub fn is_adopted(layout: &Layout, generation: &GenerationName) -> bool {
    let is_adopted = |found: Option<Record>| found.is_some_and(|record| record.built().is_none());
    layout.environment(generation).is_dir() && Record::read(layout, generation).is_ok_and(is_adopted)
}

/// How many runs keep their directory; one that holds saved changes keeps it until they are pruned by name.
const KEPT_FOLDERS: usize = 200;

/// What of the past is kept for a rollback.
#[derive(Debug, Default)]
pub struct Kept {
    /// The runs.
    pub runs: BTreeSet<RunId>,
    /// Their environments.
    pub generations: BTreeSet<GenerationName>,
}

/// Returns which runs and environments are kept where it is `keep` good pairs. The live environment and that of the pair which
/// proved itself last are always among them. Of one that somebody changed, what it could be built from again is kept, and not
/// its directory.
///
/// # Errors
/// The runs or the records cannot be read.
pub fn kept(on: &Installation, keep: usize) -> Outcome<Kept> {
    let mut pairs = BTreeSet::new();
    let mut kept = Kept::default();
    for pair in good(&on.layout)? {
        if pairs.len() < keep && pairs.insert((pair.commit, pair.generation.clone())) {
            kept.generations.insert(pair.generation);
            kept.runs.insert(pair.run);
        }
    }
    kept.generations.extend(status_file::read(&on.layout).deployed.map(|pair| pair.generation));
    kept.generations.extend(on.live());
    if kept.generations.iter().filter(|generation| is_good(&on.layout, generation)).count() <= keep {
        // An adopted directory proved itself before there were runs: it is the oldest of all and goes when enough others
        // are there.
        let adopted =
            on.environments().list()?.into_iter().filter(|generation| generation.record.built().is_none());
        kept.generations.extend(adopted.map(|generation| generation.name));
    }
    Ok(kept)
}

/// Removes the environments that none of the kept good runs needs, and lets go of the commits of all other runs. The live environment and that of the run in hand always stay.
///
/// # Errors
/// Something cannot be removed.
pub fn prune(on: &Installation, current: &RunId) -> Outcome<()> {
    let Kept { runs: mut kept_runs, generations } = kept(on, on.settings.keep)?;
    kept_runs.insert(current.clone());
    let keep: Vec<GenerationName> = generations.into_iter().collect();
    on.environments().prune(&keep)?;
    on.environments().prune_locks()?;
    on.mirror.release_all_but(&kept_runs)?;
    let mut runs = recover::all(&on.layout.runs())?;
    runs.truncate(runs.len().saturating_sub(KEPT_FOLDERS));
    for run in runs.iter().filter(|run| !kept_runs.contains(run)) {
        let directory = on.layout.run(run);
        if !directory.join("saved").exists() {
            disk::remove_tree(&directory)?;
        }
    }
    Ok(())
}
