//! The package indexes, proxies and certificates that uv gets.
//!
//! The host's `python.index_url` wins over the caller's environment. People set these for pip, for uv, or for all
//! programs; uv gets them in its own variables.

use std::path::Path;

use refresh_settings::Python;
use refresh_settings::names::without_credentials;
use refresh_system::{disk, environment};

/// Names and values of environment variables.
pub(super) type Variables = Vec<(String, String)>;

/// Returns the variables for uv, and for the program that fetches uv.
pub(super) fn variables(python: &Python) -> Variables {
    uv_variables(python, &environment::network())
}

/// The advice for a host that cannot reach the usual package index.
pub(super) const MIRROR: &str =
    "or name a mirror: index_url = \"URL\" under [python] in the host's refresh.toml";

/// The settings of pip for all users, which are not read.
const PIP: &str = "/etc/pip.conf";

/// Returns for each proxy a sentence with its address and the variable that names it, and a sentence about an index that
/// is not used.
pub(super) fn detours(variables: &Variables) -> Vec<String> {
    let is_proxy = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.ends_with("_proxy") && name != "no_proxy"
    };
    let named = variables.iter().filter(|(name, value)| is_proxy(name) && !value.is_empty());
    let sentence = |(name, value): &(String, String)| {
        let proxy = without_credentials(value);
        format!(
            "requests go through the proxy {}, which the variable {name} names",
            proxy.trim_end_matches('/')
        )
    };
    let pip = disk::read_if_there(Path::new(PIP)).ok().flatten().unwrap_or_default();
    let is_unread = String::from_utf8_lossy(&pip).contains("index-url");
    let unread = is_unread.then(|| format!("{PIP} names an index for pip; a refresh does not read it"));
    named.map(sentence).chain(unread).collect()
}

/// Returns the package indexes that are not the default. Credentials are left out: a renewed token does not make a
/// different environment.
pub(super) fn indexes(python: &Python) -> String {
    let variables = variables(python);
    let named = variables.iter().filter(|(name, _)| name == "UV_DEFAULT_INDEX" || name == "UV_INDEX");
    let urls = named.flat_map(|(_, value)| value.split_whitespace());
    let mut parts: Vec<String> = urls.map(without_credentials).collect();
    parts.extend(python.indexes.iter().map(|(name, url)| format!("{name}={}", without_credentials(url))));
    parts.join(" ")
}

fn uv_variables(python: &Python, caller: &[(String, String)]) -> Variables {
    let find = |names: [&str; 2]| {
        names.iter().find_map(|name| {
            let (_, value) = caller.iter().find(|(known, _)| known == name)?;
            Some(value.clone())
        })
    };
    let index = python.index_url.clone().or_else(|| find(["PIP_INDEX_URL", "UV_DEFAULT_INDEX"]));
    let more = find(["PIP_EXTRA_INDEX_URL", "UV_INDEX"]);
    let certificates = find(["SSL_CERT_FILE", "PIP_CERT"]).filter(|path| Path::new(path).is_absolute());
    let named = [("UV_DEFAULT_INDEX", index), ("UV_INDEX", more), ("SSL_CERT_FILE", certificates)];
    let is_same_for_all =
        |name: &str| !name.starts_with("PIP_") && !named.iter().any(|(known, _)| *known == name);
    let mut variables: Variables = caller.iter().filter(|(name, _)| is_same_for_all(name)).cloned().collect();
    variables.extend(named.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?))));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_settings::layers::{Layers, Overrides};
    use refresh_settings::layout::Layout;

    fn python(text: &str) -> Python {
        let layers = Layers::of_text(&Layout::below("/trial"), text, Overrides::default());
        layers.unwrap().resolve().unwrap().python
    }

    fn variables_of(python: &Python, caller: &[(&str, &str)]) -> Vec<String> {
        let caller: Variables =
            caller.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        uv_variables(python, &caller).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn the_host_s_index_wins_over_the_caller_s() {
        let caller = [("PIP_INDEX_URL", "https://p"), ("UV_DEFAULT_INDEX", "https://u")];
        assert_eq!(variables_of(&python(""), &caller), ["UV_DEFAULT_INDEX=https://p"]);
        let host = python("[python]\nindex_url = 'https://h'\n");
        assert_eq!(variables_of(&host, &caller), ["UV_DEFAULT_INDEX=https://h"]);
    }

    #[test]
    fn settings_of_pip_are_translated_to_variables_of_uv() {
        let caller = [
            ("UV_HTTP_TIMEOUT", "90"),
            ("PIP_EXTRA_INDEX_URL", "https://e"),
            ("PIP_CERT", "/c.pem"),
            ("HTTPS_PROXY", "http://p"),
        ];
        assert_eq!(
            variables_of(&python(""), &caller),
            ["UV_HTTP_TIMEOUT=90", "HTTPS_PROXY=http://p", "UV_INDEX=https://e", "SSL_CERT_FILE=/c.pem"]
        );
        assert!(variables_of(&python(""), &[("PIP_CERT", "c.pem")]).is_empty());
    }

    #[test]
    fn the_indexes_of_an_environment_are_named_without_credentials() {
        let host = python(
            "[python]\nindex_url = 'https://u:secret@h/simple'\nindexes = { torch = 'https://t:x@t/cpu' }\n",
        );
        assert_eq!(indexes(&host), "https://h/simple torch=https://t/cpu");
    }
}
