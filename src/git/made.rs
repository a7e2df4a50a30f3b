//! What the hooks of the last run made or changed in the work tree: no local changes as long as nobody touches it.
//!
//! A record vouches for a file only while its size, times and inode are the recorded ones. Nobody can set the time of
//! the last change of an inode, so a file that was touched since is not vouched for, and an old list does no harm.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::clock::{self, FileTime};
use crate::error::Outcome;
use crate::settings::names::CommitId;

use super::compare::Difference;
use super::path::TreePath;
use super::tree::{Place, Tree, is_there};
use super::walk::{self, Access, Preserve, Stray};

/// The worker's operation.
pub const OPERATION: &str = "git-made";

/// What a worker is asked to record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The commit that the tree was before the hooks ran.
    pub commit: CommitId,
    /// Patterns of application state that stays in place.
    pub preserve: Vec<String>,
    /// A time before the first hook began ([`clock::between_changes`]); what was changed until then is none of theirs.
    pub since: FileTime,
}

/// The products of hooks by path; `None` where a tracked file was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Made(BTreeMap<TreePath, Option<Stamp>>);

/// What tells whether a file was touched.
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

impl Made {
    /// Tells whether `path` below `app` is as the hooks left it.
    pub(super) fn vouches(&self, app: &Path, path: &Path) -> bool {
        let Some(stamp) = self.0.get(&TreePath::from(path)) else { return false };
        match (stamp, fs::symlink_metadata(app.join(path))) {
            (Some(stamp), Ok(found)) => !found.is_dir() && *stamp == Stamp::of(&found),
            (None, Err(error)) => error.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Tells whether a folder or file that was found to be regenerable still holds nothing else.
    pub(super) fn is_untouched(&self, app: &Path, path: &Path) -> bool {
        self.0.is_empty()
            || !is_there(&app.join(path))
            || walk::files_below(app, path)
                .is_ok_and(|files| files.iter().all(|file| walk::is_cache(file) || self.vouches(app, file)))
    }
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// The tree cannot be read.
pub fn handle(request: &Request) -> Outcome<Made> {
    let tree = Tree::enter(&request.place);
    let preserve = Preserve::patterns(&request.preserve)?;
    let known = [request.commit.clone()];
    let observed = tree.observe(&known, &preserve, &Made::default(), Access::ReadOnly)?;
    let mut made = BTreeMap::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for (path, difference) in &observed.differing {
        if *difference == Difference::Missing {
            made.insert(path.clone().into(), None);
        } else if !preserve.covers(path) {
            files.push(path.clone());
        }
    }
    for (path, stray) in &observed.walked.strays {
        // Where a folder lies in the place of a tracked file, it is an ordinary change.
        if *stray != Stray::Regenerable && !observed.differing.contains_key(path) {
            files.extend(walk::files_below(&tree.app, path).unwrap_or_default());
        }
    }
    for path in files {
        let now = clock::file_time();
        let Ok(found) = fs::symlink_metadata(tree.app.join(&path)) else { continue };
        let stamp = Stamp::of(&found);
        // A later change must not be able to get the same time.
        let theirs = request.since < stamp.changed && stamp.changed < now;
        if theirs && !found.is_dir() && found.uid() == geteuid().as_raw() {
            made.insert(path.into(), Some(stamp));
        }
    }
    tree.leave()?;
    Ok(Made(made))
}
