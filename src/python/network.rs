//! What the installers are told of package indexes, proxies and certificates. Pure.
//!
//! People set these for pip, for uv, or for everything; both installers are told all of it, each in its own words. The
//! host's `python.index_url` wins over the caller's environment, and that over the host's configuration of pip.

use std::path::Path;

use crate::settings::Python;
use crate::settings::environment;
use crate::settings::names::without_credentials;

type Variables = Vec<(String, String)>;

/// Returns the variables for pip.
pub(super) fn for_pip(python: &Python) -> Variables {
    pip_variables(&Given { python, caller: environment::network() })
}

/// Returns the variables for uv.
pub(super) fn for_uv(python: &Python) -> Variables {
    uv_variables(&Given { python, caller: environment::network() })
}

/// Returns which indexes packages come from, as far as it is not the default; credentials are left out, because a
/// token that is renewed makes no other environment.
pub(super) fn indexes(python: &Python) -> String {
    let variables = for_uv(python);
    let named = variables.iter().filter(|(name, _)| name == "UV_DEFAULT_INDEX" || name == "UV_INDEX");
    let urls = named.flat_map(|(_, value)| value.split_whitespace());
    urls.map(without_credentials).collect::<Vec<_>>().join(" ")
}

/// What is known of the network: the host's settings, the caller's environment, the host's configuration of pip.
struct Given<'a> {
    python: &'a Python,
    caller: Variables,
}

impl Given<'_> {
    /// The first of these variables of the caller that is set, else the host's configuration of pip.
    fn value(&self, variables: [&str; 2], key: &str) -> Option<&str> {
        let set = variables.iter().find_map(|name| find(&self.caller, name));
        set.or_else(|| self.python.pip.value(key))
    }
}

fn pip_variables(given: &Given<'_>) -> Variables {
    let mut variables = shared(&given.caller);
    let mut put = |name: &str, value: Option<&str>| {
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    };
    let index = given.python.index_url.as_deref();
    put("PIP_INDEX_URL", index.or(given.value(["PIP_INDEX_URL", "UV_DEFAULT_INDEX"], "index-url")));
    put("PIP_EXTRA_INDEX_URL", given.value(["PIP_EXTRA_INDEX_URL", "UV_INDEX"], "extra-index-url"));
    put("PIP_CERT", given.value(["PIP_CERT", "SSL_CERT_FILE"], "cert"));
    put("PIP_PROXY", given.python.pip.value("proxy").filter(|_| !has_proxy(&given.caller)));
    put("PIP_TRUSTED_HOST", given.python.pip.value("trusted-host"));
    // With this, pip looks for no configuration: what it has to know is said above.
    put("PIP_CONFIG_FILE", Some("/dev/null"));
    variables
}

fn uv_variables(given: &Given<'_>) -> Variables {
    let mut variables = shared(&given.caller);
    let mut put = |name: &str, value: Option<&str>| {
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    };
    let index = given.python.index_url.as_deref();
    put("UV_DEFAULT_INDEX", index.or(given.value(["PIP_INDEX_URL", "UV_DEFAULT_INDEX"], "index-url")));
    put("UV_INDEX", given.value(["PIP_EXTRA_INDEX_URL", "UV_INDEX"], "extra-index-url"));
    if find(&given.caller, "SSL_CERT_FILE").is_none() {
        let cert = given.value(["PIP_CERT", "PIP_CERT"], "cert");
        put("SSL_CERT_FILE", cert.filter(|path| Path::new(path).is_absolute()));
    }
    if !has_proxy(&given.caller) {
        put("ALL_PROXY", given.python.pip.value("proxy"));
    }
    put("UV_INSECURE_HOST", given.python.pip.value("trusted-host"));
    variables
}

/// Tells whether the caller names a proxy: it is the one that holds, then.
fn has_proxy(caller: &Variables) -> bool {
    caller.iter().any(|(name, _)| {
        let name = name.to_ascii_uppercase();
        name.ends_with("_PROXY") && name != "NO_PROXY"
    })
}

/// The variables that mean the same to both.
fn shared(caller: &[(String, String)]) -> Variables {
    caller.iter().filter(|(name, _)| !name.starts_with("PIP_") && !name.starts_with("UV_")).cloned().collect()
}

fn find<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::layers::{Layers, Overrides};
    use crate::settings::layout::Layout;
    use crate::settings::pip_config::PipConfig;

    fn caller(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn python(host_file: &str, pip: PipConfig) -> Python {
        let layers = Layers::of_text(&Layout::below("/trial"), host_file, Overrides::default()).unwrap();
        Python { pip, ..layers.resolve().unwrap().python }
    }

    fn pip(text: &str) -> PipConfig {
        let mut config = PipConfig::default();
        config.add(text);
        config
    }

    #[test]
    fn what_is_set_for_one_installer_holds_for_the_other() {
        let python = python("", PipConfig::default());
        let given = caller(&[
            ("PIP_INDEX_URL", "https://i"),
            ("PIP_EXTRA_INDEX_URL", "https://e"),
            ("PIP_CERT", "/ca"),
            ("HTTPS_PROXY", "http://p"),
        ]);
        let uv = uv_variables(&Given { python: &python, caller: given });
        for (name, value) in [
            ("UV_DEFAULT_INDEX", "https://i"),
            ("UV_INDEX", "https://e"),
            ("SSL_CERT_FILE", "/ca"),
            ("HTTPS_PROXY", "http://p"),
        ] {
            assert_eq!(find(&uv, name), Some(value), "{name}");
        }
        let given = caller(&[("UV_DEFAULT_INDEX", "https://i"), ("SSL_CERT_FILE", "/ca")]);
        let pip = pip_variables(&Given { python: &python, caller: given });
        for (name, value) in
            [("PIP_INDEX_URL", "https://i"), ("PIP_CERT", "/ca"), ("PIP_CONFIG_FILE", "/dev/null")]
        {
            assert_eq!(find(&pip, name), Some(value), "{name}");
        }
    }

    #[test]
    fn the_host_s_configuration_of_pip_is_told_to_both_installers() {
        let python = python(
            "",
            pip("[global]\nindex-url = https://u:p@i\nextra-index-url = https://e https://f\ncert = /ca\n\
                 proxy = http://p\ntrusted-host = h\n"),
        );
        let uv = uv_variables(&Given { python: &python, caller: Vec::new() });
        let pip = pip_variables(&Given { python: &python, caller: Vec::new() });
        for (pip_name, uv_name, value) in [
            ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "https://u:p@i"),
            ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "https://e https://f"),
            ("PIP_CERT", "SSL_CERT_FILE", "/ca"),
            ("PIP_PROXY", "ALL_PROXY", "http://p"),
            ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST", "h"),
        ] {
            assert_eq!(find(&pip, pip_name), Some(value), "{pip_name}");
            assert_eq!(find(&uv, uv_name), Some(value), "{uv_name}");
        }
        let given = caller(&[("UV_DEFAULT_INDEX", "https://caller"), ("http_proxy", "http://q")]);
        let pip = pip_variables(&Given { python: &python, caller: given });
        assert_eq!(find(&pip, "PIP_INDEX_URL"), Some("https://caller"));
        assert_eq!((find(&pip, "PIP_PROXY"), find(&pip, "http_proxy")), (None, Some("http://q")));
    }

    #[test]
    fn the_setting_of_the_host_wins() {
        let python = python(
            "[python]\nindex_url = \"https://host\"\n",
            pip("[global]\nindex-url = https://configured\n"),
        );
        let given = || caller(&[("PIP_INDEX_URL", "https://caller"), ("UV_DEFAULT_INDEX", "https://caller")]);
        let pip = pip_variables(&Given { python: &python, caller: given() });
        let uv = uv_variables(&Given { python: &python, caller: given() });
        assert_eq!(find(&pip, "PIP_INDEX_URL"), Some("https://host"));
        assert_eq!(find(&uv, "UV_DEFAULT_INDEX"), Some("https://host"));
    }

    #[test]
    fn credentials_do_not_count_as_another_index() {
        assert_eq!(without_credentials("https://u:p@h/simple"), "https://h/simple");
        assert_eq!(without_credentials("https://h/a@b"), "https://h/a@b");
    }
}
