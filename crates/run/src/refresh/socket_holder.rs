//! The unit that holds the sockets of the service while the service is down.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use refresh_programs::units::Waiting;
use refresh_programs::units::gate::{GateRequest, GateState};
use refresh_service::port_holder::PortHolder;
use refresh_system::error::{Failure, Outcome};
use refresh_system::interrupt;

/// The process of systemd, which opens and keeps the sockets of socket units.
pub(super) const SYSTEMD: i32 = 1;

/// The time limit of the unit's answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// The unit that holds the sockets. Dropping this value ends the unit.
#[derive(Debug)]
pub(crate) struct SocketHolder {
    /// `None` after its end.
    pub(super) waiting: Option<Waiting>,
    /// The other ends of the connections that were open before it was started.
    pub(super) early: HashSet<SocketAddr>,
    /// When a socket was opened again that systemd had closed.
    pub(super) opened_again: Option<Instant>,
}

impl SocketHolder {
    /// Returns whether a process may hold the socket while the service is stopped.
    pub(super) fn allows(&self, holder: &PortHolder) -> bool {
        let unit = self.waiting.as_ref().and_then(Waiting::unit);
        is_systemd(holder) || unit.is_some() && holder.unit.as_deref() == unit
    }

    pub(super) fn is_alive(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::is_alive)
    }

    /// Sends a request to the unit. It cannot be interrupted: a gate must not stay closed because of an interruption.
    pub(super) fn ask(&mut self, request: GateRequest) -> Outcome<GateState> {
        let Some(waiting) = &mut self.waiting else { return Err(Failure::new("the unit has ended")) };
        interrupt::shielded(|| waiting.ask_within(ANSWER, &request))
    }
}

impl Drop for SocketHolder {
    fn drop(&mut self) {
        // Its input is closed first; the unit then leaves the sockets unchanged.
        if let Some(waiting) = self.waiting.take() {
            waiting.end();
        }
    }
}

/// Returns whether a process is systemd.
pub(super) fn is_systemd(holder: &PortHolder) -> bool {
    holder.process.is_some_and(|process| process.pid == SYSTEMD)
}
