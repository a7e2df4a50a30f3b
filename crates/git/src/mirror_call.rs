//! What the mirror is asked for, as values that go to a unit and come back. It touches nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_programs::units::Role;
use refresh_settings::Remote;
use refresh_settings::names::{BranchName, CommitId, RunId};

use super::path::TreePath;

/// The operation.
pub const OPERATION: &str = "mirror";

/// A question to the mirror.
#[derive(Debug, Serialize, Deserialize)]
pub struct MirrorRequest {
    pub(super) program: TreePath,
    pub(super) configuration: TreePath,
    pub(super) mirror: TreePath,
    pub(super) remote: Remote,
    pub(super) network: Vec<(String, String)>,
    pub(super) call: Call,
}

/// What is asked: a method of [`super::mirror::Mirror`] and its arguments.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Ensure { run: RunId, branch: BranchName },
    Renew { branch: BranchName },
    EnsureFromBundle { run: RunId, commits: Quarantine },
    RemoteTip { branch: BranchName },
    Pin { run: RunId, commit: CommitId },
    Pinned { run: RunId },
    Release { run: RunId },
    ReleaseAllBut { kept: BTreeSet<RunId> },
    HoldForStash { run: RunId, commit: CommitId },
    ReleaseStash { run: RunId },
    Damage,
    Unreachable,
    CheckBranch { branch: BranchName },
    OtherDefault { branch: BranchName },
    DefaultInsteadOf { branch: BranchName, commit: CommitId },
    Contains { commit: CommitId },
    IsComplete { commit: CommitId },
    Files { commit: CommitId },
    Read { commit: CommitId, path: TreePath },
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
            | Self::Pin { .. }
            | Self::Release { .. }
            | Self::ReleaseAllBut { .. }
            | Self::HoldForStash { .. }
            | Self::ReleaseStash { .. } => (Role::Build, true),
            _ => (Role::Build, false),
        }
    }
}

/// The commits of a bundle, proved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quarantine {
    /// The bare repository that holds them.
    #[serde(with = "super::path::plain")]
    pub directory: PathBuf,
    /// The branch.
    pub branch: BranchName,
    /// What it points to.
    pub commit: CommitId,
}

/// Where commits come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The remote: the branch that the run follows, as it is now.
    Remote,
    /// A bundle: its one branch. What the remote's branches were when they were fetched last stays known.
    Quarantine(&'a Quarantine),
}

/// What became of a fetch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ensured {
    /// The mirror holds this commit for the run.
    Commit(CommitId),
    /// The mirror has been made new beside its place, and must be put there.
    Replaced,
}
