//! The target of a run. It touches nothing.

use refresh_service::deployed::Deployment;
use refresh_settings::names::BranchName;

/// What a run aims at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The latest commit of a branch of the remote.
    Latest(BranchName),
    /// An earlier good commit, and its environment, which is used as it is where it is still good.
    Earlier(Deployment),
}

impl Target {
    /// Returns the branch that `app/` ends on.
    pub fn branch(&self) -> &BranchName {
        match self {
            Self::Latest(branch) => branch,
            Self::Earlier(deployment) => &deployment.branch,
        }
    }
}
