//! What every command needs: the installation, its settings, the lock of the runs, and the report of a failure.

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
use refresh_installation::journal::run_lock::{RunLock, Taken};
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

/// Writes what ended a command to standard error, unless a reporter has written it.
pub(super) fn print_unless_reported(layout: &Layout, error: &Error) {
    if !matches!(error, Error::Run(..)) {
        print_error(layout, error);
    }
}

/// Writes what ended a command to standard error.
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
    // Links in the root itself are resolved once, so that every path below is the real one.
    Ok(Layers::located(Layout::below(absolute.canonicalize().unwrap_or(absolute))))
}

/// Opens the installation for a command that only looks, or that is not a run.
pub(super) fn open(layout: &Layout, during: &str) -> Result<Installation, Error> {
    open_with(layout, during, Overrides::default())
}

/// Opens the installation with what the command line says. What is noted on the way goes to standard error: standard output
/// is the result's, which may be JSON.
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
    // On the real machine much is root's to read and to do, and not every refusal names the missing rights.
    let is_stranger = on.layout.is_real() && !rustix::process::geteuid().is_root();
    let (failure, next) = match (is_stranger, failure.is_denied()) {
        (true, true) => (failure.hint("run it as root"), installation::with_sudo()),
        (true, false) => {
            let as_root = Hint::shell(installation::with_sudo()).with_purpose("run it as root");
            (failure.hint(as_root), next.to_owned())
        }
        (false, _) => (failure, next.to_owned()),
    };
    Error::Refused(Box::new(Refusal {
        during: during.to_owned(),
        failure,
        service: on.service_in_words(),
        next,
    }))
}

/// Takes the lock of the runs, waiting as long as the command line says.
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
        Ok(Taken::Theirs(holder)) => {
            Err(Error::Locked { holder: holder.map(Box::new), next: "ladylinux-refresh status".to_owned() })
        }
        Err(failure) => Err(Refusal::with_next("preflight", failure, "ladylinux-refresh status")),
    }
}

/// Makes `again`, which is all that was typed, the command to type next of a lock that another run holds: with less of
/// it, something else would be done.
pub(super) fn with_command_to_repeat(error: Error, again: &str) -> Error {
    match error {
        Error::Locked { holder, .. } => Error::Locked { holder, next: format!("{again} --wait 5m") },
        Error::Refused(refusal) => Error::Refused(Box::new(Refusal { next: again.to_owned(), ..*refusal })),
        other => other,
    }
}

/// Reads the settings of the host and checks them; before that, where root asks, that they are to be believed.
pub(super) fn settings(layout: &Layout, overrides: Overrides) -> Result<Layers, Error> {
    trust::check(layout).map_err(|failure| Refusal::of("preflight", failure))?;
    let context = |failure: Failure| Error::Usage(failure.command("ladylinux-refresh config check", &[]));
    let layers = Layers::read(layout, overrides).map_err(context)?;
    layers.resolve().map_err(context)?;
    Ok(layers)
}

/// Brings a machine of version 0.1 to the places of this one, where it is one; before anything else, since nothing is
/// where this version expects it.
pub(super) fn migrate(layout: &Layout, report: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let refused = |failure: Failure| Refusal::of("migration from version 0.1", failure);
    let needed = migration::is_needed(layout);
    if needed.is_err() && !rustix::process::geteuid().is_root() {
        // A caller who may not read the installation is refused by the command itself, which names who may.
        return Ok(());
    }
    if !needed.map_err(refused)? {
        return Ok(());
    }
    // A migration that was killed has left entries of the service user's in the state, which it removes.
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

/// Chooses who renders the events of a run.
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
