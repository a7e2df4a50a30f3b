//! The page that visitors get when a run has halted. That it cannot be shown is worth a warning and nothing more: the service
//! is stopped and fenced as it is without a page.

use crate::error::Outcome;
use crate::installation::Installation;

/// Shows the page, where one is installed and the service is down. Returns what a person should know where it cannot be shown.
pub fn show(on: &Installation) -> Option<String> {
    let shown = || -> Outcome<bool> {
        // A process of the service that cannot be ended still takes connections itself.
        Ok(on.service.observe()?.is_down() && on.service.show_page()?)
    };
    let failure = shown().err()?;
    let mut warning = format!("the page for visitors cannot be shown: {}", failure.chain().join(": "));
    if let Some(hint) = failure.hints().first() {
        warning.push_str(&format!(" ({hint})"));
    }
    Some(warning)
}
