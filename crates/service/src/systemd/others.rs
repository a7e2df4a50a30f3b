//! Finds the other units of the application: by the relations in systemd, and by their processes and commands.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::Systemd;
use crate::others::{Others, Trigger, Untied};
use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::{all_pids, is_session};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};
use refresh_settings::layout::Layout;
use refresh_system::disk::mounts::{self, Mount};
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
            if facts.active == ActiveState::Active
                && let Some(evidence) = by_words(&facts, &places)
            {
                untied.push(Untied { invocation: facts.invocation, unit, evidence });
            }
        }
        untied.sort_by(|one, other| one.unit.cmp(&other.unit));
        let mut triggers = Vec::new();
        for (unit, starts) in bus.active_triggers()?.into_iter().filter(|(unit, _)| !is_known(unit)) {
            for starts in starts.into_iter().filter(|starts| !is_known(starts)) {
                let facts = bus.unit(&starts)?;
                if let Some(evidence) = by_words(&facts, &places) {
                    let (unit, invocation) = (unit.clone(), facts.invocation);
                    triggers.push(Trigger { unit, starts, invocation, evidence });
                }
            }
        }
        Ok(Others { stopped_with_it, untied, triggers, down: self.find_down(&bus)? })
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
    let mut parts = Parts::of(places);
    let processes = all_pids().into_iter().filter_map(ProcessId::of);
    let found = processes.filter_map(|process| {
        let unit = process.unit_or_session()?;
        // A shell that works in `app/` runs nothing of the application.
        let evidence = if is_session(&unit) {
            of_program(process, places).or_else(|| of_script(process, places))
        } else {
            evidence(process, places)
        };
        Some((unit, evidence.or_else(|| parts.mounted_in(process))?))
    });
    found.collect()
}

/// Returns the evidence that a process runs something in `places`, or works there.
pub(super) fn evidence(process: ProcessId, places: &[PathBuf]) -> Option<String> {
    let pid = process.pid;
    if let Some(found) = of_program(process, places) {
        return Some(found);
    }
    if let Some(word) = process.command().split(' ').find(|word| is_within(places, word)) {
        return Some(format!("its process {pid} runs {word}"));
    }
    let directory = link(process, "cwd").filter(|path| is_in(places, path))?;
    Some(format!("its process {pid} works in {}", directory.display()))
}

fn link(process: ProcessId, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{}/{name}", process.pid)).ok()
}

/// Returns the evidence that the program of a process is in `places`.
fn of_program(process: ProcessId, places: &[PathBuf]) -> Option<String> {
    let program = link(process, "exe").filter(|path| is_in(places, path));
    let command = process.command();
    let named = || command.split(' ').next().filter(|word| is_within(places, word)).map(PathBuf::from);
    let program = program.or_else(named)?;
    Some(format!("its process {} runs {}", process.pid, program.display()))
}

/// The programs that run the file that their arguments name.
const INTERPRETERS: [&str; 8] = ["bash", "dash", "node", "perl", "php", "python", "ruby", "sh"];

/// Returns the evidence that a process interprets a file in `places`.
fn of_script(process: ProcessId, places: &[PathBuf]) -> Option<String> {
    let program = link(process, "exe")?;
    let name = program.file_name()?.to_str()?;
    if !INTERPRETERS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')) {
        return None;
    }
    let path = script(&process.command(), &link(process, "cwd").unwrap_or_default())?;
    is_in(places, &path).then(|| format!("its process {} runs {}", process.pid, path.display()))
}

/// The options before the path of a script that have no value, in any interpreter.
const WITHOUT_VALUE: [&str; 3] = ["-B", "-u", "-x"];

/// Returns the file that the command of an interpreter names. It is not opened or examined: the words of a process can
/// lead anywhere. After another option a relative path counts for nothing, because it may be code or a value.
fn script(command: &str, directory: &Path) -> Option<PathBuf> {
    let mut words = command.split(' ').skip(1).skip_while(|word| WITHOUT_VALUE.contains(word));
    let first = words.next()?;
    if !first.starts_with('-') {
        return Some(directory.join(first));
    }
    words.find(|word| !word.starts_with('-')).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The parts of file systems that `places` are, to find them under another path in another mount namespace.
struct Parts {
    on_disk: Vec<(String, PathBuf)>,
    places: Vec<PathBuf>,
    /// The mounts of the machine. Each namespace that is made from them has them too, so they are no evidence.
    of_machine: Vec<Mount>,
    /// The evidence in each mount namespace examined so far. The one of the machine has none.
    found: HashMap<PathBuf, Option<String>>,
}

impl Parts {
    fn of(places: &[PathBuf]) -> Self {
        let mounts = mounts::all().unwrap_or_default();
        let real = places.iter().filter_map(|place| place.canonicalize().ok());
        let on_disk = real.filter_map(|place| mounts::place_on_disk(&mounts, &place)).collect();
        // A run is itself in a separate namespace: those of the machine are the ones of its first process.
        let machine = ProcessId::of(1).and_then(|init| Some((link(init, "ns/mnt")?, mounts::of_process(1)?)));
        let (on_disk, found, of_machine) = match machine {
            Some((namespace, mounts)) => (on_disk, HashMap::from([(namespace, None)]), mounts),
            None => (Vec::new(), HashMap::new(), Vec::new()),
        };
        Self { on_disk, places: places.to_vec(), of_machine, found }
    }

    /// Returns the evidence that a container, or a unit with its own mounts, has a place mounted elsewhere.
    fn mounted_in(&mut self, process: ProcessId) -> Option<String> {
        if self.on_disk.is_empty() {
            return None;
        }
        let namespace = link(process, "ns/mnt")?;
        if let Some(known) = self.found.get(&namespace) {
            return known.clone();
        }
        let mounts = mounts::of_process(process.pid).unwrap_or_default();
        let evidence = self.elsewhere(&mounts).map(|mount| {
            let (part, point) = (mount.part.display(), mount.point.display());
            format!("its process {} has {part} mounted at {point}", process.pid)
        });
        self.found.insert(namespace, evidence.clone());
        evidence
    }

    /// Returns the first mount of a place, or of a part of it, that the machine itself does not have.
    fn elsewhere<'a>(&self, mounts: &'a [Mount]) -> Option<&'a Mount> {
        mounts.iter().find(|mount| {
            let is_part = self
                .on_disk
                .iter()
                .any(|(device, part)| mount.device == *device && mount.part.starts_with(part));
            is_part && !is_in(&self.places, &mount.point) && !self.of_machine.contains(mount)
        })
    }
}

/// Returns the evidence in the settings of a unit that it runs something in `places`.
fn by_words(facts: &UnitFacts, places: &[PathBuf]) -> Option<String> {
    let within = |path: &str| leads_into(places, path);
    let program = facts.program.iter().map(|path| path.to_string_lossy().into_owned());
    let words: Vec<String> = program.chain(facts.words.iter().cloned()).collect();
    if let Some(path) = words.iter().flat_map(|word| paths_in(word)).find(|path| within(path)) {
        return Some(format!("its ExecStart= names {path}"));
    }
    if within(&facts.working_directory) {
        return Some(format!("its WorkingDirectory= is {}", facts.working_directory));
    }
    if let Some(path) = facts.environment.iter().flat_map(|value| paths_in(value)).find(|path| within(path)) {
        return Some(format!("its Environment= names {path}"));
    }
    let file = facts.environment_files.iter().find(|file| file.to_str().is_some_and(within))?;
    Some(format!("its EnvironmentFile= is {}", file.display()))
}

/// Returns a word, and its parts that can be paths: a word can be a command of a shell, an option with its value, or a list.
fn paths_in(word: &str) -> impl Iterator<Item = &str> {
    std::iter::once(word).chain(word.split(|c: char| c.is_whitespace() || "\"';&|()<>=:,`".contains(c)))
}

/// Returns whether a path of a unit file is in one of `places`, also by links. The words of a process are not followed:
/// its user chooses them.
fn leads_into(places: &[PathBuf], path: &str) -> bool {
    let path = Path::new(path);
    path.is_absolute() && (is_in(places, path) || path.canonicalize().is_ok_and(|real| is_in(places, &real)))
}

/// Returns whether a path is in one of `places`.
pub(super) fn is_within(places: &[PathBuf], path: &str) -> bool {
    is_in(places, Path::new(path))
}

/// As [`is_within`]. A path with `..` counts as outside: only the file system knows where it leads.
fn is_in(places: &[PathBuf], path: &Path) -> bool {
    !path.components().any(|part| part == Component::ParentDir)
        && places.iter().any(|place| path.starts_with(place))
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
                words: command.split('~').map(str::to_owned).collect(),
                working_directory: directory.to_owned(),
                ..UnitFacts::default()
            };
            by_words(&facts, &places)
        };
        assert_eq!(of("/usr/bin/cron~-f", "/"), None);
        assert_eq!(of("/usr/bin/x~/opt/ladylinux/application", ""), None);
        for command in [
            "/bin/sh~-c~cd /opt/ladylinux/app && venv/bin/python job.py",
            "/bin/sh~-c~cd '/opt/ladylinux/app';./job",
            "/usr/bin/x~--workdir=/opt/ladylinux/app",
        ] {
            assert_eq!(
                of(command, "").as_deref(),
                Some("its ExecStart= names /opt/ladylinux/app"),
                "{command}"
            );
        }
        let environment = vec!["PYTHONPATH=/srv:/opt/ladylinux/app".to_owned()];
        let facts = UnitFacts { environment, ..UnitFacts::default() };
        assert_eq!(by_words(&facts, &places).unwrap(), "its Environment= names /opt/ladylinux/app");
        let found = of("/bin/sh~/opt/ladylinux/app/worker.sh", "").unwrap();
        assert_eq!(found, "its ExecStart= names /opt/ladylinux/app/worker.sh");
        assert!(of("/opt/ladylinux/venv/bin/celery~worker", "").is_some());
        assert_eq!(
            of("celery", "/opt/ladylinux/app").unwrap(),
            "its WorkingDirectory= is /opt/ladylinux/app"
        );
    }

    #[test]
    fn a_mount_of_the_application_is_evidence_unless_the_machine_has_it_too() {
        let mount = |part: &str, point: &str| Mount {
            point: PathBuf::from(point),
            device: "8:1".to_owned(),
            part: PathBuf::from(part),
        };
        let app = "/opt/ladylinux/app";
        let static_files = mount("/opt/ladylinux/app/static", "/srv/www");
        let parts = Parts {
            on_disk: vec![("8:1".to_owned(), PathBuf::from(app))],
            places: vec![PathBuf::from(app)],
            of_machine: vec![mount("/", "/"), static_files.clone()],
            found: HashMap::new(),
        };
        let sandboxed = [mount("/", "/"), mount(app, app), static_files.clone()];
        assert_eq!(parts.elsewhere(&sandboxed), None);
        let container = [mount("/opt/ladylinux/app/static", "/usr/share/nginx"), static_files];
        assert_eq!(parts.elsewhere(&container), container.first());
        assert_eq!(parts.elsewhere(&[mount("/opt/ladylinux/apple", "/srv/inside")]), None);
    }

    #[test]
    fn the_script_of_an_interpreter_is_found_by_its_words_alone() {
        let places = [PathBuf::from("/opt/ladylinux/app")];
        let is_of = |command: &str| {
            script(command, Path::new("/opt/ladylinux/app")).is_some_and(|path| is_in(&places, &path))
        };
        for command in ["python3 -u worker.py", "sh run.sh", "python3 -E /opt/ladylinux/app/no-such-file"] {
            assert!(is_of(command), "{command}");
        }
        for command in [
            "bash",
            "sh -c cd /opt; sleep 9",
            "python3 /opt/ladylinux/app/../../x",
            "python3 ../x.py",
            "sh /x",
        ] {
            assert!(!is_of(command), "{command}");
        }
    }

    #[test]
    fn a_process_of_the_application_is_recognized_by_its_working_directory() {
        let here = std::env::current_dir().unwrap();
        let found = evidence(ProcessId::own(), &[here]).unwrap();
        assert!(found.starts_with(&format!("its process {} ", ProcessId::own().pid)), "{found}");
        assert_eq!(evidence(ProcessId::own(), &[PathBuf::from("/no/such/place")]), None);
    }
}
