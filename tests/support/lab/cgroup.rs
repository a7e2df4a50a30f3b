//! The control groups of machines: a separate one in every hierarchy, so that the services of two machines never share
//! one. Supports cgroup v1, v2 and both at once.

use std::fs;
use std::path::{Path, PathBuf};

use refresh_programs::process::ProcessId;

/// Returns where the hierarchies of this host are mounted.
pub(super) fn hierarchies() -> Vec<PathBuf> {
    parse_hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap())
}

/// Reads mountinfo (proc(5)): the type comes after the lone hyphen, the mount point is the fifth field.
fn parse_hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let point = mount.split(' ').nth(4).map(Path::new);
        if matches!(source.split(' ').next(), Some("cgroup" | "cgroup2"))
            && let Some(point) = point.filter(|point| point.starts_with("/sys/fs/cgroup"))
            && !found.iter().any(|known| known == point)
        {
            found.push(point.to_owned());
        }
    }
    found
}

/// Makes the groups of a machine. Returns the files that move a process into them.
pub(super) fn make(name: &str) -> Vec<PathBuf> {
    let mut doors = Vec::new();
    for hierarchy in hierarchies() {
        // v2: the parent defines the controllers of its children. If that is not allowed, they have no limits.
        for controller in ["cpu", "memory", "pids", "io"] {
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let group = hierarchy.join(name);
        fs::create_dir_all(&group).unwrap();
        // v1: a new cpuset is empty, and accepts no process as long as it is.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (from, to) = (hierarchy.join(file), group.join(file));
            if fs::read_to_string(&to).is_ok_and(|set| set.trim().is_empty())
                && let Ok(set) = fs::read_to_string(from)
            {
                let _ = fs::write(to, set);
            }
        }
        doors.push(group.join("cgroup.procs"));
    }
    doors
}

/// Returns the files that move a process into the groups of another one.
pub(super) fn beside(pid: i32) -> Vec<PathBuf> {
    let Ok(own) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return Vec::new() };
    let hierarchies = hierarchies();
    let mut doors = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for hierarchy in &hierarchies {
            if mounted_as(hierarchy, controllers) {
                doors.push(hierarchy.join(path.trim_start_matches('/')).join("cgroup.procs"));
            }
        }
    }
    doors.retain(|door| door.exists());
    doors
}

/// Returns whether a hierarchy is the one that `/proc/PID/cgroup` names by its controllers.
fn mounted_as(hierarchy: &Path, controllers: &str) -> bool {
    let name = hierarchy.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match controllers {
        "" => name == "unified" || hierarchy.join("cgroup.controllers").exists(),
        named => name == named.strip_prefix("name=").unwrap_or(named),
    }
}

/// Ends every process in the groups of a machine, and removes them.
pub(super) fn remove(name: &str) {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        if !group.exists() {
            continue;
        }
        // A process that is killed may have forked since the list was read.
        for _ in 0..200 {
            let members = members(&group);
            if members.is_empty() {
                break;
            }
            for pid in members {
                if ProcessId::of(pid).is_some()
                    && let Some(pid) = rustix::process::Pid::from_raw(pid)
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        remove_tree(&group);
    }
}

fn members(group: &Path) -> Vec<i32> {
    let mut found: Vec<i32> = fs::read_to_string(group.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| ProcessId::of(*pid).is_some())
        .collect();
    for child in directories(group) {
        found.extend(members(&child));
    }
    found
}

fn remove_tree(group: &Path) {
    for child in directories(group) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(group);
}

fn directories(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
