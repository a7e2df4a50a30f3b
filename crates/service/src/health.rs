//! The health check of a started service (RW-5.5): requests until a good answer, a watch while the service settles, and
//! the check that it is the new one. The requests are those of [`super::probe`].

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::probe::asker::Asker;
use super::probe::question::{NO_ANSWER, REQUEST};
use super::probe::{ProbeResult, ResolvedProbe};
use super::{Running, ServiceManager, ServiceState, Started};
use refresh_programs::process::{ExitKind, Handle, ProcessId};
use refresh_programs::units::Units;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::duration;
use refresh_system::{clock, interrupt};

/// The shortest pause between two requests while the service is not healthy yet.
const TICK: Duration = Duration::from_millis(20);
/// The longest of those pauses: they grow with the duration of the start.
const LONG_TICK: Duration = Duration::from_millis(50);
/// The pause between two requests while the service settles.
const SETTLE_TICK: Duration = Duration::from_millis(200);
/// The limit for the manager to report how a dead service ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The beginning of the failure of a service that still runs at the deadline.
pub const LATE: &str = "the service did not answer well within";

/// A service that gave a good answer and stayed healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healthy {
    /// The time of the first good answer: the downtime ends here.
    pub first_good: Instant,
    /// The time until then.
    pub took: Duration,
    /// The status of that answer.
    pub status: u16,
    /// The number of requests until then.
    pub attempts: u32,
}

/// Sends requests to a newly started service until it gives a good answer, then watches it for the settle time. It must
/// stay healthy, stay the same process, and not be restarted.
///
/// # Errors
/// The service died, was restarted, gave no good answer within the deadline, or did not stay healthy; or the run was
/// interrupted.
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

/// The thread that sends the requests. The caller thus notices the death of the service and an interruption
/// immediately. A request in progress when this is dropped ends with its limit.
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

/// The evidence that a service has ended.
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
                // A request that the deadline cuts short has less information than the answer before it.
                ProbeResult::Bad { problem } if limit < REQUEST && problem.starts_with(NO_ANSWER) => last
                    .take()
                    .map_or_else(|| problem.clone(), |earlier| format!("{earlier}, then {problem}")),
                ProbeResult::Bad { problem } => problem,
            };
            if clock::monotonic() >= deadline {
                return Err(Failure::new(format!("{LATE} {:.0?}", self.probe.deadline))
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
                let after = clock::monotonic().duration_since(since);
                // A service that is stopped closes its socket before its process ends.
                if handle.wait(LAST_WORDS) {
                    return Err(self.died());
                }
                let what = format!(
                    "the service answered well and then, {} later, no more",
                    duration(clock::millis(after))
                );
                let problem = Failure::new(format!("last answer of {}: {problem}", self.probe.url));
                return Err(self.with_outer_cause(Failure::new(what).because(problem)));
            }
            if last {
                return self.the_same(Some(&first)).map(|_| ());
            }
        }
    }

    /// Sends one request; each request has its own connection.
    fn ask(&self, handle: &Handle, limit: Duration) -> Outcome<ProbeResult> {
        // If the thread has ended, there are no results either.
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

    /// Checks that, for the manager, the service still is the started process, unchanged since the first observation.
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

    /// Returns the end of the main process, with its exit status as soon as the manager reports it.
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
                _ => clock::sleep_uninterrupted(Duration::from_millis(2)),
            }
        };
        let why = match how {
            How::Exit(ExitKind::Signal(15)) => {
                "ended by SIGTERM, which this run did not send: another command stopped it".to_owned()
            }
            How::Exit(how) => how.to_string(),
            How::Other(what) => what,
        };
        let died = Failure::new(format!(
            "the service died {} after its start ({why})",
            duration(clock::millis(after))
        ));
        self.with_outer_cause(died)
    }

    fn with_outer_cause(&self, failure: Failure) -> Failure {
        match self.service.outer_cause() {
            Ok(Some(cause)) => failure.because(cause),
            _ => failure,
        }
    }
}

/// Checks that the service is the one of `started`: the manager reports that invocation and that main process, the main
/// process belongs to the service and began no earlier than `not_before` (of [`clock::boot_ticks`], taken before the
/// start). The environment of a process is no evidence: a program may overwrite it.
///
/// # Errors
/// Something else runs, or the manager cannot be queried.
pub fn check_new(service: &dyn ServiceManager, started: &Started, not_before: u64) -> Outcome<()> {
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
    check_part(service, main, not_before).map_err(|why| {
        Failure::new(format!("process {} is not the refreshed service", main.pid)).because(why)
    })
}

/// Checks that a process belongs to the new service: it is part of the service, and not older than the start.
///
/// # Errors
/// It does not belong to it, or the manager cannot be queried.
pub fn check_part(service: &dyn ServiceManager, process: ProcessId, not_before: u64) -> Outcome<()> {
    if process.started < not_before {
        return Err(Failure::new("it started before this refresh started the service"));
    }
    if !service.owns(process)? {
        return Err(Failure::new(format!("it does not belong to {}", service.describe())));
    }
    Ok(())
}
