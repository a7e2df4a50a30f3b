//! The plan of a rollback, as a value. Reads the mirror, the records and the tree; changes and fetches nothing.

use std::path::PathBuf;

use serde::Serialize;

use refresh_environments::RecordedEnvironment;
use refresh_git::history::CommitLine;
use refresh_installation::installation::Installation;
use refresh_service::deployed::Deployment;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName, RunId};
use refresh_settings::{Hook, HookKind};
use refresh_source::local::LocalChanges;
use refresh_system::error::{Failure, Outcome};

use super::Observed;

/// The plan of a rollback.
#[derive(Debug, Serialize)]
pub struct RollbackPlan {
    /// The version of the format.
    pub schema: u32,
    /// The run that it returns to.
    pub run: RunId,
    /// The branch of `app/` after the rollback.
    pub branch: BranchName,
    /// The present commit and environment.
    pub from: Pair,
    /// The commit and environment after the rollback.
    pub to: Pair,
    /// Whether the environment exists and need not be built again.
    pub environment_exists: bool,
    /// The interpreter that the environment was built with, if that no longer exists.
    pub lost_interpreter: Option<PathBuf>,
    /// The commits that are no longer deployed afterwards, newest first; empty if the mirror does not have them.
    pub withdrawn: Vec<CommitLine>,
    /// The number of these commits, even if not all are listed.
    pub withdrawn_count: u64,
    /// The number of files of `app/` that change; `None` if the mirror does not have the present commit.
    pub files: Option<usize>,
    /// The hooks that run, in order: those of the target commit.
    pub hooks: Vec<String>,
    /// The migrations of the present commit, whose effect on the database stays.
    pub migrations_that_stay: Vec<String>,
    /// Local changes, which move into the stash.
    pub drift: LocalChanges,
}

/// A commit and an environment.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// The commit; `None` if `app/` has none.
    pub commit: Option<CommitId>,
    /// The first line of its message; `None` if the mirror does not have it.
    pub subject: Option<String>,
    /// Its author; `None` if the mirror does not have it.
    pub author: Option<String>,
    /// The environment; `None` if there is none.
    pub environment: Option<EnvironmentName>,
}

impl Pair {
    fn read(on: &Installation, commit: Option<CommitId>, environment: Option<EnvironmentName>) -> Self {
        let line = commit.as_ref().and_then(|commit| on.mirror.commit_line(commit).ok());
        let (subject, author) = line.map(|line| (line.subject, line.author)).unzip();
        Self { commit, subject, author, environment }
    }
}

impl RollbackPlan {
    /// Returns the plan for the rollback to `pair`.
    ///
    /// # Errors
    /// The mirror does not have the commit, or the commit cannot be deployed.
    pub fn read(on: &Installation, observed: Observed, pair: Deployment) -> Outcome<Self> {
        if !on.mirror.contains(&pair.commit)? {
            let text = format!("the mirror no longer has commit {} of run {}", pair.commit.short(), pair.run);
            return Err(Failure::new(text).command("ladylinux-refresh history", &[]));
        }
        let release = on.release(&pair.commit)?;
        let now = observed.tree.commit.clone().filter(|now| on.mirror.contains(now).unwrap_or(false));
        let changes = now.as_ref().map(|now| on.mirror.changes(&pair.commit, now)).transpose()?;
        let hooks_of_now = now.as_ref().and_then(|now| on.release(now).ok()).map(|now| now.settings.hooks);
        let is_same = observed.tree.commit.as_ref() == Some(&pair.commit);
        let migrations = |hook: &&Hook| hook.kind == HookKind::Migration && !is_same;
        let environment = on.environments().known(&pair.environment)?;
        let lost = environment.as_ref().and_then(RecordedEnvironment::lost_interpreter);
        let lost_interpreter = lost.map(|lost| lost.path.clone());
        let environment_exists =
            environment.is_some_and(|environment| environment.record.is_good() && lost_interpreter.is_none());
        let live = observed.live();
        let known = std::slice::from_ref(&pair.commit);
        let observed = observed.with_drift(on, known, Some(&pair.commit))?;
        Ok(Self {
            schema: 1,
            branch: pair.branch,
            from: Pair::read(on, observed.tree.commit.clone(), live),
            environment_exists,
            lost_interpreter,
            withdrawn_count: changes.as_ref().map_or(0, |changes| changes.coming),
            withdrawn: changes.as_ref().map(|changes| changes.commits.clone()).unwrap_or_default(),
            files: changes.map(|changes| changes.files.len()),
            hooks: release.settings.hooks.iter().map(super::hook_in_words).collect(),
            migrations_that_stay: hooks_of_now
                .iter()
                .flatten()
                .filter(migrations)
                .map(|it| it.name.clone())
                .collect(),
            drift: observed.drift.unwrap_or_default(),
            to: Pair::read(on, Some(pair.commit), Some(pair.environment)),
            run: pair.run,
        })
    }
}
