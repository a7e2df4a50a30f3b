//! The target of a run. It changes nothing.

use refresh_installation::installation::Installation;
use refresh_service::deployed::Deployment;
use refresh_settings::names::BranchName;

use super::space::Makes;

/// The target of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The latest commit of a branch of the remote.
    Latest(BranchName),
    /// An earlier good commit, and its environment, which is used unchanged if it is still good.
    Earlier(Deployment),
}

impl Target {
    /// Returns the kind of data that a run to this target creates.
    pub fn makes(&self, on: &Installation) -> Makes {
        match self {
            Self::Earlier(pair) if on.layout.environment(&pair.environment).is_dir() => Makes::Nothing,
            _ => Makes::New,
        }
    }

    /// Returns the branch of `app/` after the run.
    pub fn branch(&self) -> &BranchName {
        match self {
            Self::Latest(branch) => branch,
            Self::Earlier(deployment) => &deployment.branch,
        }
    }
}
