//! The results of a comparison of a tree: local changes, and local names of commits. Only types.

use std::path::Path;

use serde::{Deserialize, Serialize};

use refresh_git::path::TreePath;
use refresh_settings::names::CommitId;

/// The entry of a repository with its linked working trees.
const LINKED_TREES: &str = ".git/worktrees";

/// How a tree differs from the commits that account for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalChanges {
    /// The commit that the tree was compared with first; `None` if the mirror has none of the known commits.
    pub base: Option<CommitId>,
    /// The paths that differ.
    pub items: Vec<LocalChange>,
    /// Local branches, tags and stashes whose commits the mirror does not have.
    pub tips: Vec<LocalName>,
    /// Paths that the rules of the commit ignore: they move across, and are not changes.
    #[serde(default)]
    pub ignored: Vec<TreePath>,
    /// Why the tree, or a part of it, cannot be compared; `None` if all of it was compared.
    #[serde(default)]
    pub not_comparable: Option<String>,
}

impl LocalChanges {
    /// Returns the result for a tree that cannot be compared.
    pub fn not_comparable(reason: String) -> Self {
        Self { not_comparable: Some(reason), ..Self::default() }
    }

    /// Returns each change as kind and path.
    pub fn described(&self) -> impl Iterator<Item = String> {
        self.changes().map(|change| format!("{} {}", change.kind, change.path))
    }

    /// Returns `true` if a refresh would keep only the paths of the tree that move across.
    pub fn is_none(&self) -> bool {
        self.not_comparable.is_none() && self.count() == 0
    }

    /// Returns `true` if nothing is a reason for a refresh. Hooks, settings and operations in the tree's own repository
    /// are none, although a refresh keeps them. The names of a repository with linked working trees are none either: a
    /// person works there.
    pub fn is_no_reason(&self) -> bool {
        let is_of_tree = |change: &LocalChange| change.kind != ChangeKind::GitState;
        let has_names = !(self.tips.is_empty() || self.has_linked_trees());
        self.not_comparable.is_none() && !has_names && !self.changes().any(is_of_tree)
    }

    /// Returns whether the repository has linked working trees.
    pub fn has_linked_trees(&self) -> bool {
        self.items.iter().any(|item| item.path.as_path() == Path::new(LINKED_TREES))
    }

    /// Returns the number of changes and local names, without preserved paths.
    pub fn count(&self) -> usize {
        self.changes().count() + self.tips.len()
    }

    /// Returns the changes that are not preserved.
    pub fn changes(&self) -> impl Iterator<Item = &LocalChange> {
        self.items.iter().filter(|item| !item.preserved)
    }
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalChange {
    /// The path, below the tree.
    pub path: TreePath,
    /// How it differs.
    pub kind: ChangeKind,
    /// Whether the host preserves it; then it moves across.
    pub preserved: bool,
}

/// The kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "lowercase")]
pub enum ChangeKind {
    /// A tracked file has different bytes.
    Modified,
    /// A tracked file has a different executable bit.
    Mode,
    /// A tracked file or link was replaced by an entry of a different type.
    Type,
    /// A tracked file is missing.
    Deleted,
    /// A tracked file cannot be read by its owner.
    Unreadable,
    /// No known commit tracks the file.
    Untracked,
    /// A directory in which no known commit tracks a file.
    // The name in the files of 0.1.
    #[serde(alias = "untracked_folder")]
    #[strum(to_string = "untracked")]
    UntrackedDirectory,
    /// A change that is only in the index of the tree's own repository.
    Staged,
    /// A hook, settings, a log, or an operation in progress, in the tree's own repository.
    #[strum(to_string = "git state")]
    GitState,
}

/// A local name whose commit the mirror does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalName {
    /// `HEAD`, `heads/x`, `tags/x`, `stash/0` …
    pub name: String,
    /// The commit.
    pub commit: CommitId,
}
