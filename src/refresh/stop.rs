//! Step 1: fence up, service down, its processes gone, its port free (RW-5.1).

use std::time::Duration;

use crate::checkpoint;
use crate::clock;
use crate::error::Outcome;
use crate::installation::Installation;
use crate::process::interrupt;
use crate::service::{Force, fence, port};

use super::account::Account;

/// How long the kernel may take to free the port of processes that are gone.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Stops the service behind a fence.
///
/// # Errors
/// The fence cannot be raised (then nothing was stopped), a process of the service cannot be ended, or a stranger
/// holds its port.
pub fn stop(on: &Installation, account: &mut Account) -> Outcome<String> {
    fence::raise(&on.layout, &account.run, &format!("refresh {} is under way", account.run))?;
    account.down_since = Some(clock::monotonic());
    // An interrupt does not end this half way: a halted run leaves a stopped service (RW-7.1a).
    let stopped = interrupt::shielded(|| on.service.stop())?;
    if stopped.force == Force::Killed {
        account.warn(format!("the service {stopped}: it did not end within its stop timeout"));
    }
    for note in &stopped.notes {
        account.warn(note.clone());
    }
    for process in &stopped.leftovers {
        account.note(&format!("ended a left-over process of the service: {process}"));
    }
    checkpoint::reach("stop:stopped");
    port::await_free(on.port()?, PORT_PATIENCE)?;
    Ok(stopped.to_string())
}
