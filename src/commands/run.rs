//! `run`: a refresh, in this process or in another one.

use crate::cli::RunArgs;
use refresh_installation::exit::{Error, Success};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::screen::print_to_stderr;
use refresh_system::text::harmless_line;

use super::run_request::RunRequest;
use super::{run_process, unchanged, with_command_to_repeat};

/// Refreshes an installation with the run of this ID.
pub(super) fn run(layout: &Layout, args: RunArgs, run: RunId) -> Result<Success, Error> {
    let (place, report) = (args.place.clone(), args.report.clone());
    let request = RunRequest::of_run(args).map_err(Error::Usage)?;
    super::migrate(layout, &mut |line| print_to_stderr(&harmless_line(line))).map_err(
        |error| match error {
            Error::Locked { .. } => with_command_to_repeat(error, &request.again),
            other => other,
        },
    )?;
    if request.if_changed
        && request.bundle.is_none()
        && run_process::would_be_in_a_unit(layout, &place)
        && let Some(ended) = unchanged::answer(layout, &request, &report, &run)
    {
        return Ok(ended);
    }
    run_process::carry_out(layout, &request, run, &place, &report)
}
