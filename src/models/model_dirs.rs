//! The model directories as they are on disk: one scan of each that follows no link, and the rule where links may lead.
//! It reads, and opens only regular files that no link leads to.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::manifest::{Entry, Kind, Manifest as Listing, Scan};
use crate::report::screen::harmless_line;

use super::{Finding, Problems, Verdict};

/// A model directory.
#[derive(Debug)]
pub(super) struct ModelDir {
    /// The path, without links.
    pub(super) base: PathBuf,
    listing: Listing,
    links: HashSet<PathBuf>,
}

impl ModelDir {
    /// Scans the directory `base`; links in this path itself are followed. Returns `None` if it is missing.
    ///
    /// # Errors
    /// It cannot be read, is not a directory, or the work is interrupted.
    pub(super) fn open(base: &Path) -> Outcome<Option<Self>> {
        let step = || format!("cannot read the model directory {}", base.display());
        let real = match base.canonicalize() {
            Ok(real) => real,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(Failure::new(step()).because(error)),
        };
        if !real.is_dir() {
            return Err(Failure::new(step()).because(Failure::new("it is not a directory")));
        }
        let listing = Scan::metadata().list_trouble().of(&real).context(step)?;
        let links = listing.entries().iter().filter(|entry| matches!(entry.kind, Kind::Link(_)));
        let links = links.map(|entry| entry.path.clone()).collect();
        Ok(Some(Self { base: real, listing, links }))
    }

    /// Returns the entries, sorted by path relative to the directory.
    pub(super) fn entries(&self) -> &[Entry] {
        self.listing.entries()
    }

    /// Returns `true` if every entry could be listed.
    fn is_complete(&self) -> bool {
        self.listing.unreadable().is_empty() && self.listing.len() == self.entries().len() as u64
    }

    /// Returns the entry at a relative path.
    fn entry(&self, path: &Path) -> Option<&Entry> {
        let entries = self.entries();
        entries.binary_search_by(|entry| entry.path.as_path().cmp(path)).ok().map(|index| &entries[index])
    }

    /// Returns a verdict for what could not be listed.
    pub(super) fn unlisted(&self) -> Vec<Verdict> {
        let verdict = |path: &Path, finding| {
            let shown = if path.as_os_str().is_empty() { &self.base } else { path };
            let shown = harmless_line(&shown.to_string_lossy());
            Verdict::unread(&self.base.join(path), &shown, "the model directory", finding)
        };
        let unreadable = self.listing.unreadable().iter().take(super::LISTED_PROBLEMS);
        let mut verdicts: Vec<Verdict> = unreadable
            .map(|path| verdict(path, Finding::Unreadable("its entries cannot be listed".to_owned())))
            .collect();
        let more = self.listing.unreadable().len().saturating_sub(super::LISTED_PROBLEMS);
        if more > 0 {
            let why = format!("{more} more entries cannot be listed");
            verdicts.push(verdict(Path::new(""), Finding::Unreadable(why)));
        }
        let beyond = self.listing.len() - self.entries().len() as u64;
        if beyond > 0 {
            let why = format!("{beyond} more entries are not examined");
            verdicts.push(verdict(Path::new(""), Finding::Unsupported(why)));
        }
        verdicts
    }
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// This path in a model directory, without links; the file may be missing.
    Path(PathBuf),
    /// Nowhere.
    Missing,
    /// To a directory, a pipe, a socket or a device.
    NoFile,
    /// Out of the model directories, or in a circle, with the reason.
    Refused(String),
}

/// All model directories; none lies in another.
#[derive(Debug, Default)]
pub(super) struct ModelDirs {
    /// The directories, in the order in which they were named.
    pub(super) dirs: Vec<ModelDir>,
}

impl ModelDirs {
    /// Adds a directory, unless it lies in one of them; removes those that lie in it.
    pub(super) fn add(&mut self, dir: ModelDir) {
        if self.dirs.iter().all(|other| !dir.base.starts_with(&other.base)) {
            self.dirs.retain(|other| !other.base.starts_with(&dir.base));
            self.dirs.push(dir);
        }
    }

    fn dir_of<'a>(&'a self, path: &'a Path) -> Option<(&'a ModelDir, &'a Path)> {
        self.dirs.iter().find_map(|dir| Some((dir, path.strip_prefix(&dir.base).ok()?)))
    }

    /// Returns an absolute path for people: relative to its model directory.
    pub(super) fn shown(&self, path: &Path) -> String {
        let relative = self.dir_of(path).map(|(_, relative)| relative);
        let shown = relative.filter(|relative| !relative.as_os_str().is_empty()).unwrap_or(path);
        harmless_line(&shown.to_string_lossy())
    }

    /// Follows the links of an absolute path, within the model directories.
    pub(super) fn resolve(&self, path: &Path) -> Resolved {
        let Some((dir, relative)) = self.dir_of(path) else { return Resolved::Missing };
        let has_link = relative.ancestors().any(|part| dir.links.contains(part));
        if !has_link && dir.is_complete() {
            return match dir.entry(relative).map(|entry| &entry.kind) {
                Some(Kind::Folder | Kind::Other) => Resolved::NoFile,
                _ => Resolved::Path(path.to_path_buf()),
            };
        }
        match path.canonicalize() {
            Ok(real) if self.dir_of(&real).is_none() => {
                let real = harmless_line(&real.to_string_lossy());
                Resolved::Refused(format!("a link leads out of the model directories, to {real}"))
            }
            Ok(real) if real.symlink_metadata().is_ok_and(|found| !found.is_file()) => Resolved::NoFile,
            Ok(real) => Resolved::Path(real),
            Err(error) if is_absence(&error) && has_link => Resolved::Missing,
            // The file is missing, or may not be examined: that shows when it is opened.
            Err(_) if !has_link => Resolved::Path(path.to_path_buf()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Resolved::Refused("a loop of symbolic links".to_owned())
            }
            Err(error) => Resolved::Refused(error.to_string()),
        }
    }

    /// Reads the file at an absolute path, which may lead through links.
    ///
    /// # Errors
    /// It is missing, may not be read, has more than `limit` bytes, or leads out of the model directories.
    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, Finding> {
        let unreadable = |why: &str| Finding::Unreadable(why.to_owned());
        match self.resolve(path) {
            Resolved::Path(real) => match read_file(&real, limit) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => Err(unreadable("it is gone")),
                Err(why) => Err(Finding::Unreadable(why)),
            },
            Resolved::Missing => Err(unreadable("a link leads nowhere")),
            Resolved::NoFile => Err(unreadable("it is not a regular file")),
            Resolved::Refused(why) => Err(Finding::Inconsistent(why)),
        }
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Opens a regular file; no part of its path may be a link. Returns `None` if it is missing.
///
/// # Errors
/// It may not be read, is something else, or a link leads to it.
pub(super) fn open_file(path: &Path) -> Result<Option<File>, String> {
    disk::open_without_links(path).map(Some).or_else(|failure| match path.symlink_metadata() {
        Err(error) if is_absence(&error) => Ok(None),
        _ => Err(failure.chain().join(": ")),
    })
}

/// Reads a regular file of at most `limit` bytes; no part of its path may be a link. Returns `None` if it is missing.
///
/// # Errors
/// As [`open_file`]; or it is longer.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, String> {
    let Some(file) = open_file(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit {
        return Err(format!("it has more than {limit} bytes"));
    }
    Ok(Some(bytes))
}

/// Adds a verdict about a source for each of its problems.
pub(super) fn verdicts(path: &Path, shown: &str, from: &str, problems: &Problems) -> Vec<Verdict> {
    let verdict = |why| Verdict::unread(path, shown, from, Finding::Inconsistent(why));
    problems.sentences().map(verdict).collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make the files that are read")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_model_directories_only() {
        let temporary = tempfile::tempdir().unwrap();
        let top = temporary.path().canonicalize().unwrap();
        for dir in ["models/sub", "more", "outside"] {
            fs::create_dir_all(top.join(dir)).unwrap();
            fs::write(top.join(dir).join("f"), b"x").unwrap();
        }
        let models = top.join("models");
        symlink("sub/f", models.join("inside")).unwrap();
        symlink("../more", models.join("more")).unwrap();
        symlink("../outside/f", models.join("out")).unwrap();
        symlink("nothing", models.join("dangling")).unwrap();
        symlink("loop", models.join("loop")).unwrap();
        let mut dirs = ModelDirs::default();
        for dir in [&models, &top.join("more")] {
            dirs.add(ModelDir::open(dir).unwrap().unwrap());
        }
        let resolve = |path: &str| dirs.resolve(&models.join(path));
        assert_eq!(resolve("inside"), Resolved::Path(models.join("sub/f")));
        assert_eq!(resolve("more/f"), Resolved::Path(top.join("more/f")));
        assert_eq!(resolve("sub/none"), Resolved::Path(models.join("sub/none")));
        assert_eq!((resolve("dangling"), resolve("sub")), (Resolved::Missing, Resolved::NoFile));
        assert!(matches!(resolve("out"), Resolved::Refused(why) if why.contains("out of the model")));
        assert!(matches!(resolve("loop"), Resolved::Refused(why) if why.contains("loop")));
        // A link that takes a file's place later leads to nothing that is read.
        fs::remove_file(models.join("sub/f")).unwrap();
        symlink("../../outside/f", models.join("sub/f")).unwrap();
        assert!(dirs.read(&models.join("sub/f"), 9).is_err());
    }

    #[test]
    fn a_directory_that_lies_in_another_is_examined_once() {
        let temporary = tempfile::tempdir().unwrap();
        let top = temporary.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        let mut dirs = ModelDirs::default();
        for path in ["a/b", "a", "a/b"] {
            dirs.add(ModelDir::open(&top.join(path)).unwrap().unwrap());
        }
        assert_eq!(dirs.dirs.iter().map(|dir| dir.base.clone()).collect::<Vec<_>>(), [top.join("a")]);
    }
}
