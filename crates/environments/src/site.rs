//! The place and the owner of environments, and the calls of operations on them.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use refresh_programs::process::Runner;
use refresh_programs::units::{Role, UnitOptions, Units};
use refresh_settings::Python;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

use super::network;
use super::uv_operation::{self, Setup};

/// The extra time of the process beyond the deadline of the operation.
const GRACE: Duration = Duration::from_secs(60);

/// The largest response in bytes: a manifest has some hundred for each file.
const LARGEST_RESPONSE: usize = 256 << 20;

/// The place and the owner of environments.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Starts programs and reports events.
    pub runner: &'a Runner,
    /// The paths.
    pub layout: &'a Layout,
    /// The settings.
    pub python: &'a Python,
    /// The owner of the environments and of everything in them.
    pub owner: Owner,
    /// Whether the network is not used.
    pub offline: bool,
    /// Starts the operations.
    pub units: &'a Units,
}

/// The file that makes a directory an environment.
pub(super) const CONFIGURATION: &str = "pyvenv.cfg";

/// The key in it by which its programs see the packages of the system. Source: PEP 405.
const SYSTEM: &str = "include-system-site-packages";

/// Returns `true` if, by its configuration, the programs of an environment see the packages of the system.
pub(super) fn shows_system(configuration: &str) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case(SYSTEM).then(|| value.trim().eq_ignore_ascii_case("true"))
    };
    configuration.lines().find_map(value).unwrap_or(false)
}

/// Returns the configuration of an environment, changed to let its programs see the packages of the system.
pub(super) fn showing_system(configuration: &str) -> String {
    let is_other = |line: &&str| !line.trim_start().to_ascii_lowercase().starts_with(SYSTEM);
    let lines: Vec<&str> = configuration.lines().filter(is_other).collect();
    format!("{}\n{SYSTEM} = true\n", lines.join("\n"))
}

impl Site<'_> {
    /// Performs an operation that builds; the output of uv is reported meanwhile.
    pub(super) fn call<Q: Serialize, A: DeserializeOwned>(&self, operation: &str, request: &Q) -> Outcome<A> {
        let options =
            self.unit_options(Role::Build).writes(self.layout.environments()).writes(self.layout.uv());
        self.units.call_as(&options.narrated("uv"), self.owner, operation, request)
    }

    /// Returns the options of a unit that only reads.
    pub(super) fn unit_options(&self, role: Role) -> UnitOptions {
        // The operation ends by itself earlier.
        UnitOptions { output: LARGEST_RESPONSE, ..UnitOptions::new(role, self.python.deadline + GRACE) }
    }

    /// Performs an operation that reads the content of a commit; it only reads.
    ///
    /// # Errors
    /// The operation's own failure.
    pub fn read_release<Q: Serialize, A: DeserializeOwned>(
        &self,
        operation: &str,
        request: &Q,
    ) -> Outcome<A> {
        self.units.call_as(&self.unit_options(Role::Build), self.owner, operation, request)
    }

    /// Returns the setup of every operation, and creates the directories that operations write in.
    pub(super) fn setup(&self) -> Outcome<Setup> {
        disk::make_directory(&self.layout.store(), 0o755)?;
        for directory in [self.layout.environments(), self.layout.uv()] {
            if !disk::is_directory(&directory)? {
                disk::make_owned_directory(&directory, 0o755, &self.owner)?;
            } else if Owner::own().uid == 0 && Owner::of(&directory)? != self.owner {
                // Only root can have created it, because its parent belongs to root. The cache of another user is of no
                // use.
                disk::give(&directory, &self.owner)?;
                disk::remove_tree(&self.layout.uv().join("cache"))?;
            }
        }
        Ok(Setup {
            directory: self.layout.uv(),
            network: network::variables(self.python),
            indexes: self.python.indexes.clone(),
            allow_source: self.python.allow_source,
            system_site_packages: self.python.system_site_packages == Some(true),
            offline: self.offline,
            deadline: self.python.deadline,
            boot: uv_operation::boot(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_with_access_to_system_packages_is_recognized() {
        let closed = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n";
        assert!(!shows_system(closed) && !shows_system(""));
        let open = showing_system(closed);
        assert!(shows_system(&open) && shows_system("Include-System-Site-Packages=TRUE"));
        assert!(open.starts_with("home = /usr/bin\nversion") && !open.contains("false"), "{open}");
    }
}
