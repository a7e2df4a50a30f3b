//! Socket units that start the service. One that listens on the port of the service and starts nothing else belongs to
//! the service: it stays open during a refresh, and connections wait in its backlog. Pure.

use std::net::SocketAddr;

use refresh_system::error::{Failure, Outcome};

/// The first version of systemd that reads drop-ins of transient units: the unit that holds a socket has one.
const HOLDS_SINCE: u32 = 252;

/// A socket unit that starts the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketUnit {
    /// Its name.
    pub unit: String,
    /// Whether it is open. systemd closes it if the service cannot be started.
    pub is_open: bool,
    /// Whether systemd accepts the connections itself (`Accept=yes`).
    pub accepts: bool,
    /// Its addresses: the kind and the address, in the notation of systemd.
    pub listens: Vec<(String, String)>,
    /// The version of its systemd.
    pub systemd: u32,
    /// Further units that share its sockets.
    pub shared_with: Vec<String>,
}

impl SocketUnit {
    /// Checks that it is the socket unit of `service` alone, on `port`.
    ///
    /// # Errors
    /// It also starts other units, accepts connections itself, or listens elsewhere.
    pub fn check_own(&self, service: &str, port: u16) -> Outcome<()> {
        let Some(why) = self.why_not_own(port) else { return Ok(()) };
        let unit = &self.unit;
        Err(Failure::new(format!(
            "{unit} starts {service} for each connection, also during a refresh, and {why}"
        ))
        .command_for("correct it with", "systemctl edit --full", &[unit])
        .command_for("or", "systemctl disable --now", &[unit])
        .command_for("then", "systemctl restart", &[&service]))
    }

    fn why_not_own(&self, port: u16) -> Option<String> {
        if self.systemd < HOLDS_SINCE {
            let version = self.systemd;
            return Some(format!("systemd {HOLDS_SINCE} is needed to keep it open, and this is {version}"));
        }
        if self.accepts {
            return Some("has Accept=yes, so each connection starts an instance".to_owned());
        }
        if let Some(other) = self.shared_with.first() {
            return Some(format!("also starts {other}"));
        }
        let is_own = |(kind, address): &(String, String)| {
            kind == "Stream" && address.parse::<SocketAddr>().is_ok_and(|address| address.port() == port)
        };
        if self.listens.iter().any(is_own) {
            return None;
        }
        let places: Vec<&str> = self.listens.iter().map(|(_, address)| address.as_str()).collect();
        Some(format!("listens on {}, while the port of the service is {port}", places.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(listens: &[(&str, &str)]) -> SocketUnit {
        SocketUnit {
            unit: "api.socket".to_owned(),
            is_open: true,
            accepts: false,
            listens: listens.iter().map(|(kind, at)| ((*kind).to_owned(), (*at).to_owned())).collect(),
            systemd: HOLDS_SINCE,
            shared_with: Vec::new(),
        }
    }

    fn refusal(socket: &SocketUnit) -> String {
        socket.check_own("api.service", 8000).err().map(|it| it.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_socket_unit_is_that_of_the_service_if_it_listens_on_its_port_and_starts_no_other_unit() {
        assert_eq!(refusal(&socket(&[("Stream", "[::]:8000")])), "");
        assert_eq!(refusal(&socket(&[("Stream", "/run/x"), ("Stream", "127.0.0.1:8000")])), "");
        let elsewhere = refusal(&socket(&[("Stream", "127.0.0.1:8001"), ("Datagram", "[::]:8000")]));
        assert!(elsewhere.contains("listens on 127.0.0.1:8001, [::]:8000"), "{elsewhere}");
        let accepting = SocketUnit { accepts: true, ..socket(&[("Stream", "[::]:8000")]) };
        assert!(refusal(&accepting).contains("Accept=yes"));
        let shared =
            SocketUnit { shared_with: vec!["b.service".to_owned()], ..socket(&[("Stream", "[::]:8000")]) };
        assert!(refusal(&shared).contains("also starts b.service"));
        let older = SocketUnit { systemd: 247, ..socket(&[("Stream", "[::]:8000")]) };
        assert!(refusal(&older).contains("systemd 252 is needed"));
    }
}
