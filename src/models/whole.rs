//! Opening files that others own: never through a link, never waiting for a pipe, never a device.
//!
//! A path comes here with its links followed already, to a place where they may lead. A link that stands in it now was put
//! there since, to have something read that is none of our business: whoever may write among the models must not choose what
//! is read with the rights of root. So no part of a path may be a link, and not only the last.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

/// Looks at what is at a path, without opening it; a link in its last part is looked at itself.
///
/// # Errors
/// There is nothing, a link on the way, or a folder that may not be entered.
pub(super) fn look(path: &Path) -> io::Result<Metadata> {
    reach(path, OFlags::PATH)?.metadata()
}

/// Opens a regular file to read it, without a trace in its time of access where we may.
///
/// # Errors
/// It is missing, no regular file, behind a link, or may not be read.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // To be opened is enough for some devices to do something.
    regular(look(path)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match reach(path, flags | OFlags::NOATIME) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => reach(path, flags)?,
        other => other?,
    };
    let found = regular(file.metadata()?)?;
    Ok((file, found))
}

/// Reads a whole file that has at most `limit` bytes.
///
/// # Errors
/// As [`open`]; or it is longer.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Says what something is that is no regular file.
pub(super) fn no_file(kind: FileType) -> Option<String> {
    let what = match kind {
        _ if kind.is_file() => return None,
        _ if kind.is_dir() => "a folder",
        _ if kind.is_symlink() => "a symbolic link",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Some(format!("it is {what}, no regular file"))
}

fn regular(found: Metadata) -> io::Result<Metadata> {
    match no_file(found.file_type()) {
        None => Ok(found),
        Some(what) => Err(io::Error::other(what)),
    }
}

fn reach(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reached = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Kernels before 5.6 do not know it, and some containers forbid it.
        Err(Errno::NOSYS | Errno::PERM) => by_steps(path, flags),
        other => other,
    };
    match reached {
        Ok(file) => Ok(file.into()),
        Err(Errno::LOOP) => Err(io::Error::other("there is a link on the way to it")),
        Err(error) => Err(error.into()),
    }
}

/// Goes to a path part by part, which leaves a link no moment either.
fn by_steps(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(CWD, ".", step, Mode::empty())?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return openat(&at, part.as_os_str(), flags, Mode::empty());
        }
        at = openat(&at, part.as_os_str(), step, Mode::empty())?;
        if rustix::fs::FileType::from_raw_mode(fstat(&at)?.st_mode).is_symlink() {
            return Err(Errno::LOOP);
        }
    }
    Ok(at)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is opened")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_on_the_way_is_never_followed() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        fs::create_dir_all(place.join("elsewhere/deep")).unwrap();
        fs::write(place.join("elsewhere/deep/secret"), "secret").unwrap();
        symlink("elsewhere", place.join("way")).unwrap();
        symlink("secret", place.join("elsewhere/deep/last")).unwrap();
        assert_eq!(read(&place.join("elsewhere/deep/secret"), 6).unwrap(), b"secret");
        let told = |path: &str| open(&place.join(path)).unwrap_err().to_string();
        assert_eq!(told("way/deep/secret"), "there is a link on the way to it");
        assert_eq!(told("elsewhere/deep/last"), "it is a symbolic link, no regular file");
        assert!(look(&place.join("way/deep/secret")).is_err());
        assert!(look(&place.join("elsewhere/deep/last")).unwrap().is_symlink());
    }

    #[test]
    fn a_kernel_that_must_go_step_by_step_finds_the_same() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        fs::create_dir_all(place.join("folder")).unwrap();
        fs::write(place.join("folder/file"), "").unwrap();
        symlink("folder", place.join("way")).unwrap();
        symlink("none", place.join("dangling")).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let paths =
            ["folder/file", "folder/./file", "folder", "way", "way/file", "dangling/file", "none/file"];
        for path in paths.map(|path| place.join(path)).iter().chain([&"/".into(), &"nul\0".into()]) {
            let at_once = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
            let Err(error) = at_once else {
                assert!(by_steps(path, flags).is_ok(), "{}", path.display());
                continue;
            };
            assert_eq!(by_steps(path, flags).unwrap_err(), error, "{}", path.display());
        }
    }
}
