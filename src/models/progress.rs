//! How far an examination is: as a value, and as the line that a unit writes. It touches nothing.

use std::cell::Cell;
use std::time::Duration;

/// How far an examination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// How many files are read.
    pub files: usize,
    /// How many have to be.
    pub of_files: usize,
    /// How many bytes are read.
    pub bytes: u64,
    /// How many have to be; none where only headers are read.
    pub of_bytes: u64,
    /// How long the reading has taken.
    pub elapsed: Duration,
}

impl Reached {
    /// Returns `true` if `every` has passed since it was last due, and notes that it is; the end is always due.
    pub fn is_due(&self, last: &Cell<Option<Duration>>, every: Duration) -> bool {
        // The headers are read after the files, and their time begins again.
        let has_passed = |last: Duration| self.elapsed >= last + every || self.elapsed < last;
        let is_due = self.files == self.of_files || last.get().is_none_or(has_passed);
        if is_due {
            last.set(Some(self.elapsed));
        }
        is_due
    }

    /// Returns it as one line.
    pub fn to_line(&self) -> String {
        let Self { files, of_files, bytes, of_bytes, elapsed } = self;
        format!("read {files} {of_files} {bytes} {of_bytes} {}", elapsed.as_millis())
    }

    /// Reads a line of [`Self::to_line`]; `None` where it is another.
    pub fn from_line(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix("read ")?.split(' ').collect();
        let [files, of_files, bytes, of_bytes, millis] = words.as_slice() else { return None };
        Some(Self {
            files: files.parse().ok()?,
            of_files: of_files.parse().ok()?,
            bytes: bytes.parse().ok()?,
            of_bytes: of_bytes.parse().ok()?,
            elapsed: Duration::from_millis(millis.parse().ok()?),
        })
    }
}

/// Whoever wants to know how far it is.
pub trait Progress {
    /// Takes note. Called by the thread that asked for the examination, some twenty times a second while files are read.
    fn take(&self, reached: &Reached);
}

/// Nobody wants to know.
impl Progress for () {
    fn take(&self, _: &Reached) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_what_was_written() {
        let elapsed = Duration::from_millis(1500);
        let reached = Reached { files: 1, of_files: 8, bytes: 1 << 40, of_bytes: u64::MAX, elapsed };
        assert_eq!(Reached::from_line(&reached.to_line()), Some(reached));
        for other in ["", "read", "read 1 2 3 4", "read 1 2 3 4 5 6", "read 1 2 3 4 -5", "warning: 1 2 3 4 5"]
        {
            assert_eq!(Reached::from_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn it_is_due_at_first_then_now_and_then_and_at_the_end() {
        let (last, every) = (Cell::new(None), Duration::from_millis(500));
        let at = |files, millis| {
            let elapsed = Duration::from_millis(millis);
            Reached { files, of_files: 2, elapsed, ..Reached::default() }.is_due(&last, every)
        };
        let due = [at(0, 0), at(0, 400), at(0, 500), at(1, 900), at(2, 950), at(0, 10), at(1, 20)];
        assert_eq!(due, [true, false, true, false, true, true, false]);
    }
}
