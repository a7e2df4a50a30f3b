//! A host that is refreshed from version to version while it is being killed, and its invariants.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests lay out files and start programs")]

mod expected;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::host::{Host, SERVER, git};

/// The longest time until a service that may not run, or a process that was killed, is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The declarations of the application. A run whose process a test has named in `hold` stays in its hook.
const HOOK: &str = r#"
[[hook]]
name = "migrate"
kind = "migration"
deadline = "60s"
command = ["sh", "-c", '''
while [ "${LADYLINUX_REFRESH_RUN##*-}" = "$(cat "$DATA/hold" 2>/dev/null)" ]; do sleep 0.01; done
cat version.txt > "$DATA/migrated"
''']
"#;

/// The processes that a kill at a point ends; see `crates/system/src/checkpoint.rs`.
pub const EVERYTHING: &str = "everything";
pub const RUN: &str = "run";
pub const WORKER: &str = "worker";

/// The content of a version of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub commit: String,
    pub text: String,
    pub package: String,
}

/// Whether versions differ in their environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Changes,
    Stays,
}

/// The result of a run that was to be killed.
#[derive(Debug)]
pub struct Killed {
    /// The points it reached.
    pub points: Vec<String>,
    /// Whether SIGKILL ended it.
    pub by_kill: bool,
    pub code: Option<i32>,
    pub output: String,
}

/// A host on its way from version to version.
pub struct Rig {
    pub host: Host,
    pub environment: Environment,
    number: usize,
    changes: usize,
    pub old: Version,
    pub new: Version,
    protected: BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64)>,
    pids: Vec<u32>,
    /// The requirements of the application, pinned, besides the package in which its versions differ.
    pub beside: &'static [&'static str],
    /// For messages: the current attempt.
    pub trying: String,
}

impl Rig {
    /// A host that runs its first version.
    pub fn new(environment: Environment) -> Self {
        Self::with(environment, |_| {})
    }

    /// The same, with other settings.
    pub fn with(environment: Environment, configure: impl Fn(&Host)) -> Self {
        let host = Host::bare();
        let layout = &host.layout;
        let env = format!("LADYLINUX_PORT={}\nDATA={}\n", host.port, layout.data()[0].display());
        fs::write(layout.env_file(), env).unwrap();
        let none = Version { commit: String::new(), text: String::new(), package: String::new() };
        let mut rig = Self {
            host,
            environment,
            number: 0,
            changes: 0,
            old: none.clone(),
            new: none,
            protected: BTreeMap::new(),
            pids: Vec::new(),
            beside: &[],
            trying: "the first version".to_owned(),
        };
        rig.host.configure("preserve = [\"config/user.json\", \"keep/\"]", "");
        configure(&rig.host);
        rig.next_version();
        rig.host.init();
        let layout = &rig.host.layout;
        let files = [
            layout.models().join("weights.gguf"),
            layout.containers().join("box/image"),
            layout.etc().join("people.conf"),
            layout.data()[0].join("db/notes.sqlite"),
        ];
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("precious {}", file.display())).unwrap();
        }
        rig.host.tool(["run"]).expect(0);
        rig.protected = rig.protected_now();
        rig.old = rig.new.clone();
        rig.expect_converged();
        rig
    }

    /// Commits and pushes the next version; from now on a run leads from `old` to `new`.
    pub fn next_version(&mut self) {
        self.number += 1;
        let n = self.number;
        let (package, marker) = match self.environment {
            Environment::Changes => (["1.16.0", "1.17.0"][n % 2], n),
            Environment::Stays => ("1.16.0", 1),
        };
        // The marker makes each definition a different one, so that its environment must be built.
        let mut requirements = format!("six=={package} ; python_full_version >= '3.0.{marker}'\n");
        requirements.extend(self.beside.iter().map(|pin| format!("{pin}\n")));
        let text = format!("v{n}");
        let files = [
            ("server.py", SERVER.to_owned()),
            ("version.txt", format!("{text}\n")),
            ("requirements.txt", requirements),
            ("refresh.toml", HOOK.to_owned()),
            ("config/user.json", format!("upstream {n}\n")),
            ("src/app.py", format!("upstream {n}\n")),
            (&*format!("only-in-{n}/file"), "x\n".to_owned()),
            (&*format!("only-in-{}/file", n - 1), String::new()),
        ]
        .map(|(path, text)| (path.to_owned(), text));
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
        let commit = self.host.push(&files);
        self.new = Version { commit, text, package: package.to_owned() };
    }

    /// Changes files of the installation as people and the application do.
    pub fn drift(&mut self) {
        self.changes += 1;
        let n = self.changes;
        self.host.write("config/user.json", &format!("mine {n}"));
        self.host.write("keep/state.db", &format!("state {n}"));
        self.host.write("src/app.py", &format!("changed {n}"));
        self.host.write("notes.txt", &format!("untracked {n}"));
        self.host.write("drafts/notes.txt", &format!("untracked in a directory {n}"));
    }

    /// Runs a command that is killed at point `at`; without one, its points are only counted.
    pub fn kill(&mut self, arguments: &[&str], at: Option<&str>, whom: &str) -> Killed {
        let printed = self.host.beside("said");
        let mut command = self.traced(arguments);
        command.env("LADYLINUX_REFRESH_KILL", whom);
        if let Some(at) = at {
            command.env("LADYLINUX_REFRESH_KILL_AT", at);
        }
        // Into a file: a surviving process would hold a pipe open.
        let file = fs::File::create(&printed).unwrap();
        let mut child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        self.pids.push(child.id());
        let status = child.wait().unwrap();
        Killed {
            points: self.points(),
            by_kill: status.signal() == Some(9),
            code: status.code(),
            output: fs::read_to_string(&printed).unwrap_or_default(),
        }
    }

    /// A command whose points are recorded.
    fn traced(&self, arguments: &[&str]) -> Command {
        let trace = self.host.beside("trace");
        let _ = fs::remove_file(&trace);
        let mut command = self.host.command(arguments);
        command.env("LADYLINUX_REFRESH_TRACE", &trace);
        command
    }

    /// The points that the last command has reached, or has reached so far.
    pub fn points(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.host.beside("trace")).unwrap_or_default();
        trace.lines().map(str::to_owned).collect()
    }

    /// Runs a command to its successful end.
    #[track_caller]
    pub fn succeed(&mut self, arguments: &[&str]) {
        let trying = self.trying.clone();
        let done = self.kill(arguments, None, EVERYTHING);
        assert_eq!(done.code, Some(0), "{trying}, then {arguments:?}:\n{}", done.output);
    }

    /// Remembers a process of the tool that the test started itself.
    pub fn started(&mut self, pid: u32) {
        self.pids.push(pid);
    }

    /// Runs a command, and kills it as soon as `when` (with its pid and its output) finds it at the intended point.
    /// Returns whether that was before its end.
    pub fn kill_when(
        &mut self,
        arguments: &[&str],
        reach: Reach,
        mut when: impl FnMut(&Self, u32, &str) -> bool,
    ) -> bool {
        let printed = self.host.beside("said");
        let file = fs::File::create(&printed).unwrap();
        let mut command = self.traced(arguments);
        command.args(["--format", "json"]).stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        self.pids.push(child.id());
        let in_time = loop {
            let now = when(self, child.id(), &fs::read_to_string(&printed).unwrap());
            match reach {
                Reach::Program(nth) if now && self.kill_program(nth) => {
                    child.wait().unwrap();
                    return true;
                }
                Reach::RunAlone | Reach::Everything if now => break true,
                _ => {}
            }
            if child.try_wait().unwrap().is_some() {
                break false;
            }
            // Short in comparison with every intended point, and leaves the processor to the watched processes.
            std::thread::sleep(Duration::from_micros(500));
        };
        let _ = child.kill();
        let killed = child.wait().unwrap().signal() == Some(9);
        if reach == Reach::Everything {
            self.kill_processes();
        }
        in_time && killed
    }

    /// Kills one of the programs that work for this host's runs. Returns whether there was one.
    fn kill_program(&self, nth: usize) -> bool {
        let programs = self.processes();
        if !programs.is_empty() {
            kill(programs[nth % programs.len()].0);
        }
        !programs.is_empty()
    }

    /// Kills all processes of this host's runs, until there is none.
    fn kill_processes(&self) {
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                kill(pid);
            }
        }
    }

    /// The processes of the supervisor of this host, and of its service.
    pub fn service_processes(&self) -> (Vec<i32>, Vec<i32>) {
        let root = self.host.layout.root().as_os_str().as_encoded_bytes().to_vec();
        let mut mark = b"@".to_vec();
        mark.extend(&root);
        let (mut supervisors, mut services) = (Vec::new(), Vec::new());
        for pid in all_pids() {
            let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let words = read("cmdline");
            let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
            let marked = read("environ")
                .split(|byte| *byte == 0)
                .any(|line| line.starts_with(b"LADYLINUX_REFRESH_SERVICE=") && line.ends_with(&mark));
            if words.contains(&&b"supervise"[..]) && words.contains(&&root[..]) {
                supervisors.push(pid);
            } else if marked {
                services.push(pid);
            }
        }
        (supervisors, services)
    }

    /// Processes of this host's runs of any kind that still live.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let suffixes: Vec<String> = self.pids.iter().map(|pid| format!("-{pid}")).collect();
        let carries = |environment: &[u8]| {
            environment.split(|byte| *byte == 0).any(|line| {
                let line = String::from_utf8_lossy(line);
                let run = line.strip_prefix("LADYLINUX_REFRESH_RUN=");
                run.is_some_and(|run| suffixes.iter().any(|suffix| run.ends_with(suffix)))
            })
        };
        let mut found = Vec::new();
        for pid in all_pids() {
            if fs::read(format!("/proc/{pid}/environ")).is_ok_and(|bytes| carries(&bytes)) {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
            }
        }
        found
    }

    /// After a convergence: `new` is the running version, and the next version starts from it.
    pub fn go_on(&mut self) {
        self.old = self.new.clone();
    }
}

/// The processes that a kill from outside ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The process of the run alone: workers, git, uv and hooks live on.
    RunAlone,
    /// The run and all its children.
    Everything,
    /// Of the programs that the run has started and that still run, the one of this number, modulo their count; the run
    /// continues and notices its end.
    Program(usize),
}

/// Kills a process that a test has found to belong to its host.
pub fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn all_pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The repository in which git works for a host: that of its application.
pub fn in_app(host: &Host, arguments: &[&str]) -> String {
    git(&host.layout.app(), arguments.iter().copied())
}
