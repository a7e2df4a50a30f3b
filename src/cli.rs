//! The command line: raw values only. What they mean is decided in `commands` and `settings`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::ModelCheck;

/// Updates a running LadyLinux installation to the latest state of a Git branch, in place.
#[derive(Debug, Parser)]
#[command(name = "ladylinux-refresh", version, max_term_width = 100, after_help = EXITS)]
#[command(infer_long_args = false, arg_required_else_help = true)]
pub struct Cli {
    /// Work on the installation below DIR instead of the real paths; needs no root rights
    #[arg(long, value_name = "DIR", env = "LADYLINUX_REFRESH_ROOT", global = true, display_order = 900)]
    pub root: Option<PathBuf>,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXITS: &str = "Exit codes: 0 done or already current; 1 halted, the service is stopped and fenced; 2 wrong \
command line or configuration; 3 refused, nothing touched; 4 another run holds the lock; 5 a check found problems; \
70 bug; 128+n ended by signal n.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Refresh: stop, sync, environment, prepare, restart, status
    Run(RunArgs),
    /// Show what a run would do; changes nothing of the installation
    Plan(PlanArgs),
    /// Print the locked Python packages in standard form, or lock them anew
    Lock(LockWish),
    /// Show what is deployed, local changes, service, fence and last run
    Status(StatusArgs),
    /// List the runs, or show one whole
    History(HistoryArgs),
    /// Return to an earlier good commit and environment, by the same six steps
    Rollback(RollbackArgs),
    /// Follow a run to its end, and end with its exit code
    Wait(WaitArgs),
    /// Halt a run that is under way, properly
    Cancel(CancelArgs),
    /// Let the service start again although the last refresh failed
    Unfence(UnfenceArgs),
    /// Bring a directory, or an existing installation, to the deployment contract
    Init(InitArgs),
    /// Look whether the models, or the environment, are there and whole, by every byte
    Verify(VerifyArgs),
    /// Look for everything that may be wrong, and say how to repair it; changes nothing
    Doctor(DoctorArgs),
    /// Start, stop or look at the service
    #[command(subcommand)]
    Service(ServiceCommand),
    /// List the environments, or remove those that nobody needs
    #[command(subcommand)]
    Environments(EnvironmentsCommand),
    /// List, show, restore, or drop previous trees that hold local changes
    #[command(subcommand, alias = "drift")]
    Stash(StashCommand),
    /// Make a file that refreshes a machine without a network, or look at one
    #[command(subcommand)]
    Bundle(BundleCommand),

    /// Runs the embedded supervisor
    #[command(hide = true)]
    Supervise,
    /// Looks after a run when its process has ended
    #[command(hide = true, name = crate::relay::start::AFTER_RUN)]
    AfterRun(AfterRunArgs),
    /// Takes what the application asked for, and does what it may ask for
    #[command(hide = true, name = "answer-requests")]
    AnswerRequests,
    /// Does one operation on files with the rights of their owner
    #[command(hide = true, name = crate::process::worker::COMMAND)]
    AsOwner(AsOwnerArgs),
    /// Is the process of a sandboxed unit
    #[command(hide = true, name = crate::units::COMMAND)]
    Unit(UnitArgs),
    /// Is the server that answers visitors while the service is fenced
    #[command(hide = true, name = crate::page::COMMAND)]
    Page(PageArgs),
    /// Answers git's question for credentials
    #[command(hide = true, name = "git-credential")]
    GitCredential(CredentialArgs),
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Human,
    /// One event per line; the last line is the whole report
    Json,
    /// Groups, annotations and outputs of a GitHub Actions job
    Github,
}

/// How a run reports.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// How to report; without it: github inside a GitHub Actions job, else human
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// Show what git, uv and hooks write
    #[arg(long, short)]
    pub verbose: bool,
}

/// Where a run happens.
#[derive(Debug, Clone, Default, Args)]
pub struct PlaceArgs {
    /// Return as soon as the run is started, and print its name; `wait` follows it
    #[arg(long)]
    pub detach: bool,

    /// Be the process that does run ID
    #[arg(long, hide = true, value_name = "ID", conflicts_with = "detach")]
    pub worker: Option<String>,
}

/// What a run takes instead of the network.
#[derive(Debug, Clone, Default, Args)]
pub struct BundleArgs {
    /// Take everything from FILE, which `bundle create` made; no network is used
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,

    /// Take a bundle although its commit lies before the deployed one
    #[arg(long, requires = "bundle")]
    pub allow_older: bool,

    /// Take a bundle although its history has nothing in common with what is known here
    #[arg(long, requires = "bundle")]
    pub allow_unrelated: bool,
}

/// How long to wait for another run.
#[derive(Debug, Clone, Args)]
pub struct LockArgs {
    /// Wait up to SECONDS for another run to end
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub lock_timeout: u64,
}

/// `run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The branch; without it, the one that the host follows, else the one deployed now, else main
    #[arg(allow_hyphen_values = false)]
    pub branch: Option<String>,

    /// Do nothing when remote, tree, environment and service are already right
    #[arg(long, conflicts_with = "dry_run")]
    pub if_changed: bool,

    /// Show what it would do and do nothing (the same as `plan`)
    #[arg(long, conflicts_with = "detach")]
    pub dry_run: bool,

    /// Leave staging out: do everything inside the six steps
    #[arg(long)]
    pub no_stage: bool,

    /// Build a new environment even when its definition did not change
    #[arg(long)]
    pub always_rebuild_venv: bool,

    /// Look at the models first; without HOW, full [presence: there and of the right length; full: their checksums too; off]
    #[arg(long, value_name = "HOW", value_enum, hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "full")]
    pub verify_models: Option<ModelCheck>,

    /// What it takes instead of the network
    #[command(flatten)]
    pub bundle: BundleArgs,

    /// Refuse a definition of the environment that the application does not lock
    #[arg(long)]
    pub strict: bool,

    /// How it reports
    #[command(flatten)]
    pub report: ReportArgs,

    /// Where it happens
    #[command(flatten)]
    pub place: PlaceArgs,

    /// How it waits
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The branch; without it, the one that the host follows, else the one deployed now, else main
    pub branch: Option<String>,

    /// Exit with 5 when a refresh would change something
    #[arg(long)]
    pub exit_code: bool,

    /// Write the plan as JSON
    #[arg(long)]
    pub json: bool,

    /// Plan for a run that always builds a new environment
    #[arg(long)]
    pub always_rebuild_venv: bool,

    /// What it takes instead of the network
    #[command(flatten)]
    pub bundle: BundleArgs,

    /// Plan for a run that refuses what the application does not lock
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
    /// The branch; without it, the one that the host follows, else the one deployed now, else main
    #[arg(long)]
    pub branch: Option<String>,

    /// In which form
    #[arg(long, value_enum, default_value = "pylock")]
    pub format: LockForm,

    /// Lock anew, with everything that was released until now, and keep that
    #[arg(long)]
    pub upgrade: bool,

    /// Write it as JSON
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Write it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The run to show whole
    pub run: Option<String>,

    /// Write it as JSON
    #[arg(long)]
    pub json: bool,

    /// How many runs to list
    #[arg(long, short = 'n', default_value_t = 20)]
    pub number: usize,

    /// Write a page with a plot of the downtimes to this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "json"])]
    pub html: Option<PathBuf>,
}

/// `rollback`
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The run to return to; without it, the last good one, or after a success the good one before
    pub run: Option<String>,

    /// How it reports
    #[command(flatten)]
    pub report: ReportArgs,

    /// Where it happens
    #[command(flatten)]
    pub place: PlaceArgs,

    /// How it waits
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `wait`
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The run, as `run --detach` and `history` name it
    pub run: String,

    /// How it reports
    #[command(flatten)]
    pub report: ReportArgs,
}

/// `cancel`
#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The run, as `run --detach` and `status` name it
    pub run: String,
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
    /// How it waits
    #[command(flatten)]
    pub lock: LockArgs,
}

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The URL of the repository
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,

    /// The branch to deploy
    #[arg(long)]
    pub branch: Option<String>,

    /// Allow a transport that is not protected: http, git or file
    #[arg(long, value_name = "TRANSPORT")]
    pub allow: Vec<String>,

    /// The port that the service will listen on, for a new env file
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// Give the service a socket unit, so that requests wait during a refresh: for uvicorn, gunicorn and hypercorn
    #[arg(long)]
    pub socket: bool,

    /// Answer visitors with a page while the service is fenced; needs a socket unit
    #[arg(long)]
    pub page: bool,

    /// Show what it would do and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Remove everything that this program ever added, and leave the service running
    #[arg(long, conflicts_with_all = ["repo", "branch", "allow", "port", "socket", "page"])]
    pub undo: bool,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Look at the live environment instead of the models
    #[arg(long, conflicts_with_all = ["presence", "no_cache", "store", "verbose"])]
    pub environment: bool,

    /// With --environment: look at every environment, not only the live one
    #[arg(long, requires = "environment")]
    pub all: bool,

    /// Look only whether they are there, of the right length, and not truncated; read no checksums
    #[arg(long)]
    pub presence: bool,

    /// Read everything, also what has not changed since it was read last
    #[arg(long, conflicts_with = "presence")]
    pub no_cache: bool,

    /// Look at the models below DIR too
    #[arg(long, value_name = "DIR")]
    pub store: Vec<PathBuf>,

    /// Write it as JSON
    #[arg(long)]
    pub json: bool,

    /// List also what is as it should be
    #[arg(long, short, conflicts_with = "json")]
    pub verbose: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Write it as JSON
    #[arg(long)]
    pub json: bool,
}

/// `service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Start the service; refused while it is fenced
    Start,
    /// Stop the service and its whole process tree
    Stop,
    /// Tell whether it runs
    Status,
    /// Show the last lines of its log
    Logs {
        /// How many lines
        #[arg(long, short = 'n', default_value_t = 50)]
        lines: usize,
    },
}

/// `stash …`
#[derive(Debug, Subcommand)]
pub enum StashCommand {
    /// List the runs whose previous tree is kept
    List,
    /// Show the local changes in the previous tree of a run
    Show {
        /// The run
        run: String,
        /// One path, relative to `app/`
        path: Option<PathBuf>,
    },
    /// Copy files of a previous tree back into `app/`
    Restore {
        /// The run
        run: String,
        /// The paths, relative to `app/` [default: every local change]
        paths: Vec<PathBuf>,
        /// Replace files of `app/` that differ
        #[arg(long)]
        overwrite: bool,
    },
    /// Remove previous trees for good
    #[command(alias = "prune")]
    Drop {
        /// The runs
        #[arg(required = true)]
        runs: Vec<String>,
    },
}

/// `bundle …`
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Pack everything that a refresh of a branch needs into one file
    Create {
        /// The file; one that is there is replaced
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// The branch; without it, the one that the host follows, else the one deployed now, else main
        #[arg(long)]
        branch: Option<String>,
        /// How it waits
        #[command(flatten)]
        lock: LockArgs,
    },
    /// Read a bundle whole, prove every byte of it, and tell what it holds
    Show {
        /// The bundle
        file: PathBuf,
        /// Write its header as JSON
        #[arg(long)]
        json: bool,
    },
}

/// `environments …`
#[derive(Debug, Subcommand)]
pub enum EnvironmentsCommand {
    /// List all environments, the newest first
    List {
        /// Write it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove the environments that no kept run needs; the live and the last good one always stay
    Prune {
        /// For how many good runs environments are kept; without it, as the host's settings say
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// Show what it would do and do nothing
        #[arg(long)]
        dry_run: bool,
    },
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
