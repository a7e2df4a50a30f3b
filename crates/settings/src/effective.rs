//! The settings in force in the form of the host's file.

use std::path::PathBuf;

use super::file::HostFile;
use super::layers::Layers;
use super::names::without_credentials;
use super::{Models, Probe, Python, Remote, Settings};

/// The directory of mirror, trees and environments, unless the host sets it.
const STORE: &str = "/opt/ladylinux-refresh";

impl HostFile {
    /// Returns the file with these settings in force; they were resolved from `layers`. Credentials in URLs are left
    /// out.
    pub fn in_force(layers: &Layers, settings: &Settings) -> Self {
        let host = &layers.host;
        let Settings { remote, python, probe, models, .. } = settings;
        let shown = |url: &Option<String>| url.as_deref().map(without_credentials);
        let indexes = python.indexes.iter().map(|(name, url)| (name.clone(), without_credentials(url)));
        Self {
            branch: settings.branch.clone(),
            allowed_branches: settings.allowed_branches.clone(),
            strict_order: settings.strict_order,
            preserve: settings.preserve.clone(),
            ignored: settings.ignored,
            keep: Some(settings.keep),
            store: Some(host.store.clone().unwrap_or_else(|| PathBuf::from(STORE))),
            remote: Remote { proxy: shown(&remote.proxy), ..remote.clone() },
            python: Python {
                definitions: Some(python.patterns().to_vec()),
                extras: Some(python.extras.clone().unwrap_or_default()),
                groups: Some(python.groups.clone().unwrap_or_default()),
                index_url: shown(&python.index_url),
                indexes: indexes.collect(),
                ..python.clone()
            },
            service: settings.service.clone(),
            probe: Probe { url: shown(&probe.url), path: Some(probe.path().to_owned()), ..probe.clone() },
            models: Models { stores: host.models.stores.clone(), ..*models },
            security: settings.security,
            hook: settings.hooks.clone(),
        }
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
                let (python, probe) = (&mut settings.python, &mut settings.probe);
                python.definitions = Some(python.patterns().to_vec());
                python.extras.get_or_insert_default();
                python.groups.get_or_insert_default();
                probe.path = Some(probe.path().to_owned());
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
