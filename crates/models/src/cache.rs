//! The digests of files that were read before: an unchanged file is not read again. The module touches no file itself.
//!
//! A file is unchanged if device, inode, length and both times are the same. The kernel sets the time of change
//! (ctime): only a user who sets the clock of the machine can give a file an older one. A file that changed just before
//! it was read is not remembered, because a second change within the same tick of the file system's clock could not be
//! detected.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use refresh_system::clock::FileTime;
use refresh_system::disk::FileVersion;

use super::Sha256Hex;

/// How long a file must be unchanged to be remembered, in seconds: the coarsest clock of a file system (FAT).
const SETTLED_SECONDS: i64 = 2;

/// How many files are remembered at most.
const MOST_FILES: usize = 50_000;

/// Returns `true` if a change of the file at `time` or later can be detected with certainty.
pub(crate) fn is_settled(file: &FileVersion, time: FileTime) -> bool {
    (file.changed.0.saturating_add(SETTLED_SECONDS), file.changed.1) <= time
}

fn key(file: &FileVersion) -> String {
    let FileVersion { device, inode, size, modified, changed } = file;
    format!("{device} {inode} {size} {}.{:09} {}.{:09}", modified.0, modified.1, changed.0, changed.1)
}

/// The digests of files, by their versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestCache {
    sha256: HashMap<String, Sha256Hex>,
}

impl DigestCache {
    /// How many bytes the form on disk has at most; a larger one is not read.
    pub const LIMIT: u64 = 16 << 20;

    /// Returns the digest of a file that is unchanged.
    pub(crate) fn digest(&self, file: &FileVersion) -> Option<&Sha256Hex> {
        self.sha256.get(&key(file))
    }

    /// Remembers a digest.
    pub(crate) fn remember(&mut self, file: &FileVersion, digest: Sha256Hex) {
        if self.sha256.len() >= MOST_FILES {
            self.sha256.clear();
        }
        self.sha256.insert(key(file), digest);
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

    const VERSION: FileVersion =
        FileVersion { device: 7, inode: 1, size: 10, modified: (-1, 5), changed: (100, 500) };

    #[test]
    fn a_file_is_remembered_only_as_it_was() {
        let mut cache = DigestCache::default();
        let digest = Sha256Hex::parse(&"a".repeat(64)).unwrap();
        cache.remember(&VERSION, digest.clone());
        let read = DigestCache::from_bytes(&cache.to_bytes());
        assert_eq!((&read, read.digest(&VERSION)), (&cache, Some(&digest)));
        for other in [
            FileVersion { device: 8, ..VERSION },
            FileVersion { inode: 2, ..VERSION },
            FileVersion { size: 11, ..VERSION },
            FileVersion { modified: (-1, 6), ..VERSION },
            FileVersion { changed: (100, 501), ..VERSION },
        ] {
            assert_eq!(cache.digest(&other), None, "{other:?}");
        }
        assert_eq!(DigestCache::from_bytes(&cache.to_bytes()[1..]), DigestCache::default());
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_settled() {
        assert!(!is_settled(&VERSION, (102, 499)));
        assert!(is_settled(&VERSION, (102, 500)));
    }
}
