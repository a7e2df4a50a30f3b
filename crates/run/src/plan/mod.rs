//! The plan of a run, as a value: a pure function of the target, the observed state, and the incoming release. `plan`
//! and `run --dry-run` render it; `run` executes it.

pub mod confinement;
pub(crate) mod incoming;
pub(crate) mod observe;
pub mod preflight;
pub mod reach;
pub mod rollback;
pub mod space;
mod target;

use serde::Serialize;

use refresh_environments::BuildOutcome;
use refresh_events::run_report::LockSummary;
use refresh_git::history::Changes;
use refresh_settings::Hook;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName};
use refresh_source::local::LocalChanges;
use refresh_system::manifest::contamination::Contamination;

pub use incoming::Incoming;
pub use observe::Observed;
pub use target::Target;

/// The plan of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The version of the format.
    pub schema: u32,
    /// The branch.
    pub branch: BranchName,
    /// The commit of `app/` after the run.
    pub commit: CommitId,
    /// The present commit of `app/`.
    pub commit_now: Option<CommitId>,
    /// The new commits and changed files.
    pub changes: Option<Changes>,
    /// Local changes that would be kept in the stash.
    pub drift: LocalChanges,
    /// Whether the environment would be built, and why.
    pub environment: EnvironmentPlan,
    /// The hooks that would run, in order.
    pub hooks: Vec<String>,
    /// Whether anything would change.
    pub changed: bool,
}

/// The plan for the environment.
#[derive(Debug, Clone, Serialize)]
pub struct EnvironmentPlan {
    /// The live environment.
    pub now: Option<EnvironmentName>,
    /// The environment that would be used, if it exists already.
    pub ready: Option<EnvironmentName>,
    /// Whether one would be built.
    pub build: bool,
    /// The reason.
    pub reason: String,
    /// The lock, if it is already known.
    pub lock: Option<LockSummary>,
    /// The manual change in the live environment.
    pub contamination: Option<Contamination>,
    /// Requirements that would be added, removed or changed, with their names in the definitions.
    pub packages: Vec<String>,
}

/// Returns the plan of a run. Pure: the same input gives the same plan.
pub fn build(target: &Target, observed: &Observed, incoming: &Incoming) -> Plan {
    let drift = observed.drift.clone().unwrap_or_default();
    let now = observed.live();
    let build = incoming.made == BuildOutcome::Built;
    let environment = EnvironmentPlan {
        ready: incoming.ready.clone(),
        build,
        reason: incoming.reason.clone(),
        lock: incoming.lock.clone(),
        contamination: observed.contamination.clone(),
        packages: incoming.packages.clone(),
        now: now.clone(),
    };
    let hooks: Vec<String> = incoming.hooks.iter().map(hook_in_words).collect();
    let commit_now = observed.tree.commit.clone();
    let changed = commit_now.as_ref() != Some(&incoming.commit)
        || !drift.is_no_reason()
        || build
        || now != incoming.ready
        || observed.contamination.is_some()
        || observed.service.running().is_none()
        || observed.fence.is_some();
    Plan {
        schema: 2,
        branch: target.branch().clone(),
        commit: incoming.commit.clone(),
        commit_now,
        changes: incoming.changes.clone(),
        drift,
        environment,
        hooks,
        changed,
    }
}

fn hook_in_words(hook: &Hook) -> String {
    format!("{} ({})", hook.name, hook.kind)
}
