//! Attacks by the service user and by users who can push to the repository, on machines with systemd. Each script is in
//! `lab/attacks/` and runs inside a machine of the lab, nowhere else.
//!
//! `LADYLINUX_REFRESH_TEST_PROGRAM` names another build to attack: against 0.1 these attacks succeed.
#![allow(clippy::disallowed_methods, reason = "tests read clocks and start programs")]
#![allow(clippy::disallowed_macros, clippy::print_stderr, reason = "a test prints its measurements")]
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

mod beside;
mod confinement;
mod hold_up;
mod repository;
mod root;
mod secrets;
mod target;
