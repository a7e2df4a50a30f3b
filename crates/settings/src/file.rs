//! The two files of settings as they are written: their tables and keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use refresh_system::error::{Failure, Outcome};

use super::names::{BranchName, UnitName};
use super::{HookKind, IgnoredFiles, ImportCheck, ModelCheck, Strategy, Transport};

/// The name of the application's file, at the root of the tree.
pub const APPLICATION_FILE: &str = "refresh.toml";

/// The host's file as written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostFile {
    pub(super) branch: Option<BranchName>,
    pub(super) allowed_branches: Option<Vec<BranchName>>,
    pub(super) strict_order: Option<bool>,
    pub(super) preserve: Option<Vec<String>>,
    pub(super) ignored: Option<IgnoredFiles>,
    pub(super) keep: Option<usize>,
    pub(super) store: Option<PathBuf>,
    pub(super) remote: RemoteTable,
    /// How environments are built.
    pub python: PythonTable,
    pub(super) service: ServiceTable,
    pub(super) probe: ProbeTable,
    pub(super) models: ModelsTable,
    pub(super) security: SecurityTable,
    pub(super) hook: Vec<HookTable>,
}

/// The application's file as written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApplicationFile {
    /// The patterns of the dependency definitions.
    pub definitions: Option<Vec<String>>,
    /// The extras.
    pub extras: Option<Vec<String>>,
    /// The dependency groups.
    pub groups: Option<Vec<String>>,
    pub(super) probe: ApplicationProbe,
    pub(super) hook: Vec<HookTable>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ApplicationProbe {
    pub(super) path: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RemoteTable {
    pub(super) url: Option<String>,
    pub(super) allow: Option<Vec<Transport>>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) token_user: Option<String>,
    pub(super) credential_helper: Option<String>,
    pub(super) ssh_key: Option<PathBuf>,
    pub(super) known_hosts: Option<PathBuf>,
    pub(super) proxy: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) deadline: Option<DurationText>,
    pub(super) stall: Option<DurationText>,
}

/// The table of the host's file for the way environments are built.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PythonTable {
    pub(super) interpreter: Option<String>,
    pub(super) strategy: Option<Strategy>,
    /// The patterns of the dependency definitions.
    pub definitions: Option<Vec<String>>,
    /// The extras.
    pub extras: Option<Vec<String>>,
    /// The dependency groups.
    pub groups: Option<Vec<String>>,
    pub(super) strict: Option<bool>,
    pub(super) also: Option<PathBuf>,
    pub(super) index_url: Option<String>,
    pub(super) indexes: Option<BTreeMap<String, String>>,
    pub(super) allow_source: Option<bool>,
    pub(super) system_site_packages: Option<bool>,
    pub(super) deadline: Option<DurationText>,
    pub(super) imports: Option<Vec<String>>,
    pub(super) import_check: Option<ImportCheck>,
}

/// Whether the service is started with its listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`true`, `false` or the IP address to listen on")]
pub(super) enum SocketSetting {
    /// Whether, on the loopback interface.
    Loopback(bool),
    /// On this address.
    Address(std::net::IpAddr),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServiceTable {
    pub(super) unit: Option<UnitName>,
    pub(super) also: Option<Vec<UnitName>>,
    pub(super) command: Option<Vec<String>>,
    pub(super) stop_timeout: Option<DurationText>,
    pub(super) allow_root_exec: Option<Vec<String>>,
    pub(super) socket: Option<SocketSetting>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProbeTable {
    pub(super) url: Option<String>,
    pub(super) path: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    pub(super) status: Option<u16>,
    pub(super) json_field: Option<String>,
    pub(super) json_value: Option<String>,
    pub(super) body: Option<String>,
    pub(super) deadline: Option<DurationText>,
    pub(super) settle: Option<DurationText>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ModelsTable {
    pub(super) verify: Option<ModelCheck>,
    pub(super) stores: Option<Vec<PathBuf>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SecurityTable {
    pub(super) require: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HookTable {
    pub(super) name: String,
    pub(super) kind: HookKind,
    pub(super) command: Vec<String>,
    pub(super) deadline: Option<DurationText>,
    #[serde(default)]
    pub(super) stage: bool,
}

/// A duration as people write it: `60s`, `2m 30s`, `500ms`.
#[derive(Debug, Clone, Copy)]
pub(super) struct DurationText(pub(super) Duration);

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ms = self.0.as_millis();
        let text = match ms / 1000 {
            _ if !ms.is_multiple_of(1000) => format!("{ms}ms"),
            seconds if seconds >= 3600 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
            seconds if seconds > 60 && seconds % 60 == 0 => format!("{}m", seconds / 60),
            seconds => format!("{seconds}s"),
        };
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
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

/// The author of a file, who decides which keys it may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// People, on the host.
    Host,
    /// Everyone who can push to the branch.
    Application,
}
