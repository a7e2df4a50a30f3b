//! How the layers of the configuration are laid over each other.
//!
//! The host's file is written by people and read here; no part of the program writes it after `init`. The
//! application's file is read from the pinned commit, never from the work tree, and may set hooks, definitions and
//! the probe's path, nothing else: whoever can push to the branch must not be able to redirect the remote or to
//! choose what runs as another user.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::file::{
    APPLICATION_FILE, ApplicationFile, ApplicationProbe, Author, HookTable, HostFile, ProbeTable,
    ServiceTable, SocketSetting, Span, parse,
};
use super::layout::Layout;
use super::names::{UnitName, without_credentials};
use super::trust;
use super::{
    Hook, HookKind, IgnoredFiles, ImportCheck, ModelCheck, Models, Origin, Probe, Python, Remote, RemoteUrl,
    Security, Service, Settings, Strategy,
};
use crate::error::{Failure, Outcome};
use crate::models::locations;
use crate::python::definitions::DEFAULT_PATTERNS;
use crate::python::requirements::normal_name;

/// What the command line and the environment say about a run.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--no-stage`
    pub no_stage: bool,
    /// `--always-rebuild-venv`
    pub always_rebuild: bool,
    /// `--verify-models`
    pub verify_models: Option<ModelCheck>,
    /// `--strict`
    pub strict: bool,
}

/// How the service is started where the host says nothing else.
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
    /// The file cannot be read, or others than root can change what root reads there, or it says something that it may
    /// not: with line and column.
    pub fn read(layout: &Layout, overrides: Overrides) -> Outcome<Self> {
        let text = match trust::host_file(layout)? {
            None => String::new(),
            Some(bytes) => String::from_utf8(bytes).map_err(|error| {
                Failure::new(format!("{} is not UTF-8", layout.host_file().display())).because(error)
            })?,
        };
        Self::of_text(layout, &text, overrides)
    }

    /// Returns the layout with the host's file that counts and the store that it names; as it is where that file cannot be
    /// used, which the command that needs it reports.
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

    /// Takes `text` for the host's file.
    ///
    /// # Errors
    /// It says something that it may not: with line and column.
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
        let mut pick = Pick { origins: BTreeMap::new() };
        let (host, app, over) = (&self.host, &self.application, &self.overrides);
        let flag = |set: bool| set.then_some(true);
        let command = pick.value(
            "service.command",
            [(host.service.command.clone(), Origin::Host)],
            COMMAND.map(str::to_owned).to_vec(),
        );
        let settings = Settings {
            layout: self.layout.clone(),
            branch: pick.optional("branch", [(host.branch.clone(), Origin::Host)]),
            allowed_branches: pick.value(
                "allowed_branches",
                [(host.allowed_branches.clone(), Origin::Host)],
                Vec::new(),
            ),
            strict_order: pick.value(
                "strict_order",
                [(flag(over.no_stage), Origin::Flag), (host.strict_order, Origin::Host)],
                false,
            ),
            preserve: pick.value("preserve", [(host.preserve.clone(), Origin::Host)], Vec::new()),
            ignored: pick.value("ignored", [(host.ignored, Origin::Host)], IgnoredFiles::Keep),
            remote: self.remote()?,
            python: self.python(command.clone(), &mut pick)?,
            service: Self::service(&host.service, command, &mut pick)?,
            probe: Self::probe(&host.probe, &app.probe, &mut pick)?,
            models: self.models(&mut pick),
            security: Security {
                require: pick.value("security.require", [(host.security.require, Origin::Host)], false),
            },
            hooks: self.hooks()?,
            keep: pick.value("keep", [(host.keep, Origin::Host)], 3),
            origins: pick.origins,
        };
        check_patterns(&settings)?;
        check_stores(&settings)?;
        Ok(settings)
    }

    fn python(&self, command: Vec<String>, pick: &mut Pick) -> Outcome<Python> {
        let (host, app, over) = (&self.host.python, &self.application, &self.overrides);
        let flag = |set: bool| set.then_some(true);
        Ok(Python {
            interpreter: pick.value(
                "python.interpreter",
                [(host.interpreter.clone(), Origin::Host)],
                "python3".to_owned(),
            ),
            strategy: pick.value(
                "python.strategy",
                [
                    (flag(over.always_rebuild).map(|_| Strategy::Always), Origin::Flag),
                    (host.strategy, Origin::Host),
                ],
                Strategy::WhenChanged,
            ),
            definitions: pick.value(
                "python.definitions",
                [(host.definitions.clone(), Origin::Host), (app.definitions.clone(), Origin::Application)],
                DEFAULT_PATTERNS.map(str::to_owned).to_vec(),
            ),
            extras: pick.value(
                "python.extras",
                [(host.extras.clone(), Origin::Host), (app.extras.clone(), Origin::Application)],
                Vec::new(),
            ),
            groups: pick.value(
                "python.groups",
                [(host.groups.clone(), Origin::Host), (app.groups.clone(), Origin::Application)],
                Vec::new(),
            ),
            also: pick.optional("python.also", [(host.also.clone(), Origin::Host)]),
            strict: pick.value(
                "python.strict",
                [(flag(over.strict), Origin::Flag), (host.strict, Origin::Host)],
                false,
            ),
            index_url: pick.optional("python.index_url", [(host.index_url.clone(), Origin::Host)]),
            allow_source: pick.value("python.allow_source", [(host.allow_source, Origin::Host)], false),
            deadline: pick.span(
                "python.deadline",
                [(host.deadline, Origin::Host)],
                Duration::from_secs(30 * 60),
            ),
            indexes: self.indexes(pick)?,
            import_check: pick.value(
                "python.import_check",
                [(host.import_check, Origin::Host)],
                ImportCheck::Compile,
            ),
            imports: pick.value("python.imports", [(host.imports.clone(), Origin::Host)], Vec::new()),
            command,
        })
    }

    /// The indexes of single packages, by the normal names of those.
    fn indexes(&self, pick: &mut Pick) -> Outcome<BTreeMap<String, String>> {
        let named = self.host.python.indexes.clone();
        let named = pick.value("python.indexes", [(named, Origin::Host)], BTreeMap::new());
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

    fn service(host: &ServiceTable, command: Vec<String>, pick: &mut Pick) -> Outcome<Service> {
        let unit = pick.value("service.unit", [(host.unit.clone(), Origin::Host)], UnitName::usual());
        let also = pick.value("service.also", [(host.also.clone(), Origin::Host)], Vec::new());
        let is_twice = |(at, name): (usize, &UnitName)| *name == unit || also[..at].contains(name);
        if let Some((_, name)) = also.iter().enumerate().find(|it| is_twice(*it)) {
            return Err(Failure::new(format!("service.also names {name}, which is named already")));
        }
        Ok(Service {
            unit,
            also,
            command,
            stop_timeout: pick.span(
                "service.stop_timeout",
                [(host.stop_timeout, Origin::Host)],
                Duration::from_secs(30),
            ),
            allow_root_exec: pick.value(
                "service.allow_root_exec",
                [(host.allow_root_exec.clone(), Origin::Host)],
                Vec::new(),
            ),
            socket: match pick.value(
                "service.socket",
                [(host.socket, Origin::Host)],
                SocketSetting::Loopback(false),
            ) {
                SocketSetting::Loopback(wanted) => wanted.then_some(std::net::Ipv4Addr::LOCALHOST.into()),
                SocketSetting::Address(address) => Some(address),
            },
        })
    }

    fn probe(host: &ProbeTable, app: &ApplicationProbe, pick: &mut Pick) -> Outcome<Probe> {
        let json = match (&host.json_field, &host.json_value) {
            (Some(field), Some(value)) => Some((field.clone(), value.clone())),
            (None, None) => None,
            _ => return Err(Failure::new("probe.json_field and probe.json_value belong together")),
        };
        let path = pick.value(
            "probe.path",
            [(host.path.clone(), Origin::Host), (app.path.clone(), Origin::Application)],
            "/".to_owned(),
        );
        if !path.starts_with('/') || path.contains(char::is_whitespace) {
            return Err(Failure::new(format!(
                "probe.path {path:?} has to start with a slash and hold no blanks"
            )));
        }
        Ok(Probe {
            url: pick.optional("probe.url", [(host.url.clone(), Origin::Host)]),
            path,
            status: pick.optional("probe.status", [(host.status, Origin::Host)]),
            json,
            body: pick.optional("probe.body", [(host.body.clone(), Origin::Host)]),
            deadline: pick.span("probe.deadline", [(host.deadline, Origin::Host)], Duration::from_secs(60)),
            settle: pick.span("probe.settle", [(host.settle, Origin::Host)], Duration::from_secs(3)),
        })
    }

    fn models(&self, pick: &mut Pick) -> Models {
        let (host, over) = (&self.host.models, &self.overrides);
        let moved = |stores: &Vec<PathBuf>| {
            stores.iter().map(|path| locations::below(&self.layout, path)).collect::<Vec<_>>()
        };
        Models {
            verify: pick.value(
                "models.verify",
                [(over.verify_models, Origin::Flag), (host.verify, Origin::Host)],
                ModelCheck::Off,
            ),
            stores: pick.value(
                "models.stores",
                [(host.stores.as_ref().map(moved), Origin::Host)],
                Vec::new(),
            ),
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

/// Reads the application's file; without one it says nothing.
///
/// # Errors
/// The file says something that it may not: with line and column.
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

fn check_patterns(settings: &Settings) -> Outcome<()> {
    let all = [("preserve", &settings.preserve), ("definitions", &settings.python.definitions)];
    for (key, patterns) in all {
        for pattern in patterns {
            globset::Glob::new(pattern).map_err(|error| {
                Failure::new(format!("{pattern:?} in {key} is not a pattern")).because(error)
            })?;
            if pattern.starts_with('/') || pattern.split('/').any(|part| part == "..") {
                return Err(Failure::new(format!("{pattern:?} in {key} leaves the work tree")));
            }
        }
    }
    Ok(())
}

/// Refuses a store that is no place of its own: below what belongs to the application, or above anything.
fn check_store(layout: &Layout, store: &Path) -> Outcome<()> {
    let refused = |why: &str| {
        Err(Failure::new(format!("`store` is {}: {why}", store.display()))
            .hint("name a directory of its own on the file system of /opt/ladylinux: store = \"/srv/ladylinux-refresh\""))
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
    match settings.models.stores.iter().find_map(|path| {
        let why = locations::refusal(&settings.layout, path)?;
        Some((path, why))
    }) {
        None => Ok(()),
        Some((path, why)) => {
            Err(Failure::new(format!("{} in models.stores cannot be used: {why}", path.display())))
        }
    }
}

/// Picks the first value that a layer gives and remembers which layer it was.
struct Pick {
    origins: BTreeMap<String, Origin>,
}

impl Pick {
    fn optional<T, const N: usize>(&mut self, key: &str, layers: [(Option<T>, Origin); N]) -> Option<T> {
        let (value, origin) = layers.into_iter().find_map(|(value, origin)| Some((value?, origin)))?;
        self.origins.insert(key.to_owned(), origin);
        Some(value)
    }

    fn value<T, const N: usize>(&mut self, key: &str, layers: [(Option<T>, Origin); N], default: T) -> T {
        self.optional(key, layers).unwrap_or(default)
    }

    fn span<const N: usize>(
        &mut self,
        key: &str,
        layers: [(Option<Span>, Origin); N],
        default: Duration,
    ) -> Duration {
        self.optional(key, layers).map_or(default, |span| span.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Outcome<Settings> {
        let host = parse(text, Path::new("refresh.toml"), Author::Host)?;
        let layers = Layers {
            layout: Layout::below("/trial"),
            host,
            application: ApplicationFile::default(),
            overrides: Overrides::default(),
        };
        layers.resolve()
    }

    fn message<T>(result: Outcome<T>) -> String {
        result.err().map(|failure| failure.chain().join(": ")).unwrap_or_default()
    }

    #[test]
    fn an_empty_file_gives_the_contract_s_defaults() {
        let settings = host("").unwrap();
        assert_eq!(settings.probe.deadline, Duration::from_secs(60));
        assert_eq!(settings.probe.settle, Duration::from_secs(3));
        assert!(settings.preserve.is_empty());
        assert_eq!(settings.origin("probe.settle"), Origin::Default);
    }

    #[test]
    fn the_services_socket_is_on_the_loopback_interface_or_an_address() {
        let socket = |text: &str| host(&format!("[service]\nsocket = {text}\n")).map(|it| it.service.socket);
        assert_eq!(host("").unwrap().service.socket, None);
        assert_eq!(socket("false").unwrap(), None);
        assert_eq!(socket("true").unwrap(), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(socket("\"::\"").unwrap(), Some("::".parse().unwrap()));
        for wrong in ["\"localhost\"", "8000"] {
            let text = message(host(&format!("[service]\nsocket = {wrong}\n")));
            assert!(text.contains("line 2") && text.contains("the IP address to listen on"), "{text}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_with_line_and_column() {
        let text = message(host("branch = \"main\"\nkeep = \"three\"\n"));
        assert!(text.starts_with("refresh.toml, line 2, column 8: "), "{text}");
        let text = message(host("[probe]\nsettle = \"3\"\n"));
        assert!(text.contains("line 2") && text.contains("is not a duration"), "{text}");
        let text = message(host("branch = \n"));
        assert!(text.starts_with("refresh.toml, line 1, column "), "{text}");
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_right_one() {
        let text = message(host("[probe]\nsetle = \"3s\"\n"));
        assert_eq!(text, "refresh.toml, line 2, column 1: unknown key `probe.setle`; did you mean `settle`?");
    }

    #[test]
    fn the_application_may_set_hooks_definitions_and_the_probe_s_path_only() {
        let layers = Layers {
            layout: Layout::below("/trial"),
            host: HostFile::default(),
            application: ApplicationFile::default(),
            overrides: Overrides::default(),
        };
        let refused = read_application(Some(b"[remote]\nurl = \"https://h/x\"\n"));
        assert!(message(refused).contains("the application may not set `remote`"));
        let refused = read_application(Some(b"[probe]\nurl = \"http://x\"\n"));
        assert!(message(refused).contains("line 2, column 1: the application may not set `probe.url`"));
        let given = b"definitions = [\"deps.txt\"]\n[probe]\npath = \"/s\"\n[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"true\"]\n";
        let settings = layers.with_application(read_application(Some(given)).unwrap()).resolve().unwrap();
        assert_eq!(settings.python.definitions, ["deps.txt"]);
        assert_eq!(settings.probe.path, "/s");
        assert_eq!(settings.origin("probe.path"), Origin::Application);
        assert_eq!(settings.hooks[0].origin, Origin::Application);
    }

    #[test]
    fn a_store_is_a_place_of_its_own() {
        let at = |text: &str| Layers::of_text(&Layout::below("/trial"), text, Overrides::default());
        let layers = at("store = \"/srv/big\"\n").unwrap();
        assert_eq!(layers.resolve().unwrap().layout.trees(), Path::new("/trial/srv/big/trees"));
        for wrong in
            ["srv/big", "/srv/../etc", "/opt/ladylinux/app/store", "/opt", "/", "/var/lib/ladylinux/x"]
        {
            let told = message(at(&format!("store = \"{wrong}\"\n")));
            assert!(told.starts_with(&format!("`store` is {wrong}: it ")), "{told}");
        }
    }

    #[test]
    fn only_checks_and_assets_may_be_staged_and_patterns_stay_inside_the_tree() {
        let hook = "[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"true\"]\nstage = true\n";
        assert!(message(host(hook)).contains("cannot be staged"));
        assert!(host(&hook.replace("migration", "assets")).is_ok());
        assert!(message(host("preserve = [\"../data\"]")).contains("leaves the work tree"));
        assert!(message(host("preserve = [\"a[\"]")).contains("is not a pattern"));
    }
}
