//! Saved places: what was kept of local changes, one folder per run, described by its `index.json`.
//!
//! A place is `saved/` in the run's folder, belongs to the owner of the tree and is closed to everybody else. What is
//! moved rather than copied lies in its *vault*: the same folder, or, where nothing can be moved there from the work
//! tree (another file system, or another mount of the same), `app/.git/refresh-saved/<run>`, to which the link `vault` in the place leads.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Failure, Outcome};
use crate::settings::names::{CommitId, RunId};

use super::drift::Tip;
use super::path::TreePath;
use super::tree::is_there;

/// The version of `index.json`.
pub const SCHEMA: u32 = 1;

/// What a saved place holds. Written before anything is moved, so it may list what a killed run did not come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedIndex {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The run that saved it.
    pub run: RunId,
    /// When.
    pub at: jiff::Timestamp,
    /// The commit that the tree was compared with.
    pub base: Option<CommitId>,
    /// The folder that the items lie in.
    pub vault: TreePath,
    /// The changes.
    pub items: Vec<SavedItem>,
    /// The local commits, by what reached them; they lie in `commits.bundle`, or in the bundle of the run that
    /// `held_by` names.
    pub tips: Vec<SavedTip>,
    /// The application's whole repository, where its commits could not be told apart; in the vault.
    pub repository: Option<TreePath>,
}

/// One saved change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedItem {
    /// Where it was in the work tree.
    pub path: TreePath,
    /// What it is.
    pub kind: SavedKind,
    /// Where it lies in the vault; `None` for a deletion.
    pub stored: Option<TreePath>,
    /// Its permission bits.
    pub mode: u32,
    /// Its size in bytes; not known of folders, which are moved without a look inside.
    pub size: Option<u64>,
}

/// The kinds of saved changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SavedKind {
    /// A tracked file with other bytes or of another type.
    Modified,
    /// A tracked file with another executable bit.
    Mode,
    /// A tracked file that was missing.
    Deleted,
    /// A file that no commit tracks.
    Untracked,
    /// A folder that no commit tracks anything in.
    UntrackedFolder,
    /// A tracked file that a preserve pattern names: set aside while the tree is aligned, then put back.
    Preserved,
    /// The state of an operation in progress, from `app/.git`.
    GitState,
}

impl SavedKind {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Modified => "modified",
            Self::Mode => "mode",
            Self::Deleted => "deleted",
            Self::Untracked | Self::UntrackedFolder => "untracked",
            Self::Preserved => "preserved",
            Self::GitState => "git state",
        }
    }
}

/// A saved local name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTip {
    /// The name and its commit.
    #[serde(flatten)]
    pub tip: Tip,
    /// The earlier run whose bundle holds it.
    pub held_by: Option<RunId>,
}

/// Returns the saved place of a run, below the folder of that run.
pub fn place_of(run_folder: &Path) -> PathBuf {
    run_folder.join("saved")
}

/// The file that describes a place.
pub(super) fn index_file(place: &Path) -> PathBuf {
    place.join("index.json")
}

/// The bundle of local commits.
pub(super) fn bundle_file(place: &Path) -> PathBuf {
    place.join("commits.bundle")
}

/// What a save leaves for the align of the same run, removed by it.
pub(super) fn handoff(place: &Path) -> PathBuf {
    place.join("handoff")
}

/// The files of a commit in a handoff, so that git need not list them again.
pub(super) fn listing(handoff: &Path, commit: &CommitId) -> PathBuf {
    handoff.join(format!("{commit}.tree"))
}

/// The mark that the reset of the run has begun, which names its commit: from then on preserved files may be missing from
/// their places.
pub(super) fn reset_mark(place: &Path) -> PathBuf {
    handoff(place).join("resetting")
}

/// Reads what a place holds; `None` where nothing was saved.
///
/// # Errors
/// The description is damaged, or of a version that this program does not know.
pub fn read(place: &Path) -> Outcome<Option<SavedIndex>> {
    let index: Option<SavedIndex> = disk::read_json(&index_file(place))?;
    match index {
        Some(index) if index.schema != SCHEMA => Err(Failure::new(format!(
            "{} has the unknown version {}",
            index_file(place).display(),
            index.schema
        ))),
        index => Ok(index),
    }
}

impl SavedItem {
    /// Where the item lies now; `None` where it was deleted, put back, or never reached.
    pub(super) fn place_in(&self, vault: &Path) -> Option<PathBuf> {
        let place = vault.join(self.stored.as_ref()?.as_path());
        is_there(&place).then_some(place)
    }
}
/// Returns the commits that the bundles of all runs hold, each with its run. A place that cannot be read counts as
/// holding nothing.
pub(super) fn bundled(runs: &Path) -> Vec<(RunId, CommitId)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        let place = place_of(&entry.path());
        let Ok(Some(index)) = read(&place) else { continue };
        if is_there(&bundle_file(&place)) {
            let own = index.tips.into_iter().filter(|tip| tip.held_by.is_none());
            found.extend(own.map(|tip| (index.run.clone(), tip.tip.commit)));
        }
    }
    found
}
