//! Runs and builds that are killed, and files and system calls that fail.

#[path = "../support/crash.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod crash;
#[path = "../support/dice.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod dice;
#[path = "../support/host.rs"]
#[allow(dead_code, reason = "other tests use it")]
mod host;

mod damage;
mod environment_kills;
mod run_kills;
