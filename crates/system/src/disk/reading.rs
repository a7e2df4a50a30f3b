//! Reads complete files, without being held up or filled by what others put in their place.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use crate::error::{Context as _, Failure, Outcome};

/// Returns whether there is a directory at `path`.
///
/// # Errors
/// The caller may not look.
pub fn is_directory(path: &Path) -> Outcome<bool> {
    match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        other => Ok(other.context(|| format!("cannot read {}", path.display()))?.is_dir()),
    }
}

/// Opens a file to read it, with these flags beside.
///
/// # Errors
/// The kernel's.
pub fn open_with(path: &Path, flags: OFlags) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Reads the JSON file at `path`; `None` where there is no such file.
///
/// # Errors
/// The file cannot be read or does not hold a `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Outcome<Option<T>> {
    match read_if_there(path)? {
        None => Ok(None),
        Some(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .context(|| format!("{} has unexpected content", path.display())),
    }
}

/// Reads the file at `path`; `None` where there is no such file. What is no regular file (a pipe without a writer, a
/// device that never ends) is not waited for.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read_if_there(path: &Path) -> Outcome<Option<Vec<u8>>> {
    read_at_most(path, u64::MAX)
}

/// As [`read_if_there`], for a file that others write and that is small where it is what it should be.
///
/// # Errors
/// The file is there and cannot be read, or has more than `limit` bytes.
pub fn read_at_most(path: &Path, limit: u64) -> Outcome<Option<Vec<u8>>> {
    let context = || format!("cannot read {}", path.display());
    let refused = |why: String| Err(Failure::new(context()).because(Failure::new(why)));
    let file = match open_with(path, OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(context()).because(error)),
    };
    let found = file.metadata().context(context)?;
    // `/dev/null` is how people say that there is nothing.
    let is_null = found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(1, 3);
    if !found.is_file() && !is_null {
        return refused("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).context(context)?;
    if bytes.len() as u64 > limit {
        return refused(format!("it has more than {limit} bytes"));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is read")]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_pipe_and_a_device_in_a_files_place_are_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(read_if_there(&pipe).is_err());
        let endless = directory.path().join("endless");
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        assert!(read_if_there(&endless).is_err());
        assert_eq!(read_if_there(Path::new("/dev/null")).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn more_than_the_limit_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap().as_deref(), Some(&b"12345"[..]));
        assert!(read_at_most(&path, 4).is_err());
        File::options().write(true).open(&path).unwrap().set_len(1 << 36).unwrap();
        assert!(read_at_most(&path, 1 << 20).is_err());
    }
}
