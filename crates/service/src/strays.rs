//! Ends processes of a service without a supervisor: by SIGTERM first, then by SIGKILL.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Force;
use refresh_programs::process::identity::parse_stat;
use refresh_programs::process::{Handle, ProcessId};
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};

/// The time after which a killed process that still exists is reported as hanging.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(2);

/// Returns the name of a process for people.
pub(super) fn describe(process: ProcessId) -> String {
    let command = process.command();
    let short: String = command.chars().take(120).collect();
    format!("{} ({short})", process.pid)
}

/// Sends a signal to the living ones of `processes`.
pub(super) fn signal_all(processes: &[ProcessId], signal: Signal) {
    for process in processes {
        if let Some(handle) = Handle::open(*process) {
            // A process of another user stays alive; the caller notices that.
            let _ = handle.signal(signal);
        }
    }
}

/// The processes that were ended, and the force that was needed.
#[derive(Debug)]
pub(super) struct EndedProcesses {
    /// The processes.
    pub(super) processes: Vec<String>,
    /// The force that was needed.
    pub(super) force: Force,
}

/// Ends the processes that `find` returns: sends SIGTERM first, and calls `kill` for the remaining ones after
/// `timeout`. Repeats this until `find` returns none.
///
/// # Errors
/// A process still exists after SIGKILL.
pub(super) fn end(
    find: impl Fn() -> Vec<ProcessId>,
    kill: impl Fn(&[ProcessId]),
    timeout: Duration,
) -> Outcome<EndedProcesses> {
    let mut ended = EndedProcesses { processes: Vec::new(), force: Force::Asked };
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
        ended.processes.extend(fresh.iter().map(|process| describe(*process)));
        known.extend(&fresh);
        let now = clock::monotonic();
        if now > give_up {
            return Err(cannot_be_ended(&found));
        }
        if now >= ask_until {
            ended.force = Force::Killed;
            kill(&found);
            clock::sleep_uninterrupted(TICK);
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

/// Kills each of `processes`.
pub(super) fn kill(processes: &[ProcessId]) {
    signal_all(processes, Signal::KILL);
}

/// Returns the failure that processes outlive SIGKILL, with the reason if it can be read.
pub(super) fn cannot_be_ended(processes: &[ProcessId]) -> Failure {
    let names: Vec<String> = processes.iter().map(|process| describe(*process)).collect();
    let mut failure = Failure::new(format!("processes of the service cannot be ended: {}", names.join(", ")));
    if let Some(hanging) = processes.iter().find(|process| hangs(**process)) {
        failure = failure.because(Failure::new(format!(
            "process {} hangs in the kernel (state D), where no signal reaches it; what it waits for is mostly a disk or \
             a network file system",
            hanging.pid
        )));
    }
    match processes.first() {
        Some(first) => failure.hint(format!(
            "as root, read /proc/{}/stack: the process hangs in the kernel or belongs to another user",
            first.pid
        )),
        None => failure,
    }
}

/// Returns whether a process is in an uninterruptible sleep.
fn hangs(process: ProcessId) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid));
    stat.is_ok_and(|stat| parse_stat(&stat).is_some_and(|stat| stat.state == 'D'))
}
