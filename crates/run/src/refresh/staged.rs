//! The results of staging. Pure.

use refresh_environments::RecordedEnvironment;
use refresh_installation::installation::Release;
use refresh_settings::names::CommitId;
use refresh_source::aligner::Aligner;
use refresh_source::prepared_tree::PreparedTree;

/// The results of staging.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(super) release: Release,
    pub(super) environment: RecordedEnvironment,
    pub(super) tree: PreparedTree,
    pub(super) aligner: Option<Aligner>,
}

impl Staged {
    /// Returns the release of the commit, and the prepared tree.
    pub(crate) fn target(&self) -> (&Release, &PreparedTree) {
        (&self.release, &self.tree)
    }

    /// Takes the unit that waits for step 2.
    pub(crate) fn take_aligner(&mut self) -> Option<Aligner> {
        self.aligner.take()
    }

    /// Returns the provided environment, if it is for this commit.
    pub(crate) fn environment_of(self, commit: &CommitId) -> Option<RecordedEnvironment> {
        (self.release.commit == *commit).then_some(self.environment)
    }
}
