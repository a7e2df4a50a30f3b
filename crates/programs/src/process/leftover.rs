//! Processes that a killed run left behind: found by their records or by their mark, and ended.
//!
//! Each child is recorded with its process group and start time before the run waits for it. The record cannot cover
//! the instant between fork and write, nor a grandchild that left its group; the mark in the environment does.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use refresh_settings::names::RunId;
use refresh_system::error::{Failure, Outcome};
use refresh_system::{clock, disk};

use super::identity::{ProcessId, all_pids};

/// The environment variable that marks every process of a run with the run's name.
pub const RUN_MARK: &str = "LADYLINUX_REFRESH_RUN";

/// One line of the register of a run's children.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct ChildRecord {
    /// The leader of the child's process group.
    pub leader: ProcessId,
    /// The program, for messages.
    pub program: String,
}

/// Ends every process that run `id` left, except the processes `but`: recorded groups whose leader is still the
/// recorded one, and all processes with the run's mark. Returns the ended ones, as `pid (command)`.
///
/// # Errors
/// A process still exists after SIGKILL and `patience`: it hangs in the kernel or belongs to another user.
pub fn end(id: &RunId, register: &Path, but: &[ProcessId], patience: Duration) -> Outcome<Vec<String>> {
    let bytes = disk::read_if_there(register)?.unwrap_or_default();
    let mut ended = Vec::new();
    for recorded in parse_register(&bytes) {
        // A pid and a start time can occur again after a reboot; the mark cannot.
        let ours = recorded.leader.variable(RUN_MARK).as_deref() == Some(id.as_str());
        let is_excepted = recorded.leader == ProcessId::own() || but.contains(&recorded.leader);
        if ours && recorded.leader.is_alive() && !is_excepted {
            ended.push(format!("{} ({})", recorded.leader.pid, recorded.program));
            if let Some(group) = Pid::from_raw(recorded.leader.pid) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
    let limit = clock::monotonic() + patience;
    loop {
        let mut marked = marked(id);
        marked.retain(|process| !but.contains(process));
        if marked.is_empty() {
            return Ok(ended);
        }
        for process in &marked {
            let line = format!("{} ({})", process.pid, process.command());
            if !ended.iter().any(|known| known.starts_with(&format!("{} ", process.pid))) {
                ended.push(line);
            }
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if clock::monotonic() > limit {
            let left: Vec<String> =
                marked.iter().map(|process| format!("{} ({})", process.pid, process.command())).collect();
            return Err(Failure::new(format!("processes of run {id} cannot be ended: {}", left.join(", ")))
                .hint(format!(
                    "read /proc/{}/stack as root: the process hangs in the kernel",
                    marked[0].pid
                )));
        }
        clock::sleep_uninterrupted(Duration::from_millis(10));
    }
}

/// Returns the living processes that carry the mark of run `id`, except this one.
pub fn marked(id: &RunId) -> Vec<ProcessId> {
    let own = ProcessId::own();
    all_pids()
        .into_iter()
        .filter_map(ProcessId::of)
        .filter(|process| *process != own && process.variable(RUN_MARK).as_deref() == Some(id.as_str()))
        .collect()
}

/// Reads the register; an incomplete last line is ignored.
fn parse_register(bytes: &[u8]) -> Vec<ChildRecord> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_register_keeps_its_complete_lines() {
        let whole = ChildRecord { leader: ProcessId { pid: 4, started: 5 }, program: "git".into() };
        let mut bytes = serde_json::to_vec(&whole).unwrap();
        bytes.extend_from_slice(b"\n{\"leader\":{\"pi");
        assert_eq!(parse_register(&bytes), [whole]);
    }
}
