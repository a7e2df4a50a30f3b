//! Reads environments: which exist, which is live, which one the release needs. This file only reads.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use refresh_programs::units::Role;
use refresh_settings::Strategy;
use refresh_settings::names::EnvironmentName;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::manifest::contamination::Contamination;
use refresh_system::text::aside;

use super::compare::{By, COMPARE, CompareRequest};
use super::definitions::Definitions;
use super::interpreter::Interpreter;
use super::lock::Lock;
use super::record::{self, FingerprintParts, Package, Record};
use super::{Site, network, site, uv};

/// The environments of one installation.
#[derive(Debug, Clone, Copy)]
pub struct Environments<'a> {
    pub(super) site: Site<'a>,
}

/// The specification of an environment: everything that defines it.
#[derive(Debug, Clone)]
pub struct EnvironmentSpec {
    pub(super) definitions: Definitions,
    pub(super) interpreter: Interpreter,
    pub(super) cutoff: Option<jiff::Timestamp>,
    parts: FingerprintParts,
    key: String,
}

/// A recorded environment that still exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEnvironment {
    /// Its name.
    pub name: EnvironmentName,
    /// Its directory.
    pub path: PathBuf,
    /// Its record.
    pub record: Record,
}

/// The present state of `venv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VenvState {
    /// It does not exist.
    Missing,
    /// It points to an environment that is recorded, and good unless it was changed.
    Recorded(Box<RecordedEnvironment>),
    /// It points to something without a record.
    Unrecorded(PathBuf),
    /// It is a real directory, from before the tool.
    RealDirectory,
}

impl EnvironmentSpec {
    /// Returns the sixteen hexadecimal digits that identify the resolved input; locks are named by them.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns everything that defines the environment, after it is resolved; environments are named by the fingerprint
    /// of these parts.
    pub fn parts(&self, lock: &Lock) -> FingerprintParts {
        FingerprintParts { lock: lock.digest(), ..self.parts.clone() }
    }

    /// Returns the sha256 of the definition, in which comments and line endings do not count.
    pub fn definitions_digest(&self) -> &str {
        &self.parts.definitions
    }

    /// Returns the definition.
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// Returns the interpreter.
    pub fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }
}

impl RecordedEnvironment {
    /// Returns whether the interpreter of its programs still exists. It is outside the environment, and a new release of
    /// the distribution removes it.
    fn has_interpreter(&self) -> bool {
        self.path.join("bin/python").exists()
    }

    /// Returns the interpreter that it was built with, if that no longer exists.
    pub fn lost_interpreter(&self) -> Option<&Interpreter> {
        let built = self.record.built().filter(|_| !self.has_interpreter())?;
        Some(&built.interpreter)
    }
}

impl VenvState {
    /// Returns the live environment, if it is recorded.
    pub fn recorded(&self) -> Option<&RecordedEnvironment> {
        match self {
            Self::Recorded(environment) => Some(environment),
            _ => None,
        }
    }
}

impl<'a> Environments<'a> {
    /// Returns the environments of an installation.
    pub fn new(site: Site<'a>) -> Self {
        Self { site }
    }

    /// Composes the specification. Releases of packages after `cutoff` do not count.
    ///
    /// # Errors
    /// The application does not accept the interpreter.
    pub fn wanted(
        &self,
        definitions: Definitions,
        interpreter: Interpreter,
        cutoff: Option<jiff::Timestamp>,
    ) -> Outcome<EnvironmentSpec> {
        interpreter.accept(definitions.requires_python.as_deref())?;
        // The application's own lock does not depend on the date of its commit.
        let counted = cutoff.filter(|_| !definitions.is_locked());
        let parts = FingerprintParts {
            definitions: hex::encode(Sha256::digest(definitions.normalized())),
            interpreter: match self.site.python.system_site_packages {
                Some(true) => format!("{} with the packages of the system", interpreter.identity()),
                _ => interpreter.identity(),
            },
            installer: uv::identity(),
            indexes: network::indexes(self.site.python),
            lock: String::new(),
            sources: self.site.python.allow_source,
            cutoff: counted,
        };
        let key = parts.key();
        Ok(EnvironmentSpec { definitions, interpreter, cutoff, parts, key })
    }

    /// Returns the newest good environment of the specification that is unchanged.
    ///
    /// # Errors
    /// The records or an environment cannot be read.
    pub fn ready(&self, wanted: &EnvironmentSpec) -> Outcome<Option<RecordedEnvironment>> {
        let Some(lock) = self.known_lock(wanted)? else { return Ok(None) };
        for environment in self.of_fingerprint(&wanted.parts(&lock).fingerprint())?.into_iter().rev() {
            if self.contamination(&environment)?.is_none() {
                return Ok(Some(environment));
            }
        }
        Ok(None)
    }

    /// Returns why [`Self::ensure`] would build; `None` if an environment is ready (RW-5.3a, RW-5.3b).
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn reason_to_build(&self, wanted: &EnvironmentSpec, strategy: Strategy) -> Outcome<Option<String>> {
        if strategy == Strategy::Always {
            return Ok(Some("a new environment was requested".to_owned()));
        }
        if self.ready(wanted)?.is_some() {
            return Ok(None);
        }
        let reason = match self.current()? {
            VenvState::Missing => "no environment exists yet".to_owned(),
            VenvState::RealDirectory => "venv is from before this tool".to_owned(),
            VenvState::Unrecorded(path) => format!("the environment {} has no record", path.display()),
            VenvState::Recorded(live) if !live.has_interpreter() => {
                "the interpreter of the environment does not exist".to_owned()
            }
            VenvState::Recorded(live) if self.is_contaminated_one_of(&live, wanted)? => {
                "the environment was changed manually".to_owned()
            }
            VenvState::Recorded(live) => match live.record.built() {
                None => "venv is from before this tool".to_owned(),
                Some(built) => match self.known_lock(wanted)? {
                    Some(lock) => built.parts.change(&wanted.parts(&lock)),
                    None => built.parts.change_before_resolving(&wanted.parts),
                },
            },
        };
        Ok(Some(reason))
    }

    /// Inspects `venv`.
    ///
    /// # Errors
    /// It is neither a link nor a directory, or cannot be inspected.
    pub fn current(&self) -> Outcome<VenvState> {
        let venv = self.site.layout.venv();
        let context = || format!("cannot read {}", venv.display());
        let found = match fs::symlink_metadata(&venv) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(VenvState::Missing),
            found => found.context(context)?,
        };
        if found.is_dir() {
            return Ok(VenvState::RealDirectory);
        }
        if !found.is_symlink() {
            return Err(Failure::new(format!("{} is neither a link nor a directory", venv.display()))
                .command_for("move it away", "mv", &[&venv, &aside(&venv)]));
        }
        let target = self.site.layout.home().join(fs::read_link(&venv).context(context)?);
        let name = (target.parent() == Some(self.site.layout.environments().as_path()))
            .then(|| target.file_name()?.to_str().and_then(|name| EnvironmentName::parse(name).ok()))
            .flatten();
        let environment = name.map(|name| self.known(&name)).transpose()?.flatten();
        Ok(environment
            .map_or(VenvState::Unrecorded(target), |environment| VenvState::Recorded(Box::new(environment))))
    }

    /// Returns `venv` if it is a directory that the tool did not make, and its programs see the packages of the system
    /// (`venv --system-site-packages`).
    pub fn sees_system_packages(&self) -> Option<PathBuf> {
        let place = match self.current().ok()? {
            VenvState::RealDirectory => self.site.layout.venv(),
            VenvState::Unrecorded(path) => path,
            _ => return None,
        };
        // Its owner may have created any kind of file there: no link is followed, and a pipe does not block.
        let file =
            disk::open_with(&place.join(site::CONFIGURATION), OFlags::NOFOLLOW | OFlags::NONBLOCK).ok()?;
        let mut text = Vec::new();
        file.take(64 << 10).read_to_end(&mut text).ok()?;
        site::shows_system(&String::from_utf8_lossy(&text)).then_some(place)
    }

    /// Returns all known environments, adopted ones included, sorted by name.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn list(&self) -> Outcome<Vec<RecordedEnvironment>> {
        let mut known = Vec::new();
        for name in record::known_names(self.site.layout)? {
            known.extend(self.known(&name)?);
        }
        Ok(known)
    }

    /// Returns one environment if it is good: recorded, never found changed, and with an existing interpreter.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn good(&self, name: &EnvironmentName) -> Outcome<Option<RecordedEnvironment>> {
        Ok(self
            .known(name)?
            .filter(|environment| environment.record.is_good() && environment.has_interpreter()))
    }

    /// Returns one environment if it is recorded and still a directory.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn known(&self, name: &EnvironmentName) -> Outcome<Option<RecordedEnvironment>> {
        let path = self.site.layout.environment(name);
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        if !is_directory {
            return Ok(None);
        }
        let record = Record::read(self.site.layout, name)?;
        Ok(record.map(|record| RecordedEnvironment { name: name.clone(), path, record }))
    }

    /// Reads which distributions are installed in an environment now, sorted by name.
    ///
    /// # Errors
    /// The environment cannot be read.
    pub fn packages(&self, environment: &RecordedEnvironment) -> Outcome<Vec<Package>> {
        record::installed(&environment.path)
    }

    /// Returns the change in an environment since its build, by the traces that every change leaves: only metadata is
    /// read. `None` if nothing changed, and for an adopted directory, which has no manifest.
    ///
    /// # Errors
    /// The environment cannot be inspected.
    pub fn contamination(&self, environment: &RecordedEnvironment) -> Outcome<Option<Contamination>> {
        self.compare(environment, By::Metadata)
    }

    /// Returns the same from a comparison of all bytes.
    ///
    /// # Errors
    /// The environment cannot be read.
    pub fn contamination_by_bytes(
        &self,
        environment: &RecordedEnvironment,
    ) -> Outcome<Option<Contamination>> {
        self.compare(environment, By::Content)
    }

    pub(super) fn compare(
        &self,
        environment: &RecordedEnvironment,
        by: By,
    ) -> Outcome<Option<Contamination>> {
        if environment.record.built().is_none() {
            return Ok(None);
        }
        let directory = environment.path.clone();
        let manifest = record::manifest_file(self.site.layout, &environment.name);
        let (operation, request) =
            (self.site.unit_options(Role::Build), CompareRequest { directory, manifest, by });
        let found: Option<Contamination> =
            self.site.units.call_as(&operation, self.site.owner, COMPARE, &request)?;
        Ok(found.or_else(|| environment.record.contamination().cloned()))
    }

    fn is_contaminated_one_of(&self, live: &RecordedEnvironment, wanted: &EnvironmentSpec) -> Outcome<bool> {
        let Some(lock) = self.known_lock(wanted)? else { return Ok(false) };
        let fingerprint = wanted.parts(&lock).fingerprint();
        let is_wanted = live.record.built().is_some_and(|built| built.fingerprint == fingerprint);
        Ok(is_wanted && self.contamination(live)?.is_some())
    }

    /// Records that an environment was changed: it is never used again.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn mark_contaminated(&self, environment: &RecordedEnvironment, found: &Contamination) -> Outcome<()> {
        if !environment.record.is_good() {
            return Ok(());
        }
        environment.record.condemned(found).write(self.site.layout)
    }

    /// Returns the good environments of a fingerprint, the oldest first.
    pub(super) fn of_fingerprint(&self, fingerprint: &str) -> Outcome<Vec<RecordedEnvironment>> {
        let mut good: Vec<(u64, RecordedEnvironment)> = Vec::new();
        for name in record::known_names(self.site.layout)? {
            let Some(number) = number(&name, fingerprint) else { continue };
            good.extend(self.good(&name)?.map(|environment| (number, environment)));
        }
        good.sort_by_key(|(number, _)| *number);
        Ok(good.into_iter().map(|(_, environment)| environment).collect())
    }

    /// Returns the first name after all known names that begin with this word.
    pub(super) fn next_name(&self, word: &str) -> Outcome<EnvironmentName> {
        let names = record::known_names(self.site.layout)?;
        let last = names.iter().filter_map(|name| number(name, word)).max().unwrap_or(0);
        EnvironmentName::parse(&format!("{word}-{}", last + 1))
    }
}

impl FingerprintParts {
    /// Returns the first sixteen hexadecimal digits of the sha256 over all parts.
    pub fn fingerprint(&self) -> String {
        let sources = self.sources.to_string();
        let parts =
            [&self.definitions, &self.interpreter, &self.installer, &self.indexes, &self.lock, &sources];
        hex::encode(digest_of(&parts))[..16].to_owned()
    }

    /// Returns the first sixteen hexadecimal digits of the sha256 over the resolved input; locks are named by them.
    pub fn key(&self) -> String {
        let sources = self.sources.to_string();
        let cutoff = self.cutoff.map(|cutoff| cutoff.to_string()).unwrap_or_default();
        let parts = [&self.definitions, &self.interpreter, &self.indexes, &sources, &cutoff];
        hex::encode(digest_of(&parts))[..16].to_owned()
    }

    /// Returns the names of the parts that differ in `wanted`.
    fn change(&self, wanted: &Self) -> String {
        let named = |what: &str, before: &str, after: &str| {
            (before != after).then(|| format!("{what} changed from {before:?} to {after:?}"))
        };
        let changes = [
            (self.definitions != wanted.definitions).then(|| "the requirements changed".to_owned()),
            named("the interpreter", &self.interpreter, &wanted.interpreter),
            named("uv", &self.installer, &wanted.installer),
            named("the package index", &self.indexes, &wanted.indexes),
            (self.sources != wanted.sources).then(|| {
                let now = if wanted.sources { "allowed now" } else { "not allowed any more" };
                format!("building from source is {now}")
            }),
            (self.definitions == wanted.definitions && self.cutoff != wanted.cutoff)
                .then(|| "the date of the requirements changed".to_owned()),
            (self.definitions == wanted.definitions && self.lock != wanted.lock)
                .then(|| "the lock changed".to_owned()),
        ];
        let changes: Vec<String> = changes.into_iter().flatten().collect();
        if changes.is_empty() {
            return "the environment of these requirements does not exist".to_owned();
        }
        changes.join(", ")
    }

    /// Returns the same if the definition is not resolved yet.
    fn change_before_resolving(&self, wanted: &Self) -> String {
        let change = self.change(&Self { lock: self.lock.clone(), ..wanted.clone() });
        let is_dated_only = *self == Self { lock: self.lock.clone(), cutoff: self.cutoff, ..wanted.clone() };
        if is_dated_only {
            format!("{change}; if it resolves to the same packages, no environment is built")
        } else {
            change
        }
    }
}

/// Returns the number in a name that begins with this word.
pub(super) fn number(name: &EnvironmentName, word: &str) -> Option<u64> {
    name.as_str().strip_prefix(word)?.strip_prefix('-')?.parse().ok()
}

fn digest_of(parts: &[&String]) -> Vec<u8> {
    let mut state = Sha256::new();
    for part in parts {
        state.update((part.len() as u64).to_be_bytes());
        state.update(part.as_bytes());
    }
    state.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(definitions: &str, interpreter: &str) -> FingerprintParts {
        FingerprintParts {
            definitions: definitions.into(),
            interpreter: interpreter.into(),
            installer: "uv 1".into(),
            indexes: String::new(),
            lock: String::new(),
            sources: false,
            cutoff: None,
        }
    }

    #[test]
    fn every_part_counts_in_the_fingerprint_and_the_change_is_named() {
        let before = parts("a", "cpython 3.11.2");
        assert_eq!(before.fingerprint(), parts("a", "cpython 3.11.2").fingerprint());
        assert_ne!(before.fingerprint(), parts("b", "cpython 3.11.2").fingerprint());
        assert_ne!(before.fingerprint(), parts("a", "cpython 3.12.1").fingerprint());
        assert_eq!(before.change(&parts("b", "cpython 3.11.2")), "the requirements changed");
        assert!(before.change(&parts("a", "cpython 3.12.1")).contains("the interpreter changed from"));
        let with_sources = FingerprintParts { sources: true, ..before.clone() };
        assert_ne!(before.fingerprint(), with_sources.fingerprint());
        assert_eq!(before.change(&with_sources), "building from source is allowed now");
    }

    #[test]
    fn the_date_of_a_definition_counts_for_the_lock_and_not_for_the_environment() {
        let before = parts("a", "cpython 3.11.2");
        let later =
            FingerprintParts { cutoff: Some("2024-04-01T00:00:00Z".parse().unwrap()), ..before.clone() };
        assert_ne!(before.key(), later.key());
        assert_eq!(before.fingerprint(), later.fingerprint());
        assert_eq!(before.change(&later), "the date of the requirements changed");
        assert!(
            before
                .change_before_resolving(&later)
                .ends_with("changed; if it resolves to the same packages, no environment is built")
        );
    }

    #[test]
    fn the_number_of_an_environment_is_read_for_its_own_fingerprint_only() {
        let name = |text| EnvironmentName::parse(text).unwrap();
        assert_eq!(number(&name("abc-10"), "abc"), Some(10));
        assert_eq!(number(&name("abcd-10"), "abc"), None);
    }
}
