//! The unit that has the sockets of the service while it is down.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use refresh_programs::units::Waiting;
use refresh_programs::units::gate::{GateRequest, GateState};
use refresh_service::port::PortHolder;
use refresh_system::error::{Failure, Outcome};
use refresh_system::interrupt;

/// systemd, which opens the sockets of socket units and keeps them.
pub(super) const SYSTEMD: i32 = 1;

/// How long the unit may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// The unit that has the sockets. Dropping it ends the unit.
#[derive(Debug)]
pub(crate) struct SocketHolder {
    /// `None` from its end on.
    pub(super) waiting: Option<Waiting>,
    /// The other ends of the connections that were open before it was started.
    pub(super) early: HashSet<SocketAddr>,
    /// When a socket was opened again that systemd had closed.
    pub(super) opened_again: Option<Instant>,
}

impl SocketHolder {
    /// Returns whether a process has the socket by right while the service is stopped.
    pub(super) fn allows(&self, holder: &PortHolder) -> bool {
        let unit = self.waiting.as_ref().and_then(Waiting::unit);
        is_systemd(holder) || unit.is_some() && holder.unit.as_deref() == unit
    }

    pub(super) fn is_alive(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::is_alive)
    }

    /// Asks the unit. It is not interrupted: a gate must not stay closed for that.
    pub(super) fn ask(&mut self, request: GateRequest) -> Outcome<GateState> {
        let Some(waiting) = &mut self.waiting else { return Err(Failure::new("the unit has ended")) };
        interrupt::shielded(|| waiting.ask_within(ANSWER, &request))
    }
}

impl Drop for SocketHolder {
    fn drop(&mut self) {
        // Its input is closed first: it leaves the sockets as they were.
        if let Some(waiting) = self.waiting.take() {
            waiting.end();
        }
    }
}

/// Returns whether a process is systemd.
pub(super) fn is_systemd(holder: &PortHolder) -> bool {
    holder.process.is_some_and(|process| process.pid == SYSTEMD)
}
