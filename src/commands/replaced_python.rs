//! `status --if-python-changed`: what apt prints after a change of packages. Reads only, and waits for nothing.

use refresh_environments::ReplacedPython;
use refresh_installation::exit::{Error, Success};
use refresh_installation::history;
use refresh_installation::installation::Installation;
use refresh_service::fence;
use refresh_system::error::Outcome;
use refresh_system::screen::print_line;
use refresh_system::text::harmless_line;

use super::refuse;

/// Prints two lines if the system has replaced the Python of the environment; otherwise nothing.
pub(super) fn report(on: &Installation) -> Result<Success, Error> {
    let refused = |failure| refuse(on, "status", failure, "ladylinux-refresh doctor");
    let Some(replaced) = find(on).map_err(refused)? else { return Ok(Success::Done) };
    let effect = if replaced.is_lost { "the service cannot start again" } else { "a run builds another one" };
    let way_out = fence::read(&on.layout).ok().flatten().map(|fence| history::way_out(&on.layout, &fence));
    let next = way_out.unwrap_or_else(|| on.as_typed("ladylinux-refresh run"));
    print_line(&harmless_line(&format!("ladylinux-refresh: {}", replaced.in_words())));
    print_line(&harmless_line(&format!("ladylinux-refresh: {effect}; next: {next}")));
    Ok(Success::Done)
}

/// Returns how the system has replaced the Python of the environment in use.
///
/// # Errors
/// The query was interrupted.
pub(super) fn find(on: &Installation) -> Outcome<Option<ReplacedPython>> {
    match on.live_environment() {
        Some(live) => on.environments().replaced_python(&live),
        None => Ok(None),
    }
}
