//! Reads complete files. Other users can put something else in their place; that neither blocks the reader nor fills
//! its memory.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use crate::error::{Context as _, Failure, Outcome};

/// Returns whether there is a directory at `path`.
///
/// # Errors
/// The caller lacks the permission to examine the path.
pub fn is_directory(path: &Path) -> Outcome<bool> {
    match fs::metadata(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        other => Ok(other.context(|| format!("cannot read {}", path.display()))?.is_dir()),
    }
}

/// Opens a file to read it, with these additional flags.
///
/// # Errors
/// The kernel refuses.
pub fn open_with(path: &Path, flags: OFlags) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Reads the JSON file at `path`; `None` if the file does not exist.
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

/// Reads the file at `path`; `None` if the file does not exist. Anything but a regular file (a pipe without a writer, a
/// device that never ends) is refused without waiting.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read_if_there(path: &Path) -> Outcome<Option<Vec<u8>>> {
    read_at_most(path, u64::MAX)
}

/// As [`read_if_there`], for a file that other users write and that is small if it is correct.
///
/// # Errors
/// The file exists and cannot be read, or has more than `limit` bytes.
pub fn read_at_most(path: &Path, limit: u64) -> Outcome<Option<Vec<u8>>> {
    let Some(file) = open_regular(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).context(|| cannot_read(path))?;
    if bytes.len() as u64 > limit {
        return Err(too_long(path, limit));
    }
    Ok(Some(bytes))
}

/// How many bytes [`read_last_line`] reads first.
const BLOCK: u64 = 64 << 10;

/// Returns the last line that is not empty, without its end; `None` if the file or the line does not exist. The content
/// before it is not read.
///
/// # Errors
/// The file exists and cannot be read, or the line has more than `limit` bytes.
pub fn read_last_line(path: &Path, limit: u64) -> Outcome<Option<Vec<u8>>> {
    let context = || cannot_read(path);
    let Some(mut file) = open_regular(path)? else { return Ok(None) };
    let length = file.metadata().context(context)?.len();
    let mut wanted = BLOCK;
    loop {
        let start = length.saturating_sub(wanted);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start)).context(context)?;
        (&file).take(length - start).read_to_end(&mut bytes).context(context)?;
        let end = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |last| last + 1);
        bytes.truncate(end);
        let before = bytes.iter().rposition(|byte| *byte == b'\n');
        if let Some(newline) = before {
            bytes.drain(..=newline);
        }
        match before {
            None if start == 0 && bytes.is_empty() => return Ok(None),
            None if start > 0 && wanted <= limit => wanted *= 2,
            None if start > 0 => return Err(too_long(path, limit)),
            _ if bytes.len() as u64 > limit => return Err(too_long(path, limit)),
            _ => return Ok(Some(bytes)),
        }
    }
}

/// Opens a regular file, or `/dev/null`; `None` if the file does not exist.
fn open_regular(path: &Path) -> Outcome<Option<File>> {
    let context = || cannot_read(path);
    let file = match open_with(path, OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(context()).because(error)),
    };
    let found = file.metadata().context(context)?;
    // People use `/dev/null` for an empty file.
    let is_null = found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(1, 3);
    if !found.is_file() && !is_null {
        return Err(Failure::new(context()).because(Failure::new("it is not a regular file")));
    }
    Ok(Some(file))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

fn too_long(path: &Path, limit: u64) -> Failure {
    Failure::new(cannot_read(path)).because(Failure::new(format!("it has more than {limit} bytes")))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is read")]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn the_last_line_is_read_with_any_content_before_it() {
        use std::io::Write as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lines");
        let last = |limit| read_last_line(&path, limit).map(|line| line.map(|line| line.len()));
        assert_eq!(last(10).unwrap(), None);
        let long = "x".repeat(200_000);
        for (text, length) in [
            ("", None),
            ("\n\n", None),
            ("abc", Some(3)),
            ("a\nbc\n\n", Some(2)),
            (long.as_str(), Some(200_000)),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(last(1 << 20).unwrap(), length);
            fs::write(&path, format!("{long}\n{text}")).unwrap();
            assert_eq!(last(1 << 20).unwrap(), length.or(Some(200_000)));
        }
        assert!(last(100_000).is_err());
        // A hole of a terabyte precedes the line.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all(b"\nend\n").unwrap();
        assert_eq!(last(10).unwrap(), Some(3));
    }

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
