//! Units that exist for one process: made over the bus, and removed when it has ended (org.freedesktop.systemd1(5),
//! `StartTransientUnit`).
//!
//! The process that started the unit holds it (`AddRef`): then its end can still be read. systemd forgets a unit that
//! no process holds, failed or not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zvariant::{OwnedObjectPath, Value};

use super::sandbox::{self, Places};
use super::{Bus, refused};
use crate::process::ExitKind;
use refresh_system::error::{Context as _, Outcome};

/// The request for a transient service.
#[derive(Debug)]
pub struct Transient<'a> {
    /// The unit's name.
    pub name: &'a str,
    /// Its description, for people.
    pub description: &'a str,
    /// Its program and arguments.
    pub command: Command,
    /// The command to start after its end, for any kind of end.
    pub after: Command,
    /// The file of its environment, in addition to the variables that systemd sets. Never as a property: every user can
    /// read those.
    pub variables: &'a Path,
    /// The file for its standard error.
    pub messages: &'a Path,
    /// How long it, and the command after it, may take to end when it is stopped.
    pub stop_limit: Duration,
    /// The directories that it may write to; the kernel refuses all others ([`super::sandbox`]).
    pub places: Places,
}

/// A program and its arguments.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// The arguments.
    pub arguments: Vec<String>,
}

impl Command {
    fn into_value(self) -> Value<'static> {
        exec(&self.program, &self.arguments)
    }
}

/// Returns the value of `ExecStart=` and its relatives on the bus.
///
/// `ExecStartEx`, which could disable the expansion of variables, is not used. systemd 252 and earlier write that key
/// into the unit's file and do not recognize it when they read the file again, so `systemctl daemon-reload` would
/// remove the unit's command. A doubled dollar means a dollar (systemd.service(5)).
pub(super) fn exec(program: &Path, arguments: &[String]) -> Value<'static> {
    let program = program.display().to_string();
    let words = std::iter::once(&program).chain(arguments).map(|word| word.replace('$', "$$"));
    Value::from(vec![(program.clone(), words.collect::<Vec<String>>(), false)])
}

/// The state of a transient service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransientState {
    /// It will be started, it runs, or the command after it runs.
    UnderWay,
    /// It has ended, and so has the command after it.
    ChildEnd(ExitKind),
    /// systemd does not have it: it has ended and no process held it, or it never existed.
    Unknown,
}

impl Bus {
    /// Starts a transient service outside the control group of the caller; returns when systemd has accepted it.
    ///
    /// When it is stopped, only its main process gets the signal, since that process ends the others properly.
    /// Processes that remain in its control group after the main process are killed.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn start_transient(&self, unit: Transient<'_>) -> Outcome<()> {
        let stop_limit = u64::try_from(unit.stop_limit.as_micros()).unwrap_or(u64::MAX);
        let mut properties: Vec<(&str, Value<'_>)> = vec![
            ("Description", Value::from(unit.description)),
            ("Type", Value::from("exec")),
            ("ExecStart", unit.command.into_value()),
            ("ExecStopPost", unit.after.into_value()),
            ("EnvironmentFiles", Value::from(vec![(unit.variables.display().to_string(), false)])),
            ("StandardErrorFileToAppend", Value::from(unit.messages.display().to_string())),
            ("KillMode", Value::from("mixed")),
            ("TimeoutStopUSec", Value::from(stop_limit)),
            // A child that is killed because memory is short is a failure that the main process reports.
            ("OOMPolicy", Value::from("continue")),
            ("CollectMode", Value::from("inactive-or-failed")),
            ("AddRef", Value::from(true)),
            // A unit that is started after the bus is stopped before it: the program needs the bus until its end.
            ("After", Value::from(vec!["dbus.service"])),
        ];
        properties.extend(sandbox::properties(self.version()?, &unit.places));
        self.start_transient_unit(unit.name, properties)
    }

    /// Makes a unit from `properties`, and starts it.
    pub(super) fn start_transient_unit(&self, name: &str, properties: Vec<(&str, Value<'_>)>) -> Outcome<()> {
        let none: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        self.call_manager_once::<_, OwnedObjectPath>("StartTransientUnit", &(name, "fail", properties, none))
            .map(drop)
            .map_err(refused)
            .context(|| format!("systemd does not start {name}"))
    }

    /// Returns the state of a transient service.
    ///
    /// # Errors
    /// systemd cannot be queried.
    pub fn transient_state(&self, name: &str) -> Outcome<TransientState> {
        let facts = self.unit(name)?;
        if facts.job.is_some() || !facts.is_down() {
            return Ok(TransientState::UnderWay);
        }
        Ok(facts.exit().map_or(TransientState::Unknown, TransientState::ChildEnd))
    }
}
