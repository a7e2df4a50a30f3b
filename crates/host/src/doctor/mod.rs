//! The doctor: finds problems of an installation and its host, and changes nothing.
//!
//! Each check reports the problem, why it matters, and the command that repairs it. Preflight uses the same functions.
//! A check may be impossible because the caller lacks a permission or because there is no installation yet. It is then
//! reported as not possible, never as passed. `docs/doctor.md` lists the checks. `init` ends with a part of them.

mod account;
mod contract;
mod env_file;
mod examined;
mod finding;
mod machine;
mod python;
mod requests;
mod scripts;
mod sizes;
mod stores;
mod sudo;
mod sudo_list;
mod tree;
mod unit;
mod unit_files;

pub use examined::Examined;
pub use finding::{DoctorFinding, Severity};
pub use sizes::StoreSize;

use finding::{Findings, cleaning, edit, quoted_all, refused, some_of};

use serde::Serialize;

use refresh_events::run_report::Enforcement;
use refresh_installation::installation::{Installation, as_typed};
use refresh_service::envfile::blemish;
use refresh_source::work_tree::TreeState;
use refresh_system::error::Outcome;
use unit_files::Unit;

/// The version of the written form of [`DoctorReport`].
pub(crate) const SCHEMA: u32 = 2;

/// The subject of a check; findings are printed in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "lowercase")]
pub enum Subject {
    /// The directories and settings of the installation.
    Installation,
    /// `app/` and the files of its commit.
    #[strum(to_string = "working tree")]
    WorkTree,
    /// The environment file.
    #[strum(to_string = "env file")]
    EnvFile,
    /// The Python environment.
    Environment,
    /// The tool's own files and the runs.
    Runs,
    /// The unit and its start.
    Service,
    /// The machine.
    Machine,
}

/// A finding with the check that found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// Its subject.
    pub subject: Subject,
    /// The finding.
    #[serde(flatten)]
    pub found: DoctorFinding,
}

/// A check that was not possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedCheck {
    /// The check.
    pub check: &'static str,
    /// The reason.
    pub why: String,
}

/// The result of an examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The number of completed checks.
    pub checks: usize,
    /// The findings, by subject.
    pub findings: Vec<Finding>,
    /// The checks that were not possible.
    pub unseen: Vec<SkippedCheck>,
    /// How far units are confined here; `None` if that cannot be determined.
    pub confinement: Option<Enforcement>,
    /// The disk space of each store; empty if there is no installation.
    pub stores: Vec<StoreSize>,
}

impl DoctorReport {
    /// Counts the findings of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.found.severity == severity).count()
    }
}

/// The input of a check.
#[derive(Clone, Copy)]
enum Needs {
    /// The layout and the settings.
    Nothing(fn(&Examined) -> Findings),
    /// An installation.
    Installation(fn(&Examined, &Installation) -> Findings),
    /// The state of the working tree.
    Tree(fn(&Examined, &TreeState) -> Findings),
    /// The unit of the service.
    Unit(fn(&Examined, &Unit) -> Findings),
}

/// One check.
struct Check {
    name: &'static str,
    subject: Subject,
    function: Needs,
}

const fn check(name: &'static str, subject: Subject, function: Needs) -> Check {
    Check { name, subject, function }
}

/// All checks, in the order in which their findings are printed.
const CHECKS: &[Check] = &[
    check("directories", Subject::Installation, Needs::Nothing(contract::directories)),
    check("settings", Subject::Installation, Needs::Nothing(contract::settings)),
    check("service-user", Subject::Installation, Needs::Nothing(contract::service_user)),
    check("login", Subject::Installation, Needs::Nothing(contract::login)),
    check("remote", Subject::Installation, Needs::Installation(contract::remote)),
    check("tool-files", Subject::Installation, Needs::Nothing(contract::tool_files)),
    check("other-scripts", Subject::Installation, Needs::Nothing(contract::other_scripts)),
    check("repository", Subject::WorkTree, Needs::Installation(tree::repository)),
    check("protected-paths", Subject::WorkTree, Needs::Installation(tree::protected)),
    check("mounts", Subject::WorkTree, Needs::Installation(tree::mounts)),
    check("immovable", Subject::WorkTree, Needs::Tree(tree::movable)),
    check("origin", Subject::WorkTree, Needs::Tree(tree::origin)),
    check("tree-branch", Subject::WorkTree, Needs::Tree(tree::branch)),
    check("git-locks", Subject::WorkTree, Needs::Tree(tree::locks)),
    check("script-text", Subject::WorkTree, Needs::Installation(scripts::text)),
    check("script-modes", Subject::WorkTree, Needs::Installation(scripts::modes)),
    check("root-calls", Subject::WorkTree, Needs::Installation(scripts::root_calls)),
    check("env-file", Subject::EnvFile, Needs::Nothing(env_file::readable)),
    check("env-file-text", Subject::EnvFile, Needs::Nothing(env_file::text)),
    check("env-file-secrets", Subject::EnvFile, Needs::Nothing(env_file::secrets)),
    check("interpreter", Subject::Environment, Needs::Installation(python::interpreter)),
    check("environment", Subject::Environment, Needs::Installation(python::environment)),
    check("apt-hook", Subject::Environment, Needs::Nothing(python::apt_hook)),
    check("contamination", Subject::Environment, Needs::Installation(python::contamination)),
    check("mirror", Subject::Runs, Needs::Installation(stores::mirror)),
    check("mirror-locks", Subject::Runs, Needs::Installation(stores::mirror_locks)),
    check("branch", Subject::Runs, Needs::Installation(stores::branch)),
    check("status-file", Subject::Runs, Needs::Nothing(stores::status_file)),
    check("interrupted-run", Subject::Runs, Needs::Nothing(stores::interrupted)),
    check("fence", Subject::Runs, Needs::Nothing(stores::fence)),
    check("unfenced", Subject::Runs, Needs::Nothing(stores::unfenced)),
    check("admission", Subject::Runs, Needs::Nothing(stores::admission)),
    check("unit", Subject::Service, Needs::Nothing(unit::there)),
    check("unit-fence", Subject::Service, Needs::Unit(unit::fence)),
    check("unit-text", Subject::Service, Needs::Unit(unit::text)),
    check("unit-drift", Subject::Service, Needs::Unit(unit::drift)),
    check("unit-settings", Subject::Service, Needs::Unit(unit::settings)),
    check("unit-drop-ins", Subject::Service, Needs::Unit(unit::drop_ins_of_people)),
    check("unit-variables", Subject::Service, Needs::Unit(unit::variables)),
    check("unit-requirements", Subject::Service, Needs::Unit(unit::requirements)),
    check("unit-paths", Subject::Service, Needs::Unit(unit::paths)),
    check("unit-user", Subject::Service, Needs::Unit(unit::user)),
    check("unit-kill-mode", Subject::Service, Needs::Unit(unit::kill_mode)),
    check("unit-stop", Subject::Service, Needs::Unit(unit::stop)),
    check("units-also", Subject::Service, Needs::Installation(unit::also)),
    check("units-untied", Subject::Service, Needs::Installation(unit::untied)),
    check("port", Subject::Service, Needs::Installation(machine::port)),
    check("probe", Subject::Service, Needs::Installation(unit::reached)),
    check("requests", Subject::Service, Needs::Nothing(requests::answered)),
    check("sudo", Subject::Service, Needs::Nothing(sudo::rules)),
    check("space", Subject::Machine, Needs::Installation(machine::space)),
    check("clock", Subject::Machine, Needs::Nothing(machine::clock)),
    check("clock-source", Subject::Machine, Needs::Nothing(machine::clock_source)),
    check("confinement", Subject::Machine, Needs::Installation(machine::confinement)),
];

/// The checks whose findings `init` prints: properties of a manually set up machine that `init` does not change.
const MANUAL: [&str; 5] = ["other-scripts", "immovable", "origin", "tree-branch", "root-calls"];
/// The checks of the machine: with `--root` they are left out.
const MANUAL_ON_MACHINES: [&str; 8] =
    ["settings", "service-user", "login", "unit", "unit-settings", "unit-user", "unit-kill-mode", "sudo"];

/// Examines the installation that `examined` describes.
///
/// # Errors
/// The command was interrupted.
pub fn examine(examined: &Examined) -> Outcome<DoctorReport> {
    let confinement = examined.opened().map(|on| on.units.enforcement());
    let stores = examined.opened().map(sizes::of).unwrap_or_default();
    let mut report = DoctorReport { stores, ..examine_with(examined, CHECKS.iter())? };
    match confinement {
        Ok(Ok(confinement)) => report.confinement = Some(confinement),
        Ok(Err(failure)) => {
            let why = failure.chain().join(": ");
            report.unseen.push(SkippedCheck { check: "confinement of units", why });
        }
        Err(_) => {}
    }
    Ok(report)
}

/// Returns the findings that `init` prints at its end, without those that `init` itself repairs. A check that is not
/// possible becomes a note, unless it only lacks an installation.
///
/// # Errors
/// The command was interrupted.
pub fn examine_manual(examined: &Examined) -> Outcome<Vec<DoctorFinding>> {
    let is_manual = |check: &&Check| {
        let has_all = match check.function {
            Needs::Nothing(_) | Needs::Unit(_) => true,
            Needs::Installation(_) => examined.opened().is_ok(),
            Needs::Tree(_) => examined.opened().is_ok() || examined.tree().is_ok(),
        };
        let is_of_machine = MANUAL_ON_MACHINES.contains(&check.name) && examined.layout.is_real();
        has_all && (is_of_machine || MANUAL.contains(&check.name))
    };
    let examination = examine_with(examined, CHECKS.iter().filter(is_manual))?;
    let by_init = examined.init();
    let found = examination.findings.into_iter().map(|finding| finding.found);
    let unseen = examination.unseen.into_iter().map(|unseen| {
        let what = format!("the check {} is not possible: {}", unseen.check, unseen.why);
        let repair = as_typed(&examined.layout, "ladylinux-refresh doctor");
        DoctorFinding::note(what, "a finding of it is missing here", repair)
    });
    Ok(found.filter(|found| found.repair != by_init).chain(unseen).collect())
}

fn examine_with<'a>(examined: &Examined, checks: impl Iterator<Item = &'a Check>) -> Outcome<DoctorReport> {
    let (findings, unseen) = (Vec::new(), Vec::new());
    let mut all =
        DoctorReport { schema: SCHEMA, checks: 0, findings, unseen, confinement: None, stores: Vec::new() };
    for check in checks {
        refresh_system::interrupt::check()?;
        let found = match check.function {
            Needs::Nothing(function) => function(examined),
            Needs::Installation(function) => examined.opened().and_then(|on| function(examined, on)),
            Needs::Tree(function) => examined.tree().and_then(|tree| function(examined, tree)),
            Needs::Unit(function) => match examined.unit() {
                Ok(None) => continue,
                Ok(Some(unit)) => function(examined, unit),
                Err(failure) => Err(failure),
            },
        };
        let found = match found {
            Ok(found) => found,
            Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
            Err(failure) => {
                all.unseen.push(SkippedCheck { check: check.name, why: failure.chain().join(": ") });
                continue;
            }
        };
        all.checks += 1;
        all.findings.extend(found.into_iter().map(|found| Finding {
            check: check.name,
            subject: check.subject,
            found: DoctorFinding { repair: as_typed(&examined.layout, &found.repair), ..found },
        }));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_check_is_in_the_documentation_and_nothing_else_is() {
        let page = include_str!("../../../../docs/doctor.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: Vec<&str> = rows.collect();
        let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(documented, names);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(MANUAL.iter().chain(&MANUAL_ON_MACHINES).all(|name| names.contains(name)));
    }

    #[test]
    fn marks_and_line_endings_are_distinguished() {
        assert_eq!(blemish(b"#!/bin/sh\necho \r x\n"), None);
        assert_eq!(blemish(b"\xef\xbb\xbfx"), Some("a byte order mark"));
        assert_eq!(blemish(b"a\r\n"), Some("Windows line endings"));
    }
}
