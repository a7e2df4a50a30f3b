//! Starts and stops the unit of the page. What decides whether it may run is in its file: the fence stands, and no refresh is
//! starting the service just now.

use std::time::Duration;

use super::{Systemd, sockets};
use crate::checkpoint;
use crate::error::{Failure, Outcome};
use crate::process::ProcessId;
use crate::service::page::UNIT;
use crate::systemd::Bus;
use crate::systemd::unit::{ActiveState, LoadState};

/// How long its start or its stop may take; its file sets shorter limits.
const LIMIT: Duration = Duration::from_secs(30);

impl Systemd {
    pub(super) fn start_page(&self) -> Outcome<bool> {
        let bus = self.bus()?;
        let facts = bus.unit(UNIT)?;
        match (facts.active, facts.load) {
            (ActiveState::Active, _) => return Ok(true),
            (_, LoadState::NotFound) => return Ok(false),
            (_, LoadState::Masked) => return Err(cannot_be_shown(format!("{UNIT} is masked"))),
            (_, LoadState::Loaded | LoadState::Bad) => {}
        }
        sockets::open_closed(&bus, &self.facts(&bus)?, &self.unit)?;
        checkpoint::reach("page:starting");
        bus.start(UNIT, LIMIT).map_err(|failure| failure.hint(format!("systemctl status {UNIT}")))?;
        checkpoint::reach("page:started");
        match bus.unit(UNIT)?.active {
            ActiveState::Active => Ok(true),
            _ => Err(cannot_be_shown(format!("{UNIT} ended as soon as it was started"))),
        }
    }

    pub(super) fn process_of_page(&self) -> Outcome<Option<ProcessId>> {
        Ok(self.bus()?.unit(UNIT)?.main_pid.and_then(ProcessId::of))
    }
}

/// Stops the unit, where it is up.
pub(super) fn stop(bus: &Bus) -> Outcome<()> {
    if bus.is_down(UNIT)? {
        return Ok(());
    }
    checkpoint::reach("page:stopping");
    bus.stop(UNIT, LIMIT).map_err(|failure| failure.hint(format!("systemctl status {UNIT}")))?;
    checkpoint::reach("page:stopped");
    Ok(())
}

fn cannot_be_shown(why: String) -> Failure {
    Failure::new(why).hint(format!("systemctl status {UNIT}"))
}
