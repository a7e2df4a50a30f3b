//! The record of the files that hooks wrote into a tree. It reads and renames the record.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::clock::FileTime;
use refresh_system::disk;
use refresh_system::error::Outcome;

/// The products of hooks, by path; `None` for a tracked file that a hook removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HookOutputs {
    pub(super) files: BTreeMap<TreePath, Option<OutputVersion>>,
    /// Whether the tree was moved since: a rename changes only the time of the entries that it moves.
    #[serde(default, skip)]
    pub(super) moved: bool,
}

/// The attributes that change when a file is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OutputVersion {
    size: u64,
    inode: u64,
    modified: FileTime,
    pub(super) changed: FileTime,
}

impl OutputVersion {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            size: found.size(),
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl HookOutputs {
    /// Returns the same record for a tree whose entries were moved out of `app/`.
    pub(super) fn of_moved_tree(self) -> Self {
        Self { moved: true, ..self }
    }

    /// Returns `true` if `path` of `tree` is unchanged since the hooks.
    pub(super) fn vouch(&self, tree: &Path, path: &Path) -> bool {
        let Some(stamp) = self.files.get(&TreePath::from(path)) else { return false };
        match (stamp, fs::symlink_metadata(tree.join(path))) {
            (Some(stamp), Ok(found)) if !found.is_dir() => {
                let mut now = OutputVersion::of(&found);
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

/// Makes the record of `app/` that of the previous tree of `run`, after the entries of `app/` were exchanged.
///
/// # Errors
/// The record cannot be renamed.
pub(super) fn hand_over(layout: &Layout, run: &RunId) -> Outcome<()> {
    let file = layout.hook_outputs_file();
    if file.exists() { disk::move_over(&file, &file_of(layout, run)) } else { Ok(()) }
}

fn file_of(layout: &Layout, run: &RunId) -> PathBuf {
    layout.run(run).join("hook-outputs.json")
}

/// Reads the record of `app/`, or of the previous tree of a run. Without a readable record, every file that a hook
/// wrote is a local change.
pub(super) fn read(layout: &Layout, previous: Option<&RunId>) -> HookOutputs {
    let file = previous.map_or_else(|| layout.hook_outputs_file(), |run| file_of(layout, run));
    disk::read_own_json(&file).ok().flatten().unwrap_or_default()
}
