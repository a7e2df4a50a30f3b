//! The files of this program's own among systemd's units, and what systemd is told of them.

use std::time::Duration;

use crate::error::Outcome;
use crate::systemd::unit::{ActiveState, LoadState};

use super::own_files::{self, OwnFile, REQUESTS, State};
use super::{Host, Keeper, Look, Measure};

/// How long the start of the path unit may take, which does nothing but wait.
pub(super) const START: Duration = Duration::from_secs(30);

/// Returns the measures: files first, then what systemd makes of them. The timer stays off.
pub(super) fn measures(host: &Host) -> Vec<Box<dyn Measure>> {
    let mut list: Vec<Box<dyn Measure>> = Vec::new();
    list.extend(own_files(host).into_iter().map(|file| Box::new(file) as Box<dyn Measure>));
    list.push(Box::new(Reload));
    list.push(Box::new(Enabled));
    list.push(Box::new(Listening));
    list
}

fn own_files(host: &Host) -> Vec<OwnFile> {
    match &host.keeper {
        Keeper::Systemd { program } => own_files::all(&host.layout, &host.given.settings.service, program),
        Keeper::Embedded => Vec::new(),
    }
}

impl Measure for OwnFile {
    fn look(&self, _host: &Host) -> Outcome<Look> {
        let path = self.path.display();
        Ok(match self.state()? {
            State::Right => Look::Fits(format!("left {path} as it is")),
            State::Other => Look::Needed(format!("bring {path} up to date")),
            State::Missing => Look::Needed(format!("install {path}")),
        })
    }

    fn carry_out(&self, _host: &Host) -> Outcome<String> {
        let before = self.state()?;
        self.write()?;
        let path = self.path.display();
        Ok(match before {
            State::Missing => format!("installed {path}"),
            _ => format!("brought {path} up to date"),
        })
    }
}

/// systemd goes by the files that are there.
struct Reload;

impl Measure for Reload {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let needed = || Look::Needed("let systemd read its units anew".to_owned());
        let unit = &host.given.settings.service.unit;
        for file in own_files(host) {
            if matches!(file.look(host)?, Look::Needed(_)) {
                return Ok(needed());
            }
        }
        let bus = host.bus()?;
        let facts = bus.unit(unit.as_str())?;
        let mut stale = facts.needs_reload
            || (facts.load == LoadState::Loaded && !facts.drop_ins.contains(&host.layout.drop_in(unit)));
        for unit in &host.given.settings.service.also {
            let facts = bus.unit(unit.as_str())?;
            stale = stale
                || facts.load == LoadState::Loaded && !facts.drop_ins.contains(&host.layout.drop_in(unit));
        }
        for name in own_files::UNIT_NAMES {
            let facts = bus.unit(name)?;
            stale = stale || facts.needs_reload || facts.load == LoadState::NotFound;
        }
        Ok(if stale { needed() } else { Look::Fits("systemd has read all of them".to_owned()) })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        host.bus()?.reload()?;
        Ok("let systemd read its units anew".to_owned())
    }
}

/// The service is started at boot.
struct Enabled;

impl Measure for Enabled {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let unit = &host.given.settings.service.unit;
        let facts = host.bus()?.unit(unit.as_str())?;
        Ok(match (facts.load, facts.file_state.as_str()) {
            (LoadState::Masked, _) => Look::Fits(format!("left {unit} masked")),
            (_, "disabled" | "linked" | "linked-runtime" | "enabled-runtime" | "") => {
                Look::Needed(format!("enable {unit}, so that it is started at boot"))
            }
            (_, "static") => Look::Fits(format!(
                "left {unit} as it is: it has no [Install] section, so a boot does not start it"
            )),
            (_, state) => Look::Fits(format!("left {unit} {state}")),
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let unit = &host.given.settings.service.unit;
        let bus = host.bus()?;
        bus.enable(&[unit.as_str()])?;
        bus.reload()?;
        Ok(format!("enabled {unit}; it was not started, which is what a run does"))
    }
}

/// Requests of the application are heard, now and after a boot.
struct Listening;

impl Measure for Listening {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let facts = host.bus()?.unit(REQUESTS)?;
        Ok(if facts.load == LoadState::Masked {
            Look::Fits(format!("left {REQUESTS} masked; requests of the application are not heard"))
        } else if facts.file_state == "enabled" && facts.active == ActiveState::Active {
            Look::Fits(format!("left {REQUESTS} enabled and started"))
        } else {
            Look::Needed(format!("enable and start {REQUESTS}, which waits for requests of the application"))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let bus = host.bus()?;
        bus.enable(&[REQUESTS])?;
        bus.reload()?;
        bus.start(REQUESTS, START)?;
        Ok(format!("enabled and started {REQUESTS}, which waits for requests of the application"))
    }
}
