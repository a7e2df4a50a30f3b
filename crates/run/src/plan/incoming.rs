//! The incoming release of the remote: the commit, its changes, and the environment it needs.

use std::collections::BTreeMap;

use crate::plan::Target;
use refresh_environments::lock::differences;
use refresh_environments::{BuildOutcome, Definitions};
use refresh_events::run_report::LockSummary;
use refresh_git::Hold;
use refresh_git::history::Changes;
use refresh_installation::installation::Installation;
use refresh_settings::Hook;
use refresh_settings::names::{CommitId, EnvironmentName, RunId};
use refresh_source::local::LocalChanges;
use refresh_source::work_tree::Head;
use refresh_system::error::Outcome;

use super::Observed;

/// The release that a run would deploy.
#[derive(Debug)]
pub struct Incoming {
    /// The commit.
    pub commit: CommitId,
    /// Its changes; `None` if there is no deployed commit yet.
    pub changes: Option<Changes>,
    /// The environment that it needs, if that exists already.
    pub ready: Option<EnvironmentName>,
    /// Whether an environment must be built.
    pub made: BuildOutcome,
    /// The reason.
    pub reason: String,
    /// The lock of its environment, if it is already known.
    pub lock: Option<LockSummary>,
    /// Requirements that would be added, removed or changed.
    pub packages: Vec<String>,
    /// The hooks that would run.
    pub hooks: Vec<Hook>,
}

impl Incoming {
    /// Examines the target. Fetches into the mirror, a store of the tool, and changes nothing else. `scratch` is the
    /// name of its temporary content there.
    ///
    /// # Errors
    /// The remote cannot be reached, or the commit cannot be deployed.
    pub fn examine(
        on: &Installation,
        target: &Target,
        observed: &Observed,
        scratch: &RunId,
    ) -> Outcome<Self> {
        let commit = on.ensure_commit(scratch, target.branch())?;
        let incoming = Self::of(on, observed, &commit);
        on.mirror.release(Hold::Run, scratch)?;
        incoming
    }

    /// Returns the deployed commit as the incoming release, if the remote still has it and the mirror contains it.
    /// Fetches nothing.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub fn deployed(on: &Installation, observed: &Observed, tip: &CommitId) -> Outcome<Option<Self>> {
        let is_deployed = observed.deployed.as_ref().is_some_and(|pair| pair.commit == *tip);
        if !is_deployed || observed.tree.commit.as_ref() != Some(tip) || !on.mirror.contains(tip)? {
            return Ok(None);
        }
        Self::of(on, observed, tip).map(Some)
    }

    fn of(on: &Installation, observed: &Observed, commit: &CommitId) -> Outcome<Self> {
        let release = on.release(commit)?;
        let wanted = release.wanted(on)?;
        let ready = on.environments().ready(&wanted)?.map(|environment| environment.name.clone());
        on.environments().check_strict(&wanted)?;
        let lock = on.environments().known_lock(&wanted)?.map(|lock| lock.summary());
        let strategy = release.settings.python.strategy;
        let (made, reason) = match on.environments().reason_to_build(&wanted, strategy)? {
            Some(reason) => (BuildOutcome::Built, reason),
            None => (BuildOutcome::Reused, "requirements unchanged".to_owned()),
        };
        let known = match &observed.tree.commit {
            Some(head) if on.mirror.contains(head)? => Some(head),
            _ => None,
        };
        let changes = known.map(|head| on.mirror.changes(head, commit)).transpose()?;
        let before = known.map(|head| on.release(head)).and_then(Result::ok);
        let packages =
            before.map(|before| difference(&before.definitions, &release.definitions)).unwrap_or_default();
        Ok(Self {
            commit: commit.clone(),
            changes,
            ready,
            made,
            reason,
            lock,
            packages,
            hooks: release.settings.hooks,
        })
    }

    /// Returns whether everything is already up to date: commit, tree, environment, service, no fence.
    pub fn is_up_to_date(&self, target: &Target, observed: &Observed) -> bool {
        let pair = observed.deployed.as_ref();
        let on_branch =
            matches!(&observed.tree.head, Some(Head::Branch(name)) if name == target.branch().as_str());
        observed.fence.is_none()
            && on_branch
            && observed.tree.commit.as_ref() == Some(&self.commit)
            && pair.is_some_and(|pair| pair.commit == self.commit && pair.branch == *target.branch())
            && observed.drift.as_ref().is_some_and(LocalChanges::is_no_reason)
            && self.made == BuildOutcome::Reused
            && observed.live() == self.ready
            && observed.contamination.is_none()
            && observed.service.running().is_some()
    }
}

/// Returns the differences between two sets of requirements, one per line: `+ new`, `- gone`, `~ name old → new`.
fn difference(before: &Definitions, after: &Definitions) -> Vec<String> {
    let table = |definitions: &Definitions| -> BTreeMap<String, String> {
        let required = definitions.requirements().into_iter();
        required.map(|it| (it.package.name, it.package.specification)).collect()
    };
    differences(&table(before), &table(after), "")
}
