//! Starts and stops the unit of the page. Its unit file has the conditions of its start: the fence stands, and no
//! refresh is starting the service at that time.

use std::time::Duration;

use super::sockets;
use crate::page::UNIT;
use refresh_programs::process::ProcessId;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, LoadState, UnitFacts};
use refresh_settings::names::UnitName;
use refresh_system::checkpoint;
use refresh_system::error::{Failure, Outcome};

/// The time limit of its start or stop; its file sets shorter limits.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts the unit. `facts` are those of the service's unit `service`. Returns whether it runs; `false` if there is no
/// such unit.
///
/// # Errors
/// The unit is masked, or does not start.
pub(super) fn start(bus: &Bus, facts: &UnitFacts, service: &UnitName) -> Outcome<bool> {
    let page = bus.unit(UNIT)?;
    match (page.active, page.load) {
        (ActiveState::Active, _) => return Ok(true),
        (_, LoadState::NotFound) => return Ok(false),
        (_, LoadState::Masked) => return Err(cannot_be_shown(format!("{UNIT} is masked"))),
        (_, LoadState::Loaded | LoadState::Bad) => {}
    }
    sockets::open_closed(bus, facts, service)?;
    checkpoint::reach("page:starting");
    bus.start(UNIT, LIMIT).map_err(|failure| failure.command("systemctl status", &[&UNIT]))?;
    checkpoint::reach("page:started");
    match bus.unit(UNIT)?.active {
        ActiveState::Active => Ok(true),
        _ => Err(cannot_be_shown(format!("{UNIT} ended as soon as it was started"))),
    }
}

/// Returns the main process of the unit; `None` if it does not run.
///
/// # Errors
/// systemd cannot be queried.
pub(super) fn process(bus: &Bus) -> Outcome<Option<ProcessId>> {
    Ok(bus.unit(UNIT)?.main_pid.and_then(ProcessId::of))
}

/// Stops the unit if it is up.
pub(super) fn stop(bus: &Bus) -> Outcome<()> {
    if bus.is_down(UNIT)? {
        return Ok(());
    }
    checkpoint::reach("page:stopping");
    bus.stop(UNIT, LIMIT).map_err(|failure| failure.command("systemctl status", &[&UNIT]))?;
    checkpoint::reach("page:stopped");
    Ok(())
}

fn cannot_be_shown(why: String) -> Failure {
    Failure::new(why).command("systemctl status", &[&UNIT])
}
