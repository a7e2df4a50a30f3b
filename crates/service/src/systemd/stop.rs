//! The stop of a unit: waits for its job, watches the processes that outlive its main process, and ends those that
//! systemd leaves.

use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::{Systemd, last_exit};
use crate::{Before, Exit, Force, Stopped, strays};
use refresh_programs::process::{ExitKind, ProcessId};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::job::{JobResult, Verb};
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};
use refresh_system::error::{Failure, Outcome};
use refresh_system::{checkpoint, clock, interrupt};

/// The interval of reading the processes while systemd stops the unit.
const TICK: Duration = Duration::from_millis(100);
/// The time after which a process that outlives the main one is reported as left over.
const LINGER: Duration = Duration::from_millis(250);
/// The time limit for processes that systemd left to end by themselves.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(5);
/// The extra time of a stop beyond the unit's own timeouts.
const MARGIN: Duration = Duration::from_secs(30);
/// The duration from which a stop without force is reported as long.
const LONG: Duration = Duration::from_secs(5);
/// The time limit for the service to end by itself after its stop command got SIGTERM.
const CANCELLED: Duration = Duration::from_secs(10);
/// The number of stop requests when other requests replace them.
const ATTEMPTS: u32 = 5;

impl Systemd {
    pub(super) fn stop_unit(&self) -> Outcome<Stopped> {
        let began = clock::monotonic();
        let bus = Bus::connect()?;
        let before = self.facts(&bus)?;
        // This is read before the stop: afterwards systemd may no longer have it.
        let group = self.cgroup(&bus, &before)?;
        let mut stopped = Stopped::default();
        if !before.is_down() {
            stopped.before = Before::Running;
            let command = before.main_pid.and_then(ProcessId::of).map(ProcessId::command).unwrap_or_default();
            let after = self.await_stop(&bus, &before, &group, &mut stopped.leftovers)?;
            stopped.exit = last_exit(&after).filter(|exit| Some(exit.at) != before.main_ended);
            stopped.force = force(&after, stopped.exit, &stopped.leftovers);
            let took = clock::monotonic().duration_since(began);
            stopped.notes.extend(why_long(&after, stopped.force, took, &command));
        }
        checkpoint::reach("systemd:stopped");
        let patience = before.stop_timeout.map_or(LEFTOVER_PATIENCE, |own| own.min(LEFTOVER_PATIENCE));
        let ended = strays::end(|| group.processes(), |processes| group.kill(processes), patience)?;
        if !ended.processes.is_empty() {
            if stopped.before == Before::Stopped {
                stopped.before = Before::LeftBehind;
                stopped.force = ended.force;
            } else if ended.force == Force::Killed && stopped.force == Force::Asked {
                stopped.force = Force::LeftoversKilled;
            }
            if matches!(before.kill_mode.as_str(), "process" | "none") {
                stopped.notes.push(format!(
                    "{} has KillMode={}, so every stop of it leaves its workers behind; with KillMode=mixed they end \
                     with it",
                    self.unit, before.kill_mode
                ));
            }
            stopped.leftovers.extend(ended.processes);
        }
        stopped.took = clock::monotonic().duration_since(began);
        Ok(stopped)
    }

    /// Requests the stop of the unit from systemd, and collects the processes that outlive its main process. Returns
    /// the facts of the stopped unit.
    fn await_stop(
        &self,
        bus: &Bus,
        before: &UnitFacts,
        group: &Cgroup,
        leftovers: &mut Vec<String>,
    ) -> Outcome<UnitFacts> {
        let unit = self.unit.as_str();
        bus.remember(unit)?;
        // A stop may pass through four phases, each with its own timeout: command, SIGTERM, and both again for the
        // commands after the stop.
        let own_limit = before.stop_timeout.unwrap_or(self.without_limit);
        let limit = own_limit.saturating_mul(4).saturating_add(MARGIN);
        let end = clock::monotonic() + limit;
        // systemd kills processes that do not end in time, unless its limit is infinite.
        let mut kill_at = before.stop_timeout.is_none().then(|| clock::monotonic() + own_limit);
        let mut is_cancelled = false;
        let mut watch = LeftoverProcesses::of(before.main_pid.and_then(ProcessId::of));
        let mut result = JobResult::Unheard;
        for _ in 0..ATTEMPTS {
            let mut job = bus.enqueue(Verb::Stop, unit)?;
            checkpoint::reach("systemd:stop-enqueued");
            result = loop {
                if let Some(result) = job.wait(TICK)? {
                    break result;
                }
                watch.check(group);
                if !is_cancelled && interrupt::arrived().is_some() {
                    is_cancelled = true;
                    let soon = clock::monotonic() + CANCELLED;
                    kill_at = Some(kill_at.map_or(soon, |at| at.min(soon)));
                }
                if kill_at.is_some_and(|at| clock::monotonic() >= at) {
                    kill_at = None;
                    group.kill(&group.processes());
                }
                if clock::monotonic() >= end {
                    return Err(Failure::new(format!("systemd has not stopped it in {limit:.0?}"))
                        .command("systemctl status", &[&unit])
                        .command("systemctl list-jobs", &[]));
                }
            };
            let after = self.facts(bus)?;
            if after.is_down() {
                leftovers.extend(watch.ended());
                return Ok(after);
            }
            // A start request of another program replaces the stop. The fence refuses that start later, but the service
            // has not been stopped.
            if result != JobResult::Canceled && after.active != ActiveState::Active {
                clock::sleep_uninterrupted(TICK);
            }
        }
        Err(Failure::new(format!("it still runs after {ATTEMPTS} requests to stop it: {result}"))
            .command("systemctl status", &[&unit])
            .command("systemctl list-jobs", &[]))
    }
}

/// Watches for processes that outlive the main one.
struct LeftoverProcesses {
    main: Option<ProcessId>,
    since: Option<Instant>,
    known: Vec<(ProcessId, String)>,
}

impl LeftoverProcesses {
    fn of(main: Option<ProcessId>) -> Self {
        Self { main, since: None, known: Vec::new() }
    }

    fn check(&mut self, group: &Cgroup) {
        let Some(main) = self.main.filter(|main| !main.is_alive()) else { return };
        let now = clock::monotonic();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < LINGER {
            return;
        }
        for process in group.processes() {
            if process != main && !self.known.iter().any(|(known, _)| *known == process) {
                self.known.push((process, strays::describe(process)));
            }
        }
    }

    /// Returns the names of those that systemd has ended meanwhile; the others must still be ended.
    fn ended(self) -> impl Iterator<Item = String> {
        self.known.into_iter().filter(|(process, _)| !process.is_alive()).map(|(_, name)| name)
    }
}

/// Returns the force that systemd needed to end the unit.
fn force(after: &UnitFacts, exit: Option<Exit>, leftovers: &[String]) -> Force {
    match exit.map(|exit| exit.how) {
        Some(ExitKind::Signal(9)) => Force::Killed,
        // TimeoutStopFailureMode=abort
        Some(ExitKind::Signal(6)) if after.result == "timeout" => Force::Killed,
        _ if after.result == "timeout" || !leftovers.is_empty() => Force::LeftoversKilled,
        _ => Force::Asked,
    }
}

/// Returns why a stop took long, if that can be determined.
fn why_long(after: &UnitFacts, force: Force, took: Duration, command: &str) -> Option<String> {
    let what = match (force, after.stop_timeout) {
        (Force::Killed, Some(limit)) if after.result == "timeout" => {
            format!(
                "the service did not end when asked, and systemd killed it after its TimeoutStopSec of {limit:.0?}"
            )
        }
        (Force::LeftoversKilled, Some(limit)) if after.result == "timeout" => {
            format!(
                "processes of the service did not end when asked, and systemd killed them after TimeoutStopSec, {limit:.0?}"
            )
        }
        (Force::Killed, None) => {
            format!(
                "systemd waits for ever for the service to end (TimeoutStopSec=infinity); it was killed after {took:.0?}"
            )
        }
        (Force::Killed, _) => "the service was ended by SIGKILL".to_owned(),
        _ if took >= LONG => format!("the service took {took:.1?} to end"),
        _ => return None,
    };
    let waits = command.contains("uvicorn") && !command.contains("--timeout-graceful-shutdown");
    let why = "; uvicorn waits for open connections as long as it takes unless it is started with \
               --timeout-graceful-shutdown SECONDS";
    Some(format!("{what}{}", if waits { why } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(result: &str) -> UnitFacts {
        UnitFacts {
            result: result.to_owned(),
            stop_timeout: Some(Duration::from_secs(90)),
            ..UnitFacts::default()
        }
    }

    fn by_signal(number: i32) -> Exit {
        Exit { how: ExitKind::Signal(number), at: clock::now() }
    }

    #[test]
    fn rw_5_1_forced_stops_are_distinguished_by_the_killed_process() {
        let left = ["7 (worker)".to_owned()];
        assert_eq!(force(&after("success"), Some(by_signal(15)), &[]), Force::Asked);
        assert_eq!(force(&after("timeout"), Some(by_signal(9)), &[]), Force::Killed);
        assert_eq!(force(&after("timeout"), Some(by_signal(6)), &[]), Force::Killed);
        assert_eq!(force(&after("timeout"), Some(by_signal(15)), &left), Force::LeftoversKilled);
    }

    #[test]
    fn rw_5_1_a_long_stop_reports_its_reason_if_it_is_known() {
        let short = Duration::from_millis(20);
        assert_eq!(why_long(&after("success"), Force::Asked, short, "uvicorn"), None);
        let found =
            why_long(&after("timeout"), Force::Killed, LONG, "/venv/bin/python /venv/bin/uvicorn x:app")
                .unwrap();
        assert!(found.contains("90s") && found.contains("--timeout-graceful-shutdown"), "{found}");
        let found =
            why_long(&after("success"), Force::Asked, LONG, "uvicorn --timeout-graceful-shutdown 9").unwrap();
        assert!(!found.contains("open connections"), "{found}");
    }
}
