//! A unit that was started beforehand and answers later, several times. Starting a sandbox takes 60 to 140 ms; a request
//! to one that waits takes none of them.
//!
//! Until the stop the service runs with the same user, and may end or halt such a process. So a request resumes it, and
//! where it is gone a fresh one is started and asked again.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::inside::Work;
use super::{Job, Units};
use crate::clock;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::watch::{self, GRACE, Started, Stream, Wanted};
use crate::process::worker::Answer;
use crate::process::{Keep, interrupt};

/// How often a fresh unit is started for one request.
const FRESH: usize = 3;

/// A unit that waits for requests. Dropping it ends the unit.
#[derive(Debug)]
pub struct Waiting {
    units: Units,
    job: Job,
    operation: String,
    /// The request that a fresh unit is asked first.
    first: Vec<u8>,
    process: Option<Process>,
    fresh_started: usize,
}

#[derive(Debug)]
struct Process {
    started: Started,
    out: Stream,
    err: Stream,
}

impl Waiting {
    /// Starts the unit and waits until it has answered `first`, whose response is dropped.
    pub(super) fn start(units: &Units, job: &Job, operation: &str, first: Vec<u8>) -> Outcome<Self> {
        let mut waiting = Self {
            units: units.clone(),
            job: job.clone(),
            operation: operation.to_owned(),
            first,
            process: None,
            fresh_started: 0,
        };
        waiting.begin()?;
        Ok(waiting)
    }

    /// Asks the unit and returns its response. The operation may be done twice: the unit may be ended by others while it
    /// works, and a fresh one does it again.
    ///
    /// # Errors
    /// The operation's own failure; the deadline of the job has passed; or no unit lives long enough to answer.
    pub fn ask<Q: Serialize, A: DeserializeOwned>(&mut self, request: &Q) -> Outcome<A> {
        let told = || format!("cannot ask the waiting unit for {}", self.operation);
        let line = serde_json::to_vec(request).context(told)?;
        for attempt in 0..=FRESH {
            if !self.is_alive() {
                self.fresh_started += 1;
                self.begin()?;
            } else if attempt == 0
                && let Some(process) = &self.process
            {
                process.started.subject.resume();
            }
            if let Some(response) = self.exchange(&line)? {
                return Answer::read(&response, &self.operation);
            }
        }
        Err(Failure::new(format!("the waiting unit for {} was ended {FRESH} times", self.operation)))
    }

    /// Tells whether the unit lives.
    pub fn is_alive(&self) -> bool {
        let Some(process) = &self.process else { return false };
        let mut watched = [PollFd::from_borrowed_fd(process.started.subject.life(), PollFlags::IN)];
        matches!(poll(&mut watched, Some(&Timespec::default())), Ok(0))
    }

    /// Returns how many fresh units had to be started in the place of ones that others ended.
    pub fn fresh_started(&self) -> usize {
        self.fresh_started
    }

    /// Ends the unit and returns when it is gone.
    pub fn end(mut self) {
        self.finish();
    }

    fn begin(&mut self) -> Outcome<()> {
        self.finish();
        let work = Work::AnswerEach(self.operation.clone());
        let started = self.units.start_waiting(&self.job, &self.operation, work)?;
        let keep = Keep::Response { limit: self.job.output, narrate: self.job.narrate.clone() };
        let (out, err) = Stream::pair(&keep);
        self.process = Some(Process { started, out, err });
        let first = self.first.clone();
        match self.exchange(&first)? {
            Some(response) => Answer::<IgnoredAny>::read(&response, &self.operation).map(drop),
            None => Err(self.died()),
        }
    }

    /// Sends a line and returns the line that comes back; `None` where the process ended before.
    fn exchange(&mut self, request: &[u8]) -> Outcome<Option<Vec<u8>>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let mut pending = request.to_vec();
        pending.push(b'\n');
        let end = clock::monotonic() + self.job.deadline;
        loop {
            interrupt::check()?;
            if let Some(line) = process.out.take_line() {
                return Ok(Some(line));
            }
            if clock::monotonic() > end {
                self.kill();
                let (operation, deadline) = (&self.operation, self.job.deadline);
                return Err(Failure::new(format!(
                    "{operation} was ended after its deadline of {deadline:?}"
                )));
            }
            if !process.step(&mut pending, &self.units)? {
                return Ok(None);
            }
        }
    }

    fn died(&mut self) -> Failure {
        let process = self.process.take();
        let said = process.map(|process| process.err.into_kept()).unwrap_or_default();
        let failure = Failure::new(format!("the waiting unit for {} ended at once", self.operation));
        let said: Vec<String> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
        if said.is_empty() { failure } else { failure.because(Failure::written(&said, "")) }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.started.subject.collect();
        }
    }

    /// Closes the input, which ends the process, and gives it a moment before it is killed.
    fn finish(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.started.stdin.take());
            let end = clock::monotonic() + GRACE;
            let mut life = [PollFd::from_borrowed_fd(process.started.subject.life(), PollFlags::IN)];
            let left = Timespec::try_from(end.saturating_duration_since(clock::monotonic()));
            let _ = poll(&mut life, Some(&left.unwrap_or_default()));
            let _ = process.started.subject.collect();
        }
    }
}

impl Process {
    /// Writes, reads or waits once; tells whether the process can still answer.
    fn step(&mut self, pending: &mut Vec<u8>, units: &Units) -> Outcome<bool> {
        let started = &mut self.started;
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
            // A page is what a pipe that is ready takes without blocking.
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
