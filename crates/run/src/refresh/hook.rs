//! One hook: its context, and its complete execution.

use std::path::PathBuf;
use std::time::Duration;

use refresh_installation::installation::Installation;
use refresh_programs::process::{Keep, Program, leftover};
use refresh_programs::units::{Access, Bind, Role, UnitOptions};
use refresh_service::deployed::Deployment;
use refresh_settings::Hook;
use refresh_settings::layout::Layout;
use refresh_system::environment::SEARCH_PATH;
use refresh_system::error::{Failure, Outcome};

use super::account::Account;

/// The time limit for remaining processes of a hook to end after they are killed.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(10);

/// The context of a hook: its directories and the role of its unit.
#[derive(Debug, Clone)]
pub(super) struct HookContext {
    /// The working directory: `app/`, or a staged copy if the unit cannot see the copy at `app/`.
    pub directory: PathBuf,
    /// The environment whose programs come first.
    pub environment: PathBuf,
    /// The permissions of its unit; the deadline comes from the hook.
    pub options: UnitOptions,
}

impl HookContext {
    /// Returns the context of step 4: `app/` and `venv`. A hook may write the same paths as the service; it only reads
    /// models, containers and configuration (RW-6.1).
    pub(super) fn deployed(layout: &Layout) -> Self {
        let options =
            UnitOptions::new(Role::Hooks, Duration::ZERO).writes(layout.app()).writes(layout.persistent());
        Self { directory: layout.app(), environment: layout.venv(), options }
    }

    /// Returns the context of a rehearsal: the staged tree and the next environment. If possible, a unit sees both at
    /// their paths in production.
    pub(super) fn staged(on: &Installation, tree: PathBuf, environment: PathBuf) -> Self {
        let mut context =
            Self { directory: tree, environment, options: UnitOptions::new(Role::Rehearse, Duration::ZERO) };
        if on.units.can_bind() {
            let seen = |source: &PathBuf, destination: PathBuf, access: Access| {
                let bind = Bind { source: source.clone(), destination: destination.clone(), access };
                // If the directory does not exist, systemd would create a permanent mount point.
                destination.is_dir().then_some((bind, destination))
            };
            let (app, venv) = (on.layout.app(), on.layout.venv());
            if let Some((bind, path)) = seen(&context.directory, app, Access::ReadWrite) {
                (context.options, context.directory) = (context.options.sees(bind), path);
            }
            if let Some((bind, path)) = seen(&context.environment, venv, Access::ReadOnly) {
                (context.options, context.environment) = (context.options.sees(bind), path);
            }
        }
        context.options = context.options.writes(context.directory.clone());
        context
    }
}

/// Runs one hook to its end. Its output is streamed and kept in the log of the run; no process that it started outlives
/// it.
///
/// # Errors
/// It failed, hung past its deadline, or could not be started.
pub(super) fn run_hook(
    on: &Installation,
    account: &Account,
    hook: &Hook,
    context: &HookContext,
    deployment: &Deployment,
) -> Outcome<()> {
    let failed = format!("the {} hook {} failed", hook.kind, hook.name);
    let (first, rest) = hook.command.split_first().ok_or_else(|| Failure::new("a hook has no command"))?;
    let bin = context.environment.join("bin");
    let mut program = Program::new(first).args(rest).directory(&context.directory);
    let env_file = on.env_file()?;
    for (name, value) in &env_file.variables {
        program = program.env(name, value);
    }
    // The deployed version, with the variables of the service.
    for (name, value) in deployment.variables() {
        program = program.env(name, value);
    }
    let program = program
        .env("PATH", format!("{}:{SEARCH_PATH}", bin.display()))
        .env("VIRTUAL_ENV", &context.environment)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1")
        .keep(Keep::Narrated(hook.name.clone()));
    let options = UnitOptions { deadline: hook.deadline, ..context.options.clone() };
    // Processes that wait for their part of the run existed before.
    let before = if on.units.can_bind() { Vec::new() } else { leftover::marked(&account.report.run) };
    let finished = on.units.run(&options, &program);
    // A unit of systemd has ended with all its processes, and a unit that waits for a request also has the mark of the
    // run. Without systemd, a descendant that left its group still has that mark.
    if !on.units.can_bind() {
        for process in leftover::end(&account.report.run, &before, LEFTOVER_PATIENCE)? {
            account.note(&format!("ended what the hook {} left running: {process}", hook.name));
        }
    }
    let finished = finished?;
    if finished.succeeded() {
        return Ok(());
    }
    Err(finished
        .failure(&failed)
        .hint(format!("the complete output is in {}", on.log_of(&account.report.run).display())))
}
