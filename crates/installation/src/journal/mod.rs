//! The durable record of a run, and what the next run makes of it.
//!
//! [`record`] says what is written and which order is legal, [`store`] writes and reads it, [`run_lock`] lets one run
//! at a time through, [`recover`] cleans up after a run that was killed. Nothing is ever resumed in the middle: the
//! journal only has what a killed run may have left.

pub mod record;
pub mod recover;
pub mod run_lock;
pub mod store;

pub use record::{Entry, Status};
pub use store::Journal;
