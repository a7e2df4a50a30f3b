//! The page that visitors get when a run has halted. A failure to show it is only a warning: the service is stopped and
//! fenced in any case.

use refresh_installation::installation::Installation;
use refresh_system::error::Outcome;

/// Shows the page if one is installed and the service is down. Returns `false` if it is not.
///
/// # Errors
/// The page cannot be shown; a sentence for a warning.
pub(crate) fn show(on: &Installation) -> Result<bool, String> {
    let shown = || -> Outcome<bool> {
        // A process of the service that cannot be ended still accepts connections itself.
        Ok(on.service.observe()?.is_down() && on.service.show_page()?)
    };
    shown().map_err(|failure| {
        let hint = failure.hints().first().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("the page for visitors cannot be shown: {}{hint}", failure.chain().join(": "))
    })
}
