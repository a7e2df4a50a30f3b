//! The health check of a started service (RW-5.5): requests until it answers well, a watch while it settles, and the proof
//! that it is the new one. The requests are those of [`super::probe`].

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::probe::asker::Asker;
use super::probe::question::{NO_ANSWER, REQUEST};
use super::probe::{ProbeResult, ResolvedProbe};
use super::{Running, ServiceManager, ServiceState, Started};
use refresh_programs::process::{ExitKind, Handle, ProcessId};
use refresh_programs::units::Units;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{clock, interrupt};

/// The shortest pause between two requests while the service is not healthy yet.
const TICK: Duration = Duration::from_millis(20);
/// The longest of those pauses: they grow with the time that the start has taken.
const LONG_TICK: Duration = Duration::from_millis(50);
/// The pause between two requests while the service settles.
const SETTLE_TICK: Duration = Duration::from_millis(200);
/// The limit for the manager to report how a dead service ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A service that answered well and stayed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healthy {
    /// When it answered well for the first time: the downtime ends here.
    pub first_good: Instant,
    /// How long that took.
    pub took: Duration,
    /// The status of that answer.
    pub status: u16,
    /// How many requests were made until then.
    pub attempts: u32,
}

/// Asks a service that was just started until it answers well, then watches it for the settle time: it has to stay good,
/// to stay the same process, and not to be restarted.
///
/// # Errors
/// The service died, was restarted, did not answer well within the deadline, or did not stay good; or an interruption.
pub fn await_healthy(
    probe: &ResolvedProbe,
    units: &Units,
    service: &dyn ServiceManager,
    main: ProcessId,
) -> Outcome<Healthy> {
    let asking = Asking::begin(probe, units)?;
    let watch = Watch { probe, service, main, asking, began: clock::monotonic() };
    let healthy = watch.until_good()?;
    watch.while_it_settles(healthy.first_good)?;
    Ok(healthy)
}

struct Watch<'a> {
    probe: &'a ResolvedProbe,
    service: &'a dyn ServiceManager,
    main: ProcessId,
    asking: Asking,
    began: Instant,
}

/// The thread that asks, so that the death of the service and an interruption are seen at once. A request that it is in
/// the middle of when this is dropped ends with its limit.
struct Asking {
    limits: mpsc::Sender<Duration>,
    results: mpsc::Receiver<ProbeResult>,
}

impl Asking {
    fn begin(probe: &ResolvedProbe, units: &Units) -> Outcome<Self> {
        let (limits, wanted) = mpsc::channel();
        let (answers, results) = mpsc::channel();
        let (probe, units) = (probe.clone(), units.clone());
        let work = move || {
            let asker = match Asker::new(&probe, &units) {
                Ok(asker) => asker,
                Err(failure) => {
                    let _ = answers.send(ProbeResult::Bad { problem: failure.chain().join(": ") });
                    return;
                }
            };
            while let Ok(limit) = wanted.recv() {
                if answers.send(asker.ask(limit)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(work)
            .context(|| "cannot start a thread for the probe".to_owned())?;
        Ok(Self { limits, results })
    }
}

/// How a service is known to have ended.
enum How {
    Exit(ExitKind),
    Other(String),
}

impl Watch<'_> {
    fn until_good(&self) -> Outcome<Healthy> {
        let handle = Handle::open(self.main).ok_or_else(|| self.died())?;
        let deadline = self.began + self.probe.deadline;
        let mut attempts = 0;
        let mut last: Option<String> = None;
        loop {
            attempts += 1;
            let left = deadline.saturating_duration_since(clock::monotonic());
            let limit = REQUEST.min(left.max(TICK));
            let problem = match self.ask(&handle, limit)? {
                ProbeResult::Good { status } => {
                    let first_good = clock::monotonic();
                    let took = first_good.duration_since(self.began);
                    return Ok(Healthy { first_good, took, status, attempts });
                }
                // A request that the deadline cuts short reports less than the answer before it.
                ProbeResult::Bad { problem } if limit < REQUEST && problem.starts_with(NO_ANSWER) => last
                    .take()
                    .map_or_else(|| problem.clone(), |earlier| format!("{earlier}, then {problem}")),
                ProbeResult::Bad { problem } => problem,
            };
            if clock::monotonic() >= deadline {
                return Err(Failure::new(format!(
                    "the service did not answer well within {:.0?}",
                    self.probe.deadline
                ))
                .because(Failure::new(format!("last answer of {}: {problem}", self.probe.url))));
            }
            last = Some(problem);
            if handle.wait((self.began.elapsed() / 8).clamp(TICK, LONG_TICK)) {
                return Err(self.died());
            }
        }
    }

    fn while_it_settles(&self, since: Instant) -> Outcome<()> {
        let until = since + self.probe.settle;
        let first = self.the_same(None)?;
        let handle = Handle::open(self.main).ok_or_else(|| self.died())?;
        loop {
            let left = until.saturating_duration_since(clock::monotonic());
            if handle.wait(left.min(SETTLE_TICK)) {
                return Err(self.died());
            }
            let last = left <= SETTLE_TICK;
            if let ProbeResult::Bad { problem } = self.ask(&handle, REQUEST)? {
                return Err(Failure::new(format!(
                    "the service answered well and then, {:.1?} later, no more",
                    clock::monotonic().duration_since(since)
                ))
                .because(Failure::new(format!("last answer of {}: {problem}", self.probe.url))));
            }
            if last {
                return self.the_same(Some(&first)).map(|_| ());
            }
        }
    }

    /// Asks once; each request has its own connection.
    fn ask(&self, handle: &Handle, limit: Duration) -> Outcome<ProbeResult> {
        // Where the thread is gone there are no results either.
        let _ = self.asking.limits.send(limit);
        loop {
            interrupt::check()?;
            match self.asking.results.recv_timeout(TICK) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) if handle.wait(Duration::ZERO) => {
                    return Err(self.died());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Ok(ProbeResult::Bad {
                        problem: "the request failed within the probe".to_owned(),
                    });
                }
            }
        }
    }

    /// Checks that the manager knows the service as the process that was started, and as it was when first looked at.
    fn the_same(&self, first: Option<&Running>) -> Outcome<Running> {
        match self.service.observe()? {
            ServiceState::Running(running)
                if running.main == self.main && first.is_none_or(|first| *first == running) =>
            {
                Ok(running)
            }
            ServiceState::Running(running) => Err(self.with_outer_cause(Failure::new(format!(
                "the service was restarted: process {} instead of {}",
                running.main.pid, self.main.pid
            )))),
            _ => Err(self.died()),
        }
    }

    /// Returns the end of the main process, with how it ended as soon as the manager knows.
    fn died(&self) -> Failure {
        let after = clock::monotonic().duration_since(self.began);
        let until = clock::monotonic() + LAST_WORDS;
        let how = loop {
            match self.service.observe() {
                Ok(ServiceState::Stopped { last: Some(exit) }) => break How::Exit(exit.how),
                Ok(ServiceState::Running(running)) if running.main != self.main => {
                    break How::Other(format!("restarted as process {}", running.main.pid));
                }
                Ok(ServiceState::Changing { doing }) if clock::monotonic() > until => {
                    break How::Other(doing);
                }
                _ if clock::monotonic() > until => break How::Other("the reason is unknown".to_owned()),
                _ => clock::pause_regardless(Duration::from_millis(2)),
            }
        };
        let why = match how {
            How::Exit(ExitKind::Signal(15)) => {
                "ended by SIGTERM, which this run did not send: another command stopped it".to_owned()
            }
            How::Exit(how) => how.to_string(),
            How::Other(what) => what,
        };
        let died = Failure::new(format!("the service died {after:.1?} after its start ({why})"));
        self.with_outer_cause(died)
    }

    fn with_outer_cause(&self, failure: Failure) -> Failure {
        match self.service.outer_cause() {
            Ok(Some(cause)) => failure.because(cause),
            _ => failure,
        }
    }
}

/// Checks that the service is the one of `started`: the manager knows it as that invocation and that main process, the
/// main process belongs to the service and began no earlier than `not_before` (of [`clock::boot_ticks`], taken before the
/// start). The environment of a process proves nothing: a program may overwrite it.
///
/// # Errors
/// Something else runs, or the manager cannot be asked.
pub fn prove_new(service: &dyn ServiceManager, started: &Started, not_before: u64) -> Outcome<()> {
    let main = started.main;
    let refuse = |why: String| {
        Failure::new(format!("process {} is not the refreshed service", main.pid)).because(Failure::new(why))
    };
    match service.observe()? {
        ServiceState::Running(running) if running.main != main => {
            return Err(refuse(format!("the service is process {} now", running.main.pid)));
        }
        ServiceState::Running(running) if running.invocation != started.invocation => {
            return Err(refuse(format!(
                "the service is invocation {} now instead of {}",
                running.invocation, started.invocation
            )));
        }
        ServiceState::Running(_) => {}
        other => return Err(refuse(format!("the service is {other}"))),
    }
    prove_part(service, main, not_before).map_err(|why| {
        Failure::new(format!("process {} is not the refreshed service", main.pid)).because(why)
    })
}

/// Proves that a process is of the new service: it belongs to the service, and it is no older than the start.
///
/// # Errors
/// It is not, or the manager cannot be asked.
pub fn prove_part(service: &dyn ServiceManager, process: ProcessId, not_before: u64) -> Outcome<()> {
    if process.started < not_before {
        return Err(Failure::new("it started before this refresh started the service"));
    }
    if !service.owns(process)? {
        return Err(Failure::new(format!("it does not belong to {}", service.describe())));
    }
    Ok(())
}
