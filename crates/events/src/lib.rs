//! What a run reports: events while it goes, a report at its end, and its log file.
//!
//! Values that are written and read as JSON. It writes the log ([`log`]) and touches nothing else.

pub mod event;
pub mod log;
pub mod run_report;
