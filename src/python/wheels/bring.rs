//! Wheels that come with a bundle, instead of from an index: proved as those, by what the lock says.

use std::path::PathBuf;

use super::choice::{self, Choice, Chosen};
use super::{Entrance, Proof, Wheels};
use crate::clock;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::python::installer::Job;
use crate::python::interpreter::Interpreter;
use crate::python::lock::{Lock, Wheel};
use crate::python::pip::Pip;

impl Wheels<'_> {
    /// Makes sure that the wheels which a lock of another machine lists are there, and that they are all that this machine
    /// takes of it. `place` says where the one with a sha256 lies. No network is used.
    ///
    /// # Errors
    /// One is missing, is not what the lock says, or does not run here; or pip is not there.
    pub fn bring(
        &self,
        lock: &Lock,
        interpreter: &Interpreter,
        place: &dyn Fn(&str) -> Option<PathBuf>,
    ) -> Outcome<()> {
        self.hold_store()?;
        let site = self.site;
        let pip = Pip::present(site, interpreter)?.ok_or_else(|| {
            Failure::new("neither this machine nor the bundle has the pip that the tool uses")
                .hint("ladylinux-refresh bundle create --output FILE")
        })?;
        let scratch = site.layout.cache().join(format!("wheels-{}", lock.key));
        disk::remove_tree(&scratch)?;
        disk::make_folder(&scratch, 0o755)?;
        let until = clock::monotonic() + site.python.deadline;
        let job = Job { site, interpreter, folder: &scratch, scratch: &scratch, until };
        let chosen = choice::choose(&job, &pip, lock);
        let tidied = disk::remove_tree(&scratch);
        let chosen = chosen?;
        tidied?;
        for wish in chosen.wheels.iter().chain(&chosen.sources) {
            if !lock.wheels.iter().any(|wheel| wheel.name == wish.name) {
                return Err(Failure::new(format!(
                    "the lock names {} {}, and the bundle has no wheel of it for this machine",
                    wish.name, wish.version
                )));
            }
        }
        let entrance = Entrance { store: *self, tags: &chosen.tags };
        for wheel in &lock.wheels {
            let wish = self.wish(lock, &chosen, wheel)?;
            if self.path(wheel).symlink_metadata().is_ok()
                && self.proved(std::slice::from_ref(wheel))?.len() == 1
            {
                continue;
            }
            let missing = || Failure::new(format!("{} is missing in the bundle", wheel.file));
            let from = place(&wheel.sha256).ok_or_else(missing)?;
            let taken = entrance.take_in(&from, &wheel.file, &[wish], Proof::Digest)?;
            if taken != *wheel {
                return Err(Failure::new(format!("{} is not the wheel that the lock lists", wheel.file)));
            }
        }
        disk::sync_parent(&site.layout.wheels().join(super::ASIDE))
    }

    /// What may be taken in as this wheel. One that the lock does not name can only have been built from source, where
    /// source is all that the lock names for this machine.
    pub(super) fn wish(&self, lock: &Lock, chosen: &Chosen, wheel: &Wheel) -> Outcome<Choice> {
        let package = lock.packages.iter().find(|it| it.name == wheel.name && it.version == wheel.version);
        let Some(package) = package else {
            return Err(Failure::new(format!("the lock does not name {}", wheel.file)));
        };
        let is_named = package.digests.contains(&wheel.sha256);
        let is_source = |it: &Choice| it.name == wheel.name && it.version == wheel.version;
        if !is_named && !chosen.sources.iter().any(is_source) {
            let told = format!("{} is not what the lock says (sha256 {})", wheel.file, wheel.sha256);
            return Err(Failure::new(told)
                .hint("what is built from source can be brought where the lock names its files, as pylock.toml does"));
        }
        if !is_named && !self.site.python.allow_source {
            return Err(Failure::new(format!(
                "{} is not what the lock says: it was built from source where the bundle was made",
                wheel.file
            ))
            .hint("allow that here too: python.allow_source = true in the host's refresh.toml"));
        }
        Ok(Choice {
            name: wheel.name.clone(),
            version: wheel.version.clone(),
            digests: vec![wheel.sha256.clone()],
            named: true,
            url: None,
            limit: wheel.size,
            size: Some(wheel.size),
        })
    }
}
