//! Removes environments: unfinished ones, and those that are no longer needed.

use std::path::PathBuf;

use refresh_settings::names::EnvironmentName;
use refresh_system::disk;
use refresh_system::error::Outcome;

use super::lock::Lock;
use super::record::{self, Record};
use super::recorded_environments::{Environments, VenvState, number};
use super::switch::ADOPTED;
use super::uv_operation::SCRATCH;

impl Environments<'_> {
    /// Removes the remains of an interrupted run: directories without a record, manifests without one, and scratch
    /// directories. Finishes an interrupted adoption. Never removes the target of `venv`, nor anything without the name
    /// of an environment. Returns the removed names.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn discard_incomplete(&self) -> Outcome<Vec<EnvironmentName>> {
        let layout = self.site.layout;
        self.finish_adoption()?;
        disk::remove_tree(&layout.uv().join(SCRATCH))?;
        let live = self.live_directory()?;
        let mut discarded = Vec::new();
        for name in record::known_names(layout)? {
            let directory = layout.environment(&name);
            // A record is written last and removed first: a record without a directory belongs to a removed
            // environment, which can be built again from the lock in the record.
            let finished = Record::read(layout, &name)?.is_some();
            if finished || live.as_ref() == Some(&directory) || !is_ours(&name) {
                continue;
            }
            self.remove(&name)?;
            self.site.runner.events().note(&format!("discarded the unfinished environment {name}"));
            discarded.push(name);
        }
        disk::sweep_unwritten(&layout.environment_records())?;
        disk::sweep_unwritten(&layout.locks())?;
        Ok(discarded)
    }

    /// Removes all environments except those named and the live one, and returns the removed ones. If a named one was
    /// changed, only its directory is removed.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn prune(&self, keep: &[EnvironmentName]) -> Outcome<Vec<EnvironmentName>> {
        let names = self.prunable(keep)?;
        for name in &names {
            if keep.contains(name) {
                // It was changed manually. Its record stays, with the lock from which the same can be built again.
                disk::remove_tree(&self.site.layout.environment(name))?;
            } else {
                self.remove(name)?;
            }
        }
        Ok(names)
    }

    /// Removes the locks that no environment was built from; a lock that is needed later is made again.
    ///
    /// # Errors
    /// A lock or a record cannot be read, or a lock cannot be removed.
    pub fn prune_locks(&self) -> Outcome<()> {
        let layout = self.site.layout;
        let mut needed = Vec::new();
        for name in record::known_names(layout)? {
            let built = Record::read(layout, &name)?.and_then(|record| record.built().cloned());
            needed.extend(built.map(|built| (built.parts.key(), built.parts.lock)));
        }
        for file in record::entries(&layout.locks())? {
            let Some(key) = file.strip_suffix(".json") else { continue };
            // Definitions of different dates may resolve to the same result: an environment then belongs to both locks.
            let digest = Lock::read(layout, key)?.map(|lock| lock.digest());
            let is_needed = |(own, lock): &(String, String)| own == key || digest.as_ref() == Some(lock);
            if !needed.iter().any(is_needed) {
                disk::remove_file_if_there(&layout.locks().join(file))?;
            }
        }
        Ok(())
    }

    /// Returns the environments that [`Self::prune`] would remove.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn prunable(&self, keep: &[EnvironmentName]) -> Outcome<Vec<EnvironmentName>> {
        let live = self.live_directory()?;
        let mut names = Vec::new();
        for name in record::known_names(self.site.layout)? {
            let Some(record) = Record::read(self.site.layout, &name)? else { continue };
            let directory = self.site.layout.environment(&name);
            let is_needed =
                keep.contains(&name) && (record.is_good() || directory.symlink_metadata().is_err());
            if is_needed || live.as_ref() == Some(&directory) {
                continue;
            }
            names.push(name);
        }
        Ok(names)
    }

    /// Returns the target of `venv`, good or not.
    fn live_directory(&self) -> Outcome<Option<PathBuf>> {
        Ok(match self.current()? {
            VenvState::Unrecorded(path) => Some(path),
            VenvState::Recorded(live) => Some(live.path),
            VenvState::Missing | VenvState::RealDirectory => None,
        })
    }

    /// Removes the record first. If the program is killed then, the rest of the directory counts as unfinished and is
    /// never used.
    fn remove(&self, name: &EnvironmentName) -> Outcome<()> {
        Record::remove(self.site.layout, name)?;
        disk::remove_tree(&self.site.layout.environment(name))
    }
}

/// Returns whether the tool gave this name: it begins with sixteen hexadecimal digits or `adopted`.
fn is_ours(name: &EnvironmentName) -> bool {
    let word = name.as_str().rsplit_once('-').map_or("", |(word, _)| word);
    let fingerprint =
        word.len() == 16 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    fingerprint || number(name, ADOPTED).is_some()
}
