//! The standard document of a lock (`pylock.toml`, PEP 751), as far as it is used here. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::lock::Locked;
use super::requirements::normal_name;
use crate::error::{Context as _, Failure, Outcome};

/// What is read of the document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Pylock {
    lock_version: Option<String>,
    /// Which versions of Python it is for.
    pub(super) requires_python: Option<String>,
    /// On which machines it may be used (markers); on all where there are none.
    pub(super) environments: Vec<String>,
    /// The extras that may be chosen.
    pub(super) extras: Vec<String>,
    /// The groups that may be chosen.
    pub(super) dependency_groups: Vec<String>,
    /// The groups that are taken where none is chosen.
    pub(super) default_groups: Vec<String>,
    /// The distributions.
    pub(super) packages: Vec<Package>,
}

/// A distribution in the document.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    name: String,
    version: Option<String>,
    /// On which machines, and with which extras and groups, it is wanted.
    pub(super) marker: Option<String>,
    #[serde(default)]
    wheels: Vec<Artifact>,
    sdist: Option<Artifact>,
    archive: Option<Artifact>,
    vcs: Option<toml::Value>,
    directory: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Artifact {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    /// Its size in bytes.
    pub(super) size: Option<u64>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    upload_time: Option<toml::value::Datetime>,
}

impl Pylock {
    /// Reads a document.
    ///
    /// # Errors
    /// It is not understood.
    pub(super) fn parse(document: &str) -> Outcome<Self> {
        let read: Self =
            toml::from_str(document).context(|| "the lock is not understood as pylock.toml".to_owned())?;
        match read.lock_version.as_deref() {
            Some(version) if version != "1" && !version.starts_with("1.") => {
                Err(Failure::new(format!("the lock is of version {version}; only 1 is understood")))
            }
            _ => Ok(read),
        }
    }

    /// Tells whether every file of an index says when it was uploaded.
    pub(super) fn has_upload_times(&self) -> bool {
        self.packages.iter().flat_map(|package| &package.wheels).all(|wheel| wheel.upload_time.is_some())
    }

    /// Returns which distributions were uploaded after an instant, as `name version`.
    pub(super) fn newer_than(&self, cutoff: jiff::Timestamp) -> Vec<String> {
        let newer = |artifact: &Artifact| {
            let time = artifact.upload_time.as_ref()?.to_string().parse::<jiff::Timestamp>().ok()?;
            (time >= cutoff).then_some(())
        };
        self.packages
            .iter()
            .filter(|package| package.wheels.iter().any(|wheel| newer(wheel).is_some()))
            .map(|package| format!("{} {}", package.name, package.version.as_deref().unwrap_or_default()))
            .collect()
    }
}

impl Artifact {
    /// Returns the name of the file, which it says or its place ends in.
    pub(super) fn file(&self) -> Option<String> {
        if let Some(name) = &self.name {
            return Some(name.clone());
        }
        let place = self.url.as_deref().or(self.path.as_deref())?;
        let name = place.split(['?', '#']).next()?.rsplit('/').next()?;
        // `+` and `!` are all that names of wheels hold and URLs may write otherwise.
        Some(name.replace("%2B", "+").replace("%2b", "+").replace("%21", "!"))
    }

    /// Returns its sha256, in small letters.
    pub(super) fn sha256(&self) -> Option<String> {
        Some(self.hashes.get("sha256")?.to_ascii_lowercase())
    }
}

impl Package {
    /// Returns name (in its normal form), version, and wheels, where files of an index are what it names.
    pub(super) fn files(&self) -> Option<(String, &str, &[Artifact])> {
        let names_files = !self.wheels.is_empty() || self.sdist.is_some();
        let version = self.version.as_deref().filter(|_| names_files)?;
        Some((normal_name(&self.name), version, &self.wheels))
    }

    /// Returns the distribution with everything that its files can be proved by.
    ///
    /// # Errors
    /// It cannot be proved: it has no version, no sha256, or is not a release at all.
    pub(super) fn into_locked(self) -> Outcome<Locked> {
        let name = normal_name(&self.name);
        let refuse = |why: &str| Failure::new(format!("the lock names no {why} for {name}"));
        let unprovable = |what: &str| {
            let told = format!("{name} comes {what}: no sha256 can prove what is installed");
            Err(Failure::new(told).hint(format!("ask for a release of {name} that the package index has")))
        };
        if self.vcs.is_some() {
            return unprovable("from a version control system");
        }
        if self.directory.is_some() {
            return unprovable("from a folder");
        }
        let mut url = None;
        let mut version = self.version;
        if let Some(archive) = &self.archive {
            let text = archive.url.clone().unwrap_or_default();
            let file = text.split(['#', '?']).next().and_then(|text| text.rsplit('/').next());
            let Some(wheel) = file.and_then(|file| file.strip_suffix(".whl")) else {
                return unprovable("from a URL that is no wheel");
            };
            // pip leaves the version out, which stands in the name of every wheel.
            version = version.or_else(|| wheel.split('-').nth(1).map(str::to_owned));
            url = text.split('#').next().map(str::to_owned);
        }
        let version = version.ok_or_else(|| refuse("version"))?;
        let mut digests: Vec<String> =
            self.wheels.iter().chain(&self.sdist).chain(&self.archive).filter_map(Artifact::sha256).collect();
        digests.sort();
        digests.dedup();
        if digests.is_empty() {
            return Err(refuse("sha256"));
        }
        Ok(Locked { name, version, marker: self.marker, digests, url })
    }
}

/// Returns a text without the credentials of any URL in it.
pub(super) fn without_credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/\"'`<>,?#".contains(c)).unwrap_or(after.len());
        let host = &after[..end];
        clean.push_str(host.rsplit_once('@').map_or(host, |(_, host)| host));
        rest = &after[end..];
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(text: &str) -> Outcome<Locked> {
        Pylock::parse(&format!("lock-version = '1.0'\n[[packages]]\nname = 'a'\n{text}"))?
            .packages
            .remove(0)
            .into_locked()
    }

    #[test]
    fn what_no_digest_can_prove_is_refused_with_its_name() {
        for (text, why) in [
            (
                "vcs = { type = 'git', url = 'https://x/a', commit-id = 'b' }",
                "a comes from a version control",
            ),
            ("directory = { path = '.' }", "a comes from a folder"),
            ("archive = { url = 'https://x/a.tar.gz', hashes = { sha256 = 'b' } }", "a comes from a URL"),
            ("archive = { url = 'https://x/a-1-py3-none-any.whl' }", "no sha256 for a"),
            ("version = '1'", "no sha256 for a"),
            ("wheels = [{ url = 'u', hashes = { md5 = 'b' } }]\nversion = '1'", "no sha256 for a"),
        ] {
            let failure = locked(text).unwrap_err();
            assert!(failure.summary().contains(why), "{text}: {failure}");
        }
        assert!(Pylock::parse("lock-version = '2.0'\n").unwrap_err().summary().contains("version 2.0"));
    }

    #[test]
    fn a_wheel_from_a_url_with_its_digest_is_locked() {
        let found = locked(
            "archive = { url = 'https://x/a-1.2-py3-none-any.whl#sha256=bb', hashes = { sha256 = 'BB' } }",
        );
        let found = found.unwrap();
        assert_eq!((found.version.as_str(), found.digests.as_slice()), ("1.2", &["bb".to_owned()][..]));
        assert_eq!(found.url.as_deref(), Some("https://x/a-1.2-py3-none-any.whl"));
    }

    #[test]
    fn upload_times_tell_what_is_newer_than_the_definition() {
        let document = "[[packages]]\nname = 'a'\nversion = '1'\n\
            wheels = [{ url = 'u', upload-time = 2024-05-01T00:00:00Z, hashes = { sha256 = 'b' } }]\n";
        let read = Pylock::parse(document).unwrap();
        assert!(read.has_upload_times());
        assert_eq!(read.newer_than("2024-04-01T00:00:00Z".parse().unwrap()), ["a 1"]);
        assert!(read.newer_than("2024-06-01T00:00:00Z".parse().unwrap()).is_empty());
        let document = document.replace("upload-time = 2024-05-01T00:00:00Z,", "");
        assert!(!Pylock::parse(&document).unwrap().has_upload_times());
    }

    #[test]
    fn credentials_are_taken_out_of_every_url() {
        assert_eq!(
            without_credentials("url = \"https://u:p@h/x\", 'http://t@i:80' file://x/a@b mail a@b"),
            "url = \"https://h/x\", 'http://i:80' file://x/a@b mail a@b"
        );
    }
}
