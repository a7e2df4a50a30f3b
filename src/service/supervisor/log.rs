//! The service's log: written by the supervisor with rotation, read by whoever asks for its end.
//!
//! Each invocation is framed by lines that carry its name, so that a reader finds exactly its lines, also across a
//! rotation.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::Outcome;
use crate::settings::layout::Layout;

/// How much log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// The size in bytes at which a file is put aside.
    pub bytes: u64,
    /// How many files that were put aside are kept.
    pub files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { bytes: 8 << 20, files: 3 }
    }
}

/// The path of the log.
pub(super) fn path(layout: &Layout) -> PathBuf {
    layout.supervisor().join("service.log")
}

fn put_aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".{number}"));
    name.into()
}

/// The log of one invocation, open for writing. Trouble with it (a full disk) never reaches the service: what cannot be
/// written is lost, and the next line that can be says so.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    limits: LogLimits,
    invocation: String,
    at_line_start: bool,
    lost: u64,
}

impl Log {
    /// Opens the log and writes the line that opens the invocation.
    pub(super) fn open(path: &Path, limits: LogLimits, invocation: &str, at: Timestamp) -> Outcome<Self> {
        let file = disk::open_append(path, 0o640)?;
        let size = file.metadata().map_or(0, |found| found.len());
        let mut log = Self {
            path: path.to_path_buf(),
            file,
            size,
            limits,
            invocation: invocation.to_owned(),
            at_line_start: false,
            lost: 0,
        };
        log.say(&format!("service started at {at}"));
        Ok(log)
    }

    /// Writes a line of the supervisor's own.
    pub(super) fn say(&mut self, what: &str) {
        let line = format!("{what} {}\n", frame(&self.invocation));
        if !self.at_line_start && self.size > 0 {
            self.append(b"\n");
        }
        self.append(line.as_bytes());
    }

    /// Writes what the service wrote.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.lost > 0 && self.at_line_start {
            let lost = std::mem::take(&mut self.lost);
            self.say(&format!("{lost} bytes could not be written"));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(self.part(rest));
            self.append(part);
            rest = after;
        }
    }

    /// Returns how much of `bytes` belongs into the present file: whole lines, where that can be.
    fn part(&self, bytes: &[u8]) -> usize {
        let room = usize::try_from(self.limits.bytes.saturating_sub(self.size)).unwrap_or(usize::MAX).max(1);
        if bytes.len() <= room {
            return bytes.len();
        }
        let last_within = bytes[..room].iter().rposition(|byte| *byte == b'\n');
        let cut = last_within.or_else(|| bytes.iter().position(|byte| *byte == b'\n'));
        cut.map_or(bytes.len(), |newline| newline + 1)
    }

    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                self.at_line_start = bytes.ends_with(b"\n");
            }
            Err(_) => self.lost += bytes.len() as u64,
        }
        // A file is put aside between lines, unless the service never ends one.
        if self.size >= self.limits.bytes && (self.at_line_start || self.size >= 2 * self.limits.bytes) {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        for number in (1..self.limits.files).rev() {
            let from = put_aside(&self.path, number);
            if from.exists() {
                let _ = disk::move_over(&from, &put_aside(&self.path, number + 1));
            }
        }
        if disk::move_over(&self.path, &put_aside(&self.path, 1)).is_err() {
            return;
        }
        if let Ok(file) = disk::open_append(&self.path, 0o640) {
            self.file = file;
            self.size = 0;
        }
    }
}

/// What a line of the supervisor's own ends with.
fn frame(invocation: &str) -> String {
    format!("[supervisor: {invocation}]")
}

/// Returns the last `count` lines that the service wrote in one invocation.
///
/// # Errors
/// A file of the log is there and cannot be read.
pub(super) fn tail(path: &Path, invocation: &str, count: usize) -> Outcome<Vec<String>> {
    let mut newest_first: Vec<String> = Vec::new();
    let mut file = path.to_path_buf();
    for number in 1.. {
        let Some(bytes) = disk::read_if_there(&file)? else { break };
        let (complete, lines) = of_invocation(&bytes, invocation, count - newest_first.len());
        newest_first.extend(lines);
        if complete || newest_first.len() == count {
            break;
        }
        file = put_aside(path, number);
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// Returns the invocation's last `count` lines, the newest first, and whether its first line was met.
fn of_invocation(bytes: &[u8], invocation: &str, count: usize) -> (bool, Vec<String>) {
    let frame = frame(invocation);
    let mut lines = Vec::new();
    for line in bytes.strip_suffix(b"\n").unwrap_or(bytes).rsplit(|byte| *byte == b'\n') {
        if line.is_empty() && bytes.is_empty() {
            break;
        }
        if line.ends_with(frame.as_bytes()) {
            if line.starts_with(b"service started at ") {
                return (true, lines);
            }
            continue;
        }
        if lines.len() == count {
            return (true, lines);
        }
        lines.push(String::from_utf8_lossy(line).trim_end_matches('\r').to_owned());
    }
    (false, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: LogLimits = LogLimits { bytes: 200, files: 2 };

    fn open(path: &Path, limits: LogLimits, invocation: &str) -> Log {
        Log::open(path, limits, invocation, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn the_tail_holds_lines_of_exactly_one_invocation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        let mut first = open(&path, LogLimits::default(), "one");
        first.write(b"a\nb\nunfinished");
        let mut second = open(&path, LogLimits::default(), "two");
        second.write(b"c\nd\n");
        second.say("service ended");
        assert_eq!(tail(&path, "two", 10).unwrap(), ["c", "d"]);
        assert_eq!(tail(&path, "two", 1).unwrap(), ["d"]);
        assert!(tail(&path, "two", 0).unwrap().is_empty());
    }

    #[test]
    fn a_tail_reaches_across_a_rotation_and_old_files_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        let mut log = open(&path, SMALL, "one");
        for number in 0..100 {
            log.write(format!("line {number}\n").as_bytes());
        }
        let files = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, 3);
        let tail = tail(&path, "one", 30).unwrap();
        assert_eq!(tail.len(), 30);
        assert_eq!(tail[0], "line 70");
        assert_eq!(tail[29], "line 99");
    }

    #[test]
    fn one_large_write_is_spread_over_the_files_without_breaking_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        let all: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        open(&path, SMALL, "one").write(format!("{}\n", all.join("\n")).as_bytes());
        assert_eq!(tail(&path, "one", 40).unwrap(), all[60..]);
        let sizes = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(sizes.into_iter().all(|size| size < SMALL.bytes + 10));
    }

    #[test]
    fn a_service_that_never_ends_a_line_does_not_fill_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.log");
        let mut log = open(&path, SMALL, "one");
        for _ in 0..1000 {
            log.write(b"............");
        }
        let total: u64 = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total < 3 * 2 * SMALL.bytes + 100, "{total}");
    }
}
