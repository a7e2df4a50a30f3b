//! The stash: previous trees with local changes, kept completely.
//!
//! After the restart, the conductor requests a comparison of each previous tree. A tree without local changes is
//! removed; any other, and any that cannot be compared, is renamed to `stash/<run>`, beside a record of the findings.
//! The conductor renames and removes by descriptors in its own directories, and opens no file of a tree.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use refresh_git::Hold;
use refresh_installation::installation::Installation;
use refresh_installation::journal::recover;
use refresh_installation::journal::recover::Exchanges as _;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};
use refresh_system::{checkpoint, clock};

use super::compare::{self, Moves};
use super::exchange::{self, Exchanges};
use super::local::LocalChanges;
use super::stash_record::{SCHEMA, record_file};

pub use super::stash_record::{StashRecord, find, list};

/// The prefix of the name of a tree while it is removed; it is not a run ID.
const REMOVING: &str = "removing.";

/// Compares every previous tree; removes those without local changes and keeps the others. Returns the kept trees, and
/// the failures of trees that could be neither removed nor kept: the next run tries again.
///
/// # Errors
/// The directory of previous trees cannot be read.
pub fn settle(on: &Installation, known: &[CommitId]) -> Outcome<(Vec<StashRecord>, Vec<Failure>)> {
    let (mut kept, mut failures) = (Vec::new(), Vec::new());
    failures.extend(sweep(&on.layout, &on.layout.previous_trees()).err());
    failures.extend(sweep(&on.layout, &on.layout.stashes()).err());
    for run in recover::all(&on.layout.previous_trees())? {
        if Exchanges::of(on).is_unfinished(&run) {
            continue;
        }
        match settle_one(on, &run, known) {
            Ok(record) => kept.extend(record),
            Err(failure) => {
                let tree = on.layout.previous_tree(&run);
                failures
                    .push(Failure::new(format!("{} stays in its place", tree.display())).because(failure));
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

/// Moves a previous tree to the stash. If the program is killed before the rename, the next comparison handles the
/// tree.
fn keep(on: &Installation, run: &RunId, record: &StashRecord) -> Outcome<()> {
    let layout = &on.layout;
    if let Some(base) = &record.changes.base {
        on.mirror.hold(Hold::Stash, run, base)?;
    }
    exchange::make_passable(&layout.stashes())?;
    disk::write_json(&record_file(layout, run), record, 0o600)?;
    checkpoint::reach("stash:recorded");
    let from = exchange::directory(layout, &layout.previous_trees())?;
    let to = exchange::directory(layout, &layout.stashes())?;
    let name = OsStr::new(run.as_str());
    from.move_new(name, &to, name)?;
    to.sync()?;
    from.sync()?;
    checkpoint::reach("stash:kept");
    Ok(())
}

/// Removes the tree of `run` in `directory`. It is renamed first: an interrupted removal then does not count as a tree.
fn remove(layout: &Layout, directory: &Path, run: &RunId) -> Outcome<()> {
    let parent = exchange::directory(layout, directory)?;
    let mut name = OsString::from(REMOVING);
    name.push(run.as_str());
    parent.move_new(OsStr::new(run.as_str()), &parent, &name)?;
    checkpoint::reach("stash:removing");
    parent.remove(&name)?;
    parent.sync()
}

/// Completes interrupted removals.
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

/// Removes the stash of a run permanently. Returns its disk space, in bytes.
///
/// # Errors
/// The stash does not exist, or it cannot be removed.
pub fn remove_stash(on: &Installation, run: &RunId) -> Outcome<u64> {
    let record = find(&on.layout, run)?;
    remove(&on.layout, &on.layout.stashes(), run)?;
    disk::remove_file_if_there(&record_file(&on.layout, run))?;
    on.mirror.release(Hold::Stash, run)?;
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
