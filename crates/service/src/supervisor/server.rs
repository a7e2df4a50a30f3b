//! The supervisor's own process: one invocation of the service, from its start to the end of its last descendant.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group};
use signal_hook::consts::SIGCHLD;

use super::launch::{Answer, Launch};
use super::socket::{self, SocketRequest};
use super::state::{Lock, Stage, State, read_stop_timeout};
use super::{log, tree};
use crate::{Exit, Force, StartedHow, fence, strays};
use refresh_programs::process::{ExitKind, Handle, ProcessId, detached, passing};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{clock, interrupt};

/// The time limit for descendants that outlived the main process to end after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// The interval between kills of the tree until it has ended.
const KILL_TICK: Duration = Duration::from_millis(3);
/// The same interval if a process hangs in the kernel.
const HANGING_TICK: Duration = Duration::from_millis(500);

/// Supervises one invocation of the service of `layout`: the request comes on standard input, and one answer goes to
/// standard output. Then this process runs by itself until the last process of the service has ended.
///
/// # Errors
/// The request cannot be read. Later failures are in the answer and the record.
pub fn run_supervisor(layout: &Layout) -> Outcome<()> {
    let mut request = Vec::new();
    std::io::stdin().read_to_end(&mut request).context(|| "cannot read the request".to_owned())?;
    let launch: Launch =
        serde_json::from_slice(&request).context(|| "cannot parse the request".to_owned())?;
    let (answer, supervisor) =
        begin(layout, launch).unwrap_or_else(|failure| (Answer::Refused(failure.message()), None));
    // The caller may have ended meanwhile. With a lease this stops the service; without one, the service may run.
    let _ = serde_json::to_writer(std::io::stdout(), &answer);
    let _ = std::io::stdout().flush();
    let detach = || "cannot detach from the caller".to_owned();
    let null = File::options().read(true).write(true).open("/dev/null").context(detach)?;
    rustix::stdio::dup2_stdin(&null).context(detach)?;
    rustix::stdio::dup2_stdout(&null).context(detach)?;
    supervisor.map_or(Ok(()), Supervisor::until_the_end)
}

/// Starts the service. Returns its supervisor, unless another one keeps it already.
fn begin(layout: &Layout, mut launch: Launch) -> Outcome<(Answer, Option<Supervisor>)> {
    let wake_ups = become_supervisor()?;
    let lock = match Lock::take(layout)? {
        Ok(lock) => lock,
        Err(running) => return Ok((Answer::Runs(StartedHow::RanAlready, running), None)),
    };
    // Read with the lock held: a run that raises the fence and then searches for a supervisor either finds this one or
    // has raised the fence before.
    let lease = Lease::through_the_fence(layout)?;
    let mark = tree::mark(layout)?;
    refuse_strays(&mark)?;
    launch.program.variables.push((tree::SERVICE_MARK.into(), mark.into()));
    let (log, log_start) = log::open_service(layout)?;
    let mut state = State::new(log_start);
    state.write(layout)?;
    let started =
        socket(launch.socket).and_then(|socket| detached::start_service(&launch.program, log.into(), socket));
    let main = match started {
        Ok(main) => main,
        Err(failure) => {
            state.stage = Stage::ChildEnd { exit: None, force: Force::Asked, leftovers: Vec::new() };
            state.write(layout)?;
            return Err(failure);
        }
    };
    state.main = Some(main);
    state.stage = Stage::Running;
    let running = state.facts(main);
    let written = state.write(layout);
    let mut supervisor = Supervisor {
        layout: layout.clone(),
        _lock: lock,
        wake_ups,
        lease,
        state,
        stop_timeout: launch.stop_timeout,
        main,
        exit: None,
        stop: None,
    };
    if let Err(failure) = written {
        // A service without a record must not run.
        supervisor.ask_to_end();
        supervisor.until_the_end()?;
        return Err(failure);
    }
    Ok((Answer::Runs(StartedHow::Fresh, running), Some(supervisor)))
}

/// Makes this process the reaper of its descendants, detached from terminals. Returns the streams that wake it up: for
/// a request to stop, and for the end of a child.
fn become_supervisor() -> Outcome<[UnixStream; 2]> {
    // A process that already leads a session cannot create another.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context(|| "cannot become the reaper of the service's processes".to_owned())?;
    let context = || "cannot handle signals".to_owned();
    let (child, sender) = UnixStream::pair().context(context)?;
    signal_hook::low_level::pipe::register(SIGCHLD, sender).context(context)?;
    let wake_ups = [interrupt::wake_up()?, child];
    for stream in &wake_ups {
        stream.set_nonblocking(true).context(context)?;
    }
    Ok(wake_ups)
}

fn refuse_strays(mark: &str) -> Outcome<()> {
    let strays = tree::marked(mark);
    if strays.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = strays.iter().map(|process| strays::describe(*process)).collect();
    Err(Failure::new(format!(
        "processes of an earlier service still run, without their supervisor: {}",
        names.join(", ")
    ))
    .command("ladylinux-refresh service stop", &[]))
}

/// Returns the listening socket of the service. From its start, only the service holds it: it closes with the service.
fn socket(request: Option<SocketRequest>) -> Outcome<Option<OwnedFd>> {
    match request {
        None => Ok(None),
        Some(SocketRequest::Open(address)) => socket::open_first(address).map(Some),
        Some(SocketRequest::Passed) => passing::receive(std::io::stdout())
            .map(Some)
            .context(|| "cannot take the socket of the service".to_owned()),
    }
}

/// The bond to the refresh that admitted the service through the fence: while the fence stands, the service does not
/// outlive it.
struct Lease {
    run: RunId,
    /// Since when the fence stands, read at the start.
    since: Option<Timestamp>,
    holder: Handle,
}

impl Lease {
    /// Passes the fence: freely if there is none, otherwise only with an admission.
    fn through_the_fence(layout: &Layout) -> Outcome<Option<Self>> {
        let Some(fence) = fence::read(layout)? else { return Ok(None) };
        let Some(admission) = fence::admission(layout)? else { return Err(fence.refusal()) };
        let Some(holder) = Handle::open(admission.process) else { return Err(fence.refusal()) };
        let since = fence.record().map(|record| record.since);
        Ok(Some(Self { run: admission.run, since, holder }))
    }

    /// Returns, after the holder's end, whether the fence still stands: the service has not passed its health check. A
    /// later run writes its own ID into an existing fence and keeps the time. A fence with a different time means that
    /// this one was lowered before.
    fn is_broken(&self, layout: &Layout) -> bool {
        match fence::read(layout) {
            Ok(None) => false,
            Ok(Some(fence)) => {
                fence.record().is_none_or(|record| record.run == self.run || Some(record.since) == self.since)
            }
            Err(_) => true,
        }
    }
}

struct Supervisor {
    layout: Layout,
    _lock: Lock,
    wake_ups: [UnixStream; 2],
    lease: Option<Lease>,
    state: State,
    stop_timeout: Duration,
    main: ProcessId,
    exit: Option<Exit>,
    stop: Option<Stop>,
}

/// The stop of the service that is in progress.
struct Stop {
    /// When remaining processes are killed.
    kill_at: Instant,
    /// Whether the processes that outlived the main process have got SIGTERM.
    leftovers_asked: bool,
    force: Force,
    /// Those processes, and their names for people.
    leftovers: Vec<(ProcessId, String)>,
}

impl Supervisor {
    fn until_the_end(mut self) -> Outcome<()> {
        loop {
            self.wait()?;
            let childless = self.reap();
            if interrupt::arrived().is_some() {
                self.ask_to_end();
            }
            self.check_lease();
            if childless {
                return self.finish();
            }
            if self.exit.is_some() {
                self.ask_leftovers_to_end();
            }
            self.kill_overdue();
        }
    }

    /// Waits for an event or for the next deadline.
    fn wait(&self) -> Outcome<()> {
        let mut watched: Vec<PollFd<'_>> =
            self.wake_ups.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        watched.extend(self.lease.iter().map(|lease| PollFd::new(&lease.holder, PollFlags::IN)));
        let now = clock::monotonic();
        let timeout = self.stop.as_ref().map(|stop| {
            let wait = match stop.kill_at.checked_duration_since(now) {
                Some(left) if !left.is_zero() => left,
                _ if now > stop.kill_at + strays::PATIENCE => HANGING_TICK,
                _ => KILL_TICK,
            };
            Timespec::try_from(wait).unwrap_or_default()
        });
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(Failure::new("the supervisor cannot watch its service").because(error));
            }
        }
        for mut stream in &self.wake_ups {
            while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        }
        Ok(())
    }

    /// Reaps every descendant that has ended. Returns whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status)))
                    if pid.as_raw_nonzero().get() == self.main.pid && self.exit.is_none() =>
                {
                    self.exit = ExitKind::from_status(status).map(|how| Exit { how, at: clock::now() });
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Sends SIGTERM to the main process and its group, once.
    fn ask_to_end(&mut self) {
        if self.stop.is_some() {
            return;
        }
        // It is not reaped yet: the number still belongs to the service.
        if self.exit.is_none()
            && let Some(group) = Pid::from_raw(self.main.pid)
        {
            let _ = kill_process_group(group, Signal::TERM);
            // A stopped process (SIGSTOP) would not react to it.
            let _ = kill_process_group(group, Signal::CONT);
        }
        self.begin_stop(read_stop_timeout(&self.layout).unwrap_or(self.stop_timeout));
    }

    fn begin_stop(&mut self, timeout: Duration) {
        let kill_at = clock::monotonic() + timeout;
        self.stop =
            Some(Stop { kill_at, leftovers_asked: false, force: Force::Asked, leftovers: Vec::new() });
        self.state.stage = Stage::Stopping;
        // If it cannot be written, the lock still shows that there is a supervisor.
        let _ = self.state.write(&self.layout);
    }

    /// Stops the service if the refresh that admitted it has ended and the fence still stands (RW-7.1a).
    fn check_lease(&mut self) {
        if let Some(lease) = self.lease.take_if(|lease| !lease.holder.id().is_alive())
            && lease.is_broken(&self.layout)
        {
            self.ask_to_end();
        }
    }

    /// Sends SIGTERM to the processes that outlived the main process, once, and with a short limit.
    fn ask_leftovers_to_end(&mut self) {
        if self.stop.is_none() {
            self.begin_stop(LEFTOVER_GRACE);
        }
        let Some(stop) = &mut self.stop else { return };
        // If the tree was killed with its main process, the remaining processes are already ending.
        if std::mem::replace(&mut stop.leftovers_asked, true) || stop.force == Force::Killed {
            return;
        }
        let left = tree::descendants(self.state.supervisor.pid);
        stop.note(&left);
        strays::signal_all(&left, Signal::TERM);
        strays::signal_all(&left, Signal::CONT);
        stop.kill_at = stop.kill_at.min(clock::monotonic() + LEFTOVER_GRACE);
    }

    /// Kills the tree when its time is over, repeatedly until it has ended.
    fn kill_overdue(&mut self) {
        let Some(stop) = self.stop.as_mut().filter(|stop| clock::monotonic() >= stop.kill_at) else { return };
        let left = tree::descendants(self.state.supervisor.pid);
        if left.is_empty() {
            return;
        }
        if stop.force == Force::Asked {
            stop.force = if self.exit.is_none() { Force::Killed } else { Force::LeftoversKilled };
        }
        if stop.force == Force::LeftoversKilled {
            stop.note(&left);
        }
        strays::signal_all(&left, Signal::KILL);
    }

    fn finish(mut self) -> Outcome<()> {
        let (force, leftovers) =
            self.stop.map_or((Force::Asked, Vec::new()), |stop| (stop.force, stop.leftovers));
        let leftovers = leftovers.into_iter().map(|(_, name)| name).collect();
        self.state.stage = Stage::ChildEnd { exit: self.exit, force, leftovers };
        self.state.write(&self.layout)
    }
}

impl Stop {
    fn note(&mut self, processes: &[ProcessId]) {
        for process in processes {
            if !self.leftovers.iter().any(|(known, _)| known == process) {
                self.leftovers.push((*process, strays::describe(*process)));
            }
        }
    }
}
