//! Starts other programs as children of this process.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use refresh_events::event::Events;
use refresh_settings::names::RunId;
use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, clock, interrupt};

use super::finished::{ChildEnd, Finished};
use super::leftover::RUN_MARK;
use super::program::Program;
use super::watch::{self, Limits, Started, Subject};

/// Starts programs on behalf of one run.
#[derive(Debug, Clone)]
pub struct Runner {
    own_program: PathBuf,
    run: Option<RunId>,
    events: Arc<Events>,
}

impl Runner {
    /// Makes a runner for reading commands: its children have no mark.
    pub fn new(events: Arc<Events>) -> Self {
        Self { own_program: PathBuf::from("/proc/self/exe"), run: None, events }
    }

    /// Makes a runner for reading commands whose events go nowhere.
    pub fn silent() -> Self {
        Self::new(Arc::new(Events::silent()))
    }

    /// Marks every child as a child of run `id`.
    #[must_use]
    pub fn for_run(mut self, id: RunId) -> Self {
        self.run = Some(id);
        self
    }

    /// Makes a runner for an operation in a separate process. The children carry the mark of the run, as the operation
    /// does: processes that a killed run left are found by it.
    pub fn in_operation(events: Events) -> Self {
        let runner = Self::new(Arc::new(events));
        match environment::variable(RUN_MARK).and_then(|run| RunId::parse(&run).ok()) {
            Some(run) => runner.for_run(run),
            None => runner,
        }
    }

    /// Sends the output of its children, and all other events, to `events`.
    #[must_use]
    pub fn with_events(mut self, events: Arc<Events>) -> Self {
        self.events = events;
        self
    }

    /// Uses `program` as the worker: for tests, in which the running program is the test itself.
    #[must_use]
    pub fn with_worker(mut self, program: PathBuf) -> Self {
        self.own_program = program;
        self
    }

    /// Returns the path with which this program starts itself again, also after its file was replaced.
    pub fn own_program(&self) -> &Path {
        &self.own_program
    }

    /// Returns the receiver of events.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Runs a program to its end and returns how it ended and its output; a non-zero exit, a passed deadline and a
    /// stall are results, not errors.
    ///
    /// # Errors
    /// The program cannot be started, its output exceeds the limit of [`crate::process::Keep::All`], or the run is
    /// interrupted (the child is ended first).
    pub fn run(&self, program: &Program) -> Outcome<Finished> {
        let mut started = self.start(program, Input::Bytes)?;
        self.finish(&mut started, &program.limits())
    }

    /// Starts a program and returns it with the ends of its streams. The caller collects it.
    ///
    /// # Errors
    /// It cannot be started, or the run is interrupted.
    pub(crate) fn start(&self, program: &Program, input: Input) -> Outcome<Started> {
        interrupt::check()?;
        let mut command = program.command(self.run.as_ref())?;
        if input == Input::Open {
            command.stdin(Stdio::piped());
        }
        let mut child = spawn(&mut command).context(|| format!("cannot start {}", program.path.display()))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new("a child has no pid"))?;
        checkpoint::reach_child(&program.name(), pid);
        let context = || format!("cannot watch {}", program.name());
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Failure::new(context()));
        };
        let (stdout, stderr) = (File::from(OwnedFd::from(stdout)), File::from(OwnedFd::from(stderr)));
        let stdin = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
        let life = pidfd_open(pid, PidfdFlags::empty()).context(context)?;
        Ok(Started {
            stdin,
            stdout,
            stderr,
            subject: Box::new(OwnChild { child, pid, life }),
            is_lost: false,
        })
    }

    /// Watches a started program to its end and collects it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn finish(&self, started: &mut Started, limits: &Limits) -> Outcome<Finished> {
        let seen = watch::until_the_end(started, limits, &self.events);
        // A process that waits in the kernel cannot be collected.
        let killed = Ok(ChildEnd::Signalled(Signal::KILL.as_raw()));
        let collected = if started.is_lost { killed } else { started.subject.collect() };
        if started.is_lost {
            // The signal that ended the wait is the cause.
            interrupt::check()?;
        }
        let seen = seen?;
        if !matches!(collected, Ok(ChildEnd::Exited(0))) {
            // A machine that shuts down signals this process and its units at the same time: then the shutdown is the
            // cause.
            interrupt::check()?;
        }
        let ended = match seen.cut_short {
            Some(why) => why,
            None => collected?,
        };
        Ok(Finished { program: limits.name.clone(), ended, stdout: seen.stdout, stderr: seen.stderr })
    }

    /// Returns the run to which the children belong.
    pub(crate) fn run_id(&self) -> Option<&RunId> {
        self.run.as_ref()
    }
}

/// The standard input of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The program's input, or nothing.
    Bytes,
    /// A pipe that stays open.
    Open,
}

/// A child of this process, with its entire process group.
#[derive(Debug)]
struct OwnChild {
    child: Child,
    pid: Pid,
    life: OwnedFd,
}

impl Subject for OwnChild {
    fn life(&self) -> BorrowedFd<'_> {
        self.life.as_fd()
    }

    fn terminate(&self) {
        let _ = kill_process_group(self.pid, Signal::TERM);
    }

    fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    fn kill_rest(&self) {
        self.kill();
    }

    fn resume(&self) {
        let _ = kill_process_group(self.pid, Signal::CONT);
    }

    fn collect(&mut self) -> Outcome<ChildEnd> {
        // The leader is not reaped yet, so no other process can have its group's number.
        self.kill();
        self.child.wait().map(ended).context(|| format!("cannot wait for process {}", self.child.id()))
    }
}

fn ended(status: ExitStatus) -> ChildEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => ChildEnd::Exited(code),
        (None, signal) => ChildEnd::Signalled(signal.unwrap_or(0)),
    }
}

/// Starts a child. A file that was only just written counts as busy while a child that another thread forked has its
/// descriptor. That ends when the child executes its program (execve(2), `ETXTBSY`).
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                clock::sleep_uninterrupted(Duration::from_millis(10));
            }
            spawned => return spawned,
        }
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Keep;
    use crate::process::ProcessId;

    fn runner() -> Runner {
        Runner::new(Arc::new(Events::silent()))
    }

    fn sh(script: &str) -> Program {
        Program::new("/bin/sh").arg("-c").arg(script)
    }

    #[test]
    fn output_and_exit_code_are_returned_and_the_environment_is_empty_of_ours() {
        let finished = runner().run(&sh("echo out; echo err >&2; env | grep -c CARGO; exit 3")).unwrap();
        assert_eq!(finished.ended, ChildEnd::Exited(3));
        assert_eq!(finished.text(), "out\n0\n");
        assert_eq!(finished.stderr, b"err\n");
    }

    #[test]
    fn large_input_does_not_block() {
        let finished = runner().run(&sh("wc -c").input(vec![b'x'; 1 << 20])).unwrap();
        assert_eq!(finished.text().trim(), "1048576");
    }

    #[test]
    fn a_child_past_its_deadline_is_ended_with_its_descendants() {
        let finished =
            runner().run(&sh("sleep 60 & echo $!; sleep 60").deadline(Duration::from_millis(200))).unwrap();
        assert!(matches!(finished.ended, ChildEnd::PastDeadline(_)));
        let pid: i32 = finished.text().trim().parse().unwrap();
        let limit = clock::monotonic() + Duration::from_secs(5);
        while ProcessId::of(pid).is_some() && clock::monotonic() < limit {
            clock::sleep_uninterrupted(Duration::from_millis(5));
        }
        assert!(ProcessId::of(pid).is_none());
    }

    #[test]
    fn a_silent_child_is_a_stalled_one() {
        let finished = runner().run(&sh("echo x; sleep 60").stall(Duration::from_millis(200))).unwrap();
        assert!(matches!(finished.ended, ChildEnd::Stalled(_)));
    }

    #[test]
    fn a_grandchild_that_keeps_the_streams_open_does_not_delay_the_run() {
        let finished = runner().run(&sh("sleep 60 & echo done")).unwrap();
        assert_eq!(finished.ended, ChildEnd::Exited(0));
        assert_eq!(finished.text(), "done\n");
    }

    #[test]
    fn output_beyond_the_limit_is_a_failure_and_narrated_output_is_cut() {
        assert!(runner().run(&sh("yes | head -c 100000").keep(Keep::All(1000))).is_err());
        let flood = sh("yes | head -c 10000000; echo end").keep(Keep::Narrated("hook".into()));
        let finished = runner().run(&flood).unwrap();
        assert!(finished.stdout.len() <= 64 << 10);
        assert!(finished.text().ends_with("end\n"));
    }
}
