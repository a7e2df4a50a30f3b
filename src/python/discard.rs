//! Removing generations: those that were never finished, and those that nobody needs any more.

use std::path::PathBuf;

use super::generation::{Current, Environments, number};
use super::record::{self, Record};
use super::switch::ADOPTED;
use super::tools;
use super::wheels::Wheels;
use crate::disk;
use crate::error::Outcome;
use crate::settings::names::GenerationName;

impl Environments<'_> {
    /// Removes what an interrupted run left: folders without a record, manifests without one, and scratch
    /// folders. Finishes an interrupted adoption. Never removes what `venv` points to, nor what does not bear the
    /// name of a generation. Returns the names of what was removed.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn discard_incomplete(&self) -> Outcome<Vec<GenerationName>> {
        let layout = self.site.layout;
        self.finish_adoption()?;
        for name in record::entries(&layout.cache())? {
            let is_scratch =
                ["definitions-", "resolution-", "wheels-"].iter().any(|word| name.starts_with(word));
            if is_scratch || matches!(name.as_str(), "bootstrap" | "bundle-create") {
                disk::remove_tree(&layout.cache().join(name))?;
            }
        }
        tools::sweep(self.site)?;
        Wheels::new(self.site).sweep()?;
        let live = self.live_folder()?;
        let mut discarded = Vec::new();
        for name in record::known_names(layout)? {
            let folder = layout.environment(&name);
            // A record is written last and removed first: one without a folder is that of an environment that is gone, which
            // can be built again from the lock in it.
            let finished = Record::read(layout, &name)?.is_some();
            if finished || live.as_ref() == Some(&folder) || !is_ours(&name) {
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

    /// Removes all generations except those named and the live one, and returns what was removed. Of a named one that somebody
    /// changed, only the folder goes.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn prune(&self, keep: &[GenerationName]) -> Outcome<Vec<GenerationName>> {
        let names = self.prunable(keep)?;
        for name in &names {
            if keep.contains(name) {
                // Changed by hand: its record stays, with the lock from which the same can be built again.
                disk::remove_tree(&self.site.layout.environment(name))?;
            } else {
                self.remove(name)?;
            }
        }
        Ok(names)
    }

    /// Returns what [`Self::prune`] would remove.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn prunable(&self, keep: &[GenerationName]) -> Outcome<Vec<GenerationName>> {
        let live = self.live_folder()?;
        let mut names = Vec::new();
        for name in record::known_names(self.site.layout)? {
            let Some(record) = Record::read(self.site.layout, &name)? else { continue };
            let folder = self.site.layout.environment(&name);
            let is_needed = keep.contains(&name) && (record.is_good() || folder.symlink_metadata().is_err());
            if is_needed || live.as_ref() == Some(&folder) {
                continue;
            }
            names.push(name);
        }
        Ok(names)
    }

    /// What `venv` points to, whether or not it is good.
    fn live_folder(&self) -> Outcome<Option<PathBuf>> {
        Ok(match self.current()? {
            Current::Unrecorded(path) => Some(path),
            Current::Generation(live) => Some(live.path),
            Current::Missing | Current::RealFolder => None,
        })
    }

    /// Takes the record away first: without it, what a kill leaves of the folder is unfinished and never used.
    fn remove(&self, name: &GenerationName) -> Outcome<()> {
        Record::remove(self.site.layout, name)?;
        disk::remove_tree(&self.site.layout.environment(name))
    }
}

/// Tells whether the tool gave this name: sixteen hexadecimal digits or `adopted` in front.
fn is_ours(name: &GenerationName) -> bool {
    let word = name.as_str().rsplit_once('-').map_or("", |(word, _)| word);
    let fingerprint =
        word.len() == 16 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    fingerprint || number(name, ADOPTED).is_some()
}
