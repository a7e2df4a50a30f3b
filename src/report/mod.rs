//! Renderings of events and of the report of a run.
//!
//! [`refresh_system::screen`] is the only way to standard output and standard error.

pub mod error_json;
pub mod github;
pub mod human;
pub mod json;
pub mod outcome;
pub mod progress;
pub mod stderr_notes;
