//! Updates a running LadyLinux installation to the latest state of a Git branch, in place.
//!
//! One run, read from the top: [`main`] → [`commands`] (`run`) → [`plan`] (preflight: observe, then decide) →
//! [`refresh::execute`] → one file per step → one door per effect.
//!
//! The six steps (RW-5.0): [`refresh::stop`], [`refresh::sync`], [`refresh::environment`], [`refresh::prepare`],
//! [`refresh::restart`], [`refresh::status`]. Before them [`refresh::staging`] does what can fail while the service
//! still runs, through the same operations.
//!
//! On a host with systemd a run is a unit of its own, which the command that was typed only follows ([`relay`]).
//!
//! Doors, held by lint (`clippy.toml`): other programs through [`process::Runner`], files through [`disk`], clocks
//! through [`clock`], the environment through [`settings::environment`], output through [`report::screen`].
//!
//! A machine without a network is refreshed from a file, which fills the same stores: [`bundle`].
//!
//! Beside the run: [`host`] sets a machine up, and takes over one that was set up by hand; [`doctor`] looks for what is
//! wrong and changes nothing; [`requests`] takes the requests of the application; [`page`] answers visitors while the service is
//! fenced.
//!
//! The tool's own files lie below `/var/lib/ladylinux-refresh` ([`settings::layout`]): `mirror.git`, `generations/`,
//! `locks/`, `wheels/`, `tools/`, `cache/`, `runs/<id>/` (journal, log, report, saved changes), `supervisor/`, `status.json`,
//! `deployed.env`, `made.json`, `models-known`, `fence`, `lock`, `status.lock`, `requests/`, and for git its own configuration
//! (`git/`) and the private index of a proof (`scratch/`). What does not outlive a boot lies in `/run/ladylinux-refresh`: `admit`,
//! `runs/<id>/` (what a run tells). The environments lie in `/opt/ladylinux-refresh/environments`, with `venv` a link to the live one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

pub mod bundle;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod disk;
pub mod doctor;
pub mod error;
pub mod event;
pub mod exit;
pub mod git;
pub mod history;
pub mod host;
pub mod installation;
pub mod journal;
pub mod manifest;
pub mod models;
pub mod page;
pub mod plan;
pub mod process;
pub mod python;
pub mod refresh;
pub mod relay;
pub mod report;
pub mod requests;
pub mod service;
pub mod settings;
pub mod source;
pub mod status_file;
pub mod systemd;
pub mod units;

/// Runs the program: arguments in, exit code out (`docs/exit-codes.md`).
pub fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = ExitCode::from(if error.use_stderr() { 2 } else { 0 });
            if is_help(&error) {
                let _ = error.print();
            } else {
                report::screen::settle_colour();
                for line in report::human::wrong_words(error) {
                    report::screen::complain(&line);
                }
            }
            return code;
        }
    };
    report::screen::settle_colour();
    let root = cli.root.clone();
    let result = catch_unwind(AssertUnwindSafe(|| commands::dispatch(cli)))
        .unwrap_or_else(|panic| Err(exit::Error::Bug(told(panic.as_ref()))));
    if let Err(error) = &result {
        commands::complain(error, root.as_deref());
    }
    exit::code(&result)
}

/// Returns whether what ended the parsing of the command line is help, asked for or given to whoever typed too little.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
