//! Resolving: from a definition to its lock, once per definition; what is known is never resolved again.
//!
//! The application's own lock is law and is only read. Everything else is resolved with a cutoff, the date of the
//! definition: releases after it do not exist, so that another machine comes to the same result later. Where that
//! cannot be had, the lock says why.

use std::path::Path;

use super::definitions::Definitions;
use super::generation::{Environments, Generation, Wanted};
use super::installer::{Installer, Job, Resolution, Unresolved};
use super::lock::{Lock, Origin};
use super::own_lock::Readers;
use super::pylock::Pylock;
use super::record::Record;
use super::requirements;
use super::trouble::Trouble;
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};

/// What an index has to have for a cutoff to mean anything.
const NO_UPLOAD_TIMES: &str = "the package index gives no upload times";

impl Environments<'_> {
    /// Returns the lock of what is wanted, where it is known. Only reads.
    ///
    /// # Errors
    /// The file of the lock cannot be read.
    pub fn known_lock(&self, wanted: &Wanted) -> Outcome<Option<Lock>> {
        Lock::read(self.site.layout, wanted.key())
    }

    /// Returns the lock that a generation was built from; `None` where it is not kept any more.
    ///
    /// # Errors
    /// The file of the lock cannot be read.
    pub fn lock_of(&self, generation: &Generation) -> Outcome<Option<Lock>> {
        self.lock_in(&generation.record)
    }

    /// The same, by what is written down of the generation.
    pub(super) fn lock_in(&self, record: &Record) -> Outcome<Option<Lock>> {
        let Some(built) = record.built() else { return Ok(None) };
        let is_its = |lock: &Lock| lock.digest() == built.parts.lock;
        // The one in force knows best where it comes from; what it says is the same.
        let in_force = Lock::read(self.site.layout, &built.parts.key())?.filter(is_its);
        Ok(in_force.or_else(|| built.kept.clone().filter(is_its)))
    }

    /// Refuses a definition without a lock of the application, where the host insists on one.
    ///
    /// # Errors
    /// There is none.
    pub fn check_strict(&self, wanted: &Wanted) -> Outcome<()> {
        let definitions = &wanted.definitions;
        if !self.site.python.strict || definitions.own_lock().is_some() || definitions.is_empty() {
            return Ok(());
        }
        let files: Vec<String> = definitions.files().map(|file| file.display().to_string()).collect();
        Err(Failure::new(format!(
            "the application locks nothing (in {}), and only locked definitions are accepted here",
            files.join(", ")
        ))
        .hint("ladylinux-refresh lock --format requirements")
        .hint("commit what that prints as the application's requirements; or leave --strict (python.strict) out"))
    }

    /// Returns the lock of what is wanted; resolves the definition where it is not known yet, and keeps the result.
    ///
    /// # Errors
    /// The definition does not resolve, or the application's own lock cannot be used.
    pub fn lock(&self, wanted: &Wanted) -> Outcome<Lock> {
        if let Some(known) = self.known_lock(wanted)? {
            return Ok(known);
        }
        let events = self.site.runner.events();
        wanted.definitions.notes().iter().for_each(|note| events.note(note));
        let lock = self.in_scratch(wanted, |scratch| match wanted.definitions.own_lock() {
            Some(own) => {
                events.note(&format!("the application's {} says what is installed", own.file().display()));
                self.read_own_lock(wanted, own, Readers::Fetched, scratch)
            }
            None => self.resolve(wanted, scratch),
        })?;
        if let Some(why) = lock.summary().not_reproducible {
            events.note(&format!("another machine may resolve the definition in another way: {why}"));
        }
        lock.write(self.site.layout)?;
        checkpoint::reach("python:locked");
        Ok(lock)
    }

    /// Returns what the application's own lock says, where it has one. No network is used.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn own_lock(&self, wanted: &Wanted) -> Outcome<Option<Lock>> {
        let Some(own) = wanted.definitions.own_lock() else { return Ok(None) };
        self.in_scratch(wanted, |scratch| self.read_own_lock(wanted, own, Readers::Present, scratch))
            .map(Some)
    }

    /// Resolves a definition anew with everything that was released until now, and keeps that as its lock. Where the same
    /// comes out, the lock stays what it was: one that other machines come to by themselves.
    ///
    /// # Errors
    /// The application has a lock of its own, which is law; or the definition does not resolve.
    pub fn upgrade(&self, wanted: &Wanted) -> Outcome<Lock> {
        if let Some(own) = wanted.definitions.own_lock() {
            let file = own.file().display();
            return Err(Failure::new(format!("the application's {file} is the lock, and is not made here"))
                .hint(format!("make {file} anew in the application's repository, and commit it")));
        }
        let lock = self.in_scratch(wanted, |scratch| {
            let way = Way::upgrade(clock::now());
            self.resolve_once(wanted, scratch, &way).map_err(|unresolved| unresolved.failure)
        })?;
        if let Some(before) = self.known_lock(wanted)?.filter(|before| before.digest() == lock.digest()) {
            return Ok(before);
        }
        lock.write(self.site.layout)?;
        Ok(lock)
    }

    fn in_scratch(&self, wanted: &Wanted, act: impl FnOnce(&Path) -> Outcome<Lock>) -> Outcome<Lock> {
        let scratch = self.site.layout.cache().join(format!("resolution-{}", wanted.key()));
        disk::remove_tree(&scratch)?;
        disk::make_folder(&scratch, 0o755)?;
        let made = act(&scratch);
        let tidied = disk::remove_tree(&scratch);
        let lock = made.context(|| "the definition cannot be resolved".to_owned())?;
        tidied?;
        Ok(lock)
    }

    pub(super) fn job<'b>(&'b self, wanted: &'b Wanted, scratch: &'b Path) -> Job<'b> {
        let until = clock::monotonic() + self.site.python.deadline;
        Job { site: self.site, interpreter: &wanted.interpreter, folder: scratch, scratch, until }
    }

    fn resolve(&self, wanted: &Wanted, scratch: &Path) -> Outcome<Lock> {
        self.site.runner.events().note("resolving the definition");
        let Some(cutoff) = wanted.cutoff else {
            let way = Way::free("the date of the definition is not known");
            return self.resolve_once(wanted, scratch, &way).map_err(|unresolved| unresolved.failure);
        };
        let limited = match self.resolve_once(wanted, scratch, &Way::until(cutoff, clock::now())) {
            Ok(lock) => return Ok(lock),
            Err(limited) if limited.trouble.is_some_and(Trouble::may_be_the_cutoff) => limited,
            Err(other) => return Err(other.failure),
        };
        let why = limited.because_of_upload_times.then_some(NO_UPLOAD_TIMES);
        let way = Way::free(why.unwrap_or_default());
        // What is told is why it does not resolve at all, not what the cutoff hid.
        let mut lock = self.resolve_once(wanted, scratch, &way).map_err(|unresolved| unresolved.failure)?;
        if why.is_none()
            && let Origin::Resolved { not_reproducible, .. } = &mut lock.origin
        {
            // pip refuses an index without upload times by itself, and writes none down.
            let found = match wanted.installer {
                Installer::Uv(_) => Some(Pylock::parse(&lock.document)?),
                Installer::Pip(_) => None,
            };
            *not_reproducible = Some(why_not_until(cutoff, found.as_ref()));
        }
        Ok(lock)
    }

    fn resolve_once(&self, wanted: &Wanted, scratch: &Path, way: &Way) -> Result<Lock, Unresolved> {
        let requirements = wanted.definitions.write_below(scratch)?;
        let Resolution { document, yanked } = if requirements.is_empty() {
            Resolution::default()
        } else {
            wanted.installer.resolve(&self.job(wanted, scratch), &requirements, way.cutoff)?
        };
        refuse_withdrawn(&yanked)?;
        let origin = Origin::Resolved {
            by: wanted.installer.identity(),
            cutoff: way.cutoff,
            not_reproducible: way.not_reproducible.clone().filter(|_| !requirements.is_empty()),
        };
        let mut lock = Lock::from_pylock(wanted.key(), origin, &document)?;
        keep_hashes(&wanted.definitions, &mut lock)?;
        Ok(lock)
    }
}

/// Refuses releases that their authors have withdrawn (PEP 592): installers take one that is pinned, with a warning that
/// nobody reads on a fleet.
fn refuse_withdrawn(yanked: &[String]) -> Outcome<()> {
    if yanked.is_empty() {
        return Ok(());
    }
    let what = yanked.join(", ");
    Err(Failure::new(format!("the definition pins what its authors have withdrawn (yanked): {what}"))
        .hint("pin another version in the requirements"))
}

/// How a definition is resolved.
struct Way {
    cutoff: Option<jiff::Timestamp>,
    not_reproducible: Option<String>,
}

impl Way {
    /// With what was released until the date of the definition.
    fn until(cutoff: jiff::Timestamp, now: jiff::Timestamp) -> Self {
        let ahead = (cutoff > now).then(|| "the definition is dated in the future".to_owned());
        Self { cutoff: Some(cutoff), not_reproducible: ahead }
    }

    /// With everything there is.
    fn free(why: &str) -> Self {
        Self { cutoff: None, not_reproducible: Some(why.to_owned()) }
    }

    /// With everything there is now, because somebody asked for it.
    fn upgrade(now: jiff::Timestamp) -> Self {
        let why = "it was upgraded on this machine; commit the lock, and it holds everywhere";
        Self { cutoff: Some(now), not_reproducible: Some(why.to_owned()) }
    }
}

/// Why a definition resolves without a cutoff only.
fn why_not_until(cutoff: jiff::Timestamp, found: Option<&Pylock>) -> String {
    let newer = found.map(|found| found.newer_than(cutoff)).unwrap_or_default();
    if newer.is_empty() && found.is_some_and(|found| !found.has_upload_times()) {
        return NO_UPLOAD_TIMES.to_owned();
    }
    let what = match newer.as_slice() {
        [] => String::new(),
        [one] => format!(" ({one})"),
        [one, rest @ ..] => format!(" ({one} and {} more)", rest.len()),
    };
    format!("the definition, of {cutoff}, asks for releases that are newer than itself{what}")
}

/// Holds a lock to the hashes that the definition gives for some of its packages: uv resolves without looking at them.
fn keep_hashes(definitions: &Definitions, lock: &mut Lock) -> Outcome<()> {
    for (file, line) in definitions.package_lines() {
        let allowed = requirements::sha256_of(&line.text);
        let requirements::Meaning::Package(package) = &line.meaning else { continue };
        let Some(locked) = lock.packages.iter_mut().find(|locked| locked.name == package.name) else {
            continue;
        };
        if allowed.is_empty() {
            continue;
        }
        let found = locked.digests.clone();
        locked.digests.retain(|digest| allowed.contains(digest));
        if locked.digests.is_empty() {
            return Err(Failure::new(format!(
                "{}, line {}: a download is not what its hash says: no file of {} {} that fits this machine has it",
                file.display(),
                line.number,
                locked.name,
                locked.version
            ))
            .because(Failure::new(format!("the index has sha256 {}", found.join(", "))))
            .hint("find out who changed the package, or correct its hash in the requirements"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_what_is_newer_than_the_definition() {
        let document = "[[packages]]\nname = 'a'\nversion = '1'\n\
            wheels = [{ url = 'u', upload-time = 2024-05-01T00:00:00Z, hashes = { sha256 = 'b' } }]\n";
        let cutoff = "2024-04-01T00:00:00Z".parse().unwrap();
        assert_eq!(
            why_not_until(cutoff, Some(&Pylock::parse(document).unwrap())),
            "the definition, of 2024-04-01T00:00:00Z, asks for releases that are newer than itself (a 1)"
        );
        let without = document.replace("upload-time = 2024-05-01T00:00:00Z,", "");
        assert_eq!(why_not_until(cutoff, Some(&Pylock::parse(&without).unwrap())), NO_UPLOAD_TIMES);
    }
}
