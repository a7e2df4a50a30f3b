//! Scans: from a directory on disk to a manifest.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::error::{Context as _, Failure, Outcome};
use crate::interrupt;

use super::{Entry, Kind, Manifest, Rest, format};

/// How many entries a scan keeps by default: about 50 MiB of them.
const ENTRIES: usize = 200_000;

/// How far down a scan goes; deeper entries count as unreadable.
const DEPTH: usize = 200;

/// How to scan a directory.
#[derive(Debug, Clone)]
pub struct Scan {
    contents: Contents,
    at_most: usize,
    unreadable: Unreadable,
}

/// What a scan does with an entry below the directory that cannot be examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    Fails,
    Listed,
}

/// What a scan does with the contents of files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Contents {
    Unread,
    Digested,
    /// Digested if the traces of the file differ from these, which an earlier scan recorded.
    Known(HashMap<PathBuf, Known>),
}

/// The values that an earlier scan recorded for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    size: u64,
    traces: Traces,
    digest: String,
}

/// The values of which every write to a file changes at least one: the time of its content, the time of any change, and
/// its inode.
type Traces = (i64, i64, u64);

impl Scan {
    /// Makes a scan that reads no file, only type, mode, size and time.
    pub fn metadata() -> Self {
        Self { contents: Contents::Unread, at_most: ENTRIES, unreadable: Unreadable::Fails }
    }

    /// Makes a scan that also takes the sha256 of every regular file.
    pub fn digests() -> Self {
        Self { contents: Contents::Digested, ..Self::metadata() }
    }

    /// Makes a scan that uses `earlier`, which contains digests: a file that has the same times and the same inode as
    /// then is not read. An edit whose time was set back is found all the same, because no program can set back the
    /// time of *that* change. In a plain copy of a directory every file is read. A file of another size is not read
    /// either: it differs in any case.
    pub fn knowing(earlier: &Manifest) -> Self {
        let known = earlier.entries.iter().filter_map(|entry| {
            let digest = entry.digest.clone()?;
            let traces = (entry.modified, entry.touched, entry.inode);
            Some((entry.path.clone(), Known { size: entry.size, traces, digest }))
        });
        Self { contents: Contents::Known(known.collect()), ..Self::metadata() }
    }

    /// Keeps this many entries; the others are folded into one digest.
    #[must_use]
    pub fn at_most(mut self, entries: usize) -> Self {
        self.at_most = entries;
        self
    }

    /// Lists an entry below the directory that cannot be examined in [`Manifest::unreadable`], which the caller must
    /// report, and goes on. By default such an entry fails the scan: a comparison or verification needs all entries.
    #[must_use]
    pub fn list_unreadable(mut self) -> Self {
        self.unreadable = Unreadable::Listed;
        self
    }

    /// Scans `root` (a directory, a file, a link, or nothing) and everything below it.
    ///
    /// A directory below `root` that cannot be opened is listed in [`Manifest::unreadable`]; files that vanish
    /// meanwhile are left out.
    ///
    /// # Errors
    /// `root` cannot be examined, an entry below it cannot (unless such entries are listed), a file whose content is
    /// needed cannot be read, or the run is interrupted.
    pub fn of(&self, root: &Path) -> Outcome<Manifest> {
        let mut walk = Walk { scan: self, manifest: Manifest::default(), rest: None };
        let found = match statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(walk.manifest),
            Err(error) => {
                return Err(Failure::new(format!("cannot read {}", root.display())).because(error));
            }
        };
        walk.visit(CWD, root.as_os_str(), &found, Path::new(""))
            .context(|| format!("cannot take the inventory of {}", root.display()))?;
        Ok(walk.finish())
    }
}

/// The source of the digest of a file.
enum ToRead {
    Nothing,
    Content,
    Known(String),
}

struct Walk<'a> {
    scan: &'a Scan,
    manifest: Manifest,
    rest: Option<(u64, Sha256)>,
}

impl Walk<'_> {
    fn visit(&mut self, directory: BorrowedFd<'_>, name: &OsStr, found: &Stat, path: &Path) -> Outcome<()> {
        interrupt::check()?;
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
                Ok(text) => Kind::Link(PathBuf::from(OsStr::from_bytes(text.as_bytes()))),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(error) => return self.missed(path, error),
            },
            _ => Kind::Other,
        };
        let is_file = kind == Kind::File;
        let size = u64::try_from(found.st_size).unwrap_or(0);
        let traces = (modified(found), touched(found), found.st_ino);
        let to_read = match &self.scan.contents {
            Contents::Unread => ToRead::Nothing,
            Contents::Digested => ToRead::Content,
            Contents::Known(files) => match files.get(path) {
                Some(known) if known.size == size && known.traces == traces => {
                    ToRead::Known(known.digest.clone())
                }
                Some(known) if known.size == size => ToRead::Content,
                _ => ToRead::Nothing,
            },
        };
        let digest = match to_read {
            ToRead::Content if is_file => match digest(directory, name, path)? {
                None => return Ok(()),
                some => some,
            },
            ToRead::Known(digest) if is_file => Some(digest),
            _ => None,
        };
        let is_directory = kind == Kind::Directory;
        let (modified, touched, inode) = if is_file { traces } else { (0, 0, 0) };
        self.keep(Entry {
            path: path.to_path_buf(),
            kind,
            mode: found.st_mode & 0o7777,
            size: if is_file { size } else { 0 },
            modified,
            touched,
            inode,
            digest,
        });
        if is_directory { self.descend(directory, name, path) } else { Ok(()) }
    }

    fn descend(&mut self, directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Outcome<()> {
        // A descriptor is open for each directory on the way down, and their number is limited.
        if path.components().count() > DEPTH {
            self.manifest.unreadable.push(path.to_path_buf());
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match openat(directory, name, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(_) => {
                self.manifest.unreadable.push(path.to_path_buf());
                return Ok(());
            }
        };
        let children = match names(&opened) {
            Ok(children) => children,
            Err(error) => return self.missed(path, error),
        };
        for child in children {
            let below = path.join(&child);
            match statat(&opened, child.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => self.visit(opened.as_fd(), child.as_os_str(), &found, &below)?,
                Err(Errno::NOENT) => {}
                Err(error) => self.missed(&below, error)?,
            }
        }
        Ok(())
    }

    fn missed(&mut self, path: &Path, error: Errno) -> Outcome<()> {
        match self.scan.unreadable {
            Unreadable::Fails => Err(unreadable(path, error)),
            Unreadable::Listed => {
                self.manifest.unreadable.push(path.to_path_buf());
                Ok(())
            }
        }
    }

    fn keep(&mut self, entry: Entry) {
        if self.manifest.entries.len() < self.scan.at_most {
            self.manifest.entries.push(entry);
            return;
        }
        let (count, digest) = self.rest.get_or_insert_with(|| (0, Sha256::new()));
        *count += 1;
        // Only values that depend on the content: a copy of the directory has the same digest.
        digest.update(format::line(&Entry { touched: 0, inode: 0, ..entry }));
    }

    fn finish(mut self) -> Manifest {
        self.manifest.rest =
            self.rest.map(|(entries, digest)| Rest { entries, digest: hex::encode(digest.finalize()) });
        self.manifest
    }
}

/// The names in a directory, sorted by their bytes, so an entire walk is sorted by path.
fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(PathBuf::from(OsStr::from_bytes(name.to_bytes())));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The sha256 of a regular file; `None` if it no longer exists, or is no longer a regular file.
fn digest(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Outcome<Option<String>> {
    // Without NONBLOCK, a pipe put in the file's place would block the scan forever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match openat(directory, name, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(unreadable(path, error)),
    };
    if !file.metadata().map_err(|error| unreadable(path, error))?.is_file() {
        return Ok(None);
    }
    let mut state = Sha256::new();
    let mut buffer = vec![0_u8; 128 << 10];
    loop {
        match file.read(&mut buffer).map_err(|error| unreadable(path, error))? {
            0 => return Ok(Some(hex::encode(state.finalize()))),
            count => state.update(&buffer[..count]),
        }
        interrupt::check()?;
    }
}

#[expect(clippy::allow_attributes, reason = "the types differ between architectures")]
#[allow(clippy::useless_conversion, reason = "the types differ between architectures")]
fn modified(found: &Stat) -> i64 {
    nanoseconds(i64::from(found.st_mtime), i64::try_from(found.st_mtime_nsec).unwrap_or_default())
}

#[expect(clippy::allow_attributes, reason = "the types differ between architectures")]
#[allow(clippy::useless_conversion, reason = "the types differ between architectures")]
fn touched(found: &Stat) -> i64 {
    nanoseconds(i64::from(found.st_ctime), i64::try_from(found.st_ctime_nsec).unwrap_or_default())
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

fn unreadable(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(format!("cannot read {}", path.display())).because(error)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests create the directories")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    fn paths(manifest: &Manifest) -> Vec<&str> {
        manifest.entries().iter().map(|entry| entry.path.to_str().unwrap()).collect()
    }

    #[test]
    fn a_directory_is_listed_in_the_order_of_its_paths_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::write(root.join("b/c/f"), "content").unwrap();
        fs::write(root.join("b.txt"), "").unwrap();
        symlink("/etc", root.join("a")).unwrap();
        let manifest = Scan::digests().of(root).unwrap();
        assert_eq!(paths(&manifest), ["", "a", "b", "b/c", "b/c/f", "b.txt"]);
        assert_eq!(manifest.entries()[1].kind, Kind::Link(PathBuf::from("/etc")));
        assert_eq!(manifest.files(), (2, 7));
        assert_eq!(
            manifest.entries()[5].digest.as_deref(),
            Some("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        );
        assert!(manifest.entries().is_sorted_by(|one, other| one.path < other.path));
    }

    #[test]
    fn a_directory_that_is_missing_has_an_empty_manifest() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Scan::metadata().of(&directory.path().join("nothing")).unwrap().is_empty());
    }

    #[test]
    fn a_scan_with_an_earlier_one_reads_only_touched_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["edited", "grown", "kept", "moved"] {
            fs::write(path(name), "1").unwrap();
        }
        let mut before = Scan::digests().of(directory.path()).unwrap();
        // A wrong digest for an unchanged file shows that the file is not read.
        let kept = before.entries.iter_mut().find(|entry| entry.path == Path::new("kept")).unwrap();
        kept.digest = Some("believed".into());
        let time = fs::metadata(path("edited")).unwrap().modified().unwrap();
        fs::write(path("edited"), "2").unwrap();
        File::open(path("edited")).unwrap().set_modified(time).unwrap();
        fs::write(path("grown"), "11").unwrap();
        fs::write(path("copy"), "1").unwrap();
        fs::rename(path("copy"), path("moved")).unwrap();
        let now = Scan::knowing(&before).of(directory.path()).unwrap();
        let digest = |name: &str| {
            let entry = now.entries().iter().find(|entry| entry.path == Path::new(name)).unwrap();
            entry.digest.as_deref()
        };
        assert_eq!((digest("kept"), digest("grown")), (Some("believed"), None));
        let difference = before.compare(&now);
        let changed: Vec<&Path> = difference.changed.iter().map(|(path, _)| path.as_path()).collect();
        assert_eq!(changed, [Path::new("edited"), Path::new("grown")], "{difference:?}");
        assert!(difference.added.is_empty() && difference.removed.is_empty());
    }

    #[test]
    fn a_pipe_does_not_block_the_scan() {
        let directory = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(CWD, directory.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let manifest = Scan::digests().of(directory.path()).unwrap();
        assert_eq!(manifest.entries()[1].kind, Kind::Other);
    }

    #[test]
    fn a_directory_that_is_too_deep_is_unreadable_and_does_not_block_the_scan() {
        let directory = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", DEPTH + 5).collect();
        fs::create_dir_all(directory.path().join(&deep)).unwrap();
        let manifest = Scan::digests().of(directory.path()).unwrap();
        assert_eq!(manifest.unreadable().len(), 1);
        assert_eq!(manifest.entries().len(), DEPTH + 2);
    }

    #[test]
    fn an_unreadable_entry_fails_a_scan_unless_it_is_to_be_listed() {
        let directory = tempfile::tempdir().unwrap();
        let closed = directory.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("f"), "").unwrap();
        fs::write(directory.path().join("open"), "").unwrap();
        // Its names can be read, but none of its entries can be examined.
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o444)).unwrap();
        let scans = || {
            // Root can examine everything, unless a thread of it drops its capabilities.
            let mut sets = capabilities(None).unwrap();
            sets.effective = CapabilitySet::empty();
            set_capabilities(None, sets).unwrap();
            let scan = Scan::metadata();
            (scan.of(directory.path()), scan.list_unreadable().of(directory.path()))
        };
        let (failed, listed) = std::thread::scope(|scope| scope.spawn(scans).join()).unwrap();
        let listed = listed.unwrap();
        assert!(failed.unwrap_err().chain().join(": ").contains("cannot read closed"));
        assert_eq!(paths(&listed), ["", "closed", "open"]);
        assert_eq!(listed.unreadable(), [PathBuf::from("closed")]);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_change_beyond_the_limit_is_still_found() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let scan = Scan::digests().at_most(2);
        let before = scan.of(directory.path()).unwrap();
        assert_eq!((before.entries().len(), before.len()), (2, 4));
        assert!(before.compare(&scan.of(directory.path()).unwrap()).is_none());
        fs::write(directory.path().join("c"), "other").unwrap();
        let difference = before.compare(&scan.of(directory.path()).unwrap());
        assert!(difference.beyond_the_limit && !difference.is_none());
    }
}
