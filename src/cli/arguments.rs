//! The arguments of each command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::settings::ModelCheck;
use crate::settings::file::parse_duration;

/// Reads a duration with its unit, or a number of seconds.
fn patience(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text).map_err(|failure| failure.to_string()),
    }
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text
    Human,
    /// One event for each line; the last one holds the report
    Json,
    /// Groups, annotations and outputs of a GitHub Actions job
    Github,
}

/// How a run reports.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Format of the output [default: human; github in a job of GitHub Actions]
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// Print events as JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,

    /// Show the output of git, uv and hooks
    #[arg(long, short)]
    pub verbose: bool,
}

impl ReportArgs {
    /// Returns the format that was asked for; `None` without an option.
    pub fn format(&self) -> Option<Format> {
        if self.json { Some(Format::Json) } else { self.format }
    }
}

/// Where a run happens.
#[derive(Debug, Clone, Default, Args)]
pub struct PlaceArgs {
    /// Start the run in the background and print its ID (see `wait`)
    #[arg(long)]
    pub detach: bool,

    /// Be the process that does run ID
    #[arg(long, hide = true, value_name = "ID", conflicts_with = "detach")]
    pub worker: Option<String>,
}

/// What a run takes instead of the network.
#[derive(Debug, Clone, Default, Args)]
pub struct BundleArgs {
    /// Refresh from FILE, made by `bundle create`, without a network
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,

    /// Accept a bundle that is older than the deployed commit
    #[arg(long, requires = "bundle")]
    pub allow_older: bool,

    /// Accept a bundle from an unrelated repository
    #[arg(long, requires = "bundle")]
    pub allow_unrelated: bool,
}

/// How long to wait for another run.
#[derive(Debug, Clone, Args)]
pub struct LockArgs {
    /// Wait for another run to end, at most for DURATION ("5m") [default: do not wait]
    #[arg(long, value_name = "DURATION", alias = "lock-timeout", value_parser = patience, default_value = "0s")]
    #[arg(hide_default_value = true)]
    pub wait: Duration,
}

/// `run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Branch to deploy [default: the configured one, then the deployed one, then main]
    #[arg(allow_hyphen_values = false)]
    pub branch: Option<String>,

    /// The same as BRANCH
    #[arg(long = "branch", short, value_name = "BRANCH", conflicts_with = "branch")]
    pub branch_option: Option<String>,

    /// Skip the refresh if everything is up to date
    #[arg(long, conflicts_with = "dry_run")]
    pub if_changed: bool,

    /// Only print the changes, as `plan` does
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,

    /// Skip staging: fetch and build while the service is down
    #[arg(long)]
    pub no_stage: bool,

    /// Build a new environment even if the requirements did not change
    #[arg(long)]
    pub always_rebuild_venv: bool,

    /// Verify the models before the stop: presence, full or off [without HOW: full]
    #[arg(long, value_name = "HOW", value_enum, hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "full")]
    pub verify_models: Option<ModelCheck>,

    /// Offline source
    #[command(flatten)]
    pub bundle: BundleArgs,

    /// Require the application to commit a lockfile
    #[arg(long)]
    pub strict: bool,

    /// Output
    #[command(flatten)]
    pub report: ReportArgs,

    /// Place
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Waiting for another run
    #[command(flatten)]
    pub lock: LockArgs,
}

impl RunArgs {
    /// Returns the branch, however it was given.
    pub fn branch(&self) -> Option<&str> {
        self.branch.as_deref().or(self.branch_option.as_deref())
    }
}

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Branch to deploy [default: the configured one, then the deployed one, then main]
    pub branch: Option<String>,

    /// The same as BRANCH
    #[arg(long = "branch", short, value_name = "BRANCH", conflicts_with = "branch")]
    pub branch_option: Option<String>,

    /// Exit with 5 if a refresh would change something
    #[arg(long)]
    pub exit_code: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Plan a run that builds a new environment
    #[arg(long)]
    pub always_rebuild_venv: bool,

    /// Offline source
    #[command(flatten)]
    pub bundle: BundleArgs,

    /// Plan a run that requires a lockfile
    #[arg(long)]
    pub strict: bool,
}

/// The form of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LockForm {
    /// pylock.toml (PEP 751)
    Pylock,
    /// A file of requirements with hashes
    Requirements,
}

/// `lock`
#[derive(Debug, Args)]
pub struct LockWish {
    /// Branch to deploy [default: the configured one, then the deployed one, then main]
    #[arg(long, short)]
    pub branch: Option<String>,

    /// Format of the lockfile
    #[arg(long, value_enum, default_value = "pylock")]
    pub format: LockForm,

    /// Resolve all packages to their latest releases, and keep the result
    #[arg(long)]
    pub upgrade: bool,

    /// Print JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Run to show: its ID, a unique beginning, latest, -1, -2 …
    #[arg(allow_negative_numbers = true)]
    pub run: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Number of runs to list
    #[arg(long, short = 'n', alias = "number", value_name = "N", default_value_t = 20)]
    pub limit: usize,

    /// Write a page with a plot of the downtimes to FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "json"])]
    pub html: Option<PathBuf>,
}

/// `rollback`
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Run to return to [default: the last good one before the deployed version]
    #[arg(allow_negative_numbers = true)]
    pub run: Option<String>,

    /// Output
    #[command(flatten)]
    pub report: ReportArgs,

    /// Place
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Waiting for another run
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `wait`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Run to follow [default: the run in progress]
    #[arg(allow_negative_numbers = true)]
    pub run: Option<String>,

    /// Output
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `cancel`
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Run to cancel [default: the run in progress]
    #[arg(allow_negative_numbers = true)]
    pub run: Option<String>,
}

/// `after-run`
#[derive(Debug, Args)]
pub struct AfterRunArgs {
    /// The run
    pub run: String,
}

/// `unfence`
#[derive(Debug, Args)]
pub struct UnfenceArgs {
    /// Waiting for another run
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// URL of the repository
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,

    /// Branch to deploy
    #[arg(long, short)]
    pub branch: Option<String>,

    /// Allow an unprotected transport: http, git or file
    #[arg(long, value_name = "TRANSPORT")]
    pub allow: Vec<String>,

    /// Port of the service, for a new env file
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Add a socket unit, so that requests wait during a refresh (uvicorn, gunicorn, hypercorn)
    #[arg(long)]
    pub socket: bool,

    /// Show visitors a page while the service is fenced; needs a socket unit
    #[arg(long)]
    pub page: bool,

    /// Only print the changes
    #[arg(long)]
    pub dry_run: bool,

    /// Remove everything that this program added, and leave the service running
    #[arg(long, conflicts_with_all = ["repo", "branch", "allow", "port", "socket", "page"])]
    pub undo: bool,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Verify the environment in use instead of the models
    #[arg(long, conflicts_with_all = ["presence", "no_cache", "store", "verbose"])]
    pub environment: bool,

    /// With --environment: verify all environments
    #[arg(long, requires = "environment")]
    pub all: bool,

    /// Check existence and size only; skip checksums
    #[arg(long)]
    pub presence: bool,

    /// Read everything, also what has not changed since it was read last
    #[arg(long, conflicts_with = "presence")]
    pub no_cache: bool,

    /// Look at the models below DIR too
    #[arg(long, value_name = "DIR")]
    pub store: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// List items that passed, too
    #[arg(long, short, conflicts_with = "json")]
    pub verbose: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Start the service; refused while it is fenced
    Start,
    /// Stop the service with all its processes
    Stop,
    /// Show the state of the service
    Status,
    /// Show the last lines of the log
    Logs {
        /// Number of lines
        #[arg(long = "limit", short = 'n', alias = "lines", value_name = "N", default_value_t = 50)]
        lines: usize,
    },
}

/// `stash …`
#[derive(Debug, Subcommand)]
pub enum StashCommand {
    /// List runs with saved local changes
    List,
    /// Show the saved local changes of a run
    Show {
        /// The run
        #[arg(allow_negative_numbers = true)]
        run: String,
        /// One path, relative to `app/`
        path: Option<PathBuf>,
    },
    /// Copy saved files back into `app/`
    Restore {
        /// The run
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
        /// The runs
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

/// `as-owner`
#[derive(Debug, Args)]
pub struct AsOwnerArgs {
    /// The operation
    pub operation: String,
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
