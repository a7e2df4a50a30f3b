//! Which processes belong to a service: by descent while its supervisor lives, by their mark when it does not.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::identity::{all_pids, parse_stat};
use crate::process::{Handle, ProcessId};
use crate::service::Force;
use crate::settings::layout::Layout;

/// The variable that marks every process of an installation's service.
pub const SERVICE_MARK: &str = "LADYLINUX_REFRESH_SERVICE";

/// How long a killed process may take to be gone before it is said to hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(2);

/// Returns the mark of this installation: a random name, made once by whoever holds the supervisor's lock, and the
/// root, so that a copy of the installation elsewhere has another one.
///
/// # Errors
/// The name cannot be made or read.
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
        // Parents are read one after the other: a bound, should they ever seem to go in a circle.
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

/// Names a process for people.
pub(super) fn told(process: ProcessId) -> String {
    let command = process.command();
    let short: String = command.chars().take(120).collect();
    format!("{} ({short})", process.pid)
}

/// Sends a signal to those of `processes` that still live.
pub(super) fn signal_all(processes: &[ProcessId], signal: Signal) {
    for process in processes {
        if let Some(handle) = Handle::open(*process) {
            // One that belongs to somebody else shows by still being there.
            let _ = handle.signal(signal);
        }
    }
}

/// What it took to end processes that nobody supervised.
#[derive(Debug)]
pub(super) struct EndedStrays {
    /// The processes.
    pub(super) processes: Vec<String>,
    /// What it took.
    pub(super) force: Force,
}

/// Ends what `find` finds: asks first, and kills what is left after `timeout`; again until nothing is found.
///
/// # Errors
/// A process is still there after SIGKILL.
pub(super) fn end_strays(find: impl Fn() -> Vec<ProcessId>, timeout: Duration) -> Outcome<EndedStrays> {
    let mut ended = EndedStrays { processes: Vec::new(), force: Force::Asked };
    let mut known: Vec<ProcessId> = Vec::new();
    let ask_until = clock::monotonic() + timeout;
    let give_up = ask_until + PATIENCE;
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(ended);
        }
        let fresh: Vec<ProcessId> =
            found.iter().copied().filter(|process| !known.contains(process)).collect();
        ended.processes.extend(fresh.iter().map(|process| told(*process)));
        known.extend(&fresh);
        let now = clock::monotonic();
        if now > give_up {
            return Err(cannot_be_ended(&found));
        }
        if now >= ask_until {
            ended.force = Force::Killed;
            signal_all(&found, Signal::KILL);
            clock::pause_regardless(TICK);
        } else {
            signal_all(&fresh, Signal::TERM);
            signal_all(&fresh, Signal::CONT);
            wait_for(&found, ask_until);
        }
    }
}

fn wait_for(processes: &[ProcessId], until: Instant) {
    for process in processes {
        if let Some(handle) = Handle::open(*process) {
            handle.wait(until.saturating_duration_since(clock::monotonic()));
        }
    }
}

/// Tells that processes outlive SIGKILL.
pub(super) fn cannot_be_ended(processes: &[ProcessId]) -> Failure {
    let names: Vec<String> = processes.iter().map(|process| told(*process)).collect();
    let failure = Failure::new(format!("processes of the service cannot be ended: {}", names.join(", ")));
    match processes.first() {
        Some(first) => failure.hint(format!(
            "as root, look at /proc/{}/stack: the process hangs in the kernel or belongs to another user",
            first.pid
        )),
        None => failure,
    }
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
        let folder = tempfile::tempdir().unwrap();
        let one = Layout::below(folder.path().join("one"));
        let two = Layout::below(folder.path().join("two"));
        for layout in [&one, &two] {
            disk::make_folder(&layout.supervisor(), 0o755).unwrap();
        }
        let mark_of_one = mark(&one).unwrap();
        assert_eq!(mark(&one).unwrap(), mark_of_one);
        disk::copy_new(&one.supervisor().join("id"), &two.supervisor().join("id")).unwrap();
        assert_ne!(mark(&two).unwrap(), mark_of_one);
    }
}
