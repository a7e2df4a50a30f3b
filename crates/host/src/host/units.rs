//! This program's own units in systemd: installed, read, enabled.

use std::time::Duration;

use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, LoadState};
use refresh_system::error::Outcome;

use super::own_files::{self, OwnFile, REQUESTS, State};
use super::{Host, ManagerKind, Need, Step};

/// The time limit of the start of the path unit, which only waits.
pub(super) const START: Duration = Duration::from_secs(30);

/// Returns the steps: files first, then their units in systemd. The timer stays off.
pub(super) fn steps(host: &Host) -> Vec<Step> {
    let of_file = |file: OwnFile| {
        let again = file.clone();
        Step { check: Box::new(move |_| check_file(&file)), apply: Box::new(move |_| apply_file(&again)) }
    };
    let mut steps: Vec<Step> = own_files(host).into_iter().map(of_file).collect();
    steps.push(Step::new(check_reload, apply_reload));
    steps.push(Step::new(check_enabled, apply_enabled));
    steps.push(Step::new(check_listening, apply_listening));
    steps
}

fn own_files(host: &Host) -> Vec<OwnFile> {
    match &host.manager {
        ManagerKind::Systemd { program } => {
            own_files::all(&host.layout, &host.input.settings.service, program)
        }
        ManagerKind::Embedded => Vec::new(),
    }
}

fn check_file(file: &OwnFile) -> Outcome<Need> {
    let path = file.path.display();
    Ok(match file.state()? {
        State::Right => Need::Fits(format!("left {path} as it is")),
        State::Other => Need::Needed(format!("bring {path} up to date")),
        State::Missing => Need::Needed(format!("install {path}")),
    })
}

fn apply_file(file: &OwnFile) -> Outcome<String> {
    let before = file.state()?;
    file.write()?;
    let path = file.path.display();
    Ok(match before {
        State::Missing => format!("installed {path}"),
        _ => format!("brought {path} up to date"),
    })
}

fn check_reload(host: &Host) -> Outcome<Need> {
    let bus = Bus::connect()?;
    let service = &host.input.settings.service;
    let mut is_needed = bus.unit(service.unit.as_str())?.needs_reload;
    for file in own_files(host) {
        is_needed = is_needed || file.state()? != State::Right;
    }
    for unit in [&service.unit].into_iter().chain(&service.also) {
        let facts = bus.unit(unit.as_str())?;
        let has_drop_in = facts.drop_ins.contains(&host.layout.drop_in(unit));
        is_needed = is_needed || facts.load == LoadState::Loaded && !has_drop_in;
    }
    for name in own_files::UNIT_NAMES {
        let facts = bus.unit(name)?;
        is_needed = is_needed || facts.needs_reload || facts.load == LoadState::NotFound;
    }
    Ok(if is_needed {
        Need::Needed("reload systemd's units".to_owned())
    } else {
        Need::Fits("systemd has read all units of the service and of this program".to_owned())
    })
}

fn apply_reload(_: &Host) -> Outcome<String> {
    Bus::connect()?.reload()?;
    Ok("reloaded systemd's units".to_owned())
}

fn check_enabled(host: &Host) -> Outcome<Need> {
    let unit = &host.input.settings.service.unit;
    let facts = Bus::connect()?.unit(unit.as_str())?;
    Ok(match (facts.load, facts.file_state.as_str()) {
        (LoadState::Masked, _) => Need::Fits(format!("left {unit} masked")),
        (_, "disabled" | "linked" | "linked-runtime" | "enabled-runtime" | "") => {
            Need::Needed(format!("enable {unit}, so that it is started at boot"))
        }
        (_, "static") => Need::Fits(format!(
            "left {unit} as it is: it has no [Install] section, so a boot does not start it"
        )),
        (_, state) => Need::Fits(format!("left {unit} {state}")),
    })
}

fn apply_enabled(host: &Host) -> Outcome<String> {
    let unit = &host.input.settings.service.unit;
    Bus::connect()?.enable(&[unit.as_str()])?;
    Ok(format!("enabled {unit}; the first run starts it"))
}

fn check_listening(_: &Host) -> Outcome<Need> {
    let facts = Bus::connect()?.unit(REQUESTS)?;
    Ok(if facts.load == LoadState::Masked {
        Need::Fits(format!("left {REQUESTS} masked; requests of the application have no effect"))
    } else if facts.file_state == "enabled" && facts.active == ActiveState::Active {
        Need::Fits(format!("left {REQUESTS} enabled and started"))
    } else {
        Need::Needed(format!("enable and start {REQUESTS}, which waits for requests of the application"))
    })
}

fn apply_listening(_: &Host) -> Outcome<String> {
    let bus = Bus::connect()?;
    bus.enable(&[REQUESTS])?;
    bus.start(REQUESTS, START)?;
    Ok(format!("enabled and started {REQUESTS}, which waits for requests of the application"))
}
