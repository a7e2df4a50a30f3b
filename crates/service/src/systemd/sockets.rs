//! The socket units of a service in systemd. Reads units over the bus, and starts a socket unit that systemd has
//! closed.

use std::time::Duration;

use crate::sockets::SocketUnit;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};
use refresh_settings::names::UnitName;
use refresh_system::clock;
use refresh_system::error::Outcome;

/// The prefix of this program's own units.
const OWN: &str = "ladylinux-refresh-";

/// The results of a socket unit that systemd closed because the service could not be started. Behind the fence, the
/// first connection causes that.
const CLOSED: [&str; 2] = ["trigger-limit-hit", "service-start-limit-hit"];

/// The time limit of the start of a socket unit.
const START: Duration = Duration::from_secs(30);

/// The number of attempts to open a socket unit. The starts that closed it still count for a while, and the first
/// connection closes it again.
const ATTEMPTS: usize = 3;

/// How long starts that a socket requested count: the default of `TriggerLimitIntervalSec=`, and a little more.
const TRIGGER_INTERVAL: Duration = Duration::from_millis(2200);

/// The time within which systemd closes a socket again.
const MOMENT: Duration = Duration::from_millis(50);

/// Returns the socket units that start a unit, in any state.
///
/// # Errors
/// systemd cannot be queried.
pub fn known(bus: &Bus, unit: &UnitName) -> Outcome<Vec<SocketUnit>> {
    matching(bus, &bus.unit(unit.as_str())?, unit, |_| true)
}

/// Returns the socket units that start the unit and are open, or were closed because of the fence.
pub(super) fn all(bus: &Bus, facts: &UnitFacts, unit: &UnitName) -> Outcome<Vec<SocketUnit>> {
    matching(bus, facts, unit, |socket| match socket.active {
        ActiveState::Active => true,
        ActiveState::Failed => CLOSED.contains(&socket.result.as_str()),
        _ => false,
    })
}

fn matching(
    bus: &Bus,
    facts: &UnitFacts,
    unit: &UnitName,
    is_wanted: impl Fn(&UnitFacts) -> bool,
) -> Outcome<Vec<SocketUnit>> {
    let is_other = |name: &String| name != unit.as_str() && !name.starts_with(OWN);
    let mut sockets = Vec::new();
    for name in facts.triggered_by.iter().filter(|name| name.ends_with(".socket")) {
        let socket = bus.unit(name)?;
        if is_wanted(&socket) {
            sockets.push(SocketUnit {
                unit: name.clone(),
                is_open: socket.active == ActiveState::Active,
                accepts: socket.accepts,
                listens: socket.listens,
                systemd: bus.version()?,
                shared_with: socket.triggers.into_iter().filter(is_other).collect(),
            });
        }
    }
    Ok(sockets)
}

/// Opens the socket units again that systemd has closed: the service gets its connections from them.
pub(super) fn open_closed(bus: &Bus, facts: &UnitFacts, unit: &UnitName) -> Outcome<()> {
    let closed = || -> Outcome<Vec<SocketUnit>> {
        Ok(all(bus, facts, unit)?.into_iter().filter(|socket| !socket.is_open).collect())
    };
    for attempt in 0..ATTEMPTS {
        let closed = closed()?;
        if closed.is_empty() {
            return Ok(());
        }
        if attempt > 0 {
            clock::pause(TRIGGER_INTERVAL)?;
        }
        for socket in closed {
            bus.reset_failed(&socket.unit)?;
            bus.start(&socket.unit, START)?;
        }
        clock::pause(MOMENT)?;
    }
    Ok(())
}
