//! The files that the hooks of the last run wrote into `app/`. They are not local changes while they are unchanged.
//!
//! A record accounts for a file only while its size, inode and times are the recorded ones. No program can set the
//! ctime of an inode. So the record does not account for a file that was written since, and an old record does no harm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_installation::installation::Installation;
use refresh_settings::names::CommitId;
use refresh_system::clock::FileTime;
use refresh_system::disk;
use refresh_system::error::Outcome;

use super::compare::{CompareRequest, Moves};
use super::hook_record::{HookOutputs, OutputVersion};
use super::local::ChangeKind;
use super::operation_request::{GitLocation, inspect};
use super::untracked;

/// The operation that records.
pub(crate) const OPERATION: &str = "source-hook-outputs";

/// The largest number of files in one record.
const LIMIT: usize = 200_000;

/// The time in which the hooks of a run worked: a file that changed in this period is their product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookTime {
    /// A time before the first hook.
    pub since: FileTime,
    /// A time after the last one.
    pub until: FileTime,
}

/// The parameters of the record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HookOutputsRequest {
    /// The location of git and of the mirror.
    pub place: GitLocation,
    /// The tree that the hooks worked in.
    pub tree: TreePath,
    /// The commit of the tree before the hooks.
    pub commit: CommitId,
    /// The time in which the hooks worked.
    pub time: HookTime,
}

/// Records the files that the hooks of a run wrote into `app/`, which was equal to `commit` before.
///
/// # Errors
/// The tree cannot be read, or the record cannot be written.
pub fn record(on: &Installation, commit: &CommitId, time: HookTime) -> Outcome<()> {
    let (tree, commit) = (on.layout.app().into(), commit.clone());
    let outputs: HookOutputs =
        inspect(on, OPERATION, |place| HookOutputsRequest { place, tree, commit, time })?;
    disk::write_json(&on.layout.hook_outputs_file(), &outputs, 0o644)
}

/// Performs [`OPERATION`].
///
/// # Errors
/// The tree cannot be compared.
pub(crate) fn handle(request: &HookOutputsRequest) -> Outcome<HookOutputs> {
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
        let stamp = OutputVersion::of(&found);
        let is_theirs = request.time.since < stamp.changed && stamp.changed < request.time.until;
        if is_theirs && !found.is_dir() && found.uid() == own {
            files.insert(path.into(), Some(stamp));
        }
    }
    Ok(HookOutputs { files, moved: false })
}
