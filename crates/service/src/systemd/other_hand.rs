//! Finds another program or person that stops the service while a run starts it. Reads systemd, the journal and
//! `/proc`; changes nothing.

use std::fs;
use std::path::Path;
use std::sync::PoisonError;

use super::cgroup::{self, Cgroup};
use super::{LastStart, Systemd, journald};
use refresh_programs::process::identity::{all_pids, is_launcher};
use refresh_programs::process::{ExitKind, ProcessId, Runner};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::UnitFacts;
use refresh_settings::names::UnitName;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::harmless_line;

/// The programs with which people and scripts request a stop from systemd.
const COMMANDS: [&str; 3] = ["systemctl", "service", "invoke-rc.d"];
/// The words of these requests.
const VERBS: [&str; 7] =
    ["stop", "restart", "try-restart", "reload-or-restart", "force-reload", "condrestart", "kill"];

/// The possible causes of a stop of a unit, apart from the run.
#[derive(Debug, Default)]
struct OtherHands {
    /// The machine is about to shut down.
    shuts_down: bool,
    /// Active units that conflict with it.
    conflicts: Vec<String>,
    /// Commands that are in progress, each with its systemd unit, if it has one.
    commands: Vec<(String, Option<String>)>,
    /// The last command that sudo or cron has logged.
    logged: Option<String>,
}

impl Systemd {
    /// Returns the failure of a start that another request has replaced.
    pub(super) fn replaced(&self, bus: &Bus) -> Failure {
        let hands = OtherHands::of(bus, self);
        hands.failure(format!("another request replaced this start of {}", self.unit))
    }

    /// Returns the outside cause that ended the service since its last start: a stop by another request, or a kill by
    /// the kernel because memory was low.
    pub(super) fn find_outer_cause(&self) -> Outcome<Option<Failure>> {
        let bus = Bus::connect()?;
        let facts = self.facts(&bus)?;
        if self.is_out_of_memory(&facts) {
            return Ok(Some(out_of_memory(&bus, &self.unit)));
        }
        let LastStart::Started(invocation) = self.last_start().clone() else { return Ok(None) };
        let hands = OtherHands::of(&bus, self);
        let is_stopped = journald::was_stopped(&self.runner, &invocation)?;
        Ok(is_stopped.then(|| hands.failure(format!("another request stopped {}", self.unit))))
    }

    /// Returns whether the kernel has killed a process of the unit because memory was low. systemd may notice the end
    /// of the main process first, and then reports it as a plain SIGKILL.
    pub(super) fn is_out_of_memory(&self, facts: &UnitFacts) -> bool {
        let is_killed = matches!(facts.exit(), Some(ExitKind::Signal(9)));
        let before = *self.oom_kills.lock().unwrap_or_else(PoisonError::into_inner);
        facts.result == "oom-kill"
            || is_killed && oom_kills(facts).zip(before).is_some_and(|(now, then)| now > then)
    }

    /// Records the number of processes that the kernel has killed so far.
    pub(super) fn note_oom_kills(&self, facts: &UnitFacts) {
        *self.oom_kills.lock().unwrap_or_else(PoisonError::into_inner) = oom_kills(facts);
    }
}

/// Returns the number of processes that the kernel has killed because memory was low. It counts those in the slice of
/// the unit, since the cgroup of a stopped unit does not exist. With cgroup v1, the kernel counts only those of the
/// entire machine.
fn oom_kills(facts: &UnitFacts) -> Option<u64> {
    let slice = if facts.slice.is_empty() { "system.slice" } else { &facts.slice };
    let in_slice = || {
        let root = Bus::connect().ok()?.control_group().ok()?;
        let unit = cgroup::default_path(&root, slice, "x.service");
        Cgroup::named(unit.strip_suffix("/x.service")?).ok()?.oom_kills()
    };
    in_slice().or_else(|| {
        let counters = fs::read_to_string("/proc/vmstat").ok()?;
        counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
    })
}

/// Returns the failure that the kernel has killed a process of the unit because memory was low, with the limit that
/// applies.
pub(super) fn out_of_memory(bus: &Bus, unit: &UnitName) -> Failure {
    let limit = bus.memory_limit(unit.as_str()).ok().flatten();
    let why = match limit {
        Some(limit) => format!("MemoryMax={} MiB of {unit} was not enough", limit >> 20),
        None => "the memory of the machine was not enough".to_owned(),
    };
    let failure =
        Failure::new("the kernel ended a process of it for want of memory (OOM)").because(Failure::new(why));
    match limit {
        Some(_) => failure.command_for("where it may use more", "systemctl edit", &[unit]),
        None => failure.command("free -h", &[]),
    }
}

impl OtherHands {
    fn of(bus: &Bus, systemd: &Systemd) -> Self {
        let unit = &systemd.unit;
        Self {
            // This comes first: a command ends with the stop.
            commands: commands_for(unit),
            shuts_down: bus.is_shutting_down().unwrap_or(false),
            conflicts: bus.active_conflicts(unit.as_str()).unwrap_or_default(),
            logged: logged(&systemd.runner, unit),
        }
    }

    fn failure(self, what: String) -> Failure {
        let failure = Failure::by_others(what);
        if self.shuts_down {
            let next = "after the next boot a run or a rollback starts the service";
            return failure.because(Failure::new("the machine shuts down or reboots")).hint(next);
        }
        if let Some(other) = self.conflicts.first() {
            let why = format!("{other} was started, which conflicts with it");
            return failure.because(Failure::new(why)).command_for(
                "stop it before the next run",
                "systemctl stop",
                &[other],
            );
        }
        let Some((_, unit)) = self.commands.first() else {
            let failure = match self.logged {
                Some(logged) => failure.because(Failure::new(logged)),
                None => failure,
            };
            let hint =
                "check who stops it: a person, a monitor, or the configuration management of this machine";
            return failure.hint(hint).command_for("once nothing is listed here", "systemctl list-jobs", &[]);
        };
        let hint = match unit {
            Some(unit) if !is_launcher(unit) => {
                Hint::command("systemctl stop", &[unit]).with_purpose("stop it before the next run")
            }
            _ => Hint::from("wait until it has ended"),
        };
        let named: Vec<&str> = self.commands.iter().map(|(command, _)| command.as_str()).collect();
        failure.because(Failure::new(named.join(", "))).hint(hint)
    }
}

/// Finds the commands in progress that name the unit, each with the command that started it.
fn commands_for(unit: &UnitName) -> Vec<(String, Option<String>)> {
    let processes = all_pids().into_iter().filter_map(ProcessId::of);
    let asking = processes.filter(|process| asks_for(&process.command(), unit));
    let described = asking.map(|process| {
        let parent = process.parent().filter(|parent| parent.pid > 1);
        let by = parent.map(|parent| format!(", started by process {} ({})", parent.pid, parent.command()));
        let own_unit = process.unit();
        let of = own_unit.as_ref().map(|unit| format!(" of {unit}")).unwrap_or_default();
        let command = process.command();
        (format!("process {} ({command}){of}{}", process.pid, by.unwrap_or_default()), own_unit)
    });
    described.collect()
}

/// Returns the last command for a stop of the unit that sudo or cron has logged in the last minute.
fn logged(runner: &Runner, unit: &UnitName) -> Option<String> {
    journald::commands(runner).ok()?.into_iter().rev().find_map(|line| logged_command(&line, unit))
}

/// Reads a line of sudo (`dev : TTY=pts/1 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/x y`) or of cron (`(root) CMD (x y)`).
fn logged_command(line: &str, unit: &UnitName) -> Option<String> {
    let line = harmless_line(line);
    let (what, who, command) = if let Some((before, command)) = line.split_once("COMMAND=") {
        ("sudo", before.split(" : ").next()?.trim(), command)
    } else {
        let (who, command) = line.split_once(" CMD (")?;
        ("cron", who.trim_matches(['(', ')', ' ']), command.trim_end_matches(')'))
    };
    asks_for(command, unit).then(|| format!("{what} started for {who}: {command}"))
}

/// Returns whether a command line requests a stop of the unit from systemd.
fn asks_for(command: &str, unit: &UnitName) -> bool {
    let words: Vec<&str> = command.split(' ').collect();
    let program = |word: &&str| {
        Path::new(word).file_name().is_some_and(|name| COMMANDS.iter().any(|known| name == *known))
    };
    let stem = unit.as_str().trim_end_matches(".service");
    words.iter().any(program)
        && words.iter().any(|word| VERBS.contains(word))
        && words.iter().any(|word| *word == unit.as_str() || *word == stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_names_the_unit_is_recognized_by_its_program() {
        let unit = UnitName::usual();
        let is = |command: &str| asks_for(command, &unit);
        assert!(is("systemctl stop ladylinux-api"));
        assert!(is("/usr/bin/systemctl --no-pager restart nginx ladylinux-api.service"));
        assert!(is("/bin/sh /usr/sbin/service ladylinux-api stop"));
        for other in ["systemctl stop ladylinux-api2", "systemctl status ladylinux-api", "sh", ""] {
            assert!(!is(other), "{other}");
        }
        let logged = |line: &str| logged_command(line, &unit);
        let sudo =
            "     dev : TTY=pts/1 ; PWD=/home/dev ; USER=root ; COMMAND=/bin/systemctl stop ladylinux-api";
        assert_eq!(logged(sudo).as_deref(), Some("sudo started for dev: /bin/systemctl stop ladylinux-api"));
        let cron = "(root) CMD (service ladylinux-api restart)";
        assert_eq!(logged(cron).as_deref(), Some("cron started for root: service ladylinux-api restart"));
        assert_eq!(logged("dev : USER=root ; COMMAND=/usr/bin/apt upgrade"), None);
    }

    #[test]
    fn rw_7_1b_the_hint_fits_the_program_that_acted_on_the_unit() {
        let hints = |hands: OtherHands| {
            let failure = hands.failure("another request stopped it".to_owned());
            assert!(failure.is_by_others());
            failure.hint_texts()
        };
        let of = |unit: Option<&str>| OtherHands {
            commands: vec![("process 7 (systemctl stop x)".to_owned(), unit.map(str::to_owned))],
            ..OtherHands::default()
        };
        assert_eq!(
            hints(of(Some("watchdog.service"))),
            ["stop it before the next run: systemctl stop watchdog.service"]
        );
        // A stop of these would end much more.
        for shared in [None, Some("cron.service"), Some("ssh.service")] {
            assert_eq!(hints(of(shared)), ["wait until it has ended"], "{shared:?}");
        }
        let conflict = OtherHands { conflicts: vec!["old.service".to_owned()], ..OtherHands::default() };
        assert_eq!(hints(conflict), ["stop it before the next run: systemctl stop old.service"]);
        let shutdown = OtherHands { shuts_down: true, ..of(None) };
        assert_eq!(hints(shutdown), ["after the next boot a run or a rollback starts the service"]);
        assert!(hints(OtherHands::default())[1].ends_with("systemctl list-jobs"));
    }
}
