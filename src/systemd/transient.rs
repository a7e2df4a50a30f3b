//! Units that exist for one process: made over the bus, gone when it has ended (org.freedesktop.systemd1(5),
//! `StartTransientUnit`).
//!
//! The unit is held (`AddRef`) by whoever started it, so that how it ended can still be asked; a unit that nobody holds
//! any more is forgotten by systemd, failed or not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zbus::zvariant::{ObjectPath, OwnedObjectPath, Value};

use super::sandbox::{self, Places};
use super::unit::{SERVICE_INTERFACE, UNIT_INTERFACE};
use super::{Bus, refused};
use crate::error::{Context as _, Outcome};
use crate::service::ExitKind;

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// What waitid(2) calls the end of a process by its own exit.
const CLD_EXITED: i32 = 1;

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
    /// systemd knows nothing of it: it has ended and nobody held it, or it never was.
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
        let context = || format!("systemd does not start {}", unit.name);
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
            // A child that is ended for want of memory is a failure that the main process knows how to tell.
            ("OOMPolicy", Value::from("continue")),
            ("CollectMode", Value::from("inactive-or-failed")),
            ("AddRef", Value::from(true)),
            // What is started after the bus is stopped before it: the program speaks with systemd to its end.
            ("After", Value::from(vec!["dbus.service"])),
        ];
        properties.extend(sandbox::properties(self.version()?, &unit.places));
        let none: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        self.manager()?
            .call_method("StartTransientUnit", &(unit.name, "fail", properties, none))
            .map(drop)
            .map_err(refused)
            .context(context)
    }

    /// Returns what a transient service is doing.
    ///
    /// # Errors
    /// systemd cannot be asked.
    pub fn transient_state(&self, name: &str) -> Outcome<TransientState> {
        let context = || format!("systemd does not tell what {name} is doing");
        let path: OwnedObjectPath = match self.manager()?.call("GetUnit", &(name,)) {
            Ok(path) => path,
            Err(error) if is(&error, NO_SUCH_UNIT) => return Ok(TransientState::Unknown),
            Err(error) => return Err(refused(error)).context(context),
        };
        let path: ObjectPath<'_> = path.into_inner();
        let unit = self.object(path.as_str(), UNIT_INTERFACE)?;
        let service = self.object(path.as_str(), SERVICE_INTERFACE)?;
        let read = || -> zbus::Result<TransientState> {
            let (job, _): (u32, OwnedObjectPath) = unit.get_property("Job")?;
            let active: String = unit.get_property("ActiveState")?;
            if job != 0 || !matches!(active.as_str(), "inactive" | "failed") {
                return Ok(TransientState::UnderWay);
            }
            let (how, number): (i32, i32) =
                (service.get_property("ExecMainCode")?, service.get_property("ExecMainStatus")?);
            Ok(match how {
                0 => TransientState::Unknown,
                CLD_EXITED => TransientState::Ended(ExitKind::Code(number)),
                _ => TransientState::Ended(ExitKind::Signal(number)),
            })
        };
        match read() {
            Ok(state) => Ok(state),
            // It was forgotten between two questions.
            Err(zbus::Error::FDO(error)) if matches!(*error, zbus::fdo::Error::UnknownObject(_)) => {
                Ok(TransientState::Unknown)
            }
            Err(error) => Err(refused(error)).context(context),
        }
    }
}

fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == name)
}
