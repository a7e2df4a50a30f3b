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

use std::collections::BTreeSet;

use serde::Serialize;

use refresh_environments::BuildOutcome;
use refresh_events::run_report::{LockSummary, Phase};
use refresh_git::history::Changes;
use refresh_settings::names::{BranchName, CommitId, GenerationName};
use refresh_settings::{Hook, Settings};
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
    /// The steps, each with its effect and its reason.
    pub actions: Vec<Action>,
}

/// The plan for the environment.
#[derive(Debug, Clone, Serialize)]
pub struct EnvironmentPlan {
    /// The live generation.
    pub now: Option<GenerationName>,
    /// The generation that would be used, if it exists already.
    pub ready: Option<GenerationName>,
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

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Action {
    /// The step.
    pub phase: Phase,
    /// Its effect.
    pub what: String,
    /// Its reason.
    pub why: String,
}

/// Returns the plan of a run. Pure: the same input gives the same plan.
pub fn build(settings: &Settings, target: &Target, observed: &Observed, incoming: &Incoming) -> Plan {
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
        || !drift.is_none()
        || build
        || now != incoming.ready
        || observed.contamination.is_some()
        || observed.service.running().is_none()
        || observed.fence.is_some();
    let actions = Phase::STEPS
        .into_iter()
        .map(|phase| action(phase, settings, observed, incoming, &drift, &hooks))
        .collect();
    Plan {
        schema: 1,
        branch: target.branch().clone(),
        commit: incoming.commit.clone(),
        commit_now,
        changes: incoming.changes.clone(),
        drift,
        environment,
        hooks,
        changed,
        actions,
    }
}

fn action(
    phase: Phase,
    settings: &Settings,
    observed: &Observed,
    incoming: &Incoming,
    drift: &LocalChanges,
    hooks: &[String],
) -> Action {
    let (what, why) = match phase {
        Phase::Stop => {
            let what = if observed.service.is_down() {
                "raise the fence"
            } else {
                "raise the fence, stop the service"
            };
            (what.to_owned(), format!("the service is {}", observed.service))
        }
        Phase::Sync => {
            let keep = match drift.count() {
                _ if drift.not_comparable.is_some() => "; the old tree is kept in the stash".to_owned(),
                0 => String::new(),
                1 => "; the old tree is kept in the stash, with 1 local change".to_owned(),
                count => format!("; the old tree is kept in the stash, with {count} local changes"),
            };
            let now = observed.tree.commit.as_ref().map_or("no commit", |commit| commit.short());
            (format!("move {} into app/{keep}", incoming.commit.short()), format!("app/ is at {now}"))
        }
        Phase::Environment => {
            let what = match (&incoming.ready, incoming.made) {
                (Some(ready), BuildOutcome::Reused) if observed.live().as_ref() == Some(ready) => {
                    format!("keep {ready}")
                }
                (Some(ready), BuildOutcome::Reused) => format!("switch venv to {ready}"),
                _ => "build an environment and switch venv to it".to_owned(),
            };
            (what, incoming.reason.clone())
        }
        Phase::Prepare if hooks.is_empty() => ("run no hooks".to_owned(), "none are declared".to_owned()),
        Phase::Prepare => {
            let who = incoming.hooks.iter().map(|hook| hook.origin.to_string()).collect::<BTreeSet<_>>();
            let who: Vec<String> = who.into_iter().collect();
            (format!("run {}", hooks.join(", ")), format!("declared by {}", who.join(" and ")))
        }
        Phase::Restart => (
            format!(
                "start the service, probe it for up to {:?}, let it settle for {:?}",
                settings.probe.deadline, settings.probe.settle
            ),
            "only an answer counts, not a start".to_owned(),
        ),
        _ => ("report commit, environment and service".to_owned(), "every run ends with it".to_owned()),
    };
    Action { phase, what, why }
}

fn hook_in_words(hook: &Hook) -> String {
    format!("{} ({})", hook.name, hook.kind.word())
}
