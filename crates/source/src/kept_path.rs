//! The paths that move from a tree to the next one. Only types.

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;

/// One path that moves across: a file, or a directory with everything in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptPath {
    /// The path, below the tree.
    pub path: TreePath,
    /// Why it moves across.
    pub reason: Reason,
}

/// Why a path moves across.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A pattern of the host preserves it.
    Preserved,
    /// A rule of the new commit ignores it.
    Ignored,
}
