//! The remote's URL: which transports are allowed, and that no secret is in it.

use super::{RemoteUrl, Transport};
use crate::error::{Failure, Outcome};

/// Checks the text of a remote URL. https and ssh are always allowed, the others only when `allowed` lists them.
///
/// # Errors
/// An unknown or not allowed transport, or credentials inside the URL.
pub fn parse(text: &str, allowed: &[Transport]) -> Outcome<RemoteUrl> {
    // The text itself may hold a secret, so no message repeats more of it than the transport.
    if text.starts_with('-')
        || text.chars().any(|c| c.is_control() || c.is_whitespace())
        || text.contains("::")
    {
        return Err(Failure::new("remote.url is not the URL of a Git repository").hint(EXAMPLES));
    }
    let transport = match text.split_once("://") {
        Some(("https", _)) => Transport::Https,
        Some(("http", _)) => Transport::Http,
        Some(("ssh", _)) => Transport::Ssh,
        Some(("git", _)) => Transport::Git,
        Some(("file", _)) => Transport::File,
        Some((other, _)) => {
            return Err(
                Failure::new(format!("remote.url has the unknown transport {other}://")).hint(EXAMPLES)
            );
        }
        None if is_ssh_short(text) => Transport::Ssh,
        None => return Err(Failure::new("remote.url has no transport").hint(EXAMPLES)),
    };
    if matches!(transport, Transport::Http | Transport::Git | Transport::File)
        && !allowed.contains(&transport)
    {
        let name = name(transport);
        return Err(Failure::new(format!(
            "remote.url uses {name}://, which is not protected and so not allowed"
        ))
        .hint(format!(
            "use https or ssh, or set `allow = [\"{name}\"]` under [remote] in the host's refresh.toml"
        )));
    }
    let host = text.split_once("://").map_or(text, |(_, rest)| rest).split('/').next().unwrap_or_default();
    if let Some((user, _)) = host.rsplit_once('@') {
        if user.contains(':') || transport != Transport::Ssh {
            return Err(Failure::new("remote.url holds credentials, which would end up in logs")
                .hint("put the token into a file of mode 0600 and name it as `token_file` under [remote]"));
        }
    }
    Ok(RemoteUrl { text: text.to_owned(), transport })
}

const EXAMPLES: &str = "examples: https://host/owner/repository.git, ssh://git@host/owner/repository.git";

/// Returns the name of a transport, as settings and git's `protocol.<name>.allow` spell it.
pub fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Https => "https",
        Transport::Http => "http",
        Transport::Ssh => "ssh",
        Transport::Git => "git",
        Transport::File => "file",
    }
}

/// `user@host:path`
fn is_ssh_short(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, path)| {
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        !host.is_empty() && !host.contains('/') && !host.starts_with('-') && !path.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protected_transports_are_allowed_and_the_others_only_when_listed() {
        assert_eq!(parse("https://h/r.git", &[]).unwrap().transport, Transport::Https);
        assert_eq!(parse("git@h:o/r.git", &[]).unwrap().transport, Transport::Ssh);
        assert!(parse("git://h/r", &[]).is_err());
        assert_eq!(parse("git://h/r", &[Transport::Git]).unwrap().transport, Transport::Git);
        assert!(parse("file:///srv/r", &[Transport::Git]).is_err());
    }

    #[test]
    fn what_git_would_read_as_an_option_or_a_helper_is_refused() {
        for bad in
            ["-oProxyCommand=x", "ext::sh -c x", "--upload-pack=x", "/srv/repo", "", "ftp://h/r", "h\n:x"]
        {
            assert!(parse(bad, &[Transport::File]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn credentials_in_the_url_are_refused_without_being_repeated() {
        let failure = parse("https://user:s3cret@h/r.git", &[]).unwrap_err();
        assert!(failure.summary().contains("credentials"));
        assert!(!format!("{failure:?}").contains("s3cret"));
        assert!(parse("ssh://git@h/r.git", &[]).is_ok());
    }
}
