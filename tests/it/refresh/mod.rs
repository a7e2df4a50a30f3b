//! Whole refreshes by the real binary on whole installations: the six steps, staged and not, and what belongs to them.
//!
//! One subject a file; `docs/conformance.md` says which clause is proved where.
#![allow(clippy::disallowed_macros, reason = "a measurement is printed")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out files and start programs")]

mod data_in_the_tree;
mod doctor_sizes;
mod environment;
mod halts;
mod held_back;
pub(crate) mod help;
mod if_changed;
mod init;
mod local_changes;
mod order;
mod owner;
mod plan;
mod prepare;
mod probe;
mod protected;
mod restart;
mod rollback;
mod socket;
mod status;
mod stop;
mod sync;
mod tls;
