//! Units that exist for one process: made over the bus, gone when it has ended (org.freedesktop.systemd1(5),
//! `StartTransientUnit`).
//!
//! The process that started the unit holds it (`AddRef`), so that its end can still be read. systemd forgets a unit that no
//! process holds, failed or not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zvariant::{OwnedObjectPath, Value};

use super::sandbox::{self, Places};
use super::{Bus, refused};
use crate::process::ExitKind;
use refresh_system::error::{Context as _, Outcome};

/// A transient service, as it is asked for.
#[derive(Debug)]
pub struct Transient<'a> {
    /// The unit's name.
    pub name: &'a str,
    /// What it is, for people.
    pub description: &'a str,
    /// Its program and arguments.
    pub command: Command,
    /// What is started when that has ended, however it did.
    pub after: Command,
    /// The file of its environment, beside what systemd itself sets. Never as a property: those everybody can read.
    pub variables: &'a Path,
    /// Where its standard error goes.
    pub messages: &'a Path,
    /// How long it, and what comes after it, may take to end when it is stopped.
    pub stop_limit: Duration,
    /// Where it may write; the kernel keeps it from everything else ([`super::sandbox`]).
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
/// Not of `ExecStartEx`, which could switch the expansion of variables off: systemd writes that key into the unit's file
/// and does not know it when it reads the file again (systemd 252 and earlier), so `systemctl daemon-reload` would take
/// the unit's command away. A doubled dollar is a dollar (systemd.service(5)).
pub(super) fn exec(program: &Path, arguments: &[String]) -> Value<'static> {
    let program = program.display().to_string();
    let words = std::iter::once(&program).chain(arguments).map(|word| word.replace('$', "$$"));
    Value::from(vec![(program.clone(), words.collect::<Vec<String>>(), false)])
}

/// What a transient service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransientState {
    /// It is to be started, runs, or what comes after it does.
    UnderWay,
    /// All of it is over.
    Ended(ExitKind),
    /// systemd knows nothing of it: it has ended and no process held it, or it never existed.
    Unknown,
}

impl Bus {
    /// Starts a transient service outside the control group of the caller; returns when systemd has taken it on.
    ///
    /// Only its main process is asked to end when it is stopped, since that knows how to end the others; whatever is left
    /// in its control group after that process is killed.
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
            // A child that is ended for want of memory is a failure that the main process reports.
            ("OOMPolicy", Value::from("continue")),
            ("CollectMode", Value::from("inactive-or-failed")),
            ("AddRef", Value::from(true)),
            // What is started after the bus is stopped before it: the program speaks with systemd to its end.
            ("After", Value::from(vec!["dbus.service"])),
        ];
        properties.extend(sandbox::properties(self.version()?, &unit.places));
        self.start_transient_unit(unit.name, properties)
    }

    /// Makes a unit of `properties`, and starts it.
    pub(super) fn start_transient_unit(&self, name: &str, properties: Vec<(&str, Value<'_>)>) -> Outcome<()> {
        let none: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        self.call_manager_once::<_, OwnedObjectPath>("StartTransientUnit", &(name, "fail", properties, none))
            .map(drop)
            .map_err(refused)
            .context(|| format!("systemd does not start {name}"))
    }

    /// Returns what a transient service is doing.
    ///
    /// # Errors
    /// systemd cannot be asked.
    pub fn transient_state(&self, name: &str) -> Outcome<TransientState> {
        let facts = self.unit(name)?;
        if facts.job.is_some() || !facts.is_down() {
            return Ok(TransientState::UnderWay);
        }
        Ok(facts.exit().map_or(TransientState::Unknown, TransientState::Ended))
    }
}
