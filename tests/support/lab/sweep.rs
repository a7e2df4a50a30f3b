//! Removes the leftovers of test processes that were killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use refresh_programs::process::ProcessId;

use super::{cgroup, disk};

/// The beginning of every name of the lab; pid and start time of the test process follow.
pub(super) const PREFIX: &str = "ladylab-";

/// Removes the machines and networks of processes that are gone.
pub(super) fn leftovers(worlds: &Path) {
    let mut names: Vec<String> = file_names(worlds);
    names.extend(file_names(Path::new("/run/netns")));
    names.extend(cgroup::hierarchies().iter().flat_map(|hierarchy| file_names(hierarchy)));
    names.retain(|name| owner(name).is_some_and(|owner| !owner.is_alive()));
    names.sort();
    names.dedup();
    for name in names {
        everything_named(worlds, &name);
    }
}

/// Removes everything with one name: processes, mounts, files and the network namespace.
pub(super) fn everything_named(worlds: &Path, name: &str) {
    cgroup::remove(name);
    let directory = worlds.join(name);
    for point in mounts_below(&directory) {
        disk::detach(&point);
    }
    if directory.exists() && mounts_below(&directory).is_empty() {
        let _ = fs::remove_dir_all(&directory);
    }
    if Path::new("/run/netns").join(name).exists() {
        let _ = Command::new("ip").args(["netns", "delete", name]).output();
    }
    for kind in ["propagate", "unix-export"] {
        let _ = fs::remove_dir_all(Path::new("/run/systemd/nspawn").join(kind).join(name));
    }
}

/// Returns the process that made an object of this name; `None` if the lab did not make it.
fn owner(name: &str) -> Option<ProcessId> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    Some(ProcessId { pid: parts.next()?.parse().ok()?, started: parts.next()?.parse().ok()? })
}

fn file_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Returns the mount points below a directory, the last mounted first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut found: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    found.reverse();
    found
}
