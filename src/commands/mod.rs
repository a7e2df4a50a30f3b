//! One thin file per command.

mod after_run;
mod answer_requests;
mod as_owner;
mod bundle;
mod cancel;
mod completions;
mod doctor;
mod environments;
mod history;
mod init;
mod lock;
mod place;
mod plan;
mod rollback;
mod run;
mod run_id;
mod service;
mod stash;
mod status;
mod unchanged;
mod undo;
mod unfence;
mod verify;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{
    BundleCommand, Cli, Command, EnvironmentsCommand, Format, LockArgs, ReportArgs, ServiceCommand,
    StashCommand,
};
use crate::error::{Context as _, Failure, Outcome};
use crate::event::{Events, Subscriber};
use crate::exit::{Ended, Error, Refusal};
use crate::host::migration;
use crate::installation::{self, Installation, as_typed};
use crate::journal::run_lock::{self, RunLock, Taken};
use crate::page;
use crate::process::{Runner, interrupt};
use crate::report::aside::Aside;
use crate::report::human::{self, Detail, Human};
use crate::report::{github::GitHub, json::Json, screen};
use crate::settings::layers::{Layers, Overrides};
use crate::settings::layout::Layout;
use crate::settings::names::RunId;
use crate::settings::trust;
use crate::units;

/// Does what the command line asks for.
///
/// # Errors
/// Whatever ends the command badly; [`Error::code`] is the exit code.
pub fn dispatch(cli: Cli) -> Result<Ended, Error> {
    let needs_output = is_for_its_output(&cli.command);
    let ended = dispatch_to_command(cli)?;
    match screen::lost().filter(|_| needs_output) {
        Some(error) => {
            let failure = Failure::new("standard output has not taken all of the result").because(error);
            Err(Refusal::with_next("output", failure, "df -h"))
        }
        None => Ok(ended),
    }
}

/// Returns whether a command has no other effect than its output.
fn is_for_its_output(command: &Command) -> bool {
    match command {
        Command::Run(args) => args.dry_run,
        Command::Plan(_)
        | Command::Status(_)
        | Command::History(_)
        | Command::Doctor(_)
        | Command::Verify(_)
        | Command::Lock(_)
        | Command::Completions(_) => true,
        Command::Environments(command) => matches!(command, EnvironmentsCommand::List { .. }),
        Command::Bundle(command) => matches!(command, BundleCommand::Show { .. }),
        Command::Stash(command) => matches!(command, StashCommand::List | StashCommand::Show { .. }),
        Command::Service(command) => {
            matches!(command, ServiceCommand::Status | ServiceCommand::Logs { .. })
        }
        _ => false,
    }
}

fn dispatch_to_command(cli: Cli) -> Result<Ended, Error> {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let layout = layout(cli.root.as_deref()).map_err(Error::Usage)?;
    // The supervisor handles its own signals.
    if !matches!(cli.command, Command::Supervise) {
        interrupt::install().map_err(|failure| Error::Bug(failure.chain().join(": ")))?;
    }
    match cli.command {
        Command::Run(args) if args.dry_run => plan::plan(&layout, &plan::PlanWish::dry_run(args)),
        Command::Run(args) => run::run(&layout, &args),
        Command::Plan(args) => plan::plan(&layout, &plan::PlanWish::plan(args)),
        Command::Lock(args) => lock::lock(&layout, &args),
        Command::Status(args) => status::status(&layout, &args),
        Command::History(args) => history::history(&layout, &args),
        Command::Rollback(args) => rollback::rollback(&layout, &args),
        Command::Wait(args) => wait::wait(&layout, &args),
        Command::Cancel(args) => cancel::cancel(&layout, &args),
        Command::Unfence(args) => unfence::unfence(&layout, &args),
        Command::Init(args) => init::init(&layout, &args),
        Command::Doctor(args) => doctor::doctor(&layout, &args),
        Command::Service(command) => service::service(&layout, &command),
        Command::Bundle(command) => bundle::bundle(&layout, &command),
        Command::Verify(args) => verify::verify(&layout, &args),
        Command::Environments(command) => environments::environments(&layout, &command),
        Command::Completions(args) => completions::completions(&args),
        Command::Stash(command) => stash::stash(&layout, &command),
        Command::Supervise => service::supervise(&layout),
        Command::AfterRun(args) => after_run::after_run(&layout, &args),
        Command::AnswerRequests => answer_requests::answer_requests(&layout),
        Command::AsOwner(args) => as_owner::answer(&args),
        Command::Unit(_) => {
            units::work().map(|()| Ended::Done).map_err(|failure| Refusal::of("unit", failure))
        }
        Command::Page(args) => page::answer(&args.fence)
            .map(|()| Ended::Done)
            .map_err(|failure| Refusal::of(page::COMMAND, failure)),
        Command::GitCredential(args) => as_owner::credential(&args),
    }
}

/// Writes the cause of a command's end to standard error. A run has reported its end already.
pub fn complain(error: &Error, root: Option<&Path>) {
    tell_unless_reported(&layout(root).unwrap_or_else(|_| Layout::below("/")), error);
}

/// Writes what ended a command to standard error, where no reporter has told it.
fn tell_unless_reported(layout: &Layout, error: &Error) {
    if !matches!(error, Error::Run(..)) {
        tell(layout, error);
    }
}

/// Writes what ended a command to standard error.
fn tell(layout: &Layout, error: &Error) {
    for line in human::error(error, |command| as_typed(layout, command)) {
        screen::complain(&line);
    }
}

fn layout(root: Option<&Path>) -> Outcome<Layout> {
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
fn open(layout: &Layout, during: &str) -> Result<Installation, Error> {
    open_with(layout, during, Overrides::default())
}

/// Opens the installation with what the command line says. What is noted on the way goes to standard error: standard output
/// is the result's, which may be JSON.
fn open_with(layout: &Layout, during: &str, overrides: Overrides) -> Result<Installation, Error> {
    installation::check_there(layout).map_err(|failure| Refusal::of(during, failure))?;
    let layers = settings(layout, overrides)?;
    let runner = Runner::new(Arc::new(Events::new(vec![Box::new(Aside)])));
    if let Some(ignored) = trust::ignored(layout) {
        runner.events().note(&ignored.to_string());
    }
    Installation::open(layers, runner).map_err(Error::Usage)
}

/// Tells a failure of a command together with the state of the service.
fn refuse(on: &Installation, during: &str, failure: Failure, next: &str) -> Error {
    // On the real machine much is root's to read and to do, and what is refused to others does not always say so.
    let is_stranger = on.layout.is_real() && !rustix::process::geteuid().is_root();
    let failure = if is_stranger { failure.hint("run it as root") } else { failure };
    Error::Refused(Box::new(Refusal {
        during: during.to_owned(),
        failure,
        service: on.service_in_words(),
        next: on.as_typed(next),
    }))
}

/// Takes the lock of the runs, waiting as long as the command line says.
fn lock(layout: &Layout, command: &str, run: Option<&RunId>, args: &LockArgs) -> Result<RunLock, Error> {
    let patience = args.wait;
    let taken = installation::check_writable(layout)
        .and_then(|()| run_lock::take(&layout.lock_file(), command, run, patience));
    match taken {
        Ok(Taken::Ours(lock)) => Ok(lock),
        Ok(Taken::Theirs(holder)) => {
            let next = as_typed(layout, "ladylinux-refresh status");
            Err(Error::Locked { holder: holder.map(Box::new), next })
        }
        Err(failure) => Err(Error::Refused(Box::new(Refusal {
            during: "preflight".to_owned(),
            failure,
            service: "not touched".to_owned(),
            next: as_typed(layout, "ladylinux-refresh status"),
        }))),
    }
}

/// Makes `again`, which is the whole of what was typed, the command to type next of a lock that could not be had: with less
/// of it, something else would be done.
fn to_type_again(layout: &Layout, error: Error, again: &str) -> Error {
    match error {
        Error::Locked { holder, .. } => {
            Error::Locked { holder, next: as_typed(layout, &format!("{again} --wait 5m")) }
        }
        Error::Refused(refusal) => {
            Error::Refused(Box::new(Refusal { next: as_typed(layout, again), ..*refusal }))
        }
        other => other,
    }
}

/// Reads the settings of the host and checks them; before that, where root asks, that they are to be believed.
fn settings(layout: &Layout, overrides: Overrides) -> Result<Layers, Error> {
    trust::check(layout).map_err(|failure| Refusal::of("preflight", failure))?;
    let context = |failure: Failure| Error::Usage(failure.hint(as_typed(layout, "ladylinux-refresh doctor")));
    let layers = Layers::read(layout, overrides).map_err(context)?;
    layers.resolve().map_err(context)?;
    Ok(layers)
}

/// Brings a machine of version 0.1 to the places of this one, where it is one; before anything else, since nothing is
/// where this version expects it.
fn migrate(layout: &Layout, report: &mut dyn FnMut(&str)) -> Result<(), Error> {
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
            let next = as_typed(layout, "ladylinux-refresh run");
            return Err(Error::Locked { holder: holder.map(Box::new), next });
        }
    };
    let runner = Runner::new(Arc::new(Events::silent()));
    interrupt::shielded(|| migration::carry_out(layout, &service, &runner, report)).map_err(refused)
}

/// Chooses who renders the events of a run.
fn reporter(args: &ReportArgs) -> Box<dyn Subscriber> {
    let detail = if args.verbose { Detail::Full } else { Detail::Brief };
    match (args.format(), GitHub::detect()) {
        (Some(Format::Json), _) => Box::new(Json),
        (Some(Format::Human), _) | (None, None) => Box::new(Human::new(detail)),
        (Some(Format::Github) | None, Some(github)) => Box::new(github),
        (Some(Format::Github), None) => Box::new(GitHub::without_job()),
    }
}

/// Makes relative paths of the command line absolute.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
