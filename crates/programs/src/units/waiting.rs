//! A unit that was started in advance and answers later, several times. Starting a sandbox takes 60 to 140 ms; a
//! request to a waiting one does not.
//!
//! Until the stop the service runs with the same user, and can end or halt such a process repeatedly. So it is not a
//! failure if others end a unit before its first answer: the next request starts one. A request resumes the unit, and
//! if it has ended, a fresh one is started and gets the request again.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::context::UnitContext;
use super::inside::Work;
use super::running::Running;
use super::start::start;
use super::{Role, UnitOptions};
use crate::process::watch;
use crate::process::watch::{GRACE, Stream, Wanted};
use crate::process::worker::Answer;
use crate::process::{ChildEnd, Keep};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{clock, interrupt};

/// How often a unit is started for one request, or in advance.
const STARTS: usize = 3;
/// How long all starts in advance may take until the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// How often a silent unit is resumed, which others may have halted.
const RESUME_EVERY: Duration = Duration::from_millis(500);

/// A unit that waits for requests. Dropping it ends the unit.
#[derive(Debug)]
pub struct Waiting {
    units: UnitContext,
    options: UnitOptions,
    operation: String,
    /// The first request to a fresh unit.
    first: Vec<u8>,
    process: Option<Process>,
    fresh_started: usize,
}

/// The result of a request.
enum Exchange {
    Answered(Vec<u8>),
    /// The process ended before it had answered.
    ChildEnd,
    /// The time was over, and the process was killed.
    Late,
}

#[derive(Debug)]
struct Process {
    running: Running,
    out: Stream,
    err: Stream,
}

impl Waiting {
    /// Starts the unit and waits until it has answered `first`, whose response is dropped. If others end each unit
    /// before that, the next request starts one, and a warning names them.
    pub(super) fn start(
        units: &UnitContext,
        options: &UnitOptions,
        operation: &str,
        first: Vec<u8>,
    ) -> Outcome<Self> {
        let mut waiting = Self {
            units: units.clone(),
            options: options.clone(),
            operation: operation.to_owned(),
            first,
            process: None,
            fresh_started: 0,
        };
        let end = clock::monotonic() + FIRST_ANSWER.min(options.deadline);
        for _ in 0..STARTS {
            if waiting.begin(end)? {
                return Ok(waiting);
            }
        }
        let events = waiting.units.runner.events();
        let by = waiting.units.user_name(options.role);
        events.warn(&format!(
            "the unit that waits for {operation} was ended {STARTS} times, perhaps by a process of {by}: it starts when it is needed"
        ));
        Ok(waiting)
    }

    /// Sends a request to the unit and returns its response. The operation may be done twice: others can end the unit
    /// while it works, and a fresh one does the work again.
    ///
    /// # Errors
    /// The operation's own failure; the deadline of the unit has passed; or no unit lives long enough to answer.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, request: &Q) -> Outcome<A> {
        self.ask_within(self.options.deadline, request)
    }

    /// Sends a request as [`Self::ask`] does, and waits for `limit` at most.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_within<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        limit: Duration,
        request: &Q,
    ) -> Outcome<A> {
        let context = || format!("cannot ask the waiting unit for {}", self.operation);
        let line = serde_json::to_vec(request).context(context)?;
        let operation = self.operation.clone();
        let response = self.ask_line(&operation, &line, limit)?;
        Answer::read(&response, &operation)
    }

    /// Sends a line for `operation` and returns the line that answers it, at most `deadline` later.
    ///
    /// # Errors
    /// As [`Self::ask`], except the operation's own failure, which is an answer.
    pub(super) fn ask_line(&mut self, operation: &str, line: &[u8], deadline: Duration) -> Outcome<Vec<u8>> {
        let end = clock::monotonic() + deadline;
        for _ in 0..=STARTS {
            if !self.is_alive() {
                self.fresh_started += 1;
                if !self.begin(end)? {
                    continue;
                }
            }
            match self.exchange(line, end)? {
                Exchange::Answered(response) => return Ok(response),
                Exchange::ChildEnd => {}
                Exchange::Late => {
                    return Err(Failure::new(format!(
                        "{operation} was ended after its deadline of {deadline:?}"
                    )));
                }
            }
        }
        Err(self.units.ended_by_others(&self.options, operation, self.fresh_started))
    }

    /// Returns whether the unit is alive.
    pub fn is_alive(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let mut watched = [PollFd::from_borrowed_fd(process.running.started.subject.life(), PollFlags::IN)];
        matches!(poll(&mut watched, Some(&Timespec::default())), Ok(0))
    }

    /// Returns the name of the unit, if it is alive and systemd runs it.
    pub fn unit(&self) -> Option<&str> {
        self.process.as_ref()?.running.unit.as_deref()
    }

    /// Returns how many fresh units had to be started in place of units that others ended.
    pub fn fresh_started(&self) -> usize {
        self.fresh_started
    }

    /// Ends the unit and returns after its end.
    pub fn end(mut self) {
        self.finish();
    }

    /// Ends the unit of systemd without waiting for its end.
    pub(super) fn leave(mut self) {
        self.process = None;
    }

    /// Starts a unit and waits, at most until `end`, for its first answer; returns `true` if it came. If it did not,
    /// others have ended or halted the unit, and no unit is left.
    ///
    /// # Errors
    /// The unit cannot be started, ends without a signal, or fails to answer.
    fn begin(&mut self, end: Instant) -> Outcome<bool> {
        self.finish();
        let work = Work::AnswerEach(self.operation.clone());
        let running = start(&self.units, &self.options, &self.operation, work, None)?;
        let keep = Keep::Response { limit: self.options.output, narrate: self.options.narrate.clone() };
        let (out, err) = Stream::pair(&keep);
        self.process = Some(Process { running, out, err });
        let first = self.first.clone();
        match self.exchange(&first, end)? {
            Exchange::Answered(response) => {
                Answer::<IgnoredAny>::read(&response, &self.operation).map(|_| true)
            }
            Exchange::ChildEnd => self.was_ended_by_others().map(|()| false),
            Exchange::Late => Ok(false),
        }
    }

    /// Sends a line and returns the answering line.
    fn exchange(&mut self, request: &[u8], end: Instant) -> Outcome<Exchange> {
        let Some(process) = &mut self.process else { return Ok(Exchange::ChildEnd) };
        let mut pending = request.to_vec();
        pending.push(b'\n');
        // A silent unit is resumed later. The unit for the stop must not wait for that.
        if self.options.role == Role::Align {
            process.running.started.subject.resume();
        }
        let mut resumed = clock::monotonic();
        loop {
            interrupt::check()?;
            if let Some(line) = process.out.take_line() {
                return Ok(Exchange::Answered(line));
            }
            let now = clock::monotonic();
            if now > end {
                self.kill();
                return Ok(Exchange::Late);
            }
            if now.duration_since(resumed) > RESUME_EVERY {
                process.running.started.subject.resume();
                resumed = now;
            }
            if !process.step(&mut pending, &self.units)? {
                return Ok(Exchange::ChildEnd);
            }
        }
    }

    /// Collects a unit that ended before its answer.
    ///
    /// # Errors
    /// It ended without a signal: it would end again.
    fn was_ended_by_others(&mut self) -> Outcome<()> {
        let Some(Process { mut running, err, .. }) = self.process.take() else { return Ok(()) };
        if let ChildEnd::Signalled(_) = running.started.subject.collect()? {
            return Ok(());
        }
        let failure = Failure::new(format!("the waiting unit for {} ended at once", self.operation));
        let kept = err.into_kept();
        let written: Vec<String> = String::from_utf8_lossy(&kept).lines().map(str::to_owned).collect();
        Err(if written.is_empty() { failure } else { failure.because(Failure::written(&written, "")) })
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.running.started.subject.kill();
            let _ = process.running.started.subject.collect();
        }
    }

    /// Closes the input, which ends the process, and waits for a moment before it kills the process.
    fn finish(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.running.started.stdin.take());
            let end = clock::monotonic() + GRACE;
            let mut life = [PollFd::from_borrowed_fd(process.running.started.subject.life(), PollFlags::IN)];
            let left = Timespec::try_from(end.saturating_duration_since(clock::monotonic()));
            let _ = poll(&mut life, Some(&left.unwrap_or_default()));
            let _ = process.running.started.subject.collect();
        }
    }
}

impl Process {
    /// Writes, reads or waits once; returns whether the process can still answer.
    fn step(&mut self, pending: &mut Vec<u8>, units: &UnitContext) -> Outcome<bool> {
        let started = &mut self.running.started;
        let nothing: BorrowedFd<'_> = started.stderr.as_fd();
        let stdin = started.stdin.as_ref().map_or(nothing, |stdin| stdin.as_fd());
        let wanted = [
            Wanted { fd: started.subject.life(), events: PollFlags::IN, matters: true },
            Wanted { fd: started.stdout.as_fd(), events: PollFlags::IN, matters: self.out.is_open() },
            Wanted { fd: started.stderr.as_fd(), events: PollFlags::IN, matters: self.err.is_open() },
            Wanted { fd: stdin, events: PollFlags::OUT, matters: !pending.is_empty() },
        ];
        let [ended, stdout, stderr, input] = watch::ready(&wanted, Duration::from_millis(50))?;
        if stderr && self.err.is_open() {
            self.err.read(&mut started.stderr, units.runner.events())?;
        }
        if stdout && self.out.is_open() {
            self.out.read(&mut started.stdout, units.runner.events())?;
            return Ok(true);
        }
        if ended {
            return Ok(false);
        }
        if input && let Some(stdin) = &mut started.stdin {
            // A pipe that is ready accepts a page without blocking.
            match stdin.write(&pending[..pending.len().min(4096)]) {
                Ok(count) => drop(pending.drain(..count)),
                Err(_) => return Ok(false),
            }
        }
        Ok(self.out.is_open())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.kill();
    }
}
