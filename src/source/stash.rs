//! The stash: previous trees that hold local changes, kept whole.
//!
//! After the restart the conductor has each previous tree compared. A tree without local changes is removed; any other,
//! and any that cannot be compared, is renamed to `stash/<run>`, beside a record of what was found. The conductor renames
//! and removes by descriptors in directories of its own, and opens no file of a tree.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::clock;
use crate::disk::{self, Moved};
use crate::error::{Failure, Outcome};
use crate::installation::Installation;
use crate::journal::recover::{self, Exchanges as _};
use crate::report::shell;
use crate::settings::layout::Layout;
use crate::settings::names::{CommitId, RunId};
use crate::units::{Job, Role};

use super::compare::{self, Moves};
use super::exchange;
use super::local::LocalChanges;
use super::place::Scratch;

/// The version of a record.
const SCHEMA: u32 = 1;

/// How long an operation on a tree may take. A tree without an answer is kept.
pub(super) const DEADLINE: Duration = Duration::from_secs(180);

/// How a tree is named while it is removed; not the name of a run.
const REMOVING: &str = "removing.";

/// What a stash holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StashRecord {
    /// The version, 1.
    pub schema: u32,
    /// The run that moved the tree out of `app/`.
    pub run: RunId,
    /// When it was compared, in UTC.
    pub at: jiff::Timestamp,
    /// What was found.
    #[serde(flatten)]
    pub changes: LocalChanges,
    /// The space that the tree takes, in bytes.
    pub size: u64,
}

/// Asks an operation that only reads, as the service user.
///
/// # Errors
/// The operation's own failure, or it took too long.
pub(super) fn inspect<Q: Serialize, A: DeserializeOwned>(
    on: &Installation,
    scratch: &Scratch,
    operation: &str,
    request: &Q,
) -> Outcome<A> {
    let job = Job::new(Role::Inspect, DEADLINE).writes(scratch.path());
    on.units.call(&job, operation, request)
}

/// Compares every previous tree; removes those without local changes and keeps the others. Returns what was kept, and
/// which trees could be neither removed nor kept: the next run tries again.
///
/// # Errors
/// The directory of previous trees cannot be read.
pub fn settle(on: &Installation, known: &[CommitId]) -> Outcome<(Vec<StashRecord>, Vec<Failure>)> {
    let (mut kept, mut failures) = (Vec::new(), Vec::new());
    failures.extend(sweep(&on.layout, &on.layout.previous_trees()).err());
    failures.extend(sweep(&on.layout, &on.layout.stashes()).err());
    for run in recover::all(&on.layout.previous_trees())? {
        if on.exchanges().is_unfinished(&run) {
            continue;
        }
        match settle_one(on, &run, known) {
            Ok(record) => kept.extend(record),
            Err(failure) => {
                let tree = on.layout.previous_tree(&run);
                failures.push(Failure::new(format!("{} stays where it is", tree.display())).because(failure));
            }
        }
    }
    Ok((kept, failures))
}

fn settle_one(on: &Installation, run: &RunId, known: &[CommitId]) -> Outcome<Option<StashRecord>> {
    let tree = on.layout.previous_tree(run);
    if disk::remove_if_empty(&tree)? {
        return Ok(None);
    }
    let (known, moved) = match exchange::finished(&on.layout, run)? {
        Some(record) => {
            let commits = record.known.into_iter().chain([record.commit]);
            (commits.collect(), record.kept)
        }
        None => (known.to_vec(), Vec::new()),
    };
    let (changes, size) = match compare::ask(on, Some(run), known, Moves::Moved(moved)) {
        Ok(response) => (response.changes, response.size),
        Err(failure) => (LocalChanges::not_comparable(failure.chain().join(": ")), 0),
    };
    checkpoint::reach("stash:compared");
    if changes.is_none() {
        remove(&on.layout, &on.layout.previous_trees(), run)?;
        return Ok(None);
    }
    let record = StashRecord { schema: SCHEMA, run: run.clone(), at: clock::now(), changes, size };
    keep(on, run, &record)?;
    Ok(Some(record))
}

/// Moves a previous tree to the stash. A kill before the rename leaves it to the next comparison.
fn keep(on: &Installation, run: &RunId, record: &StashRecord) -> Outcome<()> {
    let layout = &on.layout;
    if let Some(base) = &record.changes.base {
        on.mirror.hold_for_stash(run, base)?;
    }
    exchange::make_passable(&layout.stashes())?;
    disk::write_json(&record_file(layout, run), record, 0o600)?;
    checkpoint::reach("stash:recorded");
    let from = exchange::directory(layout, &layout.previous_trees())?;
    let to = exchange::directory(layout, &layout.stashes())?;
    let name = OsStr::new(run.as_str());
    if from.move_new(name, &to, name)? == Moved::OtherFileSystem {
        let (from, to) = (from.shown().join(name), to.shown().join(name));
        return Err(Failure::new(format!("{} and {} are on two file systems", from.display(), to.display())));
    }
    to.sync()?;
    from.sync()?;
    checkpoint::reach("stash:kept");
    Ok(())
}

/// Removes the tree of `run` in `directory`: renamed first, so that a removal that is cut off is not taken for a tree.
fn remove(layout: &Layout, directory: &Path, run: &RunId) -> Outcome<()> {
    let parent = exchange::directory(layout, directory)?;
    let mut name = OsString::from(REMOVING);
    name.push(run.as_str());
    parent.move_new(OsStr::new(run.as_str()), &parent, &name)?;
    checkpoint::reach("stash:removing");
    parent.remove(&name)?;
    parent.sync()
}

/// Completes removals that were cut off.
fn sweep(layout: &Layout, directory: &Path) -> Outcome<()> {
    if !directory.exists() {
        return Ok(());
    }
    let parent = exchange::directory(layout, directory)?;
    for entry in parent.entries()? {
        if entry.name.as_bytes().starts_with(REMOVING.as_bytes()) {
            parent.remove(&entry.name)?;
        }
    }
    Ok(())
}

/// Lists the stashes, the oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn list(layout: &Layout) -> Outcome<Vec<StashRecord>> {
    let runs = recover::all(&layout.stashes())?;
    Ok(runs.iter().map(|run| read(layout, run)).collect())
}

/// Finds the stash of a run.
///
/// # Errors
/// There is none.
pub fn find(layout: &Layout, run: &RunId) -> Outcome<StashRecord> {
    if recover::all(&layout.stashes())?.contains(run) { Ok(read(layout, run)) } else { Err(no_stash(run)) }
}

/// Reads the record of a stash that exists. Without its record the stash is still one.
fn read(layout: &Layout, run: &RunId) -> StashRecord {
    disk::read_json(&record_file(layout, run)).ok().flatten().unwrap_or_else(|| StashRecord {
        schema: SCHEMA,
        run: run.clone(),
        at: clock::now(),
        changes: LocalChanges::not_comparable("its record cannot be read".to_owned()),
        size: 0,
    })
}

/// Removes the stash of a run for good. Returns the space that it took, in bytes.
///
/// # Errors
/// There is none, or it cannot be removed.
pub fn remove_stash(on: &Installation, run: &RunId) -> Outcome<u64> {
    let record = find(&on.layout, run)?;
    remove(&on.layout, &on.layout.stashes(), run)?;
    disk::remove_file_if_there(&record_file(&on.layout, run))?;
    on.mirror.release_stash(run)?;
    Ok(record.size)
}

/// Lists the directories in which version 0.1 saved local changes; nothing removes them.
///
/// # Errors
/// The directory of runs cannot be read.
pub fn of_earlier_version(layout: &Layout) -> Outcome<Vec<PathBuf>> {
    let runs = recover::all(&layout.runs())?;
    let places = runs.iter().map(|run| layout.run(run).join("saved"));
    Ok(places.filter(|place| place.join("index.json").exists()).collect())
}

fn record_file(layout: &Layout, run: &RunId) -> PathBuf {
    layout.stashes().join(format!("{run}.json"))
}

fn no_stash(run: &RunId) -> Failure {
    Failure::new(format!("there is no stash of run {}", shell::quoted(run.as_str())))
        .hint("ladylinux-refresh stash list")
}
