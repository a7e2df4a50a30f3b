//! Starts other programs; no other crate does.
//!
//! [`process`] starts, watches and ends a program. [`units`] runs work on content of others in sandboxed units, with
//! [`systemd`] or, on a host without it, with the launcher in this crate. The crate does not depend on the purpose of
//! the programs.

pub mod process;
pub mod systemd;
pub mod units;
