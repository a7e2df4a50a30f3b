//! Resolving: from a definition to its lock, once per definition; what is known is never resolved again.

use std::path::Path;

use super::generation::{Environments, Wanted};
use super::installer::Job;
use super::lock::{Lock, Origin};
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Outcome};

impl Environments<'_> {
    /// Returns the lock of what is wanted, where it is known. Only reads.
    ///
    /// # Errors
    /// The file of the lock cannot be read.
    pub fn known_lock(&self, wanted: &Wanted) -> Outcome<Option<Lock>> {
        Lock::read(self.site.layout, wanted.key())
    }

    /// Returns the lock of what is wanted; resolves the definition where it is not known yet, and keeps the result.
    ///
    /// # Errors
    /// The definition does not resolve.
    pub fn lock(&self, wanted: &Wanted) -> Outcome<Lock> {
        if let Some(known) = self.known_lock(wanted)? {
            return Ok(known);
        }
        let scratch = self.site.layout.cache().join(format!("resolution-{}", wanted.key()));
        disk::remove_tree(&scratch)?;
        disk::make_folder(&scratch, 0o755)?;
        let resolved = self.resolve(wanted, &scratch);
        let tidied = disk::remove_tree(&scratch);
        let lock = resolved.context(|| "the definition cannot be resolved".to_owned())?;
        tidied?;
        lock.write(self.site.layout)?;
        checkpoint::reach("python:locked");
        Ok(lock)
    }

    fn resolve(&self, wanted: &Wanted, scratch: &Path) -> Outcome<Lock> {
        let site = self.site;
        site.runner.events().note("resolving the definition");
        for note in wanted.definitions.notes() {
            site.runner.events().note(note);
        }
        let requirements = wanted.definitions.write_below(scratch)?;
        let until = clock::monotonic() + site.python.deadline;
        let job = Job { site, interpreter: &wanted.interpreter, folder: scratch, scratch, until };
        let document = if requirements.is_empty() {
            String::new()
        } else {
            wanted.installer.resolve(&job, &requirements, wanted.cutoff)?
        };
        let origin = Origin::Resolved {
            by: wanted.installer.identity(),
            cutoff: wanted.cutoff,
            not_reproducible: None,
        };
        Lock::from_pylock(wanted.key(), origin, document)
    }
}
