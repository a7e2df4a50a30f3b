//! The one door to systemd: its manager on the system bus (org.freedesktop.systemd1(5)).
//!
//! What is asked comes back typed, so nothing here reads the text that `systemctl` writes for people. The library runs its
//! connection on a thread of its own; to this program every call is an ordinary blocking one.

pub mod file;
pub mod job;
pub mod process_unit;
mod properties;
pub mod property;
pub mod root_exec;
pub mod sandbox;
pub mod socket;
mod time;
pub mod transient;
pub mod unit;

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use zbus::blocking::connection::Builder;
use zbus::blocking::{Connection, Proxy};
use zbus::zvariant::{DynamicDeserialize, DynamicType};

use crate::clock;
use crate::error::{Context as _, Failure, Outcome};

/// The name of the manager on the bus.
const DESTINATION: &str = "org.freedesktop.systemd1";
/// The object that is the manager.
const MANAGER: &str = "/org/freedesktop/systemd1";
/// The interface of the manager.
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// How long one call may take. Jobs are awaited by their signals, not by calls.
const CALL: Duration = Duration::from_secs(30);

/// How long systemd may be away from the bus: it leaves it while it is executed again.
const ABSENCE: Duration = Duration::from_secs(10);
/// How often it is asked for meanwhile.
const TICK: Duration = Duration::from_millis(20);

/// Returns whether systemd is this machine's PID 1 (`sd_booted(3)`).
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A link that was made or removed: which of the two, where, and where to.
type FileChange = (String, String, String);

/// A connection to systemd.
#[derive(Debug, Clone)]
pub struct Bus {
    connection: Connection,
}

impl Bus {
    /// Returns the connection of this process to the system bus, a new one where there is none that lives.
    ///
    /// # Errors
    /// There is no bus, or it does not take us.
    pub fn connect() -> Outcome<Self> {
        static SHARED: Mutex<Option<Bus>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bus) = shared.as_ref().filter(|bus| !bus.is_lost()) {
            return Ok(bus.clone());
        }
        Ok(shared.insert(Self::open()?).clone())
    }

    fn open() -> Outcome<Self> {
        let connection = Builder::system()
            .and_then(|builder| builder.method_timeout(CALL).build())
            .context(|| "cannot reach systemd over D-Bus".to_owned())
            .map_err(|failure| failure.hint("systemctl status dbus.socket"))?;
        Ok(Self { connection })
    }

    /// Returns systemd's version, the number alone.
    ///
    /// # Errors
    /// systemd cannot be asked, or its answer holds no number.
    pub fn version(&self) -> Outcome<u32> {
        static KNOWN: OnceLock<u32> = OnceLock::new();
        if let Some(known) = KNOWN.get() {
            return Ok(*known);
        }
        let context = || "cannot read the version of systemd".to_owned();
        let text: String = self.manager()?.get_property("Version").map_err(refused).context(context)?;
        let version = version_in(&text).ok_or_else(|| {
            Failure::new(context()).because(Failure::new(format!("{text:?} holds no number")))
        })?;
        Ok(*KNOWN.get_or_init(|| version))
    }

    /// Returns whether the connection was lost; it does not come back by itself.
    pub fn is_lost(&self) -> bool {
        self.connection.is_closed()
    }

    /// Returns the manager.
    fn manager(&self) -> Outcome<Proxy<'_>> {
        self.object(MANAGER, MANAGER_INTERFACE)
    }

    /// Returns an object of systemd as one of its interfaces. Its properties are asked for each time: a cached one may be
    /// older than the job that was just awaited.
    fn object<'a>(&'a self, path: &'a str, interface: &'a str) -> Outcome<Proxy<'a>> {
        zbus::blocking::proxy::Builder::new(&self.connection)
            .destination(DESTINATION)
            .and_then(|builder| builder.path(path))
            .and_then(|builder| builder.interface(interface))
            .map(|builder| builder.cache_properties(zbus::proxy::CacheProperties::No))
            .and_then(zbus::blocking::proxy::Builder::build)
            .context(|| format!("cannot talk about {path} with systemd"))
    }

    /// Calls a method of the manager that may be called twice ([`Bus::call`]).
    fn call_manager<B, R>(&self, method: &str, body: &B) -> Outcome<R>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        self.call(MANAGER, MANAGER_INTERFACE, method, body)
    }

    /// Calls a method. It is called again when systemd left the bus before it answered, so it has to be one that does no
    /// more when it is called twice.
    fn call<B, R>(&self, path: &str, interface: &str, method: &str, body: &B) -> Outcome<R>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        let end = clock::monotonic() + ABSENCE;
        loop {
            match self.connection.call_method(Some(DESTINATION), path, Some(interface), method, body) {
                Err(error) if is_away(&error) && clock::monotonic() < end => clock::pause_regardless(TICK),
                Err(error) => return Err(refused(error)),
                Ok(reply) => return reply.body().deserialize().map_err(refused),
            }
        }
    }

    /// Makes systemd read its units again.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn reload(&self) -> Outcome<()> {
        self.call_manager::<_, ()>("Reload", &()).context(|| "systemd cannot read its units anew".to_owned())
    }

    /// Forgets the failure of a unit, and how often it was started lately.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn reset_failed(&self, unit: &str) -> Outcome<()> {
        self.call_manager::<_, ()>("ResetFailedUnit", &(unit,))
            .context(|| format!("systemd cannot forget the failure of {unit}"))
    }

    /// Has units started at boot, or by whatever else their files name. systemd has to read its units again afterwards
    /// ([`Bus::reload`]).
    ///
    /// # Errors
    /// A unit is missing, or cannot be enabled.
    pub fn enable(&self, units: &[&str]) -> Outcome<()> {
        self.call_manager::<_, (bool, Vec<FileChange>)>("EnableUnitFiles", &(units, false, false))
            .map(drop)
            .context(|| format!("systemd cannot enable {}", units.join(", ")))
    }

    /// Has units not started at boot any more. systemd has to read its units again afterwards ([`Bus::reload`]).
    ///
    /// # Errors
    /// systemd refuses.
    pub fn disable(&self, units: &[&str]) -> Outcome<()> {
        self.call_manager::<_, Vec<FileChange>>("DisableUnitFiles", &(units, false))
            .map(drop)
            .context(|| format!("systemd cannot disable {}", units.join(", ")))
    }

    /// Keeps what systemd knows of a unit for as long as this connection lives; otherwise it forgets a unit that has
    /// ended, and with it how it ended.
    ///
    /// # Errors
    /// systemd refuses, or there is no such unit.
    pub fn remember(&self, unit: &str) -> Outcome<()> {
        self.call_manager::<_, ()>("RefUnit", &(unit,))
            .context(|| format!("systemd cannot keep what it knows of {unit}"))
    }
}

/// Reads the number of a version such as `252.39-1~deb12u2` or `v256.7`.
fn version_in(text: &str) -> Option<u32> {
    let text = text.trim_start_matches('v');
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Returns whether systemd was not on the bus, or left it before it answered.
fn is_away(error: &zbus::Error) -> bool {
    const AWAY: [&str; 3] = ["NoReply", "ServiceUnknown", "NameHasNoOwner"];
    let zbus::Error::MethodError(name, ..) = error else { return false };
    name.as_str().strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|name| AWAY.contains(&name))
}

/// Returns what systemd answered in its own words, without the name of the error, which is for programs.
pub(crate) fn refused(error: zbus::Error) -> Failure {
    match error {
        zbus::Error::MethodError(_, Some(text), _) => Failure::new(text),
        other => Failure::new("the talk with systemd went wrong").because(other),
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
