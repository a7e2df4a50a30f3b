//! The doctor: looks at everything that may be wrong with an installation or its host, and changes nothing.
//!
//! Each check looks at one thing and tells what it found: what is wrong, why that matters, and the command that repairs
//! it. What preflight asks as well is asked by the same function. What cannot be looked at, because the caller may not or
//! because there is no installation yet, is told as that and never taken for good. `docs/doctor.md` lists the checks.

mod account;
mod env_file;
mod examined;
mod machine;
mod place;
mod python;
mod requests;
mod scripts;
mod stores;
mod sudo;
mod sudo_list;
mod tree;
mod unit;

pub use examined::Examined;

use std::fmt;

use serde::Serialize;

use crate::error::{Failure, Outcome};
use crate::installation::{Installation, as_typed};
use crate::report::shell::quoted;
use crate::service::envfile::blemish;
use crate::settings::layout::Layout;
use crate::source::work_tree::TreeState;
use crate::units::Enforcement;
use unit::Unit;

/// The version of what [`Examination`] is written as.
pub const SCHEMA: u32 = 1;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is wrong.
    Problem,
    /// Something to know of; it may be meant.
    Note,
}

/// What a check looks at; findings are told in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The directories and settings of the installation.
    Installation,
    /// `app/` and what its commit brings.
    WorkTree,
    /// The environment file.
    EnvFile,
    /// The Python environment.
    Environment,
    /// The tool's own files and the runs.
    Runs,
    /// The unit and what may start it.
    Service,
    /// The machine.
    Machine,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Installation => "installation",
            Self::WorkTree => "work tree",
            Self::EnvFile => "env file",
            Self::Environment => "environment",
            Self::Runs => "runs",
            Self::Service => "service",
            Self::Machine => "machine",
        })
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// The command that repairs it, or the first one to type.
    pub repair: String,
}

impl Found {
    fn problem(what: impl Into<String>, why: &str, repair: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, what: what.into(), why: why.to_owned(), repair: repair.into() }
    }

    fn note(what: impl Into<String>, why: &str, repair: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::problem(what, why, repair) }
    }

    /// Tells a failure as a finding: its chain is what is wrong, its closest hint what to type.
    fn of(failure: &Failure, why: &str) -> Self {
        let hints = failure.hints();
        let repair =
            hints.iter().find(|hint| hint.starts_with("ladylinux-refresh ")).or(hints.first()).cloned();
        Self::problem(
            failure.chain().join(": "),
            why,
            repair.unwrap_or_else(|| "ladylinux-refresh status".to_owned()),
        )
    }
}

/// A finding with the check that found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// What it looks at.
    pub subject: Subject,
    /// What it found.
    #[serde(flatten)]
    pub found: Found,
}

/// A check that could not look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// The check.
    pub check: &'static str,
    /// Why not.
    pub why: String,
}

/// What an examination came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// How many checks looked at something.
    pub checks: usize,
    /// What they found, by subject.
    pub findings: Vec<Finding>,
    /// The checks that could not look.
    pub unseen: Vec<Unseen>,
    /// How far units are confined here; `None` where that cannot be found out.
    pub confinement: Option<Enforcement>,
}

impl Examination {
    /// Counts the findings of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.found.severity == severity).count()
    }
}

type Findings = Outcome<Vec<Found>>;

/// What a check needs to look at.
#[derive(Clone, Copy)]
enum Look {
    /// The layout and the settings.
    Anywhere(fn(&Examined) -> Findings),
    /// An installation.
    Opened(fn(&Examined, &Installation) -> Findings),
    /// An installation and its work tree.
    InTree(fn(&Examined, &Installation, &TreeState) -> Findings),
    /// The unit of the service.
    OfUnit(fn(&Examined, &Unit) -> Findings),
}

/// One check.
struct Check {
    name: &'static str,
    subject: Subject,
    look: Look,
}

const fn check(name: &'static str, subject: Subject, look: Look) -> Check {
    Check { name, subject, look }
}

/// All checks, in the order in which their findings are told.
const CHECKS: &[Check] = &[
    check("folders", Subject::Installation, Look::Anywhere(place::directories)),
    check("settings", Subject::Installation, Look::Anywhere(place::settings)),
    check("service-user", Subject::Installation, Look::Anywhere(place::service_user)),
    check("remote", Subject::Installation, Look::Opened(place::remote)),
    check("tool-files", Subject::Installation, Look::Anywhere(place::tool_files)),
    check("repository", Subject::WorkTree, Look::InTree(tree::repository)),
    check("protected-paths", Subject::WorkTree, Look::Opened(tree::protected)),
    check("mounts", Subject::WorkTree, Look::Opened(tree::mounts)),
    check("immovable", Subject::WorkTree, Look::InTree(tree::movable)),
    check("origin", Subject::WorkTree, Look::InTree(tree::origin)),
    check("git-locks", Subject::WorkTree, Look::InTree(tree::locks)),
    check("script-text", Subject::WorkTree, Look::InTree(scripts::text)),
    check("script-modes", Subject::WorkTree, Look::InTree(scripts::modes)),
    check("env-file", Subject::EnvFile, Look::Anywhere(env_file::readable)),
    check("env-file-text", Subject::EnvFile, Look::Anywhere(env_file::text)),
    check("env-file-secrets", Subject::EnvFile, Look::Anywhere(env_file::secrets)),
    check("interpreter", Subject::Environment, Look::Opened(python::interpreter)),
    check("environment", Subject::Environment, Look::Opened(python::environment)),
    check("contamination", Subject::Environment, Look::Opened(python::contamination)),
    check("mirror", Subject::Runs, Look::Opened(stores::mirror)),
    check("mirror-locks", Subject::Runs, Look::Opened(stores::mirror_locks)),
    check("branch", Subject::Runs, Look::Opened(stores::branch)),
    check("status-file", Subject::Runs, Look::Anywhere(stores::status_file)),
    check("interrupted-run", Subject::Runs, Look::Anywhere(stores::interrupted)),
    check("fence", Subject::Runs, Look::Anywhere(stores::fence)),
    check("admission", Subject::Runs, Look::Anywhere(stores::admission)),
    check("unit", Subject::Service, Look::Anywhere(unit::there)),
    check("unit-fence", Subject::Service, Look::OfUnit(unit::fence)),
    check("unit-text", Subject::Service, Look::OfUnit(unit::text)),
    check("unit-drift", Subject::Service, Look::OfUnit(unit::drift)),
    check("unit-drop-ins", Subject::Service, Look::OfUnit(unit::drop_ins_of_people)),
    check("unit-variables", Subject::Service, Look::OfUnit(unit::variables)),
    check("unit-requirements", Subject::Service, Look::OfUnit(unit::requirements)),
    check("unit-paths", Subject::Service, Look::OfUnit(unit::paths)),
    check("unit-user", Subject::Service, Look::OfUnit(unit::user)),
    check("unit-kill-mode", Subject::Service, Look::OfUnit(unit::kill_mode)),
    check("unit-stop", Subject::Service, Look::OfUnit(unit::stop)),
    check("units-also", Subject::Service, Look::Opened(unit::also)),
    check("units-untied", Subject::Service, Look::Opened(unit::untied)),
    check("port", Subject::Service, Look::Opened(machine::port)),
    check("probe", Subject::Service, Look::Opened(unit::reached)),
    check("requests", Subject::Service, Look::Anywhere(requests::answered)),
    check("sudo", Subject::Service, Look::Anywhere(sudo::rules)),
    check("space", Subject::Machine, Look::Opened(machine::space)),
    check("clock", Subject::Machine, Look::Anywhere(machine::clock)),
    check("clock-source", Subject::Machine, Look::Anywhere(machine::clock_source)),
    check("confinement", Subject::Machine, Look::Opened(machine::confinement)),
];

/// The checks whose findings `init` prints: what a machine that was set up by hand may have, and only people change.
const ADOPTION: [&str; 5] = ["settings", "unit", "unit-user", "unit-kill-mode", "sudo"];

/// Examines the installation that `examined` describes.
///
/// # Errors
/// The interruption.
pub fn examine(examined: &Examined) -> Outcome<Examination> {
    let confinement = examined.opened().ok().and_then(|on| on.units.enforcement().ok());
    Ok(Examination { confinement, ..examine_with(examined, CHECKS.iter())? })
}

/// Returns what `init` leaves to people on a machine, without what `init` itself repairs. A check that is not possible is a
/// note.
///
/// # Errors
/// The interruption.
pub fn examine_adoption(examined: &Examined) -> Outcome<Vec<Found>> {
    let checks = CHECKS.iter().filter(|check| ADOPTION.contains(&check.name));
    let examination = examine_with(examined, checks)?;
    let by_init = examined.init();
    let left =
        examination.findings.into_iter().map(|finding| finding.found).filter(|it| it.repair != by_init);
    let unseen = examination.unseen.into_iter().map(|unseen| {
        let what = format!("the check {} is not possible: {}", unseen.check, unseen.why);
        Found::note(what, "a finding of it is missing here", "ladylinux-refresh doctor")
    });
    Ok(left.chain(unseen).collect())
}

fn examine_with<'a>(examined: &Examined, checks: impl Iterator<Item = &'a Check>) -> Outcome<Examination> {
    let (findings, unseen) = (Vec::new(), Vec::new());
    let mut told = Examination { schema: SCHEMA, checks: 0, findings, unseen, confinement: None };
    for check in checks {
        crate::process::interrupt::check()?;
        let look = match check.look {
            Look::Anywhere(look) => Some(look(examined)),
            Look::Opened(look) => Some(examined.opened().and_then(|on| look(examined, on))),
            Look::InTree(look) => Some(
                examined.opened().and_then(|on| examined.tree().and_then(|tree| look(examined, on, tree))),
            ),
            Look::OfUnit(look) => match examined.unit() {
                Ok(None) => None,
                Ok(Some(unit)) => Some(look(examined, unit)),
                Err(failure) => Some(Err(failure)),
            },
        };
        take(&mut told, check, look, &examined.layout)?;
    }
    Ok(told)
}

/// Takes in what a check said; `None` where there is nothing for it to look at.
fn take(told: &mut Examination, check: &Check, said: Option<Findings>, layout: &Layout) -> Outcome<()> {
    let found = match said {
        None => return Ok(()),
        Some(Ok(found)) => found,
        Some(Err(failure)) if failure.interrupted_by().is_some() => return Err(failure),
        Some(Err(failure)) => {
            told.unseen.push(Unseen { check: check.name, why: failure.chain().join(": ") });
            return Ok(());
        }
    };
    told.checks += 1;
    told.findings.extend(found.into_iter().map(|found| Finding {
        check: check.name,
        subject: check.subject,
        found: Found { repair: as_typed(layout, &found.repair), ..found },
    }));
    Ok(())
}

/// Returns what a check of preflight refuses as a finding; that an ordinary user may not look stays a failure.
fn refused(checked: Outcome<()>, why: &str) -> Findings {
    match checked {
        Ok(()) => Ok(Vec::new()),
        Err(failure) if is_denied(&failure) => Err(failure),
        Err(failure) => Ok(vec![Found::of(&failure, why)]),
    }
}

/// Returns whether the kernel refused the caller something.
fn is_denied(failure: &Failure) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(failure);
    while let Some(error) = next {
        let by_io = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        let by_errno = error
            .downcast_ref::<rustix::io::Errno>()
            .is_some_and(|error| matches!(*error, rustix::io::Errno::ACCESS | rustix::io::Errno::PERM));
        if by_io || by_errno {
            return true;
        }
        next = error.source();
    }
    false
}

/// Names a few of many: `a, b and 3 more`.
fn some_of(names: &[String]) -> String {
    let few = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{few} and {} more", names.len() - 5) } else { few }
}

/// The command that takes away what [`blemish`] names.
fn cleaning(files: &[String]) -> String {
    let files: Vec<String> = files.iter().map(|file| quoted(file)).collect();
    format!(r"LC_ALL=C sed -i -e '1s/^\xef\xbb\xbf//' -e 's/\r$//' {}", files.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_check_is_in_the_documentation_and_nothing_else_is() {
        let page = include_str!("../../docs/doctor.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: Vec<&str> = rows.collect();
        let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(documented, names);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(ADOPTION.iter().all(|name| names.contains(name)));
    }

    #[test]
    fn what_the_kernel_refuses_is_not_taken_for_a_finding() {
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
        assert_eq!(found, [Found::problem("a: b", "why", "do")]);
    }

    #[test]
    fn marks_and_line_endings_are_told_apart() {
        assert_eq!(blemish(b"#!/bin/sh\necho \r x\n"), None);
        assert_eq!(blemish(b"\xef\xbb\xbfx"), Some("a byte order mark"));
        assert_eq!(blemish(b"a\r\n"), Some("Windows line endings"));
    }
}
