//! Starts the programs that outlive their parent: the supervisor, the service below it, and a run on a host without
//! systemd.
//!
//! All other programs are started by [`super::Runner`], which waits for their end.
#![expect(clippy::disallowed_methods, reason = "this module starts other programs")]

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::identity::ProcessId;
use super::memory_file::memory_file;
use super::program::Program;
use super::{passing, session};

/// The program of a supervisor, its arguments and its standard input.
#[derive(Debug)]
pub struct Daemon<'a> {
    /// The program, usually this one.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its standard input.
    pub request: &'a [u8],
    /// The file for its messages.
    pub messages: File,
    /// A socket that it receives with [`passing::receive`] from its standard output.
    pub socket: Option<OwnedFd>,
}

/// Starts a daemon in `/` with an empty environment and only three descriptors of ours: its request, its answer and its
/// messages. Returns the process and the end of the pipe on which its answer arrives. No process waits for its end.
///
/// # Errors
/// The program cannot be started.
pub fn start_daemon(daemon: Daemon<'_>) -> Outcome<(ProcessId, OwnedFd)> {
    let context = || format!("cannot start {}", daemon.program.display());
    let (answer, theirs): (OwnedFd, OwnedFd) = match daemon.socket {
        None => UnixStream::pair().map(|(answer, theirs)| (answer.into(), theirs.into())).context(context)?,
        Some(socket) => passing::send(&socket).context(context)?,
    };
    let mut command = Command::new(daemon.program);
    session::isolate(&mut command, None, Path::new("/"))?;
    let child = command
        // The path may be /proc/self/exe, which is useless in a list of processes.
        .arg0("ladylinux-refresh")
        .args(&daemon.arguments)
        .env_clear()
        .stdin(memory_file(daemon.request)?)
        .stdout(theirs)
        .stderr(daemon.messages)
        .spawn()
        .context(context)?;
    Ok((identity_of(child.id())?, answer))
}

/// The program of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceProgram {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Its complete environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub directory: OsString,
    /// The user that it runs as, if we are root.
    pub owner: Owner,
}

/// Passes the socket on standard input to the program as descriptor 3, as `sd_listen_fds(3)` defines. Only this shell,
/// which becomes the program, knows its process number in time.
const WITH_SOCKET: &str = r#"export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" "$@" 3<&0 </dev/null"#;

/// Starts a service in a new session and process group, with both output streams on `output`, and with its listening
/// socket if it has one. The caller reaps it.
///
/// # Errors
/// The program cannot be started.
pub fn start_service(
    service: &ServiceProgram,
    output: OwnedFd,
    socket: Option<OwnedFd>,
) -> Outcome<ProcessId> {
    let (program, arguments) =
        service.command.split_first().ok_or_else(|| Failure::new("the service has no command"))?;
    let context = || format!("cannot start the service's program {}", Path::new(program).display());
    let also = output.try_clone().context(context)?;
    let mut command = if socket.is_some() {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(WITH_SOCKET).arg(program);
        shell
    } else {
        Command::new(program)
    };
    command.args(arguments).env_clear().envs(service.variables.iter().map(|(name, value)| (name, value)));
    session::isolate(&mut command, Some(service.owner), Path::new(&service.directory))?;
    command.stdin(socket.map_or_else(Stdio::null, Stdio::from)).stdout(output).stderr(also);
    let child = command.spawn().context(context)?;
    identity_of(child.id())
}

/// Starts a program in a new session and process group, with no input and both streams appended to `log`. No process
/// waits for its end: its deadline and its `keep` do not count.
///
/// # Errors
/// The log cannot be opened, the program cannot be started, or it ends immediately.
pub fn spawn(program: &Program, log: &Path) -> Outcome<ProcessId> {
    let context = || format!("cannot start {}", program.name());
    let output = disk::open_append(log, 0o600)?;
    let mut command = program.command(None)?;
    command.stdin(Stdio::null()).stdout(output.try_clone().context(context)?).stderr(output);
    let child = command.spawn().context(context)?;
    i32::try_from(child.id()).ok().and_then(ProcessId::of).ok_or_else(|| {
        Failure::new(format!("{} ended as soon as it was started", program.name())).command("cat", &[&log])
    })
}

/// Returns the identity of a child of ours that has not been reaped: the pid is still its own, even if it has ended.
fn identity_of(pid: u32) -> Outcome<ProcessId> {
    i32::try_from(pid)
        .ok()
        .and_then(ProcessId::of_child)
        .ok_or_else(|| Failure::new(format!("process {pid} cannot be read in /proc")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process_group};

    #[test]
    fn a_detached_program_has_its_own_session_and_group_and_writes_to_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let program = Program::new("/bin/sh").arg("-c").arg("echo here; exec sleep 60");
        let process = spawn(&program, &log).unwrap();
        while std::fs::read(&log).unwrap() != b"here\n" {
            std::thread::yield_now();
        }
        assert!(process.is_alive());
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
        let stat = super::super::identity::parse_stat(&stat).unwrap();
        assert_eq!((stat.session, stat.group), (process.pid, process.pid));
        kill_process_group(Pid::from_raw(process.pid).unwrap(), Signal::KILL).unwrap();
    }
}
