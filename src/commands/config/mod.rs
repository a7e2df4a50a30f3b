//! `config`: the settings in force, and the faults of a file of settings.

mod check;
mod show;

use crate::cli::ConfigCommand;
use refresh_installation::exit::{Error, Success};
use refresh_settings::layout::Layout;

/// Performs `config …`; changes nothing.
pub(super) fn config(layout: &Layout, command: &ConfigCommand) -> Result<Success, Error> {
    match command {
        ConfigCommand::Show(args) => show::show(layout, args),
        ConfigCommand::Check(args) => check::check(layout, args),
    }
}
