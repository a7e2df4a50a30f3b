//! The only access to systemd: its manager on the system bus (org.freedesktop.systemd1(5)).
//!
//! Answers are typed, so no code parses the text that `systemctl` writes for people. Every call is an ordinary blocking
//! one ([`connection`]).

mod connection;
pub mod file;
pub mod job;
mod message;
pub(crate) mod process_unit;
mod properties;
pub(crate) mod property;
pub mod root_exec;
pub mod sandbox;
pub mod start_needs;
mod time;
pub mod transient;
pub mod unit;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zvariant::{DynamicType, Type};

use connection::{CallError, Connection};
use message::Call;

use refresh_system::clock;
use refresh_system::error::{Context as _, Failure, Outcome};

/// The name of the manager on the bus.
const DESTINATION: &str = "org.freedesktop.systemd1";
/// The object that is the manager.
const MANAGER: &str = "/org/freedesktop/systemd1";
/// The interface of the manager.
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// How long systemd may be absent from the bus: it leaves the bus while it is executed again.
const ABSENCE: Duration = Duration::from_secs(10);
/// How often a call is repeated meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// Returns whether systemd is this machine's PID 1 (`sd_booted(3)`).
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A link that was made or removed: the kind of change, the path and the target.
type FileChange = (String, String, String);

/// A connection to systemd.
#[derive(Debug, Clone)]
pub struct Bus {
    connection: Arc<Connection>,
}

impl Bus {
    /// Returns the connection of this process to the system bus; opens a new one if none is alive.
    ///
    /// # Errors
    /// The bus does not exist, or it refuses us.
    pub fn connect() -> Outcome<Self> {
        static SHARED: Mutex<Option<Bus>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bus) = shared.as_ref().filter(|bus| !bus.is_lost()) {
            return Ok(bus.clone());
        }
        Ok(shared.insert(Self::open()?).clone())
    }

    fn open() -> Outcome<Self> {
        let connection = Connection::open(DESTINATION)
            .context(|| "cannot reach systemd over D-Bus".to_owned())
            .map_err(|failure| failure.command("systemctl status dbus.socket", &[]))?;
        Ok(Self { connection: Arc::new(connection) })
    }

    /// Returns systemd's version, the number alone.
    ///
    /// # Errors
    /// systemd cannot be queried, or its answer contains no number.
    pub fn version(&self) -> Outcome<u32> {
        static KNOWN: OnceLock<u32> = OnceLock::new();
        if let Some(known) = KNOWN.get() {
            return Ok(*known);
        }
        let context = || "cannot read the version of systemd".to_owned();
        let text: String = self.property(MANAGER, MANAGER_INTERFACE, "Version").context(context)?;
        let version = version_in(&text).ok_or_else(|| {
            Failure::new(context()).because(Failure::new(format!("{text:?} holds no number")))
        })?;
        Ok(*KNOWN.get_or_init(|| version))
    }

    /// Returns whether the connection was lost; it is not restored automatically.
    pub(crate) fn is_lost(&self) -> bool {
        self.connection.is_lost()
    }

    /// Calls a method of the manager that may be repeated ([`Bus::call`]).
    fn call_manager<B, R>(&self, method: &str, body: &B) -> Outcome<R>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        self.call(MANAGER, MANAGER_INTERFACE, method, body)
    }

    /// Calls a method of the manager once.
    fn call_manager_once<B, R>(&self, method: &str, body: &B) -> Result<R, CallError>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        self.connection.call(&Call::new(DESTINATION, MANAGER, MANAGER_INTERFACE, method), body)
    }

    /// Calls a method of the manager and ignores its result.
    fn order_manager<B: Serialize + DynamicType>(&self, method: &str, body: &B) {
        let call = Call::new(DESTINATION, MANAGER, MANAGER_INTERFACE, method);
        let _ = self.connection.order(&call, body);
    }

    /// Calls a method. It is called again if systemd left the bus before it answered, so the method must have the same
    /// effect if it is called twice.
    fn call<B, R>(&self, path: &str, interface: &str, method: &str, body: &B) -> Outcome<R>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        let end = clock::monotonic() + ABSENCE;
        loop {
            match self.connection.call(&Call::new(DESTINATION, path, interface, method), body) {
                Err(error) if is_away(&error) && clock::monotonic() < end => clock::sleep_uninterrupted(TICK),
                other => return other.map_err(refused),
            }
        }
    }

    /// Makes systemd read its units again.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn reload(&self) -> Outcome<()> {
        self.call_manager::<_, ()>("Reload", &()).context(|| "systemd cannot reload its units".to_owned())
    }

    /// Makes systemd forget the failure of a unit, and how often it was started recently.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn reset_failed(&self, unit: &str) -> Outcome<()> {
        self.call_manager::<_, ()>("ResetFailedUnit", &(unit,))
            .context(|| format!("systemd cannot forget the failure of {unit}"))
    }

    /// Makes systemd start units at boot, or by the other triggers in their files, and reloads all units.
    ///
    /// # Errors
    /// A unit is missing, or cannot be enabled.
    pub fn enable(&self, units: &[&str]) -> Outcome<()> {
        self.call_manager::<_, (bool, Vec<FileChange>)>("EnableUnitFiles", &(units, false, false))
            .context(|| format!("systemd cannot enable {}", units.join(", ")))?;
        self.reload()
    }

    /// Makes systemd no longer start units at boot, and reloads all units.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn disable(&self, units: &[&str]) -> Outcome<()> {
        self.call_manager::<_, Vec<FileChange>>("DisableUnitFiles", &(units, false))
            .context(|| format!("systemd cannot disable {}", units.join(", ")))?;
        self.reload()
    }

    /// Makes systemd keep the state of a unit while this connection lives; otherwise it forgets a unit that has ended,
    /// and how it ended.
    ///
    /// # Errors
    /// systemd refuses, or the unit does not exist.
    pub fn remember(&self, unit: &str) -> Outcome<()> {
        self.call_manager::<_, ()>("RefUnit", &(unit,))
            .context(|| format!("systemd cannot keep the state of {unit}"))
    }
}

/// Reads the number of a version such as `252.39-1~deb12u2` or `v256.7`.
fn version_in(text: &str) -> Option<u32> {
    let text = text.trim_start_matches('v');
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Returns whether systemd was not on the bus, or left it before it answered.
fn is_away(error: &CallError) -> bool {
    const AWAY: [&str; 3] = ["NoReply", "ServiceUnknown", "NameHasNoOwner"];
    let CallError::Refused { name, .. } = error else { return false };
    name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| AWAY.contains(&name))
}

/// Returns the text of systemd's answer, without the name of the error, which is for programs.
fn refused(error: CallError) -> Failure {
    match error {
        CallError::Refused { text: Some(text), .. } => Failure::new(text),
        CallError::Refused { name, text: None } => {
            Failure::new("the call of systemd failed").because(Failure::new(name))
        }
        CallError::Failed(failure) => Failure::new("the call of systemd failed").because(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_number() {
        assert_eq!(version_in("252.39-1~deb12u2"), Some(252));
        assert_eq!(version_in("v256.7"), Some(256));
        assert_eq!(version_in("247"), Some(247));
        assert_eq!(version_in("unknown"), None);
    }
}
