//! Usable configuration: defaults ← application's file ← host's file ← environment ← flags.
//!
//! The types in this module contain checked values only; [`layers`] has the raw text. [`Settings::origins`] are
//! those of values.

mod effective;
pub mod faults;
pub mod file;
pub mod keys;
pub mod layers;
pub mod layout;
pub mod model_stores;
pub mod names;
pub mod own_state;
mod parse;
mod remote_url;
pub mod text_forms;
pub mod trust;
pub mod users;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use layout::Layout;
use names::{BranchName, UnitName};
use serde::{Deserialize, Serialize};
use text_forms::{duration_text, listening_address};

/// The origin of a value; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// `refresh.toml` at the root of the pinned commit.
    Application,
    /// `/etc/ladylinux/refresh.toml`.
    #[default]
    Host,
    /// An option on the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "the application's refresh.toml",
            Self::Host => "the host's refresh.toml",
            Self::Flag => "the command line",
        })
    }
}

/// All settings of a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The paths.
    pub layout: Layout,
    /// The branch to follow if the command line names none.
    pub branch: Option<BranchName>,
    /// The branches that the application may request a refresh of.
    pub allowed_branches: Vec<BranchName>,
    /// Leaves staging out: everything happens inside the six steps.
    pub strict_order: bool,
    /// Patterns (globs below `app/`) of application state that stays in place.
    pub preserve: Vec<String>,
    /// What a run does with files below `app/` that the new commit's rules ignore.
    pub ignored: IgnoredFiles,
    /// Where the source comes from.
    pub remote: Remote,
    /// How the environment is built.
    pub python: Python,
    /// How the service is run.
    pub service: Service,
    /// The health check of the service.
    pub probe: Probe,
    /// The commands of step 4, the application's hooks first, each group in its order of declaration.
    pub hooks: Vec<Hook>,
    /// How models are verified.
    pub models: Models,
    /// The protection that the host must enforce.
    pub security: Security,
    /// How many good runs (their commits and environments) are kept for a rollback.
    pub keep: usize,
    /// The origins of values that are neither built in nor of the host's file, by key (`probe.path`).
    pub origins: BTreeMap<&'static str, Origin>,
}

impl Settings {
    /// Returns the branch to follow if the command line names none: the one that the host names, else the one deployed
    /// now, else `main`.
    pub fn branch_to_follow(&self, deployed: Option<BranchName>) -> BranchName {
        self.branch.clone().or(deployed).unwrap_or_else(BranchName::main)
    }
}

/// The remote: URL and how to reach it. Comes from the host only, never from `app/.git`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remote {
    /// The URL. Only [`Self::checked_url`] is used.
    pub url: Option<String>,
    /// The unprotected transports that the URL may have.
    pub allow: Vec<Transport>,
    /// A file that contains a token for https, readable by root (or the caller) only.
    pub token_file: Option<PathBuf>,
    /// The user name that goes with the token.
    pub token_user: String,
    /// A git credential helper, as in `credential.helper`.
    pub credential_helper: Option<String>,
    /// A private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// The known hosts for ssh; without it, the caller's own.
    pub known_hosts: Option<PathBuf>,
    /// A proxy for http and https.
    pub proxy: Option<String>,
    /// A file of certificates to trust for https.
    pub ca_file: Option<PathBuf>,
    /// How long one fetch may take.
    #[serde(with = "duration_text")]
    pub deadline: Duration,
    /// How long a fetch may receive nothing.
    #[serde(with = "duration_text")]
    pub stall: Duration,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            url: None,
            allow: Vec::new(),
            token_file: None,
            // The usual hosts accept any name.
            token_user: "x-access-token".to_owned(),
            credential_helper: None,
            ssh_key: None,
            known_hosts: None,
            proxy: None,
            ca_file: None,
            deadline: Duration::from_secs(600),
            stall: Duration::from_secs(60),
        }
    }
}

/// How a remote is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::AsRefStr, strum::EnumString)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", ascii_case_insensitive)]
pub enum Transport {
    /// `https://`
    Https,
    /// `http://`, unprotected: by explicit setting only.
    Http,
    /// `ssh://` or `user@host:path`
    Ssh,
    /// `git://`, unprotected: by explicit setting only.
    Git,
    /// `file://`: by explicit setting only.
    File,
}

/// A checked remote URL: of an allowed transport, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteUrl {
    /// The text that git gets.
    pub text: String,
    /// The transport it uses.
    pub transport: Transport,
}

/// The patterns of requirements files if the settings name none.
const DEFAULT_PATTERNS: [&str; 4] = ["requirements*.txt", "pyproject.toml", "uv.lock", "pylock.toml"];

/// How the environment is built.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Python {
    /// The interpreter: a name to search for or a path.
    pub interpreter: String,
    /// When a new environment is built.
    pub strategy: Strategy,
    /// Globs at the root of the tree that name the dependency definitions; `None` if neither file sets them.
    pub definitions: Option<Vec<String>>,
    /// The extras of the application's project that are installed.
    pub extras: Option<Vec<String>>,
    /// The dependency groups that are installed.
    pub groups: Option<Vec<String>>,
    /// Whether only a locked definition of the application is accepted.
    pub strict: bool,
    /// A file of requirements that the host adds to the application's.
    pub also: Option<PathBuf>,
    /// The package index, if it is not uv's default.
    pub index_url: Option<String>,
    /// The indexes that single packages come from, by their normal names.
    pub indexes: BTreeMap<String, String>,
    /// Whether packages without a wheel may be built from source.
    pub allow_source: bool,
    /// Whether environments see the packages of the system, too; `None`: they do not, and the host has not set it.
    pub system_site_packages: Option<bool>,
    /// How long one build may take.
    #[serde(with = "duration_text")]
    pub deadline: Duration,
    /// Modules that a new environment must be able to import.
    pub imports: Vec<String>,
    /// How the application's entry module is checked before the stop.
    pub import_check: ImportCheck,
    /// The service's command, whose modules it must be able to import as well.
    #[serde(skip)]
    pub command: Vec<String>,
}

impl Default for Python {
    fn default() -> Self {
        Self {
            interpreter: "python3".to_owned(),
            strategy: Strategy::default(),
            definitions: None,
            extras: None,
            groups: None,
            strict: false,
            also: None,
            index_url: None,
            indexes: BTreeMap::new(),
            allow_source: false,
            system_site_packages: None,
            deadline: Duration::from_secs(30 * 60),
            imports: Vec::new(),
            import_check: ImportCheck::default(),
            command: Vec::new(),
        }
    }
}

impl Python {
    /// Returns the globs at the root of the tree that name the dependency definitions.
    pub fn patterns(&self) -> &[String] {
        static DEFAULT: LazyLock<Vec<String>> =
            LazyLock::new(|| DEFAULT_PATTERNS.map(str::to_owned).to_vec());
        self.definitions.as_deref().unwrap_or(&DEFAULT)
    }
}

/// How the application's entry module is checked before the service is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportCheck {
    /// It must be in the commit and compile.
    #[default]
    Compile,
    /// It must compile, and a copy of the commit must be able to import it.
    Import,
    /// Not at all.
    Off,
}

/// When a new environment is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Only when the definition changed (RW-5.3b).
    #[default]
    WhenChanged,
    /// At every refresh (RW-5.3a).
    Always,
}

/// The service's unit of systemd, and how the embedded supervisor runs the service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// The unit.
    pub unit: UnitName,
    /// Further units that are stopped and started with it, on a machine with systemd.
    pub also: Vec<UnitName>,
    /// The command: program and arguments. `{venv}`, `{app}` and `{port}` are replaced by paths and the port.
    pub command: Vec<String>,
    /// How long the service may take to end by itself.
    #[serde(with = "duration_text")]
    pub stop_timeout: Duration,
    /// Paths of the application that the unit may run as root.
    pub allow_root_exec: Vec<String>,
    /// The address of the listening socket that the embedded supervisor starts the service with.
    #[serde(with = "listening_address")]
    pub socket: Option<IpAddr>,
}

/// How the service is started unless the host sets a command.
const COMMAND: [&str; 6] = ["{venv}/bin/uvicorn", "api_layer:app", "--host", "0.0.0.0", "--port", "{port}"];

impl Default for Service {
    fn default() -> Self {
        Self {
            unit: UnitName::usual(),
            also: Vec::new(),
            command: COMMAND.map(str::to_owned).to_vec(),
            stop_timeout: Duration::from_secs(30),
            allow_root_exec: Vec::new(),
            socket: None,
        }
    }
}

/// The health check of a started service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// The complete URL, or `unix:` and a path, if the host sets it; else `http://127.0.0.1:<port><path>`.
    pub url: Option<String>,
    /// The path below the port of the env file; `None` if neither file sets it.
    pub path: Option<String>,
    /// The certificates to check an https server against; without them its certificate is not checked.
    pub ca_file: Option<PathBuf>,
    /// Header fields of the request.
    pub headers: BTreeMap<String, String>,
    /// The status to expect; `None`: any below 500.
    pub status: Option<u16>,
    /// A field of a JSON answer (`a.b`).
    pub json_field: Option<String>,
    /// The value that it must have; `{commit}`, `{branch}` and `{environment}` are replaced by the deployed ones.
    pub json_value: Option<String>,
    /// A text that the answer must contain.
    pub body: Option<String>,
    /// How long the service may take until it passes the health check.
    #[serde(with = "duration_text")]
    pub deadline: Duration,
    /// How long it must keep passing the health check.
    #[serde(with = "duration_text")]
    pub settle: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            url: None,
            path: None,
            ca_file: None,
            headers: BTreeMap::new(),
            status: None,
            json_field: None,
            json_value: None,
            body: None,
            deadline: Duration::from_secs(60),
            settle: Duration::from_secs(3),
        }
    }
}

impl Probe {
    /// Returns the path below the port of the env file.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }
}

/// How models are verified. Nothing ever changes them (RW-6.1).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// How a run verifies them before it touches anything.
    pub verify: ModelCheck,
    /// Directories of models in addition to the built-in ones; below the root.
    pub stores: Vec<PathBuf>,
}

/// What a run does with git-ignored files in `app/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IgnoredFiles {
    /// They move into the new tree, as `git clean -fd` leaves them.
    #[default]
    Keep,
    /// They count as local changes and stay in the stash.
    Stash,
}

/// How thoroughly models are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ModelCheck {
    /// Not at all.
    #[default]
    Off,
    /// Whether they exist, have the right length, and are not truncated.
    Presence,
    /// Their checksums too.
    Full,
}

/// The purpose of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum HookKind {
    /// Migrates persistent data to the new version's format.
    Migration,
    /// Makes files that the application serves.
    Assets,
    /// Builds indexes.
    Index,
    /// Checks the application and changes nothing.
    Check,
}

/// The protection that the host must enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Refuses a refresh if a part of the table of units is not in force.
    pub require: bool,
}

/// A command that is run in step 4.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Its name, for messages.
    pub name: String,
    /// Its purpose.
    pub kind: HookKind,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    #[serde(default = "five_minutes", with = "duration_text")]
    pub deadline: Duration,
    /// Runs in staging, in a copy of the commit: a check in staging and in step 4, an assets hook only in staging.
    #[serde(default)]
    pub stage: bool,
    /// The file that declares it.
    #[serde(skip)]
    pub origin: Origin,
}

fn five_minutes() -> Duration {
    Duration::from_secs(300)
}
