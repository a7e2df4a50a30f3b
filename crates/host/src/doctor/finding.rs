//! The findings of checks, and their text. Pure.

use std::path::Path;

use serde::Serialize;

use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::{quoted, quoted_path};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is wrong.
    Problem,
    /// Something to note; it may be intended.
    Note,
}

/// A finding of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorFinding {
    /// Its severity.
    pub severity: Severity,
    /// The problem.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The command that repairs it, or the first command to type.
    pub repair: String,
}

impl DoctorFinding {
    pub(super) fn problem(what: impl Into<String>, why: &str, repair: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, what: what.into(), why: why.to_owned(), repair: repair.into() }
    }

    pub(super) fn note(what: impl Into<String>, why: &str, repair: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::problem(what, why, repair) }
    }

    /// Returns a failure as a finding: its chain is the problem, its closest hint is the repair.
    pub(super) fn of(failure: &Failure, why: &str) -> Self {
        let hints = failure.hints();
        let repair = hints.iter().find(|hint| hint.own_command().is_some()).or(hints.first());
        Self::problem(
            failure.chain().join(": "),
            why,
            repair.map_or_else(|| "ladylinux-refresh status".to_owned(), Hint::to_string),
        )
    }
}

pub(super) type Findings = Outcome<Vec<DoctorFinding>>;

/// Returns the refusal of a preflight check as a finding. If an ordinary user has no permission to read something, that
/// stays a failure.
pub(super) fn refused(checked: Outcome<()>, why: &str) -> Findings {
    match checked {
        Ok(()) => Ok(Vec::new()),
        Err(failure) if failure.is_denied() => Err(failure),
        Err(failure) => Ok(vec![DoctorFinding::of(&failure, why)]),
    }
}

/// Returns the first of many names: `a, b and 3 more`.
pub(super) fn some_of(names: &[String]) -> String {
    let few = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{few} and {} more", names.len() - 5) } else { few }
}

/// Returns names as words of a shell command.
pub(super) fn quoted_all(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    names.into_iter().map(|name| quoted(name.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Returns the command that opens a file in an editor.
pub(super) fn edit(file: &Path) -> String {
    format!("${{EDITOR:-vi}} {}", quoted_path(file))
}

/// Returns the command that removes the marks that [`blemish`] names.
pub(super) fn cleaning(files: &[String]) -> String {
    format!(r"LC_ALL=C sed -i -e '1s/^\xef\xbb\xbf//' -e 's/\r$//' {}", quoted_all(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_kernel_is_not_a_finding() {
        let denied = || {
            Failure::new("cannot read").because(std::io::Error::from(std::io::ErrorKind::PermissionDenied))
        };
        assert!(refused(Err(denied()), "why").is_err());
        assert!(
            refused(
                Err(Failure::new("outer").because(Failure::new("x").because(rustix::io::Errno::ACCESS))),
                ""
            )
            .is_err()
        );
        let found = refused(Err(Failure::new("a").because(Failure::new("b")).hint("do")), "why").unwrap();
        assert_eq!(found, [DoctorFinding::problem("a: b", "why", "do")]);
    }
}
