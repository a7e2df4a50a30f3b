//! Finds the entries of a tree that no commit tracks. Links are never followed; names may contain any bytes; nothing is
//! changed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::hook_record::HookOutputs;
use super::kept_path::Reason;
use super::paths::Tracked;

/// The result of a walk through a tree; paths are relative to the tree.
#[derive(Debug, Default)]
pub(super) struct Untracked {
    /// Entries with content that no commit tracks, and whether each is a directory. A directory without kept paths is
    /// one entry.
    pub(super) entries: Vec<(PathBuf, bool)>,
    /// Kept paths that exist.
    pub(super) kept: Vec<(PathBuf, Reason)>,
    /// Directories that cannot be read.
    pub(super) unreadable: Vec<PathBuf>,
}

/// The commits, paths and hooks that account for entries of a tree, besides Python's caches.
#[derive(Debug)]
pub(super) struct Accounts<'a> {
    /// The files that known commits track.
    pub(super) tracked: &'a Tracked,
    /// The paths that move across.
    pub(super) kept: &'a BTreeMap<PathBuf, Reason>,
    /// The paths that have moved from the tree to the next one.
    pub(super) moved: &'a BTreeMap<PathBuf, Reason>,
    /// The products of hooks.
    pub(super) outputs: &'a HookOutputs,
}

/// Walks the tree, except its own `.git`.
pub(super) fn walk(tree: &Path, accounts: &Accounts<'_>) -> Untracked {
    let mut walk = Walk { tree, accounts, found: Untracked::default() };
    walk.directory(Path::new(""));
    walk.found.entries.sort();
    walk.found
}

struct Walk<'a> {
    tree: &'a Path,
    accounts: &'a Accounts<'a>,
    found: Untracked,
}

/// The content of an untracked directory.
#[derive(Default)]
struct Inside {
    entries: Vec<(PathBuf, bool)>,
    has_kept: bool,
}

impl Walk<'_> {
    /// Walks a directory that contains tracked files.
    fn directory(&mut self, directory: &Path) {
        for (path, is_directory) in self.list(directory).unwrap_or_default() {
            if path == Path::new(".git") {
                continue;
            }
            if is_directory && self.accounts.tracked.has_directory(&path) {
                self.directory(&path);
            } else if is_directory || !self.accounts.tracked.has_file(&path) {
                let inside = self.untracked(&path, is_directory);
                self.found.entries.extend(inside.entries);
            }
        }
    }

    /// Walks an entry that no commit tracks.
    fn untracked(&mut self, path: &Path, is_directory: bool) -> Inside {
        if let Some(reason) = self.accounts.kept.get(path) {
            self.found.kept.push((path.to_path_buf(), *reason));
            return Inside { entries: Vec::new(), has_kept: true };
        }
        if !is_directory {
            let is_made_again = is_byte_code(self.tree, path, self.accounts.moved)
                || self.accounts.outputs.vouch(self.tree, path);
            let entries = if is_made_again { Vec::new() } else { vec![(path.to_path_buf(), false)] };
            return Inside { entries, has_kept: false };
        }
        if is_tool_cache(path) {
            return Inside::default();
        }
        let Some(listed) = self.list(path) else { return Inside::default() };
        let mut inside = Inside::default();
        for (path, is_directory) in listed {
            let below = self.untracked(&path, is_directory);
            inside.entries.extend(below.entries);
            inside.has_kept |= below.has_kept;
        }
        if !inside.has_kept && !inside.entries.is_empty() {
            inside.entries = vec![(path.to_path_buf(), true)];
        }
        inside
    }

    /// Returns the entries of a directory, and whether each is a real directory; `None` if it cannot be read.
    fn list(&mut self, directory: &Path) -> Option<Vec<(PathBuf, bool)>> {
        let listed = list(self.tree, directory);
        if listed.is_none() {
            self.found.unreadable.push(directory.to_path_buf());
        }
        listed
    }
}

/// Lists a directory of a tree. A directory without search permission counts as unreadable.
fn list(tree: &Path, directory: &Path) -> Option<Vec<(PathBuf, bool)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(tree.join(directory)).ok()? {
        let entry = entry.ok()?;
        let path = directory.join(entry.file_name());
        let found = fs::symlink_metadata(tree.join(&path));
        match found {
            Ok(found) => entries.push((path, found.is_dir())),
            // It was removed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    entries.sort();
    Some(entries)
}

/// The type of an untracked entry, as far as rules distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryType {
    File,
    Directory,
    /// A symbolic link to a directory. git treats it as a file; people who write `data/` mean it too.
    Link,
}

/// Returns the entries of a directory, and whether each is a real directory; an empty list if it cannot be read.
pub(super) fn entries(app: &Path, directory: &Path) -> Vec<(PathBuf, bool)> {
    let listed = fs::read_dir(app.join(directory)).into_iter().flatten().flatten();
    let mut entries: Vec<(PathBuf, bool)> = listed
        .map(|entry| (directory.join(entry.file_name()), entry.file_type().is_ok_and(|kind| kind.is_dir())))
        .collect();
    entries.sort();
    entries
}

/// Returns `true` for a cache that Python and its tools create again.
pub(super) fn is_cache(tree: &Path, path: &Path, is_directory: bool) -> bool {
    if is_directory {
        return path.file_name() == Some(OsStr::new("__pycache__")) || is_tool_cache(path);
    }
    is_byte_code(tree, path, &BTreeMap::new())
}

/// Returns `true` for bytecode that Python makes again: in its cache, or beside the source, which may have left with one of the
/// `moved` paths. Other bytecode is a module without its source. During the write, a number follows the name.
pub(super) fn is_byte_code(tree: &Path, path: &Path, moved: &BTreeMap<PathBuf, Reason>) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let stem = &name[..name.len() - digits];
    let stem = if digits > 0 { stem.strip_suffix(b".").unwrap_or(stem) } else { stem };
    let Some(module) = stem.strip_suffix(b".pyc").or_else(|| stem.strip_suffix(b".pyo")) else {
        return false;
    };
    let source = path.with_file_name(OsStr::from_bytes(&[module, b".py"].concat()));
    path.iter().any(|part| part == "__pycache__")
        || tree.join(&source).symlink_metadata().is_ok()
        || source
            .ancestors()
            .any(|part| moved.contains_key(part) && tree.join(part).symlink_metadata().is_err())
}

pub(super) fn is_tool_cache(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    [".pytest_cache", ".mypy_cache", ".ruff_cache"].iter().any(|cache| name == OsStr::new(cache))
}

/// Lists every file below a directory, or the file itself, at most `limit`; paths start with `path`.
pub(super) fn files_below(tree: &Path, path: &Path, limit: usize) -> Vec<PathBuf> {
    let is_directory = fs::symlink_metadata(tree.join(path)).is_ok_and(|found| found.is_dir());
    if !is_directory {
        return vec![path.to_path_buf()];
    }
    let mut files = Vec::new();
    for (path, is_directory) in list(tree, path).unwrap_or_default() {
        if files.len() >= limit {
            break;
        }
        if is_directory {
            files.extend(files_below(tree, &path, limit - files.len()));
        } else {
            files.push(path);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::paths::TrackedFile;
    use refresh_git::history::EntryKind;
    use refresh_system::disk;

    fn untracked(files: &[&str], tracked: &[&str], kept: &[(&str, Reason)]) -> Vec<(String, bool)> {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            disk::make_directory(path.parent().unwrap(), 0o755).unwrap();
            disk::write_unsynced(&path, b"x", 0o644).unwrap();
        }
        let file =
            |path: &&str| TrackedFile { path: path.into(), kind: EntryKind::Regular, object: String::new() };
        let mut all = Tracked::default();
        all.add(tracked.iter().map(file).collect());
        let kept = kept.iter().map(|(path, reason)| (PathBuf::from(path), *reason)).collect();
        let (moved, outputs) = (BTreeMap::new(), HookOutputs::default());
        let accounts = Accounts { tracked: &all, kept: &kept, moved: &moved, outputs: &outputs };
        let found = walk(directory.path(), &accounts);
        found.entries.into_iter().map(|(path, is)| (path.to_str().unwrap().to_owned(), is)).collect()
    }

    fn expected(entries: &[(&str, bool)]) -> Vec<(String, bool)> {
        entries.iter().map(|(path, is)| ((*path).to_owned(), *is)).collect()
    }

    #[test]
    fn a_directory_without_tracked_files_is_one_entry() {
        let files = ["a/t", "a/u", "b/c/d", "b/e", ".git/x", "n/.git/HEAD"];
        let found = untracked(&files, &["a/t"], &[]);
        assert_eq!(found, expected(&[("a/u", false), ("b", true), ("n", true)]));
    }

    #[test]
    fn byte_code_and_caches_of_tools_are_no_content() {
        let files = [
            "p/__pycache__/m.cpython-312.pyc",
            "p/__pycache__/m.cpython-312.pyc.281473",
            "q/__pycache__/notes.txt",
            "m.py",
            "m.pyc",
            "m.pyo.281473",
            "lone.pyc",
            ".ruff_cache/x",
        ];
        assert_eq!(untracked(&files, &["m.py"], &[]), expected(&[("lone.pyc", false), ("q", true)]));
    }

    #[test]
    fn byte_code_whose_source_has_moved_is_no_content() {
        let moved = [("settings.py", Reason::Ignored), ("state", Reason::Preserved)];
        let moved = moved.into_iter().map(|(path, reason)| (PathBuf::from(path), reason)).collect();
        let is = |path: &str| is_byte_code(Path::new("/nonexistent"), Path::new(path), &moved);
        assert!(is("settings.pyc") && is("state/plugin.pyc"));
        assert!(!is("other.pyc") && !is("state.pyc") && !is("state/plugin.txt"));
    }

    #[test]
    fn the_rest_of_a_directory_with_kept_paths_is_listed_one_by_one() {
        let files = ["config/user.json", "config/junk", "state/deep/x", "other/x"];
        let kept = [("config/user.json", Reason::Preserved), ("state", Reason::Ignored)];
        let found = untracked(&files, &[], &kept);
        assert_eq!(found, expected(&[("config/junk", false), ("other", true)]));
    }
}
