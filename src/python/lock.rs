//! The lock: every distribution of an environment by name, version and digest, for one definition.
//!
//! It is kept as `locks/<key>.json` and holds the standard document (`pylock.toml`, PEP 751) that it came from. The
//! key stands for what was resolved: the definition, the interpreter, the indexes. What a lock says never changes but
//! by a new resolution.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::pylock::{Package, Pylock, without_credentials};
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::settings::layout::Layout;

/// The version of the file.
const SCHEMA: u32 = 1;

/// What a definition resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    schema: u32,
    /// What was resolved, as sixteen hexadecimal digits.
    pub key: String,
    /// Where it comes from.
    pub origin: Origin,
    /// When it was made or first seen.
    pub made_at: jiff::Timestamp,
    /// The distributions, sorted by name.
    pub packages: Vec<Locked>,
    /// The document itself, as `pylock.toml`.
    pub document: String,
    /// The wheels of this platform, once they are in the store.
    pub wheels: Vec<Wheel>,
}

/// Where a lock comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The application brings it; it is law.
    Application {
        /// The file.
        file: PathBuf,
    },
    /// It was resolved by an installer.
    Resolved {
        /// The installer's kind and version.
        by: String,
        /// Releases after this instant were not looked at.
        cutoff: Option<jiff::Timestamp>,
        /// Why another machine may come to another result; `None` where it does not.
        not_reproducible: Option<String>,
    },
}

/// One distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// The name in its normal form.
    pub name: String,
    /// The version.
    pub version: String,
    /// On which machines it is wanted (PEP 508), where not on all.
    pub marker: Option<String>,
    /// The sha256 of every file that will do, sorted.
    pub digests: Vec<String>,
    /// The one place where its wheel is, where that is not an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A lock in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The application's file, or who resolved it.
    pub source: String,
    /// Releases after this instant were not looked at.
    pub cutoff: Option<jiff::Timestamp>,
    /// Why another machine may come to another result; `None` where it does not.
    pub not_reproducible: Option<String>,
    /// The sha256 over what it says.
    pub digest: String,
}

impl Summary {
    /// Returns it in a line.
    pub fn in_words(&self) -> String {
        let until = self.cutoff.map(|cutoff| format!(" from what was released until {cutoff}"));
        let doubt = self.not_reproducible.as_ref().map(|why| format!(", not reproducible: {why}"));
        format!("{}{}{}", self.source, until.unwrap_or_default(), doubt.unwrap_or_default())
    }
}

/// A wheel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wheel {
    /// The distribution's name in its normal form.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The name of the file.
    pub file: String,
    /// The sha256 of the file.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Lock {
    /// Reads a lock out of a document in the form of PEP 751.
    ///
    /// # Errors
    /// The document is not understood, or a package in it has no version or no sha256.
    pub fn from_pylock(key: &str, origin: Origin, document: impl AsRef<str>) -> Outcome<Self> {
        let document = document.as_ref();
        let packages = Pylock::parse(document)?.packages;
        let locked = packages.into_iter().map(Package::into_locked).collect::<Outcome<Vec<_>>>()?;
        Self::new(key, origin, locked, document)
    }

    /// Makes a lock of distributions and the document that they stand in.
    ///
    /// # Errors
    /// A distribution is locked twice.
    pub(super) fn new(key: &str, origin: Origin, mut packages: Vec<Locked>, document: &str) -> Outcome<Self> {
        packages.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        // uv writes one distribution in several entries where its files come from several places.
        packages.dedup();
        for pair in packages.windows(2) {
            if let [one, other] = pair
                && one.name == other.name
            {
                let [one, other] =
                    [one, other].map(|package| format!("{}=={}", package.name, package.version));
                return Err(Failure::new(format!("the lock has {one} and {other} for the same machine")));
            }
        }
        Ok(Self {
            schema: SCHEMA,
            key: key.to_owned(),
            origin,
            made_at: crate::clock::now(),
            packages,
            document: without_credentials(document),
            wheels: Vec::new(),
        })
    }

    /// Returns the lock as a file of requirements with hashes, as both installers read it.
    pub fn requirements(&self) -> String {
        let mut text = String::new();
        for package in &self.packages {
            match &package.url {
                // A blank has to stand before the marker: it could belong to the URL.
                Some(url) => text.push_str(&format!("{} @ {url}", package.name)),
                None => text.push_str(&format!("{}=={}", package.name, package.version)),
            }
            if let Some(marker) = &package.marker {
                text.push_str(&format!(" ; {marker}"));
            }
            for digest in &package.digests {
                text.push_str(&format!(" \\\n    --hash=sha256:{digest}"));
            }
            text.push('\n');
        }
        text
    }

    /// Returns the lock in a few words, for reports.
    pub fn summary(&self) -> Summary {
        let (source, cutoff, not_reproducible) = match &self.origin {
            Origin::Application { file } => (file.display().to_string(), None, None),
            Origin::Resolved { by, cutoff, not_reproducible } => {
                (format!("resolved by {by}"), *cutoff, not_reproducible.clone())
            }
        };
        Summary { source, cutoff, not_reproducible, digest: self.digest() }
    }

    /// Says of a failure to install that it is the application's own lock that is wrong, where there is one.
    pub(super) fn blame(&self, failure: Failure) -> Failure {
        let Origin::Application { file } = &self.origin else { return failure };
        let file = file.display();
        Failure::new(format!("the application's {file} is not complete, or contradicts itself"))
            .because(failure)
            .hint(format!("make {file} anew in the application's repository, and commit it"))
    }

    /// Names what another lock has instead, a line each: `+ name new`, `- name old`, `~ name old → new`.
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let table = |lock: &Self| -> BTreeMap<String, String> {
            lock.packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect()
        };
        let (before, after) = (table(self), table(other));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let told = |name: &String| match (before.get(name), after.get(name)) {
            (None, Some(new)) => Some(format!("+ {name} {new}")),
            (Some(old), None) => Some(format!("- {name} {old}")),
            (Some(old), Some(new)) if old != new => Some(format!("~ {name} {old} → {new}")),
            _ => None,
        };
        names.into_iter().filter_map(told).collect()
    }

    /// Returns the sha256 over what the lock says, in hexadecimal digits. Where it came from and when does not count.
    pub fn digest(&self) -> String {
        hexadecimal(&Sha256::digest(self.requirements().as_bytes()))
    }

    /// Reads the lock of a key; `None` where there is none that this version understands.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(layout: &Layout, key: &str) -> Outcome<Option<Self>> {
        let Some(bytes) = disk::read_if_there(&file(layout, key))? else { return Ok(None) };
        let read: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(read.filter(|lock| lock.schema == SCHEMA && lock.key == key))
    }

    /// Reads the lock of another machine.
    ///
    /// # Errors
    /// It is of another version, or not understood.
    pub(super) fn of_bytes(bytes: &[u8]) -> Outcome<Self> {
        let lock: Self = serde_json::from_slice(bytes).context(|| "the lock is not understood".to_owned())?;
        if lock.schema == SCHEMA {
            return Ok(lock);
        }
        Err(Failure::new(format!("the lock is of version {}, and this program reads {SCHEMA}", lock.schema)))
    }

    /// Keeps the lock, atomically and durably.
    pub(super) fn write(&self, layout: &Layout) -> Outcome<()> {
        disk::make_folder(&layout.locks(), 0o755)?;
        disk::write_json(&file(layout, &self.key), self, 0o644)
    }
}

fn file(layout: &Layout, key: &str) -> PathBuf {
    layout.locks().join(format!("{key}.json"))
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "lock-version = '1.0'\ncreated-by = 'x'\n\
        [[packages]]\nname = 'Six'\nversion = '1.17.0'\nmarker = \"python_version >= '3'\"\n\
        wheels = [{ url = 'https://x/six.whl', hashes = { sha256 = 'BB' } }]\n\
        sdist = { url = 'https://x/six.tar.gz', hashes = { sha256 = 'aa' } }\n\
        [[packages]]\nname = 'idna'\nversion = '3.10'\nwheels = [{ url = 'u', hashes = { sha256 = 'cc' } }]\n";

    fn origin() -> Origin {
        Origin::Application { file: "pylock.toml".into() }
    }

    #[test]
    fn a_document_is_read_into_pins_with_hashes() {
        let lock = Lock::from_pylock("k", origin(), DOCUMENT).unwrap();
        assert_eq!(
            lock.requirements(),
            "idna==3.10 \\\n    --hash=sha256:cc\nsix==1.17.0 ; python_version >= '3' \\\n    --hash=sha256:aa \
             \\\n    --hash=sha256:bb\n"
        );
    }

    #[test]
    fn a_lock_holds_one_version_of_each_and_tells_what_changed() {
        let lock = |text: &str| Lock::from_pylock("k", origin(), text);
        let one = |name: &str, version: &str| {
            format!(
                "[[packages]]\nname = '{name}'\nversion = '{version}'\nwheels = [{{ hashes = {{ sha256 = 'a' }} }}]\n"
            )
        };
        let before = lock(&(one("a", "1") + &one("b", "1"))).unwrap();
        let after = lock(&(one("a", "2") + &one("c", "1"))).unwrap();
        assert_eq!(before.changes(&after), ["~ a 1 → 2", "- b 1", "+ c 1"]);
        assert!(before.changes(&before).is_empty());
        let twice = lock(&(one("a", "1") + &one("A", "2"))).unwrap_err();
        assert!(twice.summary().contains("a==1 and a==2"));
    }

    #[test]
    fn a_lock_without_versions_or_hashes_is_none() {
        for bad in ["[[packages]]\nname = 'a'\n", "[[packages]]\nname = 'a'\nversion = '1'\n", "x"] {
            assert!(Lock::from_pylock("k", origin(), bad).is_err(), "{bad}");
        }
    }
}
