//! The log of the service: the service appends to it, [`tail`] and [`after`] read it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::LogPlace;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// The size in bytes above which a start of the service begins the log again.
const LIMIT: u64 = 32 << 20;
/// The number of bytes that are read at once. The service writes the log, and it may grow during the read.
const READ: u64 = 1 << 20;

/// Returns the path of the log.
pub(super) fn path(layout: &Layout) -> PathBuf {
    layout.supervisor().join("service.log")
}

/// Opens a log to append to it; one over `limit` bytes is begun again. Returns it and the offset of its end.
pub(super) fn open(path: &Path, limit: u64) -> Outcome<(File, u64)> {
    if path.metadata().is_ok_and(|found| found.len() > limit) {
        disk::remove_file_if_there(path)?;
    }
    let file = disk::open_append(path, 0o640)?;
    let start = file.metadata().context(|| format!("cannot read {}", path.display()))?.len();
    Ok((file, start))
}

/// Opens the log of the service for a new invocation ([`open`]).
pub(super) fn open_service(layout: &Layout) -> Outcome<(File, u64)> {
    open(&path(layout), LIMIT)
}

/// Returns the last `count` lines after the offset `start`, at most from the last MiB.
///
/// # Errors
/// The log cannot be read.
pub(super) fn tail(path: &Path, start: u64, count: usize) -> Outcome<Vec<String>> {
    let part = read_from(path, None, start)?.unwrap_or_default();
    let mut lines: Vec<String> = String::from_utf8_lossy(&part.bytes).lines().map(str::to_owned).collect();
    lines.drain(..lines.len().saturating_sub(count));
    Ok(lines)
}

/// Returns the lines of the log after `place`, else the last `count`, and the place after them. If there is more than a
/// MiB, the first lines are left out. An incomplete line is left for later.
///
/// # Errors
/// The log cannot be read.
pub(super) fn after(
    path: &Path,
    place: Option<&LogPlace>,
    count: usize,
) -> Outcome<(Vec<String>, Option<LogPlace>)> {
    let (known, from) = match place {
        Some(LogPlace::Offset { inode, bytes }) => (Some(*inode), *bytes),
        _ => (None, 0),
    };
    let found = match read_from(path, known, from)? {
        Some(part) => Some(part),
        // The log was begun again.
        None => read_from(path, None, 0)?,
    };
    let Some(Part { inode, offset, mut bytes }) = found else { return Ok((Vec::new(), place.cloned())) };
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1));
    let mut lines: Vec<String> = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
    if place.is_none() {
        lines.drain(..lines.len().saturating_sub(count));
    }
    Ok((lines, Some(LogPlace::Offset { inode, bytes: offset + bytes.len() as u64 })))
}

/// A part of a log.
#[derive(Debug, Default)]
struct Part {
    inode: u64,
    /// The offset of the first byte.
    offset: u64,
    bytes: Vec<u8>,
}

/// Reads a file from an offset to its end, at most the last [`READ`] bytes. Returns `None` if it does not exist, or if
/// it was begun again: it is not the one with the inode `known`, or is shorter than the offset.
fn read_from(path: &Path, known: Option<u64>, offset: u64) -> Outcome<Option<Part>> {
    if !path.exists() {
        return Ok(None);
    }
    let context = || format!("cannot read {}", path.display());
    let mut file = disk::open_regular(path)?;
    let metadata = file.metadata().context(context)?;
    let (inode, length) = (metadata.ino(), metadata.len());
    if known.is_some_and(|known| known != inode || length < offset) {
        return Ok(None);
    }
    // A log that another program truncated is read from its beginning.
    let offset = if length < offset { 0 } else { offset }.max(length.saturating_sub(READ));
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset)).context(context)?;
    file.take(READ.min(length - offset)).read_to_end(&mut bytes).context(context)?;
    Ok(Some(Part { inode, offset, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_log_is_followed_across_a_new_beginning_and_a_line_without_an_end_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        assert_eq!(after(&path, None, 9).unwrap(), (Vec::new(), None));
        let (mut log, start) = open(&path, 8).unwrap();
        assert_eq!(start, 0);
        log.write_all(b"one\ntwo\nthr").unwrap();
        let (lines, place) = after(&path, None, 1).unwrap();
        assert_eq!(lines, ["two"]);
        log.write_all(b"ee\n").unwrap();
        let (lines, place) = after(&path, place.as_ref(), 1).unwrap();
        assert_eq!(lines, ["three"]);
        let (mut log, start) = open(&path, 8).unwrap();
        assert_eq!(start, 0, "a log over its limit is not begun again");
        log.write_all(b"four\nfive\n").unwrap();
        let (lines, place) = after(&path, place.as_ref(), 1).unwrap();
        assert_eq!(lines, ["four", "five"]);
        assert!(after(&path, place.as_ref(), 1).unwrap().0.is_empty());
    }

    #[test]
    fn of_a_long_log_the_last_part_is_read_and_one_that_was_cut_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        let (mut log, _) = open(&path, LIMIT).unwrap();
        log.set_len(READ * 3).unwrap();
        log.write_all(b"\nlast\n").unwrap();
        assert_eq!(tail(&path, 0, 1).unwrap(), ["last"]);
        assert_eq!(read_from(&path, None, 0).unwrap().unwrap().bytes.len() as u64, READ);
        let (_, place) = after(&path, None, 1).unwrap();
        log.set_len(0).unwrap();
        log.write_all(b"new\n").unwrap();
        assert_eq!(after(&path, place.as_ref(), 1).unwrap().0, ["new"]);
        assert_eq!(tail(&path, READ * 3, 9).unwrap(), ["new"]);
    }

    #[test]
    fn the_tail_holds_lines_of_exactly_one_invocation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        assert!(tail(&path, 0, 9).unwrap().is_empty());
        open(&path, 99).unwrap().0.write_all(b"a\nb\nunfinished").unwrap();
        let (mut log, start) = open(&path, 99).unwrap();
        assert!(tail(&path, start, 9).unwrap().is_empty());
        log.write_all(b"c\r\nd").unwrap();
        assert_eq!(tail(&path, start, 9).unwrap(), ["c", "d"]);
        assert_eq!(tail(&path, start, 1).unwrap(), ["d"]);
        assert!(tail(&path, start, 0).unwrap().is_empty());
    }
}
