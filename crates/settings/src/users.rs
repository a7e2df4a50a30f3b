//! The users that own files and run units. The module reads owners.

use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

use crate::layout::Layout;

/// The user that the service runs as and that owns `app/`.
pub const SERVICE_USER: &str = "ladylinux";
/// The user that owns the mirror, the environments and the caches.
pub const BUILDER: &str = "ladylinux-refresh";
/// The user that runs programs of the application before the stop; it owns nothing.
pub const STAGING: &str = "ladylinux-staging";

/// Returns the owner of `app/`. If `app/` does not exist: the owner of its parent directory, on a real machine the
/// service user instead of root, else the caller.
///
/// # Errors
/// `app/` exists and its owner cannot be read. No other user may replace it: programs of `app/` run as its owner.
pub fn owner_of_app(layout: &Layout) -> Outcome<Owner> {
    if let Some(owner) = Owner::of_existing(&layout.app())? {
        return Ok(owner);
    }
    let home = Owner::of_existing(&layout.home())?;
    let is_roots = home.is_none_or(|owner| owner.uid == 0);
    let user = if layout.is_real() && is_roots { Owner::named(SERVICE_USER)? } else { None };
    Ok(user.or(home).unwrap_or(Owner::own()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::disk;

    #[test]
    fn an_owner_of_app_that_cannot_be_read_is_not_replaced_by_another() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        assert_eq!(owner_of_app(&layout).unwrap(), Owner::own(), "nothing exists");
        disk::make_directory(layout.home().parent().unwrap(), 0o755).unwrap();
        disk::write_atomic(&layout.home(), b"", 0o644).unwrap();
        assert!(owner_of_app(&layout).is_err(), "the parent is not a directory");
    }
}
