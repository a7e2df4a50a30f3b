//! Values in the form in which people write them in the files of settings.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use refresh_system::error::{Failure, Outcome};

/// Whether the service is started with its listening socket.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`true`, `false` or the IP address to listen on")]
enum SocketSetting {
    /// Whether, on the loopback interface.
    Loopback(bool),
    /// On this address.
    Address(IpAddr),
}

/// The address of a listening socket as people write it: `true` is the loopback interface, `false` is none.
pub(super) mod listening_address {
    use super::{Deserialize, Deserializer, IpAddr, Ipv4Addr, Serialize, Serializer, SocketSetting};

    #[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(
        address: &Option<IpAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            None => serializer.serialize_bool(false),
            Some(address) if *address == Ipv4Addr::LOCALHOST => serializer.serialize_bool(true),
            Some(address) => address.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IpAddr>, D::Error> {
        Ok(match SocketSetting::deserialize(deserializer)? {
            SocketSetting::Loopback(wanted) => wanted.then_some(Ipv4Addr::LOCALHOST.into()),
            SocketSetting::Address(address) => Some(address),
        })
    }
}

/// A duration as people write it: `60s`, `2m 30s`, `500ms`.
pub(super) mod duration_text {
    use super::{Deserialize, Deserializer, Duration, Serializer, parse_duration};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let ms = duration.as_millis();
        let text = match ms / 1000 {
            _ if !ms.is_multiple_of(1000) => format!("{ms}ms"),
            seconds if seconds >= 3600 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
            seconds if seconds > 60 && seconds % 60 == 0 => format!("{}m", seconds / 60),
            seconds => format!("{seconds}s"),
        };
        serializer.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Reads a duration with its unit.
///
/// # Errors
/// No unit, a negative or an unreadable duration.
pub fn parse_duration(text: &str) -> Outcome<Duration> {
    let invalid = || Failure::new(format!("{text:?} is not a duration such as \"60s\", \"2m\" or \"500ms\""));
    let signed: jiff::SignedDuration = text.parse().map_err(|error| invalid().because(error))?;
    Duration::try_from(signed).map_err(|error| invalid().because(error))
}
