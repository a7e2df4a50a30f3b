//! The start of a unit, through the fence or up to it, and the reason of its failure.

use std::time::Duration;

use super::{LastStart, Systemd, journald, last_exit, not_loaded, other_hand, page, running, sockets};
use crate::{Admission, Running, Started, StartedHow, fence};
use refresh_programs::process::{ExitKind, ProcessId};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::job::{JobResult, Verb};
use refresh_programs::systemd::unit::{ActiveState, Assertion, FailedCommand, UnitFacts};
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::{checkpoint, clock, interrupt};

/// The interval of checks for an interruption while systemd starts the unit.
const TICK: Duration = Duration::from_millis(50);
/// The extra time of a start beyond the unit's own timeouts.
const MARGIN: Duration = Duration::from_secs(30);

/// The message of systemd when it refuses a start because of earlier starts.
const GIVEN_UP: &str = "Start request repeated too quickly";
/// The number of last lines of a failed unit that are searched for it.
const LAST_LINES: usize = 10;

impl Systemd {
    pub(super) fn start_unit(&self, admission: &Admission) -> Outcome<Started> {
        let bus = Bus::connect()?;
        // This is checked here too, although systemd decides: a service that runs behind the fence is stopping, and "it
        // runs already" would be wrong.
        if *admission == Admission::Ordinary
            && let Some(fence) = fence::read(&self.layout)?
        {
            return Err(fence.refusal());
        }
        // Its sockets belong to the service. During a refresh another unit holds them too, so connections wait.
        page::stop(&bus)?;
        match admission {
            Admission::Ordinary => self.start_all(&bus),
            Admission::Refresh(run) => fence::admitted(&self.layout, run, || self.start_all(&bus)),
        }
    }

    /// Starts the service, then the units with it.
    fn start_all(&self, bus: &Bus) -> Outcome<Started> {
        let mut started = self.start_if_down(bus)?;
        started.warnings.extend(self.start_together(bus)?);
        Ok(started)
    }

    fn start_if_down(&self, bus: &Bus) -> Outcome<Started> {
        let unit = self.unit.as_str();
        let before = self.facts(bus)?;
        if let Some(running) = runs(&before) {
            return Ok(Started::new(running, StartedHow::RanAlready, Vec::new()));
        }
        if let Some(why) = not_loaded(&self.unit, &before) {
            return Err(Failure::new(why).command("systemctl status", &[&unit]));
        }
        *self.last_start() = LastStart::Vain;
        self.note_oom_kills(&before);
        let mut warnings = Vec::new();
        if self.gave_up(&before) {
            warnings.push(format!(
                "systemd had refused {unit} (\"start request repeated too quickly\"); this start has reset that"
            ));
        }
        bus.remember(unit)?;
        sockets::open_closed(bus, &before, &self.unit)?;
        // A start by name is intended: earlier starts do not count against this one, nor do they count in the number of
        // restarts that is watched from now on.
        bus.reset_failed(unit)?;
        let result = self.await_start(bus, &before)?;
        let after = self.facts(bus)?;
        if let Some(made) = self.invocation(&after).filter(|_| after.invocation != before.invocation) {
            *self.last_start() = LastStart::Started(made);
        }
        match (result, runs(&after)) {
            (JobResult::Done | JobResult::Unheard, Some(running)) => {
                Ok(Started::new(running, StartedHow::Fresh, warnings))
            }
            (result, None) if is_forbidden(&result, &after) => Err(match fence::read(&self.layout)? {
                Some(fence) => fence.refusal(),
                None => not_asserted(&self.layout, &self.unit, &after),
            }),
            (JobResult::Canceled, _) => Err(self.replaced(bus)),
            (_, _) if self.is_out_of_memory(&after) => Err(why_not(&self.unit, &JobResult::Failed, &after)
                .because(other_hand::out_of_memory(bus, &self.unit))),
            (result, _) => Err(why_not(&self.unit, &result, &after)),
        }
    }

    /// Returns whether systemd refuses further starts. Its result shows that only if nothing else failed before; in
    /// most cases only the journal does.
    fn gave_up(&self, facts: &UnitFacts) -> bool {
        if facts.result == "start-limit-hit" {
            return true;
        }
        let Some(invocation) = self.invocation(facts).filter(|_| facts.active == ActiveState::Failed) else {
            return false;
        };
        let said = journald::tail(&self.runner, &invocation, LAST_LINES).unwrap_or_default();
        said.iter().any(|line| line.starts_with("systemd: ") && line.contains(GIVEN_UP))
    }

    /// Requests the start of the unit from systemd. An interruption ends the wait; the interrupted run stops the
    /// service.
    pub(super) fn await_start(&self, bus: &Bus, before: &UnitFacts) -> Outcome<JobResult> {
        // Each command before the main one has the full timeout.
        let limit =
            before.start_timeout.map_or(self.start_limit, |own| own.saturating_mul(3).saturating_add(MARGIN));
        let end = clock::monotonic() + limit;
        let mut job = bus.enqueue(Verb::Start, self.unit.as_str())?;
        checkpoint::reach("systemd:start-enqueued");
        loop {
            if let Some(result) = job.wait(TICK)? {
                return Ok(result);
            }
            interrupt::check()?;
            if clock::monotonic() >= end {
                return Err(Failure::new(format!("systemd has not started {} in {limit:.0?}", self.unit))
                    .command("systemctl status", &[&self.unit])
                    .command("systemctl list-jobs", &[]));
            }
        }
    }
}

/// Returns whether an assertion forbade a start.
fn is_forbidden(result: &JobResult, after: &UnitFacts) -> bool {
    let unheard = *result == JobResult::Unheard && after.is_down();
    *result == JobResult::Assert || unheard && after.conditions_held && !after.assertions_held
}

fn runs(facts: &UnitFacts) -> Option<Running> {
    let main = facts.main_pid.filter(|_| facts.active == ActiveState::Active).and_then(ProcessId::of)?;
    Some(running(facts, main))
}

/// Returns which assertion, other than the fence, forbade a start.
fn not_asserted(layout: &Layout, unit: &UnitName, facts: &UnitFacts) -> Failure {
    let fence = [layout.fence(), layout.admit()];
    let own = |assert: &&Assertion| !fence.iter().any(|path| path.as_os_str() == assert.parameter.as_str());
    let with = |held: Option<bool>| -> Vec<String> {
        let found = facts.assertions.iter().filter(own).filter(|assert| assert.held == held);
        found.map(Assertion::to_string).collect()
    };
    // systemd loses the result of the assertions when it reloads its units.
    let failed = Some(with(Some(false))).filter(|failed| !failed.is_empty()).unwrap_or_else(|| with(None));
    let what = if failed.is_empty() { "an assertion".to_owned() } else { failed.join(" or ") };
    Failure::new(format!("{what} of {unit} does not hold, so systemd does not start it"))
        .command("systemctl cat", &[&unit])
}

/// Returns why a unit does not run after its start.
pub(super) fn why_not(unit: &UnitName, result: &JobResult, facts: &UnitFacts) -> Failure {
    let logs = Hint::command("ladylinux-refresh service logs", &[]);
    let exit = last_exit(facts).map(|exit| exit.how);
    let failure = match (result, facts.result.as_str()) {
        (JobResult::Dependency, _) => {
            return Failure::new(format!("a unit that {unit} requires could not be started"))
                .command("systemctl list-dependencies", &[&unit])
                .command("systemctl --failed", &[]);
        }
        (JobResult::Done | JobResult::Unheard, _) if facts.is_down() && !facts.conditions_held => {
            return Failure::new(format!("a condition of {unit} does not hold, so systemd skips its start"))
                .command("systemctl status", &[&unit]);
        }
        (_, "start-limit-hit") => {
            return Failure::new(format!(
                "systemd gave {unit} up: it was started too often in a short time (\"start request repeated too quickly\")"
            ))
            .command("systemctl reset-failed", &[&unit])
            .hint(logs);
        }
        (JobResult::Timeout, other) if other != "timeout" => {
            Failure::new(format!("the start of {unit} took longer than its JobTimeoutSec= allows"))
        }
        (_, "timeout") => {
            let limit = facts.start_timeout.map_or_else(String::new, |limit| format!(" of {limit:.0?}"));
            Failure::new(format!(
                "{unit} did not become ready within its TimeoutStartSec{limit} (Type={})",
                facts.kind
            ))
        }
        (_, "protocol") => Failure::new(format!(
            "{unit} did not do what its Type={} requires: it ended, or never reported that it is ready",
            facts.kind
        )),
        (_, "resources") => Failure::new(format!("systemd could not prepare the start of {unit}")),
        _ => Failure::new(format!("{unit} ended as soon as it was started")),
    };
    if let Some(command) = facts.failed_commands.first() {
        return failure.because(failed_command(command)).command("systemctl cat", &[&unit]).hint(logs);
    }
    let failure = match exit {
        Some(how) => failure.because(Failure::new(exit_in_words(how))),
        None if matches!(result, JobResult::Done | JobResult::Unheard | JobResult::Failed) => failure,
        None => failure.because(Failure::new(result.to_string())),
    };
    failure.hint(logs)
}

/// Returns the failure of a command that failed before or after the main one was started.
fn failed_command(failed: &FailedCommand) -> Failure {
    let FailedCommand { key, command, how } = failed;
    Failure::new(format!("its {key}={command} failed: {}", exit_in_words(*how)))
}

/// Describes an exit; codes above 200 come from systemd, for failures before the program runs (systemd.exec(5)).
fn exit_in_words(how: ExitKind) -> String {
    let before = match how {
        ExitKind::Code(200) => "its WorkingDirectory= cannot be entered (CHDIR)",
        ExitKind::Code(203) => {
            "its program cannot be run: it is missing, not executable, or its interpreter is missing (EXEC)"
        }
        ExitKind::Code(208 | 209 | 222) => "its standard streams cannot be set up",
        ExitKind::Code(216) => "its Group= cannot be assumed (GROUP)",
        ExitKind::Code(217) => "its User= cannot be assumed (USER)",
        ExitKind::Code(226) => "its file system namespace cannot be set up (NAMESPACE)",
        ExitKind::Code(201..=245) => "systemd could not set the process up",
        _ => return how.to_string(),
    };
    format!("{how}: {before}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(result: &str, code: i32) -> UnitFacts {
        UnitFacts {
            active: ActiveState::Failed,
            result: result.to_owned(),
            main_code: 1,
            main_status: code,
            main_ended: Some(clock::now()),
            conditions_held: true,
            ..UnitFacts::default()
        }
    }

    fn failure(result: &JobResult, facts: &UnitFacts) -> String {
        why_not(&UnitName::usual(), result, facts).chain().join(": ")
    }

    #[test]
    fn rw_7_1b_a_program_that_cannot_be_run_is_reported_as_such() {
        let found = failure(&JobResult::Failed, &failed("exit-code", 203));
        assert!(found.contains("exit code 203") && found.contains("cannot be run"), "{found}");
    }

    #[test]
    fn rw_7_1b_a_unit_that_systemd_gave_up_is_reported_with_the_next_command() {
        let failure = why_not(&UnitName::usual(), &JobResult::Failed, &failed("start-limit-hit", 3));
        assert!(failure.summary().contains("too often"), "{failure}");
        assert_eq!(failure.hint_texts()[0], "systemctl reset-failed ladylinux-api.service");
    }

    #[test]
    fn rw_7_1b_a_command_before_the_main_one_that_failed_is_named_with_its_exit_code() {
        let command = FailedCommand {
            key: "ExecStartPre",
            command: "/usr/bin/test -e /models".to_owned(),
            how: ExitKind::Code(3),
        };
        let facts = UnitFacts { failed_commands: vec![command], ..failed("exit-code", 0) };
        let found = failure(&JobResult::Failed, &facts);
        assert!(found.ends_with("its ExecStartPre=/usr/bin/test -e /models failed: exit code 3"), "{found}");
    }

    #[test]
    fn rw_7_1b_a_limit_of_the_job_is_not_reported_as_one_of_the_start() {
        let found = failure(&JobResult::Timeout, &failed("success", 0));
        assert!(found.contains("JobTimeoutSec=") && !found.contains("TimeoutStartSec"), "{found}");
        let found = failure(&JobResult::Failed, &failed("timeout", 0));
        assert!(found.contains("TimeoutStartSec"), "{found}");
    }

    #[test]
    fn rw_7_1b_a_start_that_a_condition_skipped_is_no_success() {
        let skipped =
            UnitFacts { conditions_held: false, active: ActiveState::Inactive, ..failed("success", 0) };
        assert!(failure(&JobResult::Done, &skipped).contains("condition"));
    }

    #[test]
    fn rw_7_1b_the_assertion_that_does_not_hold_is_named() {
        let layout = Layout::below("/");
        let assertion = |parameter: &str, triggering, held| Assertion {
            kind: "AssertPathExists".to_owned(),
            triggering,
            negated: false,
            parameter: parameter.to_owned(),
            held,
        };
        let failure = |held: [Option<bool>; 2]| {
            let gate = assertion(layout.admit().to_str().unwrap(), true, Some(false));
            let assertions = vec![gate, assertion("/a", false, held[0]), assertion("/b", false, held[1])];
            let facts = UnitFacts { assertions, ..failed("", 0) };
            not_asserted(&layout, &UnitName::usual(), &facts).to_string()
        };
        let one = failure([Some(true), Some(false)]);
        assert!(one.starts_with("AssertPathExists=/b of"), "{one}");
        let either = failure([None, None]);
        assert!(either.starts_with("AssertPathExists=/a or AssertPathExists=/b of"), "{either}");
    }
}
