//! Environments without a network: what a bundle takes out of the stores, and how it comes into those of another machine.
//!
//! What comes in is proved as if it came from the network: an installer has to be the pinned one, a wheel one of the lock.

use std::path::{Path, PathBuf};

use super::Site;
use super::generation::{Environments, Wanted};
use super::installer::Installer;
use super::interpreter::Interpreter;
use super::lock::Lock;
use super::own_lock::OwnLock;
use super::pip::Pip;
use super::tools;
use super::uv::Uv;
use super::wheels::Wheels;
use crate::error::{Failure, Outcome};
use crate::settings::InstallerChoice;

/// Returns the installers that are there, by the names that [`take_tool`] knows.
pub fn present_tools(site: Site<'_>) -> Vec<(String, PathBuf)> {
    tools::present(site)
}

/// Makes sure of an installer that a bundle brings. One of another version is left out: it is not used here.
///
/// # Errors
/// It is not the pinned one, or does not run on this machine.
pub fn take_tool(site: Site<'_>, name: &str, file: &Path) -> Outcome<()> {
    if !tools::bring(site, name, file)? {
        site.runner.events().warn(&format!("the bundle brings {name:?}, which this version does not use"));
    }
    Ok(())
}

impl Installer {
    /// Returns the installer that the settings ask for without looking for it on any network.
    ///
    /// # Errors
    /// It is not there, or the run is interrupted.
    pub fn offline(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Self> {
        let choice = site.python.installer;
        if choice != InstallerChoice::Pip
            && let Some(uv) = Uv::present(site)?
        {
            return Ok(Self::Uv(uv));
        }
        if choice != InstallerChoice::Uv
            && let Some(pip) = Pip::present(site, interpreter)?
        {
            return Ok(Self::Pip(pip));
        }
        let what = "neither this machine nor the bundle has the installer that the settings ask for";
        Err(Failure::new(what)
            .hint("let the machine that makes the bundle use the same: python.installer in refresh.toml")
            .hint("ladylinux-refresh bundle create --output FILE"))
    }
}

impl Environments<'_> {
    /// Makes sure of the lock of what is wanted, of all its wheels, and of the tools that another machine needs to
    /// read it and to tell which of them it takes; returns the lock.
    ///
    /// # Errors
    /// The definition does not resolve, or a wheel cannot be had.
    pub fn provide(&self, wanted: &Wanted) -> Outcome<Lock> {
        self.check_strict(wanted)?;
        let mut lock = self.lock(wanted)?;
        // The other machine reads the application's own lock too, and needs the same uv for that, whatever installs.
        if wanted.definitions.own_lock().is_some_and(OwnLock::is_of_uv) {
            Uv::ensure(self.site, &wanted.interpreter)?;
        }
        Pip::ensure(self.site, &wanted.interpreter)?;
        Wheels::new(self.site).ensure(&mut lock, &wanted.interpreter)?;
        Ok(lock)
    }

    /// Returns the wheels of a lock: the sha256 of each, and its place in the store.
    pub fn wheel_files(&self, lock: &Lock) -> Vec<(String, PathBuf)> {
        let wheels = Wheels::new(self.site);
        lock.wheels.iter().map(|wheel| (wheel.sha256.clone(), wheels.path(wheel))).collect()
    }

    /// Takes in the lock of another machine for what is wanted here, with its wheels; `place` says where the one with a
    /// sha256 lies. It replaces a lock of this machine that says something else.
    ///
    /// # Errors
    /// The lock is not understood, a wheel of it is missing or not what the lock says, or the store cannot be written.
    pub fn take_lock(
        &self,
        wanted: &Wanted,
        bytes: &[u8],
        place: &dyn Fn(&str) -> Option<PathBuf>,
    ) -> Outcome<()> {
        let mut lock = Lock::of_bytes(bytes)?;
        wanted.key().clone_into(&mut lock.key);
        if let Some(law) = self.own_lock(wanted)?
            && law.digest() != lock.digest()
        {
            return Err(Failure::new(format!(
                "its lock is not what the application's own {} says",
                law.summary().source
            )));
        }
        Wheels::new(self.site).bring(&lock, &wanted.interpreter, place)?;
        let known = self.known_lock(wanted)?;
        if known.as_ref().is_some_and(|known| known.digest() != lock.digest()) {
            self.site.runner.events().note("the lock of the bundle replaces another one of this machine");
        }
        if known.as_ref() == Some(&lock) { Ok(()) } else { lock.write(self.site.layout) }
    }
}
