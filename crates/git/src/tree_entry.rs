//! One file of a commit. The module touches nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The kind of an entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    Regular,
    /// A regular file that may be executed.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A commit of another repository.
    Submodule,
}

impl EntryKind {
    /// Returns the mode as git writes it.
    pub fn mode(self) -> &'static str {
        match self {
            Self::Regular => "100644",
            Self::Executable => "100755",
            Self::Symlink => "120000",
            Self::Submodule => "160000",
        }
    }

    pub(super) fn of_mode(mode: &str) -> Option<Self> {
        match mode {
            "100644" | "100664" => Some(Self::Regular),
            "100755" => Some(Self::Executable),
            "120000" => Some(Self::Symlink),
            "160000" => Some(Self::Submodule),
            _ => None,
        }
    }
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Its path in the tree.
    #[serde(with = "super::path::plain")]
    pub path: PathBuf,
    /// Its kind.
    pub kind: EntryKind,
    /// The hash of its content.
    pub object: String,
    /// The length of its content in bytes, if it was requested.
    pub size: Option<u64>,
}
