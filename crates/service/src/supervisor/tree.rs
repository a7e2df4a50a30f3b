//! Which processes belong to a service: by descent while its supervisor lives, by their mark afterwards.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::{all_pids, parse_stat};
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// The variable that marks every process of an installation's service.
pub const SERVICE_MARK: &str = "LADYLINUX_REFRESH_SERVICE";

/// Returns the mark of this installation: a random name, created once with the supervisor's lock held, and the root. So
/// a copy of the installation elsewhere has a different mark.
///
/// # Errors
/// The name cannot be created or read.
pub(super) fn mark(layout: &Layout) -> Outcome<String> {
    let path = layout.supervisor().join("id");
    let name = if let Some(bytes) = disk::read_if_there(&path)? {
        String::from_utf8_lossy(&bytes).trim().to_owned()
    } else {
        let name = fs::read_to_string("/proc/sys/kernel/random/uuid")
            .context(|| "cannot make a name for this installation".to_owned())?;
        disk::write_atomic(&path, name.as_bytes(), 0o644)?;
        name.trim().to_owned()
    };
    Ok(format!("{name}@{}", layout.root().display()))
}

/// Returns the living processes that carry `mark`, in our own pid namespace.
pub(super) fn marked(mark: &str) -> Vec<ProcessId> {
    let own = fs::read_link("/proc/self/ns/pid").ok();
    let carries = |process: &ProcessId| {
        process.variable(SERVICE_MARK).as_deref() == Some(mark)
            && fs::read_link(Path::new("/proc").join(process.pid.to_string()).join("ns/pid")).ok() == own
    };
    all_pids().into_iter().filter_map(ProcessId::of).filter(carries).collect()
}

/// Returns the living descendants of process `root`.
pub(super) fn descendants(root: i32) -> Vec<ProcessId> {
    let stats: HashMap<i32, _> = all_pids()
        .into_iter()
        .filter_map(|pid| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let descends = |pid: i32| {
        let mut at = pid;
        // Parents are read one after the other. The bound is for the case that they seem to form a cycle.
        for _ in 0..stats.len() {
            match stats.get(&at) {
                Some(stat) if stat.parent == root => return true,
                Some(stat) => at = stat.parent,
                None => return false,
            }
        }
        false
    };
    stats
        .iter()
        .filter(|(pid, stat)| !matches!(stat.state, 'Z' | 'X') && descends(**pid))
        .map(|(pid, stat)| ProcessId { pid: *pid, started: stat.started })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_descends_from_its_parent_and_not_from_itself() {
        let own = ProcessId::own();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert!(descendants(parent).contains(&own));
        assert!(!descendants(own.pid).contains(&own));
    }

    #[test]
    fn a_copy_of_the_installation_elsewhere_has_another_mark() {
        let directory = tempfile::tempdir().unwrap();
        let one = Layout::below(directory.path().join("one"));
        let two = Layout::below(directory.path().join("two"));
        for layout in [&one, &two] {
            disk::make_directory(&layout.supervisor(), 0o755).unwrap();
        }
        let mark_of_one = mark(&one).unwrap();
        assert_eq!(mark(&one).unwrap(), mark_of_one);
        disk::copy_new(&one.supervisor().join("id"), &two.supervisor().join("id")).unwrap();
        assert_ne!(mark(&two).unwrap(), mark_of_one);
    }
}
