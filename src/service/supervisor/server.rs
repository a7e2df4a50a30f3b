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
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::launch::{Answer, Launch};
use super::log::{self, Log};
use super::socket::{self, SocketRequest};
use super::state::{Ending, Lock, Stage, State, Taken, boot, left_stop_timeout};
use super::tree;
use crate::clock;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Handle, ProcessId};
use crate::process::{detached, passing};
use crate::service::{Exit, ExitKind, Force, fence, strays};
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

/// How long descendants that outlived the main process have to end when asked.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);
/// How often the tree is killed again until it is gone.
const KILL_TICK: Duration = Duration::from_millis(3);
/// How often, when it hangs in the kernel.
const HANGING_TICK: Duration = Duration::from_millis(500);

/// Supervises one invocation of the service of `layout`: the request comes on standard input, one answer goes to standard
/// output, and then this process belongs to nobody until the service's last process is gone.
///
/// # Errors
/// The request cannot be read. Everything after that is told in the answer, the log and the state.
pub fn run_supervisor(layout: &Layout) -> Outcome<()> {
    let mut request = Vec::new();
    std::io::stdin().read_to_end(&mut request).context(|| "cannot read the request".to_owned())?;
    let launch: Launch =
        serde_json::from_slice(&request).context(|| "the request cannot be understood".to_owned())?;
    let answer;
    let supervisor = match begin(layout, launch) {
        Ok(Begun::Supervising(supervisor)) => {
            let invocation = supervisor.state.invocation.clone();
            answer = Answer::Started { main: supervisor.main, since: supervisor.since, invocation };
            Some(supervisor)
        }
        Ok(Begun::RunsAlready) => {
            answer = Answer::RunsAlready;
            None
        }
        Err(failure) => {
            answer = Answer::Refused(failure.message());
            None
        }
    };
    // A caller that is gone meanwhile does not hear it; with a lease that stops the service, without one it may run.
    let _ = serde_json::to_writer(std::io::stdout(), &answer);
    let _ = std::io::stdout().flush();
    let_go()?;
    match supervisor {
        Some(supervisor) => supervisor.until_the_end(),
        None => Ok(()),
    }
}

/// Lets go of the caller's streams.
fn let_go() -> Outcome<()> {
    let told = || "cannot let go of the caller".to_owned();
    let null = File::options().read(true).write(true).open("/dev/null").context(told)?;
    rustix::stdio::dup2_stdin(&null).context(told)?;
    rustix::stdio::dup2_stdout(&null).context(told)
}

enum Begun {
    Supervising(Box<Supervisor>),
    RunsAlready,
}

fn begin(layout: &Layout, mut launch: Launch) -> Outcome<Begun> {
    // In a session of its own no terminal's signals reach it. The process that starts a supervisor gives it one; a
    // supervisor that leads a session already cannot make another.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let bells = Bells::hang_up()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context(|| "cannot become the reaper of the service's processes".to_owned())?;
    let lock = match Lock::take(layout)? {
        Taken::Ours(lock) => lock,
        Taken::RunsAlready => return Ok(Begun::RunsAlready),
    };
    // Looked at with the lock held: whoever raises a fence and then looks for a supervisor either finds this one or has
    // raised the fence before this look.
    let lease = Lease::through_the_fence(layout)?;
    let mark = tree::mark(layout)?;
    let strays = tree::marked(&mark);
    if !strays.is_empty() {
        let names: Vec<String> = strays.iter().map(|process| strays::told(*process)).collect();
        return Err(Failure::new(format!(
            "processes of an earlier service still run, without their supervisor: {}",
            names.join(", ")
        ))
        .hint("ladylinux-refresh service stop"));
    }
    launch.program.variables.push((tree::SERVICE_MARK.into(), mark.into()));
    let own = ProcessId::own();
    let since = clock::now();
    let invocation = format!("{}-{}", since.strftime("%Y%m%dT%H%M%S%.6f"), own.pid);
    let mut state = State { boot: boot(), supervisor: own, invocation, stage: Stage::Starting };
    state.write(layout)?;
    let mut log = Log::open(&log::path(layout), launch.log, &state.invocation, since)?;
    let (output, theirs) = std::io::pipe().context(|| "cannot make a pipe for the log".to_owned())?;
    let started = socket(launch.socket)
        .and_then(|socket| detached::start_service(&launch.program, theirs.into(), socket));
    let main = match started {
        Ok(main) => main,
        Err(failure) => {
            log.say(&format!("service not started: {}", failure.chain().join(": ")));
            state.stage = Stage::Ended(Ending { exit: None, force: Force::Asked, leftovers: Vec::new() });
            state.write(layout)?;
            return Err(failure);
        }
    };
    let output: OwnedFd = output.into();
    let mut supervisor = Supervisor {
        layout: layout.clone(),
        _lock: lock,
        bells,
        lease,
        log,
        output: Some(File::from(output)),
        state,
        stop_timeout: launch.stop_timeout,
        main,
        since,
        exit: None,
        way_out: None,
    };
    supervisor.output_does_not_block();
    supervisor.state.stage = Stage::Running { main, since };
    if let Err(failure) = supervisor.state.write(layout) {
        // A service that nobody could find must not run.
        supervisor.ask_to_end();
        supervisor.until_the_end()?;
        return Err(failure);
    }
    Ok(Begun::Supervising(Box::new(supervisor)))
}

/// Returns the listening socket that the service gets. It is the service's alone from its start on: it closes with it.
fn socket(request: Option<SocketRequest>) -> Outcome<Option<OwnedFd>> {
    match request {
        None => Ok(None),
        Some(SocketRequest::Open(address)) => socket::open_first(address).map(Some),
        Some(SocketRequest::Passed) => passing::receive(std::io::stdout())
            .map(Some)
            .context(|| "cannot take the socket of the service".to_owned()),
    }
}

/// Signals, turned into descriptors that can be waited for.
struct Bells {
    stop: UnixStream,
    child: UnixStream,
    _hang_up: UnixStream,
}

impl Bells {
    fn hang_up() -> Outcome<Self> {
        let bell = |signals: &[i32]| -> Outcome<UnixStream> {
            let told = || "cannot handle signals".to_owned();
            let (ours, theirs) = UnixStream::pair().context(told)?;
            ours.set_nonblocking(true).context(told)?;
            for signal in signals {
                let end = theirs.try_clone().context(told)?;
                signal_hook::low_level::pipe::register(*signal, end).context(told)?;
            }
            Ok(ours)
        };
        Ok(Self { stop: bell(&[SIGTERM, SIGINT])?, child: bell(&[SIGCHLD])?, _hang_up: bell(&[SIGHUP])? })
    }
}

fn rang(mut bell: &UnixStream) -> bool {
    let mut any = false;
    let mut bytes = [0; 64];
    while bell.read(&mut bytes).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}

/// The bond to the refresh that admitted the service through the fence: while the fence stands, the service does not
/// outlive it.
struct Lease {
    run: RunId,
    /// Since when the fence stood at the start.
    since: Option<Timestamp>,
    holder: Handle,
}

impl Lease {
    /// Passes the fence: without one freely, with one by an admission only.
    fn through_the_fence(layout: &Layout) -> Outcome<Option<Self>> {
        let Some(fence) = fence::read(layout)? else { return Ok(None) };
        let Some(admission) = fence::admission(layout)? else { return Err(fence.refusal()) };
        match Handle::open(admission.process) {
            Some(holder) => {
                let since = fence.record().map(|record| record.since);
                Ok(Some(Self { run: admission.run, since, holder }))
            }
            None => Err(fence.refusal()),
        }
    }

    /// Tells, after the holder's end, whether the service is still unproved: its fence stands. A later run that finds it
    /// standing puts its own name on it and keeps the time; a fence of another time means that this one fell before.
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
    bells: Bells,
    lease: Option<Lease>,
    log: Log,
    output: Option<File>,
    state: State,
    stop_timeout: Duration,
    main: ProcessId,
    since: Timestamp,
    exit: Option<Exit>,
    way_out: Option<WayOut>,
}

/// The service on its way out.
struct WayOut {
    /// When what is left is killed.
    kill_at: Instant,
    /// Whether what outlived the main process has been asked to end.
    leftovers_asked: bool,
    force: Force,
    leftovers: Vec<ProcessId>,
    told: Vec<String>,
}

impl Supervisor {
    fn until_the_end(mut self) -> Outcome<()> {
        loop {
            self.wait()?;
            self.take_output();
            let childless = self.reap();
            if rang(&self.bells.stop) {
                self.ask_to_end();
            }
            self.look_at_the_lease();
            if childless {
                return self.finish();
            }
            if self.exit.is_some() {
                self.ask_leftovers_to_end();
            }
            self.kill_what_is_late();
        }
    }

    /// Waits until something happens or is due.
    fn wait(&self) -> Outcome<()> {
        let mut watched =
            vec![PollFd::new(&self.bells.stop, PollFlags::IN), PollFd::new(&self.bells.child, PollFlags::IN)];
        if let Some(output) = &self.output {
            watched.push(PollFd::new(output, PollFlags::IN));
        }
        if let Some(lease) = &self.lease {
            watched.push(PollFd::new(&lease.holder, PollFlags::IN));
        }
        let now = clock::monotonic();
        let timeout = self.way_out.as_ref().map(|way_out| {
            let wait = match way_out.kill_at.checked_duration_since(now) {
                Some(left) if !left.is_zero() => left,
                _ if now > way_out.kill_at + strays::PATIENCE => HANGING_TICK,
                _ => KILL_TICK,
            };
            Timespec::try_from(wait).unwrap_or_default()
        });
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Failure::new("the supervisor cannot watch its service").because(error)),
        }
    }

    fn output_does_not_block(&self) {
        if let Some(output) = &self.output {
            let _ = rustix::io::ioctl_fionbio(output, true);
        }
    }

    /// Moves what the service wrote into the log.
    fn take_output(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut bytes = [0; 8 << 10];
        // A bound: a service that floods its log must not keep its supervisor from everything else.
        for _ in 0..128 {
            match output.read(&mut bytes) {
                Ok(0) => {
                    self.output = None;
                    return;
                }
                Ok(count) => self.log.write(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Reaps every descendant that has ended; tells whether none is left.
    fn reap(&mut self) -> bool {
        rang(&self.bells.child);
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status)))
                    if pid.as_raw_nonzero().get() == self.main.pid && self.exit.is_none() =>
                {
                    self.exit = ExitKind::of(status).map(|how| Exit { how, at: clock::now() });
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Asks the main process and its group to end (SIGTERM); once.
    fn ask_to_end(&mut self) {
        if self.way_out.is_some() {
            return;
        }
        self.begin_way_out(left_stop_timeout(&self.layout).unwrap_or(self.stop_timeout));
        self.log.say("service asked to end");
        self.signal_main(Signal::TERM);
        // One that is held (SIGSTOP) would not hear it.
        self.signal_main(Signal::CONT);
        self.state.stage = Stage::Stopping { main: self.main };
        self.note_state();
    }

    fn begin_way_out(&mut self, timeout: Duration) {
        self.way_out = Some(WayOut {
            kill_at: clock::monotonic() + timeout,
            leftovers_asked: false,
            force: Force::Asked,
            leftovers: Vec::new(),
            told: Vec::new(),
        });
    }

    fn signal_main(&self, signal: Signal) {
        // Not reaped yet, or its group has other members: the number is still the service's own.
        if self.exit.is_none()
            && let Some(group) = Pid::from_raw(self.main.pid)
        {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Stops the service when the refresh that admitted it is gone and the fence still stands (RW-7.1a).
    fn look_at_the_lease(&mut self) {
        let Some(lease) = &self.lease else { return };
        if lease.holder.id().is_alive() {
            return;
        }
        let broken = lease.is_broken(&self.layout);
        let run = lease.run.clone();
        self.lease = None;
        if broken {
            self.log.say(&format!("refresh {run} ended before the service was proved; the fence stands"));
            self.ask_to_end();
        }
    }

    /// Asks what outlived the main process to end; once, and not for long.
    fn ask_leftovers_to_end(&mut self) {
        if self.way_out.is_none() {
            self.begin_way_out(LEFTOVER_GRACE);
            self.state.stage = Stage::Stopping { main: self.main };
            self.note_state();
        }
        let Some(way_out) = &mut self.way_out else { return };
        if way_out.leftovers_asked {
            return;
        }
        way_out.leftovers_asked = true;
        if way_out.force == Force::Killed {
            // The whole tree has been killed with its main process; what is still to be seen is on its way out.
            return;
        }
        let left = tree::descendants(self.state.supervisor.pid);
        way_out.note(&left);
        strays::signal_all(&left, Signal::TERM);
        strays::signal_all(&left, Signal::CONT);
        way_out.kill_at = way_out.kill_at.min(clock::monotonic() + LEFTOVER_GRACE);
    }

    /// Kills the whole tree when its time is over, again and again until it is gone.
    fn kill_what_is_late(&mut self) {
        let Some(way_out) = &mut self.way_out else { return };
        if clock::monotonic() < way_out.kill_at {
            return;
        }
        let left = tree::descendants(self.state.supervisor.pid);
        if left.is_empty() {
            return;
        }
        if way_out.force == Force::Asked {
            way_out.force = if self.exit.is_none() { Force::Killed } else { Force::LeftoversKilled };
            self.log.say("what is left of the service did not end in its time and is killed");
        }
        if way_out.force == Force::LeftoversKilled {
            way_out.note(&left);
        }
        strays::signal_all(&left, Signal::KILL);
    }

    fn finish(mut self) -> Outcome<()> {
        self.take_output();
        let how = self.exit.map_or_else(|| "unknown".to_owned(), |exit| exit.how.to_string());
        self.log.say(&format!("service ended: {how}"));
        let (force, leftovers) =
            self.way_out.take().map_or((Force::Asked, Vec::new()), |way_out| (way_out.force, way_out.told));
        self.state.stage = Stage::Ended(Ending { exit: self.exit, force, leftovers });
        self.state.write(&self.layout)
    }

    /// Writes the state down; where the disk refuses, the lock still tells that there is a supervisor.
    fn note_state(&mut self) {
        if let Err(failure) = self.state.write(&self.layout) {
            self.log.say(&failure.chain().join(": "));
        }
    }
}

impl WayOut {
    fn note(&mut self, processes: &[ProcessId]) {
        for process in processes {
            if !self.leftovers.contains(process) {
                self.leftovers.push(*process);
                self.told.push(strays::told(*process));
            }
        }
    }
}
