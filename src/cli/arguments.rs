//! The arguments of each command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use refresh_settings::layers::Overrides;
use refresh_settings::text_forms::parse_duration;

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
#[derive(Debug, Clone, Default, Args)]
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
    /// Returns the requested format; `None` without an option.
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
#[derive(Debug, Clone, Default, Args, Serialize)]
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
#[derive(Debug, Clone, Default, Args)]
pub struct LockArgs {
    /// Wait for another run to end, at most for DURATION ("5m") [default: do not wait]
    #[arg(long, value_name = "DURATION", alias = "lock-timeout", value_parser = patience, default_value = "0s")]
    #[arg(hide_default_value = true)]
    pub wait: Duration,
}

/// What `run` and `plan` share: the target and the settings of a run.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct RunOptions {
    /// Branch to deploy [default: the configured one, then the deployed one, then main]
    #[arg(allow_hyphen_values = false)]
    pub branch: Option<String>,

    /// The same as BRANCH
    #[arg(long = "branch", short, value_name = "BRANCH", conflicts_with = "branch")]
    #[serde(skip)]
    pub branch_option: Option<String>,

    /// Settings
    #[command(flatten)]
    #[serde(flatten)]
    pub overrides: Overrides,

    /// Offline source
    #[command(flatten)]
    #[serde(flatten)]
    pub bundle: BundleArgs,
}

impl RunOptions {
    /// Moves the branch to its first field, and makes the path of a bundle absolute.
    pub fn normalize(&mut self) {
        self.branch = self.branch.take().or(self.branch_option.take());
        let bundle = self.bundle.bundle.take();
        self.bundle.bundle = bundle.map(|file| std::path::absolute(&file).unwrap_or(file));
    }
}

/// `run`
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct RunArgs {
    /// Target and settings
    #[command(flatten)]
    #[serde(flatten)]
    pub options: RunOptions,

    /// Skip the refresh if everything is up to date
    #[arg(long, conflicts_with = "dry_run")]
    pub if_changed: bool,

    /// Leave a commit alone that was rolled back or has halted a run, as --if-changed does
    #[arg(long, hide = true)]
    pub unattended: bool,

    /// Only print the changes, as `plan` does
    #[arg(long, conflicts_with = "detach")]
    #[serde(skip)]
    pub dry_run: bool,

    /// Output
    #[command(flatten)]
    #[serde(skip)]
    pub report: ReportArgs,

    /// Place
    #[command(flatten)]
    #[serde(skip)]
    pub place: PlaceArgs,

    /// Waiting for another run
    #[command(flatten)]
    #[serde(skip)]
    pub lock: LockArgs,
}

/// `plan`
#[derive(Debug, Clone, Default, Args, Serialize)]
pub struct PlanArgs {
    /// Target and settings
    #[command(flatten)]
    #[serde(flatten)]
    pub options: RunOptions,

    /// Exit with 5 if a refresh would change something
    #[arg(long)]
    pub exit_code: bool,

    /// Print JSON
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
}

impl From<RunArgs> for PlanArgs {
    fn from(args: RunArgs) -> Self {
        let json = args.report.format() == Some(Format::Json);
        Self { options: args.options, exit_code: false, json }
    }
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
pub struct LockCommandArgs {
    /// Branch whose packages are locked [default: the configured one, then the deployed one, then main]
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

    /// Print only if the system has replaced Python
    #[arg(long, conflicts_with = "json")]
    pub if_python_changed: bool,
}

/// `history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Run to show: its ID, a unique beginning, latest, -1, -2, ..
    #[arg(allow_negative_numbers = true)]
    pub run: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print the log of the run
    #[arg(long, requires = "run", conflicts_with = "json")]
    pub log: bool,

    /// Number of runs to list
    #[arg(long, short = 'n', alias = "number", value_name = "N", default_value_t = 20)]
    pub limit: usize,
}

/// `rollback`
#[derive(Debug, Clone, Args, Serialize)]
pub struct RollbackArgs {
    /// Run to return to [default: the last good one before the deployed version]
    #[arg(allow_negative_numbers = true)]
    pub run: Option<String>,

    /// Only print what would come back, and what would not
    #[arg(long, conflicts_with = "detach")]
    #[serde(skip)]
    pub dry_run: bool,

    /// Output
    #[command(flatten)]
    #[serde(skip)]
    pub report: ReportArgs,

    /// Place
    #[command(flatten)]
    #[serde(skip)]
    pub place: PlaceArgs,

    /// Waiting for another run
    #[command(flatten)]
    #[serde(skip)]
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
#[derive(Debug, Clone, Args, Serialize)]
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

/// What `verify` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifyPart {
    /// Models, by their checksums
    Models,
    /// Environment in use, file by file
    Environment,
    /// Both
    All,
}

impl VerifyArgs {
    /// Returns the part that the argument or the option names.
    pub fn part(&self) -> VerifyPart {
        let default = if self.environment { VerifyPart::Environment } else { VerifyPart::Models };
        self.part.unwrap_or(default)
    }

    /// Returns why the options do not fit the part; `None` if they fit.
    pub fn conflict(&self) -> Option<&'static str> {
        let of_models = self.presence || self.no_cache || !self.store.is_empty() || self.verbose;
        match self.part() {
            VerifyPart::Environment if of_models => {
                Some("--presence, --no-cache, --store and --verbose are options of `verify models`")
            }
            VerifyPart::Models if self.all => Some("--all is an option of `verify environment`"),
            _ => None,
        }
    }
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Part to verify [default: models]
    #[arg(value_enum)]
    pub part: Option<VerifyPart>,

    /// The same as `verify environment`
    #[arg(long, hide = true, conflicts_with = "part")]
    pub environment: bool,

    /// With `environment`: verify all environments
    #[arg(long)]
    pub all: bool,

    /// Check existence and size only; skip checksums
    #[arg(long)]
    pub presence: bool,

    /// Read everything, also what has not changed since it was read last
    #[arg(long, conflicts_with = "presence")]
    pub no_cache: bool,

    /// Verify the models below DIR too
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
