//! How far an examination is, for whoever wants to know.

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

/// Whoever wants to know how far it is.
pub trait Progress {
    /// Takes note. Called by the thread that asked for the examination, some twenty times a second while files are read.
    fn take(&self, reached: &Reached);
}

/// Nobody wants to know.
impl Progress for () {
    fn take(&self, _: &Reached) {}
}
