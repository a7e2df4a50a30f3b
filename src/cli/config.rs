//! The arguments of `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use refresh_settings::layers::Overrides;

/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting in force, in the form of refresh.toml
    Show(ConfigShowArgs),
    /// Check a refresh.toml and print every fault with its place
    Check(ConfigCheckArgs),
}

/// `config show`
#[derive(Debug, Args)]
pub struct ConfigShowArgs {
    /// Print the origin of each value: default, file with line, environment or option
    #[arg(long)]
    pub origin: bool,

    /// Print JSON, with the origins
    #[arg(long)]
    pub json: bool,

    /// Options of a run whose settings are shown
    #[command(flatten)]
    pub overrides: Overrides,
}

/// `config check`
#[derive(Debug, Args)]
pub struct ConfigCheckArgs {
    /// File to check [default: the refresh.toml of the host that counts]
    pub file: Option<PathBuf>,

    /// Check FILE as the refresh.toml of an application
    #[arg(long, requires = "file")]
    pub application: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
