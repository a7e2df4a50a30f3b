//! Names that are valid by construction: a value of one of these types has been checked.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use refresh_system::error::{Failure, Outcome};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl AsRef<std::ffi::OsStr> for $name {
            fn as_ref(&self) -> &std::ffi::OsStr {
                self.0.as_ref()
            }
        }

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Failure;
            fn try_from(text: String) -> Outcome<Self> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name_type! {
    /// A branch name that `git check-ref-format --branch` would accept and that cannot be taken for an option or a
    /// path. Source: gitrevisions(7), git-check-ref-format(1).
    BranchName
}

name_type! {
    /// The full hash of a commit: 40 (sha1) or 64 (sha256) lower-case hexadecimal digits.
    CommitId
}

name_type! {
    /// The name of one run: its start in UTC, to the millisecond, and the process id, for instance
    /// `20260102T030405678Z-4711`. Names sort by time.
    RunId
}

name_type! {
    /// The name of one environment: `<fingerprint>-<n>`, or `adopted-<n>` for a directory that existed
    /// before.
    EnvironmentName
}

name_type! {
    /// The name of a service unit of systemd, for instance `ladylinux-api.service` (systemd.unit(5)).
    UnitName
}

impl UnitName {
    /// Returns the unit of the deployment contract.
    pub fn usual() -> Self {
        Self("ladylinux-api.service".to_owned())
    }

    /// Checks the name of a service unit. Instances of templates are accepted, templates are not.
    ///
    /// # Errors
    /// A sentence that names the rule which the text breaks.
    pub fn parse(text: &str) -> Outcome<Self> {
        let refuse = |why: &str| Err(Failure::new(format!("{text:?} cannot be the name of a unit: {why}")));
        let Some(stem) = text.strip_suffix(".service") else {
            return refuse("it does not end in .service");
        };
        if stem.is_empty() || text.len() > 255 {
            return refuse("its length is not from 9 to 255 bytes");
        }
        if stem.ends_with('@') {
            return refuse("it names a template, not a unit");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if let Some(bad) = stem.chars().find(|c| !allowed(*c)) {
            return refuse(&format!("it contains {bad:?}"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl BranchName {
    /// Returns `main`, the default branch.
    pub fn main() -> Self {
        Self("main".to_owned())
    }

    /// Checks a branch name.
    ///
    /// # Errors
    /// A sentence that names the rule which the text breaks.
    pub fn parse(text: &str) -> Outcome<Self> {
        // The full name of a branch, as git writes it.
        let text = text.strip_prefix("refs/heads/").unwrap_or(text);
        let refuse = |why: &str| Err(Failure::new(format!("{text:?} cannot be the name of a branch: {why}")));
        // Revisions of git: people type them when they mean a commit.
        let is_revision = text.contains(['~', '^']) || text.contains("@{");
        if is_revision || ["HEAD", "@"].contains(&text) {
            return refuse("git gives it another meaning").map_err(|failure: Failure| {
                failure.hint("a refresh deploys the latest commit of a branch: type its name, or none for the usual branch")
            });
        }
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.starts_with('-') {
            return refuse("it starts with a dash");
        }
        if text.starts_with('/') || text.ends_with('/') || text.contains("//") {
            return refuse("it has an empty part");
        }
        if text.contains("..") {
            return refuse("it contains '..'");
        }
        if text.ends_with('.') {
            return refuse("it ends with a dot");
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || " ~^:?*[\\".contains(*c)) {
            return refuse(&format!("it contains {bad:?}"));
        }
        if text.split('/').any(|part| {
            part.starts_with('.') || Path::new(part).extension().is_some_and(|ending| ending == "lock")
        }) {
            return refuse("a part of it starts with a dot or ends with '.lock'");
        }
        if text.len() > 200 {
            return refuse("it is longer than 200 bytes");
        }
        Ok(Self(text.to_owned()))
    }
}

impl CommitId {
    /// Checks a commit hash.
    ///
    /// # Errors
    /// The text is not a full lower-case hash.
    pub fn parse(text: &str) -> Outcome<Self> {
        let right = matches!(text.len(), 40 | 64)
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if right {
            Ok(Self(text.to_owned()))
        } else {
            Err(Failure::new(format!("{text:?} is not a commit hash")))
        }
    }

    /// Returns the first ten digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl RunId {
    /// Checks the name of a run.
    ///
    /// # Errors
    /// The text is not made of letters, digits and dashes.
    pub fn parse(text: &str) -> Outcome<Self> {
        let right = !text.is_empty()
            && text.len() <= 64
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if right {
            Ok(Self(text.to_owned()))
        } else {
            Err(Failure::new(format!("{text:?} is not the name of a run")))
        }
    }

    /// Makes the name of a run that starts at `at` in process `pid`.
    pub fn new(at: jiff::Timestamp, pid: u32) -> Self {
        Self(format!("{}-{pid}", at.strftime("%Y%m%dT%H%M%S%3fZ")))
    }

    /// Returns the second in which the run started; `None` if the ID was not made by [`RunId::new`].
    pub fn time(&self) -> Option<jiff::Timestamp> {
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", self.0.get(..15)?).ok()?;
        time.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok().map(|time| time.timestamp())
    }
}

impl EnvironmentName {
    /// Checks the name of an environment.
    ///
    /// # Errors
    /// The text is not of the form `<word>-<number>`.
    pub fn parse(text: &str) -> Outcome<Self> {
        let right = text.rsplit_once('-').is_some_and(|(word, number)| {
            !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        });
        if right {
            Ok(Self(text.to_owned()))
        } else {
            Err(Failure::new(format!("{text:?} is not the name of an environment")))
        }
    }
}

/// Returns a URL without the credentials that people put into it.
pub fn without_credentials(url: &str) -> String {
    if let Some((scheme, rest)) = url.split_once("://") {
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        return format!("{scheme}://{host}/{path}");
    }
    // A proxy needs no scheme. An ssh address has a user before its path, and never a password.
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    match host.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => format!("{host}{path}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_before_a_host_is_left_out() {
        for (with, without) in [
            ("https://user:secret@host/path", "https://host/path"),
            ("user:secret@proxy:3128", "proxy:3128"),
            ("proxy:3128", "proxy:3128"),
            ("git@host:path/app.git", "git@host:path/app.git"),
        ] {
            assert_eq!(without_credentials(with), without);
        }
    }

    #[test]
    fn branch_names_that_git_or_a_shell_could_misread_are_refused() {
        for bad in [
            "", "-x", "../..", "a..b", "a b", "a\nb", "a\u{7f}", "x.lock", "a/.b", "/a", "a/", "a//b", "@",
            "HEAD", "a^", "a:b",
        ] {
            assert!(BranchName::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["main", "feature/x", "release-1.2", "user@host", "ä"] {
            assert!(BranchName::parse(good).is_ok(), "{good:?}");
        }
        assert_eq!(BranchName::parse("refs/heads/feature/x").unwrap().as_str(), "feature/x");
        assert!(BranchName::parse("refs/heads/").is_err());
    }

    #[test]
    fn run_names_sort_by_time() {
        let early = RunId::new(jiff::Timestamp::from_second(1_000_000_000).unwrap(), 9);
        let late = RunId::new(jiff::Timestamp::from_second(1_000_000_001).unwrap(), 1);
        assert!(early < late);
        assert!(RunId::parse(early.as_str()).is_ok());
    }
}
