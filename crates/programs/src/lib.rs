//! Other programs, and the only way to them.
//!
//! [`process`] starts, watches and ends a program. [`units`] runs work on content of others in sandboxed units, with
//! [`systemd`] or, on a host without it, with the launcher in this crate. It knows nothing of what the programs are for.

pub mod process;
pub mod systemd;
pub mod units;
