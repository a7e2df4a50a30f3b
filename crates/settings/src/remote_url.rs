//! The remote's URL: checks that its transport is allowed and that it contains no secret.

use refresh_system::error::{Failure, Outcome};

use super::{Remote, RemoteUrl, Transport};

impl Remote {
    /// Returns the URL, after a check; it contains no credentials.
    ///
    /// # Errors
    /// As [`RemoteUrl::parse`].
    pub fn checked_url(&self) -> Outcome<Option<RemoteUrl>> {
        self.url.as_deref().map(|text| RemoteUrl::parse(text, &self.allow)).transpose()
    }
}

impl RemoteUrl {
    /// Checks a URL: https and ssh are always allowed, the others only if `allow` lists them.
    ///
    /// # Errors
    /// The transport is unknown or not allowed, or the URL contains credentials. The message never repeats a secret.
    pub fn parse(text: &str, allow: &[Transport]) -> Outcome<Self> {
        let refuse = |why: &str| Err(Failure::new(format!("the URL of the remote is refused: {why}")));
        if text.is_empty() || text.starts_with('-') || text.chars().any(|c| c.is_control() || c == ' ') {
            return refuse("it is empty, starts with a dash, or holds a space or control character");
        }
        let (transport, rest) = match text.split_once("://") {
            Some((scheme, rest)) => {
                let Ok(transport) = scheme.parse() else {
                    return refuse(&format!("{scheme:?} is not a transport it may use"));
                };
                (transport, rest)
            }
            // git takes brackets for an address of IPv6, and no helper has one in its name.
            None if text.contains("::") && !is_in_brackets(text) => {
                return refuse("it names a remote helper");
            }
            None => match text.split_once(':') {
                Some((host, path)) if !host.contains('/') && !path.is_empty() => (Transport::Ssh, text),
                _ => {
                    return Err(Failure::new("the URL of the remote is refused: it names no transport")
                        .hint("write a directory of this machine as file:///path, and allow \"file\""));
                }
            },
        };
        let place = rest.split('/').next().unwrap_or_default();
        if let Some((user, host)) = place.rsplit_once('@') {
            if user.contains(':') || matches!(transport, Transport::Https | Transport::Http) {
                return Err(Failure::new("the URL of the remote is refused: it holds credentials")
                    .hint("put the token into a file that only its owner can read, and name it as remote.token_file")
                    .hint("the name of a user goes to remote.token_user"));
            }
            if user.starts_with('-') || host.starts_with('-') {
                return refuse("its host or user starts with a dash");
            }
        } else if place.starts_with('-') || (place.is_empty() && transport != Transport::File) {
            return refuse("it names no host");
        }
        if !transport.is_safe() && !allow.contains(&transport) {
            let name = transport.as_ref();
            return Err(Failure::new(format!(
                "the URL of the remote is refused: {name} does not verify the other side"
            ))
            .hint(format!("use https or ssh, or add \"{name}\" to remote.allow in refresh.toml")));
        }
        Ok(Self { text: text.to_owned(), transport })
    }

    /// Returns the URL that a person probably means by `text`, which [`Self::parse`] has refused, and the transport
    /// that must be allowed for it; `None` if no URL is similar.
    pub fn usable(text: &str) -> Option<(String, Option<Transport>)> {
        let is_path = text.starts_with('/');
        let host = text.split_once('/').map_or("", |(host, _)| host);
        let is_bare = host.contains('.') && !host.starts_with('.') && !text.contains(':');
        if let Some((scheme @ ("https" | "http"), rest)) = text.split_once("://")
            && let Some((user, _)) = rest.split('/').next().and_then(|place| place.rsplit_once('@'))
            && !user.contains(':')
        {
            return Self::usable(&format!("{scheme}://{}", rest.get(user.len() + 1..)?));
        }
        let url = match (is_path, is_bare) {
            (true, _) => format!("file://{text}"),
            (_, true) => format!("https://{text}"),
            _ => text.to_owned(),
        };
        let transport =
            Self::parse(&url, &[Transport::Http, Transport::Git, Transport::File]).ok()?.transport;
        Some((url, Some(transport).filter(|transport| !transport.is_safe())))
    }
}

/// Returns whether all colons up to the path of `[USER@][ADDRESS]:PATH` are in the brackets.
fn is_in_brackets(text: &str) -> bool {
    let inner = text.split_once('[').and_then(|(before, rest)| Some((before, rest.split_once("]:")?.0)));
    inner.is_some_and(|(before, address)| {
        (before.is_empty() || before.ends_with('@'))
            && !before.contains([':', '/'])
            && address.parse::<std::net::Ipv6Addr>().is_ok()
    })
}

impl Transport {
    /// Returns whether the transport verifies the other side.
    fn is_safe(self) -> bool {
        matches!(self, Self::Https | Self::Ssh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_and_ssh_are_allowed_and_the_others_by_setting_only() {
        for (text, transport) in [
            ("https://example.org/a/b.git", Transport::Https),
            ("ssh://git@example.org/a", Transport::Ssh),
            ("git@example.org:a/b.git", Transport::Ssh),
            ("git@[2001:db8::1]:a/b.git", Transport::Ssh),
            ("[::1]:a/b.git", Transport::Ssh),
        ] {
            assert_eq!(RemoteUrl::parse(text, &[]).unwrap().transport, transport, "{text}");
        }
        for (text, transport) in [
            ("http://127.0.0.1:1/a", Transport::Http),
            ("git://127.0.0.1/a", Transport::Git),
            ("file:///srv/a.git", Transport::File),
        ] {
            assert!(RemoteUrl::parse(text, &[]).is_err(), "{text}");
            assert_eq!(RemoteUrl::parse(text, &[transport]).unwrap().transport, transport, "{text}");
        }
    }

    #[test]
    fn a_path_and_a_name_without_a_transport_are_completed_to_the_url_that_is_meant() {
        for (text, url, transport) in [
            ("file:///srv/a.git", "file:///srv/a.git", Some(Transport::File)),
            ("HTTP://h/a", "HTTP://h/a", Some(Transport::Http)),
            ("/srv/a.git", "file:///srv/a.git", Some(Transport::File)),
            ("github.com/you/app", "https://github.com/you/app", None),
            ("https://alice@h/org/_git/x", "https://h/org/_git/x", None),
        ] {
            assert_eq!(RemoteUrl::usable(text), Some((url.to_owned(), transport)), "{text}");
        }
        for text in [
            "ext::sh -c x",
            "-x",
            "https://u:p@h/a",
            "ftp://h/a",
            "a b",
            "app",
            "../app",
            "app.git",
            "/srv/a\nb",
        ] {
            assert_eq!(RemoteUrl::usable(text), None, "{text}");
        }
    }

    #[test]
    fn urls_that_run_commands_or_hold_secrets_are_refused_without_repeating_them() {
        let all = [Transport::Http, Transport::Git, Transport::File];
        for text in [
            "ext::sh -c x",
            "ext::x",
            "ext::[::1]:x",
            "git@[ext::x]:a",
            "-o@[::1]:a",
            "-x",
            "",
            "--upload-pack=x",
            "/srv/a",
            "ssh://-oProxyCommand=x/a",
            "https:///a",
            "ftp://h/a",
            "a b",
            "https://h/a\nb",
        ] {
            assert!(RemoteUrl::parse(text, &all).is_err(), "{text}");
        }
        for text in ["https://user:s3cret@h/a", "https://s3cret@h/a", "ssh://u:s3cret@h/a"] {
            let failure = RemoteUrl::parse(text, &all).unwrap_err();
            assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
        }
    }
}
