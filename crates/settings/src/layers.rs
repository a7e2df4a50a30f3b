//! Combines the layers of the configuration.
//!
//! The host's file is written by people and read here; no part of the program writes it after `init`. The application's
//! file is read from the pinned commit, never from the working tree. It may set hooks, definitions and the probe's
//! path, nothing else: an author who can push to the branch must not be able to redirect the remote or to choose
//! programs that run as another user.

mod check;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::DEFAULT_PATTERNS;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::normal_name;

use super::file::{
    APPLICATION_FILE, ApplicationFile, ApplicationProbe, Author, DurationText, HookTable, HostFile,
    ProbeTable, ServiceTable, SocketSetting,
};
use super::layout::Layout;
use super::names::{UnitName, without_credentials};
use super::parse::parse;
use super::{
    Hook, HookKind, IgnoredFiles, ImportCheck, ModelCheck, Models, Origin, Probe, Python, Remote, RemoteUrl,
    Security, Service, Settings, Strategy, model_stores, trust,
};

/// The options of a run that are settings.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Overrides {
    /// Skip staging: fetch and build while the service is down
    #[arg(long)]
    pub no_stage: bool,

    /// Build a new environment even if the requirements did not change
    #[arg(long)]
    pub always_rebuild_venv: bool,

    /// Verify the models before the stop: presence, full or off [without HOW: full]
    #[arg(long, value_name = "HOW", value_enum, hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "full")]
    pub verify_models: Option<ModelCheck>,

    /// Require the application to commit a lockfile
    #[arg(long)]
    pub strict: bool,
}

/// How the service is started unless the host sets a command.
const COMMAND: [&str; 6] = ["{venv}/bin/uvicorn", "api_layer:app", "--host", "0.0.0.0", "--port", "{port}"];

/// The layers that settings are resolved from.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The paths.
    pub layout: Layout,
    /// The host's file.
    pub host: HostFile,
    /// The application's file; empty until a commit is pinned.
    pub application: ApplicationFile,
    /// Command line and environment.
    pub overrides: Overrides,
}

impl Layers {
    /// Reads the host's file; a missing one is an empty one.
    ///
    /// # Errors
    /// The file cannot be read, or users other than root can change it although root reads it, or it has faults, each
    /// with line and column.
    pub fn read(layout: &Layout, overrides: Overrides) -> Outcome<Self> {
        let text = match trust::host_file(layout)? {
            None => String::new(),
            Some(bytes) => String::from_utf8(bytes).map_err(|error| {
                Failure::new(format!("{} is not UTF-8", layout.host_file().display())).because(error)
            })?,
        };
        Self::of_text(layout, &text, overrides)
    }

    /// Returns the layout with the host's file that counts and the store that it names. If that file cannot be used,
    /// the layout stays unchanged, and the command that needs the file reports the fault.
    pub fn located(layout: Layout) -> Layout {
        let layout = match trust::host_files(&layout) {
            Ok(files) => layout.with_host_file(files.counts),
            Err(_) => layout,
        };
        let bytes = trust::host_file(&layout).ok().flatten();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        match Self::of_text(&layout, &text, Overrides::default()) {
            Ok(layers) => layers.layout,
            Err(_) => layout,
        }
    }

    /// Reads `text` as the host's file.
    ///
    /// # Errors
    /// It has faults, each with line and column.
    pub fn of_text(layout: &Layout, text: &str, overrides: Overrides) -> Outcome<Self> {
        let host: HostFile = parse(text, &layout.host_file(), Author::Host)?;
        let application = ApplicationFile::default();
        let mut layout = layout.clone();
        if let Some(store) = &host.store {
            check_store(&layout, store)?;
            layout = layout.with_store(store);
        }
        Ok(Self { layout, host, application, overrides })
    }

    /// Lays the application's file under the host's.
    #[must_use]
    pub fn with_application(mut self, application: ApplicationFile) -> Self {
        self.application = application;
        self
    }

    /// Resolves the layers to usable settings.
    ///
    /// # Errors
    /// A value that cannot be used: a URL of a transport that is not allowed, a hook without a command, a pattern
    /// that leaves the tree.
    pub fn resolve(&self) -> Outcome<Settings> {
        let mut pick = LayerChoice { origins: BTreeMap::new() };
        let (host, app, over) = (&self.host, &self.application, &self.overrides);
        let command = COMMAND.map(str::to_owned).to_vec();
        let command = pick.host("service.command", host.service.command.clone(), command);
        let strict_order = over.no_stage.then_some(true);
        let settings = Settings {
            layout: self.layout.clone(),
            branch: pick.optional("branch", host.branch.clone()),
            allowed_branches: pick.host("allowed_branches", host.allowed_branches.clone(), Vec::new()),
            strict_order: pick.option("strict_order", strict_order, host.strict_order, false),
            preserve: pick.host("preserve", host.preserve.clone(), Vec::new()),
            ignored: pick.host("ignored", host.ignored, IgnoredFiles::Keep),
            remote: self.remote()?,
            python: self.python(command.clone(), &mut pick)?,
            service: Self::service(&host.service, command, &mut pick)?,
            probe: Self::probe(&host.probe, &app.probe, &mut pick)?,
            models: self.models(&mut pick),
            security: Security { require: pick.host("security.require", host.security.require, false) },
            hooks: self.hooks()?,
            keep: pick.host("keep", host.keep, 3),
            origins: pick.origins,
        };
        check_patterns(&settings)?;
        check_stores(&settings)?;
        Ok(settings)
    }

    fn python(&self, command: Vec<String>, pick: &mut LayerChoice) -> Outcome<Python> {
        let (host, app, over) = (&self.host.python, &self.application, &self.overrides);
        let always = over.always_rebuild_venv.then_some(Strategy::Always);
        let strict = over.strict.then_some(true);
        let patterns = DEFAULT_PATTERNS.map(str::to_owned).to_vec();
        Ok(Python {
            interpreter: pick.host("python.interpreter", host.interpreter.clone(), "python3".to_owned()),
            strategy: pick.option("python.strategy", always, host.strategy, Strategy::WhenChanged),
            definitions: pick.both("python.definitions", [&host.definitions, &app.definitions], patterns),
            extras: pick.both("python.extras", [&host.extras, &app.extras], Vec::new()),
            groups: pick.both("python.groups", [&host.groups, &app.groups], Vec::new()),
            also: pick.optional("python.also", host.also.clone()),
            strict: pick.option("python.strict", strict, host.strict, false),
            index_url: pick.optional("python.index_url", host.index_url.clone()),
            allow_source: pick.host("python.allow_source", host.allow_source, false),
            system_site_packages: pick.optional("python.system_site_packages", host.system_site_packages),
            deadline: pick.seconds("python.deadline", host.deadline, 30 * 60),
            indexes: self.indexes(pick)?,
            import_check: pick.host("python.import_check", host.import_check, ImportCheck::Compile),
            imports: pick.host("python.imports", host.imports.clone(), Vec::new()),
            command,
        })
    }

    /// The indexes of single packages, by the normal names of the packages.
    fn indexes(&self, pick: &mut LayerChoice) -> Outcome<BTreeMap<String, String>> {
        let named = self.host.python.indexes.clone();
        let named = pick.host("python.indexes", named, BTreeMap::new());
        let checked = named.into_iter().map(|(name, url)| {
            let normal = normal_name(&name);
            let is_name = normal.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if normal.is_empty() || !is_name {
                return Err(Failure::new(format!("{name:?} in python.indexes is not the name of a package")));
            }
            let is_web = url.starts_with("https://") || url.starts_with("http://");
            if !is_web || url.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"') {
                return Err(Failure::new(format!(
                    "the index of {name} in python.indexes is not the URL of one: {:?}",
                    without_credentials(&url)
                )));
            }
            Ok((normal, url))
        });
        checked.collect()
    }

    fn remote(&self) -> Outcome<Remote> {
        let table = &self.host.remote;
        let allowed = table.allow.clone().unwrap_or_default();
        Ok(Remote {
            url: table.url.as_deref().map(|text| RemoteUrl::parse(text, &allowed)).transpose()?,
            token_file: table.token_file.clone(),
            token_user: table.token_user.clone(),
            credential_helper: table.credential_helper.clone(),
            ssh_key: table.ssh_key.clone(),
            known_hosts: table.known_hosts.clone(),
            proxy: table.proxy.clone(),
            ca_file: table.ca_file.clone(),
            deadline: table.deadline.map(|span| span.0),
            stall: table.stall.map(|span| span.0),
        })
    }

    fn service(host: &ServiceTable, command: Vec<String>, pick: &mut LayerChoice) -> Outcome<Service> {
        let unit = pick.host("service.unit", host.unit.clone(), UnitName::usual());
        let also = pick.host("service.also", host.also.clone(), Vec::new());
        let is_twice = |(at, name): (usize, &UnitName)| *name == unit || also[..at].contains(name);
        if let Some((_, name)) = also.iter().enumerate().find(|it| is_twice(*it)) {
            return Err(Failure::new(format!("service.also names {name}, which is named already")));
        }
        Ok(Service {
            unit,
            also,
            command,
            stop_timeout: pick.seconds("service.stop_timeout", host.stop_timeout, 30),
            allow_root_exec: pick.host("service.allow_root_exec", host.allow_root_exec.clone(), Vec::new()),
            socket: match pick.host("service.socket", host.socket, SocketSetting::Loopback(false)) {
                SocketSetting::Loopback(wanted) => wanted.then_some(std::net::Ipv4Addr::LOCALHOST.into()),
                SocketSetting::Address(address) => Some(address),
            },
        })
    }

    fn probe(host: &ProbeTable, app: &ApplicationProbe, pick: &mut LayerChoice) -> Outcome<Probe> {
        let json = Self::json(host)?;
        let path = pick.both("probe.path", [&host.path, &app.path], "/".to_owned());
        check_probe_path(&path)?;
        Ok(Probe {
            url: pick.optional("probe.url", host.url.clone()),
            path,
            ca_file: pick.optional("probe.ca_file", host.ca_file.clone()),
            headers: Self::headers(host, pick)?,
            status: pick.optional("probe.status", host.status),
            json,
            body: pick.optional("probe.body", host.body.clone()),
            deadline: pick.seconds("probe.deadline", host.deadline, 60),
            settle: pick.seconds("probe.settle", host.settle, 3),
        })
    }

    /// The header fields of the health check: names and values that can be sent.
    fn headers(host: &ProbeTable, pick: &mut LayerChoice) -> Outcome<BTreeMap<String, String>> {
        let headers = pick.host("probe.headers", host.headers.clone(), BTreeMap::new());
        for (name, value) in &headers {
            let is_name =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            let is_value = value.bytes().all(|b| (b' '..=b'~').contains(&b));
            // The probe itself sets the length of the request and closes each connection.
            let is_own = ["connection", "content-length", "transfer-encoding"]
                .iter()
                .any(|own| name.eq_ignore_ascii_case(own));
            if !is_name || !is_value || is_own {
                return Err(Failure::new(format!("probe.headers cannot have {name:?} = {value:?}")).hint(
                    "set names of letters, digits and dashes, and values of one line, for instance Host",
                ));
            }
        }
        Ok(headers)
    }

    fn json(host: &ProbeTable) -> Outcome<Option<(String, String)>> {
        match (&host.json_field, &host.json_value) {
            (Some(field), Some(value)) => Ok(Some((field.clone(), value.clone()))),
            (None, None) => Ok(None),
            _ => Err(Failure::new("probe.json_field and probe.json_value need each other")),
        }
    }

    fn models(&self, pick: &mut LayerChoice) -> Models {
        let (host, over) = (&self.host.models, &self.overrides);
        let moved = |stores: &Vec<PathBuf>| {
            stores.iter().map(|path| model_stores::below(&self.layout, path)).collect::<Vec<_>>()
        };
        let stores = host.stores.as_ref().map(moved);
        Models {
            verify: pick.option("models.verify", over.verify_models, host.verify, ModelCheck::Off),
            stores: pick.host("models.stores", stores, Vec::new()),
        }
    }

    fn hooks(&self) -> Outcome<Vec<Hook>> {
        let of = |tables: &[HookTable], origin| -> Outcome<Vec<Hook>> {
            tables.iter().map(|table| hook(table, origin)).collect()
        };
        let mut hooks = of(&self.application.hook, Origin::Application)?;
        hooks.extend(of(&self.host.hook, Origin::Host)?);
        Ok(hooks)
    }
}

/// Reads the application's file; a missing one is an empty one.
///
/// # Errors
/// The file has faults, each with line and column.
pub fn read_application(bytes: Option<&[u8]>) -> Outcome<ApplicationFile> {
    let Some(bytes) = bytes else { return Ok(ApplicationFile::default()) };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Failure::new("the application's refresh.toml is not UTF-8").because(error))?;
    parse(text, Path::new(APPLICATION_FILE), Author::Application)
}

fn hook(table: &HookTable, origin: Origin) -> Outcome<Hook> {
    let name = &table.name;
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(Failure::new(format!("a hook in {origin} has no readable name: {name:?}")));
    }
    if table.command.first().is_none_or(String::is_empty) {
        return Err(Failure::new(format!("the hook {name} in {origin} has no command")));
    }
    if table.stage && !matches!(table.kind, HookKind::Check | HookKind::Assets) {
        return Err(Failure::new(format!(
            "the hook {name} in {origin} cannot be staged: only a check and an assets hook leave the data alone"
        ))
        .hint("remove `stage = true`, or declare the hook as `kind = \"check\"` or `\"assets\"`"));
    }
    Ok(Hook {
        name: name.clone(),
        kind: table.kind,
        command: table.command.clone(),
        deadline: table.deadline.map_or(Duration::from_secs(300), |span| span.0),
        stage: table.stage,
        origin,
    })
}

fn check_probe_path(path: &str) -> Outcome<()> {
    if path.starts_with('/') && !path.contains(char::is_whitespace) {
        return Ok(());
    }
    Err(Failure::new(format!("probe.path {path:?} must start with a slash and hold no blanks")))
}

fn check_patterns(settings: &Settings) -> Outcome<()> {
    let all = [("preserve", &settings.preserve), ("definitions", &settings.python.definitions)];
    all.iter()
        .try_for_each(|(key, patterns)| patterns.iter().try_for_each(|pattern| check_pattern(key, pattern)))
}

fn check_pattern(key: &str, pattern: &str) -> Outcome<()> {
    globset::Glob::new(pattern)
        .map_err(|error| Failure::new(format!("{pattern:?} in {key} is not a pattern")).because(error))?;
    if pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
        return Err(Failure::new(format!("{pattern:?} in {key} leaves the working tree")));
    }
    Ok(())
}

/// Refuses a store that is not a separate place: below a path of the application, or above any other path.
fn check_store(layout: &Layout, store: &Path) -> Outcome<()> {
    let refused = |why: &str| {
        Err(Failure::new(format!("`store` is {}: {why}", store.display()))
            .hint("name a separate directory on the file system of /opt/ladylinux: store = \"/srv/ladylinux-refresh\""))
    };
    let is_plain = store.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !store.is_absolute() || !is_plain {
        return refused("it is no absolute path without '.' and '..'");
    }
    let place = layout.clone().with_store(store).store();
    let mut others = vec![layout.app(), layout.venv(), layout.state(), layout.volatile()];
    others.extend(layout.protected());
    match others.iter().find(|other| place.starts_with(other) || other.starts_with(&place)) {
        Some(other) => refused(&format!("it overlaps with {}", other.display())),
        None => Ok(()),
    }
}

fn check_stores(settings: &Settings) -> Outcome<()> {
    settings.models.stores.iter().try_for_each(|path| check_model_store(&settings.layout, path))
}

fn check_model_store(layout: &Layout, path: &Path) -> Outcome<()> {
    match model_stores::refusal(layout, path) {
        None => Ok(()),
        Some(why) => Err(Failure::new(format!("{} in models.stores cannot be used: {why}", path.display()))),
    }
}

/// Picks the value of the first layer that has one, and remembers the layer.
struct LayerChoice {
    origins: BTreeMap<String, Origin>,
}

impl LayerChoice {
    fn first<T, const N: usize>(&mut self, key: &str, layers: [(Option<T>, Origin); N]) -> Option<T> {
        let (value, origin) = layers.into_iter().find_map(|(value, origin)| Some((value?, origin)))?;
        self.origins.insert(key.to_owned(), origin);
        Some(value)
    }

    /// Picks a value that only the host sets, and that has no default.
    fn optional<T>(&mut self, key: &str, host: Option<T>) -> Option<T> {
        self.first(key, [(host, Origin::Host)])
    }

    /// Picks a value that only the host sets.
    fn host<T>(&mut self, key: &str, host: Option<T>, default: T) -> T {
        self.optional(key, host).unwrap_or(default)
    }

    /// Picks a duration that only the host sets; the default is in seconds.
    fn seconds(&mut self, key: &str, host: Option<DurationText>, default: u64) -> Duration {
        self.optional(key, host).map_or(Duration::from_secs(default), |span| span.0)
    }

    /// Picks a value that an option of the command line or the host sets.
    fn option<T>(&mut self, key: &str, option: Option<T>, host: Option<T>, default: T) -> T {
        self.first(key, [(option, Origin::Flag), (host, Origin::Host)]).unwrap_or(default)
    }

    /// Picks a value that the host or the application sets.
    fn both<T: Clone>(&mut self, key: &str, [host, app]: [&Option<T>; 2], default: T) -> T {
        let layers = [(host.clone(), Origin::Host), (app.clone(), Origin::Application)];
        self.first(key, layers).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests;
