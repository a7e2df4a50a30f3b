//! The state of a unit in systemd, as one typed value.
//!
//! Source: org.freedesktop.systemd1(5), the interfaces Unit and Service. All properties of an interface come in one
//! call: those of a unit in transition are then as consistent as systemd can make them.

mod facts_from_properties;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use zvariant::{OwnedObjectPath, OwnedValue};

use super::properties::Properties;
use super::start_needs::StartNeeds;
use super::{Bus, MANAGER, MANAGER_INTERFACE};
use crate::process::ExitKind;
use refresh_system::error::{Context as _, Outcome};

pub(super) const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
pub(super) const PROPERTIES_INTERFACE: &str = "org.freedesktop.DBus.Properties";

/// The facts of one unit. Those of services are empty for units of other kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// Whether the unit could be loaded.
    pub load: LoadState,
    /// Why it could not be loaded, in systemd's words.
    pub load_error: Option<String>,
    /// The state that all kinds of units share.
    pub active: ActiveState,
    /// The state that its kind has (`running`, `auto-restart`, `dead`).
    pub sub: String,
    /// How it ended the last time (`success`, `timeout`, `start-limit-hit`).
    pub result: String,
    /// When it became active last since the boot.
    pub active_since: Option<Timestamp>,
    /// When it became inactive last since the boot.
    pub inactive_since: Option<Timestamp>,
    /// The main process's pid.
    pub main_pid: Option<i32>,
    /// The pid that the main process of this invocation has or had.
    pub last_main_pid: Option<i32>,
    /// When the main process was started.
    pub main_started: Option<Timestamp>,
    /// When the main process ended.
    pub main_ended: Option<Timestamp>,
    /// How the main process ended: the `si_code` of waitid(2); 0 while it runs.
    pub main_code: i32,
    /// The exit code or the signal that goes with it.
    pub main_status: i32,
    /// How often systemd has restarted it automatically.
    pub restarts: u32,
    /// systemd's ID of this invocation; that of the last one if the unit does not run, empty if systemd has forgotten
    /// it.
    pub invocation: String,
    /// Its cgroup below the root of the hierarchy; empty if it has none.
    pub control_group: String,
    /// The slice that its cgroup is made in.
    pub slice: String,
    /// `Type=`
    pub kind: String,
    /// `KillMode=`
    pub kill_mode: String,
    /// `TimeoutStopSec=`; `None`: no limit.
    pub stop_timeout: Option<Duration>,
    /// `TimeoutStartSec=`; `None`: no limit.
    pub start_timeout: Option<Duration>,
    /// `User=`; empty for root.
    pub user: String,
    /// `PIDFile=`
    pub pid_file: String,
    /// The unit's own file.
    pub fragment: Option<PathBuf>,
    /// The drop-ins that were read.
    pub drop_ins: Vec<PathBuf>,
    /// Whether files have changed since they were read.
    pub needs_reload: bool,
    /// `EnvironmentFile=`, all of them.
    pub environment_files: Vec<PathBuf>,
    /// The program that it is started with, as the unit names it.
    pub program: Option<PathBuf>,
    /// The words of `ExecStart=`, the program's own name first.
    pub command: Vec<String>,
    /// The words of all commands of `ExecStart=`: a job can have several.
    pub words: Vec<String>,
    /// `WorkingDirectory=`, without the prefixes; empty if it is not set.
    pub working_directory: String,
    /// `Environment=`, as `NAME=value`.
    pub environment: Vec<String>,
    /// The commands of `ExecCondition=`, `ExecStartPre=` and `ExecStartPost=` that failed at the last start.
    pub failed_commands: Vec<FailedCommand>,
    /// The paths and groups that must exist at the start.
    pub start_needs: StartNeeds,
    /// Units that must be loadable, else the start is refused: `Requires=`, `Requisite=`, `BindsTo=`.
    pub needs: Vec<String>,
    /// `Requisite=`: units that must already be active.
    pub requisites: Vec<String>,
    /// Units whose stop stops this one: the units that it needs, and `PartOf=`.
    pub stopped_by: Vec<String>,
    /// Units that systemd stops together with this one.
    pub stops: Vec<String>,
    /// Units that start this one, sockets among them.
    pub triggered_by: Vec<String>,
    /// Units that this one starts, or that have its sockets (`Sockets=`).
    pub triggers: Vec<String>,
    /// The addresses that a socket unit listens on: the kind (`Stream`, `Datagram`) and the address in systemd's form.
    pub listens: Vec<(String, String)>,
    /// Whether systemd accepts the connections of a socket unit, and starts an instance for each (`Accept=yes`).
    pub accepts: bool,
    /// Whether a start by name is refused.
    pub refuses_start: bool,
    /// Whether a stop by name is refused.
    pub refuses_stop: bool,
    /// `SuccessAction=`: what systemd does to the machine after each stop; `none` mostly.
    pub success_action: String,
    /// `FailureAction=`: the same after each failure.
    pub failure_action: String,
    /// The effect on the machine if it is started too often (`StartLimitAction=`): `none`, `reboot` …
    pub start_limit_action: String,
    /// `Assert…=`, all of them.
    pub assertions: Vec<Assertion>,
    /// Whether all conditions held when it was started last; if one did not, systemd skipped the start silently.
    pub conditions_held: bool,
    /// Whether the assertions held when it was started last.
    pub assertions_held: bool,
    /// `enabled`, `disabled`, `static` …
    pub file_state: String,
    /// The number of the job that is in progress.
    pub job: Option<u32>,
}

/// A command of a unit that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCommand {
    /// Its key (`ExecStartPre`).
    pub key: &'static str,
    /// Program and arguments, separated by spaces.
    pub command: String,
    /// How it ended.
    pub how: ExitKind,
}

/// Whether a unit could be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadState {
    /// It is loaded.
    Loaded,
    /// It has no file.
    #[default]
    NotFound,
    /// It is masked: a link to nothing. It cannot be started.
    Masked,
    /// Its file cannot be used.
    Bad,
}

/// The state that all kinds of units share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ActiveState {
    /// It is active (or reloads its configuration).
    Active,
    /// It is inactive.
    #[default]
    Inactive,
    /// It is inactive after a failure.
    Failed,
    /// It is starting, or waits for its next automatic restart.
    Activating,
    /// It is stopping.
    Deactivating,
}

/// An `Assert…=` of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// Its name (`AssertPathExists`).
    pub kind: String,
    /// With `|`: it is enough if one of these holds.
    pub triggering: bool,
    /// With `!`.
    pub negated: bool,
    /// The parameter of the assertion.
    pub parameter: String,
    /// Whether it held at the last check.
    pub held: Option<bool>,
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trigger, not) = (if self.triggering { "|" } else { "" }, if self.negated { "!" } else { "" });
        write!(f, "{}={trigger}{not}{}", self.kind, self.parameter)
    }
}

impl UnitFacts {
    /// Returns how the main process ended, if systemd still has that.
    pub fn exit(&self) -> Option<ExitKind> {
        exit_kind(self.main_code, self.main_status)
    }

    /// Returns whether no process of it should exist.
    pub fn is_down(&self) -> bool {
        matches!(self.active, ActiveState::Inactive | ActiveState::Failed)
    }

    /// Returns whether it has ended and waits until systemd starts it again (`Restart=`).
    pub fn awaits_restart(&self) -> bool {
        self.active == ActiveState::Activating && self.sub.starts_with("auto-restart")
    }
}

impl Bus {
    /// Reads a unit; one that does not exist has [`LoadState::NotFound`].
    ///
    /// # Errors
    /// systemd cannot be queried, or `name` is not the name of a unit.
    pub fn unit(&self, name: &str) -> Outcome<UnitFacts> {
        let context = || format!("cannot ask systemd about {name}");
        self.properties(name).and_then(|properties| properties.facts()).context(context)
    }

    /// Returns whether a unit is stopped, or not known to systemd. Costs less than [`Bus::unit`].
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn is_down(&self, name: &str) -> Outcome<bool> {
        let state: String = self
            .property(&unit_object(name), UNIT_INTERFACE, "ActiveState")
            .context(|| format!("cannot ask systemd about {name}"))?;
        Ok(matches!(state.as_str(), "inactive" | "failed"))
    }

    /// Returns the cgroup of a service; empty if it has none. Costs less than [`Bus::unit`].
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn control_group_of(&self, service: &str) -> Outcome<String> {
        self.property(&unit_object(service), SERVICE_INTERFACE, "ControlGroup")
            .context(|| format!("cannot ask systemd about {service}"))
    }

    /// Returns the memory that a service may use, in bytes; `None` if it has no limit.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn memory_limit(&self, service: &str) -> Outcome<Option<u64>> {
        let limit: u64 = self
            .property(&unit_object(service), SERVICE_INTERFACE, "MemoryMax")
            .context(|| format!("cannot ask systemd about {service}"))?;
        Ok(Some(limit).filter(|limit| *limit != u64::MAX))
    }

    /// Returns the units that are running or starting, and that conflict with `unit`.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn active_conflicts(&self, unit: &str) -> Outcome<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        for property in ["Conflicts", "ConflictedBy"] {
            let names: Vec<String> = self
                .property(&unit_object(unit), UNIT_INTERFACE, property)
                .context(|| format!("cannot ask systemd about {unit}"))?;
            for name in names {
                if !found.contains(&name) && !self.is_down(&name)? {
                    found.push(name);
                }
            }
        }
        Ok(found)
    }

    /// Returns the units that systemd is about to start and that a start of `unit` would wait for.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn awaited(&self, unit: &str) -> Outcome<Vec<String>> {
        let context = || "cannot ask systemd which units are on their way".to_owned();
        let jobs: Vec<ListedJob> = self.call_manager("ListJobs", &()).context(context)?;
        let starting = jobs.into_iter().filter(|(_, _, kind, ..)| kind == "start" || kind == "restart");
        let starting: Vec<String> = starting.map(|(_, name, ..)| name).filter(|name| name != unit).collect();
        if starting.is_empty() {
            return Ok(Vec::new());
        }
        let before: Vec<String> =
            self.property(&unit_object(unit), UNIT_INTERFACE, "After").context(context)?;
        Ok(starting.into_iter().filter(|name| before.contains(name)).collect())
    }

    /// Returns whether systemd is shutting down the machine.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn is_shutting_down(&self) -> Outcome<bool> {
        let state: String = self
            .property(MANAGER, MANAGER_INTERFACE, "SystemState")
            .context(|| "cannot ask systemd about the machine".to_owned())?;
        Ok(state == "stopping")
    }

    /// Returns the names of the services that are running or starting.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn active_services(&self) -> Outcome<Vec<String>> {
        let states = ["active", "activating", "reloading"];
        let listed: Vec<ListedUnit> = self
            .call_manager("ListUnitsByPatterns", &(states.as_slice(), ["*.service"].as_slice()))
            .context(|| "cannot ask systemd which services are up".to_owned())?;
        Ok(listed.into_iter().map(|(name, ..)| name).collect())
    }

    /// Returns the active timers, path units and socket units, each with the services that it starts. A socket that
    /// starts an instance for each connection has the instance `0`.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn active_triggers(&self) -> Outcome<Vec<(String, Vec<String>)>> {
        let patterns = ["*.timer", "*.path", "*.socket"];
        let context = || "cannot ask systemd which timers and sockets are active".to_owned();
        let listed: Vec<ListedUnit> = self
            .call_manager("ListUnitsByPatterns", &(["active"].as_slice(), patterns.as_slice()))
            .context(context)?;
        let with_services = |(name, ..): ListedUnit| {
            let mut starts: Vec<String> = self.property(&unit_object(&name), UNIT_INTERFACE, "Triggers")?;
            if let Some(stem) = name.strip_suffix(".socket").filter(|_| starts.is_empty()) {
                starts.push(format!("{stem}@0.service"));
            }
            Ok((name, starts))
        };
        listed.into_iter().map(with_services).collect::<Outcome<_>>().context(context)
    }

    /// Returns the number of the job that is in progress for the unit at `path`.
    pub(super) fn job_of(&self, path: &str) -> Outcome<Option<u32>> {
        let (number, _): (u32, OwnedObjectPath) = self.property(path, UNIT_INTERFACE, "Job")?;
        Ok((number != 0).then_some(number))
    }

    /// Returns one property of an object. The query is repeated if systemd left the bus before it answered.
    pub(super) fn property<T>(&self, path: &str, interface: &str, name: &str) -> Outcome<T>
    where
        T: TryFrom<OwnedValue>,
        T::Error: std::error::Error + Send + Sync + 'static,
    {
        let value: OwnedValue = self.call(path, PROPERTIES_INTERFACE, "Get", &(interface, name))?;
        T::try_from(value).context(|| format!("systemd's {name} is of another type"))
    }

    /// Returns the cgroup above all units.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn control_group(&self) -> Outcome<String> {
        self.property(MANAGER, MANAGER_INTERFACE, "ControlGroup")
    }

    /// Returns the properties of a unit, those of its kind among them. systemd reads the unit from its files if it is
    /// not loaded. No two interfaces of a unit have a property of the same name, so one call returns all of them.
    pub(super) fn properties(&self, name: &str) -> Outcome<Properties> {
        self.call(&unit_object(name), PROPERTIES_INTERFACE, "GetAll", &("",))
    }
}

/// Returns the object of a unit. Each byte except letters, and except digits after the first byte, becomes `_` and two
/// hexadecimal digits (`sd_bus_path_encode(3)`).
pub(super) fn unit_object(name: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// A unit in a list: name, description, states (load, active, sub), the unit that it follows, its object, its job
/// (number, kind, object).
type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A job in a list: number, unit, kind, state, its object, the object of its unit.
type ListedJob = (u32, String, String, String, OwnedObjectPath, OwnedObjectPath);

/// Returns how a process ended, by the `si_code` and the `si_status` of waitid(2): exited, killed, killed with a core
/// dump.
fn exit_kind(code: i32, status: i32) -> Option<ExitKind> {
    match code {
        1 => Some(ExitKind::Code(status)),
        2 | 3 => Some(ExitKind::Signal(status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
