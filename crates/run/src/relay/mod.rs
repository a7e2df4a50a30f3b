//! A run and those who follow it are different processes: the run writes what happens into its directory, the spool,
//! and those who follow read there.
//!
//! The spool is files, not pipes, so no reader can hold a run up: not by being stopped, not by being killed, not
//! by a terminal that went away. [`spool`] is what a run writes, [`follow`] is who reads it, [`start`] makes a run a
//! process that depends on no other: a transient unit where systemd keeps the machine, else a process that outlives its
//! caller. `docs/adr/0011-a-run-outlives-its-caller.md` has the reasons.
//!
//! `/run/ladylinux-refresh/runs/<id>/` holds `events.jsonl` (the events of `docs/events.md`), `messages` (what the run
//! wrote to its standard error), `worker.json` (its process) and `end.json` (how that ended). It lives in memory and is
//! gone after a boot; what has to last is in the directory of the run.

pub mod follow;
pub mod places;
pub mod spool;
pub mod start;
