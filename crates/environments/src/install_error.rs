//! The reason for a failure of uv, read from its output. Pure.

use refresh_programs::process::{ChildEnd, Finished};
use refresh_system::error::Failure;

use super::network;
use super::network::Variables;
use super::pylock::without_credentials;

/// The largest length of a reported reason; resolvers can write pages.
const LONGEST: usize = 1200;

/// The reason why an environment was not built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstallErrorKind {
    /// No version of a package fits, or the package does not exist.
    NoMatch,
    /// Only an index of lower priority has a fitting version.
    IndexOrder,
    /// The certificate of the index is not accepted.
    Certificate,
    /// The definition contradicts itself.
    Conflict,
    /// The disk, or the owner's share of it, is full.
    NoSpace,
    /// The index could not be reached, or refuses access.
    Network,
    /// A package exists only as source and does not build.
    SourceBuild,
    /// A package has no built file, and building is not allowed.
    SourceOnly,
    /// A package is built for other platforms only.
    Platform,
    /// A package is for other versions of Python.
    Python,
    /// The lock is not for this machine.
    OtherMachine,
    /// A download does not match its hash.
    Hash,
    /// Something else.
    Other,
}

/// Reports the end of uv as a failure: `summary`, the reason in a few lines, and a remedy.
pub(super) fn explain(finished: &Finished, summary: &str, network: &Variables) -> Failure {
    if !matches!(finished.ended, ChildEnd::Exited(_)) {
        return finished.failure(summary).hint("give it longer: python.deadline in the host's refresh.toml");
    }
    let text = String::from_utf8_lossy(&finished.stderr);
    let kind = parse_kind(&text);
    let reason = parse_reason(&text);
    let summary = format!("{summary}: {}", kind.sentence());
    let failure = if reason.is_empty() {
        finished.failure(&summary)
    } else {
        Failure::new(summary).because(Failure::new(reason))
    };
    let failure = parse_other_index(&text).into_iter().fold(failure, |failure, (package, index)| {
        let index = without_credentials(&index);
        failure.hint(format!(
            "if {package} is to come from there: indexes = {{ {package} = \"{index}\" }} under [python] in the host's refresh.toml"
        ))
    });
    // uv names the server that it wanted to reach, and not the proxy that it asked.
    let detours = if kind == InstallErrorKind::Network { network::detours(network) } else { Vec::new() };
    let failure = detours.into_iter().fold(failure, Failure::hint);
    kind.hints().iter().fold(failure, |failure, hint| failure.hint(*hint))
}

impl InstallErrorKind {
    /// Returns whether there may be a solution among the releases that a cutoff hides.
    pub(super) fn may_be_the_cutoff(self) -> bool {
        !matches!(
            self,
            Self::NoSpace
                | Self::Network
                | Self::Certificate
                | Self::IndexOrder
                | Self::SourceBuild
                | Self::Hash
        )
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::NoMatch => "no version of a package fits the requirements",
            Self::IndexOrder => {
                "the index that counts for a package has no fitting version of it, and another index may have one"
            }
            Self::Certificate => "the certificate of the package index is not accepted",
            Self::Conflict => "the requirements contradict each other",
            Self::NoSpace => "no space is left on the disk",
            Self::Network => "the package index cannot be reached",
            Self::SourceBuild => "a package must be built from source and does not build",
            Self::SourceOnly => "a package comes as source only, which is not built here",
            Self::Platform => "a package is built for other platforms only",
            Self::Python => "a package is for other versions of Python",
            Self::OtherMachine => "the lock is for other machines",
            Self::Hash => "a download does not match its hash",
            Self::Other => "uv gave up",
        }
    }

    fn hints(self) -> &'static [&'static str] {
        match self {
            Self::Conflict | Self::NoMatch => &["correct the requirements in the application's repository"],
            Self::IndexOrder => &[
                "the first index that has a package of that name counts: an extra index comes before the default one",
            ],
            Self::Certificate => &[
                "check the clock of this machine: a certificate counts for a certain time only",
                "or name the certificate of its authority: SSL_CERT_FILE",
            ],
            Self::NoSpace => &["free some space; `df -h` and `df -i` show where"],
            Self::Network => &["check the network, proxy and certificates of this machine", network::MIRROR],
            Self::SourceBuild => {
                &["require a version that has a wheel for this Python, or install its build tools"]
            }
            Self::SourceOnly => &[
                "require a version that has a wheel for this Python",
                "or let sources be built: python.allow_source = true in the host's refresh.toml",
            ],
            Self::Platform => {
                &["ask for a version that has a wheel for this machine, or mark the requirement"]
            }
            Self::Python => &[
                "ask for a version that is for this Python",
                "or name another Python: python.interpreter in the host's refresh.toml",
            ],
            Self::OtherMachine => &["lock it for this platform and Python as well"],
            Self::Hash => &["find out who changed the package, or correct its hash in the requirements"],
            Self::Other => &[],
        }
    }
}

/// Finds the kind of failure in the error output of uv.
pub(super) fn parse_kind(text: &str) -> InstallErrorKind {
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    if has(&["No space left on device", "Disk quota exceeded", "os error 28", "os error 122"]) {
        InstallErrorKind::NoSpace
    } else if has(&["hash mismatch", "Hash mismatch"]) {
        InstallErrorKind::Hash
    } else if has(&["invalid peer certificate", "certificate verify failed", "InvalidCertificate"]) {
        InstallErrorKind::Certificate
    } else if has(&["may be available on a subsequent index"]) {
        InstallErrorKind::IndexOrder
    } else if has(&[
        "client error (Connect)",
        "Failed to fetch:",
        "dns error",
        "Network is unreachable",
        "network was disabled",
        "Network connectivity is disabled",
        "HTTP status client error",
        "network timeout",
    ]) {
        InstallErrorKind::Network
    } else if has(&["target environment is not supported by the lockfile"]) {
        InstallErrorKind::OtherMachine
    } else if has(&["marked as `--no-build`", "has no usable wheels", "is disabled for all packages"]) {
        InstallErrorKind::SourceOnly
    } else if has(&["with a matching platform tag", "incompatible with the current platform"]) {
        InstallErrorKind::Platform
    } else if has(&[
        "does not satisfy Python",
        "with a matching Python",
        "incompatible with the `pylock.toml`'s Python requirement",
    ]) {
        InstallErrorKind::Python
    } else if has(&["Failed to build", "build backend returned an error"]) {
        InstallErrorKind::SourceBuild
    } else if has(&["incompatible", "conflict"]) {
        InstallErrorKind::Conflict
    } else if has(&["there is no version of", "there are no versions", "was not found in"]) {
        InstallErrorKind::NoMatch
    } else if has(&["requirements are unsatisfiable"]) {
        InstallErrorKind::Conflict
    } else {
        InstallErrorKind::Other
    }
}

/// Finds the packages that may have a fitting version in another index, with that index.
fn parse_other_index(text: &str) -> Vec<(String, String)> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let found = text.split("` was found on ").collect::<Vec<_>>();
    let pair = |pair: &[&str]| {
        let package = pair[0].rsplit_once('`')?.1;
        let (_, rest) = pair[1].split_once("may be available on a subsequent index (e.g., ")?;
        let index = rest.split_once(')')?.0;
        Some((package.to_owned(), index.to_owned()))
    };
    found.windows(2).filter_map(pair).collect()
}

/// Returns whether uv may have failed because it had no network. Of a package with an extra that is not in its cache, it
/// only reports that there is no such version.
pub(super) fn lacks_network(text: &str) -> bool {
    let signs = [
        "Network connectivity is disabled",
        "network was disabled",
        "not found in the cache",
        "there is no version of",
    ];
    signs.iter().any(|sign| text.contains(sign))
}

/// Finds the extras that packages were required with and do not have, as name of the package and name of the extra. uv
/// prints both in their normal form.
pub(super) fn parse_unknown_extras(text: &str) -> Vec<(String, String)> {
    let extra = |line: &str| {
        let rest = line.strip_prefix("warning: The package `")?;
        let (release, rest) = rest.split_once("` does not have an extra named `")?;
        let (name, _) = release.split_once("==")?;
        Some((name.to_owned(), rest.strip_suffix('`')?.to_owned()))
    };
    text.lines().filter_map(extra).collect()
}

/// Finds the releases that uv uses although their authors have withdrawn them, as `name version`.
pub(super) fn parse_yanked(text: &str) -> Vec<String> {
    let release = |line: &str| {
        let (release, _) = line.strip_prefix("warning: `")?.split_once("` is yanked")?;
        Some(release.replacen("==", " ", 1))
    };
    let mut found: Vec<String> = text.lines().filter_map(release).collect();
    found.sort();
    found.dedup();
    found
}

/// Finds the distributions that uv has built from source, as `name version`.
pub(super) fn parse_built(text: &str) -> Vec<String> {
    let release = |line: &str| {
        let release = line.trim().strip_prefix("Built ")?.split_whitespace().next()?;
        Some(release.replacen("==", " ", 1))
    };
    text.lines().filter_map(release).collect()
}

/// Picks the lines that carry the reason: `error:` and `cause:`; shortened.
pub(super) fn parse_reason(text: &str) -> String {
    let mut picked: Vec<String> = Vec::new();
    let mut in_error = false;
    for line in text.lines() {
        let trimmed = line.trim();
        let starts = ["error:", "cause:", "hint:", "×", "╰─▶", "├─▶"]
            .iter()
            .find_map(|mark| Some((*mark, trimmed.strip_prefix(mark)?)));
        if let Some((_, rest)) = starts {
            let said = rest.trim().to_owned();
            in_error = true;
            if !said.is_empty() && !picked.contains(&said) {
                picked.push(said);
            }
        } else if in_error && line.starts_with(' ') && !trimmed.is_empty() && picked.len() < 12 {
            picked.push(trimmed.to_owned());
        } else {
            in_error = false;
        }
    }
    let mut reason = without_credentials(&picked.join("\n"));
    if let Some((end, _)) = reason.char_indices().nth(LONGEST) {
        reason.truncate(end);
        reason.push_str(" …");
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_uv_is_its_error_with_all_causes() {
        let text = "Using Python 3.11.2 environment at: o/gen\nerror: No solution found when resolving dependencies\n  \
            cause: Because there is no version of idna==99 and you require idna==99, we can conclude that your \
            requirements are unsatisfiable.\n";
        assert_eq!(parse_kind(text), InstallErrorKind::NoMatch);
        assert!(
            parse_reason(text)
                .starts_with("No solution found when resolving dependencies\nBecause there is no")
        );
    }

    #[test]
    fn a_network_that_is_down_is_distinguished_from_a_missing_package() {
        let uv = "error: Request failed after 3 retries in 8.1s\n  cause: Failed to fetch: http://127.0.0.1:9/idna/\n  \
            cause: client error (Connect)\n  cause: Connection refused (os error 111)\n";
        assert_eq!(parse_kind(uv), InstallErrorKind::Network);
        let missing = "error: No solution found when resolving dependencies\n  cause: Because nosuch was not found in \
            the package registry and you require nosuch, we can conclude that your requirements are unsatisfiable.\n";
        assert_eq!(parse_kind(missing), InstallErrorKind::NoMatch);
        assert!(lacks_network("  cause: Because there is no version of alpha[more]==1.0 and you require it"));
        assert!(!lacks_network("error: Hash mismatch for `six==1.17.0`"));
    }

    #[test]
    fn a_release_that_was_withdrawn_or_built_and_an_unknown_extra_are_found_in_the_output_of_uv() {
        let text = "Resolved 1 package in 92ms\nwarning: `attrs==21.1.0` is yanked (reason: \"x\")\n   Built six==1.0\n";
        assert_eq!(parse_yanked(text), ["attrs 21.1.0"]);
        assert_eq!(parse_built(text), ["six 1.0"]);
        let text = "Resolved 1 package in 9ms\nwarning: The package `idna==3.20` does not have an extra named `no-such`\n";
        assert_eq!(parse_unknown_extras(text), [("idna".to_owned(), "no-such".to_owned())]);
        assert!(parse_yanked("Resolved 1 package\n").is_empty() && parse_built("Prepared 1\n").is_empty());
    }

    #[test]
    fn conflicts_full_disks_and_wrong_hashes_have_their_own_kind() {
        for (text, kind) in [
            (
                "  cause: Because you require idna==3.1 and idna==3.2, we can conclude that your requirements are unsatisfiable.",
                InstallErrorKind::Conflict,
            ),
            (
                "error: failed to write\n  cause: No space left on device (os error 28)",
                InstallErrorKind::NoSpace,
            ),
            ("error: Hash mismatch for `six==1.17.0`", InstallErrorKind::Hash),
            ("  cause: Failed to build `x==1`", InstallErrorKind::SourceBuild),
            (
                "  cause: Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2",
                InstallErrorKind::SourceOnly,
            ),
            (
                "  cause: Because pywin32==306 has no wheels with a matching platform tag (e.g., `x`)",
                InstallErrorKind::Platform,
            ),
            (
                "  cause: Because the current Python version (3.11.2) does not satisfy Python>=3.12 and you require",
                InstallErrorKind::Python,
            ),
            (
                "error: Package `six` can't be installed because it is marked as `--no-build` but has no binary \
                 distribution",
                InstallErrorKind::SourceOnly,
            ),
            (
                "error: The target environment is not supported by the lockfile",
                InstallErrorKind::OtherMachine,
            ),
            (
                "error: Failed to download distribution due to network timeout. Try increasing UV_HTTP_TIMEOUT",
                InstallErrorKind::Network,
            ),
            (
                "error: Failed to download `six==1.17.0`\n  cause: Network connectivity is disabled, but the requested",
                InstallErrorKind::Network,
            ),
            ("something else", InstallErrorKind::Other),
        ] {
            assert_eq!(parse_kind(text), kind, "{text}");
        }
    }

    #[test]
    fn an_index_that_counts_first_and_a_certificate_are_causes_of_the_host() {
        let text = "  × No solution found when resolving dependencies:\n  ╰─▶ Because only six==1.15.0 is available and you \
                    require six>=1.16, we can conclude that your requirements are unsatisfiable.\n\n      hint: `six` \
                    was found on http://h/e/, but not at the requested version (six>=1.16).\n      A compatible version \
                    may be available on a subsequent index (e.g., http://h/m/).";
        assert_eq!(parse_kind(text), InstallErrorKind::IndexOrder);
        assert!(!InstallErrorKind::IndexOrder.may_be_the_cutoff());
        assert_eq!(parse_other_index(text), [("six".to_owned(), "http://h/m/".to_owned())]);
        let text = "error: Failed to fetch: `https://h/simple/six/`\n  cause: client error (Connect)\n  cause: invalid peer \
                    certificate: certificate not valid yet";
        assert_eq!(parse_kind(text), InstallErrorKind::Certificate);
    }
}
