//! Programs that are meant to outlive this one.

use std::path::Path;
use std::process::Stdio;

use super::child::Program;
use super::identity::ProcessId;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};

/// Starts a program in a process group of its own, with no input and both streams appended to `log`, and leaves it
/// to itself: nobody waits for it, its deadline and what it keeps do not count.
///
/// # Errors
/// The log cannot be opened, the program cannot be started, or it is gone at once.
pub fn spawn(program: &Program, log: &Path) -> Outcome<ProcessId> {
    let told = || format!("cannot start {}", program.name());
    let output = disk::open_append(log, 0o600)?;
    let mut command = program.command(None)?;
    command.stdin(Stdio::null()).stdout(output.try_clone().context(told)?).stderr(output);
    let child = command.spawn().context(told)?;
    i32::try_from(child.id()).ok().and_then(ProcessId::of).ok_or_else(|| {
        Failure::new(format!("{} ended as soon as it was started", program.name()))
            .hint(format!("cat {}", log.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process_group};

    #[test]
    fn a_detached_program_lives_in_a_group_of_its_own_and_writes_to_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let program = Program::new("/bin/sh").arg("-c").arg("echo here; exec sleep 60");
        let process = spawn(&program, &log).unwrap();
        while std::fs::read(&log).unwrap() != b"here\n" {
            std::thread::yield_now();
        }
        assert!(process.is_alive());
        kill_process_group(Pid::from_raw(process.pid).unwrap(), Signal::KILL).unwrap();
    }
}
