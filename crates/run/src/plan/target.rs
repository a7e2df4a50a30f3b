//! The target of a run. It changes nothing.

use refresh_installation::installation::Installation;
use refresh_service::deployed::Deployment;
use refresh_settings::names::BranchName;

use super::space::Makes;

/// What a run aims at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The latest commit of a branch of the remote.
    Latest(BranchName),
    /// An earlier good commit, and its environment, which is used as it is where it is still good.
    Earlier(Deployment),
}

impl Target {
    /// Returns what a run to this target makes.
    pub fn makes(&self, on: &Installation) -> Makes {
        match self {
            Self::Earlier(pair) if on.layout.environment(&pair.generation).is_dir() => Makes::Nothing,
            _ => Makes::New,
        }
    }

    /// Returns the branch that `app/` ends on.
    pub fn branch(&self) -> &BranchName {
        match self {
            Self::Latest(branch) => branch,
            Self::Earlier(deployment) => &deployment.branch,
        }
    }
}
