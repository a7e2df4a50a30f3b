//! The durable record of a run, and how the next run uses it.
//!
//! [`record`] defines the records and their legal order, and [`store`] writes and reads them. [`run_lock`] allows one
//! run at a time, and [`recover`] cleans up after a run that was killed. Nothing is ever resumed in the middle: the
//! journal only records what a killed run may have left.

pub mod record;
pub mod recover;
pub mod run_lock;
pub mod store;

pub use record::{Entry, Status};
pub use store::Journal;
