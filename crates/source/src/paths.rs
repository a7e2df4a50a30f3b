//! The tracked paths of commits, read from the mirror inside an operation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use refresh_git::history::{EntryKind, parse_tree};
use refresh_git::{Git, LISTING, Repository};
use refresh_settings::names::CommitId;
use refresh_system::error::Outcome;

/// One tracked file.
#[derive(Debug, Clone)]
pub(crate) struct TrackedFile {
    /// Its path below the tree.
    pub path: PathBuf,
    /// Its kind.
    pub kind: EntryKind,
    /// The hash of its content.
    pub object: String,
}

/// Lists the files of a commit; returns `None` if the mirror does not have the commit.
pub(super) fn tracked(git: &Git, mirror: &Path, commit: &CommitId) -> Outcome<Option<Vec<TrackedFile>>> {
    let repository = Repository::bare(mirror);
    let program = git.at(&repository).args(["ls-tree", "-r", "-z", "--full-tree", commit.as_str()]);
    let listed = git.runner().run(&program.keep(LISTING))?;
    if !listed.succeeded() {
        return Ok(None);
    }
    let entries = parse_tree(&listed.stdout)?.into_iter();
    let files = entries.filter(|entry| entry.kind != EntryKind::Submodule);
    let files = files.map(|entry| TrackedFile { path: entry.path, kind: entry.kind, object: entry.object });
    Ok(Some(files.collect()))
}

/// The tracked files of one or more commits, with the directories that they need.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// The files, with the hashes of their contents in these commits.
    pub(super) files: BTreeMap<PathBuf, Vec<String>>,
    directories: BTreeSet<PathBuf>,
}

impl Tracked {
    /// Adds the files of a commit.
    pub(super) fn add(&mut self, files: Vec<TrackedFile>) {
        for TrackedFile { path, object, .. } in files {
            for directory in path.ancestors().skip(1).filter(|directory| !directory.as_os_str().is_empty()) {
                if !self.directories.insert(directory.to_path_buf()) {
                    break;
                }
            }
            self.files.entry(path).or_default().push(object);
        }
    }

    /// Returns `true` if `path` is a tracked file.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Returns `true` if a tracked file is below `path`.
    pub(super) fn has_directory(&self, path: &Path) -> bool {
        self.directories.contains(path)
    }
}
