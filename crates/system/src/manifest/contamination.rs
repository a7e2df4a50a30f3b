//! Contamination: the differences between an environment and the result of its build. The module touches nothing.
//!
//! Files in an environment that its build did not create are reported by name and by effect. A `.pth` file or a
//! `sitecustomize` runs at every start of Python, and an `import` finds a package. Stray bytecode runs in place of a
//! source that no person sees.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compare::{self, Difference};

/// How many findings are kept in records, reports and machine output.
pub(crate) const SHOWN: usize = 20;

/// The differences between an environment and the result of its build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contamination {
    /// How many files and directories differ.
    pub count: usize,
    /// The first of them, at most [`SHOWN`]; files that run automatically come first.
    pub found: Vec<Finding>,
}

/// One file or directory that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its path below the environment's directory.
    pub path: PathBuf,
    /// How it changed.
    pub change: Change,
    /// Its kind.
    pub kind: Kind,
}

/// How a file or directory changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It did not exist before.
    Added,
    /// It no longer exists.
    Removed,
    /// It has other content, or is of another kind.
    Changed,
    /// Its permission bits are different.
    Mode,
}

/// The purpose of a file or directory of an environment. Reports use the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A `.pth` file, which may run code at every start of Python.
    PathFile,
    /// `sitecustomize` or `usercustomize`, which run at every start of Python.
    Customize,
    /// The metadata of a distribution.
    Distribution,
    /// A module, a compiled one included.
    Module,
    /// Bytecode.
    ByteCode,
    /// A program in `bin`.
    Program,
    /// The file that makes the directory an environment: `pyvenv.cfg`.
    Configuration,
    /// Anything else.
    File,
}

impl Contamination {
    /// Returns the findings for a difference; `None` if nothing differs. The entries of a directory that was added or
    /// removed are not listed one by one.
    pub fn of(difference: &Difference) -> Option<Self> {
        if difference.is_none() {
            return None;
        }
        let paths = |paths: &[PathBuf], change: Change| -> Vec<Finding> {
            let is_outermost = |path: &&PathBuf| {
                let directory = path.parent().unwrap_or_else(|| Path::new(""));
                paths.binary_search_by(|other| other.as_path().cmp(directory)).is_err()
            };
            paths.iter().filter(is_outermost).map(|path| Finding::of(path, change)).collect()
        };
        let mut found = paths(&difference.added, Change::Added);
        found.extend(paths(&difference.removed, Change::Removed));
        found.extend(difference.changed.iter().map(|(path, how)| match how {
            compare::Change::Mode => Finding::of(path, Change::Mode),
            compare::Change::Kind | compare::Change::Content => Finding::of(path, Change::Changed),
        }));
        if difference.beyond_the_limit {
            found.push(Finding { path: PathBuf::new(), change: Change::Changed, kind: Kind::File });
        }
        let count = found.len();
        found.sort_by(|one, other| (one.kind, &one.path).cmp(&(other.kind, &other.path)));
        found.truncate(SHOWN);
        Some(Self { count, found })
    }

    /// Returns the finding for an environment whose inventory, `file`, cannot be used.
    pub fn of_inventory(file: &Path, change: Change) -> Self {
        let finding = Finding { path: file.to_path_buf(), change, kind: Kind::File };
        Self { count: 1, found: vec![finding] }
    }

    /// Returns the first findings in words, and how many more there are.
    pub fn in_words(&self, at_most: usize) -> String {
        let shown: Vec<String> = self.found.iter().take(at_most).map(ToString::to_string).collect();
        let rest = self.count.saturating_sub(shown.len());
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        format!("{}{more}", shown.join(", "))
    }
}

impl Finding {
    fn of(path: &Path, change: Change) -> Self {
        Self { path: path.to_path_buf(), change, kind: Kind::of(path) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = match self.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
            Change::Mode => "permissions changed:",
        };
        let path = if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path };
        write!(f, "{change} {}", path.display())?;
        if self.change == Change::Removed {
            return Ok(());
        }
        match self.kind {
            Kind::PathFile | Kind::Customize => f.write_str(" (runs at every start of Python)"),
            Kind::ByteCode => f.write_str(" (byte code)"),
            _ => Ok(()),
        }
    }
}

impl Kind {
    /// Returns the kind of an entry of an environment, by its path.
    fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split('.').next().unwrap_or_default();
        let ends = |ending: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
        let in_packages = path.components().any(|part| part.as_os_str() == "site-packages");
        if ends("pth") && in_packages {
            Self::PathFile
        } else if matches!(stem, "sitecustomize" | "usercustomize") && in_packages {
            Self::Customize
        } else if ends("dist-info") || ends("egg-info") {
            Self::Distribution
        } else if ends("pyc") || name == "__pycache__" {
            Self::ByteCode
        } else if ends("py") || ends("so") {
            Self::Module
        } else if path.starts_with("bin") {
            Self::Program
        } else if path == Path::new("pyvenv.cfg") {
            Self::Configuration
        } else {
            Self::File
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> PathBuf {
        Path::new("lib/python3.12/site-packages").join(name)
    }

    #[test]
    fn files_that_run_by_themselves_are_reported_first_and_a_package_once() {
        let mut added = vec![
            site("evil"),
            site("evil/__init__.py"),
            site("evil/more/x.py"),
            site("evil/more"),
            site("z.pth"),
        ];
        added.sort();
        let difference = Difference {
            added,
            removed: vec![site("gone.py")],
            changed: vec![(site("six.py"), compare::Change::Content)],
            beyond_the_limit: false,
        };
        let found = Contamination::of(&difference).unwrap();
        assert_eq!(found.count, 4);
        assert_eq!(
            found.in_words(2),
            "added lib/python3.12/site-packages/z.pth (runs at every start of Python), removed \
             lib/python3.12/site-packages/gone.py and 2 more"
        );
        assert_eq!(Contamination::of(&Difference::default()), None);
    }

    #[test]
    fn a_contamination_is_identified_by_its_path() {
        let kinds = [
            (site("a.pth"), Kind::PathFile),
            (site("sitecustomize.py"), Kind::Customize),
            (site("usercustomize/__init__.py"), Kind::Module),
            (site("usercustomize"), Kind::Customize),
            (site("__pycache__/sitecustomize.cpython-312.pyc"), Kind::Customize),
            (site("__pycache__/x.cpython-312.pyc"), Kind::ByteCode),
            (site("six-1.0.dist-info"), Kind::Distribution),
            (site("x.cpython-312-x86_64-linux-gnu.so"), Kind::Module),
            ("bin/uvicorn".into(), Kind::Program),
            ("pyvenv.cfg".into(), Kind::Configuration),
            ("share/doc/a.pth".into(), Kind::File),
        ];
        for (path, kind) in kinds {
            assert_eq!(Kind::of(&path), kind, "{}", path.display());
        }
    }
}
