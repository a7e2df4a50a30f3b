//! Entire refreshes by the real binary on complete installations: the six steps, with and without staging, and the
//! commands around them.
//!
//! Each file has one subject; `docs/conformance.md` lists the tests of each clause.
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
mod network;
mod order;
mod owner;
mod plan;
mod prepare;
mod probe;
mod protected;
mod replaced_python;
mod restart;
mod rollback;
mod socket;
mod status;
mod stop;
mod sync;
mod tls;
