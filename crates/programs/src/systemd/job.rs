//! Jobs: the work of systemd after a request to start or stop a unit. Callers wait for their results.
//!
//! A caller that waits for a job subscribes to its end before it enqueues the job, and identifies it by its path.
//! Signals can be lost (systemd may be executed again meanwhile), so without a signal the unit itself is queried at
//! intervals whether it still has the job. No wait is unlimited, and no subscription remains: dropping a job ends it.

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
/// After how long without a signal the unit is queried whether it still has the job.
const DOUBT: Duration = Duration::from_millis(500);

/// The requested action for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start it, if it does not run.
    Start,
    /// Stop it, if it runs.
    Stop,
    /// Stop it and start it, with the units that are part of it.
    Restart,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum JobResult {
    /// It succeeded.
    Done,
    /// Another job replaced it.
    Canceled,
    /// It took longer than the unit allows.
    Timeout,
    /// It failed; the unit's own result has the reason.
    Failed,
    /// A unit that it needs could not be started.
    Dependency,
    /// An assertion of the unit does not hold.
    Assert,
    /// A rarer result, as systemd names it.
    #[strum(default)]
    Other(String),
    /// It no longer exists, and its signal was lost: only the unit's state shows its effect.
    #[strum(disabled)]
    Unheard,
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
    /// Requests a start or stop of a unit from systemd; this replaces a job in progress.
    ///
    /// # Errors
    /// systemd refuses, or the unit does not exist.
    pub fn enqueue(&self, verb: Verb, unit: &str) -> Outcome<Job<'_>> {
        let (method, context) = match verb {
            Verb::Start => ("StartUnit", format!("systemd does not start {unit}")),
            Verb::Stop => ("StopUnit", format!("systemd does not stop {unit}")),
            Verb::Restart => ("RestartUnit", format!("systemd does not restart {unit}")),
        };
        let job = || {
            let unit_path = unit_object(unit);
            let signals = self.job_signals(unit)?;
            // Only subscribers get signals of jobs that another request was merged into.
            self.subscribe()?;
            let path = self.call_manager(method, &(unit, "replace"))?;
            Ok(Job { bus: self, unit_path, path, _signals: signals, asked: clock::monotonic() })
        };
        job().map_err(|failure: Failure| Failure::new(context).because(failure))
    }

    /// Starts a unit and waits for it, at most for `limit`.
    ///
    /// # Errors
    /// It was not started; the failure contains the job's result.
    pub fn start(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.enqueue(Verb::Start, unit)?.finish(&format!("{unit} was not started"), limit)
    }

    /// Stops a unit and waits for it, at most for `limit`.
    ///
    /// # Errors
    /// It was not stopped; the failure contains the job's result.
    pub fn stop(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.enqueue(Verb::Stop, unit)?.finish(&format!("{unit} was not stopped"), limit)
    }

    /// Restarts a unit and waits for it, at most for `limit`. The units that are part of it restart with it; a stop and
    /// a start would leave them stopped.
    ///
    /// # Errors
    /// It was not restarted; the failure contains the job's result.
    pub fn restart(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.enqueue(Verb::Restart, unit)?.finish(&format!("{unit} was not restarted"), limit)
    }

    /// Subscribes this connection to the ends of jobs.
    pub(super) fn subscribe(&self) -> Outcome<()> {
        match self.call_manager_once::<_, ()>("Subscribe", &()) {
            Err(CallError::Refused { name, .. }) if name.ends_with(".AlreadySubscribed") => Ok(()),
            Err(error) if !super::is_away(&error) => Err(refused(error)),
            // systemd is just being executed again: queries replace lost signals.
            _ => Ok(()),
        }
    }

    /// Subscribes to the ends of the jobs of one unit.
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
    /// The connection to systemd is lost.
    pub fn wait(&mut self, limit: Duration) -> Outcome<Option<JobResult>> {
        let end = clock::monotonic() + limit;
        loop {
            if let Some(result) = self.heard(end.min(self.asked + DOUBT))? {
                return Ok(Some(result));
            }
            if clock::monotonic() >= self.asked + DOUBT {
                // While systemd is busy with itself, it cannot be queried; then the signal is still to come.
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

    /// Waits for the end of a job that must succeed; an interruption ends the wait and not the job.
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

    /// Returns the number at the end of a job's path.
    fn number(&self) -> Option<u32> {
        self.path.rsplit('/').next()?.parse().ok()
    }

    /// Waits for the signal of this job's end, until `end` at most.
    fn heard(&self, end: Instant) -> Outcome<Option<JobResult>> {
        Ok(self
            .bus
            .connection
            .await_job(&self.path, end)?
            .map(|word| word.parse().unwrap_or(JobResult::Unheard)))
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
    fn an_unknown_result_keeps_the_text_of_systemd() {
        assert_eq!("done".parse(), Ok(JobResult::Done));
        assert!("collected".parse::<JobResult>().unwrap().to_string().contains("collected"));
    }
}
