//! The other units of the application: which of them stop with the service, and which continue to run the old version.
//!
//! The units that systemd stops together with the service are recorded before the stop. A run that cleans up after a
//! killed run can then start them again. Writes one file of the tool's own state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use refresh_settings::layout::Layout;
use refresh_settings::names::{RunId, UnitName};
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::text::{quoted, quoted_path};

/// The active units beside the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Units that systemd stops together with the service.
    pub stopped_with_it: Vec<String>,
    /// Units that run from the application's tree or environment and continue when the service is stopped.
    pub untied: Vec<Untied>,
    /// Timers, path units and socket units that start such a unit, also during a refresh.
    pub triggers: Vec<Trigger>,
    /// Those units of `service.also` that are down while the service runs, or have failed.
    pub down: Down,
}

/// The units of `service.also` that a stop has found down. They are recorded too: a later run starts the units that an
/// earlier one has stopped, and no others must start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Those that were stopped on request: they stay down.
    pub on_request: Vec<String>,
    /// The others: one that does not start is no fault of the new version.
    pub otherwise: Vec<String>,
}

impl Down {
    /// Returns whether a unit was down.
    pub(crate) fn has(&self, unit: &UnitName) -> bool {
        let is_it = |name: &String| name == unit.as_str();
        self.on_request.iter().any(is_it) || self.otherwise.iter().any(is_it)
    }

    /// Returns whether a unit stays down.
    pub(crate) fn keeps(&self, unit: &UnitName) -> bool {
        self.on_request.iter().any(|name| name == unit.as_str())
    }
}

/// A unit that starts a unit of the application at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Its name: `job.timer`.
    pub unit: String,
    /// The started unit: `job.service`.
    pub starts: String,
    /// systemd's name of the last invocation of the started unit; empty if it was not started.
    pub invocation: String,
    /// The evidence, for people: `its WorkingDirectory= is /opt/ladylinux/app`.
    pub evidence: String,
}

impl Trigger {
    /// Returns the instruction that keeps the started unit down during a refresh of `service`.
    pub fn repair(&self, service: &UnitName, layout: &Layout) -> String {
        // A socket starts an instance for each connection; no drop-in names them all.
        if self.starts.contains('@') && self.unit.ends_with(".socket") {
            return format!(
                "add `PartOf={service}` under [Unit] with: systemctl edit {}",
                quoted(&self.unit)
            );
        }
        format!(
            "add {:?} to `also` under [service] in {}, then: ladylinux-refresh init",
            self.starts,
            quoted_path(&layout.host_file())
        )
    }
}

/// A unit that runs the application and has no relation to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untied {
    /// Its name.
    pub unit: String,
    /// systemd's name of its invocation.
    pub invocation: String,
    /// The evidence, for people: `its process 7 works in /opt/ladylinux/app`.
    pub evidence: String,
}

/// The units to start again.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct StoppedUnits {
    /// The run that stopped them first.
    run: Option<RunId>,
    units: Vec<String>,
    #[serde(default)]
    down: Down,
    /// The last invocations of units of `service.also` that this program has ended: no decision of a person.
    #[serde(default)]
    ended: BTreeMap<String, String>,
}

/// Records, durably, which units of `service.also` are down before anything is stopped.
///
/// # Errors
/// The file cannot be written; then nothing may be stopped.
pub fn note_down(layout: &Layout, down: &Down) -> Outcome<()> {
    let before = read(layout)?;
    if before.down == *down { Ok(()) } else { write(layout, &StoppedUnits { down: down.clone(), ..before }) }
}

/// Returns the units of `service.also` that were down before the stop. An unreadable record counts as none.
pub fn noted_down(layout: &Layout) -> Down {
    read(layout).unwrap_or_default().down
}

/// Records, durably, the invocations of units of `service.also` that this program is about to end.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn note_ended(layout: &Layout, ended: BTreeMap<String, String>) -> Outcome<()> {
    if ended.is_empty() {
        return Ok(());
    }
    let mut stopped = read(layout)?;
    stopped.ended.extend(ended);
    write(layout, &stopped)
}

/// Returns the last invocations of units of `service.also` that this program has ended. An unreadable record counts as
/// none.
pub(crate) fn noted_ended(layout: &Layout) -> BTreeMap<String, String> {
    read(layout).unwrap_or_default().ended
}

/// Records, durably, that `run` is about to stop `units` together with the service. Returns all units to start again,
/// including those of earlier runs.
///
/// # Errors
/// The file cannot be written; then nothing may be stopped.
pub fn note(layout: &Layout, run: &RunId, units: &[String]) -> Outcome<Vec<String>> {
    let mut stopped = read(layout)?;
    let known = stopped.units.len();
    for unit in units {
        if !stopped.units.contains(unit) {
            stopped.units.push(unit.clone());
        }
    }
    if stopped.units.len() > known {
        stopped.run.get_or_insert_with(|| run.clone());
        write(layout, &stopped)?;
    }
    Ok(stopped.units)
}

/// Returns the units to start again.
///
/// # Errors
/// The file cannot be read.
pub fn noted(layout: &Layout) -> Outcome<Vec<String>> {
    Ok(read(layout)?.units)
}

/// Records that only `units` must still be started again, and that the stop is over.
///
/// # Errors
/// The file cannot be written.
pub fn keep(layout: &Layout, units: Vec<String>) -> Outcome<()> {
    if units.is_empty() {
        return disk::remove_file_if_there(&layout.stopped_units());
    }
    write(layout, &StoppedUnits { units, down: Down::default(), ..read(layout)? })
}

fn read(layout: &Layout) -> Outcome<StoppedUnits> {
    let read: Option<StoppedUnits> = disk::read_json(&layout.stopped_units())
        .context(|| "cannot read which units were stopped with the service".to_owned())?;
    Ok(read.unwrap_or_default())
}

fn write(layout: &Layout, stopped: &StoppedUnits) -> Outcome<()> {
    disk::write_json(&layout.stopped_units(), stopped, 0o644)
        .context(|| "cannot write down which units are stopped with the service".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_a_killed_run_has_stopped_are_started_by_the_next_one_and_then_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        let run = |name: &str| RunId::parse(name).unwrap();
        let units = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(note(&layout, &run("r-1"), &[]).unwrap(), units(&[]));
        assert!(!layout.stopped_units().exists());
        note(&layout, &run("r-1"), &units(&["a.service"])).unwrap();
        // The next run finds it down.
        assert_eq!(
            note(&layout, &run("r-2"), &units(&["b.socket"])).unwrap(),
            units(&["a.service", "b.socket"])
        );
        let down = Down { on_request: units(&["c.service"]), otherwise: units(&["d.service"]) };
        note_down(&layout, &down).unwrap();
        assert_eq!(noted(&layout).unwrap(), units(&["a.service", "b.socket"]));
        assert_eq!(noted_down(&layout), down);
        let ended = |invocation: &str| BTreeMap::from([("e.service".to_owned(), invocation.to_owned())]);
        note_ended(&layout, ended("one")).unwrap();
        note_ended(&layout, ended("two")).unwrap();
        note_ended(&layout, BTreeMap::new()).unwrap();
        assert_eq!((noted_ended(&layout), noted_down(&layout)), (ended("two"), down));
        keep(&layout, units(&["b.socket"])).unwrap();
        assert_eq!(noted_down(&layout), Down::default());
        assert_eq!(noted(&layout).unwrap(), units(&["b.socket"]));
        keep(&layout, Vec::new()).unwrap();
        assert!(!layout.stopped_units().exists());
    }
}
