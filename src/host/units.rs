//! The files of this program's own among systemd's units, and what systemd is told of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk;
use crate::error::Outcome;
use crate::relay::places;
use crate::service::systemd::dropin;
use crate::settings::layout::Layout;
use crate::systemd::sandbox;
use crate::systemd::unit::{ActiveState, LoadState};

use super::{Host, Keeper, Look, Measure, SERVICE_USER};

/// How long the start of the path unit may take, which does nothing but wait.
const START: Duration = Duration::from_secs(30);

/// The unit that waits for requests.
const REQUESTS: &str = "ladylinux-refresh-request.path";

/// The units, by name, with `@PROGRAM@` for the program's path and `@SANDBOX@` for what the kernel keeps it from.
const UNITS: [(&str, &str); 4] = [
    (REQUESTS, include_str!("units/ladylinux-refresh-request.path")),
    ("ladylinux-refresh-request.service", include_str!("units/ladylinux-refresh-request.service")),
    ("ladylinux-refresh.timer", include_str!("units/ladylinux-refresh.timer")),
    ("ladylinux-refresh.service", include_str!("units/ladylinux-refresh.service")),
];

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
    let (layout, unit) = (&host.layout, &host.given.settings.service.unit);
    let program = match &host.keeper {
        Keeper::Systemd { program } => program.display().to_string(),
        Keeper::Embedded => return Vec::new(),
    };
    let own_tmp = !places::is_below_tmp(&program);
    let kept_from = sandbox::lines(&places::of_refresh(layout, own_tmp));
    let mut files = vec![
        OwnFile { path: layout.drop_in(unit), text: dropin::text(layout, unit) },
        OwnFile { path: layout.tmpfiles(), text: tmpfiles(layout) },
    ];
    // What is stopped and started with the service is kept down by the same fence.
    let also = &host.given.settings.service.also;
    files.extend(
        also.iter().map(|unit| OwnFile { path: layout.drop_in(unit), text: dropin::text(layout, unit) }),
    );
    files.extend(UNITS.map(|(name, text)| OwnFile {
        path: layout.package_units().join(name),
        text: text.replace("@PROGRAM@", &program).replace("@SANDBOX@\n", &kept_from),
    }));
    files
}

/// What has to be there after every boot: the place where the application puts its requests (tmpfiles.d(5)).
fn tmpfiles(layout: &Layout) -> String {
    format!(
        "# Written by ladylinux-refresh; changes are overwritten.\nd {} 0755 root root -\nd {} 0700 {SERVICE_USER} {SERVICE_USER} -\n",
        layout.volatile().display(),
        layout.requests().display()
    )
}

/// A file of this program's own, which is brought up to date as often as it is needed.
struct OwnFile {
    path: PathBuf,
    text: String,
}

impl Measure for OwnFile {
    fn look(&self, _host: &Host) -> Outcome<Look> {
        let path = self.path.display();
        Ok(match disk::read_if_there(&self.path)? {
            Some(there) if there == self.text.as_bytes() => Look::Fits(format!("left {path} as it is")),
            Some(_) => Look::Needed(format!("bring {path} up to date")),
            None => Look::Needed(format!("install {path}")),
        })
    }

    fn carry_out(&self, _host: &Host) -> Outcome<String> {
        let was_there = self.path.exists();
        if let Some(folder) = self.path.parent() {
            disk::make_folder(folder, 0o755)?;
        }
        disk::write_atomic(&self.path, self.text.as_bytes(), 0o644)?;
        let path = self.path.display();
        Ok(if was_there { format!("brought {path} up to date") } else { format!("installed {path}") })
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
        for (name, _) in UNITS {
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
