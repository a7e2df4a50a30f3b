//! Building a generation: always in a fresh folder at its final path, never over an old one, never resumed.

use std::path::{Path, PathBuf};

use super::contamination::Contamination;
use super::generation::{Environments, Generation, Wanted};
use super::installer::{Job, WHEELS};
use super::lock::Lock;
use super::proof::{self, Proved};
use super::record::{self, Built, Origin, Record, Use};
use super::wheels::Wheels;
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::interrupt;
use crate::settings::Strategy;
use crate::settings::names::{GenerationName, RunId};

/// A generation that is good and fits what was wanted.
#[derive(Debug, Clone)]
pub struct Ensured {
    /// The generation.
    pub generation: Generation,
    /// Whether it had to be built.
    pub made: Made,
    /// Why it was built or reused.
    pub why: String,
    /// Environments that somebody changed: the live one, and those that would have been reused.
    pub contaminated: Vec<Contaminated>,
}

/// A generation that somebody changed, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contaminated {
    /// The generation.
    pub generation: GenerationName,
    /// What was found.
    pub found: Contamination,
}

/// How a generation was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was built now.
    Built,
    /// It was there already.
    Reused,
}

impl Environments<'_> {
    /// Makes sure that a good generation of what is wanted is there (RW-5.3). With [`Strategy::Always`] (RW-5.3a) one
    /// is built anew unless run `run` has built it already; with [`Strategy::WhenChanged`] (RW-5.3b) the newest good
    /// one is reused. What an interrupted run left unfinished is discarded first.
    ///
    /// # Errors
    /// The build fails, and then nothing of it is left; the reason is the installer's own.
    pub fn ensure(&self, wanted: &Wanted, strategy: Strategy, run: &RunId) -> Outcome<Ensured> {
        self.check_strict(wanted)?;
        self.ensure_from(wanted, None, strategy, run)
    }

    /// Makes sure of what an earlier generation was, built from the lock that this was built from, where it is not good any
    /// more.
    ///
    /// # Errors
    /// Nothing is written down of it from which it could be built; or the build fails.
    pub fn ensure_again(
        &self,
        wanted: &Wanted,
        name: &GenerationName,
        strategy: Strategy,
        run: &RunId,
    ) -> Outcome<Ensured> {
        let record = Record::read(self.site.layout, name)?;
        let is_changed = record.as_ref().is_some_and(|record| !record.is_good());
        let why = if is_changed { "was changed by hand" } else { "is gone, or its interpreter is" };
        let lock = match &record {
            Some(record) => self.lock_in(record)?,
            // Pruned, and all that was known of it with it: the same comes of its definition, unless that may have been
            // resolved in another way then.
            None => self.known_lock(wanted)?.filter(|lock| lock.summary().not_reproducible.is_none()),
        };
        let Some(mut lock) = lock else {
            return Err(Failure::new(format!(
                "the environment {name} {why}, and no lock is kept from which the same could be built"
            ))
            .hint("ladylinux-refresh history")
            .hint("ladylinux-refresh run"));
        };
        // The definition's own lock may say something else by now, and that stays as it is.
        lock.key = format!("{}-{}", wanted.key(), &lock.digest()[..16]);
        let built = record.as_ref().and_then(Record::built);
        if built.is_some_and(|built| built.parts.interpreter != wanted.interpreter.identity()) {
            lock.wheels.clear();
        }
        let mut ensured = self.ensure_from(wanted, Some(lock), strategy, run)?;
        ensured.why = match ensured.made {
            Made::Built => format!("the environment {name} {why}: built again from its lock"),
            Made::Reused => format!("the environment {name} {why}; this one is of the same lock"),
        };
        Ok(ensured)
    }

    /// From this lock, or from that of the definition.
    fn ensure_from(
        &self,
        wanted: &Wanted,
        lock: Option<Lock>,
        strategy: Strategy,
        run: &RunId,
    ) -> Outcome<Ensured> {
        self.discard_incomplete()?;
        let mut contaminated = Vec::new();
        if let Some(live) = self.current()?.generation() {
            contaminated.extend(self.examine(live)?);
        }
        let is_of_this_run =
            |generation: &Generation| generation.record.built().is_some_and(|built| built.run == *run);
        let mut lock = lock.map_or_else(|| self.lock(wanted), Ok)?;
        // The best one last: what this run has built, else the newest.
        let mut of_this = self.of_fingerprint(&wanted.parts(&lock).fingerprint())?;
        of_this.retain(|generation| strategy == Strategy::WhenChanged || is_of_this_run(generation));
        of_this.sort_by_key(is_of_this_run);
        while let Some(generation) = of_this.pop() {
            if let Some(found) = self.examine(&generation)? {
                contaminated.push(found);
                continue;
            }
            let generation = self.try_again(generation, wanted)?;
            let why = if is_of_this_run(&generation) {
                "this run has built it already"
            } else {
                "the definition has not changed"
            };
            return Ok(Ensured { generation, made: Made::Reused, why: why.to_owned(), contaminated });
        }
        let why = self.reason_to_build(wanted, strategy)?.unwrap_or_default();
        Wheels::new(self.site).ensure(&mut lock, &wanted.interpreter)?;
        let generation = self.build(wanted, &lock, run)?;
        Ok(Ensured { generation, made: Made::Built, why, contaminated })
    }

    /// Tries the imports of a generation that was proved for another use than today's: the host declares other modules, or
    /// starts its service with another command.
    fn try_again(&self, mut generation: Generation, wanted: &Wanted) -> Outcome<Generation> {
        let site = self.site;
        let wish = Use::of(site.python);
        let Some(built) = generation.record.built().filter(|built| built.tried_for.as_ref() != Some(&wish))
        else {
            return Ok(generation);
        };
        let store = Wheels::new(site);
        // Of a wheel that is not kept any more nobody knows what it starts; it was tried when it was new.
        let kept = built.kept.iter().flat_map(|lock| &lock.wheels).map(|wheel| store.path(wheel));
        let wheels: Vec<PathBuf> = kept.filter(|path| path.exists()).collect();
        let until = clock::monotonic() + site.python.deadline;
        let (folder, scratch) = (generation.path.clone(), site.layout.cache());
        let job = Job { site, interpreter: &wanted.interpreter, folder: &folder, scratch: &scratch, until };
        proof::try_imports(&job, &wheels)
            .context(|| format!("the environment {} does not serve any more", generation.name))?;
        generation.record = generation.record.tried_for(wish);
        generation.record.write(site.layout)?;
        Ok(generation)
    }

    /// Looks whether somebody changed a generation; where that is so, it is written down, and the generation is never used
    /// again.
    ///
    /// # Errors
    /// The generation cannot be looked at, or its record not be written.
    pub fn examine(&self, generation: &Generation) -> Outcome<Option<Contaminated>> {
        let Some(found) = self.contamination(generation)? else { return Ok(None) };
        self.condemn(generation, &found)?;
        Ok(Some(Contaminated { generation: generation.name.clone(), found }))
    }

    fn build(&self, wanted: &Wanted, lock: &Lock, run: &RunId) -> Outcome<Generation> {
        let layout = self.site.layout;
        disk::make_folder(&layout.environments(), 0o755)?;
        disk::make_folder(&layout.environment_records(), 0o755)?;
        let name = self.next_name(&wanted.parts(lock).fingerprint())?;
        let scratch = layout.cache().join(format!("definitions-{name}"));
        let events = self.site.runner.events();
        events.note(&format!("building the environment {name} with {}", wanted.installer.identity()));
        let built = self.build_as(&name, wanted, lock, run, &scratch);
        let tidied = interrupt::shielded(|| {
            if built.is_err() {
                Record::remove(layout, &name)?;
                disk::remove_tree(&layout.environment(&name))?;
            }
            disk::remove_tree(&scratch)
        });
        let generation = built.context(|| format!("cannot build the environment {name}"))?;
        tidied?;
        Ok(generation)
    }

    /// The steps of a build.
    fn build_as(
        &self,
        name: &GenerationName,
        wanted: &Wanted,
        lock: &Lock,
        run: &RunId,
        scratch: &Path,
    ) -> Outcome<Generation> {
        let site = self.site;
        let start = clock::monotonic();
        let folder = site.layout.environment(name);
        disk::remove_tree(scratch)?;
        disk::make_folder(scratch, 0o755)?;
        let requirements = self.lay_out(lock, scratch)?;
        disk::make_owned_folder(&folder, 0o755, &site.owner)?;
        checkpoint::reach("python:folder made");
        let until = start + site.python.deadline;
        let job = Job { site, interpreter: &wanted.interpreter, folder: &folder, scratch, until };
        wanted.installer.make(&job)?;
        checkpoint::reach("python:environment made");
        job.in_time()?;
        wanted.installer.install(&job, &requirements)?;
        checkpoint::reach("python:packages installed");
        job.in_time()?;
        wanted.installer.check(&job).map_err(|failure| lock.blame(failure))?;
        let wheels = Wheels::new(site);
        let wheels: Vec<PathBuf> = lock.wheels.iter().map(|wheel| wheels.path(wheel)).collect();
        let Proved { packages, digest, manifest } = proof::prove(&job, &wheels)?;
        manifest.write(&record::manifest_file(site.layout, name))?;
        checkpoint::reach("python:before the record");
        let built = Built {
            run: run.clone(),
            fingerprint: wanted.parts(lock).fingerprint(),
            parts: wanted.parts(lock),
            wheels: digests_of(lock),
            kept: Some(lock.clone()),
            tried_for: Some(Use::of(site.python)),
            interpreter: wanted.interpreter.clone(),
            duration_ms: u64::try_from(clock::monotonic().duration_since(start).as_millis())
                .unwrap_or(u64::MAX),
        };
        let record = Record::new(
            name.clone(),
            Origin::Built(Box::new(built)),
            packages,
            manifest.files(),
            Some(digest),
        );
        record.write(site.layout)?;
        checkpoint::reach("python:recorded");
        Ok(Generation { name: name.clone(), path: folder, record })
    }
}

impl Environments<'_> {
    /// Puts links to the wheels of a lock, and the list of them, into the folder that is built from.
    fn lay_out(&self, lock: &Lock, scratch: &Path) -> Outcome<Vec<PathBuf>> {
        if lock.wheels.is_empty() {
            return Ok(Vec::new());
        }
        let wheels = Wheels::new(self.site);
        let folder = scratch.join(WHEELS);
        disk::make_folder(&folder, 0o755)?;
        let mut list = String::new();
        for wheel in &lock.wheels {
            disk::point_link(&folder.join(&wheel.file), &wheels.path(wheel))?;
            list.push_str(&format!("{}=={} --hash=sha256:{}\n", wheel.name, wheel.version, wheel.sha256));
        }
        let file = scratch.join("wheels.txt");
        disk::write_atomic(&file, list.as_bytes(), 0o644)?;
        Ok(vec![file])
    }
}

/// The digests of the wheels that a lock names for this machine, sorted.
fn digests_of(lock: &Lock) -> Vec<String> {
    let mut digests: Vec<String> = lock.wheels.iter().map(|wheel| wheel.sha256.clone()).collect();
    digests.sort();
    digests
}
