//! Cleans up after a run that was killed, before the next run observes the state and begins at `stop`.
//!
//! Processes that the killed run left are ended, an exchange of trees that it had begun is completed, and its journal
//! is closed. Nothing else is resumed: every step is idempotent, and the next run does them all.

use std::path::Path;
use std::time::Duration;

use refresh_events::event::Events;
use refresh_events::run_report::RunResult;
use refresh_programs::process::leftover;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::error::Outcome;
use refresh_system::{checkpoint, disk};

use super::record::{Entry, Status};
use super::store::{self, Journal};

/// The subdirectory of a run's directory with a copy of the commit for staged checks.
pub const STAGED_TREE: &str = "staged-tree";

/// How long killed processes may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The findings of the recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The runs that had been interrupted.
    pub runs: Vec<RunId>,
    /// The commits that they were deploying: files of these are not local changes.
    pub aimed: Vec<CommitId>,
}

/// The exchanges of trees, as far as recovery needs them.
pub trait Exchanges {
    /// Returns `true` if a run has begun an exchange and not finished it. Its journal may record an end all the same:
    /// the disk was full.
    fn is_unfinished(&self, run: &RunId) -> bool;

    /// Completes the exchange of a run; returns `false` if no exchange had begun. A repetition changes nothing.
    ///
    /// # Errors
    /// An entry cannot be moved.
    fn complete(&self, run: &RunId) -> Outcome<bool>;

    /// Removes prepared trees that no run will move in.
    ///
    /// # Errors
    /// One cannot be removed.
    fn remove_leftovers(&self) -> Outcome<()>;
}

/// Recovers from every run that was interrupted, and from those that failed in the middle of an exchange of trees. Only
/// the holder of the run lock may call it.
///
/// # Errors
/// A process cannot be ended, or an exchange cannot be completed.
pub fn recover(layout: &Layout, events: &Events, exchanges: &impl Exchanges) -> Outcome<Recovered> {
    // Only the run that holds the lock lets the service through the fence, and this run has not begun.
    disk::remove_file_if_there(&layout.admit())?;
    disk::sweep_unwritten(&layout.state())?;
    let mut recovered = Recovered::default();
    for run in all(&layout.runs())? {
        let directory = layout.run(&run);
        let read = store::read(&directory)?;
        let interrupted = is_interrupted(&directory, read.as_ref());
        if !interrupted && !exchanges.is_unfinished(&run) {
            continue;
        }
        if interrupted {
            for process in leftover::end(&run, &[], PATIENCE)? {
                events.note(&format!("ended what run {run} left running: {process}"));
            }
            disk::remove_tree(&directory.join(STAGED_TREE))?;
            checkpoint::reach("recover:ended");
        }
        if exchanges.complete(&run)? {
            events.note(&format!("completed the exchange of trees that run {run} had begun"));
        }
        checkpoint::reach("recover:exchanged");
        let entries = read.iter().flat_map(store::Read::entries);
        recovered.aimed.extend(entries.filter_map(|entry| match entry {
            Entry::Aimed { commit } => Some(commit.clone()),
            _ => None,
        }));
        if !interrupted {
            continue;
        }
        match read.and_then(|read| read.status) {
            // A foreign journal stays unchanged; a file beside it marks the run as dealt with.
            None => disk::write_atomic(&directory.join(SETTLED), b"", 0o644)?,
            Some(_) => {
                Journal::reopen(&directory)?.append(Entry::Ended { ending: RunResult::Interrupted })?;
            }
        }
        events.warn(&format!("run {run} was interrupted; this run starts over"));
        recovered.runs.push(run);
    }
    exchanges.remove_leftovers()?;
    Ok(recovered)
}

/// Returns the runs that began and did not end, and that no later run has dealt with.
///
/// # Errors
/// The directory of the runs cannot be read.
pub fn interrupted(layout: &Layout) -> Outcome<Vec<RunId>> {
    let mut interrupted = Vec::new();
    for run in all(&layout.runs())? {
        let directory = layout.run(&run);
        if is_interrupted(&directory, store::read(&directory)?.as_ref()) {
            interrupted.push(run);
        }
    }
    Ok(interrupted)
}

/// The file that marks a run with an unreadable journal as dealt with.
const SETTLED: &str = "settled";

/// Returns whether a run has begun and not ended.
fn is_interrupted(directory: &Path, read: Option<&store::Read>) -> bool {
    match read.map(|read| read.status) {
        Some(Some(Status::Ended { .. })) => false,
        // The run was killed before it made the journal, or the journal is foreign.
        None | Some(None) => !directory.join(SETTLED).exists(),
        Some(Some(_)) => true,
    }
}

/// Returns all runs in the order in which they began, by their sequence numbers, independent of the clock. Those of
/// earlier versions have none; they come first, by their names.
///
/// # Errors
/// The directory of the runs, or a journal, cannot be read.
pub fn in_order(layout: &Layout) -> Outcome<Vec<RunId>> {
    sorted(layout, all(&layout.runs())?)
}

/// Returns `runs` in the order in which they began, as [`in_order`].
///
/// # Errors
/// A journal cannot be read.
pub fn sorted(layout: &Layout, runs: Vec<RunId>) -> Outcome<Vec<RunId>> {
    let numbered = |run: RunId| Ok((store::sequence(&layout.run(&run))?, run));
    let mut numbered = runs.into_iter().map(numbered).collect::<Outcome<Vec<_>>>()?;
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, run)| run).collect())
}

/// Returns the sequence number of a run that begins now. Only the holder of the run lock may call it.
///
/// # Errors
/// As [`in_order`].
pub fn next_sequence(layout: &Layout) -> Outcome<u64> {
    let mut last = 0;
    for run in all(&layout.runs())? {
        last = last.max(store::sequence(&layout.run(&run))?);
    }
    Ok(last + 1)
}

/// Returns the names of all runs, sorted: by the clock at their start.
///
/// # Errors
/// The directory exists and cannot be read.
pub fn all(runs: &Path) -> Outcome<Vec<RunId>> {
    let names = disk::names(runs)?;
    Ok(names.iter().filter_map(|name| RunId::parse(name.to_str()?).ok()).collect())
}
