//! The two files of settings as they are written: which keys each of them may have, and what a wrong one is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::de::DeTable;

use super::names::{BranchName, UnitName};
use super::{HookKind, IgnoredFiles, ImportCheck, ModelCheck, Strategy, Transport};
use crate::error::{Failure, Outcome};

/// The name of the application's file, at the root of the tree.
pub const APPLICATION_FILE: &str = "refresh.toml";

/// The host's file as written.
#[derive(Debug, Clone, Default, Deserialize)]
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
    /// How environments are made.
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

#[derive(Debug, Clone, Default, Deserialize)]
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
    pub(super) deadline: Option<Span>,
    pub(super) stall: Option<Span>,
}

/// The table of the host's file that says how environments are made.
#[derive(Debug, Clone, Default, Deserialize)]
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
    pub(super) deadline: Option<Span>,
    pub(super) imports: Option<Vec<String>>,
    pub(super) import_check: Option<ImportCheck>,
}

/// Whether the service is started with its listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "`true`, `false` or the IP address to listen on")]
pub(super) enum SocketSetting {
    /// Whether, on the loopback interface.
    Loopback(bool),
    /// On this address.
    Address(std::net::IpAddr),
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServiceTable {
    pub(super) unit: Option<UnitName>,
    pub(super) also: Option<Vec<UnitName>>,
    pub(super) command: Option<Vec<String>>,
    pub(super) stop_timeout: Option<Span>,
    pub(super) allow_root_exec: Option<Vec<String>>,
    pub(super) socket: Option<SocketSetting>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProbeTable {
    pub(super) url: Option<String>,
    pub(super) path: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) json_field: Option<String>,
    pub(super) json_value: Option<String>,
    pub(super) body: Option<String>,
    pub(super) deadline: Option<Span>,
    pub(super) settle: Option<Span>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ModelsTable {
    pub(super) verify: Option<ModelCheck>,
    pub(super) stores: Option<Vec<PathBuf>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
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
    pub(super) deadline: Option<Span>,
    #[serde(default)]
    pub(super) stage: bool,
}

/// A duration as people write it: `60s`, `2m 30s`, `500ms`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Reads a duration with its unit.
///
/// # Errors
/// No unit, a negative or an unreadable duration.
pub(crate) fn parse_duration(text: &str) -> Outcome<Duration> {
    let told = || Failure::new(format!("{text:?} is not a duration such as \"60s\", \"2m\" or \"500ms\""));
    let signed: jiff::SignedDuration = text.parse().map_err(|error| told().because(error))?;
    Duration::try_from(signed).map_err(|error| told().because(error))
}

/// Who wrote a file, and so what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// People, on the host.
    Host,
    /// Whoever can push to the branch.
    Application,
}

/// The keys of the host's file, by table; the empty name is the top.
pub const HOST_KEYS: [(&str, &[&str]); 8] = [
    (
        "",
        &[
            "branch",
            "allowed_branches",
            "strict_order",
            "preserve",
            "ignored",
            "keep",
            "store",
            "remote",
            "python",
            "service",
            "probe",
            "models",
            "security",
            "hook",
        ],
    ),
    (
        "remote",
        &[
            "url",
            "allow",
            "token_file",
            "token_user",
            "credential_helper",
            "ssh_key",
            "known_hosts",
            "proxy",
            "ca_file",
            "deadline",
            "stall",
        ],
    ),
    (
        "python",
        &[
            "interpreter",
            "strategy",
            "definitions",
            "extras",
            "groups",
            "also",
            "strict",
            "index_url",
            "indexes",
            "allow_source",
            "deadline",
            "imports",
            "import_check",
        ],
    ),
    ("service", &["unit", "also", "command", "stop_timeout", "allow_root_exec", "socket"]),
    ("probe", &["url", "path", "status", "json_field", "json_value", "body", "deadline", "settle"]),
    ("models", &["verify", "stores"]),
    ("security", &["require"]),
    ("hook", &["name", "kind", "command", "deadline", "stage"]),
];

/// The keys of the application's file.
pub const APPLICATION_KEYS: [(&str, &[&str]); 3] = [
    ("", &["definitions", "extras", "groups", "probe", "hook"]),
    ("probe", &["path"]),
    ("hook", HOST_KEYS[7].1),
];

/// Reads a file into its tables.
///
/// # Errors
/// It is no TOML, has a key that its author may not set, or a value that cannot be used; each with line and column.
pub(super) fn parse<'a, T: Deserialize<'a> + Default>(
    text: &'a str,
    path: &Path,
    author: Author,
) -> Outcome<T> {
    let place = |offset: usize| {
        let before = &text[..offset.min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
        format!("{}, line {line}, column {column}", path.display())
    };
    let told = |error: &toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        Failure::new(format!("{}: {}", place(offset), in_words(error.message())))
    };
    let table = DeTable::parse(text).map_err(|error| told(&error))?;
    for (key, value) in table.get_ref() {
        let (name, offset) = (key.get_ref().as_ref(), key.span().start);
        check_key("", name, author).map_err(|why| Failure::new(format!("{}: {why}", place(offset))))?;
        let mut tables = Vec::new();
        match value.get_ref() {
            toml::de::DeValue::Table(table) => tables.push(table),
            toml::de::DeValue::Array(items) => {
                tables.extend(items.iter().filter_map(|item| item.get_ref().as_table()));
            }
            _ => {}
        }
        for inner in tables.iter().flat_map(|table| table.keys()) {
            let (inner, offset) = (inner.get_ref().as_ref(), inner.span().start);
            check_key(name, inner, author)
                .map_err(|why| Failure::new(format!("{}: {why}", place(offset))))?;
        }
    }
    toml::from_str(text).map_err(|error| told(&error))
}

/// Says what the parser found wrong with a value without its words for types.
fn in_words(message: &str) -> String {
    let of_a_type = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    if let Some((found, wanted)) = of_a_type.and_then(|rest| rest.split_once(", expected ")) {
        let wanted = match wanted {
            "usize" | "u16" | "u32" | "u64" => "a whole number",
            "a sequence" => "a list in brackets",
            "a string" | "path string" => "a text in quotes",
            "a boolean" => "true or false",
            "a map" => "a table",
            other if other.starts_with("struct ") => "a table",
            other => other,
        };
        let found = match found.strip_prefix("string ") {
            Some(text) => text,
            None if found == "sequence" => "a list",
            None if found == "map" => "a table",
            None => found.split_once(' ').map_or(found, |(_, value)| value.trim_matches('`')),
        };
        return format!("{found} stands where {wanted} belongs");
    }
    if let Some((found, known)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        let known = known.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ");
        return format!("{found:?} is none of {known}");
    }
    message.to_owned()
}

/// Returns what is wrong with a key, with the nearest right one.
fn check_key(table: &str, key: &str, author: Author) -> Result<(), String> {
    let of = |keys: &[(&'static str, &'static [&'static str])]| -> &'static [&'static str] {
        keys.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| keys)
    };
    let (host, application) = (of(&HOST_KEYS), of(&APPLICATION_KEYS));
    let known = if author == Author::Host { host } else { application };
    if known.contains(&key) {
        return Ok(());
    }
    let full = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    if author == Author::Application && host.contains(&key) {
        return Err(format!(
            "the application may not set `{full}`: it may set hooks, definitions (with extras and groups) and the probe's path"
        ));
    }
    if full == "python.installer" {
        return Err("`python.installer` is gone: uv makes every environment now; remove this line".to_owned());
    }
    match nearest(key, known) {
        Some(near) => Err(format!("unknown key `{full}`; did you mean `{near}`?")),
        None => Err(format!("unknown key `{full}`; known here: {}", known.join(", "))),
    }
}

/// Returns the candidate most like `word`, where one is like it at all.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}
