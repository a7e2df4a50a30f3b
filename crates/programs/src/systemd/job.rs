//! Jobs: what systemd does when it is asked to start or stop something, awaited by their results.
//!
//! A caller that awaits a job listens for its end before it is enqueued, and knows it by its path. Signals can be lost (systemd
//! may be executed again meanwhile), so while nothing is heard the unit itself is asked now and then whether it still has
//! the job. Nothing here waits for ever, and nothing is left running: dropping a job ends the subscription.

use std::fmt;
use std::time::{Duration, Instant};

use zvariant::OwnedObjectPath;

use super::connection::JOB_REMOVED;
use super::unit::unit_object;
use super::{Bus, CallError, DESTINATION, MANAGER, MANAGER_INTERFACE, refused};
use refresh_system::error::{Failure, Outcome};
use refresh_system::{clock, interrupt};

/// How often a waiting caller checks for an interruption.
const TICK: Duration = Duration::from_millis(50);
/// After how long without a signal the unit is asked whether it still has the job.
const DOUBT: Duration = Duration::from_millis(500);

/// What is to become of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is started, where it does not run.
    Start,
    /// It is stopped, where it runs.
    Stop,
    /// Stop it and start it, with what is part of it.
    Restart,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// It did what it was to do.
    Done,
    /// Another job took its place.
    Canceled,
    /// It took longer than the unit allows.
    Timeout,
    /// It failed; the unit's own result says how.
    Failed,
    /// What the unit needs could not be started.
    Dependency,
    /// An assertion of the unit does not hold.
    Assert,
    /// Something rarer, in systemd's word.
    Other(String),
    /// It is gone, and its signal was not heard: only the unit's state shows its effect.
    Unheard,
}

impl JobResult {
    fn of(word: &str) -> Self {
        match word {
            "done" => Self::Done,
            "canceled" => Self::Canceled,
            "timeout" => Self::Timeout,
            "failed" => Self::Failed,
            "dependency" => Self::Dependency,
            "assert" => Self::Assert,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "it is done",
            Self::Canceled => "another request took its place",
            Self::Timeout => "it took longer than the unit allows",
            Self::Failed => "it failed",
            Self::Dependency => "a unit that it needs could not be started",
            Self::Assert => "an assertion of the unit does not hold",
            Self::Other(word) => return write!(f, "systemd calls it {word}"),
            Self::Unheard => "its result is unknown",
        })
    }
}

/// A job that is in progress.
pub struct Job<'a> {
    bus: &'a Bus,
    unit_path: String,
    path: OwnedObjectPath,
    _signals: JobSignals<'a>,
    asked: Instant,
}

/// The subscription to the ends of the jobs of one unit.
struct JobSignals<'a> {
    bus: &'a Bus,
    rule: String,
}

impl Drop for JobSignals<'_> {
    fn drop(&mut self) {
        self.bus.connection.ignore(&self.rule);
    }
}

impl Bus {
    /// Asks systemd to start or stop a unit; in the place of whatever is being done with it.
    ///
    /// # Errors
    /// systemd refuses, or there is no such unit.
    pub fn enqueue(&self, verb: Verb, unit: &str) -> Outcome<Job<'_>> {
        let (method, context) = match verb {
            Verb::Start => ("StartUnit", format!("systemd does not start {unit}")),
            Verb::Stop => ("StopUnit", format!("systemd does not stop {unit}")),
            Verb::Restart => ("RestartUnit", format!("systemd does not restart {unit}")),
        };
        let job = || {
            let unit_path = unit_object(unit);
            let signals = self.job_signals(unit)?;
            // Only subscribers get signals of jobs that another request has been merged into.
            self.subscribe()?;
            let path = self.call_manager(method, &(unit, "replace"))?;
            Ok(Job { bus: self, unit_path, path, _signals: signals, asked: clock::monotonic() })
        };
        job().map_err(|failure: Failure| Failure::new(context).because(failure))
    }

    /// Starts a unit and waits for it, at most for `limit`.
    ///
    /// # Errors
    /// It was not started; the job's result says why.
    pub fn start(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.enqueue(Verb::Start, unit)?.finish(&format!("{unit} was not started"), limit)
    }

    /// Stops a unit and waits for it, at most for `limit`.
    ///
    /// # Errors
    /// It was not stopped; the job's result says why.
    pub fn stop(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.enqueue(Verb::Stop, unit)?.finish(&format!("{unit} was not stopped"), limit)
    }

    /// Restarts a unit and waits for it, at most for `limit`. What is part of it restarts with it, which a stop and a start
    /// would leave stopped.
    ///
    /// # Errors
    /// It was not restarted; the job's result says why.
    pub fn restart(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.enqueue(Verb::Restart, unit)?.finish(&format!("{unit} was not restarted"), limit)
    }

    /// Subscribes this connection to the ends of jobs.
    pub(super) fn subscribe(&self) -> Outcome<()> {
        match self.call_manager_once::<_, ()>("Subscribe", &()) {
            Err(CallError::Refused { name, .. }) if name.ends_with(".AlreadySubscribed") => Ok(()),
            Err(error) if !super::is_away(&error) => Err(refused(error)),
            // systemd is just being executed again: lost signals are replaced by questions.
            _ => Ok(()),
        }
    }

    /// Listens for the ends of the jobs of one unit.
    fn job_signals(&self, unit: &str) -> Outcome<JobSignals<'_>> {
        let rule = format!(
            "type='signal',sender='{DESTINATION}',path='{MANAGER}',interface='{MANAGER_INTERFACE}',\
             member='{JOB_REMOVED}',arg2='{unit}'"
        );
        self.connection.listen(&rule).map_err(refused)?;
        Ok(JobSignals { bus: self, rule })
    }
}

impl Job<'_> {
    /// Waits for the end of the job, at most for `limit`; `None` while it is still in progress.
    ///
    /// # Errors
    /// The connection to systemd is gone.
    pub fn wait(&mut self, limit: Duration) -> Outcome<Option<JobResult>> {
        let end = clock::monotonic() + limit;
        loop {
            if let Some(result) = self.heard(end.min(self.asked + DOUBT))? {
                return Ok(Some(result));
            }
            if clock::monotonic() >= self.asked + DOUBT {
                // While systemd is busy with itself it cannot be asked; the signal is still to come then.
                let has_it = self.bus.job_of(&self.unit_path).map(|job| job == self.number());
                self.asked = clock::monotonic();
                if let Ok(false) = has_it {
                    return Ok(Some(self.heard(self.asked + TICK)?.unwrap_or(JobResult::Unheard)));
                }
            }
            if clock::monotonic() >= end {
                return Ok(None);
            }
        }
    }

    /// Waits for the end of a job that has to be done; an interruption ends the wait and not the job.
    fn finish(mut self, context: &str, limit: Duration) -> Outcome<()> {
        let end = clock::monotonic() + limit;
        loop {
            match self.wait(TICK)? {
                Some(JobResult::Done | JobResult::Unheard) => return Ok(()),
                Some(other) => return Err(Failure::new(context).because(Failure::new(other.to_string()))),
                None if clock::monotonic() >= end => {
                    let late = Failure::new(format!("systemd has not done it in {limit:.0?}"));
                    return Err(Failure::new(context).because(late.command("systemctl list-jobs", &[])));
                }
                None => interrupt::check()?,
            }
        }
    }

    /// The number that the path of a job ends in.
    fn number(&self) -> Option<u32> {
        self.path.rsplit('/').next()?.parse().ok()
    }

    /// Listens until this job has ended, or until `end`.
    fn heard(&self, end: Instant) -> Outcome<Option<JobResult>> {
        Ok(self.bus.connection.await_job(&self.path, end)?.map(|word| JobResult::of(&word)))
    }
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_is_not_known_keeps_systemds_word() {
        assert_eq!(JobResult::of("done"), JobResult::Done);
        assert!(JobResult::of("collected").to_string().contains("collected"));
    }
}
