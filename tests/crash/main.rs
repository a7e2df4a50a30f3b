//! Runs and builds that are killed, and files and system calls that fail.
#![allow(clippy::too_many_lines, reason = "a table of cases is read as one")]

#[path = "../support/crash/mod.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod crash;
#[path = "../support/dice.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod dice;
#[path = "../support/host.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod host;
#[path = "../support/port.rs"]
mod port;

mod damage;
mod environment_kills;
mod run_kills;
