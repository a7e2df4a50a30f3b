//! The files that a definition is read from, and which of them count. Pure.

use std::path::{Component, Path, PathBuf};

use refresh_settings::Python;
use refresh_system::error::Outcome;

/// The files of one commit, or of a directory.
pub trait TreeSource {
    /// Returns the names at the root of the tree.
    ///
    /// # Errors
    /// The tree cannot be read.
    fn names_at_root(&self) -> Outcome<Vec<PathBuf>>;

    /// Returns the content of a file; `None` if there is no file of that path.
    ///
    /// # Errors
    /// The tree cannot be read.
    fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>>;

    /// Returns the text of a symbolic link; `None` if the path is not a symbolic link.
    ///
    /// # Errors
    /// The tree cannot be read.
    fn link(&self, path: &Path) -> Outcome<Option<PathBuf>>;
}

/// The parts of a tree that define its environment.
#[derive(Debug, Clone, Copy)]
pub struct DefinitionFilter<'a> {
    /// Globs for names at its root.
    pub patterns: &'a [String],
    /// The extras of the project.
    pub extras: &'a [String],
    /// The dependency groups.
    pub groups: &'a [String],
    /// The host's own file of requirements: its name for messages, and its content.
    pub also: Option<(&'a Path, &'a [u8])>,
    /// Whether builds from source are allowed.
    pub allow_source: bool,
}

impl<'a> DefinitionFilter<'a> {
    /// Returns the filter of the settings; the content of the host's own file must be read first.
    pub fn of(python: &'a Python, also: Option<&'a [u8]>) -> Self {
        Self {
            patterns: python.patterns(),
            extras: python.extras.as_deref().unwrap_or_default(),
            groups: python.groups.as_deref().unwrap_or_default(),
            also: python.also.as_deref().zip(also),
            allow_source: python.allow_source,
        }
    }
}

/// Returns the path, from the root of the tree, of the file that `from` calls `other`. `None` if it is outside the
/// tree.
pub(super) fn resolve(from: &Path, other: &Path) -> Option<PathBuf> {
    let mut path = from.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in other.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}
