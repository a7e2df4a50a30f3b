//! The facts of an installation, read and never changed.

use refresh_environments::VenvState;
use refresh_installation::installation::Installation;
use refresh_installation::status_file;
use refresh_service::ServiceState;
use refresh_service::deployed::Deployment;
use refresh_service::fence;
use refresh_service::fence::Fence;
use refresh_settings::names::{CommitId, GenerationName};
use refresh_source::compare;
use refresh_source::local::LocalChanges;
use refresh_source::work_tree;
use refresh_source::work_tree::TreeState;
use refresh_system::error::Outcome;
use refresh_system::manifest::contamination::Contamination;

/// What an installation is like.
#[derive(Debug)]
pub struct Observed {
    /// The pair that proved itself last.
    pub deployed: Option<Deployment>,
    /// The work tree.
    pub tree: TreeState,
    /// The live environment.
    pub environment: VenvState,
    /// What was changed manually in the live environment, where that was examined.
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
            tree: work_tree::of(on)?,
            environment: on.environments().current()?,
            contamination: None,
            service: on.service.observe()?,
            fence: fence::read(&on.layout)?,
            drift: None,
        })
    }

    /// Looks for local changes as well, in `app/` and in the live environment. `known` are commits that account for
    /// files, besides the deployed one; `incoming` is the commit whose rules say what is ignored.
    ///
    /// # Errors
    /// The environment cannot be compared.
    pub fn with_drift(
        mut self,
        on: &Installation,
        known: &[CommitId],
        incoming: Option<&CommitId>,
    ) -> Outcome<Self> {
        let mut all = self.known();
        all.extend(known.iter().cloned());
        self.contamination = match self.environment.generation() {
            Some(live) => on.environments().contamination(live)?,
            None => None,
        };
        self.drift = Some(compare::app(on, &all, incoming));
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
