//! Copies of a unit's secrets, used without systemd's `LoadCredential`. They are below `/run/ladylinux-refresh`, where
//! only the unit's user can read them, until its process is collected.

use std::path::{Path, PathBuf};

use super::UnitOptions;
use super::context::UnitContext;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::environment;
use refresh_system::error::{Context as _, Outcome};

/// The variable that names the directory of a unit's credentials (systemd.exec(5)).
pub(super) const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Returns, inside a unit, the file of a secret of that name; `None` if the unit has none.
pub fn credential(name: &str) -> Option<PathBuf> {
    let directory = environment::variable(CREDENTIALS)?;
    Some(PathBuf::from(directory).join(name)).filter(|path| path.exists())
}

/// The directory of the copies. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Copies(PathBuf);

impl Copies {
    /// Copies the secrets of a unit for `user`.
    pub(super) fn make(units: &UnitContext, options: &UnitOptions, user: Owner) -> Outcome<Self> {
        let copies = Self(units.make_own_directory("credentials", user)?);
        for credential in &options.credentials {
            let context = || format!("cannot read {}", credential.source.display());
            let bytes = std::fs::read(&credential.source).context(context)?;
            let copy = copies.0.join(&credential.name);
            disk::write_volatile(&copy, &bytes, 0o400)?;
            disk::give(&copy, &user)?;
        }
        Ok(copies)
    }

    /// Returns the directory.
    pub(super) fn directory(&self) -> &Path {
        &self.0
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // Copies that cannot be removed disappear with the next boot, and only their user can read them.
        let _ = disk::remove_tree(&self.0);
    }
}
