//! systemd as the manager of the service. The unit is queried, stopped and started over D-Bus; its processes are those
//! of its cgroup; its log is in the journal.
//!
//! systemd may drop its information about an ended unit immediately. So a stop and a start keep the unit loaded until
//! this value is dropped.

mod asked_to_stop;
mod cgroup;
pub mod dropin;
pub mod elsewhere;
mod journald;
mod other_hand;
mod others;
mod page;
pub mod requirements;
pub mod sockets;
mod start;
mod start_needs;
mod stop;
mod together;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cgroup::Cgroup;
use jiff::Timestamp;
use journald::Invocation;

use super::envfile::EnvFile;
use super::others::Others;
use super::sockets::SocketUnit;
use super::{
    Admission, Exit, LogPlace, Running, ServiceManager, ServiceProgram, ServiceState, Started, Stopped,
    python_path,
};
use refresh_programs::process::{ProcessId, Runner};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::file::UnitFile;
use refresh_programs::systemd::root_exec;
use refresh_programs::systemd::root_exec::RootExec;
use refresh_programs::systemd::unit::{ActiveState, LoadState, UnitFacts};
use refresh_programs::units::Units;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::clock;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;

/// The time limit for the end of a service if its unit has none (`TimeoutStopSec=infinity`). It is the default of
/// systemd.
const STOP_WITHOUT_LIMIT: Duration = Duration::from_secs(90);

/// The same for its start, if nothing else is set (`TimeoutStartSec=infinity`).
const START_WITHOUT_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The time limit to start a unit again that is not a service.
const START_AGAIN: Duration = Duration::from_secs(90);

/// A service as a unit of systemd.
#[derive(Debug)]
pub struct Systemd {
    layout: Layout,
    unit: UnitName,
    /// The units that are stopped and started with it.
    also: Vec<UnitName>,
    runner: Runner,
    last_start: Mutex<LastStart>,
    /// The time limit for the end of a service if its unit sets none.
    without_limit: Duration,
    /// The time limit for the start of a service if its unit sets none.
    start_limit: Duration,
    /// The number of processes that the kernel had killed because memory was low, before the last start.
    oom_kills: Mutex<Option<u64>>,
    /// The units that the last start has started with it, each with its invocation.
    together: Mutex<Vec<(UnitName, String)>>,
    /// Those of `also` that the last stop has stopped.
    were_up: Mutex<Vec<String>>,
}

/// The result of the last start through one value; it determines the invocation whose lines a failure shows.
#[derive(Debug, Clone)]
enum LastStart {
    /// There was none.
    None,
    /// It was refused before anything was executed. The last invocation of the unit is from an earlier start.
    Vain,
    /// It created this invocation, whatever the result.
    Started(Invocation),
}

impl Systemd {
    /// Returns the manager of `unit`, which serves the installation at `layout`; changes nothing.
    pub fn new(layout: Layout, unit: UnitName, runner: Runner) -> Self {
        Self {
            layout,
            unit,
            also: Vec::new(),
            runner,
            last_start: Mutex::new(LastStart::None),
            without_limit: STOP_WITHOUT_LIMIT,
            start_limit: START_WITHOUT_LIMIT,
            oom_kills: Mutex::new(None),
            together: Mutex::new(Vec::new()),
            were_up: Mutex::new(Vec::new()),
        }
    }

    /// Returns the manager that also stops and starts further units.
    #[must_use]
    pub fn with(self, also: Vec<UnitName>) -> Self {
        Self { also, ..self }
    }

    /// Sets the time limit for the end of a service if its unit sets none.
    #[must_use]
    pub fn without_limit(self, limit: Duration) -> Self {
        Self { without_limit: limit, ..self }
    }

    /// Sets the time limit for the start of a service if its unit sets none: it must pass the health check by then
    /// anyway.
    #[must_use]
    pub fn start_limit(self, limit: Duration) -> Self {
        Self { start_limit: limit, ..self }
    }

    fn facts(&self, bus: &Bus) -> Outcome<UnitFacts> {
        bus.unit(self.unit.as_str())
    }

    /// Returns the cgroup of the unit, even if systemd no longer has it.
    fn cgroup(&self, bus: &Bus, facts: &UnitFacts) -> Outcome<Cgroup> {
        if !facts.control_group.is_empty() {
            return Cgroup::named(&facts.control_group);
        }
        let slice = if facts.slice.is_empty() { "system.slice" } else { &facts.slice };
        Cgroup::named(&cgroup::default_path(&bus.control_group()?, slice, self.unit.as_str()))
    }

    /// Returns the running or last invocation, if systemd has it.
    fn invocation(&self, facts: &UnitFacts) -> Option<Invocation> {
        if facts.invocation.is_empty() {
            return None;
        }
        let main = facts.last_main_pid.zip(facts.main_started);
        Some(Invocation { unit: self.unit.to_string(), id: facts.invocation.clone(), main })
    }

    fn last_start(&self) -> std::sync::MutexGuard<'_, LastStart> {
        self.last_start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServiceManager for Systemd {
    fn observe(&self) -> Outcome<ServiceState> {
        let bus = Bus::connect()?;
        let facts = self.facts(&bus)?;
        if facts.is_down() {
            let processes = self.cgroup(&bus, &facts)?.processes();
            if !processes.is_empty() {
                return Ok(ServiceState::LeftBehind { processes });
            }
        }
        Ok(state(&self.unit, &facts))
    }

    fn stop(&self) -> Outcome<Stopped> {
        self.stop_together()
    }

    fn start(&self, admission: Admission) -> Outcome<Started> {
        self.start_unit(&admission).context(|| "cannot start the service".to_owned())
    }

    fn log_tail(&self, lines: usize) -> Outcome<Vec<String>> {
        let started = self.last_start().clone();
        let known = match started {
            LastStart::Started(invocation) => Some(invocation),
            LastStart::Vain => return Ok(Vec::new()),
            LastStart::None => self.invocation(&self.facts(&Bus::connect()?)?),
        };
        let invocation = match known {
            Some(invocation) => Some(invocation),
            None => journald::last_invocation(&self.runner, self.unit.as_str())?,
        };
        invocation.map_or(Ok(Vec::new()), |invocation| journald::tail(&self.runner, &invocation, lines))
    }

    fn log_after(&self, place: Option<&LogPlace>, lines: usize) -> Outcome<(Vec<String>, Option<LogPlace>)> {
        journald::after(&self.runner, self.unit.as_str(), place, lines)
    }

    fn owns(&self, process: ProcessId) -> Outcome<bool> {
        let bus = Bus::connect()?;
        let group = match bus.control_group_of(self.unit.as_str())?.as_str() {
            "" => self.cgroup(&bus, &self.facts(&bus)?)?,
            group => Cgroup::named(group)?,
        };
        Ok(group.holds(process))
    }

    fn processes(&self) -> Outcome<Vec<ProcessId>> {
        let bus = Bus::connect()?;
        let facts = self.facts(&bus)?;
        let main = facts.main_pid.and_then(ProcessId::of);
        let others = self.cgroup(&bus, &facts)?.processes();
        Ok(main.into_iter().chain(others.into_iter().filter(|process| Some(*process) != main)).collect())
    }

    fn sockets(&self) -> Outcome<Vec<SocketUnit>> {
        let bus = Bus::connect()?;
        sockets::all(&bus, &self.facts(&bus)?, &self.unit)
    }

    fn show_page(&self) -> Outcome<bool> {
        let bus = Bus::connect()?;
        page::start(&bus, &self.facts(&bus)?, &self.unit)
    }

    fn end_page(&self) -> Outcome<()> {
        page::stop(&Bus::connect()?)
    }

    fn page_process(&self) -> Outcome<Option<ProcessId>> {
        page::process(&Bus::connect()?)
    }

    fn forgive_socket(&self, unit: &str) -> Outcome<()> {
        Bus::connect()?.reset_failed(unit)
    }

    fn check(&self) -> Outcome<()> {
        let bus = Bus::connect()?;
        let facts = self.facts(&bus)?;
        if facts.load == LoadState::NotFound {
            let why = not_loaded(&self.unit, &facts);
            return Err(self.missing(why.unwrap_or_default()));
        }
        usable(&self.unit, &facts)?;
        if facts.active == ActiveState::Active && !self.cgroup(&bus, &facts)?.processes().is_empty() {
            check_main(&self.unit, facts.main_pid)?;
        }
        requirements::check_manual(&self.unit, &facts)?;
        requirements::check_action(&self.unit, &facts)?;
        requirements::check_order(&bus, &self.unit)?;
        start_needs::check(&self.layout, &self.runner, &self.unit, &facts)?;
        requirements::check_needs(&bus, &self.unit, &facts)?;
        dropin::check(&self.layout, &self.unit, &facts)?;
        self.check_also()
    }

    fn is_all_down(&self) -> Outcome<bool> {
        Ok(self.observe()?.is_down() && !self.is_any_other_up()?)
    }

    fn has_units(&self) -> bool {
        true
    }

    fn check_together(&self) -> Outcome<()> {
        Self::check_together(self)
    }

    fn others(&self) -> Outcome<Others> {
        self.find_others()
    }

    fn left_down(&self) -> Outcome<Vec<String>> {
        self.find_left_down()
    }

    fn outer_cause(&self) -> Outcome<Option<Failure>> {
        self.find_outer_cause()
    }

    fn asked_to_stop(&self) -> Outcome<Option<Timestamp>> {
        self.find_asked_to_stop()
    }

    fn start_again(&self, unit: &str) -> Outcome<()> {
        let bus = Bus::connect()?;
        match UnitName::parse(unit) {
            Ok(unit) => self.start_other(&bus, &unit).map(drop),
            Err(_) => bus.start(unit, START_AGAIN),
        }
    }

    fn program(&self) -> Outcome<Option<ServiceProgram>> {
        let change = format!("correct ExecStart= with: systemctl edit --full {}", self.unit);
        let facts = self.facts(&Bus::connect()?)?;
        let Some(path) = facts.program else { return Ok(None) };
        let directory = match facts.working_directory.as_str() {
            "" => PathBuf::from("/"),
            set => PathBuf::from(set),
        };
        let owner = Owner::of(&self.layout.app());
        let file = owner.and_then(|owner| {
            let units = Units::new(&self.layout, &self.runner, owner);
            EnvFile::read_as(&units, owner, &self.layout.env_file())
        });
        let mut python_path = python_path(&file.unwrap_or_default(), &directory);
        let variables = facts.environment.iter().filter_map(|it| it.strip_prefix("PYTHONPATH="));
        python_path.extend(variables.flat_map(|value| value.split(':')).map(|path| directory.join(path)));
        Ok(Some(ServiceProgram { path, words: facts.command, directory, python_path, change }))
    }

    fn root_execs(&self) -> Outcome<Vec<RootExec>> {
        let facts = self.facts(&Bus::connect()?)?;
        let file = UnitFile::read(facts.fragment.iter().chain(&facts.drop_ins))?;
        // A user with a different name may also be root.
        let is_root = facts.user.is_empty() || Owner::named(&facts.user)?.is_some_and(|owner| owner.uid == 0);
        let user = (!is_root).then_some(facts.user.as_str());
        Ok(root_exec::root_execs(&file, user, &self.layout.of_application()))
    }

    fn describe(&self) -> String {
        self.unit.to_string()
    }
}

/// Returns the state of a unit by the information of systemd.
fn state(unit: &UnitName, facts: &UnitFacts) -> ServiceState {
    let changing = |doing: String| ServiceState::Changing { doing };
    match facts.active {
        ActiveState::Active => match facts.main_pid.and_then(ProcessId::of) {
            Some(main) => ServiceState::Running(running(facts, main)),
            None => changing("without a main process".to_owned()),
        },
        ActiveState::Activating if facts.awaits_restart() => match last_exit(facts) {
            Some(exit) => changing(format!("waiting to be restarted by systemd ({})", exit.how)),
            None => changing("waiting to be restarted by systemd".to_owned()),
        },
        ActiveState::Activating => changing("starting".to_owned()),
        ActiveState::Deactivating => changing("stopping".to_owned()),
        ActiveState::Inactive | ActiveState::Failed => match not_loaded(unit, facts) {
            Some(why) => ServiceState::NotInstalled { why },
            None => ServiceState::Stopped { last: last_exit(facts) },
        },
    }
}

fn running(facts: &UnitFacts, main: ProcessId) -> Running {
    Running {
        main,
        since: facts.main_started.unwrap_or_else(clock::now),
        restarts: facts.restarts,
        invocation: facts.invocation.clone(),
    }
}

/// Returns how and when the main process ended, if systemd still has that.
fn last_exit(facts: &UnitFacts) -> Option<Exit> {
    Some(Exit { how: facts.exit()?, at: facts.main_ended? })
}

/// Returns the reason why there is no unit to start.
fn not_loaded(unit: &UnitName, facts: &UnitFacts) -> Option<String> {
    match facts.load {
        LoadState::Loaded => None,
        LoadState::NotFound => Some(format!("systemd has no unit {unit}")),
        LoadState::Masked => Some(format!("{unit} is masked")),
        LoadState::Bad => {
            let why = facts.load_error.as_deref().unwrap_or("its file cannot be used");
            Some(format!("systemd cannot load {unit}: {why}"))
        }
    }
}

/// Checks that a refresh can stop, start and watch a unit.
fn usable(unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    if let Some(why) = not_loaded(unit, facts) {
        let hint = match facts.load {
            LoadState::Masked => Hint::command("systemctl unmask", &[unit]),
            LoadState::Bad => Hint::command("systemd-analyze verify", &[unit]),
            _ => Hint::command("ladylinux-refresh init", &[]),
        };
        return Err(Failure::new(why).hint(hint));
    }
    let watched = match facts.kind.as_str() {
        "simple" | "exec" | "notify" | "notify-reload" | "idle" | "dbus" => true,
        "forking" => !facts.pid_file.is_empty(),
        _ => false,
    };
    if !watched {
        let detail = if facts.kind == "forking" { " without PIDFile=" } else { "" };
        return Err(Failure::new(format!(
            "{unit} is of Type={}{detail}, so it has no main process to watch",
            facts.kind
        ))
        .command_for("set Type=simple, or notify, with", "systemctl edit --full", &[&unit]));
    }
    if facts.needs_reload {
        let what =
            facts.fragment.as_ref().map_or_else(|| unit.to_string(), |path| path.display().to_string());
        return Err(Failure::new(format!(
            "{what} or a drop-in of it was changed, and systemd still uses the old one"
        ))
        .command("systemctl daemon-reload", &[]));
    }
    Ok(())
}

/// Checks that a unit with processes has a main one. A unit of any type can lose it and stay active: its command begins
/// a process in the background and ends (`RemainAfterExit=yes`, `ExitType=cgroup`).
fn check_main(unit: &UnitName, main: Option<i32>) -> Outcome<()> {
    if main.is_some() {
        return Ok(());
    }
    let purpose = "let ExecStart= run the service in the foreground with";
    Err(Failure::new(format!("{unit} runs without a main process, so a refresh cannot watch its start"))
        .command_for(purpose, "systemctl edit --full", &[&unit])
        .command_for(
            "where that is corrected already, restart the service first",
            "systemctl restart",
            &[&unit],
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded() -> UnitFacts {
        UnitFacts { load: LoadState::Loaded, kind: "simple".to_owned(), ..UnitFacts::default() }
    }

    fn state_of(facts: &UnitFacts) -> ServiceState {
        state(&UnitName::usual(), facts)
    }

    #[test]
    fn a_unit_that_is_missing_or_masked_is_not_installed() {
        for (load, word) in [(LoadState::NotFound, "no unit"), (LoadState::Masked, "masked")] {
            let ServiceState::NotInstalled { why } = state_of(&UnitFacts { load, ..loaded() }) else {
                panic!("{load:?}")
            };
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn a_unit_that_was_masked_while_it_runs_is_still_running() {
        let own = ProcessId::own();
        let facts = UnitFacts {
            load: LoadState::Masked,
            active: ActiveState::Active,
            main_pid: Some(own.pid),
            ..UnitFacts::default()
        };
        assert_eq!(state_of(&facts).running().map(|running| running.main), Some(own));
    }

    #[test]
    fn a_unit_that_waits_for_its_restart_is_not_down_and_reports_how_it_ended() {
        let facts = UnitFacts {
            active: ActiveState::Activating,
            sub: "auto-restart".to_owned(),
            main_code: 1,
            main_status: 3,
            main_ended: Some(clock::now()),
            ..loaded()
        };
        let state = state_of(&facts);
        assert!(!state.is_down());
        assert!(state.to_string().contains("exit code 3"), "{state}");
    }

    #[test]
    fn units_without_a_main_process_are_refused_with_what_to_change() {
        let unit = UnitName::usual();
        for kind in ["simple", "exec", "notify"] {
            usable(&unit, &UnitFacts { kind: kind.to_owned(), ..loaded() }).unwrap();
        }
        for kind in ["oneshot", "forking"] {
            let failure = usable(&unit, &UnitFacts { kind: kind.to_owned(), ..loaded() }).unwrap_err();
            assert!(failure.summary().contains(kind), "{failure}");
            assert!(failure.hint_texts()[0].contains("Type=simple"));
        }
        let forking = UnitFacts { kind: "forking".to_owned(), pid_file: "/run/x.pid".to_owned(), ..loaded() };
        usable(&unit, &forking).unwrap();
        check_main(&unit, Some(7)).unwrap();
        let hints = check_main(&unit, None).unwrap_err().hint_texts().join("\n");
        assert!(hints.contains("foreground") && hints.contains("first: systemctl restart"), "{hints}");
    }

    #[test]
    fn a_unit_that_was_changed_and_not_reloaded_is_refused() {
        let changed = UnitFacts { needs_reload: true, ..loaded() };
        let failure = usable(&UnitName::usual(), &changed).unwrap_err();
        assert_eq!(failure.hint_texts(), ["systemctl daemon-reload"]);
    }
}
