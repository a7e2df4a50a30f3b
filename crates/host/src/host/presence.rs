//! Checks whether an installation exists at a place. It reads directories and changes nothing.

use super::migration;
use refresh_installation::installation::{permission_hint, typed};
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;

/// Refuses a place that is not an installation yet.
///
/// # Errors
/// The directories of the deployment contract are missing, or the caller cannot read them.
pub fn check_there(layout: &Layout) -> Outcome<()> {
    for directory in [layout.home(), layout.state()] {
        if !disk::is_directory(&directory).map_err(|failure| failure.hint(permission_hint(layout)))? {
            if migration::is_needed(layout)? {
                return Err(Failure::new("this installation is of version 0.1")
                    .hint(typed(layout, Hint::command("ladylinux-refresh init", &[]))));
            }
            return Err(Failure::new(format!("no installation found: {} is missing", directory.display()))
                .hint(typed(layout, Hint::command("ladylinux-refresh init --repo URL", &[]))));
        }
    }
    Ok(())
}

/// Refuses a place without any part of an installation: a mistyped root.
///
/// # Errors
/// The errors of [`check_there`].
pub fn check_anything(layout: &Layout) -> Outcome<()> {
    for directory in [layout.home(), layout.state(), layout.etc()] {
        if disk::is_directory(&directory).map_err(|failure| failure.hint(permission_hint(layout)))? {
            return Ok(());
        }
    }
    check_there(layout)
}
