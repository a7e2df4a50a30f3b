//! The service's own socket during a refresh: a unit of ours has it from before the stop until the service is proved. So it
//! stays open, connections wait in its backlog, and systemd starts nothing for them.

use std::time::Duration;

use crate::error::{Failure, Outcome};
use crate::installation::Installation;
use crate::process::ProcessId;
use crate::service::page;
use crate::service::port::{self, PortHolder};
use crate::units::operations::{READY, ReadyRequest};
use crate::units::{HeldSockets, Job, Role, Waiting};

use super::account::Account;

/// How long the socket is held at most, whatever becomes of the run.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// systemd, which opens the sockets of socket units and keeps them.
const SYSTEMD: i32 = 1;

/// The unit that has the sockets. Dropping it ends the unit.
#[derive(Debug)]
pub struct Held {
    waiting: Waiting,
    process: ProcessId,
}

impl Held {
    /// Tells whether a process has the socket by right while the service is stopped.
    fn allows(&self, holder: &PortHolder) -> bool {
        holder.process.is_some_and(|process| process.pid == SYSTEMD || process == self.process)
    }
}

/// Tells whether a process may listen on the service's port while the service is stopped.
pub fn is_allowed(on: &Installation, account: &Account, holder: &PortHolder) -> bool {
    account.held.as_ref().is_some_and(|held| held.allows(holder) || page::is_it(on.service.as_ref(), holder))
}

/// Starts the unit that has the service's sockets, where socket units start the service. A socket unit that systemd has closed
/// because of the fence is opened with it.
///
/// # Errors
/// A socket unit is not the service's own, the unit cannot be started or does not get the sockets, or a page cannot be ended.
pub fn hold(on: &Installation, account: &mut Account) -> Outcome<()> {
    let sockets = on.service.sockets()?;
    if sockets.is_empty() || sockets.iter().any(|socket| !socket.is_open) {
        // A page may still have a socket that its unit has closed, which keeps that from being opened again.
        on.service.end_page()?;
    }
    if sockets.is_empty() {
        return Ok(());
    }
    let number = on.port()?;
    for socket in &sockets {
        socket.check_own(on.settings.service.unit.as_str(), number)?;
        if !socket.is_open {
            on.service.forgive_socket(&socket.unit)?;
        }
    }
    let units: Vec<String> = sockets.into_iter().map(|socket| socket.unit).collect();
    let names = units.join(", ");
    let non_blocking = port::is_non_blocking(number, SYSTEMD)?;
    let job = Job::new(Role::Hold, LIMIT).holds(HeldSockets { units, non_blocking });
    let waiting = on.units.wait_in_unit(&job, READY, &ReadyRequest {})?;
    let has_it = |holder: &PortHolder| waiting.unit().is_some() && holder.unit.as_deref() == waiting.unit();
    let process = port::holders(number)?.into_iter().find(has_it).and_then(|holder| holder.process);
    let Some(process) = process else {
        return Err(Failure::new(format!("the unit that is to hold {names} does not have its socket"))
            .hint(format!("systemctl status {names}")));
    };
    account.note(&format!("{names} stays open: connections wait until the service is up again"));
    account.held = Some(Held { waiting, process });
    Ok(())
}

/// Tells whether systemd keeps a socket of the service open now, which the start of the service may have opened.
///
/// # Errors
/// systemd cannot be asked.
pub fn is_kept_open(on: &Installation) -> Outcome<bool> {
    Ok(on.service.sockets()?.iter().any(|socket| socket.is_open))
}

/// Tells whether a process is systemd.
pub fn is_systemd(holder: &PortHolder) -> bool {
    holder.process.is_some_and(|process| process.pid == SYSTEMD)
}

/// Ends the unit: the service has the sockets again.
pub fn release(account: &mut Account) {
    if let Some(held) = account.held.take() {
        held.waiting.end();
    }
}
