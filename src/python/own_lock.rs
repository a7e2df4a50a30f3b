//! The application's own lock: law where there is one. Pure; [`super::resolve`] has uv read it.
//!
//! In this order: `uv.lock`, `pylock.toml` (PEP 751), requirements of which every line is pinned with hashes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::definitions::{Definitions, TreeSource};
use super::lock::Locked;
use super::requirements::{self, Line, Meaning};
use crate::error::{Context as _, Failure, Outcome};

/// The lock of uv.
pub(super) const UV: &str = "uv.lock";

/// The lock in standard form.
const STANDARD: &str = "pylock.toml";

/// A lock that the application brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLock {
    file: PathBuf,
    form: OwnForm,
}

/// In which form it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OwnForm {
    /// uv's, with the project that it belongs to.
    Uv { lock: String, project: String },
    /// The standard one.
    Standard(String),
    /// Requirements of which every line is pinned with hashes.
    Requirements,
}

impl OwnLock {
    /// Returns the file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns what it holds.
    pub(super) fn form(&self) -> &OwnForm {
        &self.form
    }

    /// Returns what the lock says, in one form: comments, order of tables and line endings do not count. `None` where
    /// the definition itself is the lock.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        match &self.form {
            OwnForm::Uv { lock: text, .. } | OwnForm::Standard(text) => {
                let read: Option<toml::Table> = toml::from_str(text).ok();
                Some(
                    read.and_then(|table| serde_json::to_vec(&sorted(&table.into())).ok())
                        .unwrap_or_default(),
                )
            }
            OwnForm::Requirements => None,
        }
    }
}

/// The tables in the order of their keys.
fn sorted(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        toml::Value::Array(all) => all.iter().map(sorted).collect(),
        other => serde_json::Value::String(other.to_string()),
    }
}

/// Returns whether a file of this name is a lock, and no list of requirements.
pub(super) fn is_lock(name: &Path) -> bool {
    name == Path::new(UV)
        || name == Path::new(STANDARD)
        || (name.extension().is_some_and(|ending| ending == "toml")
            && name.to_str().is_some_and(|name| name.starts_with("pylock.")))
}

/// Finds the lock that counts, among the lock files that the definition names and what it says itself.
///
/// # Errors
/// A lock is no text, or uv's comes without its project.
pub(super) fn find(
    source: &dyn TreeSource,
    locks: &[PathBuf],
    definitions: &Definitions,
) -> Outcome<Option<OwnLock>> {
    let text = |path: &Path| -> Outcome<Option<String>> {
        let Some(bytes) = source.read(path)? else { return Ok(None) };
        let context = || format!("{} is no text in UTF-8", path.display());
        let text = String::from_utf8(bytes).context(context)?;
        toml::from_str::<toml::Table>(&text).context(|| format!("{} cannot be read", path.display()))?;
        Ok(Some(text))
    };
    if locks.iter().any(|path| path == Path::new(UV))
        && let Some(lock) = text(Path::new(UV))?
    {
        let project = text(Path::new("pyproject.toml"))?
            .ok_or_else(|| Failure::new("uv.lock is there without the pyproject.toml that it belongs to"))?;
        return Ok(Some(OwnLock { file: UV.into(), form: OwnForm::Uv { lock, project } }));
    }
    let mut standard: Vec<&PathBuf> = locks.iter().filter(|path| *path != Path::new(UV)).collect();
    standard.sort_by_key(|path| **path != Path::new(STANDARD));
    if let Some(file) = standard.first()
        && let Some(lock) = text(file)?
    {
        return Ok(Some(OwnLock { file: (*file).clone(), form: OwnForm::Standard(lock) }));
    }
    let lines = definitions.package_lines();
    let mut listed = lines.iter().filter(|(file, _)| *file != Path::new("pyproject.toml"));
    let Some((file, _)) = listed.clone().next() else { return Ok(None) };
    let all = listed.all(|(_, line)| is_pinned(line));
    Ok(all.then(|| OwnLock { file: (*file).to_path_buf(), form: OwnForm::Requirements }))
}

/// Returns whether a line pins one version with hashes.
pub(super) fn is_pinned(line: &Line) -> bool {
    pinned(line).is_some()
}

/// Reads a line that pins one version, or the URL of one wheel, with hashes.
pub(super) fn pinned(line: &Line) -> Option<Locked> {
    let Meaning::Package(package) = &line.meaning else { return None };
    let hashes = requirements::hashes_of(&line.text);
    if hashes.is_empty() {
        return None;
    }
    let (wish, marker) = match package.specification.split_once(';') {
        Some((wish, marker)) => (wish, Some(marker.trim().to_owned())),
        None => (package.specification.as_str(), None),
    };
    let wish = wish.trim();
    let wish = if wish.starts_with('[') { wish.split_once(']')?.1.trim() } else { wish };
    let name = package.name.clone();
    if let Some(url) = wish.strip_prefix('@') {
        let url = url.trim().split('#').next()?.to_owned();
        let version = url.rsplit('/').next()?.strip_suffix(".whl")?.split('-').nth(1)?.to_owned();
        return Some(Locked { name, version, marker, hashes, url: Some(url) });
    }
    let version = wish.strip_prefix("===").or_else(|| wish.strip_prefix("=="))?.trim();
    let is_one = !version.is_empty() && !version.contains([',', '*', '@', ' ', ')']);
    is_one.then(|| Locked { name, version: version.to_owned(), marker, hashes, url: None })
}

/// The variables that make uv take the indexes of a lock for those that are configured. It asks none of them.
pub(super) fn registries(lock: &str) -> Vec<(String, String)> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        package: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        source: toml::Table,
    }
    let Ok(read) = toml::from_str::<File>(lock) else { return Vec::new() };
    let named = read.package.iter().filter_map(|entry| entry.source.get("registry")?.as_str());
    let mut urls: Vec<&str> = named.filter(|url| url.contains("://")).collect();
    urls.sort_unstable();
    urls.dedup();
    let is_usual = |url: &&str| url.starts_with("https://pypi.org/");
    let default = urls.iter().copied().find(is_usual).or(urls.first().copied());
    let others: Vec<&str> = urls.iter().copied().filter(|url| Some(*url) != default).collect();
    [("UV_DEFAULT_INDEX", default.unwrap_or_default().to_owned()), ("UV_INDEX", others.join(" "))]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .filter(|(name, value)| name == "UV_INDEX" || !value.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::definitions::{Choice, DEFAULT_PATTERNS, read};
    use super::*;

    struct Tree(Vec<(&'static str, String)>);

    impl TreeSource for Tree {
        fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
            Ok(self.0.iter().map(|(name, _)| PathBuf::from(name)).collect())
        }
        fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
            Ok(self.0.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| text.clone().into()))
        }
        fn link(&self, _: &Path) -> Outcome<Option<PathBuf>> {
            Ok(None)
        }
    }

    fn definitions(files: &[(&'static str, &str)]) -> Outcome<Definitions> {
        let files = files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let patterns = DEFAULT_PATTERNS.map(str::to_owned);
        read(&Tree(files), &Choice { patterns: &patterns, extras: &[], groups: &[], also: None })
    }

    fn lock_of(files: &[(&'static str, &str)]) -> Option<PathBuf> {
        definitions(files).unwrap().own_lock().map(|lock| lock.file().to_path_buf())
    }

    const PROJECT: (&str, &str) = ("pyproject.toml", "[project]\nname='x'\ndependencies=['six']\n");
    const PINNED: &str =
        "six==1.17.0 --hash=sha256:ab\nuvicorn[standard]==0.3 ; os_name == 'x' --hash=sha256:cd\n";

    #[test]
    fn rw_5_3_the_application_s_locks_count_in_a_fixed_order() {
        let (uv, standard) = (("uv.lock", "version = 1\n"), ("pylock.toml", "lock-version = '1.0'\n"));
        let listed = ("requirements.txt", PINNED);
        assert_eq!(lock_of(&[listed, standard, uv, PROJECT]), Some("uv.lock".into()));
        assert_eq!(lock_of(&[listed, standard, PROJECT]), Some("pylock.toml".into()));
        assert_eq!(lock_of(&[listed, PROJECT]), Some("requirements.txt".into()));
        assert_eq!(lock_of(&[PROJECT]), None);
        let notes = definitions(&[listed, standard, uv, PROJECT]).unwrap();
        assert_eq!(notes.notes(), ["uv.lock is the lock; requirements.txt, pylock.toml does not count"]);
        assert!(definitions(&[uv]).unwrap_err().summary().contains("without the pyproject.toml"));
    }

    #[test]
    fn requirements_are_a_lock_only_when_every_line_is_pinned_with_a_hash() {
        for line in ["six", "six==1.17.0", "six>=1 --hash=sha256:ab", "six==1.* --hash=sha256:ab"] {
            let text = format!("{PINNED}{line}\n");
            assert_eq!(lock_of(&[("requirements.txt", &text)]), None, "{line}");
        }
        let included = [
            ("requirements.txt", "-r more.txt\n-c limits.txt\n"),
            ("more.txt", PINNED),
            ("limits.txt", "six<2"),
        ];
        assert_eq!(lock_of(&included), Some("more.txt".into()));
    }

    #[test]
    fn rw_5_3b_only_what_a_lock_says_counts_beside_it() {
        let lock = |text: &str, listed: &str| {
            definitions(&[("pylock.toml", text), ("requirements.txt", listed)]).unwrap().normalized()
        };
        let plain = lock("lock-version = '1.0'\nx = 1\n", "six");
        assert_eq!(plain, lock("# c\r\nx = 1\r\nlock-version = \"1.0\"\r\n", "idna"));
        assert_ne!(plain, lock("lock-version = '1.0'\nx = 2\n", "six"));
    }

    #[test]
    fn the_indexes_of_a_lock_are_given_to_uv_as_its_own() {
        let of = |urls: &[&str]| {
            let text: String =
                urls.iter().map(|url| format!("[[package]]\nsource = {{ registry = '{url}' }}\n")).collect();
            registries(&text).into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(
            of(&["https://a/s", "https://pypi.org/simple"]),
            ["https://pypi.org/simple", "https://a/s"]
        );
        assert_eq!(of(&["https://a/s"]), ["https://a/s", ""]);
        assert_eq!(of(&["local"]), [""]);
    }
}
