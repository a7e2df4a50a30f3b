//! Updates a running LadyLinux installation to the latest state of a Git branch, in place.
//!
//! One run, read from the top: [`main`] → [`commands`] (`run`) → [`refresh_run::plan`] (preflight: observe, then
//! decide) → [`refresh_run::refresh`] → one file per step → one module per kind of effect.
//!
//! This package is the program: command line, commands, and their output. Their work is in the crates below `crates/`,
//! each with its purpose at the top of its `lib.rs`; `docs/architecture.md` shows a diagram of them. A crate uses only
//! crates below it.
//!
//! The six steps (RW-5.0) are one file each in [`refresh_run::refresh`]: `stop`, `sync`, `environment`, `prepare`,
//! `restart` and `status`. Before them, `staging` performs the work that can fail while the service still runs, through
//! the same operations.
//!
//! On a host with systemd a run is a separate unit, which the command only follows ([`refresh_run::relay`]). A machine
//! without a network is refreshed from a file, which fills the same stores: [`bundle`]. While the service is fenced,
//! [`page`] answers visitors.
//!
//! The only ways to effects, enforced by lint (`clippy.toml`): other programs through
//! [`refresh_programs::process::Runner`], files through [`refresh_system::disk`], clocks through
//! [`refresh_system::clock`], the environment through [`refresh_system::environment`], output through
//! [`refresh_system::screen`].
//!
//! [`refresh_settings::layout`] names the tool's own files and directories.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};
use refresh_installation::exit;
use refresh_system::screen::{self, ColorWhen};
use report::error_json::ErrorObject;

pub mod bundle;
pub mod cli;
pub mod commands;
pub mod operations;
pub mod page;
pub mod report;

/// Runs the program: arguments in, exit code out (`docs/exit-codes.md`).
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let color = cli::raw::color(&words);
    let cli = match parse(&words, color) {
        Ok(cli) => cli,
        Err(error) => {
            let code = ExitCode::from(if error.use_stderr() { 2 } else { 0 });
            if is_help(&error) {
                let _ = error.print();
            } else {
                complain_of_usage(error, &words, color);
            }
            return code;
        }
    };
    screen::choose_color(cli.color);
    if cli.quiet {
        screen::be_quiet();
    }
    let (root, json) = (cli.root.clone(), cli.command.json());
    let result = catch_unwind(AssertUnwindSafe(|| commands::dispatch(cli)))
        .unwrap_or_else(|panic| Err(exit::Error::Bug(message_of(panic.as_ref()))));
    if let Err(error) = &result {
        commands::report_error(error, root.as_deref(), json);
    }
    exit::code(&result)
}

/// Parses a command line. Help has the color that the words name.
fn parse(words: &[OsString], color: ColorWhen) -> Result<cli::Cli, clap::Error> {
    let choice = match color {
        ColorWhen::Auto => clap::ColorChoice::Auto,
        ColorWhen::Always => clap::ColorChoice::Always,
        ColorWhen::Never => clap::ColorChoice::Never,
    };
    let mut command = cli::Cli::command().color(choice);
    let mut matches = command.try_get_matches_from_mut(words)?;
    cli::Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Writes the reason why a command line is refused.
fn complain_of_usage(error: clap::Error, words: &[OsString], color: ColorWhen) {
    let json = cli::raw::json(words);
    // Lines for the JSON object have no color.
    if !json {
        screen::choose_color(color);
    }
    let lines = report::human::wrong_words(error, &cli::raw::command(words));
    if json {
        screen::print_line(&report::json::pretty(&ErrorObject::of_usage(&lines)));
    }
    for line in lines {
        screen::print_to_stderr(&line);
    }
}

/// Returns whether the parsing of the command line ended with help, either requested or for a line without a command.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
