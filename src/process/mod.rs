//! Other programs: started, watched, ended; never left behind.
//!
//! [`Runner::run`] is the one door to other programs. Every child runs in a session and a process group of its own,
//! without a terminal (`session`), with a cleared environment, an optional deadline and an optional stall limit, and
//! carries [`RUN_MARK`] so that a later run can find and end what a killed run left behind ([`leftover`]). Two programs outlive their caller and have a door of their
//! own ([`detached`]).

pub mod child;
pub mod detached;
pub mod handle;
pub mod identity;
pub mod inherited;
pub mod interrupt;
pub mod leftover;
pub(crate) mod passing;
pub(crate) mod replacement;
mod session;
pub(crate) mod watch;
pub mod worker;

pub use child::{Ended, Finished, Keep, Program, Runner};
pub use handle::Handle;
pub use identity::{Owner, ProcessId};

/// The environment variable that marks every process of a run with the run's name.
pub const RUN_MARK: &str = "LADYLINUX_REFRESH_RUN";
