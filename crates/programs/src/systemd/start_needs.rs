//! The paths, users and groups in the files of a unit that must exist at each start. Source: systemd.exec(5),
//! org.freedesktop.systemd1(5).

use std::path::{Path, PathBuf};

use super::properties::Properties;

/// A path that must exist at the start of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededPath {
    /// The key that names it (`EnvironmentFile`); that of a condition also names its test (`ConditionPathIsMountPoint`).
    pub key: String,
    /// The path.
    pub path: PathBuf,
    /// Whether the test must fail instead (`ConditionPathExists=!`).
    pub is_unwanted: bool,
    /// Whether the unit uses it in its own view of the file system (`PrivateTmp=`, `TemporaryFileSystem=` …).
    pub is_inside: bool,
}

/// The paths, users and groups that must exist at the start of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartNeeds {
    /// The paths. Those that may be missing, or that systemd searches for, are left out.
    pub paths: Vec<NeededPath>,
    /// Conditions of which one is enough (`ConditionPathExists=|`).
    pub alternatives: Vec<NeededPath>,
    /// The users.
    pub users: Vec<String>,
    /// The groups.
    pub groups: Vec<String>,
}

/// The tests of conditions and assertions that depend on a path alone.
const TESTS: [&str; 7] = [
    "PathExists",
    "PathIsDirectory",
    "PathIsSymbolicLink",
    "PathIsMountPoint",
    "DirectoryNotEmpty",
    "FileNotEmpty",
    "FileIsExecutable",
];

/// The options of common servers whose value is a file to read at the start.
const INPUTS: [&str; 8] = [
    "--ssl-keyfile",
    "--ssl-certfile",
    "--ssl-ca-certs",
    "--keyfile",
    "--certfile",
    "--ca-certs",
    "--env-file",
    "--log-config",
];

/// Programs whose options can name files that only a container or another root directory has.
const CONTAINER_TOOLS: [&str; 10] = [
    "podman",
    "docker",
    "nerdctl",
    "crun",
    "runc",
    "systemd-nspawn",
    "apptainer",
    "singularity",
    "bwrap",
    "chroot",
];

/// A condition of a unit: its key, whether it is an alternative, whether it is negated, its parameter, its last result.
type Condition = (String, bool, bool, String, i32);

impl Properties {
    pub(super) fn start_needs(&self) -> StartNeeds {
        // The users and groups of a dynamic user exist only while it runs.
        let is_dynamic: bool = self.value("DynamicUser").unwrap_or_default();
        let named = |names: Vec<String>| -> Vec<String> {
            names.into_iter().filter(|name| !name.is_empty() && !is_dynamic).collect()
        };
        let mut groups = vec![self.text("Group")];
        groups.extend(self.value::<Vec<String>>("SupplementaryGroups").unwrap_or_default());
        let (users, groups) = (named(vec![self.text("User")]), named(groups));
        let mut paths = self.conditions();
        let alternatives = self.alternatives();
        // With another root directory a path means another file.
        if !(self.text("RootDirectory").is_empty() && self.text("RootImage").is_empty()) {
            return StartNeeds { paths, alternatives, users, groups };
        }
        let binds = |key: &str| -> Vec<(String, String, bool, u64)> { self.value(key).unwrap_or_default() };
        let bound: Vec<String> =
            ["BindPaths", "BindReadOnlyPaths"].into_iter().flat_map(binds).map(|(_, to, ..)| to).collect();
        let mut add = |key: &str, path: String, is_inside: bool| {
            let path = path.trim_start_matches('+');
            let is_pattern = path.contains(['*', '?', '[']);
            // The unit alone sees what is bound there.
            let is_bound = is_inside && bound.iter().any(|bound| Path::new(path).starts_with(bound));
            if Path::new(path).is_absolute() && !is_pattern && !is_bound {
                paths.push(NeededPath {
                    key: key.to_owned(),
                    path: path.into(),
                    is_unwanted: false,
                    is_inside,
                });
            }
        };
        let files: Vec<(String, bool)> = self.value("EnvironmentFiles").unwrap_or_default();
        for (file, _) in files.into_iter().filter(|(_, may_be_missing)| !may_be_missing) {
            add("EnvironmentFile", file, false);
        }
        for key in ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"] {
            for program in self.programs(key) {
                add(key, program, true);
            }
        }
        for file in self.inputs() {
            add("ExecStart", file, true);
        }
        // A path that may be missing begins with a mark, so it is not absolute.
        add("WorkingDirectory", self.text("WorkingDirectory"), true);
        for key in ["ReadWritePaths", "ReadOnlyPaths", "ExecPaths"] {
            for path in self.value::<Vec<String>>(key).unwrap_or_default() {
                add(key, path, true);
            }
        }
        for key in ["BindPaths", "BindReadOnlyPaths"] {
            for (source, ..) in binds(key).into_iter().filter(|(_, _, may_be_missing, _)| !may_be_missing) {
                add(key, source, false);
            }
        }
        let credentials: Vec<(String, String)> = self.value("LoadCredential").unwrap_or_default();
        for (_, path) in credentials {
            add("LoadCredential", path, false);
        }
        StartNeeds { paths, alternatives, users, groups }
    }

    /// Returns the files that the main command names with an option for a file to read. The value of a variable in a
    /// path is unknown.
    fn inputs(&self) -> Vec<String> {
        let words = self.words("ExecStart");
        let is_tool = |word: &String| {
            Path::new(word).file_name().is_some_and(|name| CONTAINER_TOOLS.iter().any(|tool| name == *tool))
        };
        if words.iter().any(is_tool) {
            return Vec::new();
        }
        let next = words.iter().zip(words.iter().skip(1));
        let separate =
            next.filter(|(option, _)| INPUTS.contains(&option.as_str())).map(|(_, file)| file.as_str());
        let joined = words.iter().filter_map(|word| {
            word.split_once('=').filter(|(option, _)| INPUTS.contains(option)).map(|(_, file)| file)
        });
        separate.chain(joined).filter(|file| !file.contains('$')).map(str::to_owned).collect()
    }

    fn all_conditions(&self, property: &str) -> Vec<Condition> {
        self.value(property).unwrap_or_default()
    }

    /// Returns the conditions and assertions about paths, each of which must hold.
    fn conditions(&self) -> Vec<NeededPath> {
        let all = self.all_conditions("Conditions").into_iter().chain(self.all_conditions("Asserts"));
        all.filter(|(_, is_alternative, ..)| !is_alternative).filter_map(needed).collect()
    }

    /// Returns the conditions of which one must hold; none if one of them is not about a path. Assertions are left out:
    /// while a run starts the service, that of the fence holds.
    fn alternatives(&self) -> Vec<NeededPath> {
        let all =
            self.all_conditions("Conditions").into_iter().filter(|(_, is_alternative, ..)| *is_alternative);
        all.map(needed).collect::<Option<_>>().unwrap_or_default()
    }
}

/// Returns a condition about a path.
fn needed((key, _, is_unwanted, path, _): Condition) -> Option<NeededPath> {
    let is_known = TESTS.iter().any(|test| key.ends_with(test));
    is_known.then(|| NeededPath { key, path: path.into(), is_unwanted, is_inside: false })
}
