//! The arguments of commands with subcommands, and of hidden commands.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::arguments::LockArgs;

/// `service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Start the service, and check its health; refused while it is fenced
    Start,
    /// Stop the service with all its processes
    Stop,
    /// Stop and start the service, and check its health; refused while it is fenced
    Restart,
    /// Show the state of the service
    Status,
    /// Show the last lines of the log
    Logs {
        /// Number of lines
        #[arg(long = "limit", short = 'n', alias = "lines", value_name = "N", default_value_t = 50)]
        lines: usize,
        /// Print new lines until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
}

/// `stash …`
#[derive(Debug, Subcommand)]
pub enum StashCommand {
    /// List runs with saved local changes
    List,
    /// Show the saved local changes of a run
    Show {
        /// Run with a stash: its ID, a unique beginning, latest, -1, ..
        #[arg(allow_negative_numbers = true)]
        run: String,
        /// One path, relative to `app/`
        path: Option<PathBuf>,
    },
    /// Copy saved files back into `app/`
    Restore {
        /// Run with a stash: its ID, a unique beginning, latest, -1, ..
        #[arg(allow_negative_numbers = true)]
        run: String,
        /// The paths, relative to `app/` [default: every local change]
        paths: Vec<PathBuf>,
        /// Replace files of `app/` that differ
        #[arg(long)]
        overwrite: bool,
    },
    /// Delete saved local changes
    #[command(alias = "prune")]
    Drop {
        /// Runs with a stash, each as in `stash show`
        #[arg(required = true, allow_negative_numbers = true)]
        runs: Vec<String>,
    },
}

/// `bundle …`
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Pack a branch and its packages into one file
    Create {
        /// File to write; an existing one is replaced
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// Branch to pack [default: as for `run`]
        #[arg(long, short)]
        branch: Option<String>,
        /// Waiting for another run
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Verify a bundle and show its content
    Show {
        /// The bundle
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `environments …`
#[derive(Debug, Subcommand)]
pub enum EnvironmentsCommand {
    /// List environments, the newest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove environments that no kept run needs
    Prune {
        /// Keep the environments of N good runs [default: `keep` of the settings]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// Only print the changes
        #[arg(long)]
        dry_run: bool,
    },
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `answer-while-fenced`
#[derive(Debug, Args)]
pub struct PageArgs {
    /// The fence
    pub fence: PathBuf,
}

/// `unit`
#[derive(Debug, Args)]
pub struct UnitArgs {
    /// What it does, for lists of processes
    pub word: String,
}

/// `git-credential`
#[derive(Debug, Args)]
pub struct CredentialArgs {
    /// Words of the settings, then the action of the credential protocol
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}
