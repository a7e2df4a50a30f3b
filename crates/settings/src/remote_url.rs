//! The remote's URL: which transports are allowed, and that no secret is in it.

use refresh_system::error::{Failure, Outcome};

use super::{RemoteUrl, Transport};

impl RemoteUrl {
    /// Checks a URL: https and ssh are always allowed, the others only where `allow` lists them.
    ///
    /// # Errors
    /// The transport is unknown or not allowed, or the URL holds credentials. The message never repeats a secret.
    pub fn parse(text: &str, allow: &[Transport]) -> Outcome<Self> {
        let refuse = |why: &str| Err(Failure::new(format!("the URL of the remote is refused: {why}")));
        if text.is_empty() || text.starts_with('-') || text.chars().any(|c| c.is_control() || c == ' ') {
            return refuse("it is empty, starts with a dash, or holds a space or control character");
        }
        let (transport, rest) = match text.split_once("://") {
            Some((scheme, rest)) => {
                let transport = match scheme.to_ascii_lowercase().as_str() {
                    "https" => Transport::Https,
                    "http" => Transport::Http,
                    "ssh" => Transport::Ssh,
                    "git" => Transport::Git,
                    "file" => Transport::File,
                    _ => return refuse(&format!("{scheme:?} is not a transport it may use")),
                };
                (transport, rest)
            }
            None if text.contains("::") => return refuse("it names a remote helper"),
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
                    .hint("put the token into a file that only its owner can read, and name it as remote.token_file"));
            }
            if user.starts_with('-') || host.starts_with('-') {
                return refuse("its host or user starts with a dash");
            }
        } else if place.starts_with('-') || (place.is_empty() && transport != Transport::File) {
            return refuse("it names no host");
        }
        let safe = matches!(transport, Transport::Https | Transport::Ssh);
        if !safe && !allow.contains(&transport) {
            let name = transport.name();
            return Err(Failure::new(format!(
                "the URL of the remote is refused: {name} does not verify the other side"
            ))
            .hint(format!("use https or ssh, or add \"{name}\" to remote.allow in refresh.toml")));
        }
        Ok(Self { text: text.to_owned(), transport })
    }
}

impl Transport {
    /// Returns the name, as settings and git's `protocol.<name>.allow` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Git => "git",
            Self::File => "file",
        }
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
    fn urls_that_run_commands_or_hold_secrets_are_refused_without_repeating_them() {
        let all = [Transport::Http, Transport::Git, Transport::File];
        for text in [
            "ext::sh -c x",
            "ext::x",
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
