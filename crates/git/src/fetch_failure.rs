//! Why a fetch failed, read from the output of git, and hints for it.

use refresh_programs::process::{ChildEnd, Finished};
use refresh_system::clock;
use refresh_system::error::Failure;

/// What that command needs, and a small system does not have.
const NO_NTP: &str = "if it reports that NTP is not supported: apt install systemd-timesyncd";

/// The kinds of failed fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchFailure {
    /// The remote cannot be reached at all.
    Unreachable,
    /// It answers, and refuses the credentials or requires some.
    Authentication,
    /// It answers with something else than a repository, such as a page for people.
    NoGit,
    /// It answers that the repository does not exist.
    UnknownRepository,
    /// It is not the expected host (ssh host key, TLS certificate).
    HostIdentity,
    /// It answers, then sends nothing more.
    Stalled,
    /// It sends data, but not fast enough for the deadline.
    PastDeadline,
    /// It answers, then the connection breaks, or the remote is overloaded.
    Interrupted,
    /// The data that it sends is damaged.
    RemoteDamage,
    /// The local copy is damaged.
    LocalDamage,
    /// The disk has no space for the data that it sends.
    DiskFull,
    /// Any other failure.
    Other,
}

impl FetchFailure {
    /// Classifies the end of a fetch.
    pub(crate) fn of(finished: &Finished) -> Self {
        match finished.ended {
            ChildEnd::PastDeadline(_) => Self::PastDeadline,
            ChildEnd::Stalled(_) => Self::Stalled,
            _ => parse_fetch_failure(&finished.stderr),
        }
    }

    /// Returns `true` if the same fetch can succeed a moment later.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Self::Unreachable | Self::Interrupted | Self::Stalled)
    }

    /// Returns the failure: its sentence, its hint, and the output of git as the cause.
    pub(crate) fn failure(self, url: &str, finished: &Finished) -> Failure {
        let (sentence, hint) = self.meaning(url);
        let failure = finished.failure(&sentence);
        let is_certificate = String::from_utf8_lossy(&finished.stderr).to_lowercase().contains("certificate");
        let failure = if self == Self::HostIdentity && is_certificate {
            failure.hint(format!(
                "check the clock first, which is at {}: a certificate counts for a certain time only",
                clock::in_words(clock::now())
            ))
        } else {
            failure
        };
        failure.hint(hint)
    }

    /// Names the clock as the cause if a certificate is refused and the clock is earlier than `been`, a time in the
    /// past.
    pub(crate) fn blame_clock(self, failure: Failure, been: Option<jiff::Timestamp>) -> Failure {
        let now = clock::now();
        let Some(been) = been.filter(|been| self == Self::HostIdentity && *been > now) else {
            return failure;
        };
        let (now, been) = (clock::in_words(now), clock::in_words(been));
        Failure::new(format!("the clock is wrong: it is at {now}, and the last fetch was at {been}"))
            .because(failure)
            .command("timedatectl set-ntp true", &[])
            .hint(NO_NTP)
    }

    /// Reports a failure as this kind, although its words indicated another one.
    pub(crate) fn instead_of(self, url: &str, failure: Failure) -> Failure {
        let (sentence, hint) = self.meaning(url);
        Failure::new(sentence).because(failure).hint(hint)
    }

    fn meaning(self, url: &str) -> (String, &'static str) {
        match self {
            Self::Unreachable => (
                format!("the remote {url} cannot be reached"),
                "check the network, the proxy setting and the host name in the URL",
            ),
            Self::Authentication => (
                format!("the remote {url} refused the credentials"),
                "set remote.token_file, remote.credential_helper or remote.ssh_key in the host's refresh.toml",
            ),
            Self::UnknownRepository => (
                format!("{url} has no repository, or these credentials may not read it"),
                "check the URL: --repo of init, or url under [remote] in the host's refresh.toml",
            ),
            Self::NoGit => (
                format!("{url} answers with something else than a repository, such as a page for a login"),
                "check the URL and the proxy: a login or a proxy may answer in place of the repository",
            ),
            Self::HostIdentity => (
                format!("the host of {url} did not prove its identity"),
                "check remote.known_hosts (ssh) or remote.ca_file (https) in the host's refresh.toml",
            ),
            Self::Stalled => (
                format!("the remote {url} stopped sending"),
                "try again; remote.stall in the host's refresh.toml limits a fetch without progress",
            ),
            Self::PastDeadline => (
                format!("the fetch from {url} did not end within its deadline"),
                "try again; remote.deadline in the host's refresh.toml limits a fetch",
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
                "the next fetch replaces it; check the disk",
            ),
            Self::DiskFull => (
                "the disk, or a quota on it, is full".to_owned(),
                "free space on the file system of the store: /opt/ladylinux-refresh, or `store` in the host's refresh.toml",
            ),
            Self::Other => (format!("cannot fetch from {url}"), "the lines above are git's own words"),
        }
    }
}

/// Texts of git, of curl and of ssh in lower case, and the failures that they mean. The first match counts.
const TEXTS: [(FetchFailure, &[&str]); 9] = [
    (FetchFailure::DiskFull, &["no space left on device", "disk quota exceeded"]),
    (
        FetchFailure::HostIdentity,
        &[
            "host key verification failed",
            "ssl certificate problem",
            "certificate verif",
            "server certificate",
            "remote host identification has changed",
        ],
    ),
    (
        FetchFailure::Stalled,
        &["operation too slow", "less than 1 bytes/sec", "timeout, server", "operation timed out after"],
    ),
    (
        FetchFailure::Authentication,
        &[
            "authentication failed",
            "could not read username",
            "could not read password",
            "permission denied (",
            "terminal prompts disabled",
            "error: 401",
            "error: 403",
            "invalid credentials",
        ],
    ),
    (
        FetchFailure::Unreachable,
        &[
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
        ],
    ),
    (FetchFailure::NoGit, &["not valid: is this a git repository?"]),
    (
        FetchFailure::UnknownRepository,
        &[
            "repository not found",
            "' not found",
            "does not appear to be a git repository",
            "no such repository",
            "repository not exported",
            "error: 404",
            "does not exist",
        ],
    ),
    (
        FetchFailure::Interrupted,
        &[
            "remote end hung up",
            "early eof",
            "rpc failed",
            "error: 429",
            "error: 500",
            "error: 502",
            "error: 503",
            "error: 504",
            "error: 52",
            "connection reset",
            "connection closed by",
            "broken pipe",
            "empty reply from server",
            "gnutls_handshake() failed",
            "ssl_error_syscall",
            "unexpected eof while reading",
            "was not closed cleanly",
        ],
    ),
    (
        FetchFailure::LocalDamage,
        &[
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
        ],
    ),
];

/// Texts that show that a broken connection is the consequence of damage to the local copy.
const DAMAGED_PACK: [&str; 3] = ["did not send all necessary objects", "is corrupt", "unresolved deltas"];

/// Classifies the output of git after a failed fetch.
pub(crate) fn parse_fetch_failure(stderr: &[u8]) -> FetchFailure {
    let text = String::from_utf8_lossy(stderr).to_lowercase();
    let has_one_of = |texts: &[&str]| texts.iter().any(|part| text.contains(part));
    let kind =
        TEXTS.iter().find(|(_, texts)| has_one_of(texts)).map_or(FetchFailure::Other, |(kind, _)| *kind);
    match kind {
        FetchFailure::Interrupted if has_one_of(&DAMAGED_PACK) => FetchFailure::LocalDamage,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failures_of_git_are_distinguished() {
        let cases = [
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
            ("fatal: https://h/r/info/refs not valid: is this a git repository?", FetchFailure::NoGit),
            (
                "fatal: unable to access 'https://h/': gnutls_handshake() failed: Error in the pull function.",
                FetchFailure::Interrupted,
            ),
            ("fatal: unable to access 'https://h/': Empty reply from server", FetchFailure::Interrupted),
            ("kex_exchange_identification: Connection closed by remote host", FetchFailure::Interrupted),
            ("OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to h:443", FetchFailure::Interrupted),
            ("The requested URL returned error: 522", FetchFailure::Interrupted),
            (
                "HTTP/2 stream 5 was not closed cleanly before end of the underlying stream",
                FetchFailure::Interrupted,
            ),
            ("something new", FetchFailure::Other),
        ];
        for (text, kind) in cases {
            assert_eq!(parse_fetch_failure(text.as_bytes()), kind, "{text}");
        }
    }
}
