//! The digests of files that were read before: an unchanged file is not read again. The module touches no file itself.
//!
//! A file is unchanged if device, inode, length and both times are the same. The kernel sets the time of change
//! (ctime): only a user who sets the clock of the machine can give a file an older one. A file that changed just before
//! it was read is not remembered, because a second change within the same tick of the file system's clock could not be
//! detected.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use refresh_system::clock::FileTime;

use super::Sha256Hex;

/// How long a file must be unchanged to be remembered, in seconds: the coarsest clock of a file system (FAT).
const SETTLED_SECONDS: i64 = 2;

/// How many files are remembered at most.
const MOST_FILES: usize = 50_000;

/// One state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    /// The length in bytes.
    pub size: u64,
    modified: FileTime,
    changed: FileTime,
}

impl Stamp {
    /// Returns the stamp of an open file.
    pub(crate) fn new(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Returns `true` if a change at `time` or later can be detected with certainty.
    pub(crate) fn is_settled(&self, time: FileTime) -> bool {
        (self.changed.0.saturating_add(SETTLED_SECONDS), self.changed.1) <= time
    }

    fn key(&self) -> String {
        let Self { device, inode, size, modified, changed } = self;
        format!("{device} {inode} {size} {}.{:09} {}.{:09}", modified.0, modified.1, changed.0, changed.1)
    }
}

/// The digests of files by their stamps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestCache {
    sha256: HashMap<String, Sha256Hex>,
}

impl DigestCache {
    /// How many bytes the form on disk has at most; a larger one is not read.
    pub const LIMIT: u64 = 16 << 20;

    /// Returns the digest of a file that is unchanged.
    pub(crate) fn digest(&self, stamp: &Stamp) -> Option<&Sha256Hex> {
        self.sha256.get(&stamp.key())
    }

    /// Remembers a digest.
    pub(crate) fn remember(&mut self, stamp: &Stamp, digest: Sha256Hex) {
        if self.sha256.len() >= MOST_FILES {
            self.sha256.clear();
        }
        self.sha256.insert(stamp.key(), digest);
    }

    /// Returns the form on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the form on disk; a damaged one is an empty cache, and every file is read.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { device: 7, inode: 1, size: 10, modified: (-1, 5), changed: (100, 500) };

    #[test]
    fn a_file_is_remembered_only_as_it_was() {
        let mut cache = DigestCache::default();
        let digest = Sha256Hex::parse(&"a".repeat(64)).unwrap();
        cache.remember(&STAMP, digest.clone());
        let read = DigestCache::from_bytes(&cache.to_bytes());
        assert_eq!((&read, read.digest(&STAMP)), (&cache, Some(&digest)));
        for other in [
            Stamp { device: 8, ..STAMP },
            Stamp { inode: 2, ..STAMP },
            Stamp { size: 11, ..STAMP },
            Stamp { modified: (-1, 6), ..STAMP },
            Stamp { changed: (100, 501), ..STAMP },
        ] {
            assert_eq!(cache.digest(&other), None, "{other:?}");
        }
        assert_eq!(DigestCache::from_bytes(&cache.to_bytes()[1..]), DigestCache::default());
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_settled() {
        assert!(!STAMP.is_settled((102, 499)));
        assert!(STAMP.is_settled((102, 500)));
    }
}
