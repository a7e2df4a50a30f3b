//! What the hooks of the last run made or changed in the work tree: no local changes as long as nobody touches it.
//!
//! A record vouches for a file only while its size, times and inode are the recorded ones. Nobody can set the time of
//! the last change of an inode, so a file that was touched since is not vouched for, and an old list does no harm.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::FileTime;

use super::path::TreePath;
use super::tree::is_there;
use super::walk;

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
