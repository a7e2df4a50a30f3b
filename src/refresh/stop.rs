//! Step 1: fence up, service down, its processes gone, its port free (RW-5.1).

use std::time::Duration;

use crate::checkpoint;
use crate::clock;
use crate::error::Outcome;
use crate::installation::Installation;
use crate::process::interrupt;
use crate::service::{Admission, Force, Running, ServiceState, fence, port};

use super::account::Account;
use super::others;
use super::socket;

/// How long the kernel may take to free the port of processes that are gone.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Stops the service behind a fence.
///
/// # Errors
/// The fence cannot be raised (then nothing was stopped), a process of the service cannot be ended, or a stranger
/// holds its port.
pub fn stop(on: &Installation, account: &mut Account) -> Outcome<String> {
    socket::hold(on, account)?;
    others::note(on, account)?;
    on.units.end_sessions();
    let before = if on.is_fenced() { None } else { on.service.observe()?.running().cloned() };
    fence::raise(&on.layout, &account.run, &format!("refresh {} is in progress", account.run))?;
    let began = clock::monotonic();
    account.down_since = Some(began);
    let is_held = before.is_some() && socket::close_gate(on, account);
    let waits_outside = is_held || socket::open_next(on, account);
    // An interrupt does not end this half way: a halted run leaves a stopped service (RW-7.1a).
    let stopped = interrupt::shielded(|| on.service.stop());
    if before.is_some() {
        socket::open_gate(account);
    }
    let stopped = match stopped {
        Ok(stopped) => stopped,
        Err(failure) => {
            interrupt::shielded(|| leave_untouched(on, account, before.as_ref()));
            return Err(failure);
        }
    };
    if !waits_outside {
        // Until here the service still answered.
        account.down_since = Some(began + stopped.others_took);
    }
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
    port::await_free(on.port()?, PORT_PATIENCE, |holder| socket::is_allowed(on, account, holder))?;
    Ok(stopped.to_string())
}

/// A service that a failed stop has not touched goes on: the fence is lowered again, and the units that were stopped before
/// it are started. That run was refused, and has not halted.
fn leave_untouched(on: &Installation, account: &mut Account, before: Option<&Running>) {
    on.service.close_next_socket();
    let now = on.service.observe().ok();
    if before.is_none() || now.as_ref().and_then(ServiceState::running) != before {
        return;
    }
    let lowered = fence::lower(&on.layout).and_then(|()| on.service.start(Admission::Ordinary).map(drop));
    if let Err(trouble) = lowered {
        account.warn(format!("not all is as it was before the stop: {}", trouble.chain().join(": ")));
    }
    for warning in others::start_noted(on) {
        account.warn(warning);
    }
    socket::release(account);
    account.others.clear();
    account.down_since = None;
}
