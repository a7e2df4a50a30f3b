//! What the installers are told of package indexes, proxies and certificates. Pure.
//!
//! People set these for pip, for uv, or for everything; both installers are told all of it, each in its own words.
//! The host's `python.index_url` wins over the caller's environment.

use std::path::Path;

use crate::settings::Python;
use crate::settings::environment;
use crate::settings::names::without_credentials;

type Variables = Vec<(String, String)>;

/// Returns the variables for pip.
pub(super) fn for_pip(python: &Python) -> Variables {
    pip_variables(python.index_url.as_deref(), &environment::network())
}

/// Returns the variables for uv.
pub(super) fn for_uv(python: &Python) -> Variables {
    uv_variables(python.index_url.as_deref(), &environment::network())
}

/// Returns which indexes packages come from, as far as it is not the default; credentials are left out, because a
/// token that is renewed makes no other environment.
pub(super) fn indexes(python: &Python) -> String {
    let variables = for_uv(python);
    let named = variables.iter().filter(|(name, _)| name == "UV_DEFAULT_INDEX" || name == "UV_INDEX");
    let urls = named.flat_map(|(_, value)| value.split_whitespace());
    urls.map(without_credentials).collect::<Vec<_>>().join(" ")
}

fn pip_variables(index_url: Option<&str>, caller: &[(String, String)]) -> Variables {
    let mut variables = shared(caller);
    let mut put = |name: &str, value: Option<&str>| {
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    };
    put("PIP_INDEX_URL", index_url.or(find(caller, "PIP_INDEX_URL")).or(find(caller, "UV_DEFAULT_INDEX")));
    put("PIP_EXTRA_INDEX_URL", find(caller, "PIP_EXTRA_INDEX_URL").or(find(caller, "UV_INDEX")));
    put("PIP_CERT", find(caller, "PIP_CERT").or(find(caller, "SSL_CERT_FILE")));
    // `/dev/null` makes pip read no configuration at all.
    put("PIP_CONFIG_FILE", find(caller, "PIP_CONFIG_FILE").or(Some("/dev/null")));
    variables
}

fn uv_variables(index_url: Option<&str>, caller: &[(String, String)]) -> Variables {
    let mut variables = shared(caller);
    let mut put = |name: &str, value: Option<&str>| {
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    };
    put("UV_DEFAULT_INDEX", index_url.or(find(caller, "UV_DEFAULT_INDEX")).or(find(caller, "PIP_INDEX_URL")));
    put("UV_INDEX", find(caller, "UV_INDEX").or(find(caller, "PIP_EXTRA_INDEX_URL")));
    if find(caller, "SSL_CERT_FILE").is_none() {
        put("SSL_CERT_FILE", find(caller, "PIP_CERT").filter(|path| Path::new(path).is_absolute()));
    }
    variables
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

    fn caller(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_set_for_one_installer_holds_for_the_other() {
        let given = caller(&[
            ("PIP_INDEX_URL", "https://i"),
            ("PIP_EXTRA_INDEX_URL", "https://e"),
            ("PIP_CERT", "/ca"),
            ("HTTPS_PROXY", "http://p"),
        ]);
        let uv = uv_variables(None, &given);
        for (name, value) in [
            ("UV_DEFAULT_INDEX", "https://i"),
            ("UV_INDEX", "https://e"),
            ("SSL_CERT_FILE", "/ca"),
            ("HTTPS_PROXY", "http://p"),
        ] {
            assert_eq!(find(&uv, name), Some(value), "{name}");
        }
        let given = caller(&[("UV_DEFAULT_INDEX", "https://i"), ("SSL_CERT_FILE", "/ca")]);
        let pip = pip_variables(None, &given);
        for (name, value) in
            [("PIP_INDEX_URL", "https://i"), ("PIP_CERT", "/ca"), ("PIP_CONFIG_FILE", "/dev/null")]
        {
            assert_eq!(find(&pip, name), Some(value), "{name}");
        }
    }

    #[test]
    fn the_setting_of_the_host_wins() {
        let given = caller(&[("PIP_INDEX_URL", "https://caller"), ("UV_DEFAULT_INDEX", "https://caller")]);
        assert_eq!(find(&pip_variables(Some("https://host"), &given), "PIP_INDEX_URL"), Some("https://host"));
        assert_eq!(
            find(&uv_variables(Some("https://host"), &given), "UV_DEFAULT_INDEX"),
            Some("https://host")
        );
    }

    #[test]
    fn credentials_do_not_count_as_another_index() {
        assert_eq!(without_credentials("https://u:p@h/simple"), "https://h/simple");
        assert_eq!(without_credentials("https://h/a@b"), "https://h/a@b");
    }
}
