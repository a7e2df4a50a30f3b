//! The paths and groups in the files of a unit that must exist at each start. Source: systemd.exec(5),
//! org.freedesktop.systemd1(5).

use std::path::{Path, PathBuf};

use super::properties::Properties;

/// A path that must exist at the start of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededPath {
    /// The key that names it (`EnvironmentFile`).
    pub key: String,
    /// The path.
    pub path: PathBuf,
    /// Whether it must be missing instead (`ConditionPathExists=!`).
    pub is_unwanted: bool,
}

/// The paths and groups that must exist at the start of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartNeeds {
    /// The paths. Those that may be missing, or that systemd searches for, are left out.
    pub paths: Vec<NeededPath>,
    /// The groups.
    pub groups: Vec<String>,
}

impl Properties {
    pub(super) fn start_needs(&self) -> StartNeeds {
        let groups = std::iter::once(self.text("Group"))
            .chain(self.value::<Vec<String>>("SupplementaryGroups").unwrap_or_default());
        let groups = groups.filter(|group| !group.is_empty()).collect();
        // With another root directory a path means another file.
        if !(self.text("RootDirectory").is_empty() && self.text("RootImage").is_empty()) {
            return StartNeeds { paths: self.conditions(), groups };
        }
        let mut paths = self.conditions();
        let mut add = |key: &str, path: String| {
            let path = path.trim_start_matches('+');
            let is_pattern = path.contains(['*', '?', '[']);
            if Path::new(path).is_absolute() && !is_pattern {
                paths.push(NeededPath { key: key.to_owned(), path: path.into(), is_unwanted: false });
            }
        };
        let files: Vec<(String, bool)> = self.value("EnvironmentFiles").unwrap_or_default();
        for (file, _) in files.into_iter().filter(|(_, may_be_missing)| !may_be_missing) {
            add("EnvironmentFile", file);
        }
        for key in ["ExecCondition", "ExecStartPre", "ExecStartPost"] {
            for program in self.programs(key) {
                add(key, program);
            }
        }
        // A path that may be missing begins with a dash, so it is not absolute.
        for key in ["ReadWritePaths", "ReadOnlyPaths", "ExecPaths"] {
            for path in self.value::<Vec<String>>(key).unwrap_or_default() {
                add(key, path);
            }
        }
        for key in ["BindPaths", "BindReadOnlyPaths"] {
            let binds: Vec<(String, String, bool, u64)> = self.value(key).unwrap_or_default();
            for (source, ..) in binds.into_iter().filter(|(_, _, may_be_missing, _)| !may_be_missing) {
                add(key, source);
            }
        }
        let credentials: Vec<(String, String)> = self.value("LoadCredential").unwrap_or_default();
        for (_, path) in credentials {
            add("LoadCredential", path);
        }
        StartNeeds { paths, groups }
    }

    /// Returns the conditions and assertions about paths, each of which must hold.
    fn conditions(&self) -> Vec<NeededPath> {
        let of = |key: &str| self.value::<Vec<(String, bool, bool, String, i32)>>(key).unwrap_or_default();
        let all = of("Conditions").into_iter().chain(of("Asserts"));
        let needed = all.filter(|(kind, is_alternative, ..)| kind.ends_with("PathExists") && !is_alternative);
        needed
            .map(|(key, _, is_unwanted, path, _)| NeededPath { key, path: path.into(), is_unwanted })
            .collect()
    }
}
