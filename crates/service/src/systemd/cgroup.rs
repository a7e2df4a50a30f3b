//! The processes of a unit: those in its cgroup, in all kinds of hierarchies.
//!
//! systemd keeps units apart in one hierarchy: a v1 one without controllers that is named after it, the v2 one, or
//! (hybrid) both, with the same paths. This module reads the files and does not query systemd: an inactive unit may
//! have left processes that systemd no longer tracks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::strays;
use refresh_programs::process::ProcessId;
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// The cgroup of one unit, whether it exists or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup {
    name: String,
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// Finds the directories of the cgroup with systemd's name `name`.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub(super) fn named(name: &str) -> Outcome<Self> {
        // The hierarchies do not move, and the kernel needs long to list the mounts of a machine with many mounts.
        static MOUNTS: OnceLock<String> = OnceLock::new();
        let mounts = if let Some(known) = MOUNTS.get() {
            known
        } else {
            let read = fs::read_to_string("/proc/self/mountinfo")
                .context(|| "cannot read /proc/self/mountinfo".to_owned())?;
            MOUNTS.get_or_init(|| read)
        };
        Ok(Self { name: name.to_owned(), directories: directories(mounts, name) })
    }

    /// Returns the living processes in it and in the groups below it.
    pub(super) fn processes(&self) -> Vec<ProcessId> {
        let mut pids = BTreeSet::new();
        for directory in &self.directories {
            gather(directory, &mut pids);
        }
        pids.into_iter().filter_map(ProcessId::of).collect()
    }

    /// Returns whether a process is in it or in a group below it.
    pub(super) fn holds(&self, process: ProcessId) -> bool {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        is_member(&groups, &self.name) && process.is_alive()
    }

    /// Returns the number of processes in it and in the groups below it that the kernel has killed because memory was
    /// low (v2). `None` if the kernel does not count them.
    pub(super) fn oom_kills(&self) -> Option<u64> {
        self.directories.iter().find_map(|directory| {
            let events = fs::read_to_string(directory.join("memory.events")).ok()?;
            events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
        })
    }

    /// Kills `processes`. If the kernel supports it (Linux 5.14, v2), kills all processes of the cgroup in one step: no
    /// fork escapes.
    pub(super) fn kill(&self, processes: &[ProcessId]) {
        strays::kill(processes);
        for directory in &self.directories {
            let kill = directory.join("cgroup.kill");
            if kill.exists() {
                // It is no problem if the group is empty and removed meanwhile.
                let _ = disk::order(&kill, b"1");
            }
        }
    }
}

/// Returns the name of the cgroup that systemd creates for a unit in `slice`, below the `root` of all units.
pub(super) fn default_path(root: &str, slice: &str, unit: &str) -> String {
    let mut name = root.trim_end_matches('/').to_owned();
    if let Some(stem) = slice.strip_suffix(".slice").filter(|stem| *stem != "-") {
        // A dash in the name of a slice is a separate level.
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        for end in ends {
            name.push_str(&format!("/{}.slice", &stem[..end]));
        }
    }
    name.push('/');
    if unit.starts_with(['_', '.']) {
        name.push('_');
    }
    name.push_str(unit);
    name
}

/// Finds the directories of the cgroup `name` in the table of mounts.
fn directories(mounts: &str, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // The root group contains processes that belong to no unit.
    if name.trim_matches('/').is_empty() {
        return found;
    }
    for line in mounts.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let (Some(root), Some(point)) = (mount.get(3), mount.get(4)) else { continue };
        let mut source = source.split(' ');
        let is_systemds = match source.next() {
            Some("cgroup2") => true,
            Some("cgroup") => {
                source.next_back().is_some_and(|options| options.split(',').any(|o| o == "name=systemd"))
            }
            _ => false,
        };
        // A mount that begins at a lower level shows only the groups below that level.
        let below = match *root {
            "/" => Some(name),
            // A mount from outside our cgroup namespace: its root is the root of our namespace.
            root if root.starts_with("/..") => Some(name),
            root => name.strip_prefix(root).filter(|rest| rest.starts_with('/')),
        };
        if let (true, Some(below)) = (is_systemds, below) {
            let directory = Path::new(point).join(below.trim_start_matches('/'));
            if !found.contains(&directory) {
                found.push(directory);
            }
        }
    }
    found
}

fn gather(directory: &Path, pids: &mut BTreeSet<i32>) {
    let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) else { return };
    // 0 means a process of another pid namespace.
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), pids);
        }
    }
}

/// Returns whether `/proc/PID/cgroup` names a group or one below it, in a hierarchy of systemd.
fn is_member(groups: &str, name: &str) -> bool {
    groups.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return false };
        let below = path.strip_prefix(name);
        matches!(controllers, "" | "name=systemd")
            && !name.trim_matches('/').is_empty()
            && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "/system.slice/ladylinux-api.service";

    #[test]
    fn the_cgroup_is_found_on_v1_hybrid_and_v2_hosts() {
        let v2 = "25 30 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let named = "33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                     34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let unified = "35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let at = |mounts: &str| directories(mounts, UNIT);
        let below = |directory: &str| PathBuf::from(format!("/sys/fs/cgroup{directory}{UNIT}"));
        assert_eq!(at(v2), [below("")]);
        assert_eq!(at(named), [below("/systemd")]);
        assert_eq!(at(&format!("{named}{unified}")), [below("/systemd"), below("/unified")]);
    }

    #[test]
    fn a_mount_of_a_part_of_the_hierarchy_shows_what_is_below_it() {
        let mounts = "33 30 0:29 /machine /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(directories(mounts, "/machine/x.service"), [PathBuf::from("/sys/fs/cgroup/x.service")]);
        assert_eq!(directories(mounts, "/machinery/x.service"), Vec::<PathBuf>::new());
    }

    #[test]
    fn no_unit_has_the_root_of_the_hierarchy() {
        let v2 = "25 30 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        for name in ["", "/"] {
            assert_eq!(directories(v2, name), Vec::<PathBuf>::new());
            assert!(!is_member("0::/system.slice/x.service\n", name));
        }
    }

    #[test]
    fn a_process_is_a_member_of_its_group_and_of_those_above_it() {
        let hybrid = format!("12:memory:/\n1:name=systemd:{UNIT}/child\n0::{UNIT}/child\n");
        assert!(is_member(&hybrid, UNIT));
        assert!(!is_member(&hybrid, "/system.slice/ladylinux-api"));
        assert!(!is_member(&format!("4:memory:{UNIT}\n0::/user.slice\n"), UNIT));
    }

    #[test]
    fn the_name_of_a_group_follows_its_slices() {
        assert_eq!(default_path("/", "system.slice", "x.service"), "/system.slice/x.service");
        assert_eq!(
            default_path("/a/b", "one-two.slice", "x.service"),
            "/a/b/one.slice/one-two.slice/x.service"
        );
        assert_eq!(default_path("", "-.slice", "_x.service"), "/__x.service");
    }

    #[test]
    fn this_process_is_found_in_the_group_that_the_kernel_reports() {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let Some(own) =
            groups.lines().find_map(|line| line.split_once("::").map(|(_, path)| path.to_owned()))
        else {
            return;
        };
        let group = Cgroup::named(&own).unwrap();
        assert_eq!(group.holds(ProcessId::own()), own != "/");
    }
}
