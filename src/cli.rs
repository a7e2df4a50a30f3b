//! The command line: raw values only. `commands` and `settings` interpret them.

mod arguments;
mod config;
mod help;
pub mod json;
pub mod raw;
mod subcommands;
pub mod words;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use refresh_system::screen::ColorWhen;

pub use arguments::*;
pub use config::*;
pub use subcommands::*;

/// The version, with commit and date if the program is built from a repository (`build.rs`).
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("LADYLINUX_REFRESH_BUILT_FROM"));

/// Update a running LadyLinux installation to the latest commit of a branch
#[derive(Debug, Parser)]
#[command(name = "ladylinux-refresh", version = VERSION, max_term_width = 100)]
#[command(help_template = help::TEMPLATE, before_help = help::GROUPS, after_help = help::after_help())]
#[command(infer_long_args = false, arg_required_else_help = true)]
pub struct Cli {
    /// Print only warnings and the result
    #[arg(long, short, global = true, display_order = 890)]
    pub quiet: bool,

    /// Color the output: auto, always or never [default: auto]
    #[arg(long, value_name = "WHEN", value_enum, global = true, display_order = 891)]
    #[arg(default_value = "auto", hide_default_value = true, hide_possible_values = true)]
    pub color: ColorWhen,

    /// Use the installation under DIR; does not need root
    #[arg(long, value_name = "DIR", env = "LADYLINUX_REFRESH_ROOT", global = true, display_order = 900)]
    pub root: Option<PathBuf>,

    /// The command
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Refresh now: stop, update, restart, check health
    #[command(after_help = help::RUN, aliases = ["update", "upgrade", "deploy", "refresh"])]
    Run(RunArgs),
    /// Show what the next run would change
    #[command(after_help = help::PLAN)]
    Plan(PlanArgs),
    /// Show the deployed version and the state of the service
    #[command(after_help = help::STATUS)]
    Status(StatusArgs),
    /// List past runs, or show one
    #[command(after_help = help::HISTORY, alias = "log")]
    History(HistoryArgs),
    /// Return to an earlier good version
    #[command(after_help = help::ROLLBACK)]
    Rollback(RollbackArgs),

    /// Follow a run until it ends
    #[command(after_help = help::WAIT)]
    Wait(WaitArgs),
    /// Cancel a run in progress
    #[command(after_help = help::CANCEL)]
    Cancel(CancelArgs),

    /// Find problems and print repairs (read-only)
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArgs),
    /// Verify the models and the virtual environment
    #[command(after_help = help::VERIFY)]
    Verify(VerifyArgs),
    /// Show or restore local changes that refreshes saved
    #[command(subcommand, after_help = help::STASH, alias = "drift")]
    Stash(StashCommand),
    /// Allow the service to start after a failed refresh
    #[command(after_help = help::UNFENCE)]
    Unfence(UnfenceArgs),
    /// Start, stop, restart or inspect the service
    #[command(subcommand, after_help = help::SERVICE)]
    Service(ServiceCommand),

    /// Set up an installation, or adopt an existing one
    #[command(after_help = help::INIT)]
    Init(InitArgs),
    /// Show or check the settings
    #[command(subcommand, after_help = help::CONFIG)]
    Config(ConfigCommand),
    /// List or remove virtual environments
    #[command(subcommand, after_help = help::ENV, name = "env", alias = "environments")]
    Environments(EnvironmentsCommand),
    /// Print or upgrade the lockfile of the Python packages
    #[command(after_help = help::LOCK)]
    Lock(LockCommandArgs),
    /// Create or inspect a file for offline refreshes
    #[command(subcommand, after_help = help::BUNDLE)]
    Bundle(BundleCommand),
    /// Print the completions of a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),

    /// Runs the embedded supervisor
    #[command(hide = true)]
    Supervise,
    /// Cleans up after a run whose process has ended
    #[command(hide = true, name = refresh_run::relay::start::AFTER_RUN)]
    AfterRun(AfterRunArgs),
    /// Answers requests of the application
    #[command(hide = true, name = "answer-requests")]
    AnswerRequests,
    /// Is the process of a sandboxed unit
    #[command(hide = true, name = refresh_programs::units::COMMAND)]
    Unit(UnitArgs),
    /// Is the server that answers visitors while the service is fenced
    #[command(hide = true, name = crate::page::COMMAND)]
    Page(PageArgs),
    /// Answers git's question for credentials
    #[command(hide = true, name = "git-credential")]
    GitCredential(CredentialArgs),
}

impl Cli {
    /// Returns the command line without the commands that only the program itself uses, for completions.
    pub fn for_people() -> clap::Command {
        let all = Self::command();
        let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
        clap::Command::new("ladylinux-refresh").args(all.get_arguments().cloned()).subcommands(shown)
    }
}
