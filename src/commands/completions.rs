//! `completions`: the completions of a shell, on standard output.

use std::io::Write as _;

use crate::cli::{Cli, CompletionsArgs};
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_system::error::Context as _;

/// Prints the completions.
pub(super) fn completions(args: &CompletionsArgs) -> Result<Success, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::for_people(), "ladylinux-refresh", &mut script);
    std::io::stdout()
        .write_all(&script)
        .context(|| "cannot write to standard output".to_owned())
        .map_err(|failure| Refusal::of("completions", failure))?;
    Ok(Success::Done)
}
