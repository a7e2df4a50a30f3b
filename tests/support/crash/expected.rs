//! The invariants of a [`Rig`] at any instant after a kill, and after the next run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::{PATIENCE, Rig, Version};

impl Rig {
    /// Asserts the invariants at any instant after a kill.
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
            // Nothing was stopped yet, or everything is verified.
            let runs = self.running().unwrap_or_else(|| panic!("{trying}: unfenced, and nothing runs"));
            let head = self.host.head();
            assert_eq!(head, runs.commit, "{trying}: the files are not those of what runs");
            return;
        }
        // A service that was stopped and started again may not outlive its refresh while the fence stands. One that was
        // not stopped yet continues with the files of its start.
        let limit = Instant::now() + PATIENCE;
        while let Some(runs) = self.running() {
            if runs == self.old && self.host.head() == self.old.commit {
                return;
            }
            assert!(Instant::now() < limit, "{trying}: {runs:?} runs on though fenced");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let start = self.host.tool(["service", "start"]);
        assert_ne!(start.code, Some(0), "{trying}: a fenced service could be started");
        assert_eq!(self.running(), None, "{trying}");
    }

    /// Returns the pair that runs now, which must be one of the two.
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
        let environment = text("environment");
        let record = self.host.layout.environment_records().join(format!("{environment}.json"));
        assert!(record.exists(), "{}: it runs in {environment}, which nothing vouches for", self.trying);
        Some(runs)
    }

    /// Asserts the end state of every way: version `new`, healthy, and nothing left over.
    #[track_caller]
    pub fn expect_converged(&self) {
        let (host, trying) = (&self.host, &self.trying);
        assert!(!host.fenced(), "{trying}: fenced");
        assert_eq!(self.running().as_ref(), Some(&self.new), "{trying}: what runs");
        assert_eq!(host.head(), self.new.commit, "{trying}");
        assert_eq!(self.protected_now(), self.protected_or_now(), "{trying}: protected files");
        assert_eq!(self.tree_differs(), Vec::<String>::new(), "{trying}: the tree");
        let live = fs::read_link(host.layout.venv()).unwrap();
        let environment = live.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(host.answer().unwrap()["environment"], environment.as_str(), "{trying}");
        assert_eq!(self.packages(), self.required(), "{trying}");
        let migrated = fs::read_to_string(host.layout.data()[0].join("migrated")).unwrap();
        assert_eq!(migrated.trim(), self.new.text, "{trying}: the hook");
        self.expect_nothing_left();
    }

    /// Every local change of this version is in its place: preserved in `app/`, the others in the stash.
    #[track_caller]
    pub fn expect_changes_kept(&self) {
        let (n, trying) = (self.changes, &self.trying);
        assert_eq!(self.host.read("config/user.json"), Some(format!("mine {n}")), "{trying}");
        assert_eq!(self.host.read("keep/state.db"), Some(format!("state {n}")), "{trying}");
        let saved = self.saved();
        let count = |text: String| saved.get(&text).copied().unwrap_or(0);
        assert_eq!(count(format!("untracked {n}")), 1, "{trying}: an untracked file is moved, once");
        assert_eq!(count(format!("untracked in a directory {n}")), 1, "{trying}");
        assert!(count(format!("changed {n}")) >= 1, "{trying}: a modified file");
    }

    /// The contents of all files in previous trees and stashes, and the number of copies of each.
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

    pub(super) fn protected_now(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, u64, i64)> {
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

    /// Returns the differences of `app/` from the commit, by a separate index; the preserved files are left out.
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

    /// The requirements of the newest version, as `name-version`.
    pub fn required(&self) -> Vec<String> {
        let six = format!("six=={}", self.new.package);
        let pins = self.beside.iter().copied().chain([&*six]);
        let mut names: Vec<String> = pins.map(|pin| pin.replace("==", "-")).collect();
        names.sort();
        names
    }

    /// The packages in the live environment, as `name-version`.
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
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(!layout.admit().exists(), "{trying}: admit");
        let mut odd = Vec::new();
        let names = |directory: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(directory).into_iter().flatten();
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
}

fn each_file(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            each_file(&path, visit);
        } else {
            visit(&path);
        }
    }
}
