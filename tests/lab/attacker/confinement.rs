//! The files of the service user that root's processes must not open, and the restrictions that the kernel puts on the
//! tool's own processes.

use std::collections::{BTreeMap, BTreeSet};

use super::target::{TABLES, Target};
use crate::lab::{Lab, Machine, until};

/// The highest exposure that systemd may report for a unit, from 0 to 10.
const AT_MOST: f64 = 3.0;

/// The conductors, which are separate units.
const CONDUCTORS: [&str; 2] = ["ladylinux-refresh.service", "ladylinux-refresh-request.service"];

/// A hook that is rehearsed, and one that is not.
const HOOKS: &str = "[[hook]]\nname = \"before\"\nkind = \"check\"\nstage = true\ncommand = [\"sleep\", \"0.1\"]\n\
                     [[hook]]\nname = \"after\"\nkind = \"index\"\ncommand = [\"sleep\", \"0.1\"]\n";

#[test]
fn every_unit_of_the_tool_is_confined() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::with_hooks(&lab, HOOKS);
    let machine = &target.machine;
    // A run whose settings name a path there uses the shared /tmp, and so has the weakest confinement.
    machine.exec("echo '# /tmp/any' >>/etc/ladylinux/refresh.toml").expect(0);
    machine.write("/srv/exposure.py", include_str!("../../../lab/exposure.py"));
    let mut watcher = machine.spawn("exec python3 /srv/exposure.py 600 >/srv/exposure");
    until("the watcher", || machine.read("/srv/exposure").filter(|text| text.contains("watching")));
    let expected = ["align", "build", "fetch", "hooks", "inspect", "rehearse", "run"];
    let mut levels = BTreeMap::new();
    let missing = |levels: &BTreeMap<String, f64>| -> Vec<&str> {
        expected.into_iter().filter(|unit| !levels.contains_key(*unit)).collect()
    };
    // Two rounds for each unit; on a busy machine a unit may be gone before the watcher finds it: then there are more.
    for round in 0..8 {
        if round >= 2 && missing(&levels).is_empty() {
            break;
        }
        let requirement = if round % 2 == 0 { "six==1.16.0\n" } else { "six==1.17.0\n" };
        let commit = target.push(&[("round.txt", &round.to_string()), ("requirements.txt", requirement)]);
        target.tool("run").expect(0);
        target.expect_running(&commit);
        for command in ["status", "plan", "doctor"] {
            target.tool(command);
        }
        levels = seen_levels(machine);
    }
    let _ = watcher.kill();
    let _ = watcher.wait();
    levels.append(&mut seen_levels(machine));
    for unit in &CONDUCTORS {
        levels.insert((*unit).to_owned(), exposure(machine, unit));
    }
    let missing = missing(&levels);
    assert!(missing.is_empty(), "no such unit was seen: {missing:?}, only {levels:?}");
    for (unit, level) in &levels {
        assert!(*level <= AT_MOST, "{unit}: {level}");
    }
    eprintln!("exposure: {levels:?}");
}

/// The units that the watcher has seen so far, with their exposure.
fn seen_levels(machine: &Machine) -> BTreeMap<String, f64> {
    let text = machine.read("/srv/exposure").unwrap();
    let found = text.lines().filter_map(|line| line.split_once(' '));
    found.filter_map(|(unit, level)| Some((unit.to_owned(), level.parse().ok()?))).collect()
}

#[track_caller]
fn exposure(machine: &Machine, unit: &str) -> f64 {
    let printed = machine.exec(&format!("systemd-analyze security --no-pager {unit}")).expect(0).out;
    let line = printed
        .lines()
        .find(|line| line.contains("Overall exposure level"))
        .unwrap_or_else(|| panic!("{printed}"));
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// The system calls that are traced: those that open files, and those that show user and parent.
const CALLS: &str = "openat,openat2,open,execve,setresuid,setreuid,setuid,clone,clone3,fork,vfork";

/// A model of the service user, and the expected result.
const MODEL: &str = "/opt/ladylinux/models/llm/w.bin";
const MANIFEST: &str = r#"{"schema_version": "0.1", "models": [
    {"id": "w", "local_path": "llm/", "filename": "w.bin", "required": true}]}"#;

/// Puts a model with a file of checksums on the machine. From then on every run verifies it.
fn with_a_model(target: &Target) {
    let line = "mkdir -p /opt/ladylinux/models/llm && cd /opt/ladylinux/models/llm &&
        echo weights >w.bin && sha256sum w.bin >SHA256SUMS";
    target.machine.exec_as("ladylinux", line).expect(0);
    target.settings(&format!("{TABLES}[models]\nverify = \"full\"\n"));
    target.push(&[("models/manifest.json", MANIFEST)]);
}

#[test]
fn no_process_of_roots_reads_a_file_of_the_service_users() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::with_hooks(&lab, HOOKS);
    let machine = &target.machine;
    with_a_model(&target);
    machine
        .exec_as("ladylinux", "cd /opt/ladylinux/app && echo mine >mine.txt && echo more >>round.txt")
        .expect(0);
    let commit = target.push(&[("more.txt", "more\n"), ("requirements.txt", "six==1.16.0\n")]);
    let trace = traced(machine, "run");
    target.expect_running(&commit);
    // The trace also contains the actions of units in the working tree.
    assert!(trace.all.iter().any(|open| !open.by_root && open.path.starts_with("/opt/ladylinux/app/")));
    trace.expect_the_model_read();
    trace.expect_nothing_of_the_service_user_opened_by_root("run");
}

#[test]
fn no_command_that_root_types_reads_a_file_of_the_service_users() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::with_hooks(&lab, HOOKS);
    let machine = &target.machine;
    with_a_model(&target);
    target.tool("run").expect(0);
    machine
        .exec_as("ladylinux", "cd /opt/ladylinux/app && echo mine >mine.txt && echo more >>round.txt")
        .expect(0);
    let commands =
        ["status", "plan", "doctor", "verify --no-cache", "init --port 8000", "rollback", "init --undo"];
    for command in commands {
        let trace = traced(machine, command);
        if command == "verify --no-cache" {
            trace.expect_the_model_read();
        }
        trace.expect_nothing_of_the_service_user_opened_by_root(command);
    }
}

#[test]
fn a_unit_reads_every_store_that_the_service_user_may_read_and_an_interruption_ends_it() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let machine = &target.machine;
    with_a_model(&target);
    let line = "set -e
        mkdir -p /tmp/typed && cd /tmp/typed && echo typed >t.bin && sha256sum t.bin >SHA256SUMS
        mkdir -p /usr/share/ollama/.ollama/models && chmod 700 /usr/share/ollama";
    machine.exec(line).expect(0);
    let shown = target.tool("verify --verbose --store /tmp/typed").expect(0);
    shown.prints("t.bin: verified").prints("w.bin: verified").prints("not verified: Permission denied");
    let line = "cd /opt/ladylinux/models/llm && truncate -s 1T huge &&
        echo \"$(printf %064d 0)  huge\" >>SHA256SUMS";
    machine.exec_as("ladylinux", line).expect(0);
    let interrupted = "timeout --preserve-status -s INT 4 ladylinux-refresh verify --no-cache; echo ended $?";
    machine.exec(interrupted).prints("ended 130");
    until("the end of the unit", || {
        let left =
            machine.exec("systemctl list-units --no-legend 'ladylinux-refresh-inspect-*'").expect(0).out;
        left.is_empty().then_some(())
    });
}

/// Runs a command of the tool as root while strace follows every process of the machine from PID 1 on, so no process
/// that systemd starts for it is missing.
fn traced(machine: &Machine, command: &str) -> Trace {
    machine.exec("rm -rf /srv/trace && mkdir /srv/trace").expect(0);
    // One file for each process.
    let line = format!("exec strace -ff -y -qq -s 300 -e trace={CALLS} -e signal=none -o /srv/trace/t -p 1");
    let mut tracer = machine.spawn(&line);
    until("strace", || {
        machine.exec("grep -q '^TracerPid:.[1-9]' /proc/1/status").code.filter(|code| *code == 0)
    });
    let ran = machine.exec_unit(&[], &format!("exec ladylinux-refresh {command}"));
    assert!(matches!(ran.code, Some(0 | 5)), "{command}: {:?}\n{}", ran.code, ran.all());
    // Each line is written at once, so nothing is lost. On a request to end, strace waits for every process. If a vfork
    // has just begun, it waits forever, because the child of that process waits for strace.
    machine.exec("pkill -KILL -x strace; while pgrep -x strace >/dev/null; do sleep 0.05; done").expect(0);
    let _ = tracer.wait();
    Trace::read(machine)
}

/// A file that was opened or executed.
#[derive(Debug, Clone)]
struct Open {
    program: String,
    by_root: bool,
    path: String,
    flags: String,
}

impl Open {
    /// Returns whether content of the service user was read. Only directories are opened by descriptor.
    fn is_of_the_service_user(&self) -> bool {
        let theirs = ["/opt/ladylinux/", "/var/lib/ladylinux/", "/etc/ladylinux/ladylinux.env"];
        let previous = ["/opt/ladylinux-refresh/previous/", "/opt/ladylinux-refresh/stash/"];
        let only_a_name = ["O_PATH", "O_DIRECTORY", "O_WRONLY"].iter().any(|flag| self.flags.contains(flag));
        // Root's record is beside each kept tree.
        let is_record = self.path.starts_with(previous[1]) && self.path.rsplit('.').next() == Some("json");
        !only_a_name && !is_record && theirs.iter().chain(&previous).any(|place| self.path.starts_with(place))
    }
}

/// The output of strace.
struct Trace {
    all: Vec<Open>,
}

impl Trace {
    fn read(machine: &Machine) -> Self {
        let files = machine
            .exec("cd /srv/trace && for file in t.*; do echo \"@ ${file#t.}\"; cat $file; done")
            .expect(0)
            .out;
        let mut lines: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        let mut pid = 0;
        for line in files.lines() {
            match line.strip_prefix("@ ") {
                Some(name) => pid = name.parse().unwrap(),
                None => lines.entry(pid).or_default().push(line),
            }
        }
        let mut trace = Self { all: Vec::new() };
        trace.follow(&lines, 1, &mut State { by_root: true, program: "systemd".to_owned() });
        trace
    }

    /// Follows one process and its children, with the state that they inherit.
    fn follow(&mut self, lines: &BTreeMap<u32, Vec<&str>>, pid: u32, state: &mut State) {
        for line in lines.get(&pid).into_iter().flatten() {
            let Some((call, result)) = line.rsplit_once(" = ") else { continue };
            let Some((name, arguments)) = call.split_once('(') else { continue };
            let number = result.split(['<', ' ']).next().unwrap_or_default();
            let Ok(number) = number.parse::<i64>() else { continue };
            if number < 0 {
                continue;
            }
            match name {
                "setresuid" | "setreuid" | "setuid" => {
                    let ids = arguments.trim_end_matches(')').split(", ");
                    // The effective ID counts; -1 leaves it unchanged.
                    let id = if name == "setuid" { ids.clone().next() } else { ids.clone().nth(1) };
                    state.by_root = id.map_or(state.by_root, |id| id == "0" || (id == "-1" && state.by_root));
                }
                "execve" => {
                    let path = arguments.split('"').nth(1).unwrap_or_default();
                    path.clone_into(&mut state.program);
                    self.note(state, path, "execve");
                }
                "open" | "openat" | "openat2" => {
                    let path = result.split_once('<').and_then(|(_, path)| path.rsplit_once('>'));
                    self.note(state, path.map_or("", |(path, _)| path), arguments);
                }
                _ => {
                    if let Ok(child) = u32::try_from(number) {
                        self.follow(lines, child, &mut state.clone());
                    }
                }
            }
        }
    }

    fn note(&mut self, state: &State, path: &str, flags: &str) {
        let (path, flags) = (path.to_owned(), flags.to_owned());
        self.all.push(Open { program: state.program.clone(), by_root: state.by_root, path, flags });
    }

    /// Asserts that the trace contains the work of the conductor, and that no process of root opened a file of the
    /// service user.
    #[track_caller]
    fn expect_nothing_of_the_service_user_opened_by_root(&self, command: &str) {
        let opened = self.opened_by_root();
        assert!(
            opened.iter().any(|open| open.program.contains("ladylinux-refresh")),
            "{command}: {} opens",
            opened.len()
        );
        let theirs = opened.into_iter().filter(|open| open.is_of_the_service_user());
        let wrong: BTreeSet<String> =
            theirs.map(|open| format!("{} by {}: {}", open.path, open.program, open.flags)).collect();
        assert!(wrong.is_empty(), "{command}: root opened {wrong:#?}");
    }

    /// Asserts that a process read the model: otherwise the trace proves nothing.
    #[track_caller]
    fn expect_the_model_read(&self) {
        assert!(self.all.iter().any(|open| open.path == MODEL), "nothing read {MODEL}");
    }

    /// The opens of root's processes, except for those of systemd itself.
    fn opened_by_root(&self) -> Vec<&Open> {
        let is_systemd = |program: &str| program == "systemd" || program.contains("/lib/systemd/");
        self.all.iter().filter(|open| open.by_root && !is_systemd(&open.program)).collect()
    }
}

/// The state that a process inherits.
#[derive(Debug, Clone)]
struct State {
    by_root: bool,
    program: String,
}
