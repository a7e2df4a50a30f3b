//! Cleans up after a run that was killed, so that the next one can observe and enter at `stop`.
//!
//! What the killed run left running is ended, what it had set aside is put back, its journal is closed. Nothing of it
//! is resumed: every step is idempotent, and the next run does them all.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::record::{Ending, Entry, Status};
use super::store::{self, Journal};
use crate::checkpoint;
use crate::error::{Context as _, Outcome};
use crate::event::Events;
use crate::process::leftover;
use crate::settings::layout::Layout;
use crate::settings::names::{CommitId, RunId};

/// The file in the folder of a run that its children are recorded in.
pub const CHILDREN: &str = "children.jsonl";

/// How long what is killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The runs that had been interrupted.
    pub runs: Vec<RunId>,
    /// The commits that they were aiming at: files of these are no local changes.
    pub aimed: Vec<CommitId>,
}

/// Recovers from every run that did not come to its end. `put_back` returns what a run had set aside in the work tree
/// to its place. To be called by the holder of the run lock.
///
/// # Errors
/// A process cannot be ended, or something cannot be put back.
pub fn recover(
    layout: &Layout,
    events: &Events,
    put_back: impl Fn(&RunId) -> Outcome<usize>,
) -> Outcome<Recovered> {
    let mut recovered = Recovered::default();
    for run in interrupted(&layout.runs())? {
        let folder = layout.run(&run);
        for process in leftover::end(&run, &folder.join(CHILDREN), PATIENCE)? {
            events.note(&format!("ended what run {run} left running: {process}"));
        }
        checkpoint::reach("recover:ended");
        let count = put_back(&run)?;
        checkpoint::reach("recover:put-back");
        if count > 0 {
            events.note(&format!("put back {count} preserved files that run {run} had set aside"));
        }
        let read = store::read(&folder)?;
        let entries = read.iter().flat_map(store::Read::entries);
        recovered.aimed.extend(entries.filter_map(|entry| match entry {
            Entry::Aimed { commit } => Some(commit.clone()),
            _ => None,
        }));
        match read.and_then(|read| read.status) {
            // A foreign journal stays as it is found; a note beside it says that it has been dealt with.
            None => crate::disk::write_atomic(&folder.join(SETTLED), b"", 0o644)?,
            Some(_) => Journal::reopen(&folder)?.append(Entry::Ended { ending: Ending::Interrupted })?,
        }
        events.warn(&format!("run {run} was interrupted; this run starts over"));
        recovered.runs.push(run);
    }
    Ok(recovered)
}

/// The file that marks a run with an unreadable journal as dealt with.
const SETTLED: &str = "settled";

/// Returns the runs that have begun and not ended, the oldest first.
fn interrupted(runs: &Path) -> Outcome<Vec<RunId>> {
    let mut found = Vec::new();
    for run in all(runs)? {
        let folder = runs.join(run.as_str());
        let status = store::read(&folder)?.map(|read| read.status);
        let over = match status {
            Some(Some(Status::Ended { .. })) => true,
            // Killed before the journal was made, or the journal is foreign.
            None | Some(None) => folder.join(SETTLED).exists(),
            Some(Some(_)) => false,
        };
        if !over {
            found.push(run);
        }
    }
    Ok(found)
}

/// Returns the names of all runs, the oldest first.
///
/// # Errors
/// The folder is there and cannot be read.
pub fn all(runs: &Path) -> Outcome<Vec<RunId>> {
    let told = || format!("cannot read {}", runs.display());
    let entries = match fs::read_dir(runs) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context(told)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.context(told)?.file_name();
        names.extend(name.to_str().and_then(|name| RunId::parse(name).ok()));
    }
    names.sort();
    Ok(names)
}
