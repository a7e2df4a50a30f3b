//! Work on files as their owner: this same program, started with the owner's rights.
//!
//! A root process that follows paths inside a tree which another user can write to may be led anywhere. So all code
//! that moves, copies or removes files in `app/`, or reads them by path, runs in a worker. A worker is a child that has
//! the owner's uid and gid from its first instruction, reads one JSON request on standard input and answers on standard
//! output. It is used in the same way if no rights must be dropped: then only one path needs tests.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process::Runner;
use refresh_system::checkpoint;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, FailureMessage, Outcome};

use super::finished::ChildEnd;
use super::program::Program;
use super::watch::Limits;

/// The hidden command that a worker is started with.
pub const COMMAND: &str = "as-owner";

/// Lets a worker with the rights of `owner` do `operation` on `request`, within `limits`. Used only if there are no
/// units: [`crate::units::Units::call_as`] decides.
///
/// # Errors
/// The worker's own failure, with its causes and hints as far as text carries them; or the worker died.
pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(
    runner: &Runner,
    owner: Owner,
    operation: &str,
    request: &Q,
    limits: &Limits,
) -> Outcome<A> {
    let context = || format!("cannot ask the worker for {operation}");
    let bytes = serde_json::to_vec(request).context(context)?;
    let mut program = Program::new(runner.own_program())
        .arg(COMMAND)
        .arg(operation)
        .input(bytes)
        .owner(owner)
        .deadline(limits.deadline)
        .keep(limits.keep.clone());
    for (name, value) in checkpoint::for_worker() {
        program = program.env(name, value);
    }
    let finished = runner.run(&program)?;
    match finished.ended {
        ChildEnd::Exited(0) => Answer::read(&finished.stdout, operation),
        _ => Err(finished.failure(&format!("the worker for {operation} failed"))),
    }
}

/// The answer of a worker.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer<A> {
    /// The work is done.
    Done(A),
    /// The work failed.
    Failed(FailureMessage),
}

impl<A: DeserializeOwned> Answer<A> {
    /// Reads the response of `operation`.
    ///
    /// # Errors
    /// The bytes are not a response, or the operation's own failure.
    pub(crate) fn read(bytes: &[u8], operation: &str) -> Outcome<A> {
        let failed = || format!("the process for {operation} failed");
        match serde_json::from_slice(bytes).context(failed)? {
            Self::Done(value) => Ok(value),
            Self::Failed(message) => Err(message.into_failure()),
        }
    }
}

/// Does the worker's side: reads the request, works, and encodes the answer.
pub fn answer<Q: DeserializeOwned, A: Serialize>(
    request: &[u8],
    work: impl FnOnce(Q) -> Outcome<A>,
) -> Vec<u8> {
    let result =
        serde_json::from_slice(request).context(|| "the request cannot be read".to_owned()).and_then(work);
    let answer = match result {
        Ok(value) => Answer::Done(value),
        Err(failure) => Answer::Failed(failure.message()),
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}
