//! The one door to other programs.
#![expect(clippy::disallowed_methods, reason = "this is the room that starts other programs")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::identity::{Owner, ProcessId};
use super::leftover::Recorded;
use super::replacement::Replacement;
use super::watch::{self, Limits, Started, Subject};
use super::{RUN_MARK, interrupt, session};
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::event::Events;
use crate::settings::names::RunId;

/// What happens with a child's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Kept whole, up to this many bytes of each stream; more is a failure.
    Whole(usize),
    /// Streamed line by line as events under this name; the last 64 KiB of each stream are kept.
    Narrated(String),
    /// Standard output is a response and kept whole, up to this many bytes; the lines of standard error are events under
    /// the name `narrate`, where there is one, and its last 64 KiB are kept.
    Response {
        /// How many bytes of standard output are kept; more is a failure.
        limit: usize,
        /// The name that progress is narrated under.
        narrate: Option<String>,
    },
}

/// A program to run: what, as whom, where, how long.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: PathBuf,
    input: Option<Vec<u8>>,
    owner: Option<Owner>,
    deadline: Duration,
    stall: Option<Duration>,
    keep: Keep,
}

impl Program {
    /// Makes a program that runs in `/` with nothing but the base environment, no input and a deadline of a minute.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: PathBuf::from("/"),
            input: None,
            owner: None,
            deadline: Duration::from_secs(60),
            stall: None,
            keep: Keep::Whole(64 << 20),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_os_string()));
        self
    }

    /// Sets a variable of the child's environment, which holds nothing else of ours.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Sets the working directory (default `/`).
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = directory.as_ref().to_path_buf();
        self
    }

    /// Sets what the child reads on standard input (default: nothing).
    #[must_use]
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    /// Drops all rights for those of `owner` before the program starts.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Sets how long the whole may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long the child may be silent on both streams.
    #[must_use]
    pub fn stall(mut self, stall: Duration) -> Self {
        self.stall = Some(stall);
        self
    }

    /// Sets what happens with the output.
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Returns it as another process can become it, with the mark of a run.
    pub(crate) fn into_replacement(self, mark: Option<&RunId>) -> Replacement {
        let mut variables = self.variables;
        variables.extend(mark.map(|run| (OsString::from(RUN_MARK), OsString::from(run.as_str()))));
        Replacement {
            path: self.path,
            arguments: self.arguments,
            variables,
            directory: self.directory,
            input: self.input,
        }
    }

    /// Returns how it is watched.
    pub(crate) fn limits(&self) -> Limits {
        Limits { name: self.name(), deadline: self.deadline, stall: self.stall, keep: self.keep.clone() }
    }

    /// Returns the program's name, for messages.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    pub(super) fn command(&self, mark: Option<&RunId>) -> Outcome<Command> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        session::isolate(&mut command, self.owner, &self.directory)?;
        base_environment(&mut command);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(run) = mark {
            command.env(RUN_MARK, run.as_str());
        }
        command.stdin(match &self.input {
            None => Stdio::null(),
            Some(bytes) => memory_file(bytes)?.into(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }
}

/// Gives a command the environment that every program has, and nothing else.
pub(super) fn base_environment(command: &mut Command) {
    command.env_clear().env("PATH", crate::settings::environment::SEARCH_PATH);
    command.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
}

/// A file that exists in memory only, holding `bytes`, at its start.
pub(crate) fn memory_file(bytes: &[u8]) -> Outcome<File> {
    let context = || "cannot pass input to a program".to_owned();
    let fd = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).context(context)?;
    let mut file = File::from(fd);
    file.write_all(bytes).and_then(|()| file.rewind()).context(context)?;
    Ok(file)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It was ended because it passed its deadline.
    PastDeadline(Duration),
    /// It was ended because it was silent for this long.
    Stalled(Duration),
}

/// What a child left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The program's name.
    pub program: String,
    /// How it ended.
    pub ended: Ended,
    /// Its standard output (the end of it, when narrated).
    pub stdout: Vec<u8>,
    /// Its standard error (the end of it, when narrated).
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Returns whether it exited with code 0.
    pub fn succeeded(&self) -> bool {
        self.ended == Ended::Exited(0)
    }

    /// Returns the standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the last `count` lines that are not empty of standard error, or of standard output where that says
    /// nothing; as a terminal shows them in the end, so without progress that was written over.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let of = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes);
            let seen =
                |line: &'_ str| line.trim_end().rsplit('\r').next().unwrap_or_default().trim_end().to_owned();
            let lines: Vec<String> = text.lines().map(seen).filter(|line| !line.is_empty()).collect();
            lines[lines.len().saturating_sub(count)..].to_vec()
        };
        let stderr = of(&self.stderr);
        if stderr.is_empty() { of(&self.stdout) } else { stderr }
    }

    /// Tells this end as a failure: `summary`, caused by how the program ended, caused by what it said.
    pub fn failure(&self, summary: &str) -> Failure {
        let how = match self.ended {
            Ended::Exited(code) => format!("{} exited with code {code}", self.program),
            Ended::Signalled(signal) => format!("{} was ended by signal {signal}", self.program),
            Ended::PastDeadline(after) => {
                format!("{} was ended after its deadline of {after:?}", self.program)
            }
            Ended::Stalled(after) => {
                format!("{} was ended after {after:?} without a sign of life", self.program)
            }
        };
        let said = self.last_lines(15);
        let cause = if said.is_empty() {
            Failure::new(how)
        } else {
            Failure::new(how).because(Failure::written(&said, ""))
        };
        Failure::new(summary).because(cause)
    }

    /// Returns itself when it exited with code 0.
    ///
    /// # Errors
    /// The end told as [`Finished::failure`].
    pub fn ok(self, summary: impl FnOnce() -> String) -> Outcome<Self> {
        if self.succeeded() { Ok(self) } else { Err(self.failure(&summary())) }
    }
}

/// Starts programs on behalf of one run.
#[derive(Debug, Clone)]
pub struct Runner {
    own_program: PathBuf,
    run: Option<(RunId, PathBuf)>,
    events: Arc<Events>,
}

impl Runner {
    /// Makes a runner for reading commands: its children are not recorded.
    pub fn new(events: Arc<Events>) -> Self {
        Self { own_program: PathBuf::from("/proc/self/exe"), run: None, events }
    }

    /// Marks and records every child as one of run `id`; `register` is the file of records.
    #[must_use]
    pub fn for_run(mut self, id: RunId, register: PathBuf) -> Self {
        self.run = Some((id, register));
        self
    }

    /// Returns what its children say, and everything else, to other events.
    #[must_use]
    pub fn telling(mut self, events: Arc<Events>) -> Self {
        self.events = events;
        self
    }

    /// Uses `program` as the worker; for tests, whose own program is the test.
    #[must_use]
    pub fn with_worker(mut self, program: PathBuf) -> Self {
        self.own_program = program;
        self
    }

    /// Returns the path by which this program starts itself again, also after its file was replaced.
    pub fn own_program(&self) -> &Path {
        &self.own_program
    }

    /// Returns where events go.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Runs a program to its end and returns what it left; a non-zero exit, a passed deadline and a stall are
    /// results, not errors.
    ///
    /// # Errors
    /// The program cannot be started, its output exceeds what [`Keep::Whole`] allows, or the run is interrupted (the
    /// child is ended first).
    pub fn run(&self, program: &Program) -> Outcome<Finished> {
        let mut started = self.start(program, Input::Given)?;
        self.finish(&mut started, &program.limits())
    }

    /// Starts a program and returns it with the ends of its streams. Whoever calls collects it.
    ///
    /// # Errors
    /// It cannot be started, or the run is interrupted.
    pub(crate) fn start(&self, program: &Program, input: Input) -> Outcome<Started> {
        interrupt::check()?;
        let mut command = program.command(self.run.as_ref().map(|(id, _)| id))?;
        if input == Input::Open {
            command.stdin(Stdio::piped());
        }
        let mut child = spawn(&mut command).context(|| format!("cannot start {}", program.path.display()))?;
        self.record(&child, program);
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

    /// Watches what was started to its end and collects it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn finish(&self, started: &mut Started, limits: &Limits) -> Outcome<Finished> {
        let seen = watch::until_the_end(started, limits, &self.events);
        // One that waits in the kernel cannot be collected.
        let killed = Ok(Ended::Signalled(Signal::KILL.as_raw()));
        let collected = if started.is_lost { killed } else { started.subject.collect() };
        if started.is_lost {
            // The signal that ended the wait is the cause.
            interrupt::check()?;
        }
        let seen = seen?;
        if !matches!(collected, Ok(Ended::Exited(0))) {
            // A machine that is switched off asks this process and its units to end at once: then that is the cause.
            interrupt::check()?;
        }
        let ended = match seen.cut_short {
            Some(why) => why,
            None => collected?,
        };
        Ok(Finished { program: limits.name.clone(), ended, stdout: seen.stdout, stderr: seen.stderr })
    }

    /// Returns the run that children belong to.
    pub(crate) fn run_id(&self) -> Option<&RunId> {
        self.run.as_ref().map(|(id, _)| id)
    }

    /// Writes down the child's group and start time; a record that cannot be written is covered by the mark.
    fn record(&self, child: &Child, program: &Program) {
        let Some((_, register)) = &self.run else { return };
        let Some(leader) = i32::try_from(child.id()).ok().and_then(ProcessId::of) else { return };
        let record = Recorded { leader, program: program.name() };
        if let (Ok(mut file), Ok(mut line)) = (disk::append_own(register, 0o600), serde_json::to_vec(&record))
        {
            line.push(b'\n');
            let _ = file.write_all(&line);
        }
    }
}

/// What a child reads on standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// What the program was given, or nothing.
    Given,
    /// A pipe that stays open.
    Open,
}

/// A child of this process; its process group is the whole of it.
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

    fn collect(&mut self) -> Outcome<Ended> {
        // The leader is not reaped yet, so its group's number cannot have been given to another process.
        self.kill();
        self.child.wait().map(ended).context(|| format!("cannot wait for process {}", self.child.id()))
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signalled(signal.unwrap_or(0)),
    }
}

/// Starts a child. A file that was only just written counts as busy as long as another thread's fork holds its descriptor,
/// which is over when that child executes its program (execve(2), `ETXTBSY`).
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                clock::pause_regardless(Duration::from_millis(10));
            }
            spawned => return spawned,
        }
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner() -> Runner {
        Runner::new(Arc::new(Events::silent()))
    }

    fn sh(script: &str) -> Program {
        Program::new("/bin/sh").arg("-c").arg(script)
    }

    #[test]
    fn output_and_exit_code_are_returned_and_the_environment_is_empty_of_ours() {
        let finished = runner().run(&sh("echo out; echo err >&2; env | grep -c CARGO; exit 3")).unwrap();
        assert_eq!(finished.ended, Ended::Exited(3));
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
        assert!(matches!(finished.ended, Ended::PastDeadline(_)));
        let pid: i32 = finished.text().trim().parse().unwrap();
        let limit = clock::monotonic() + Duration::from_secs(5);
        while ProcessId::of(pid).is_some() && clock::monotonic() < limit {
            clock::pause_regardless(Duration::from_millis(5));
        }
        assert!(ProcessId::of(pid).is_none());
    }

    #[test]
    fn a_silent_child_is_a_stalled_one() {
        let finished = runner().run(&sh("echo x; sleep 60").stall(Duration::from_millis(200))).unwrap();
        assert!(matches!(finished.ended, Ended::Stalled(_)));
    }

    #[test]
    fn a_grandchild_that_keeps_the_streams_open_does_not_hold_the_run() {
        let finished = runner().run(&sh("sleep 60 & echo done")).unwrap();
        assert_eq!(finished.ended, Ended::Exited(0));
        assert_eq!(finished.text(), "done\n");
    }

    #[test]
    fn output_beyond_the_limit_is_a_failure_and_narrated_output_is_cut() {
        assert!(runner().run(&sh("yes | head -c 100000").keep(Keep::Whole(1000))).is_err());
        let flood = sh("yes | head -c 10000000; echo end").keep(Keep::Narrated("hook".into()));
        let finished = runner().run(&flood).unwrap();
        assert!(finished.stdout.len() <= 64 << 10);
        assert!(finished.text().ends_with("end\n"));
    }
}
