//! The state of a socket unit in systemd, as one typed value (org.freedesktop.systemd1(5), the interfaces Unit and
//! Socket).

use super::Bus;
use refresh_system::error::{Context as _, Outcome};

/// The facts of one socket unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketFacts {
    /// Its state, as systemd names it (`active`, `failed`).
    pub active: String,
    /// How it ended the last time (`success`, `trigger-limit-hit`).
    pub result: String,
    /// The addresses that it listens on: the kind (`Stream`, `Datagram`) and the address in systemd's form.
    pub listens: Vec<(String, String)>,
    /// Whether systemd accepts the connections itself and starts an instance for each (`Accept=yes`).
    pub accepts: bool,
    /// The units that it starts, or that have its sockets (`Sockets=`).
    pub triggers: Vec<String>,
}

impl Bus {
    /// Reads a socket unit.
    ///
    /// # Errors
    /// systemd cannot be queried, or `name` is not the name of a unit.
    pub fn socket(&self, name: &str) -> Outcome<SocketFacts> {
        let context = || format!("cannot ask systemd about {name}");
        let unit = self.properties(name).context(context)?;
        Ok(SocketFacts {
            active: unit.text("ActiveState"),
            result: unit.text("Result"),
            listens: unit.value("Listen").unwrap_or_default(),
            accepts: unit.value("Accept").unwrap_or_default(),
            triggers: unit.units(&["Triggers"]),
        })
    }
}
