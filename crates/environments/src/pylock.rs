//! The standard document of a lock (`pylock.toml`, PEP 751), as far as this program uses it. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::normal_name;

use super::locked::Locked;

/// The parts of the document that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Pylock {
    lock_version: Option<String>,
    /// The available extras.
    pub(super) extras: Vec<String>,
    /// The available groups.
    pub(super) dependency_groups: Vec<String>,
    /// The distributions.
    pub(super) packages: Vec<Package>,
}

/// A distribution in the document.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    name: String,
    version: Option<String>,
    /// The machines, extras and groups that need it.
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
    url: Option<String>,
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

    /// Returns the normal names of the distributions.
    pub(super) fn names(&self) -> Vec<String> {
        self.packages.iter().map(|package| normal_name(&package.name)).collect()
    }

    /// Returns whether every file of an index has an upload time.
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
    /// Returns its hashes as `sha256:…`, only those that can verify a file.
    fn proofs(&self) -> impl Iterator<Item = String> {
        let proves = |name: &str| matches!(name, "sha256" | "sha384" | "sha512");
        self.hashes
            .iter()
            .map(|(name, digits)| (name.to_ascii_lowercase(), digits.to_ascii_lowercase()))
            .filter(move |(name, _)| proves(name))
            .map(|(name, digits)| format!("{name}:{digits}"))
    }
}

impl Package {
    /// Returns the distribution with all hashes that verify its files.
    ///
    /// # Errors
    /// It cannot be verified: it has no version or no hash, or it is not a release.
    pub(super) fn into_locked(self) -> Outcome<Locked> {
        let name = normal_name(&self.name);
        let refuse = |why: &str| Failure::new(format!("the lock names no {why} for {name}"));
        let unprovable = |what: &str| {
            let why = format!("{name} comes {what}: no hash covers the installed files");
            Err(Failure::new(why).hint(format!("ask for a release of {name} that the package index has")))
        };
        if self.vcs.is_some() {
            return unprovable("from a version control system");
        }
        if self.directory.is_some() {
            return unprovable("from a directory");
        }
        let mut url = None;
        let mut version = self.version;
        if let Some(archive) = &self.archive {
            let text = archive.url.clone().unwrap_or_default();
            let file = text.split(['#', '?']).next().and_then(|text| text.rsplit('/').next());
            let Some(wheel) = file.and_then(|file| file.strip_suffix(".whl")) else {
                return unprovable("from a URL that is no wheel");
            };
            // The version is optional, and the name of every wheel contains it.
            version = version.or_else(|| wheel.split('-').nth(1).map(str::to_owned));
            url = text.split('#').next().map(str::to_owned);
        }
        let version = version.ok_or_else(|| refuse("version"))?;
        let files = self.wheels.iter().chain(&self.sdist).chain(&self.archive);
        let mut hashes: Vec<String> = files.flat_map(Artifact::proofs).collect();
        hashes.sort();
        hashes.dedup();
        if hashes.is_empty() {
            return Err(refuse("hash"));
        }
        Ok(Locked { name, version, marker: self.marker, hashes, url })
    }
}

/// Returns a document with its own packages, then those of another document that it lacks.
///
/// # Errors
/// One of the two is not understood.
pub(super) fn merged(document: &str, more: &str) -> Outcome<String> {
    let (mut table, more) = (table(document)?, table(more)?);
    let known: Vec<String> = packages_of(&table).filter_map(name_of).collect();
    let added: Vec<toml::Value> = packages_of(&more)
        .filter(|package| name_of(package).is_some_and(|name| !known.contains(&name)))
        .cloned()
        .collect();
    if added.is_empty() {
        return Ok(document.to_owned());
    }
    let packages = table.entry("packages").or_insert_with(|| toml::Value::Array(Vec::new()));
    if let Some(packages) = packages.as_array_mut() {
        packages.extend(added);
    }
    toml::to_string(&table).context(|| "the lock cannot be written".to_owned())
}

/// Returns a document with only the packages whose names `wanted` accepts.
///
/// # Errors
/// It is not understood.
pub(super) fn selected(document: &str, wanted: &dyn Fn(&str) -> bool) -> Outcome<String> {
    let mut table = table(document)?;
    if let Some(packages) = table.get_mut("packages").and_then(toml::Value::as_array_mut) {
        packages.retain(|package| name_of(package).is_some_and(|name| wanted(&name)));
    }
    toml::to_string(&table).context(|| "the lock cannot be written".to_owned())
}

fn table(document: &str) -> Outcome<toml::Table> {
    toml::from_str(document).context(|| "the lock is not understood as pylock.toml".to_owned())
}

fn packages_of(table: &toml::Table) -> impl Iterator<Item = &toml::Value> {
    table.get("packages").and_then(toml::Value::as_array).into_iter().flatten()
}

fn name_of(package: &toml::Value) -> Option<String> {
    Some(normal_name(package.get("name")?.as_str()?))
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
    fn a_package_without_a_verifiable_digest_is_refused_by_name() {
        for (text, why) in [
            (
                "vcs = { type = 'git', url = 'https://x/a', commit-id = 'b' }",
                "a comes from a version control",
            ),
            ("directory = { path = '.' }", "a comes from a directory"),
            ("archive = { url = 'https://x/a.tar.gz', hashes = { sha256 = 'b' } }", "a comes from a URL"),
            ("archive = { url = 'https://x/a-1-py3-none-any.whl' }", "no hash for a"),
            ("version = '1'", "no hash for a"),
            ("wheels = [{ url = 'u', hashes = { md5 = 'b' } }]\nversion = '1'", "no hash for a"),
        ] {
            let failure = locked(text).unwrap_err();
            assert!(failure.summary().contains(why), "{text}: {failure}");
        }
        assert!(Pylock::parse("lock-version = '2.0'\n").unwrap_err().summary().contains("version 2.0"));
    }

    #[test]
    fn a_wheel_from_a_url_with_a_digest_is_locked() {
        let found = locked(
            "archive = { url = 'https://x/a-1.2-py3-none-any.whl#sha256=bb', hashes = { sha256 = 'BB' } }",
        );
        let found = found.unwrap();
        assert_eq!((found.version.as_str(), found.hashes.as_slice()), ("1.2", &["sha256:bb".to_owned()][..]));
        assert_eq!(found.url.as_deref(), Some("https://x/a-1.2-py3-none-any.whl"));
    }

    #[test]
    fn upload_times_show_releases_newer_than_the_definition() {
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

    #[test]
    fn documents_are_merged_and_divided_by_package_names() {
        let of = |names: &[&str]| -> String {
            names.iter().map(|name| format!("[[packages]]\nname = '{name}'\nversion = '1'\n")).collect()
        };
        let names = |document: &str| -> Vec<String> {
            Pylock::parse(document).unwrap().packages.into_iter().map(|package| package.name).collect()
        };
        let both = merged(&of(&["a", "b"]), &of(&["B", "c"])).unwrap();
        assert_eq!(names(&both), ["a", "b", "c"]);
        assert_eq!(merged(&of(&["a"]), &of(&["a"])).unwrap(), of(&["a"]));
        assert_eq!(names(&selected(&both, &|name| name != "b").unwrap()), ["a", "c"]);
    }
}
