//! The service's own socket during a refresh: a unit of this program holds it from before the stop until the service
//! has passed its health check. So it stays open, connections wait in its backlog, and systemd starts nothing for them.

use std::time::Duration;

use refresh_events::run_report::Connections;
use refresh_installation::installation::Installation;
use refresh_programs::process::ProcessId;
use refresh_programs::units::gate;
use refresh_programs::units::gate::GateRequest;
use refresh_programs::units::{HeldSockets, Role, UnitOptions};
use refresh_service::page;
use refresh_service::port;
use refresh_service::port::Connection;
use refresh_service::port_holder::PortHolder;
use refresh_service::sockets::SocketUnit;
use refresh_system::error::{Failure, Outcome};
use refresh_system::{checkpoint, clock};

use super::account::Account;
use super::socket_holder::{SYSTEMD, SocketHolder, is_systemd};

/// The time limit for holding the socket, even if the run does not end.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The time limit for the service to read its accepted connections, while new connections wait outside.
const READING: Duration = Duration::from_secs(1);

/// How long the starts that closed a socket count against it: the default of `TriggerLimitIntervalSec=`, and a little
/// more.
const TRIGGER_INTERVAL: Duration = Duration::from_millis(2200);

/// The interval of that check.
const TICK: Duration = Duration::from_millis(2);

/// Returns whether a process may listen on the service's port while the service is stopped.
pub(crate) fn is_allowed(on: &Installation, account: &Account, holder: &PortHolder) -> bool {
    let is_next = holder.process == Some(ProcessId::own()) && on.service.has_next_socket();
    is_next
        || account
            .held
            .as_ref()
            .is_some_and(|held| held.allows(holder) || page::is_it(on.service.as_ref(), holder))
}

/// Starts the unit that holds the service's sockets, if socket units start the service. A socket unit that systemd has
/// closed because of the fence is opened with it.
///
/// # Errors
/// A socket unit does not belong to the service alone, the unit cannot be started or does not get the sockets, or a
/// page cannot be ended.
pub(crate) fn hold(on: &Installation, account: &mut Account) -> Outcome<()> {
    let sockets = on.service.sockets()?;
    if sockets.is_empty() || sockets.iter().any(|socket| !socket.is_open) {
        // A page may still hold a socket that its unit has closed; the socket could then not be opened again.
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
    let is_any_closed = sockets.iter().any(|socket| !socket.is_open);
    let (mut held, names) = start(on, sockets)?;
    held.opened_again = is_any_closed.then(clock::monotonic);
    account.note(&format!("{names} stays open: connections wait until the service is up again"));
    account.held = Some(held);
    checkpoint::reach("socket:held");
    Ok(())
}

/// Starts the unit; returns it with the names of the socket units.
fn start(on: &Installation, sockets: Vec<SocketUnit>) -> Outcome<(SocketHolder, String)> {
    let number = on.port()?;
    let units: Vec<String> = sockets.into_iter().map(|socket| socket.unit).collect();
    let names = units.join(", ");
    let non_blocking = port::is_non_blocking(number, SYSTEMD)?;
    let early = port::connections(number)?.into_iter().map(|connection| connection.from).collect();
    let options = UnitOptions::new(Role::Hold, LIMIT).holds(HeldSockets { units, non_blocking });
    let waiting = on.units.wait_in_unit(&options, gate::OPERATION, &GateRequest::Prepare)?;
    let held = SocketHolder { waiting: Some(waiting), early, opened_again: None };
    let has_it = |holder: &PortHolder| !is_systemd(holder) && held.allows(holder);
    if !port::holders(number)?.iter().any(has_it) {
        return Err(Failure::new(format!("the unit that is to hold {names} does not have its socket"))
            .command("systemctl status", &[&names]));
    }
    Ok((held, names))
}

/// Opens the gate that a killed run may have left closed, and removes its other remains. Must be called after each end
/// of a run, and before a person lowers the fence, while no run is in progress. Returns a warning for a person.
pub fn open_left(on: &Installation) -> Option<String> {
    if !on.units.have_left_sockets() {
        return None;
    }
    let open = || -> Outcome<()> {
        let sockets: Vec<SocketUnit> = on.service.sockets()?.into_iter().filter(|it| it.is_open).collect();
        // A socket that is closed, or was opened again, no longer has a gate.
        if sockets.is_empty() { Ok(()) } else { start(on, sockets).map(drop) }
    };
    let failure = open().err()?;
    let why = failure.chain().join(": ");
    Some(format!("the socket of the service may not take connections until it is opened again: {why}"))
}

/// Keeps new connections outside until [`open_gate`], and waits until the service has read its accepted connections: at
/// their stop, some servers reset connections that they have accepted but not read. Returns `true` if connections wait
/// outside. If that is not possible, the refresh continues.
pub(crate) fn close_gate(on: &Installation, account: &mut Account) -> bool {
    let Some(held) = &mut account.held else { return false };
    let closed = held.ask(GateRequest::Close).and_then(|state| Ok((state.gates, on.port()?)));
    account.report.connections = Some(Connections::default());
    checkpoint::reach("socket:gate-closed");
    match closed {
        Ok((0, _)) => return false,
        Ok((_, number)) => {
            let open = await_read(number);
            let ended = open.iter().filter(|connection| held.early.contains(&connection.from)).count();
            account.report.connections = Some(Connections { ended, ..Connections::default() });
            checkpoint::reach("socket:read");
        }
        Err(failure) => {
            let why = failure.chain().join(": ");
            account.note(&format!("new connections are not kept outside during the stop: {why}"));
            return false;
        }
    }
    true
}

/// Waits until the service has accepted all its connections and read their data, at most for [`READING`]. Returns its
/// connections at that time.
fn await_read(number: u16) -> Vec<Connection> {
    let end = clock::monotonic() + READING;
    loop {
        clock::sleep_uninterrupted(TICK);
        let all = port::connections(number).unwrap_or_default();
        if all.iter().all(|connection| connection.is_read) || clock::monotonic() >= end {
            return all;
        }
    }
}

/// Admits the connections that wait outside: only the next start of the service can now accept them.
pub(crate) fn open_gate(account: &mut Account) {
    let Some(held) = &mut account.held else { return };
    // If the unit has ended, a new one opens the gate before it answers.
    if let Err(failure) = held.ask(GateRequest::Open).or_else(|_| held.ask(GateRequest::Open)) {
        account
            .warn(format!("the unit that holds the socket does not answer: {}", failure.chain().join(": ")));
    }
    checkpoint::reach("socket:gate-opened");
}

/// Returns whether systemd now keeps a socket of the service open, which the start of the service may have opened.
///
/// # Errors
/// systemd cannot be queried.
pub(crate) fn is_kept_open(on: &Installation) -> Outcome<bool> {
    Ok(on.service.sockets()?.iter().any(|socket| socket.is_open))
}

/// Lets new connections wait for the next start of the service, if the embedded supervisor starts it with its socket.
/// Returns `true` if they wait. If that is not possible, the refresh continues.
pub(crate) fn open_next(on: &Installation, account: &mut Account) -> bool {
    match on.service.open_next_socket() {
        Ok(opened) => opened,
        Err(failure) => {
            let why = failure.chain().join(": ");
            account.warn(format!("new connections do not wait for the service, but are refused: {why}"));
            false
        }
    }
}

/// Ends the unit: the service holds the sockets again.
pub(crate) fn release(account: &mut Account) {
    if let Some(mut held) = account.held.take() {
        count_waited(account, &mut held);
        if let Some(at) = held.opened_again {
            // The first connection after the unit would close the socket again. The service answers meanwhile.
            clock::sleep_uninterrupted(
                TRIGGER_INTERVAL.saturating_sub(clock::monotonic().duration_since(at)),
            );
        }
    }
    checkpoint::reach("socket:released");
}

/// Queries the unit for the number of connections that waited. This program's own requests to the service are not
/// counted.
fn count_waited(account: &mut Account, held: &mut SocketHolder) {
    let own = account.asked_here;
    let Some(seen) = &mut account.report.connections else { return };
    if held.is_alive()
        && let Ok(state) = held.ask(GateRequest::Count)
    {
        seen.waited = state.waited.saturating_sub(own);
        seen.longest_wait_ms = state.longest_ms.filter(|_| seen.waited > 0);
    }
}
