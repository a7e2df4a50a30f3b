//! The model directories as they are on disk: one scan of each that follows no link, and the rule for the targets of
//! links. The module only reads, and opens only regular files without a link in their path.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::manifest::{Entry, Kind, Manifest as Listing, Scan};
use refresh_system::text::harmless_line;

use super::{Finding, Verdict};

/// A model directory.
#[derive(Debug)]
pub(super) struct ModelDir {
    /// The path, without links.
    pub(super) base: PathBuf,
    listing: Listing,
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
        let listing = Scan::metadata().list_unreadable().of(&real).context(step)?;
        Ok(Some(Self { base: real, listing }))
    }

    /// Returns a verdict for the first entry that could not be listed, and for those beyond the limit of a scan.
    fn unlisted(&self) -> impl Iterator<Item = Verdict> {
        let unreadable = self.listing.unreadable();
        let closed = unreadable.first().map(|first| (self.base.join(first), unreadable.len()));
        let beyond = usize::try_from(self.listing.len()).unwrap_or(0) - self.listing.entries().len();
        let beyond = (beyond > 0).then(|| (self.base.clone(), beyond));
        closed.into_iter().chain(beyond).map(|(path, number)| {
            let why = format!("{number} of its entries cannot be listed");
            let shown = harmless_line(&path.strip_prefix(&self.base).unwrap_or(&path).to_string_lossy());
            Verdict::unread(&path, &shown, "model directory", Finding::Unreadable(why))
        })
    }
}

/// All model directories; none is inside another.
#[derive(Debug, Default)]
pub(super) struct ModelDirs(Vec<ModelDir>);

impl ModelDirs {
    /// Adds a directory, unless it is inside one of them; removes those that are inside it.
    pub(super) fn add(&mut self, dir: ModelDir) {
        if self.0.iter().all(|other| !dir.base.starts_with(&other.base)) {
            self.0.retain(|other| !other.base.starts_with(&dir.base));
            self.0.push(dir);
        }
    }

    /// Returns the paths of the directories that are not empty, for people.
    pub(super) fn sources(&self) -> impl Iterator<Item = String> {
        let filled = self.0.iter().filter(|dir| !dir.listing.entries().is_empty());
        filled.map(|dir| harmless_line(&dir.base.to_string_lossy()))
    }

    /// Returns every entry that is not a directory, with its absolute path, and the directories that have one of
    /// `names`.
    pub(super) fn files(&self, names: &[&str]) -> Vec<(PathBuf, Kind)> {
        let is_file = |entry: &&Entry| {
            entry.kind != Kind::Directory
                || entry.path.file_name().is_some_and(|it| names.iter().any(|name| it == *name))
        };
        let of = |dir: &ModelDir| {
            let files = dir.listing.entries().iter().filter(is_file);
            files.map(|entry| (dir.base.join(&entry.path), entry.kind.clone())).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// Returns verdicts for entries that could not be listed.
    pub(super) fn unlisted(&self) -> impl Iterator<Item = Verdict> {
        self.0.iter().flat_map(ModelDir::unlisted)
    }

    fn relative<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        self.0.iter().find_map(|dir| path.strip_prefix(&dir.base).ok())
    }

    /// Returns an absolute path for people: relative to its model directory.
    pub(super) fn shown(&self, path: &Path) -> String {
        let relative = self.relative(path).filter(|relative| !relative.as_os_str().is_empty());
        harmless_line(&relative.unwrap_or(path).to_string_lossy())
    }

    /// Follows the links of an absolute path to a regular file, within the model directories. Returns `None` if the
    /// target does not exist.
    ///
    /// # Errors
    /// The finding: it leads out of the model directories, to something other than a file, or in a circle, or cannot be
    /// followed.
    pub(super) fn resolve(&self, path: &Path) -> Result<Option<PathBuf>, Finding> {
        if self.relative(path).is_none() {
            return Ok(None);
        }
        match path.canonicalize() {
            Ok(real) if self.relative(&real).is_none() => {
                let real = harmless_line(&real.to_string_lossy());
                Err(Finding::Inconsistent(format!("a link leads out of the model directories, to {real}")))
            }
            Ok(real) if real.is_file() => Ok(Some(real)),
            Ok(_) => Err(Finding::Unreadable("it is not a regular file".to_owned())),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(Finding::Unreadable(error.to_string())),
        }
    }

    /// Reads the file at an absolute path, which may lead through links.
    ///
    /// # Errors
    /// As [`Self::resolve`]; it is missing, cannot be read, or has more than `limit` bytes.
    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, Finding> {
        let missing = || Finding::Unreadable("a link leads nowhere".to_owned());
        let real = self.resolve(path)?.ok_or_else(missing)?;
        read_file(&real, limit).map_err(Finding::Unreadable)?.ok_or_else(missing)
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Opens a regular file; no part of its path may be a link. Returns `None` if it is missing.
///
/// # Errors
/// It cannot be read, is not a regular file, or its path contains a link.
pub(super) fn open_file(path: &Path) -> Result<Option<(File, Metadata)>, String> {
    match disk::open_without_links(path) {
        Ok(file) => match file.metadata() {
            Ok(found) => Ok(Some((file, found))),
            Err(error) => Err(error.to_string()),
        },
        Err(_) if path.symlink_metadata().is_err_and(|error| is_absence(&error)) => Ok(None),
        Err(failure) => Err(failure.chain().join(": ")),
    }
}

/// Reads a regular file of at most `limit` bytes; no part of its path may be a link. Returns `None` if it is missing.
///
/// # Errors
/// As [`open_file`]; or it is longer.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, String> {
    let Some((file, _)) = open_file(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > limit { Err(format!("it has more than {limit} bytes")) } else { Ok(Some(bytes)) }
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
        assert_eq!(resolve("inside"), Ok(Some(models.join("sub/f"))));
        assert_eq!(resolve("more/f"), Ok(Some(top.join("more/f"))));
        assert_eq!((resolve("sub/none"), resolve("dangling")), (Ok(None), Ok(None)));
        assert_eq!(dirs.resolve(&top.join("outside/f")), Ok(None));
        assert!(
            matches!(resolve("out"), Err(Finding::Inconsistent(why)) if why.contains("out of the model"))
        );
        for refused in ["loop", "sub"] {
            assert!(matches!(resolve(refused), Err(Finding::Unreadable(_))), "{refused}");
        }
        assert_eq!(dirs.read(&models.join("inside"), 1), Ok(b"x".to_vec()));
        assert!(dirs.read(&models.join("inside"), 0).is_err());
        // After its path is resolved, no further link is followed.
        assert!(open_file(&models.join("more/f")).is_err() && open_file(&models.join("inside")).is_err());
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
        assert_eq!(dirs.0.iter().map(|dir| dir.base.clone()).collect::<Vec<_>>(), [top.join("a")]);
    }
}
