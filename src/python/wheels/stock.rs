//! What lies in the store, who needs it, and removing what nobody needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::name::WheelName;
use super::{ASIDE, Wheels};
use crate::disk;
use crate::error::Outcome;
use crate::python::lock::{Lock, is_digest};
use crate::python::record::{self, Record};
use crate::settings::names::GenerationName;

/// What lies in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    /// The wheels, sorted by name and version.
    pub wheels: Vec<Stored>,
    /// What is not one whole wheel: left by something that was cut short.
    debris: Vec<String>,
    /// The locks by their keys, and the generations that each is needed by.
    pub locks: BTreeMap<String, Vec<GenerationName>>,
}

/// A wheel in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// The distribution's name in its normal form.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The name of the file.
    pub file: String,
    /// Its sha256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// The environments that were made with it, or would be made with it again.
    pub needed_by: Vec<GenerationName>,
}

/// What [`Wheels::prune`] does with what nobody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pruning {
    /// It tells what there is.
    Tell,
    /// It removes it.
    Remove,
}

/// What nobody needs any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The wheels.
    pub wheels: Vec<Stored>,
    /// The locks, by their keys.
    pub locks: Vec<String>,
}

impl Pruned {
    /// Returns how many bytes its wheels have.
    pub fn bytes(&self) -> u64 {
        self.wheels.iter().map(|wheel| wheel.size).sum()
    }
}

impl Wheels<'_> {
    /// Looks at what lies in the store. An environment needs the wheels that it was made from, and its definition's lock
    /// with all that this names, from which it would be made again.
    ///
    /// # Errors
    /// The store, the locks or the records cannot be read.
    pub fn stock(&self) -> Outcome<Stock> {
        let layout = self.site.layout;
        let mut locks: BTreeMap<String, Vec<GenerationName>> = BTreeMap::new();
        let mut read: BTreeMap<String, Lock> = BTreeMap::new();
        for file in record::entries(&layout.locks())? {
            if let Some(key) = file.strip_suffix(".json") {
                locks.insert(key.to_owned(), Vec::new());
                read.extend(Lock::read(layout, key)?.map(|lock| (key.to_owned(), lock)));
            }
        }
        let digests: BTreeMap<String, String> =
            read.iter().map(|(key, lock)| (key.clone(), lock.digest())).collect();
        let mut needed: BTreeMap<String, BTreeSet<GenerationName>> = BTreeMap::new();
        for name in record::known_names(layout)? {
            let Some(record) = Record::read(layout, &name)? else { continue };
            let Some(built) = record.built() else { continue };
            for sha256 in &built.wheels {
                needed.entry(sha256.clone()).or_default().insert(name.clone());
            }
            let own = built.parts.key();
            for (key, by) in &mut locks {
                // A definition of another date may resolve to the same: the generation is that of both locks.
                if *key != own && digests.get(key) != Some(&built.parts.lock) {
                    continue;
                }
                by.push(name.clone());
                for wheel in read.get(key).into_iter().flat_map(|lock| &lock.wheels) {
                    needed.entry(wheel.sha256.clone()).or_default().insert(name.clone());
                }
            }
        }
        let (mut wheels, mut debris) = (Vec::new(), Vec::new());
        for entry in record::entries(&layout.wheels())? {
            match self.stored(&entry)? {
                Some(mut wheel) => {
                    wheel.needed_by =
                        needed.get(&entry).map(|by| by.iter().cloned().collect()).unwrap_or_default();
                    wheels.push(wheel);
                }
                None => debris.push(entry),
            }
        }
        wheels.sort();
        Ok(Stock { wheels, debris, locks })
    }

    /// Removes, or tells, the locks and wheels that no environment needs.
    ///
    /// # Errors
    /// Something cannot be read or removed.
    pub fn prune(&self, pruning: Pruning) -> Outcome<Pruned> {
        let layout = self.site.layout;
        let stock = self.stock()?;
        let locks: Vec<String> =
            stock.locks.into_iter().filter(|(_, by)| by.is_empty()).map(|(key, _)| key).collect();
        let wheels: Vec<Stored> =
            stock.wheels.into_iter().filter(|wheel| wheel.needed_by.is_empty()).collect();
        if pruning == Pruning::Remove {
            // A lock without its wheels fetches them again; wheels without a lock would only lie there.
            for key in &locks {
                disk::remove_file_if_there(&layout.locks().join(format!("{key}.json")))?;
            }
            for name in stock.debris.iter().chain(wheels.iter().map(|wheel| &wheel.sha256)) {
                disk::remove_tree(&layout.wheels().join(name))?;
            }
        }
        Ok(Pruned { wheels, locks })
    }

    /// Removes what a killed process left half-way into the store.
    pub(in crate::python) fn sweep(&self) -> Outcome<()> {
        let store = self.site.layout.wheels();
        for name in record::entries(&store)? {
            if name.starts_with(ASIDE) {
                disk::remove_tree(&store.join(name))?;
            }
        }
        Ok(())
    }

    /// What lies in one folder of the store; `None` where that is not one whole wheel.
    fn stored(&self, sha256: &str) -> Outcome<Option<Stored>> {
        let folder = self.site.layout.wheels().join(sha256);
        if !is_digest(sha256) || !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
            return Ok(None);
        }
        let files = record::entries(&folder)?;
        let [file] = files.as_slice() else { return Ok(None) };
        let (Some(name), Ok(found)) = (WheelName::parse(file), fs::symlink_metadata(folder.join(file)))
        else {
            return Ok(None);
        };
        Ok(found.is_file().then(|| Stored {
            name: name.name,
            version: name.version,
            file: file.clone(),
            sha256: sha256.to_owned(),
            size: found.len(),
            needed_by: Vec::new(),
        }))
    }
}
