//! Step 4: hooks, as the owner of the tree, in the order of their declaration (RW-5.4).

use std::path::PathBuf;
use std::time::Duration;

use crate::checkpoint;
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::installation::Installation;
use crate::journal::recover;
use crate::process::{Keep, Program, leftover};
use crate::python::Generation;
use crate::service::deployed::{self, Deployed};
use crate::settings::Hook;
use crate::settings::environment::SEARCH_PATH;
use crate::settings::layout::Layout;
use crate::settings::names::CommitId;
use crate::source::hook_outputs::HookTime;
use crate::units::{Access, Bind, Job, Role};

use super::account::Account;
use super::release::Release;
use super::{models, rehearsal};

/// How long what a hook left running may take to be gone once it is killed.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(10);

/// Where a hook runs, and as a unit of which role.
#[derive(Debug, Clone)]
pub struct Place {
    /// The working directory: `app/`, or a staged copy where a unit cannot see that at `app/`.
    pub directory: PathBuf,
    /// The environment whose programs come first.
    pub environment: PathBuf,
    /// What its unit may do; the deadline is the hook's.
    pub job: Job,
}

impl Place {
    /// Returns the place of step 4: `app/` and `venv`. A hook writes what the service writes; models, containers and
    /// configuration it only reads (RW-6.1).
    pub fn deployed(layout: &Layout) -> Self {
        let job = Job::new(Role::Hooks, Duration::ZERO).writes(layout.app()).writes(layout.persistent());
        Self { directory: layout.app(), environment: layout.venv(), job }
    }

    /// Returns the place of a rehearsal: the staged tree and the next environment. A unit sees both where production will
    /// see them, as far as it can.
    pub fn staged(on: &Installation, tree: PathBuf, environment: PathBuf) -> Self {
        let mut place = Self { directory: tree, environment, job: Job::new(Role::Rehearse, Duration::ZERO) };
        if on.units.can_bind() {
            let seen = |source: &PathBuf, destination: PathBuf, access: Access| {
                let bind = Bind { source: source.clone(), destination: destination.clone(), access };
                // Where nothing is, a mount point would be made for good.
                destination.is_dir().then_some((bind, destination))
            };
            let (app, venv) = (on.layout.app(), on.layout.venv());
            if let Some((bind, path)) = seen(&place.directory, app, Access::ReadWrite) {
                (place.job, place.directory) = (place.job.sees(bind), path);
            }
            if let Some((bind, path)) = seen(&place.environment, venv, Access::ReadOnly) {
                (place.job, place.environment) = (place.job.sees(bind), path);
            }
        }
        place.job = place.job.writes(place.directory.clone());
        place
    }
}

/// Runs every hook; the first that fails ends the run. Models that were not looked at in staging are looked at before.
///
/// # Errors
/// The models are not as they should be, a hook failed, hung past its deadline, or could not be started.
pub fn prepare(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    generation: &Generation,
) -> Outcome<String> {
    let looked = models::ensure_verified(on, account, &release.settings, &release.commit)?;
    // Staging has told it.
    let models = looked.filter(|_| !account.staged).map(|told| format!(", {told}")).unwrap_or_default();
    let place = Place::deployed(&on.layout);
    let hooks = &release.settings.hooks;
    if hooks.is_empty() {
        return Ok(format!("no hooks declared{models}"));
    }
    let since = clock::between_changes()?;
    for hook in hooks {
        account.progress(&hook.name);
        checkpoint::reach("prepare:before-hook");
        if account.staged_assets.as_ref().is_some_and(|assets| assets.cover(hook, &release.commit)) {
            rehearsal::place_assets(on, account)?;
        } else {
            run_hook(on, account, hook, &place, generation)?;
        }
        checkpoint::reach("prepare:after-hook");
    }
    // The record itself is made once the service runs again.
    account.hook_time = Some(HookTime { since, until: clock::between_changes()? });
    Ok(match hooks.len() {
        1 => format!("1 hook: {}{models}", hooks[0].name),
        count => {
            let names: Vec<&str> = hooks.iter().map(|hook| hook.name.as_str()).collect();
            format!("{count} hooks: {}{models}", names.join(", "))
        }
    })
}

/// Runs one hook to its end, its output streamed and kept in the log of the run; nothing that it started outlives it.
///
/// # Errors
/// It failed, hung past its deadline, or could not be started.
pub fn run_hook(
    on: &Installation,
    account: &Account,
    hook: &Hook,
    place: &Place,
    generation: &Generation,
) -> Outcome<()> {
    let told = format!("the {} hook {} failed", hook.kind.word(), hook.name);
    let (first, rest) = hook.command.split_first().ok_or_else(|| Failure::new("a hook has no command"))?;
    let bin = place.environment.join("bin");
    let mut program = Program::new(first).args(rest).directory(&place.directory);
    let env_file = on.env_file()?;
    for (name, value) in &env_file.variables {
        program = program.env(name, value);
    }
    let commit = account.commit.clone().or_else(|| account.known.last().cloned());
    for (name, value) in version(account, commit.as_ref(), generation) {
        program = program.env(name, value);
    }
    let program = program
        .env("PATH", format!("{}:{SEARCH_PATH}", bin.display()))
        .env("VIRTUAL_ENV", &place.environment)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        .keep(Keep::Narrated(hook.name.clone()));
    let job = Job { deadline: hook.deadline, ..place.job.clone() };
    let finished = on.units.run(&job, &program);
    // A unit of systemd has ended whole. Elsewhere a descendant that left its group still carries the mark of the run.
    let register = on.layout.run(&account.run).join(recover::CHILDREN);
    for process in leftover::end(&account.run, &register, LEFTOVER_PATIENCE)? {
        account.note(&format!("ended what the hook {} left running: {process}", hook.name));
    }
    let finished = finished?;
    if finished.succeeded() {
        return Ok(());
    }
    Err(finished.failure(&told).hint(format!("the whole output is in {}", on.log_of(&account.run).display())))
}

/// The variables that tell a hook what is being deployed, as the service will see them.
fn version(
    account: &Account,
    commit: Option<&CommitId>,
    generation: &Generation,
) -> Vec<(&'static str, String)> {
    let Some(commit) = commit else { return Vec::new() };
    let deployed = Deployed {
        commit: commit.clone(),
        branch: account.branch().clone(),
        refreshed_at: account.started_at,
        generation: generation.name.clone(),
    };
    vec![
        (deployed::COMMIT, deployed.commit.to_string()),
        (deployed::BRANCH, deployed.branch.to_string()),
        (deployed::REFRESHED_AT, deployed.refreshed_at.to_string()),
        (deployed::GENERATION, deployed.generation.to_string()),
    ]
}
