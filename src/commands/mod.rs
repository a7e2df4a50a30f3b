//! One thin file per command.

mod after_run;
mod answer_requests;
mod bundle;
mod cancel;
mod completions;
mod config;
mod context;
mod doctor;
mod environments;
mod git_credential;
mod held_back;
mod history;
mod init;
mod local_run;
mod lock;
mod plan;
mod replaced_python;
mod rollback;
mod rollback_plan;
mod run;
mod run_id;
mod run_process;
mod run_request;
mod service;
mod service_restart;
mod start_request;
mod stash;
mod status;
mod unchanged;
mod undo;
mod unfence;
mod verify;
mod wait;

use std::path::Path;

use context::{
    absolute, for_other_branch, layout, lock, locked_by, migrate, open, open_with, print_error,
    print_unless_reported, refuse, reporter, settings, warn, with_command_to_repeat, with_root_named,
};

use crate::cli::json::JsonForm;
use crate::cli::{BundleCommand, Cli, Command, EnvironmentsCommand, ServiceCommand, StashCommand};
use crate::report::error_json::ErrorObject;
use crate::report::json;
use crate::{operations, page};
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation::as_typed;
use refresh_programs::units;
use refresh_settings::layout::Layout;
use refresh_system::error::Failure;
use refresh_system::interrupt;
use refresh_system::screen;

/// Performs the command of the command line.
///
/// # Errors
/// The failure of the command; [`Error::code`] is the exit code.
pub fn dispatch(cli: Cli) -> Result<Success, Error> {
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
        Command::Rollback(args) => args.dry_run,
        Command::Plan(_)
        | Command::Status(_)
        | Command::History(_)
        | Command::Doctor(_)
        | Command::Verify(_)
        | Command::Lock(_)
        | Command::Config(_)
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

fn dispatch_to_command(cli: Cli) -> Result<Success, Error> {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let layout = layout(cli.root.as_deref()).map_err(Error::Usage)?;
    interrupt::install().map_err(|failure| Error::Bug(failure.chain().join(": ")))?;
    let is_internal = matches!(cli.command, Command::Unit(_) | Command::Page(_) | Command::GitCredential(_));
    let done = perform(&layout, cli.command);
    if is_internal { done } else { done.map_err(|error| with_root_named(&layout, error)) }
}

fn perform(layout: &Layout, command: Command) -> Result<Success, Error> {
    match command {
        Command::Run(args) if args.dry_run => plan::plan(layout, args.into()),
        Command::Run(args) => run::run(layout, args, run_process::new_name()),
        Command::Plan(args) => plan::plan(layout, args),
        Command::Lock(args) => lock::lock(layout, &args),
        Command::Status(args) => status::status(layout, &args),
        Command::History(args) => history::history(layout, &args),
        Command::Rollback(args) => rollback::rollback(layout, &args),
        Command::Wait(args) => wait::wait(layout, &args),
        Command::Cancel(args) => cancel::cancel(layout, &args),
        Command::Unfence(args) => unfence::unfence(layout, &args),
        Command::Init(args) => init::init(layout, &args),
        Command::Doctor(args) => doctor::doctor(layout, &args),
        Command::Service(command) => service::service(layout, &command),
        Command::Bundle(command) => bundle::bundle(layout, &command),
        Command::Verify(args) => verify::verify(layout, &args),
        Command::Environments(command) => environments::environments(layout, &command),
        Command::Config(command) => config::config(layout, &command),
        Command::Completions(args) => completions::completions(&args),
        Command::Stash(command) => stash::stash(layout, &command),
        Command::Supervise => service::supervise(layout),
        Command::AfterRun(args) => after_run::after_run(layout, &args),
        Command::AnswerRequests => answer_requests::answer_requests(layout),
        Command::Unit(_) => units::work(operations::answer)
            .map(|()| Success::Done)
            .map_err(|failure| Refusal::of("unit", failure)),
        Command::Page(args) => page::answer(&args.fence)
            .map(|()| Success::Done)
            .map_err(|failure| Refusal::of(page::COMMAND, failure)),
        Command::GitCredential(args) => git_credential::answer(&args),
    }
}

/// Writes the cause of a command's end to standard error, and as JSON to standard output if the command writes JSON. A
/// run has already reported its end.
pub fn report_error(error: &Error, root: Option<&Path>, json: Option<JsonForm>) {
    let layout = layout(root).unwrap_or_else(|_| Layout::below("/"));
    print_unless_reported(&layout, error);
    let Some(object) = ErrorObject::new(error, |command| as_typed(&layout, command)) else { return };
    match json {
        Some(JsonForm::Value) => screen::print_line(&json::pretty(&object)),
        Some(JsonForm::Lines) => screen::print_line(&json::line(&object)),
        None => {}
    }
}
