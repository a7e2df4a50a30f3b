//! A run and its followers are different processes: the run writes its events into its directory, the spool, and the
//! followers read them there.
//!
//! The spool consists of files, not pipes, so no reader can block a run: not a stopped or killed one, and not one with
//! a closed terminal. [`spool`] is the writer of a run, [`follow`] is the reader. [`start`] makes a run a process that
//! depends on no other: a transient unit if systemd manages the machine, else a process that outlives its caller.
//! `docs/adr/0011-a-run-outlives-its-caller.md` has the reasons.
//!
//! `/run/ladylinux-refresh/runs/<id>/` contains `events.jsonl` (the events of `docs/events.md`), `messages` (the
//! standard error of the run), `worker.json` (its process) and `end.json` (the end of the process). It is in memory and
//! lost after a boot; permanent data is in the directory of the run.

pub mod follow;
pub mod places;
pub mod spool;
pub mod start;
