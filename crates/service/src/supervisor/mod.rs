//! The embedded supervisor: manages the service if there is no service manager (CI, containers, trials).
//!
//! Two sides. [`Embedded`] is the client: it implements [`ServiceManager`]. The other side ([`run_supervisor`]) is a
//! separate process, started detached for one invocation of the service: subreaper of the service's tree, holder of a
//! lock that shows that it lives. It does not restart a service that ends. The service appends to its log itself.
//!
//! A start is a request on standard input and one answer; a stop is SIGTERM; `state.json` contains everything else. The
//! lock, a pid and a start time decide which process gets a signal, never a name.

mod launch;
mod log;
mod server;
mod socket;
mod state;
mod tree;

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

pub use server::run_supervisor;
pub use tree::SERVICE_MARK;

use super::envfile::EnvFile;
use super::{
    Admission, Before, Force, LogPlace, ServiceManager, ServiceProgram, ServiceState, Started, Stopped,
    fence, port, port_holder, probe, python_path, strays,
};
use launch::Answer;
use refresh_programs::process::detached;
use refresh_programs::process::detached::Daemon;
use refresh_programs::process::{Handle, ProcessId};
use refresh_settings::layout::Layout;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, clock, disk};
use socket::SocketRequest;
use state::{Stage, State};

/// The hidden command that starts a supervisor, after `--root DIR`.
pub(crate) const COMMAND: &str = "supervise";

/// The time limit of a supervisor's answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The extra time of a stop beyond the timeout of the service: for the kill, and the last record of the supervisor.
const MARGIN: Duration = Duration::from_secs(15);
/// The size in bytes above which the log of the supervisors' own messages begins again.
const MESSAGES_LIMIT: u64 = 256 << 10;

/// The service of one installation under the embedded supervisor.
#[derive(Debug, Clone)]
pub struct Embedded {
    layout: Layout,
    service: refresh_settings::Service,
    program: PathBuf,
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
    /// Returns the manager of the service of an installation.
    pub fn new(layout: Layout, service: refresh_settings::Service) -> Self {
        Self { layout, service, program: PathBuf::from("/proc/self/exe"), next: Arc::default() }
    }

    /// Uses `program` as the supervisor; for tests, whose own program is the test.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    fn launch(&self) -> Outcome<Started> {
        disk::make_directory(&self.layout.supervisor(), 0o755)?;
        let (mut launch, warnings) = launch::prepare(&self.layout, &self.service)?;
        let socket = self.next().take();
        if socket.is_some() {
            launch.socket = Some(SocketRequest::Passed);
        }
        let request = serde_json::to_vec(&launch).context(|| "cannot encode the start".to_owned())?;
        let arguments: Vec<OsString> =
            vec!["--root".into(), self.layout.root().as_os_str().to_os_string(), COMMAND.into()];
        let (messages, _) = log::open(&self.messages(), MESSAGES_LIMIT)?;
        let daemon = Daemon { program: &self.program, arguments, request: &request, messages, socket };
        let (supervisor, answer) = detached::start_daemon(daemon)?;
        match self.answer(supervisor, answer)? {
            Answer::Runs(how, running) => Ok(Started::new(running, how, warnings)),
            Answer::Refused(message) => Err(message.into_failure()),
        }
    }

    fn answer(&self, supervisor: ProcessId, end: OwnedFd) -> Outcome<Answer> {
        let bytes = read_answer(end)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            reap(supervisor);
            let failure = Failure::new("the supervisor ended without an answer");
            let message = log::tail(&self.messages(), 0, 1).ok().and_then(|mut lines| lines.pop());
            match message {
                Some(message) => failure.because(Failure::new(message)),
                None => failure.because(error),
            }
        })
    }

    /// Returns the path of the log with the supervisors' own messages.
    fn messages(&self) -> PathBuf {
        self.layout.supervisor().join("supervisor.log")
    }

    /// Requests a living supervisor to stop the service, and waits until it has ended.
    fn stop_living(&self, supervisor: &Handle, state: State) -> Outcome<State> {
        // If the disk is full, the supervisor uses the timeout of its start.
        let _ = state::write_stop_timeout(&self.layout, self.service.stop_timeout);
        supervisor.signal(Signal::TERM)?;
        checkpoint::reach("service:asked-to-stop");
        let limit = self.service.stop_timeout + strays::PATIENCE + MARGIN;
        let pid = supervisor.id().pid;
        if !supervisor.wait(limit) {
            let failure =
                Failure::new(format!("the supervisor (process {pid}) has not ended in {limit:.0?}"));
            return Err(strays::cannot_be_ended(&tree::descendants(pid)).because(failure));
        }
        reap(supervisor.id());
        Ok(State::read(&self.layout)?.unwrap_or(state))
    }

    fn next(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the mark of the service's processes, if the installation ever had a supervisor.
    fn mark(&self) -> Outcome<Option<String>> {
        let has_mark = self.layout.supervisor().join("id").exists();
        has_mark.then(|| tree::mark(&self.layout)).transpose()
    }
}

/// A stop that a person has requested; it counts until the next start or boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StopRecord {
    at: Timestamp,
    boot: String,
    /// The first process: each start of a container has its own.
    init: Option<ProcessId>,
}

impl StopRecord {
    fn now() -> Self {
        Self { at: clock::now(), boot: clock::boot_id(), init: ProcessId::of(1) }
    }

    /// Returns the time of the recorded stop, if it was in this boot.
    fn read(layout: &Layout) -> Outcome<Option<Timestamp>> {
        let now = Self::now();
        let read: Option<Self> = disk::read_json(&stop_record(layout))?;
        Ok(read.filter(|it| it.boot == now.boot && it.init == now.init).map(|it| it.at))
    }
}

fn stop_record(layout: &Layout) -> PathBuf {
    layout.supervisor().join("stopped.json")
}

/// Records that a person has stopped the service. systemd has such a record itself.
///
/// # Errors
/// The state cannot be written.
pub fn note_stop(layout: &Layout) -> Outcome<()> {
    disk::make_directory(&layout.supervisor(), 0o755)?;
    disk::write_json(&stop_record(layout), &StopRecord::now(), 0o644)
}

impl ServiceManager for Embedded {
    fn observe(&self) -> Outcome<ServiceState> {
        if let Some((_, state)) = state::living(&self.layout)? {
            let doing = if state.stage == Stage::Starting { "starting" } else { "stopping" };
            let changing = || ServiceState::Changing { doing: doing.to_owned() };
            return Ok(state.running().map_or_else(changing, ServiceState::Running));
        }
        let state = State::read(&self.layout)?;
        let main = state.as_ref().and_then(State::main);
        let processes = left_behind(self.mark()?.as_deref(), main);
        if !processes.is_empty() {
            return Ok(ServiceState::LeftBehind { processes });
        }
        if self.service.command.is_empty() {
            return Ok(ServiceState::NotInstalled { why: "service.command is empty".to_owned() });
        }
        let last = match state.map(|state| state.stage) {
            Some(Stage::ChildEnd { exit, .. }) => exit,
            _ => None,
        };
        Ok(ServiceState::Stopped { last })
    }

    fn stop(&self) -> Outcome<Stopped> {
        let began = clock::monotonic();
        let mut stopped = Stopped::default();
        if let Some((supervisor, state)) = state::living(&self.layout)? {
            stopped.before = Before::Running;
            if let Stage::ChildEnd { exit, force, leftovers } = self.stop_living(&supervisor, state)?.stage {
                (stopped.exit, stopped.force, stopped.leftovers) = (exit, force, leftovers);
            }
        }
        // A killed supervisor (now or long ago) could not end these processes.
        let main = State::read(&self.layout)?.as_ref().and_then(State::main);
        let mark = self.mark()?;
        let find = || left_behind(mark.as_deref(), main);
        let ended = strays::end(find, strays::kill, self.service.stop_timeout)?;
        if !ended.processes.is_empty() {
            if stopped.before == Before::Stopped {
                stopped.before = Before::LeftBehind;
            }
            if ended.force != Force::Asked {
                stopped.force = ended.force;
            }
            stopped.leftovers.extend(ended.processes);
        }
        stopped.took = clock::monotonic().duration_since(began);
        Ok(stopped)
    }

    fn start(&self, admission: Admission) -> Outcome<Started> {
        let started = match &admission {
            // Checked here too: a service that runs behind the fence is stopping, and "it runs already" would be wrong.
            // The check of the supervisor itself, with its lock held, decides.
            Admission::Ordinary => match fence::read(&self.layout)? {
                Some(fence) => Err(fence.refusal()),
                None => self.launch(),
            },
            Admission::Refresh(run) => fence::admitted(&self.layout, run, || self.launch()),
        };
        let started = started.context(|| "cannot start the service".to_owned())?;
        // The service runs: a record that stays is only read when it is down again, and names the former stop.
        let _ = disk::remove_file_if_there(&stop_record(&self.layout));
        Ok(started)
    }

    fn asked_to_stop(&self) -> Outcome<Option<Timestamp>> {
        if self.observe()?.is_down() { StopRecord::read(&self.layout) } else { Ok(None) }
    }

    fn open_next_socket(&self) -> Outcome<bool> {
        let Some(address) = self.service.socket else { return Ok(false) };
        let Some(running) = self.observe()?.running().cloned() else { return Ok(false) };
        let number = probe::service_port(&EnvFile::read_at(&self.layout, &launch::silent())?)?;
        if let Some(stranger) =
            port::stranger(number, |process| process == running.main || self.owns(process).unwrap_or(false))?
        {
            return Err(port_holder::held(number, &stranger));
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
            Some(state) => log::tail(&log::path(&self.layout), state.log_start, lines),
            None => Ok(Vec::new()),
        }
    }

    fn log_after(&self, place: Option<&LogPlace>, lines: usize) -> Outcome<(Vec<String>, Option<LogPlace>)> {
        log::after(&log::path(&self.layout), place, lines)
    }

    fn owns(&self, process: ProcessId) -> Outcome<bool> {
        // A program may overwrite the environment that carries the mark; it cannot change its ancestors.
        if let Some((supervisor, _)) = state::living(&self.layout)?
            && tree::descendants(supervisor.id().pid).contains(&process)
        {
            return Ok(true);
        }
        let mark = self.mark()?;
        Ok(mark.is_some() && process.variable(SERVICE_MARK) == mark)
    }

    fn processes(&self) -> Outcome<Vec<ProcessId>> {
        let Some((supervisor, state)) = state::living(&self.layout)? else { return Ok(Vec::new()) };
        let others = tree::descendants(supervisor.id().pid).into_iter();
        Ok(state.main.into_iter().chain(others.filter(|process| Some(*process) != state.main)).collect())
    }

    fn check(&self) -> Outcome<()> {
        if !self.layout.is_real() {
            return Ok(());
        }
        // Two managers would fight over one service.
        let unit = self.service.unit.as_str();
        let directories = [self.layout.host_units(), self.layout.package_units()];
        match directories.into_iter().map(|directory| directory.join(unit)).find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => Err(Failure::new(format!(
                "the service is a unit of systemd ({}), and systemd does not run here",
                path.display()
            ))
            .command_for(
                "try it on a copy",
                "ladylinux-refresh --root DIR init --repo URL",
                &[],
            )),
        }
    }

    fn program(&self) -> Outcome<Option<ServiceProgram>> {
        let app = self.layout.app();
        let replace =
            |word: &String| launch::replace(word, &self.layout, "{port}").to_string_lossy().into_owned();
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
fn left_behind(mark: Option<&str>, main: Option<ProcessId>) -> Vec<ProcessId> {
    let mut found = mark.map(tree::marked).unwrap_or_default();
    // A program may have hidden its environment, but its process is in the record.
    found.extend(main.filter(|main| main.is_alive() && !found.contains(main)));
    found
}

/// Reads the answer of a supervisor until the supervisor closes its end.
fn read_answer(end: OwnedFd) -> Outcome<Vec<u8>> {
    let context = || "cannot read the supervisor's answer".to_owned();
    let mut stream = UnixStream::from(end);
    stream.set_read_timeout(Some(ANSWER)).context(context)?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(Failure::new(format!("the supervisor has not answered in {ANSWER:.0?}"))
                .command("ladylinux-refresh service stop", &[]))
        }
        Err(error) => Err(Failure::new(context()).because(error)),
    }
}

/// Reaps a supervisor if it was our own child; the parent of another one reaps it.
fn reap(supervisor: ProcessId) {
    let _ = rustix::process::waitpid(Pid::from_raw(supervisor.pid), WaitOptions::NOHANG);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_before_the_boot_or_the_start_of_the_container_holds_nothing_back() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        note_stop(&layout).unwrap();
        assert!(StopRecord::read(&layout).unwrap().is_some());
        let now = StopRecord::now();
        let boot = StopRecord { boot: "another".to_owned(), ..now.clone() };
        for other in [boot, StopRecord { init: Some(ProcessId { pid: 1, started: u64::MAX }), ..now }] {
            disk::write_json(&stop_record(&layout), &other, 0o644).unwrap();
            assert_eq!(StopRecord::read(&layout).unwrap(), None, "{other:?}");
        }
    }
}
