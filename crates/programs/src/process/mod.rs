//! Other programs: started, watched, ended; never left behind.
//!
//! [`Runner::run`] is the one door to other programs. Every child runs in a session and a process group of its own,
//! without a terminal (`session`), with a cleared environment, an optional deadline and an optional stall limit, and
//! carries [`RUN_MARK`] so that a later run can find and end what a killed run left behind ([`leftover`]). Two programs outlive their caller and have a door of their
//! own ([`detached`]).

pub(crate) mod child;
pub mod detached;
mod exit_kind;
mod finished;
pub(crate) mod handle;
pub mod identity;
pub mod inherited;
pub mod leftover;
pub(crate) mod memory_file;
pub mod passing;
mod program;
pub(crate) mod replacement;
mod session;
pub(crate) mod watch;
pub mod worker;

pub use child::Runner;
pub use exit_kind::ExitKind;
pub use finished::{Ended, Finished, Keep};
pub use handle::Handle;
pub use identity::ProcessId;
pub use leftover::RUN_MARK;
pub use program::Program;
