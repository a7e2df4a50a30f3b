//! The entries of a directory as one value. The module touches nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::encoded_path::plain;

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "target", rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    // The name in the files of 0.1.
    #[serde(alias = "folder")]
    Directory,
    /// A symbolic link and its text.
    Link(#[serde(with = "plain")] PathBuf),
    /// A socket, pipe or device.
    Other,
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path below the scanned directory; empty for the directory itself.
    #[serde(with = "plain")]
    pub path: PathBuf,
    /// Its kind.
    #[serde(flatten)]
    pub kind: Kind,
    /// The permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// The size of a file in bytes; 0 for anything else.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// When a file's content last changed, in nanoseconds since 1970; 0 for anything else, because a directory's time
    /// adds nothing to the entries in it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub modified: i64,
    /// When anything of a file last changed, its time of modification included, in nanoseconds since 1970; no program
    /// can set it back. 0 for anything else, and if it was not recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub touched: i64,
    /// The file's number in its file system; 0 for anything else, and if it was not recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// The sha256 of a file's content in hexadecimal digits, if the scan was to read contents.
    #[serde(rename = "sha256", default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The entries below one directory, in the order of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    pub(super) entries: Vec<Entry>,
    pub(super) rest: Option<Rest>,
    pub(super) unreadable: Vec<PathBuf>,
}

/// The entries beyond the limit of a scan, as one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rest {
    pub(super) entries: u64,
    pub(super) digest: String,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Manifest {
    /// Returns the entries, sorted by path; at most as many as the scan was to keep.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the directories that could not be read, and all other entries that the scan was to list instead of
    /// failing; sorted.
    pub fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }

    /// Returns how many entries there are, those beyond the limit included.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64 + self.rest.as_ref().map_or(0, |rest| rest.entries)
    }

    /// Returns whether nothing existed at the scanned path.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns how many of the kept entries are regular files, and their bytes.
    pub fn files(&self) -> (u64, u64) {
        self.entries
            .iter()
            .filter(|entry| entry.kind == Kind::File)
            .fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.size))
    }
}
