//! Finds the other units of the application: by the relations in systemd, and by their processes and commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Systemd;
use crate::others::{Others, Untied};
use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::all_pids;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};
use refresh_settings::layout::Layout;
use refresh_system::error::Outcome;

/// The prefix of this program's own units.
const OWN: &str = "ladylinux-refresh";

impl Systemd {
    /// Finds the active units beside the service and those of `service.also`.
    pub(super) fn find_others(&self) -> Outcome<Others> {
        let bus = Bus::connect()?;
        let stopped_with_it = self.stopped_with_it(&bus)?;
        let is_known = |unit: &str| {
            unit == self.unit.as_str()
                || unit.starts_with(OWN)
                || self.also.iter().any(|also| also.as_str() == unit)
                || stopped_with_it.iter().any(|tied| tied == unit)
        };
        let places = places(&self.layout);
        let mut untied: Vec<Untied> = Vec::new();
        for (unit, evidence) in by_processes(&places) {
            if !is_known(&unit) && !untied.iter().any(|known| known.unit == unit) {
                untied.push(Untied { invocation: bus.unit(&unit)?.invocation, unit, evidence });
            }
        }
        for unit in bus.active_services()? {
            if is_known(&unit) || untied.iter().any(|known| known.unit == unit) {
                continue;
            }
            let facts = bus.unit(&unit)?;
            if let Some(evidence) = by_words(&facts, &places) {
                untied.push(Untied { invocation: facts.invocation, unit, evidence });
            }
        }
        untied.sort_by(|one, other| one.unit.cmp(&other.unit));
        Ok(Others { stopped_with_it, untied })
    }

    /// Returns the active units that systemd stops when the service is stopped, including those that stop with such a
    /// unit.
    fn stopped_with_it(&self, bus: &Bus) -> Outcome<Vec<String>> {
        let mut seen = BTreeSet::from([self.unit.to_string()]);
        let mut waiting = self.facts(bus)?.stops;
        let mut found = Vec::new();
        while let Some(name) = waiting.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let facts = bus.unit(&name)?;
            if facts.is_down() {
                continue;
            }
            waiting.extend(facts.stops);
            if !self.also.iter().any(|also| also.as_str() == name) {
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Returns the places that a refresh replaces.
pub(super) fn places(layout: &Layout) -> Vec<PathBuf> {
    let mut places = vec![layout.app(), layout.venv(), layout.environments()];
    places.extend(layout.venv().canonicalize());
    places
}

/// Finds processes of units that run something in `places`: the unit, and the evidence.
fn by_processes(places: &[PathBuf]) -> Vec<(String, String)> {
    let processes = all_pids().into_iter().filter_map(ProcessId::of);
    let found = processes.filter_map(|process| Some((process.unit()?, evidence(process, places)?)));
    found.collect()
}

pub(super) fn evidence(process: ProcessId, places: &[PathBuf]) -> Option<String> {
    let pid = process.pid;
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
    let within = |path: &Path| places.iter().any(|place| path.starts_with(place));
    if let Some(program) = link("exe").filter(|path| within(path)) {
        return Some(format!("its process {pid} runs {}", program.display()));
    }
    if let Some(word) = process.command().split(' ').find(|word| within(Path::new(word))) {
        return Some(format!("its process {pid} runs {word}"));
    }
    let directory = link("cwd").filter(|path| within(path))?;
    Some(format!("its process {pid} works in {}", directory.display()))
}

/// Returns the evidence in the commands of a unit that it runs something in `places`.
fn by_words(facts: &UnitFacts, places: &[PathBuf]) -> Option<String> {
    if facts.active != ActiveState::Active {
        return None;
    }
    let within = |path: &str| is_within(places, path);
    let program = facts.program.iter().map(|path| path.to_string_lossy().into_owned());
    if let Some(word) = program.chain(facts.command.iter().cloned()).find(|word| within(word)) {
        return Some(format!("its ExecStart= names {word}"));
    }
    within(&facts.working_directory).then(|| format!("its WorkingDirectory= is {}", facts.working_directory))
}

/// Returns whether a path is in one of `places`.
pub(super) fn is_within(places: &[PathBuf], path: &str) -> bool {
    places.iter().any(|place| Path::new(path).starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_the_application_is_recognized_by_its_command_or_its_directory() {
        let places = ["/opt/ladylinux/app", "/opt/ladylinux/venv"].map(PathBuf::from);
        let of = |command: &str, directory: &str| {
            let facts = UnitFacts {
                active: ActiveState::Active,
                command: command.split(' ').map(str::to_owned).collect(),
                working_directory: directory.to_owned(),
                ..UnitFacts::default()
            };
            by_words(&facts, &places)
        };
        assert_eq!(of("/usr/bin/cron -f", "/"), None);
        assert_eq!(of("/usr/bin/x /opt/ladylinux/application", ""), None);
        let found = of("/bin/sh /opt/ladylinux/app/worker.sh", "").unwrap();
        assert_eq!(found, "its ExecStart= names /opt/ladylinux/app/worker.sh");
        assert!(of("/opt/ladylinux/venv/bin/celery worker", "").is_some());
        assert_eq!(
            of("celery", "/opt/ladylinux/app").unwrap(),
            "its WorkingDirectory= is /opt/ladylinux/app"
        );
    }

    #[test]
    fn a_process_of_the_application_is_recognized_by_its_working_directory() {
        let here = std::env::current_dir().unwrap();
        let found = evidence(ProcessId::own(), &[here]).unwrap();
        assert!(found.starts_with(&format!("its process {} ", ProcessId::own().pid)), "{found}");
        assert_eq!(evidence(ProcessId::own(), &[PathBuf::from("/no/such/place")]), None);
    }
}
