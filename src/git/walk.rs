//! Walks the work tree for what no commit accounts for. Links are never followed; names may hold any bytes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};

use super::made::Made;
use super::path::TreePath;

/// What a walk may do about folders that their owner has closed to himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: they count as content that nobody can see.
    ReadOnly,
    /// Open them.
    Open,
}

/// What was found that no commit accounts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stray {
    /// A file, link, pipe or socket.
    File,
    /// A folder with everything in it.
    Folder,
    /// What makes itself again: byte code, caches of tools, unchanged products of hooks, empty folders.
    Regenerable,
}

/// The result of a walk; paths are relative to the work tree.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// What no commit accounts for, each folder as one where nothing in it is wanted.
    pub(super) strays: Vec<(PathBuf, Stray)>,
    /// What no commit accounts for and a preserve pattern names; a folder stands for all in it.
    pub(super) preserved: Vec<PathBuf>,
    /// Folders that were opened, with the mode they had.
    pub(super) opened: Vec<(PathBuf, u32)>,
    /// Folders that were left closed.
    pub(super) closed: Vec<PathBuf>,
}

/// The files that are accounted for, with the folders they need.
#[derive(Debug, Default)]
pub(super) struct Accounted {
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl Accounted {
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let mut accounted = Self::default();
        for path in paths {
            for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
                if !accounted.folders.insert(folder.to_path_buf()) {
                    break;
                }
            }
            accounted.files.insert(path.clone());
        }
        accounted
    }

    pub(super) fn has_file(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    pub(super) fn has_folder(&self, path: &Path) -> bool {
        self.folders.contains(path)
    }
}

/// What stays in place.
#[derive(Debug)]
pub(super) enum Preserve {
    /// What a pattern matches.
    Patterns(GlobSet),
    /// These paths.
    Exactly(BTreeSet<PathBuf>),
}

impl Preserve {
    /// Reads patterns. `*` does not cross a slash, `**` does.
    ///
    /// # Errors
    /// One of them is not a pattern.
    pub(super) fn patterns(globs: &[String]) -> Outcome<Self> {
        let mut set = GlobSetBuilder::new();
        for text in globs {
            let glob = GlobBuilder::new(text.trim_end_matches('/')).literal_separator(true).build();
            set.add(glob.context(|| format!("preserve: {text:?} is not a pattern"))?);
        }
        set.build()
            .map(Self::Patterns)
            .context(|| "preserve: the patterns cannot be used together".to_owned())
    }

    /// Names paths.
    pub(super) fn exactly<'a>(paths: impl IntoIterator<Item = &'a TreePath>) -> Self {
        Self::Exactly(paths.into_iter().map(|path| path.as_path().to_path_buf()).collect())
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Patterns(set) => set.is_empty(),
            Self::Exactly(paths) => paths.is_empty(),
        }
    }

    fn names(&self, path: &Path) -> bool {
        match self {
            Self::Patterns(set) => set.is_match(path),
            Self::Exactly(paths) => paths.contains(path),
        }
    }

    /// Tells whether `path` or a folder that it lies in stays.
    pub(super) fn covers(&self, path: &Path) -> bool {
        !self.is_empty()
            && path.ancestors().filter(|part| !part.as_os_str().is_empty()).any(|part| self.names(part))
    }
}

/// Walks the work tree at `app`, all but its own `.git`.
///
/// # Errors
/// A folder cannot be read, or not be opened where it has to be.
pub(super) fn walk(
    app: &Path,
    accounted: &Accounted,
    preserve: &Preserve,
    made: &Made,
    access: Access,
) -> Outcome<Walked> {
    let mut walk = Walk { app, accounted, preserve, made, access, walked: Walked::default() };
    walk.folder(Path::new(""))?;
    walk.walked.strays.sort();
    walk.walked.preserved.sort();
    Ok(walk.walked)
}

struct Walk<'a> {
    app: &'a Path,
    accounted: &'a Accounted,
    preserve: &'a Preserve,
    made: &'a Made,
    access: Access,
    walked: Walked,
}

/// What a folder that no commit accounts for holds.
#[derive(Default)]
struct Inside {
    strays: Vec<(PathBuf, Stray)>,
    preserved: Vec<PathBuf>,
    content: bool,
}

impl Walk<'_> {
    /// A folder that holds accounted files.
    fn folder(&mut self, folder: &Path) -> Outcome<()> {
        for (path, is_folder) in self.entries(folder)?.unwrap_or_default() {
            if path == Path::new(".git") {
                continue;
            }
            if is_folder && self.accounted.has_folder(&path) {
                self.folder(&path)?;
            } else if is_folder || !self.accounted.has_file(&path) {
                let inside = self.stray(&path, is_folder)?;
                self.walked.strays.extend(inside.strays);
                self.walked.preserved.extend(inside.preserved);
            }
        }
        Ok(())
    }

    /// Something that no commit accounts for.
    fn stray(&mut self, path: &Path, is_folder: bool) -> Outcome<Inside> {
        let mut found = Inside::default();
        if self.preserve.names(path) {
            found.preserved.push(path.to_path_buf());
            return Ok(found);
        }
        if !is_folder {
            let regenerable =
                is_byte_code(path) && self.has_source(path) || self.made.vouches(self.app, path);
            found.content = !regenerable;
            let kind = if regenerable { Stray::Regenerable } else { Stray::File };
            found.strays.push((path.to_path_buf(), kind));
            return Ok(found);
        }
        if is_tool_cache(path) {
            found.strays.push((path.to_path_buf(), Stray::Regenerable));
            return Ok(found);
        }
        let Some(entries) = self.entries(path)? else {
            found.content = true;
            found.strays.push((path.to_path_buf(), Stray::Folder));
            return Ok(found);
        };
        let byte_code = path.file_name() == Some(OsStr::new("__pycache__"))
            && entries.iter().all(|(path, is_folder)| !is_folder && is_byte_code(path));
        if byte_code {
            found.strays.push((path.to_path_buf(), Stray::Regenerable));
            return Ok(found);
        }
        for (path, is_folder) in entries {
            let inside = self.stray(&path, is_folder)?;
            found.content |= inside.content;
            found.strays.extend(inside.strays);
            found.preserved.extend(inside.preserved);
            if found.content && self.preserve.is_empty() && self.access == Access::ReadOnly {
                break;
            }
        }
        if found.preserved.is_empty() {
            let kind = if found.content { Stray::Folder } else { Stray::Regenerable };
            found.strays = vec![(path.to_path_buf(), kind)];
        }
        Ok(found)
    }

    /// The entries of a folder, and whether each is a real folder; `None` where it cannot be seen and must not be
    /// opened.
    fn entries(&mut self, folder: &Path) -> Outcome<Option<Vec<(PathBuf, bool)>>> {
        let place = self.app.join(folder);
        let told = || format!("cannot read the folder {}", place.display());
        let mode = fs::symlink_metadata(&place).context(told)?.permissions().mode() & 0o7777;
        if mode & 0o700 != 0o700 {
            if self.access == Access::ReadOnly {
                if fs::read_dir(&place).is_err() || mode & 0o100 == 0 {
                    self.walked.closed.push(folder.to_path_buf());
                    return Ok(None);
                }
            } else {
                disk::set_mode(&place, mode | 0o700)?;
                self.walked.opened.push((folder.to_path_buf(), mode));
            }
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(&place).context(told)? {
            let entry = entry.context(told)?;
            let kind = entry.file_type().context(told)?;
            entries.push((folder.join(entry.file_name()), kind.is_dir()));
        }
        entries.sort();
        Ok(Some(entries))
    }

    fn has_source(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.app.join(path.with_extension("py"))).is_ok_and(|found| found.is_file())
    }
}

/// Tells whether a name is one that Python gives to byte code; while it writes, a number follows.
fn is_byte_code(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let stem = &name[..name.len() - digits];
    let stem = if digits > 0 { stem.strip_suffix(b".").unwrap_or(stem) } else { stem };
    stem.ends_with(b".pyc") || stem.ends_with(b".pyo")
}

fn is_tool_cache(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    [".pytest_cache", ".mypy_cache", ".ruff_cache"].iter().any(|cache| name == *cache)
}

/// Tells whether a file that lies in something regenerable is byte code, or lies in a cache.
pub(super) fn is_cache(path: &Path) -> bool {
    is_byte_code(path) || path.ancestors().any(is_tool_cache)
}

/// Lists every file below a folder, or the file itself; paths start with `path`.
pub(super) fn files_below(app: &Path, path: &Path) -> Outcome<Vec<PathBuf>> {
    let told = || format!("cannot read {}", app.join(path).display());
    if !fs::symlink_metadata(app.join(path)).context(told)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(app.join(path)).context(told)? {
        files.extend(files_below(app, &path.join(entry.context(told)?.file_name()))?);
    }
    Ok(files)
}

/// The failure for a path that is neither in a commit nor saved.
pub(super) fn unsaved(path: &Path) -> Failure {
    Failure::new(format!("{} is neither in a known commit nor saved", path.display()))
        .hint("something still writes into the work tree: find it with `fuser -v` and run the refresh again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            disk::make_folder(path.parent().unwrap(), 0o755).unwrap();
            disk::write_atomic(&path, b"x", 0o644).unwrap();
        }
        folder
    }

    fn strays(folder: &Path, tracked: &[&str], preserve: &[&str]) -> (Vec<(String, Stray)>, Vec<String>) {
        let tracked: Vec<PathBuf> = tracked.iter().map(PathBuf::from).collect();
        let globs: Vec<String> = preserve.iter().map(|text| (*text).to_owned()).collect();
        let walked = walk(
            folder,
            &Accounted::of(&tracked),
            &Preserve::patterns(&globs).unwrap(),
            &Made::default(),
            Access::ReadOnly,
        )
        .unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (
            walked.strays.into_iter().map(|(path, kind)| (text(path), kind)).collect(),
            walked.preserved.into_iter().map(text).collect(),
        )
    }

    #[test]
    fn a_folder_without_tracked_files_is_one_stray() {
        let folder = tree(&["a/t", "a/u", "b/c/d", "b/e", ".git/x", "n/.git/HEAD"]);
        let (found, _) = strays(folder.path(), &["a/t"], &[]);
        let expected = [("a/u", Stray::File), ("b", Stray::Folder), ("n", Stray::Folder)];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }

    #[test]
    fn only_what_makes_itself_again_is_regenerable() {
        let folder = tree(&[
            "p/__pycache__/m.cpython-312.pyc",
            "q/__pycache__/notes.txt",
            "m.py",
            "m.pyc",
            "lone.pyc",
            ".ruff_cache/x",
        ]);
        let (found, _) = strays(folder.path(), &["m.py"], &[]);
        let expected = [
            (".ruff_cache", Stray::Regenerable),
            ("lone.pyc", Stray::File),
            ("m.pyc", Stray::Regenerable),
            ("p", Stray::Regenerable),
            ("q", Stray::Folder),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }

    #[test]
    fn preserved_files_are_found_in_folders_that_are_not() {
        let folder = tree(&["config/user.json", "config/junk", "state/deep/x", "other/x"]);
        let (found, kept) = strays(folder.path(), &[], &["config/*.json", "state/"]);
        assert_eq!(kept, ["config/user.json", "state"]);
        let expected = [("config/junk", Stray::File), ("other", Stray::Folder)];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }
}
