//! What the hooks of the last run wrote into `app/`: no local changes while they are as the hooks left them.
//!
//! A record vouches for a file only while its size, inode and times are the recorded ones. No program can set the time
//! at which an inode changed, so a file that was written since is not vouched for, and an old record does no harm.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::FileTime;
use crate::disk;
use crate::error::Outcome;
use crate::git::path::TreePath;
use crate::installation::Installation;
use crate::settings::layout::Layout;
use crate::settings::names::{CommitId, RunId};

use super::compare::{CompareRequest, Moves};
use super::local::ChangeKind;
use super::place::{Place, Scratch};
use super::stash;
use super::untracked;

/// The operation that records.
pub const OPERATION: &str = "source-hook-outputs";

/// How many files one record holds.
const LIMIT: usize = 200_000;

/// The time in which the hooks of a run worked: a file that changed in between is their product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTime {
    /// A time before the first hook.
    pub since: FileTime,
    /// A time after the last one.
    pub until: FileTime,
}

/// What to record.
#[derive(Debug, Serialize, Deserialize)]
pub struct HookOutputsRequest {
    /// Where git and the mirror are.
    pub place: Place,
    /// The tree that the hooks worked in.
    pub tree: TreePath,
    /// The commit that it was before.
    pub commit: CommitId,
    /// When they worked.
    pub time: HookTime,
}

/// The products of hooks, by path; `None` for a tracked file that a hook removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookOutputs {
    files: BTreeMap<TreePath, Option<Stamp>>,
    /// Whether the tree was moved since: a rename changes the time of the entries that it moves, and of no other.
    #[serde(default, skip)]
    moved: bool,
}

/// What changes when a file is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    modified: FileTime,
    changed: FileTime,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            size: found.size(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl HookOutputs {
    /// The same record for a tree whose entries were moved out of `app/`.
    pub(super) fn of_moved_tree(self) -> Self {
        Self { moved: true, ..self }
    }

    /// Returns `true` if `path` of `tree` is as the hooks left it.
    pub(super) fn vouch(&self, tree: &Path, path: &Path) -> bool {
        let Some(stamp) = self.files.get(&TreePath::from(path)) else { return false };
        match (stamp, fs::symlink_metadata(tree.join(path))) {
            (Some(stamp), Ok(found)) if !found.is_dir() => {
                let mut now = Stamp::of(&found);
                if self.moved && path.components().count() == 1 {
                    now.changed = stamp.changed;
                }
                *stamp == now
            }
            (None, Err(error)) => error.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Records what the hooks of a run wrote into `app/`, which was `commit` before.
///
/// # Errors
/// The tree cannot be read, or the record cannot be written.
pub fn record(on: &Installation, commit: &CommitId, time: HookTime) -> Outcome<()> {
    let scratch = Scratch::make(&on.layout, &on.owner)?;
    let request = HookOutputsRequest {
        place: on.source_place(&scratch),
        tree: on.layout.app().into(),
        commit: commit.clone(),
        time,
    };
    let outputs: Outcome<HookOutputs> = stash::inspect(on, &scratch, OPERATION, &request);
    scratch.remove()?;
    disk::write_json(&on.layout.made_file(), &outputs?, 0o644)
}

/// Makes the record of `app/` that of the previous tree of `run`, once the entries of `app/` were exchanged.
///
/// # Errors
/// The record cannot be renamed.
pub(super) fn hand_over(layout: &Layout, run: &RunId) -> Outcome<()> {
    let file = layout.made_file();
    if file.exists() { disk::move_over(&file, &file_of(layout, run)) } else { Ok(()) }
}

fn file_of(layout: &Layout, run: &RunId) -> PathBuf {
    layout.run(run).join("hook-outputs.json")
}

/// Reads the record of `app/`, or of the previous tree of a run. Without one that can be read, every file that a hook
/// wrote is a local change.
pub(super) fn read(layout: &Layout, previous: Option<&RunId>) -> HookOutputs {
    let file = previous.map_or_else(|| layout.made_file(), |run| file_of(layout, run));
    disk::read_own_json(&file).ok().flatten().unwrap_or_default()
}

/// Carries out [`OPERATION`].
///
/// # Errors
/// The tree cannot be compared.
pub fn handle(request: &HookOutputsRequest) -> Outcome<HookOutputs> {
    let tree = request.tree.as_path();
    let compared = super::compare::files(&CompareRequest {
        place: request.place.clone(),
        tree: request.tree.clone(),
        known: vec![request.commit.clone()],
        moves: Moves::Moved(Vec::new()),
        outputs: HookOutputs::default(),
        held: Vec::new(),
    })?;
    let mut files = BTreeMap::new();
    let mut candidates: Vec<PathBuf> = Vec::new();
    for change in &compared.items {
        match change.kind {
            ChangeKind::Deleted => {
                files.insert(change.path.clone(), None);
            }
            _ => candidates.extend(untracked::files_below(tree, change.path.as_path(), LIMIT)),
        }
    }
    let own = rustix::process::geteuid().as_raw();
    for path in candidates.into_iter().take(LIMIT) {
        let Ok(found) = fs::symlink_metadata(tree.join(&path)) else { continue };
        let stamp = Stamp::of(&found);
        let is_theirs = request.time.since < stamp.changed && stamp.changed < request.time.until;
        if is_theirs && !found.is_dir() && found.uid() == own {
            files.insert(path.into(), Some(stamp));
        }
    }
    Ok(HookOutputs { files, moved: false })
}
