//! Combines the layers of the configuration.
//!
//! The host's file is written by people and read here; no part of the program writes it after `init`. The application's
//! file is read from the pinned commit, never from the working tree. It may set hooks, definitions and the probe's
//! path, nothing else: an author who can push to the branch must not be able to redirect the remote or to choose
//! programs that run as another user.

mod check;

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Serialize;

use refresh_system::error::{Failure, Outcome};
use refresh_system::text::normal_name;

use super::file::{APPLICATION_FILE, ApplicationFile, Author, HostFile};
use super::layout::Layout;
use super::names::{UnitName, without_credentials};
use super::parse::parse;
use super::{
    Hook, HookKind, ModelCheck, Models, Origin, Probe, Python, Service, Settings, Strategy, model_stores,
    trust,
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
        check_also(&host.service)?;
        let settings = Settings {
            layout: self.layout.clone(),
            branch: host.branch.clone(),
            allowed_branches: host.allowed_branches.clone(),
            strict_order: pick.option("strict_order", over.no_stage.then_some(true), host.strict_order),
            preserve: host.preserve.clone(),
            ignored: host.ignored,
            remote: host.remote.clone(),
            python: self.python(&mut pick)?,
            service: host.service.clone(),
            probe: Probe {
                path: pick.application("probe.path", host.probe.path.as_ref(), app.probe.path.as_ref()),
                ..host.probe.clone()
            },
            models: self.models(&mut pick),
            security: host.security,
            hooks: self.hooks()?,
            keep: host.keep.unwrap_or(3),
            origins: pick.origins,
        };
        settings.remote.checked_url()?;
        check_probe(&settings.probe)?;
        check_patterns(&settings)?;
        check_stores(&settings)?;
        Ok(settings)
    }

    fn python(&self, pick: &mut LayerChoice) -> Outcome<Python> {
        let (host, app, over) = (&self.host.python, &self.application, &self.overrides);
        let always = over.always_rebuild_venv.then_some(Strategy::Always);
        Ok(Python {
            strategy: pick.option("python.strategy", always, host.strategy),
            definitions: pick.application(
                "python.definitions",
                host.definitions.as_ref(),
                app.definitions.as_ref(),
            ),
            extras: pick.application("python.extras", host.extras.as_ref(), app.extras.as_ref()),
            groups: pick.application("python.groups", host.groups.as_ref(), app.groups.as_ref()),
            strict: pick.option("python.strict", over.strict.then_some(true), host.strict),
            indexes: self.indexes()?,
            command: self.host.service.command.clone(),
            ..host.clone()
        })
    }

    /// The indexes of single packages, by the normal names of the packages.
    fn indexes(&self) -> Outcome<BTreeMap<String, String>> {
        let checked = self.host.python.indexes.iter().map(|(name, url)| {
            let normal = normal_name(name);
            let is_name = normal.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if normal.is_empty() || !is_name {
                return Err(Failure::new(format!("{name:?} in python.indexes is not the name of a package")));
            }
            let is_web = url.starts_with("https://") || url.starts_with("http://");
            if !is_web || url.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"') {
                return Err(Failure::new(format!(
                    "the index of {name} in python.indexes is not the URL of one: {:?}",
                    without_credentials(url)
                )));
            }
            Ok((normal, url.clone()))
        });
        checked.collect()
    }

    fn models(&self, pick: &mut LayerChoice) -> Models {
        let (host, over) = (&self.host.models, &self.overrides);
        Models {
            verify: pick.option("models.verify", over.verify_models, host.verify),
            stores: host.stores.iter().map(|path| model_stores::below(&self.layout, path)).collect(),
        }
    }

    fn hooks(&self) -> Outcome<Vec<Hook>> {
        let of_application = self.application.hook.iter().map(|hook| (hook, Origin::Application));
        let of_host = self.host.hook.iter().map(|hook| (hook, Origin::Host));
        let all = of_application.chain(of_host);
        all.map(|(hook, origin)| {
            check_hook(hook, origin)?;
            Ok(Hook { origin, ..hook.clone() })
        })
        .collect()
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

fn check_also(service: &Service) -> Outcome<()> {
    let Service { unit, also, .. } = service;
    let is_twice = |(at, name): &(usize, &UnitName)| *name == unit || also[..*at].contains(name);
    match also.iter().enumerate().find(is_twice) {
        None => Ok(()),
        Some((_, name)) => Err(Failure::new(format!("service.also names {name}, which is named already"))),
    }
}

fn check_hook(hook: &Hook, origin: Origin) -> Outcome<()> {
    let name = &hook.name;
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(Failure::new(format!("a hook in {origin} has no readable name: {name:?}")));
    }
    if hook.command.first().is_none_or(String::is_empty) {
        return Err(Failure::new(format!("the hook {name} in {origin} has no command")));
    }
    if hook.stage && !matches!(hook.kind, HookKind::Check | HookKind::Assets) {
        return Err(Failure::new(format!(
            "the hook {name} in {origin} cannot be staged: only a check and an assets hook leave the data alone"
        ))
        .hint("remove `stage = true`, or declare the hook as `kind = \"check\"` or `\"assets\"`"));
    }
    Ok(())
}

fn check_probe(probe: &Probe) -> Outcome<()> {
    check_probe_path(probe.path())?;
    check_headers(&probe.headers)?;
    check_json(probe)
}

/// Checks the header fields of the health check: names and values that can be sent.
fn check_headers(headers: &BTreeMap<String, String>) -> Outcome<()> {
    for (name, value) in headers {
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let is_value = value.bytes().all(|b| (b' '..=b'~').contains(&b));
        // The probe itself sets the length of the request and closes each connection.
        let is_own = ["connection", "content-length", "transfer-encoding"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own));
        if !is_name || !is_value || is_own {
            return Err(Failure::new(format!("probe.headers cannot have {name:?} = {value:?}"))
                .hint("set names of letters, digits and dashes, and values of one line, for instance Host"));
        }
    }
    Ok(())
}

fn check_json(probe: &Probe) -> Outcome<()> {
    if probe.json_field.is_some() == probe.json_value.is_some() {
        return Ok(());
    }
    Err(Failure::new("probe.json_field and probe.json_value need each other"))
}

fn check_probe_path(path: &str) -> Outcome<()> {
    if path.starts_with('/') && !path.contains(char::is_whitespace) {
        return Ok(());
    }
    Err(Failure::new(format!("probe.path {path:?} must start with a slash and hold no blanks")))
}

fn check_patterns(settings: &Settings) -> Outcome<()> {
    let preserve = settings.preserve.iter().map(|pattern| ("preserve", pattern));
    let definitions = settings.python.definitions.iter().flatten().map(|pattern| ("definitions", pattern));
    preserve.chain(definitions).try_for_each(|(key, pattern)| check_pattern(key, pattern))
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

/// Picks between the host's file and another layer, and remembers the values of the other one.
struct LayerChoice {
    origins: BTreeMap<&'static str, Origin>,
}

impl LayerChoice {
    /// Picks a value that an option of the command line or the host sets.
    fn option<T>(&mut self, key: &'static str, option: Option<T>, host: T) -> T {
        if option.is_some() {
            self.origins.insert(key, Origin::Flag);
        }
        option.unwrap_or(host)
    }

    /// Picks a value that the host or the application sets.
    fn application<T: Clone>(
        &mut self,
        key: &'static str,
        host: Option<&T>,
        application: Option<&T>,
    ) -> Option<T> {
        if host.is_none() && application.is_some() {
            self.origins.insert(key, Origin::Application);
        }
        host.or(application).cloned()
    }
}

#[cfg(test)]
mod tests;
