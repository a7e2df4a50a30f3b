//! The embedded supervisor: keeps the service where there is no service manager (CI, containers, trials).
//!
//! Two sides. [`Embedded`] is the client: it implements [`ServiceManager`] for whoever starts, stops or looks. The other
//! side ([`run_supervisor`]) is a process of its own, started detached for one invocation of the service: subreaper of
//! the service's whole tree, keeper of its log, holder of a lock that proves it lives. It does not restart what dies.
//!
//! The two speak through little: a request on standard input and one answer at the start, SIGTERM for the stop, the
//! state file for everything else. Who is signalled is decided by the lock, a pid and a start time; never by a name.

mod launch;
mod log;
mod server;
mod socket;
mod state;
mod tree;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions};

pub use log::LogLimits;
pub use server::run_supervisor;
pub use tree::SERVICE_MARK;

use super::envfile::EnvFile;
use super::{
    Admission, Before, ExitKind, Force, Running, ServiceManager, ServiceProgram, ServiceState, Started,
    StartedHow, Stopped, fence, port, probe, python_path, strays as ending,
};
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::ProcessId;
use crate::process::detached::{self, Daemon};
use crate::settings::Settings;
use crate::settings::layout::Layout;
use launch::Answer;
use socket::SocketRequest;
use state::{Living, Stage, State};

/// The hidden command that a supervisor is started with, after `--root DIR`.
pub const COMMAND: &str = "supervise";

/// How long a supervisor may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a stop may take beyond the service's own timeout: the kill, and the supervisor's last words.
const MARGIN: Duration = Duration::from_secs(15);
/// The size at which the supervisors' own messages are begun again.
const MESSAGES_LIMIT: u64 = 256 << 10;

/// The service of one installation under the embedded supervisor.
#[derive(Debug, Clone)]
pub struct Embedded {
    layout: Layout,
    service: crate::settings::Service,
    program: PathBuf,
    log: LogLimits,
    /// The listening socket of the next start.
    next: Arc<Mutex<Option<OwnedFd>>>,
}

/// Returns whether a supervisor of this installation lives.
///
/// # Errors
/// Its lock cannot be examined.
pub fn is_alive(layout: &Layout) -> Outcome<bool> {
    state::is_locked(layout)
}

impl Embedded {
    /// Makes the manager of the installation that `settings` describe; touches nothing.
    pub fn new(settings: &Settings) -> Self {
        Self::of(settings.layout.clone(), settings.service.clone())
    }

    /// Makes the manager of the service of an installation.
    pub fn of(layout: Layout, service: crate::settings::Service) -> Self {
        Self {
            layout,
            service,
            program: PathBuf::from("/proc/self/exe"),
            log: LogLimits::default(),
            next: Arc::default(),
        }
    }

    /// Uses `program` as the supervisor; for tests, whose own program is the test.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Sets how much of the service's output is kept.
    #[must_use]
    pub fn with_log_limits(mut self, limits: LogLimits) -> Self {
        self.log = limits;
        self
    }

    fn launch(&self) -> Outcome<Started> {
        disk::make_directory(&self.layout.supervisor(), 0o755)?;
        let (mut launch, warnings) = launch::prepare(&self.layout, &self.service, self.log)?;
        let socket = self.next().take();
        if socket.is_some() {
            launch.socket = Some(SocketRequest::Passed);
        }
        let request = serde_json::to_vec(&launch).context(|| "cannot encode the start".to_owned())?;
        let arguments: Vec<OsString> =
            vec!["--root".into(), self.layout.root().as_os_str().to_os_string(), COMMAND.into()];
        let messages = self.messages()?;
        let daemon = Daemon { program: &self.program, arguments, request: &request, messages, socket };
        let (supervisor, answer) = detached::start_daemon(daemon)?;
        match self.answer(supervisor, answer)? {
            Answer::Started { main, since, invocation } => {
                Ok(Started { main, since, invocation, how: StartedHow::Fresh, warnings })
            }
            Answer::RunsAlready => match self.observe()? {
                ServiceState::Running(Running { main, since, invocation, .. }) => {
                    Ok(Started { main, since, invocation, how: StartedHow::RanAlready, warnings })
                }
                other => Err(Failure::new(format!(
                    "the service was running when it was to be started, and is now {other}"
                ))),
            },
            Answer::Refused(message) => Err(message.into_failure()),
        }
    }

    fn answer(&self, supervisor: ProcessId, pipe: OwnedFd) -> Outcome<Answer> {
        let bytes = read_until_closed(pipe, clock::monotonic() + ANSWER)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            reap(supervisor);
            let failure = Failure::new("the supervisor ended without an answer");
            match self.last_message() {
                Some(message) => failure.because(Failure::new(message)),
                None => failure.because(error),
            }
        })
    }

    fn messages_path(&self) -> PathBuf {
        self.layout.supervisor().join("supervisor.log")
    }

    fn messages(&self) -> Outcome<File> {
        let path = self.messages_path();
        if path.metadata().is_ok_and(|found| found.len() > MESSAGES_LIMIT) {
            disk::remove_file_if_there(&path)?;
        }
        disk::open_append(&path, 0o640)
    }

    fn last_message(&self) -> Option<String> {
        let bytes = disk::read_if_there(&self.messages_path()).ok().flatten()?;
        String::from_utf8_lossy(&bytes).lines().rev().find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// Asks a living supervisor to stop the service, and waits until it has ended.
    fn stop_living(&self, living: &Living) -> Outcome<State> {
        state::leave_stop_timeout(&self.layout, self.service.stop_timeout)?;
        living.handle.signal(Signal::TERM)?;
        checkpoint::reach("service:asked-to-stop");
        let limit = self.service.stop_timeout + ending::PATIENCE + MARGIN;
        if !living.handle.wait(limit) {
            let left = tree::descendants(living.handle.id().pid);
            return Err(ending::cannot_be_ended(&left).because(Failure::new(format!(
                "the supervisor (process {}) has not ended in {limit:.0?}",
                living.handle.id().pid
            ))));
        }
        reap(living.handle.id());
        Ok(State::read(&self.layout)?.unwrap_or_else(|| living.state.clone()))
    }

    fn next(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark_if_any(&self) -> Outcome<Option<String>> {
        // An installation that never had a supervisor has no mark, and looking must not make one.
        let there = self.layout.supervisor().join("id").exists();
        there.then(|| tree::mark(&self.layout)).transpose()
    }
}

impl ServiceManager for Embedded {
    fn observe(&self) -> Outcome<ServiceState> {
        if let Some(living) = state::living(&self.layout)? {
            return Ok(match living.state.stage {
                Stage::Running { main, since } if main.is_alive() => {
                    let invocation = living.state.invocation;
                    ServiceState::Running(Running { main, since, restarts: 0, invocation })
                }
                Stage::Starting => ServiceState::Changing { doing: "starting".to_owned() },
                _ => ServiceState::Changing { doing: "stopping".to_owned() },
            });
        }
        let state = State::read(&self.layout)?;
        let main = state.as_ref().and_then(State::main);
        let processes = strays(self.mark_if_any()?.as_deref(), main);
        if !processes.is_empty() {
            return Ok(ServiceState::LeftBehind { processes });
        }
        if self.service.command.is_empty() {
            return Ok(ServiceState::NotInstalled { why: "service.command is empty".to_owned() });
        }
        Ok(ServiceState::Stopped { last: state.and_then(|state| state.last_exit()) })
    }

    fn stop(&self) -> Outcome<Stopped> {
        let began = clock::monotonic();
        let mut stopped = Stopped::nothing_yet();
        if let Some(living) = state::living(&self.layout)? {
            stopped.before = Before::Running;
            if let Stage::Ended(ending) = self.stop_living(&living)?.stage {
                stopped.force = ending.force;
                stopped.leftovers = ending.leftovers;
                stopped.exit = ending.exit;
            }
        }
        // Whatever a supervisor that was killed (now or long ago) could not end.
        let main = State::read(&self.layout)?.as_ref().and_then(State::main);
        let mark = self.mark_if_any()?;
        let strays = ending::end(|| strays(mark.as_deref(), main), ending::kill, self.service.stop_timeout)?;
        if !strays.processes.is_empty() {
            if stopped.before == Before::Stopped {
                stopped.before = Before::LeftBehind;
            }
            if strays.force != Force::Asked {
                stopped.force = strays.force;
            }
            stopped.leftovers.extend(strays.processes);
        }
        stopped.took = clock::monotonic().duration_since(began);
        Ok(stopped)
    }

    fn start(&self, admission: Admission) -> Outcome<Started> {
        let started = match &admission {
            // Asked here too: a service that runs behind the fence is on its way out, and "it runs already" would say
            // otherwise. What decides is the supervisor's own look, with its lock held.
            Admission::Ordinary => match fence::read(&self.layout)? {
                Some(fence) => Err(fence.refusal()),
                None => self.launch(),
            },
            Admission::Refresh(run) => fence::admitted(&self.layout, run, || self.launch()),
        };
        started.context(|| "cannot start the service".to_owned())
    }

    fn open_next_socket(&self) -> Outcome<bool> {
        let Some(address) = self.service.socket else { return Ok(false) };
        let Some(running) = self.observe()?.running().cloned() else { return Ok(false) };
        let number = probe::service_port(&EnvFile::read_at(&self.layout, &launch::silent())?)?;
        if let Some(stranger) =
            port::stranger(number, |process| process == running.main || self.owns(process).unwrap_or(false))?
        {
            return Err(port::held(number, &stranger));
        }
        let next = socket::open((address, number).into())?;
        checkpoint::reach("socket:next-opened");
        socket::await_taken(number, &next);
        checkpoint::reach("socket:taken");
        *self.next() = Some(next);
        Ok(true)
    }

    fn close_next_socket(&self) {
        if self.next().take().is_some() {
            checkpoint::reach("socket:next-closed");
        }
    }

    fn has_next_socket(&self) -> bool {
        self.next().is_some()
    }

    fn log_tail(&self, lines: usize) -> Outcome<Vec<String>> {
        match State::read(&self.layout)? {
            Some(state) => log::tail(&log::path(&self.layout), &state.invocation, lines),
            None => Ok(Vec::new()),
        }
    }

    fn owns(&self, process: ProcessId) -> Outcome<bool> {
        // A program may overwrite the environment that carries the mark; whose descendant it is cannot be overwritten.
        if let Some(living) = state::living(&self.layout)?
            && tree::descendants(living.handle.id().pid).contains(&process)
        {
            return Ok(true);
        }
        let mark = self.mark_if_any()?;
        Ok(mark.is_some() && process.variable(SERVICE_MARK) == mark)
    }

    fn processes(&self) -> Outcome<Vec<ProcessId>> {
        let Some(living) = state::living(&self.layout)? else { return Ok(Vec::new()) };
        let main = living.state.main();
        let others = tree::descendants(living.handle.id().pid);
        Ok(main.into_iter().chain(others.into_iter().filter(|process| Some(*process) != main)).collect())
    }

    fn check(&self) -> Outcome<()> {
        if !self.layout.is_real() {
            return Ok(());
        }
        // A unit of systemd is not to be run beside: two managers would fight over one service.
        let unit = self.service.unit.as_str();
        let directories = [self.layout.host_units(), self.layout.package_units()];
        match directories.into_iter().map(|directory| directory.join(unit)).find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => Err(Failure::new(format!(
                "the service is a unit of systemd ({}), and systemd does not run here",
                path.display()
            ))
            .hint("try it on a copy: ladylinux-refresh --root DIR init --repo URL")),
        }
    }

    fn program(&self) -> Outcome<Option<ServiceProgram>> {
        let (venv, app) = (self.layout.venv(), self.layout.app());
        let replace = |word: &String| {
            word.replace("{venv}", &venv.to_string_lossy()).replace("{app}", &app.to_string_lossy())
        };
        let words: Vec<String> = self.service.command.iter().map(replace).collect();
        let Some(first) = words.first() else { return Ok(None) };
        let change = format!("set `command` under [service] in {}", self.layout.host_file().display());
        let file = EnvFile::read_at(&self.layout, &launch::silent()).unwrap_or_default();
        let (path, python_path) = (PathBuf::from(first), python_path(&file, &app));
        Ok(Some(ServiceProgram { path, words, directory: app, python_path, change }))
    }

    fn describe(&self) -> String {
        "the service".to_owned()
    }
}

/// Returns the processes that a killed supervisor left.
fn strays(mark: Option<&str>, main: Option<ProcessId>) -> Vec<ProcessId> {
    let mut found = mark.map(tree::marked).unwrap_or_default();
    // The main process as the state names it, should it have hidden its environment.
    found.extend(main.filter(|main| main.is_alive() && !found.contains(main)));
    found
}

/// Reads what comes through a pipe until its other end is closed.
fn read_until_closed(pipe: OwnedFd, deadline: Instant) -> Outcome<Vec<u8>> {
    let context = || "cannot hear the supervisor".to_owned();
    let mut file = File::from(pipe);
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(clock::monotonic());
        if left.is_zero() {
            return Err(Failure::new(format!("the supervisor has not answered in {ANSWER:.0?}"))
                .hint("ladylinux-refresh service stop"));
        }
        let timeout = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => match file.read(&mut part).context(context)? {
                0 => return Ok(bytes),
                count => bytes.extend_from_slice(&part[..count]),
            },
            Err(error) => return Err(Failure::new(context()).because(error)),
        }
    }
}

/// Takes note of the end of a supervisor, where it was our own child; another's is its parent's to reap.
fn reap(supervisor: ProcessId) {
    let _ = rustix::process::waitpid(Pid::from_raw(supervisor.pid), WaitOptions::NOHANG);
}

impl ExitKind {
    fn of(status: rustix::process::WaitStatus) -> Option<Self> {
        status.exit_status().map(Self::Code).or_else(|| status.terminating_signal().map(Self::Signal))
    }
}
