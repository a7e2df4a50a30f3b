//! The environment: its interpreter, that it exists, that it was not changed.

use std::path::Path;

use refresh_environments::VenvState;
use refresh_installation::installation::Installation;
use refresh_run::plan::preflight;
use refresh_system::disk;

use super::{DoctorFinding, Examined, Findings, refused};
use crate::host::own_files;

/// Checks that there is an interpreter that can make environments and that the application accepts.
pub(super) fn interpreter(examined: &Examined, on: &Installation) -> Findings {
    let why = "without it no environment can be built";
    let found = match on.interpreter() {
        Err(failure) => return refused(Err(failure), why),
        Ok(found) => found,
    };
    let Some(commit) = examined.commit()? else { return Ok(Vec::new()) };
    let release = on.release(&commit)?;
    refused(found.accept(release.definitions.requires_python.as_deref()), why)
}

/// Checks that `venv` points to a good environment.
pub(super) fn environment(_: &Examined, on: &Installation) -> Findings {
    let why = "an application that imports packages of the system would not start with a new environment";
    let found = refused(preflight::system_packages(on), why)?;
    if !found.is_empty() {
        return Ok(found);
    }
    let venv = on.layout.venv().display().to_string();
    let rebuild = "ladylinux-refresh run";
    let why = "the service fails at its next start, or runs with packages that no record covers";
    Ok(match on.environments().current()? {
        VenvState::Recorded(live) => match on.environments().interpreter_problem(&live)? {
            None => Vec::new(),
            Some(problem) => {
                let what = format!(
                    "the interpreter of the environment {} has changed: {problem}",
                    live.path.display()
                );
                vec![DoctorFinding::problem(what, why, rebuild)]
            }
        },
        VenvState::Missing => vec![DoctorFinding::problem(
            format!("{venv} is missing"),
            "the service cannot start without its environment",
            rebuild,
        )],
        VenvState::RealDirectory => vec![DoctorFinding::note(
            format!("{venv} is a directory that this tool did not make"),
            "the next run keeps it for a rollback and builds a new environment beside it",
            rebuild,
        )],
        VenvState::Unrecorded(path) => {
            let what = if path.exists() {
                format!("{venv} points to the environment {}, which has no record", path.display())
            } else {
                format!("{venv} points to {}, which does not exist", path.display())
            };
            vec![DoctorFinding::problem(what, why, rebuild)]
        }
    })
}

/// Checks that apt reports a Python that it replaces.
pub(super) fn apt_hook(examined: &Examined) -> Findings {
    let layout = &examined.layout;
    if !examined.is_kept_by_systemd() || !examined.is_installed() || !own_files::has_apt(layout) {
        return Ok(Vec::new());
    }
    let hook = layout.apt_hook();
    let text = disk::read_if_there(&hook)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let what = match text.as_deref().map(starts_a_program) {
        Some(true) => return Ok(Vec::new()),
        Some(false) => format!("{} starts no existing program", hook.display()),
        None => format!("{} is missing", hook.display()),
    };
    let why = "apt does not report it if it replaces the Python of the environment";
    Ok(vec![DoctorFinding::note(what, why, "ladylinux-refresh init")])
}

/// Returns whether the program that an entry for apt tests exists.
fn starts_a_program(text: &str) -> bool {
    let tested = text.split_once("test -x ").and_then(|(_, rest)| rest.split_once(';'));
    tested.is_some_and(|(program, _)| Path::new(program).is_file())
}

/// Checks that the live environment is unchanged since its build.
pub(super) fn contamination(_: &Examined, on: &Installation) -> Findings {
    let environments = on.environments();
    let current = environments.current()?;
    let Some(live) = current.recorded() else { return Ok(Vec::new()) };
    let Some(found) = environments.contamination(live)? else { return Ok(Vec::new()) };
    Ok(vec![DoctorFinding::problem(
        format!("{} was changed manually after it was built: {}", live.path.display(), found.in_words(3)),
        "the service runs with packages that no requirement names; the next run uses another environment",
        "ladylinux-refresh run",
    )])
}
