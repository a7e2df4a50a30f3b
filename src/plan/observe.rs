//! The facts of an installation, read and never changed.

use crate::error::Outcome;
use crate::installation::Installation;
use crate::python::{Contamination, Current};
use crate::service::ServiceState;
use crate::service::fence::{self, Fence};
use crate::settings::names::{CommitId, GenerationName};
use crate::source::compare;
use crate::source::local::LocalChanges;
use crate::source::work_tree::TreeState;
use crate::status_file::{self, DeployedPair};

/// What an installation is like.
#[derive(Debug)]
pub struct Observed {
    /// The pair that proved itself last.
    pub deployed: Option<DeployedPair>,
    /// The work tree.
    pub tree: TreeState,
    /// The live environment.
    pub environment: Current,
    /// What somebody changed in the live environment by hand, where it was looked for.
    pub contamination: Option<Contamination>,
    /// The service.
    pub service: ServiceState,
    /// The fence, where it stands.
    pub fence: Option<Fence>,
    /// Local changes, where they were looked for.
    pub drift: Option<LocalChanges>,
}

impl Observed {
    /// Observes what preflight and every run need to know.
    ///
    /// # Errors
    /// Something cannot be observed at all.
    pub fn of(on: &Installation) -> Outcome<Self> {
        Ok(Self {
            deployed: status_file::read(&on.layout).deployed,
            tree: on.tree_state()?,
            environment: on.environments().current()?,
            contamination: None,
            service: on.service.observe()?,
            fence: fence::read(&on.layout)?,
            drift: None,
        })
    }

    /// Looks for local changes as well, in `app/` and in the live environment. `known` are commits that account for
    /// files, besides the deployed one; `coming` is the commit whose rules say what is ignored.
    ///
    /// # Errors
    /// The environment cannot be compared.
    pub fn with_drift(
        mut self,
        on: &Installation,
        known: &[CommitId],
        coming: Option<&CommitId>,
    ) -> Outcome<Self> {
        let mut all = self.known();
        all.extend(known.iter().cloned());
        self.contamination = match self.environment.generation() {
            Some(live) => on.environments().contamination(live)?,
            None => None,
        };
        self.drift = Some(compare::app(on, &all, coming));
        Ok(self)
    }

    /// Returns the live generation, where `venv` leads to a good one.
    pub fn live(&self) -> Option<GenerationName> {
        self.environment.generation().map(|generation| generation.name.clone())
    }

    /// Returns the commits whose files are no local changes.
    pub fn known(&self) -> Vec<CommitId> {
        self.deployed.iter().map(|pair| pair.commit.clone()).collect()
    }
}
