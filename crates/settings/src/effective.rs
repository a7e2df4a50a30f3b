//! The settings in force in the form of the host's file.

use std::path::PathBuf;

use super::file::{
    DurationText, HookTable, HostFile, ModelsTable, ProbeTable, PythonTable, RemoteTable, SecurityTable,
    ServiceTable, SocketSetting,
};
use super::layers::Layers;
use super::names::without_credentials;
use super::{Hook, Remote, Settings};

/// The directory of mirror, trees and environments, unless the host sets it.
const STORE: &str = "/opt/ladylinux-refresh";

impl HostFile {
    /// Returns the file with these settings in force; they were resolved from `layers`. Credentials in URLs are left
    /// out.
    pub fn in_force(layers: &Layers, settings: &Settings) -> Self {
        let host = &layers.host;
        Self {
            branch: settings.branch.clone(),
            allowed_branches: Some(settings.allowed_branches.clone()),
            strict_order: Some(settings.strict_order),
            preserve: Some(settings.preserve.clone()),
            ignored: Some(settings.ignored),
            keep: Some(settings.keep),
            store: Some(host.store.clone().unwrap_or_else(|| PathBuf::from(STORE))),
            remote: remote(host, &settings.remote),
            python: python(settings),
            service: service(host, settings),
            probe: probe(settings),
            models: ModelsTable {
                verify: Some(settings.models.verify),
                stores: Some(host.models.stores.clone().unwrap_or_default()),
            },
            security: SecurityTable { require: Some(settings.security.require) },
            hook: settings.hooks.iter().map(hook).collect(),
        }
    }
}

fn remote(host: &HostFile, remote: &Remote) -> RemoteTable {
    RemoteTable {
        url: remote.url.as_ref().map(|url| url.text.clone()),
        allow: Some(host.remote.allow.clone().unwrap_or_default()),
        token_file: remote.token_file.clone(),
        token_user: Some(remote.token_user.clone().unwrap_or_else(|| Remote::TOKEN_USER.to_owned())),
        credential_helper: remote.credential_helper.clone(),
        ssh_key: remote.ssh_key.clone(),
        known_hosts: remote.known_hosts.clone(),
        proxy: remote.proxy.as_deref().map(without_credentials),
        ca_file: remote.ca_file.clone(),
        deadline: Some(DurationText(remote.deadline.unwrap_or(Remote::DEADLINE))),
        stall: Some(DurationText(remote.stall.unwrap_or(Remote::STALL))),
    }
}

fn python(settings: &Settings) -> PythonTable {
    let python = &settings.python;
    let indexes = python.indexes.iter().map(|(name, url)| (name.clone(), without_credentials(url)));
    PythonTable {
        interpreter: Some(python.interpreter.clone()),
        strategy: Some(python.strategy),
        definitions: Some(python.definitions.clone()),
        extras: Some(python.extras.clone()),
        groups: Some(python.groups.clone()),
        strict: Some(python.strict),
        also: python.also.clone(),
        index_url: python.index_url.as_deref().map(without_credentials),
        indexes: Some(indexes.collect()),
        allow_source: Some(python.allow_source),
        system_site_packages: python.system_site_packages,
        deadline: Some(DurationText(python.deadline)),
        imports: Some(python.imports.clone()),
        import_check: Some(python.import_check),
    }
}

fn service(host: &HostFile, settings: &Settings) -> ServiceTable {
    let service = &settings.service;
    ServiceTable {
        unit: Some(service.unit.clone()),
        also: Some(service.also.clone()),
        command: Some(service.command.clone()),
        stop_timeout: Some(DurationText(service.stop_timeout)),
        allow_root_exec: Some(service.allow_root_exec.clone()),
        socket: Some(host.service.socket.unwrap_or(SocketSetting::Loopback(false))),
    }
}

fn probe(settings: &Settings) -> ProbeTable {
    let probe = &settings.probe;
    ProbeTable {
        url: probe.url.as_deref().map(without_credentials),
        path: Some(probe.path.clone()),
        ca_file: probe.ca_file.clone(),
        headers: Some(probe.headers.clone()),
        status: probe.status,
        json_field: probe.json.as_ref().map(|(field, _)| field.clone()),
        json_value: probe.json.as_ref().map(|(_, value)| value.clone()),
        body: probe.body.clone(),
        deadline: Some(DurationText(probe.deadline)),
        settle: Some(DurationText(probe.settle)),
    }
}

fn hook(hook: &Hook) -> HookTable {
    HookTable {
        name: hook.name.clone(),
        kind: hook.kind,
        command: hook.command.clone(),
        deadline: Some(DurationText(hook.deadline)),
        stage: hook.stage,
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::Overrides;
    use super::super::layout::Layout;
    use super::*;

    /// Every key, none of them with its default.
    const ALL: &str = r#"
branch = "b"
allowed_branches = ["b"]
strict_order = true
preserve = ["x/*"]
ignored = "stash"
keep = 7
store = "/srv/store"
[remote]
url = "git://h/x"
allow = ["git"]
token_file = "/t"
token_user = "u"
credential_helper = "h"
ssh_key = "/k"
known_hosts = "/n"
proxy = "http://p:1/"
ca_file = "/c"
deadline = "7m"
stall = "700ms"
[python]
interpreter = "/usr/bin/python3.12"
strategy = "always"
definitions = ["d.txt"]
extras = ["e"]
groups = ["g"]
strict = true
also = "/a.txt"
index_url = "https://i/simple"
indexes = { torch = "https://t/cpu" }
allow_source = true
system_site_packages = true
deadline = "2h"
imports = ["m"]
import_check = "off"
[service]
unit = "x.service"
also = ["y.service"]
command = ["c"]
stop_timeout = "90s"
allow_root_exec = ["app/x"]
socket = "::1"
[probe]
url = "http://h/"
path = "/p"
ca_file = "/c"
headers = { Host = "lady.local" }
status = 201
json_field = "f"
json_value = "v"
body = "ok"
deadline = "61s"
settle = "1500ms"
[models]
verify = "full"
stores = ["/srv/models"]
[security]
require = true
[[hook]]
name = "n"
kind = "check"
command = ["true"]
deadline = "1m"
stage = true
"#;

    fn resolved(text: &str) -> (Layers, Settings) {
        let layers = Layers::of_text(&Layout::below("/trial"), text, Overrides::default()).unwrap();
        let settings = layers.resolve().unwrap();
        (layers, settings)
    }

    #[test]
    fn settings_in_force_written_as_a_file_are_in_force_again() {
        for text in ["", ALL] {
            let (layers, settings) = resolved(text);
            let file = toml::to_string(&HostFile::in_force(&layers, &settings)).unwrap();
            let (_, again) = resolved(&file);
            let shown = |mut settings: Settings| {
                settings.origins.clear();
                let Remote { deadline, stall, token_user, .. } = &mut settings.remote;
                deadline.get_or_insert(Remote::DEADLINE);
                stall.get_or_insert(Remote::STALL);
                token_user.get_or_insert(Remote::TOKEN_USER.to_owned());
                format!("{settings:#?}")
            };
            assert_eq!(shown(again), shown(settings), "{file}");
        }
        // Each key is in the text above, so each one was compared.
        let keys = toml::from_str::<toml::Table>(ALL).unwrap();
        for (table, known) in crate::keys::host_keys() {
            let found = match (table, keys.get(table)) {
                ("", _) => &keys,
                (_, Some(toml::Value::Array(hooks))) => hooks[0].as_table().unwrap(),
                (_, found) => found.unwrap().as_table().unwrap(),
            };
            let missing: Vec<_> = known.iter().filter(|key| !found.contains_key(**key)).collect();
            assert!(missing.is_empty(), "[{table}] {missing:?}");
        }
    }

    #[test]
    fn credentials_of_urls_are_left_out() {
        let text = "[remote]\nproxy = \"http://u:secret@p/\"\n[python]\nindex_url = \"https://u:secret@i/x\"\n\
                    indexes = { t = \"https://u:secret@t/x\" }\n";
        let (layers, settings) = resolved(text);
        let file = toml::to_string(&HostFile::in_force(&layers, &settings)).unwrap();
        assert!(!file.contains("secret"), "{file}");
    }
}
