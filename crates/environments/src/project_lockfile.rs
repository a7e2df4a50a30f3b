//! The application's own lock: binding if there is one. Pure; [`super::resolve`] lets uv read it.
//!
//! In this order: `uv.lock`, `pylock.toml` (PEP 751), requirements of which every line is pinned with hashes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The lock of uv.
pub(super) const UV: &str = "uv.lock";

/// The lock in standard form.
pub(super) const STANDARD: &str = "pylock.toml";

/// A lock that the application brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProjectLockfile {
    pub(super) file: PathBuf,
    pub(super) form: ProjectLockfileForm,
}

/// Its form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ProjectLockfileForm {
    /// uv's, with the project that it belongs to.
    Uv { lock: String, project: String },
    /// The standard one.
    Standard(String),
    /// Requirements of which every line is pinned with hashes.
    Requirements,
}

impl ProjectLockfile {
    /// Returns the file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the content of the lock in a normal form: comments, order of tables and line endings do not count.
    /// `None` if the definition itself is the lock.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        match &self.form {
            ProjectLockfileForm::Uv { lock: text, .. } | ProjectLockfileForm::Standard(text) => {
                let read: Option<toml::Table> = toml::from_str(text).ok();
                Some(
                    read.and_then(|table| serde_json::to_vec(&sorted(&table.into())).ok())
                        .unwrap_or_default(),
                )
            }
            ProjectLockfileForm::Requirements => None,
        }
    }
}

/// Returns the tables in the order of their keys.
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

/// Returns whether a file of this name is a lock, not a list of requirements.
pub(super) fn is_lock(name: &Path) -> bool {
    name == Path::new(UV)
        || name == Path::new(STANDARD)
        || (name.extension().is_some_and(|ending| ending == "toml")
            && name.to_str().is_some_and(|name| name.starts_with("pylock.")))
}

/// Returns a sentence about a package of uv's lock that comes from the application: a member of its workspace, a
/// directory or a file. uv reads them itself, and a directory has no hash.
pub(super) fn local_package(lock: &str) -> Option<String> {
    let read: toml::Table = toml::from_str(lock).ok()?;
    read.get("package")?.as_array()?.iter().find_map(|package| {
        let source = package.get("source")?;
        let of = |kinds: &[&str]| kinds.iter().find_map(|kind| source.get(*kind))?.as_str();
        let name = package.get("name")?.as_str()?;
        match (of(&["editable", "directory", "virtual"]), of(&["path"])) {
            (Some("."), _) | (None, None) => None,
            (Some(path), _) => {
                Some(format!("it takes {name} from the path {path} of the application, which has no hash"))
            }
            (None, Some(file)) => Some(format!(
                "it takes {name} from the file {file} of the application, and not from an index"
            )),
        }
    })
}

/// Returns the variables with which uv treats the indexes of a lock as configured. uv queries none of them.
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
    use super::*;

    #[test]
    fn a_member_of_a_workspace_is_found_and_the_project_is_none() {
        let of = |source: &str| local_package(&format!("[[package]]\nname = 'x'\nsource = {{ {source} }}\n"));
        for source in ["editable = 'packages/x'", "virtual = 'packages/x'", "directory = '../x'"] {
            assert!(of(source).unwrap().starts_with("it takes x from the path "), "{source}");
        }
        let file = of("path = 'w/x-1-py3-none-any.whl'").unwrap();
        assert!(!file.contains("no hash") && file.contains(" the file w/x-1-py3-none-any.whl "), "{file}");
        for source in ["editable = '.'", "virtual = '.'", "registry = 'https://h/simple'"] {
            assert_eq!(of(source), None, "{source}");
        }
    }

    #[test]
    fn the_indexes_of_a_lock_are_passed_to_uv() {
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
