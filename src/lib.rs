//! Updates a running LadyLinux installation to the latest state of a Git branch, in place.

pub mod checkpoint;
pub mod clock;
pub mod disk;
pub mod error;
pub mod event;
pub mod git;
pub mod process;
pub mod report;
pub mod settings;
