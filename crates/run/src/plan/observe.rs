//! The facts of an installation, read and never changed.

use refresh_environments::VenvState;
use refresh_installation::installation::Installation;
use refresh_installation::status_file;
use refresh_service::ServiceState;
use refresh_service::deployed::Deployment;
use refresh_service::fence;
use refresh_service::fence::Fence;
use refresh_settings::names::{CommitId, EnvironmentName};
use refresh_source::compare;
use refresh_source::local::LocalChanges;
use refresh_source::work_tree;
use refresh_source::work_tree::TreeState;
use refresh_system::error::Outcome;
use refresh_system::manifest::contamination::Contamination;

/// The observed state of an installation.
#[derive(Debug)]
pub struct Observed {
    /// The pair that passed the health check last.
    pub deployed: Option<Deployment>,
    /// The working tree.
    pub tree: TreeState,
    /// The live environment.
    pub environment: VenvState,
    /// The manual change in the live environment, if it was examined.
    pub contamination: Option<Contamination>,
    /// The service.
    pub service: ServiceState,
    /// The fence, if it stands.
    pub fence: Option<Fence>,
    /// Local changes, if they were searched for.
    pub drift: Option<LocalChanges>,
}

impl Observed {
    /// Observes the facts that preflight and every run need.
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

    /// Also searches for local changes, in `app/` and in the live environment. `known` are commits that account for
    /// files, besides the deployed one; `incoming` is the commit whose ignore rules apply.
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
        self.contamination = match self.environment.recorded() {
            Some(live) => on.environments().contamination(live)?,
            None => None,
        };
        self.drift = Some(compare::app(on, &all, incoming));
        Ok(self)
    }

    /// Returns the live environment, if `venv` points to a good one.
    pub fn live(&self) -> Option<EnvironmentName> {
        self.environment.recorded().map(|environment| environment.name.clone())
    }

    /// Returns the commits whose files are not local changes.
    pub fn known(&self) -> Vec<CommitId> {
        self.deployed.iter().map(|pair| pair.commit.clone()).collect()
    }
}
