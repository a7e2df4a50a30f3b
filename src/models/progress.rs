//! How far the reading of model files is: as a value, and as the line that a unit writes. It touches nothing.

use std::fmt;

use crate::report::screen::{count, size};

/// How far the reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many files are read.
    pub files: usize,
    /// How many files there are.
    pub of_files: usize,
    /// How many bytes are read.
    pub bytes: u64,
    /// How many bytes there are.
    pub of_bytes: u64,
}

impl Progress {
    /// Returns the line that a unit writes.
    pub fn to_line(&self) -> String {
        let Self { files, of_files, bytes, of_bytes } = self;
        format!("read {files} {of_files} {bytes} {of_bytes}")
    }

    /// Reads a line of [`Self::to_line`]; returns `None` for another line.
    pub fn from_line(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix("read ")?.split(' ').collect();
        let [files, of_files, bytes, of_bytes] = words[..] else { return None };
        Some(Self {
            files: files.parse().ok()?,
            of_files: of_files.parse().ok()?,
            bytes: bytes.parse().ok()?,
            of_bytes: of_bytes.parse().ok()?,
        })
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, of_bytes) = (size(self.bytes), size(self.of_bytes));
        write!(f, "{bytes} of {of_bytes}, {} of {}", self.files, count(self.of_files, "file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back() {
        let progress = Progress { files: 1, of_files: 2, bytes: 3000, of_bytes: 6000 };
        assert_eq!(Progress::from_line(&progress.to_line()), Some(progress));
        assert_eq!(progress.to_string(), "2.9 KiB of 5.8 KiB, 1 of 2 files");
        for other in ["read 1 2 3", "read 1 2 3 x", "", "1 2 3 4"] {
            assert_eq!(Progress::from_line(other), None, "{other}");
        }
    }
}
