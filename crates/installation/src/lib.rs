//! One installation: its stores ([`installation`]), its lock and journal ([`journal`]), its status ([`status_file`]),
//! its past runs ([`history`]), and its exit codes ([`exit`]).
//!
//! The crate writes below the directories of the tool only. It starts nothing by itself.

pub mod exit;
pub mod history;
pub mod installation;
pub mod journal;
pub mod status_file;
