//! Sets of files as values: what lies below a directory, and what differs between two such sets.
//!
//! Used for the record of a generation, for what was added to or changed in it since, and for the inventory of
//! protected paths. The room only reads. It never follows a link, not even one that is put in place while it looks
//! (every step down is an `openat` with `O_NOFOLLOW`), reads file contents in small pieces, and keeps at most
//! [`Scan::at_most`] entries: what lies beyond is folded into one digest, which still tells whether anything changed.

mod compare;
mod format;
mod scan;

use std::path::PathBuf;

pub use compare::{Change, Difference};
pub use scan::Scan;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Folder,
    /// A symbolic link and its text.
    Link(PathBuf),
    /// A socket, pipe or device.
    Other,
}

/// One file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path below the scanned directory; empty for the directory itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// The permission bits, with set-id and sticky bits.
    pub mode: u32,
    /// The size of a file in bytes; 0 for anything else.
    pub size: u64,
    /// When a file's content last changed, in nanoseconds since 1970; 0 for anything else, because a directory's time
    /// says no more than the entries in it.
    pub modified: i64,
    /// When anything of a file last changed, its time of modification included, in nanoseconds since 1970; nobody can
    /// set it back. 0 for anything else, and where it was not noted.
    pub touched: i64,
    /// The file's number in its file system; 0 for anything else, and where it was not noted.
    pub inode: u64,
    /// The sha256 of a file's content in hexadecimal digits, where the scan was to read contents.
    pub digest: Option<String>,
}

/// What lies below one directory, in the order of the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    rest: Option<Rest>,
    unreadable: Vec<PathBuf>,
}

/// The entries beyond the limit of a scan, as one value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Rest {
    entries: u64,
    digest: String,
}

impl Manifest {
    /// Returns the entries, sorted by path; at most as many as the scan was to keep.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the directories that could not be looked into, and whatever else the scan was to list instead of failing; sorted.
    pub fn unreadable(&self) -> &[PathBuf] {
        &self.unreadable
    }

    /// Returns how many entries there are, those beyond the limit included.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64 + self.rest.as_ref().map_or(0, |rest| rest.entries)
    }

    /// Returns whether there was nothing at all.
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
