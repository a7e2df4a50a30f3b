//! Other programs: started, watched, ended; never left behind.
//!
//! [`Runner::run`] starts other programs. Every child runs in its own session and process group, without a terminal
//! (`session`), with a cleared environment, an optional deadline and an optional stall limit. Every child carries
//! [`RUN_MARK`]: a later run can find and end the processes that a killed run left ([`leftover`]). Programs that
//! outlive their caller are started by [`detached`].

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
pub use finished::{ChildEnd, Finished, Keep};
pub use handle::Handle;
pub use identity::ProcessId;
pub use leftover::RUN_MARK;
pub use program::Program;
