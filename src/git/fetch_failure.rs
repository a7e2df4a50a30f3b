//! Why a fetch failed, read from what git said, and what to do about it.

use crate::error::Failure;
use crate::process::{Ended, Finished};

/// The kinds of failed fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFailure {
    /// The other side cannot be reached at all.
    Unreachable,
    /// It answers, and refuses these credentials or asks for some.
    Authentication,
    /// It answers that there is no such repository.
    UnknownRepository,
    /// It is not the host that it should be (ssh host key, TLS certificate).
    HostIdentity,
    /// It answers, then brings nothing more.
    Stalled,
    /// It brings data, but not fast enough for the deadline.
    PastDeadline,
    /// It answers, then the connection breaks, or it is overloaded.
    Interrupted,
    /// What it sends is damaged.
    RemoteDamage,
    /// The local copy is damaged.
    LocalDamage,
    /// There is no room for what it brings.
    DiskFull,
    /// Something else.
    Other,
}

impl FetchFailure {
    /// Classifies the end of a fetch.
    pub fn of(finished: &Finished) -> Self {
        match finished.ended {
            Ended::PastDeadline(_) => Self::PastDeadline,
            Ended::Stalled(_) => Self::Stalled,
            _ => parse_fetch_failure(&finished.stderr),
        }
    }

    /// Returns `true` if the same fetch may succeed a moment later.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Unreachable | Self::Interrupted | Self::Stalled)
    }

    /// Tells the failure: its sentence, its hint, and what git said as the cause.
    pub fn told(self, url: &str, finished: &Finished) -> Failure {
        let (sentence, hint) = match self {
            Self::Unreachable => (
                format!("the remote {url} cannot be reached"),
                "check the network, the proxy setting and the host name in the URL",
            ),
            Self::Authentication => (
                format!("the remote {url} refused the credentials"),
                "set remote.token_file, remote.credential_helper or remote.ssh_key in the host's /etc/ladylinux/refresh.toml",
            ),
            Self::UnknownRepository => (
                format!("there is no repository at {url}, or these credentials do not show it"),
                "check remote.url in refresh.toml",
            ),
            Self::HostIdentity => (
                format!("the host of {url} did not prove its identity"),
                "check remote.known_hosts (ssh) or remote.ca_file (https) in refresh.toml",
            ),
            Self::Stalled => (
                format!("the remote {url} stopped sending"),
                "try again; remote.stall in refresh.toml says how long silence is borne",
            ),
            Self::PastDeadline => (
                format!("the fetch from {url} did not end within its deadline"),
                "try again; remote.deadline in refresh.toml says how long a fetch may take",
            ),
            Self::Interrupted => (
                format!("the connection to the remote {url} broke"),
                "run it again; if that does not help, check the network",
            ),
            Self::RemoteDamage => (
                format!("the remote {url} sends damaged data"),
                "check the repository there: git fsck --full",
            ),
            Self::LocalDamage => (
                "the mirror of the remote is damaged".to_owned(),
                "the next fetch makes it anew; check the disk",
            ),
            Self::DiskFull => {
                ("the disk is full".to_owned(), "free space on the file system of /var/lib/ladylinux-refresh")
            }
            Self::Other => (format!("cannot fetch from {url}"), "the lines above are git's own words"),
        };
        finished.failure(&sentence).hint(hint)
    }

    /// Reports a failure as another kind than its words suggested.
    pub fn instead_of(self, url: &str, failure: Failure) -> Failure {
        match self {
            Self::RemoteDamage => Failure::new(format!("the remote {url} sends damaged data"))
                .because(failure)
                .hint("check the repository there: git fsck --full"),
            _ => failure,
        }
    }
}

/// Classifies what git wrote while a fetch failed.
pub fn parse_fetch_failure(stderr: &[u8]) -> FetchFailure {
    let text = String::from_utf8_lossy(stderr).to_lowercase();
    let says = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if says(&["no space left on device", "disk quota exceeded"]) {
        FetchFailure::DiskFull
    } else if says(&[
        "host key verification failed",
        "ssl certificate problem",
        "certificate verif",
        "server certificate",
        "remote host identification has changed",
    ]) {
        FetchFailure::HostIdentity
    } else if says(&[
        "operation too slow",
        "less than 1 bytes/sec",
        "timeout, server",
        "operation timed out after",
    ]) {
        FetchFailure::Stalled
    } else if says(&[
        "authentication failed",
        "could not read username",
        "could not read password",
        "permission denied (",
        "terminal prompts disabled",
        "error: 401",
        "error: 403",
        "invalid credentials",
    ]) {
        FetchFailure::Authentication
    } else if says(&[
        "could not resolve host",
        "connection refused",
        "failed to connect",
        "couldn't connect",
        "could not connect",
        "network is unreachable",
        "no route to host",
        "connection timed out",
        "unable to look up",
        "unable to connect",
        "name or service not known",
        "temporary failure in name",
        "could not resolve proxy",
    ]) {
        FetchFailure::Unreachable
    } else if says(&[
        "repository not found",
        "' not found",
        "does not appear to be a git repository",
        "no such repository",
        "repository not exported",
        "error: 404",
        "does not exist",
    ]) {
        FetchFailure::UnknownRepository
    } else if says(&[
        "remote end hung up",
        "early eof",
        "rpc failed",
        "error: 429",
        "error: 500",
        "error: 502",
        "error: 503",
        "error: 504",
        "connection reset",
        "broken pipe",
    ]) && !says(&["did not send all necessary objects", "is corrupt", "unresolved deltas"])
    {
        FetchFailure::Interrupted
    } else if says(&[
        "not a git repository:",
        "loose object",
        "is corrupt",
        "bad object refs/",
        "packfile .git",
        "object file",
        "bad config",
        "missing blob",
        "missing tree",
        "did not send all necessary objects",
        "unresolved deltas",
        "index file corrupt",
        "cannot be accessed",
        "bad pack",
        "inflate: data stream error",
        "unable to resolve reference",
        "fatal: bad object",
        "does not match index",
        "unable to read",
        "could not parse object",
        "unable to parse object",
        "bad tree object",
        "not a valid object",
    ]) {
        FetchFailure::LocalDamage
    } else {
        FetchFailure::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_told_apart() {
        let cases: [(&str, FetchFailure); 14] = [
            ("fatal: unable to access 'https://h/r/': Could not resolve host: h", FetchFailure::Unreachable),
            (
                "fatal: unable to access 'http://h/': Failed to connect to h port 80",
                FetchFailure::Unreachable,
            ),
            (
                "fatal: unable to connect to 127.0.0.1:\n127.0.0.1[0: 127.0.0.1]: errno=Connection refused",
                FetchFailure::Unreachable,
            ),
            ("fatal: Authentication failed for 'https://h/r/'", FetchFailure::Authentication),
            (
                "fatal: could not read Username for 'https://h': terminal prompts disabled",
                FetchFailure::Authentication,
            ),
            (
                "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                FetchFailure::Authentication,
            ),
            ("fatal: repository 'https://h/r/' not found", FetchFailure::UnknownRepository),
            ("fatal: '/x' does not appear to be a git repository", FetchFailure::UnknownRepository),
            (
                "Host key verification failed.\nfatal: Could not read from remote repository.",
                FetchFailure::HostIdentity,
            ),
            ("error: RPC failed; curl 28 Operation too slow. Less than 1 bytes/sec", FetchFailure::Stalled),
            (
                "error: inflate: data stream error\nfatal: loose object ab is corrupt",
                FetchFailure::LocalDamage,
            ),
            ("fatal: the remote end hung up unexpectedly\nfatal: early EOF", FetchFailure::Interrupted),
            (
                "fatal: unable to access 'https://h/r/': The requested URL returned error: 503",
                FetchFailure::Interrupted,
            ),
            ("something new", FetchFailure::Other),
        ];
        for (text, kind) in cases {
            assert_eq!(parse_fetch_failure(text.as_bytes()), kind, "{text}");
        }
    }
}
