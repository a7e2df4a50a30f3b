//! The common parts of all commands: the installation, its settings, the run lock, and the report of a failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{Format, LockArgs, ReportArgs};
use crate::report::github::GitHub;
use crate::report::human;
use crate::report::human::Human;
use crate::report::json::Json;
use crate::report::outcome::Detail;
use crate::report::stderr_notes::StderrNotes;
use refresh_events::event::{Events, Subscriber};
use refresh_host::host::{migration, presence};
use refresh_installation::exit::{Error, Refusal};
use refresh_installation::installation;
use refresh_installation::installation::{Installation, as_typed};
use refresh_installation::journal::run_lock;
use refresh_installation::journal::run_lock::{Holder, RunLock, Taken};
use refresh_programs::process::Runner;
use refresh_settings::layers::{Layers, Overrides};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_settings::trust;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::interrupt;
use refresh_system::screen;
use refresh_system::text::harmless_line;

/// Writes the error that ended a command to standard error, unless a reporter has written it.
pub(super) fn print_unless_reported(layout: &Layout, error: &Error) {
    if !matches!(error, Error::Run(..)) {
        print_error(layout, error);
    }
}

/// Writes the error that ended a command to standard error.
pub(super) fn print_error(layout: &Layout, error: &Error) {
    for line in human::error(error, |command| as_typed(layout, command)) {
        screen::print_to_stderr(&line);
    }
}

pub(super) fn layout(root: Option<&Path>) -> Outcome<Layout> {
    let Some(root) = root else { return Ok(Layers::located(Layout::below("/"))) };
    if root.as_os_str().is_empty() {
        return Err(Failure::new("--root names no directory"));
    }
    let absolute =
        std::path::absolute(root).context(|| format!("--root {} cannot be used", root.display()))?;
    // Links in the root itself are resolved once: then every path below it is the real one.
    Ok(Layers::located(Layout::below(absolute.canonicalize().unwrap_or(absolute))))
}

/// Opens the installation for a command that only reads, or that is not a run.
pub(super) fn open(layout: &Layout, during: &str) -> Result<Installation, Error> {
    open_with(layout, during, Overrides::default())
}

/// Opens the installation with the settings of the command line. Notes go to standard error: standard output is for the
/// result, which may be JSON.
pub(super) fn open_with(layout: &Layout, during: &str, overrides: Overrides) -> Result<Installation, Error> {
    presence::check_there(layout).map_err(|failure| Refusal::of(during, failure))?;
    let layers = settings(layout, overrides)?;
    let runner = Runner::new(Arc::new(Events::new(vec![Box::new(StderrNotes)])));
    if let Some(ignored) = trust::ignored(layout) {
        runner.events().note(&ignored.to_string());
    }
    Installation::open(layers, runner).map_err(Error::Usage)
}

/// Prints a failure of a command together with the state of the service.
pub(super) fn refuse(on: &Installation, during: &str, failure: Failure, next: &str) -> Error {
    // Not every refusal names the missing rights.
    let failure = if is_without_root(&on.layout) && !lacks_rights(&failure) {
        failure.hint(Hint::shell(installation::with_sudo()).with_purpose("run it as root"))
    } else {
        failure
    };
    Error::Refused(Box::new(Refusal {
        during: during.to_owned(),
        failure,
        service: on.service_in_words(),
        next: next.to_owned(),
    }))
}

/// Returns whether the caller lacks the rights of root on the real machine, where many commands require them.
fn is_without_root(layout: &Layout) -> bool {
    layout.is_real() && !rustix::process::geteuid().is_root()
}

/// Returns whether the kernel, systemd or the journal refused something for missing rights.
fn lacks_rights(failure: &Failure) -> bool {
    let words = ["Interactive authentication required", "insufficient permissions"];
    failure.is_denied() || failure.chain().iter().any(|text| words.iter().any(|word| text.contains(word)))
}

/// Makes the same command line for root the next command of a refusal for missing rights.
pub(super) fn with_root_named(layout: &Layout, error: Error) -> Error {
    match error {
        Error::Refused(mut refusal) if is_without_root(layout) && lacks_rights(&refusal.failure) => {
            refusal.failure = Failure::new("this command needs root").because(refusal.failure);
            refusal.next = installation::with_sudo();
            Error::Refused(refusal)
        }
        other => other,
    }
}

/// Takes the run lock; waits up to the limit of the command line.
pub(super) fn lock(
    layout: &Layout,
    command: &str,
    run: Option<&RunId>,
    args: &LockArgs,
) -> Result<RunLock, Error> {
    let patience = args.wait;
    let taken = installation::check_writable(layout)
        .and_then(|()| run_lock::take(&layout.lock_file(), command, run, patience));
    match taken {
        Ok(Taken::Ours(lock)) => Ok(lock),
        Ok(Taken::Theirs(holder)) => Err(locked_by(holder)),
        Err(failure) => Err(Refusal::with_next("preflight", failure, "ladylinux-refresh status")),
    }
}

/// Returns the error of a lock that another command holds. A run can be followed.
pub(super) fn locked_by(holder: Option<Holder>) -> Error {
    let run = holder.as_ref().filter(|holder| ["run", "rollback"].contains(&holder.command.as_str()));
    let next = match run.and_then(|holder| holder.run.as_ref()) {
        Some(run) => format!("ladylinux-refresh wait {run}"),
        None => "ladylinux-refresh status".to_owned(),
    };
    Error::Locked { holder: holder.map(Box::new), next }
}

/// Makes `again`, the complete command line, the next command of a run that was refused or found the lock taken: a
/// shorter one would do something else.
pub(super) fn with_command_to_repeat(error: Error, again: &str) -> Error {
    match error {
        Error::Locked { holder, .. } => Error::Locked { holder, next: format!("{again} --wait 5m") },
        Error::Refused(refusal) => Error::Refused(Box::new(Refusal { next: again.to_owned(), ..*refusal })),
        other => other,
    }
}

/// Finds, in a failure for a branch that the remote does not have, the branch that its hint deploys instead. Returns the
/// failure without that hint, and `again` for that branch.
pub(super) fn for_other_branch(
    failure: Failure,
    again: impl Fn(&str) -> String,
) -> (Failure, Option<String>) {
    let branch = |hint: &Hint| {
        let branch = hint.own_command()?.strip_prefix("ladylinux-refresh run ")?;
        (!branch.contains(' ')).then(|| branch.to_owned())
    };
    let hints = failure.hints();
    let Some(other) = hints.iter().find_map(branch) else { return (failure, None) };
    let rest = hints.into_iter().filter(|hint| branch(hint).is_none());
    (rest.fold(failure.without_hints(), Failure::hint), Some(again(&other)))
}

/// Reads the settings of the host and checks them. For root, first checks that they can be trusted.
pub(super) fn settings(layout: &Layout, overrides: Overrides) -> Result<Layers, Error> {
    trust::check(layout).map_err(|failure| Refusal::of("preflight", failure))?;
    let context = |failure: Failure| Error::Usage(failure.command("ladylinux-refresh config check", &[]));
    let layers = Layers::read(layout, overrides).map_err(context)?;
    layers.resolve().map_err(context)?;
    Ok(layers)
}

/// Migrates a machine of version 0.1 to the places of this version. This comes before anything else, because nothing is
/// in the place that this version expects.
pub(super) fn migrate(layout: &Layout, report: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let refused = |failure: Failure| Refusal::of("migration from version 0.1", failure);
    let needed = migration::is_needed(layout);
    if needed.is_err() && !rustix::process::geteuid().is_root() {
        // The command itself refuses a caller who cannot read the installation; it names the users who can.
        return Ok(());
    }
    if !needed.map_err(refused)? {
        return Ok(());
    }
    // A killed migration may have left entries of the service user in the state; the migration removes them.
    let layers = Layers::read(layout, Overrides::default()).map_err(refused)?;
    let service = layers.resolve().map_err(Error::Usage)?.service;
    let old = migration::lock_file(layout);
    let old = if old.exists() { old } else { layout.lock_file() };
    let _lock = match run_lock::take(&old, "migration", None, Duration::ZERO).map_err(refused)? {
        Taken::Ours(lock) => lock,
        Taken::Theirs(holder) => {
            let next = "ladylinux-refresh run".to_owned();
            return Err(Error::Locked { holder: holder.map(Box::new), next });
        }
    };
    let runner = Runner::silent();
    interrupt::shielded(|| migration::carry_out(layout, &service, &runner, report)).map_err(refused)
}

/// Returns the renderer of the events of a run.
pub(super) fn reporter(args: &ReportArgs) -> Box<dyn Subscriber> {
    let detail = if args.verbose { Detail::Full } else { Detail::Brief };
    match (args.format(), GitHub::detect()) {
        (Some(Format::Json), _) => Box::new(Json),
        (Some(Format::Human), _) | (None, None) => Box::new(Human::new(detail)),
        (Some(Format::Github) | None, Some(github)) => Box::new(github),
        (Some(Format::Github), None) => Box::new(GitHub::without_job()),
    }
}

/// Prints warnings with a result.
pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        screen::print_line(&format!("warning: {}", harmless_line(warning)));
    }
}

/// Makes relative paths of the command line absolute.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
