//! The record of an environment, kept outside it. Only an environment with a record is finished and can be good.
//!
//! `<name>.json` is the record, `<name>.manifest` lists the environment's files. The record is written last; a directory
//! without one was not finished, whatever its content.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_events::run_report::Overlap;
use refresh_settings::Python;
use refresh_settings::layout::Layout;
use refresh_settings::names::{EnvironmentName, RunId};
use refresh_system::disk;
use refresh_system::error::Outcome;
use refresh_system::manifest::contamination::Contamination;
use refresh_system::text::normal_name;

use super::interpreter::Interpreter;
use super::lock::Lock;

/// The version of the record.
const SCHEMA: u32 = 2;

/// The oldest supported version: its records have no digest.
const OLDEST: u32 = 1;

/// The record of one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The environment.
    pub name: EnvironmentName,
    /// Whether it may be used.
    pub state: State,
    /// Its origin.
    pub origin: Origin,
    /// When it was recorded.
    pub recorded_at: jiff::Timestamp,
    /// The installed distributions, sorted by name.
    pub packages: Vec<Package>,
    /// The number of its regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The digest of the installed files, the same on every machine. `None` for an adopted directory, and for a record
    /// of an older version of the tool.
    #[serde(default)]
    pub digest: Option<String>,
}

/// Whether an environment may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It was built completely and verified.
    Good,
    /// It was changed afterwards: it is never used again, not even if the change was reverted.
    Contaminated {
        /// The time of the discovery.
        noticed_at: jiff::Timestamp,
        /// The change.
        found: Contamination,
    },
}

/// The origin of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was built by a run.
    Built(Box<Built>),
    /// It is a directory from before the tool; it serves only as a rollback target.
    Adopted,
}

/// The run that built an environment, its sources and its tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// The run that built it.
    pub run: RunId,
    /// The fingerprint of everything that defines it.
    pub fingerprint: String,
    /// The parts of the fingerprint.
    pub parts: FingerprintParts,
    /// The lock that it was built from. It stays the same even if its definition resolves to another result later.
    /// `None` if an older version of the tool built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Lock>,
    /// The import checks that it passed; `None` if an older version of the tool built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_for: Option<ImportChecks>,
    /// The interpreter.
    pub interpreter: Interpreter,
    /// Files that several distributions bring, and the one whose file is in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlaps: Vec<Overlap>,
    /// Distributions that the build compiled from source, as `name version`.
    #[serde(rename = "built_here", default, skip_serializing_if = "Vec::is_empty")]
    pub from_source: Vec<String>,
    /// How long the build took, in milliseconds.
    pub duration_ms: u64,
}

/// The parts of the fingerprint of an environment, kept separately to name a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FingerprintParts {
    /// The sha256 of the normalized definition.
    pub definitions: String,
    /// The interpreter's identity.
    pub interpreter: String,
    /// uv's version.
    pub installer: String,
    /// The package indexes, if they are not the default.
    pub indexes: String,
    /// The digest of the lock; empty if an older version of the tool built it.
    #[serde(default)]
    pub lock: String,
    /// Whether packages without a wheel may be built from source.
    pub sources: bool,
    /// The date until which releases count, unless the application's own lock determines the packages. It is part of
    /// the resolved input, not of the fingerprint: a different date with the same result gives the same environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<jiff::Timestamp>,
}

/// The demands of the host on an environment beyond its packages. Each names modules that must be importable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportChecks {
    /// The modules that the host declares.
    pub imports: Vec<String>,
    /// The service's own command.
    pub command: Vec<String>,
}

impl ImportChecks {
    /// Returns the checks of the settings.
    pub(super) fn of(python: &Python) -> Self {
        Self { imports: python.imports.clone(), command: python.command.clone() }
    }
}

/// An installed distribution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// The name in its normal form.
    pub name: String,
    /// The version.
    pub version: String,
}

impl Record {
    /// Creates the record of an environment that is now good.
    pub(super) fn new(
        name: EnvironmentName,
        origin: Origin,
        packages: Vec<Package>,
        size: (u64, u64),
        digest: Option<String>,
    ) -> Self {
        let recorded_at = refresh_system::clock::now();
        Self {
            schema: SCHEMA,
            name,
            state: State::Good,
            origin,
            recorded_at,
            packages,
            files: size.0,
            bytes: size.1,
            digest,
        }
    }

    /// Returns how it was built; `None` for an adopted directory.
    pub fn built(&self) -> Option<&Built> {
        match &self.origin {
            Origin::Built(built) => Some(built),
            Origin::Adopted => None,
        }
    }

    /// Returns whether it can be made live.
    pub fn is_good(&self) -> bool {
        self.state == State::Good
    }

    /// Returns the change that was found in it, if there is one.
    pub(crate) fn contamination(&self) -> Option<&Contamination> {
        match &self.state {
            State::Good => None,
            State::Contaminated { found, .. } => Some(found),
        }
    }

    /// Returns the record of the same environment after it also passed these checks.
    pub(super) fn tried_for(&self, tried: ImportChecks) -> Self {
        let mut record = self.clone();
        if let Origin::Built(built) = &mut record.origin {
            built.tried_for = Some(tried);
        }
        record
    }

    /// Returns the record of the same environment, marked as changed.
    pub(super) fn condemned(&self, found: &Contamination) -> Self {
        let state = State::Contaminated { noticed_at: refresh_system::clock::now(), found: found.clone() };
        Self { schema: SCHEMA, state, ..self.clone() }
    }

    /// Writes the record, atomically and durably.
    pub(super) fn write(&self, layout: &Layout) -> Outcome<()> {
        disk::make_directory(&layout.environment_records(), 0o755)?;
        disk::write_json(&record_file(layout, &self.name), self, 0o644)
    }

    /// Reads the record of an environment; `None` if there is none that this version accepts.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(layout: &Layout, name: &EnvironmentName) -> Outcome<Option<Self>> {
        let Some(bytes) = disk::read_own(&record_file(layout, name))? else { return Ok(None) };
        let read: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(read.filter(|record| (OLDEST..=SCHEMA).contains(&record.schema) && record.name == *name))
    }

    /// Removes the record and the manifest, the record first and durably.
    pub(super) fn remove(layout: &Layout, name: &EnvironmentName) -> Outcome<()> {
        if layout.environment_records().is_dir() {
            disk::remove_file_durably(&record_file(layout, name))?;
            disk::remove_file_if_there(&manifest_file(layout, name))?;
        }
        Ok(())
    }
}

/// Returns the file of an environment's record.
fn record_file(layout: &Layout, name: &EnvironmentName) -> PathBuf {
    layout.environment_records().join(format!("{name}.json"))
}

/// Returns the file of an environment's manifest.
pub(super) fn manifest_file(layout: &Layout, name: &EnvironmentName) -> PathBuf {
    layout.environment_records().join(format!("{name}.manifest"))
}

/// Returns the names for which there is a directory, a record or a manifest, sorted.
pub(super) fn known_names(layout: &Layout) -> Outcome<Vec<EnvironmentName>> {
    let mut names = Vec::new();
    for directory in [layout.environments(), layout.environment_records()] {
        for name in entries(&directory)? {
            let stem = name.strip_suffix(".json").or(name.strip_suffix(".manifest")).unwrap_or(&name);
            names.extend(EnvironmentName::parse(stem).ok());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Returns the names in a directory that are text; an empty list if the directory does not exist.
pub(super) fn entries(directory: &Path) -> Outcome<Vec<String>> {
    Ok(disk::names(directory)?.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// The largest size of a distribution's metadata, in bytes; long descriptions have some hundred thousand.
pub(super) const METADATA_LIMIT: u64 = 8 << 20;

/// Reads which distributions are installed in the environment at `directory`, sorted by name.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn installed(directory: &Path) -> Outcome<Vec<Package>> {
    let mut packages = Vec::new();
    for version in entries(&directory.join("lib"))?.into_iter().filter(|name| name.starts_with("python")) {
        let site = directory.join("lib").join(version).join("site-packages");
        for name in entries(&site)?.into_iter().filter(|name| name.ends_with(".dist-info")) {
            // The owner of the environment may have put any file there; the name of the directory has the same
            // information.
            let metadata = disk::read_at_most(&site.join(&name).join("METADATA"), METADATA_LIMIT);
            let metadata = metadata.ok().flatten().unwrap_or_default();
            packages.extend(parse_metadata(&metadata).or_else(|| parse_directory_name(&name)));
        }
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

/// Reads name and version from a distribution's metadata: headers up to the first empty line.
pub(super) fn parse_metadata(bytes: &[u8]) -> Option<Package> {
    let text = String::from_utf8_lossy(bytes);
    let header = |wanted: &str| {
        text.lines()
            .take_while(|line| !line.trim().is_empty())
            .find_map(|line| Some(line.strip_prefix(wanted)?.trim().to_owned()))
    };
    Some(Package { name: normal_name(&header("Name:")?), version: header("Version:")? })
}

fn parse_directory_name(name: &str) -> Option<Package> {
    let (name, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
    Some(Package { name: normal_name(name), version: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_version_come_from_the_headers_only() {
        let metadata =
            b"Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.2\n\nName: not this\nVersion: nor this\n";
        let expected = Package { name: "foo-bar".into(), version: "1.2".into() };
        assert_eq!(parse_metadata(metadata).as_ref(), Some(&expected));
        assert_eq!(parse_metadata(b"\nName: x\nVersion: 1\n"), None);
        assert_eq!(parse_directory_name("foo_bar-1.2.dist-info"), Some(expected));
    }
}
