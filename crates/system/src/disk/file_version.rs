//! The identity of one version of a file. Opens nothing.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::clock::FileTime;

/// One version of a file: a change of its content changes one of these. Only a change of the machine's clock can give a
/// file an older time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    /// The number of the file system's device.
    pub device: u64,
    /// The number of the file on it.
    pub inode: u64,
    /// The length in bytes.
    pub size: u64,
    /// When the content changed last.
    pub modified: FileTime,
    /// When anything about the file changed last.
    pub changed: FileTime,
}

impl FileVersion {
    /// Returns the version of an open file.
    pub fn new(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Returns the version of the file at `path`, or of the file that a link there leads to; `None` if there is none.
    pub fn at(path: &Path) -> Option<Self> {
        Some(Self::new(&fs::metadata(path).ok()?))
    }
}
