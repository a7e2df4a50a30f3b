//! The output of a run: events during the run, a report at its end, and its log file.
//!
//! Values that are written and read as JSON. The crate writes the log ([`log`]) and touches nothing else.

pub mod event;
pub mod log;
pub mod run_report;
