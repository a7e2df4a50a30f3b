//! Requests to the mirror and their results, as values that go to a unit and come back. The module touches nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_programs::units::Role;
use refresh_settings::Remote;
use refresh_settings::names::{BranchName, CommitId, RunId};

use super::path::TreePath;

/// The operation.
pub const OPERATION: &str = "mirror";

/// A request to the mirror.
#[derive(Debug, Serialize, Deserialize)]
pub struct MirrorRequest {
    pub(super) program: TreePath,
    pub(super) configuration: TreePath,
    pub(super) mirror: TreePath,
    pub(super) remote: Remote,
    pub(super) network: Vec<(String, String)>,
    pub(super) call: Call,
}

/// The call: a method of [`super::mirror::Mirror`] and its arguments.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Ensure { run: RunId, branch: BranchName },
    Renew { branch: BranchName },
    EnsureFromBundle { run: RunId, commits: Quarantine },
    RemoteTip { branch: BranchName },
    Hold { hold: Hold, run: RunId, commit: CommitId },
    Pinned { run: RunId },
    Release { hold: Hold, run: RunId },
    ReleaseAllBut { kept: BTreeSet<RunId> },
    Damage,
    CheckBranch { branch: BranchName },
    OtherDefault { branch: BranchName, at: Option<CommitId> },
    MovedTo,
    Contains { commit: CommitId },
    IsComplete { commit: CommitId },
    Files { commit: CommitId },
    Read { commit: CommitId, path: TreePath },
    FirstLine { commit: CommitId, path: TreePath },
    Mentions { commit: CommitId, text: String },
    Changes { from: CommitId, to: CommitId },
    CommitLine { commit: CommitId },
    LastChange { commit: CommitId, files: Vec<TreePath> },
    CheckSupported { commit: CommitId },
    Export { commit: CommitId, directory: TreePath },
    IsBefore { older: CommitId, newer: CommitId },
    IsRelated { commits: Quarantine },
    Quarantine { file: TreePath, quarantine: Quarantine },
    WriteBundle { branch: BranchName, file: TreePath },
}

impl Call {
    /// Returns the role of the unit that answers, and whether it writes to the mirror.
    pub(super) fn needs(&self) -> (Role, bool) {
        match self {
            Self::Ensure { .. } | Self::Renew { .. } => (Role::Fetch, true),
            Self::RemoteTip { .. } => (Role::Fetch, false),
            Self::EnsureFromBundle { .. }
            | Self::Hold { .. }
            | Self::Release { .. }
            | Self::ReleaseAllBut { .. } => (Role::Build, true),
            _ => (Role::Build, false),
        }
    }
}

/// The reason why the mirror holds a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// A run deploys it, or can return to it.
    Run,
    /// The stash of a run contains changes of it.
    Stash,
}

impl Hold {
    /// Returns the ref that holds the commit.
    pub(super) fn ref_of(self, run: &RunId) -> String {
        match self {
            Self::Run => format!("refs/runs/{run}"),
            Self::Stash => format!("refs/stash/{run}"),
        }
    }
}

/// The commits of a bundle, verified.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quarantine {
    /// The bare repository that contains them.
    #[serde(with = "super::path::plain")]
    pub directory: PathBuf,
    /// The branch.
    pub branch: BranchName,
    /// The commit that it points to.
    pub commit: CommitId,
}

/// The source of commits.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The remote: the branch that the run follows, as it is now.
    Remote,
    /// A bundle: its one branch. The list of the remote's branches at the last fetch is kept.
    Quarantine(&'a Quarantine),
}

/// The result of a fetch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ensured {
    /// The mirror holds this commit for the run.
    Commit(CommitId),
    /// A new mirror has been made beside the old one, and must be put in its place.
    Replaced,
}
