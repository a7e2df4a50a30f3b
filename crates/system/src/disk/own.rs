//! The tool's own state, which root relies on: opened without following links, and checked by descriptor. This module
//! reads and opens files and changes none.
//!
//! Root uses an entry only if root owns it and no other user can write to it. For any other user, the permissions of
//! the file system decide. Source: openat(2), fstat(2), fstatat(2).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, open, openat, statat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use crate::error::{Context as _, Failure, Outcome};

/// An entry that users other than root control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// The entry.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
}

/// How far a check goes below an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The entry and everything in it counts.
    All,
    /// Only the entry counts.
    Entry,
    /// Neither the entry nor anything in it counts.
    Nothing,
}

/// Returns the entries below the directory `top` that users other than root control, at most `limit` of them. For each
/// entry, named relative to `top`, `depth` returns how far it counts.
///
/// # Errors
/// A directory cannot be read. A missing `top` is not an error.
pub fn foreign(top: &Path, depth: &dyn Fn(&Path, bool) -> Depth, limit: usize) -> Outcome<Vec<Foreign>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match open(top, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        opened => opened.context(|| cannot_read(top))?,
    };
    let mut search = Search { top, depth, limit, found: Vec::new() };
    search.directory(&opened, Path::new(""))?;
    Ok(search.found)
}

struct Search<'a> {
    top: &'a Path,
    depth: &'a dyn Fn(&Path, bool) -> Depth,
    limit: usize,
    found: Vec<Foreign>,
}

impl Search<'_> {
    fn directory(&mut self, directory: &OwnedFd, below: &Path) -> Outcome<()> {
        let context = || cannot_read(&self.top.join(below));
        let mut inner = Vec::new();
        for entry in Dir::read_from(directory).context(context)? {
            let entry = entry.context(context)?;
            let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                // It was removed meanwhile.
                Err(Errno::NOENT) => continue,
                stat => stat.context(context)?,
            };
            let path = below.join(name);
            let is_directory = kind(&stat) == FileType::Directory;
            let depth = (self.depth)(&path, is_directory);
            if depth != Depth::Nothing && !is_roots(&stat) {
                self.found.push(Foreign { path: self.top.join(&path), uid: stat.st_uid });
            }
            if depth == Depth::All && is_directory {
                inner.push(path);
            }
        }
        for path in inner {
            if self.found.len() >= self.limit {
                break;
            }
            let name = path.file_name().unwrap_or_default();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(directory, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {}
                opened => self.directory(&opened.context(|| cannot_read(&self.top.join(&path)))?, &path)?,
            }
        }
        Ok(())
    }
}

/// Opens an entry of the tool's own state. A link in its place is refused, even if root owns it.
///
/// # Errors
/// It cannot be opened, or the caller is root and other users control it or its directory.
pub fn open_own(path: &Path, flags: OFlags, mode: Mode) -> Outcome<Option<File>> {
    let context = || format!("cannot open {}", path.display());
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let directory = match open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) if !flags.contains(OFlags::CREATE) => return Ok(None),
        directory => directory.context(context)?,
    };
    refuse_foreign(parent, &fstat(&directory).context(context)?)?;
    let Some(name) = path.file_name() else { return Err(Failure::new(context())) };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat(&directory, name, flags, mode) {
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err(Failure::new(context()).because(Failure::new("it is a symbolic link")));
        }
        file => file.context(context)?,
    };
    let stat = fstat(&file).context(context)?;
    refuse_foreign(path, &stat)?;
    if kind(&stat) != FileType::RegularFile {
        return Err(Failure::new(context()).because(Failure::new("it is not a regular file")));
    }
    Ok(Some(File::from(file)))
}

/// Reads a file of the tool's own state; `None` if it does not exist.
///
/// # Errors
/// As [`open_own`], or the file cannot be read.
pub fn read_own(path: &Path) -> Outcome<Option<Vec<u8>>> {
    let Some(mut file) = open_own(path, OFlags::RDONLY, Mode::empty())? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context(|| cannot_read(path))?;
    Ok(Some(bytes))
}

/// Reads a file that root owns in a place where other users may be able to write; `None` if it does not exist or root
/// does not own it. It is examined before it is opened, so no file of another user is opened.
///
/// # Errors
/// It cannot be read, or has more than `limit` bytes.
pub fn read_if_roots(path: &Path, limit: u64) -> Outcome<Option<Vec<u8>>> {
    let context = || cannot_read(path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(entry) = open(path, flags, Mode::empty()) else { return Ok(None) };
    let stat = fstat(&entry).context(context)?;
    if stat.st_uid != 0 || kind(&stat) != FileType::RegularFile {
        return Ok(None);
    }
    // A descriptor of this kind cannot be read; its name below /proc leads to exactly this file.
    let name = format!("/proc/self/fd/{}", entry.as_raw_fd());
    super::read_at_most(Path::new(&name), limit).context(context)
}

/// Reads a JSON file of the tool's own state; `None` if it does not exist.
///
/// # Errors
/// As [`read_own`], or the file does not hold a `T`.
pub fn read_own_json<T: DeserializeOwned>(path: &Path) -> Outcome<Option<T>> {
    let Some(bytes) = read_own(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).context(|| format!("{} has unexpected content", path.display()))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Returns whether root owns an entry and no other user can write to it. The mode of a link has no effect.
fn is_roots(stat: &Stat) -> bool {
    stat.st_uid == 0 && (stat.st_mode & 0o022 == 0 || kind(stat) == FileType::Symlink)
}

fn refuse_foreign(path: &Path, stat: &Stat) -> Outcome<()> {
    if !rustix::process::geteuid().is_root() || is_roots(stat) {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::new(if stat.st_uid == 0 {
        format!("others than root can write to {path}")
    } else {
        format!("{path} belongs to uid {}", stat.st_uid)
    }))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is read")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    const OTHER: u32 = 61_877;

    #[test]
    fn a_link_in_an_entrys_place_is_never_followed() {
        let place = tempfile::tempdir().unwrap();
        let (kept, link) = (place.path().join("kept"), place.path().join("link"));
        fs::write(&kept, "x").unwrap();
        symlink(&kept, &link).unwrap();
        assert_eq!(read_own(&kept).unwrap().as_deref(), Some(&b"x"[..]));
        assert!(read_own(&link).unwrap_err().chain().join(": ").contains("symbolic link"));
        assert_eq!(read_own(&place.path().join("nothing")).unwrap(), None);
        assert_eq!(read_own(&place.path().join("no/where")).unwrap(), None);
        assert!(read_own(place.path()).is_err(), "a directory is no file");
    }

    #[test]
    fn root_opens_no_entry_that_others_control() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("inner/file");
        fs::create_dir(place.path().join("inner")).unwrap();
        fs::write(&file, "x").unwrap();
        chown(&file, Some(OTHER), None).unwrap();
        assert!(read_own(&file).unwrap_err().summary().ends_with(&format!("belongs to uid {OTHER}")));
        chown(&file, Some(0), None).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(read_own(&file).unwrap_err().summary().starts_with("others than root can write"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        chown(file.parent().unwrap(), Some(OTHER), None).unwrap();
        assert!(read_own(&file).is_err(), "its directory decides on it");
    }

    #[test]
    fn a_file_of_roots_is_read_and_one_of_others_is_not_even_opened() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("env"), place.path().join("link"));
        fs::write(&file, "A=1").unwrap();
        symlink(&file, &link).unwrap();
        chown(place.path(), Some(OTHER), None).unwrap();
        assert_eq!(read_if_roots(&file, 10).unwrap().as_deref(), Some(&b"A=1"[..]));
        assert!(read_if_roots(&file, 2).is_err());
        assert_eq!(read_if_roots(&link, 10).unwrap(), None);
        assert_eq!(read_if_roots(&place.path().join("nothing"), 10).unwrap(), None);
        chown(&file, Some(OTHER), None).unwrap();
        assert_eq!(read_if_roots(&file, 10).unwrap(), None);
    }

    #[test]
    fn a_search_finds_entries_of_others_down_to_its_depth() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let top = place.path();
        for name in ["all/inner", "entry/inner", "nothing/inner"] {
            fs::create_dir_all(top.join(name)).unwrap();
            chown(top.join(name), Some(OTHER), None).unwrap();
        }
        let depth = |path: &Path, _: bool| match path.iter().next().and_then(|name| name.to_str()) {
            Some("entry") => Depth::Entry,
            Some("nothing") => Depth::Nothing,
            _ => Depth::All,
        };
        let found = foreign(top, &depth, 10).unwrap();
        assert_eq!(found, [Foreign { path: top.join("all/inner"), uid: OTHER }]);
        assert_eq!(foreign(&top.join("missing"), &depth, 10).unwrap(), []);
    }
}
