//! A host that is refreshed from version to version while it is being killed, and what has to hold whatever happens.
#![expect(unreachable_pub, reason = "a module of a test is private whatever its items say")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests lay out files and start programs")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{Host, SERVER, git};

/// How long a service that may not run is given to be gone, and a process that was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the application declares. A run whose process a test has named in `hold` stays in its hook.
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

/// Whom a kill at a point ends; see `src/checkpoint.rs`.
pub const EVERYTHING: &str = "everything";
pub const RUN: &str = "run";
pub const WORKER: &str = "worker";

/// What a version of the application is.
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

/// What became of a run that was to be killed.
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
    /// What the application requires beside the package that its versions differ in, pinned.
    pub beside: &'static [&'static str],
    /// For messages: what is being tried.
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
        // The marker makes each definition another one, so that its environment has to be built.
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
        self.host.write("folder/notes.txt", &format!("untracked in a folder {n}"));
    }

    /// Runs a command that is killed at point `at`; without one, its points are only counted.
    pub fn kill(&mut self, arguments: &[&str], at: Option<&str>, whom: &str) -> Killed {
        let said = self.host.beside("said");
        let mut command = self.traced(arguments);
        command.env("LADYLINUX_REFRESH_KILL", whom);
        if let Some(at) = at {
            command.env("LADYLINUX_REFRESH_KILL_AT", at);
        }
        // Into a file: whatever lives on would hold a pipe open.
        let file = fs::File::create(&said).unwrap();
        let mut child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        self.pids.push(child.id());
        let status = child.wait().unwrap();
        Killed {
            points: self.points(),
            by_kill: status.signal() == Some(9),
            code: status.code(),
            output: fs::read_to_string(&said).unwrap_or_default(),
        }
    }

    /// A command whose points are noted.
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

    /// Runs a command to its good end.
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

    /// Runs a command, kills it as soon as `when` finds it (given its pid and what it has said) where it should be, and
    /// tells whether that came before its end.
    pub fn kill_when(
        &mut self,
        arguments: &[&str],
        reach: Reach,
        mut when: impl FnMut(&Self, u32, &str) -> bool,
    ) -> bool {
        let said = self.host.beside("said");
        let file = fs::File::create(&said).unwrap();
        let mut command = self.traced(arguments);
        command.args(["--format", "json"]).stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        self.pids.push(child.id());
        let in_time = loop {
            let now = when(self, child.id(), &fs::read_to_string(&said).unwrap());
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
            // Short beside everything that is aimed at, and leaves the processor to what is watched.
            std::thread::sleep(Duration::from_micros(200));
        };
        let _ = child.kill();
        let killed = child.wait().unwrap().signal() == Some(9);
        if reach == Reach::Everything {
            self.kill_processes();
        }
        in_time && killed
    }

    /// Kills one of the programs that are at work for this host's runs; tells whether there was one.
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

    /// What has to hold at any instant after a kill.
    #[track_caller]
    pub fn expect_sound(&self) {
        let trying = &self.trying;
        assert_eq!(self.protected_now(), self.protected, "{trying}: protected files");
        let preserved = format!("mine {}", self.changes);
        let kept = self.host.read("config/user.json").as_deref() == Some(&preserved)
            || self.saved().contains_key(&preserved);
        assert!(kept, "{trying}: the preserved tracked file is neither in its place nor set aside");
        let state = format!("state {}", self.changes);
        let kept =
            self.host.read("keep/state.db").as_deref() == Some(&state) || self.saved().contains_key(&state);
        assert!(kept, "{trying}: the preserved untracked file is in neither tree");
        assert!(self.host.layout.venv().join("bin/python").exists(), "{trying}: the environment is missing");
        if !self.host.fenced() {
            // Nothing was stopped yet, or everything is proved.
            let runs = self.running().unwrap_or_else(|| panic!("{trying}: unfenced, and nothing runs"));
            let head = self.host.head();
            assert_eq!(head, runs.commit, "{trying}: the files are not those of what runs");
            return;
        }
        // A service that was stopped and started again may not outlive its refresh while the fence stands. One that was
        // not stopped yet runs on with the files that it was started with.
        let limit = Instant::now() + PATIENCE;
        while let Some(runs) = self.running() {
            if runs == self.old && self.host.head() == self.old.commit {
                return;
            }
            assert!(Instant::now() < limit, "{trying}: {runs:?} runs on though fenced");
            std::thread::yield_now();
        }
        let start = self.host.tool(["service", "start"]);
        assert_ne!(start.code, Some(0), "{trying}: a fenced service could be started");
        assert_eq!(self.running(), None, "{trying}");
    }

    /// The pair that runs now, which has to be one of the two.
    #[track_caller]
    fn running(&self) -> Option<Version> {
        let answer = self.host.answer()?;
        let text = |name: &str| answer[name].as_str().unwrap_or("none").to_owned();
        let runs = Version { commit: text("commit"), text: text("version"), package: text("package") };
        assert!(
            runs == self.old || runs == self.new,
            "{}: a mixture runs: {runs:?}, neither {:?} nor {:?}",
            self.trying,
            self.old,
            self.new
        );
        let generation = text("generation");
        let record = self.host.layout.environment_records().join(format!("{generation}.json"));
        assert!(record.exists(), "{}: it runs in {generation}, which nothing vouches for", self.trying);
        Some(runs)
    }

    /// The end state that every way has to come to: version `new`, healthy, and nothing left over.
    #[track_caller]
    pub fn expect_converged(&self) {
        let (host, trying) = (&self.host, &self.trying);
        assert!(!host.fenced(), "{trying}: fenced");
        assert_eq!(self.running().as_ref(), Some(&self.new), "{trying}: what runs");
        assert_eq!(host.head(), self.new.commit, "{trying}");
        assert_eq!(self.protected_now(), self.protected_or_now(), "{trying}: protected files");
        assert_eq!(self.tree_differs(), Vec::<String>::new(), "{trying}: the tree");
        let live = fs::read_link(host.layout.venv()).unwrap();
        let generation = live.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(host.answer().unwrap()["generation"], generation.as_str(), "{trying}");
        assert_eq!(self.packages(), self.required(), "{trying}");
        let migrated = fs::read_to_string(host.layout.data()[0].join("migrated")).unwrap();
        assert_eq!(migrated.trim(), self.new.text, "{trying}: the hook");
        self.expect_nothing_left();
    }

    /// Every local change of this version is where it belongs: preserved in its place, the rest saved.
    #[track_caller]
    pub fn expect_changes_kept(&self) {
        let (n, trying) = (self.changes, &self.trying);
        assert_eq!(self.host.read("config/user.json"), Some(format!("mine {n}")), "{trying}");
        assert_eq!(self.host.read("keep/state.db"), Some(format!("state {n}")), "{trying}");
        let saved = self.saved();
        let count = |text: String| saved.get(&text).copied().unwrap_or(0);
        assert_eq!(count(format!("untracked {n}")), 1, "{trying}: an untracked file is moved, once");
        assert_eq!(count(format!("untracked in a folder {n}")), 1, "{trying}");
        assert!(count(format!("changed {n}")) >= 1, "{trying}: a modified file");
    }

    /// The contents of all files in previous trees and stashes, and how often each is there.
    fn saved(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for place in [self.host.layout.previous_trees(), self.host.layout.stashes()] {
            each_file(&place, &mut |path| {
                if path.iter().all(|part| part != ".git") {
                    let text = fs::read_to_string(path).unwrap_or_default();
                    *found.entry(text).or_default() += 1;
                }
            });
        }
        found
    }

    fn protected_or_now(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64)> {
        if self.protected.is_empty() { self.protected_now() } else { self.protected.clone() }
    }

    fn protected_now(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64)> {
        let layout = &self.host.layout;
        let mut found = BTreeMap::new();
        for root in [layout.models(), layout.containers(), layout.etc(), layout.data()[0].join("db")] {
            each_file(&root, &mut |path| {
                let meta = fs::metadata(path).unwrap();
                let facts = (fs::read(path).unwrap(), meta.mode(), meta.ino(), meta.mtime_nsec());
                found.insert(path.to_path_buf(), facts);
            });
        }
        found
    }

    /// What `app/` has otherwise than the commit, by an index of our own; the preserved files are left out.
    fn tree_differs(&self) -> Vec<String> {
        let app = self.host.layout.app();
        let run = |arguments: &[&str], index: Option<&Path>| {
            let mut command = Command::new("git");
            command.args(arguments).current_dir(&app).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
            command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
            if let Some(index) = index {
                command.env("GIT_INDEX_FILE", index);
            }
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}: git {arguments:?}: {output:?}", self.trying);
            String::from_utf8(output.stdout).unwrap()
        };
        let index = self.host.beside("index");
        let _ = fs::remove_file(&index);
        run(&["read-tree", &self.new.commit], Some(&index));
        let fresh = run(&["status", "--porcelain", "--untracked-files=all", "--ignored"], Some(&index));
        let own = run(&["status", "--porcelain", "--untracked-files=all", "--ignored"], None);
        let branch = run(&["symbolic-ref", "--short", "HEAD"], None);
        assert_eq!(branch.trim(), "main", "{}", self.trying);
        assert!(!app.join(".git/index.lock").exists(), "{}: index.lock", self.trying);
        let lines = fresh.lines().chain(own.lines());
        lines
            .filter(|line| !line.ends_with(" config/user.json") && !line.contains(" keep/"))
            .filter(|line| !line.contains("__pycache__/"))
            .map(str::to_owned)
            .collect()
    }

    /// What the newest version requires, as `name-version`.
    pub fn required(&self) -> Vec<String> {
        let six = format!("six=={}", self.new.package);
        let pins = self.beside.iter().copied().chain([&*six]);
        let mut names: Vec<String> = pins.map(|pin| pin.replace("==", "-")).collect();
        names.sort();
        names
    }

    /// What is installed in the live environment, as `name-version`.
    fn packages(&self) -> Vec<String> {
        let lib = self.host.layout.venv().join("lib");
        let python = fs::read_dir(lib).unwrap().next().unwrap().unwrap().path();
        let entries = fs::read_dir(python.join("site-packages")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".dist-info")?.to_lowercase())).collect();
        names.sort();
        names
    }

    /// No process, no scratch file, no unfinished run and no unfinished environment is left.
    #[track_caller]
    fn expect_nothing_left(&self) {
        let (layout, trying) = (&self.host.layout, &self.trying);
        let limit = Instant::now() + PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < limit, "{trying}: processes are left: {left:?}");
            std::thread::yield_now();
        }
        assert!(!layout.admit().exists(), "{trying}: admit");
        let mut odd = Vec::new();
        let names = |folder: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        odd.extend(names(layout.state().join("scratch")).into_iter().map(|name| format!("scratch/{name}")));
        odd.extend(names(layout.uv().join("scratch")).into_iter().map(|name| format!("uv/scratch/{name}")));
        odd.extend(names(layout.state()).into_iter().filter(|name| name.contains(".new")));
        odd.extend(names(layout.trees()).into_iter().map(|name| format!("trees/{name}")));
        odd.extend(names(layout.home()).into_iter().filter(|name| name.starts_with('.')));
        for run in self.host.runs() {
            for part in ["exchange.json", "staged-tree"] {
                odd.extend(run.join(part).exists().then(|| run.join(part).display().to_string()));
            }
            let journal = fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
            let ended = journal.lines().last().is_some_and(|line| line.contains("\"entry\":\"ended\""));
            if !ended && !run.join("settled").exists() {
                odd.push(format!("{} has not ended", run.display()));
            }
        }
        let recorded: Vec<String> = names(layout.environment_records())
            .into_iter()
            .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
            .collect();
        for name in names(layout.environments()) {
            if !recorded.contains(&name) {
                odd.push(format!("environments/{name} without a record"));
            }
        }
        assert!(odd.is_empty(), "{trying}: left over: {odd:#?}");
    }

    /// Processes of this host's runs that still live, whatever they are.
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

    /// After a convergence: `new` is what runs, and the next version starts from it.
    pub fn go_on(&mut self) {
        self.old = self.new.clone();
    }
}

/// Whom a kill from outside ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The process of the run alone: workers, git, uv and hooks live on.
    RunAlone,
    /// The run and all its children.
    Everything,
    /// Of the programs that the run has started and that are at work, the one of this number, counted round and round;
    /// the run lives to see it die.
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

fn each_file(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            each_file(&path, visit);
        } else {
            visit(&path);
        }
    }
}

/// Where git works for a host: its application's repository.
pub fn in_app(host: &Host, arguments: &[&str]) -> String {
    git(&host.layout.app(), arguments.iter().copied())
}
