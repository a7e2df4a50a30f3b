//! The tool's own stores, and what earlier runs left.
#![expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]

use crate::disk;
use crate::error::Failure;
use crate::git::locks::locks;
use crate::history;
use crate::installation::Installation;
use crate::journal::recover;
use crate::report::shell::quoted;
use crate::service::fence;
use crate::settings::names::BranchName;
use crate::status_file::{self, SCHEMA, StatusFile};

use super::{Examined, Findings, Found, some_of};

/// The mirror is there and whole.
pub(super) fn mirror(_: &Examined, on: &Installation) -> Findings {
    let path = on.mirror.path().display().to_string();
    let why = "app/ is aligned from it, and an earlier commit can be returned to only from there";
    if !on.mirror.path().exists() {
        return Ok(vec![Found::problem(format!("{path} is missing"), why, "ladylinux-refresh run")]);
    }
    Ok(match on.mirror.damage()? {
        None => Vec::new(),
        Some(what) => {
            vec![Found::problem(format!("{path} is damaged: {what}"), why, "ladylinux-refresh run")]
        }
    })
}

/// No lock files lie in the mirror that nobody holds.
pub(super) fn mirror_locks(examined: &Examined, on: &Installation) -> Findings {
    let locks: Vec<String> = locks(on.mirror.path()).iter().map(|lock| lock.display().to_string()).collect();
    if examined.under_way || locks.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = locks.iter().map(|lock| quoted(lock)).collect();
    Ok(vec![Found::problem(
        format!("lock files that no run holds: {}", some_of(&locks)),
        "a fetch that was killed left them; the next run removes them",
        format!("rm {}", names.join(" ")),
    )])
}

/// The branches that the settings name exist.
pub(super) fn branch(examined: &Examined, on: &Installation) -> Findings {
    if !on.mirror.path().exists() {
        return Ok(Vec::new());
    }
    let settings = &examined.settings;
    let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.branch);
    let mut named: Vec<BranchName> = vec![settings.branch_to_follow(deployed)];
    named.extend_from_slice(&settings.allowed_branches);
    named.sort();
    named.dedup();
    let mut found = Vec::new();
    for branch in named {
        let Err(failure) = on.mirror.check_branch(&branch) else { continue };
        let hints = failure.hints();
        let is_set = settings.branch.iter().chain(&settings.allowed_branches).any(|named| *named == branch);
        let run = hints.iter().find(|hint| hint.starts_with("ladylinux-refresh "));
        let repair = if is_set {
            format!("${{EDITOR:-vi}} {}", quoted(&on.layout.host_file().display().to_string()))
        } else {
            run.map_or("ladylinux-refresh run BRANCH", String::as_str).to_owned()
        };
        found.push(Found::problem(
            format!(
                "{}, as of the last fetch; {}",
                failure.chain().join(": "),
                hints.first().map_or("", String::as_str)
            ),
            "a run for a branch that does not exist is refused",
            repair,
        ));
    }
    Ok(found)
}

/// `status.json` can be read.
pub(super) fn status_file(examined: &Examined) -> Findings {
    let path = examined.layout.status_file();
    let read = disk::read_json::<StatusFile>(&path);
    let what = match disk::read_if_there(&path) {
        Err(failure) => return Err(failure),
        Ok(None) => return Ok(Vec::new()),
        Ok(Some(_)) => match read {
            Ok(Some(status)) if status.schema != SCHEMA => {
                format!(
                    "{} has the format {}, which this version does not know",
                    path.display(),
                    status.schema
                )
            }
            Ok(_) => return Ok(Vec::new()),
            Err(failure) => failure.chain().join(": "),
        },
    };
    Ok(vec![Found::problem(
        what,
        "nobody can tell which version is deployed, and a rollback does not know what proved itself last",
        "ladylinux-refresh run",
    )])
}

/// No run was cut off.
pub(super) fn interrupted(examined: &Examined) -> Findings {
    if examined.under_way {
        return Ok(Vec::new());
    }
    let runs: Vec<String> = recover::interrupted(&examined.layout)?.iter().map(ToString::to_string).collect();
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Found::problem(
        format!("runs that did not come to their end: {}", some_of(&runs)),
        "what such a run had set aside is put back, and what it left running is ended, only by the next run",
        "ladylinux-refresh run",
    )])
}

/// The service is not fenced.
pub(super) fn fence(examined: &Examined) -> Findings {
    if examined.under_way {
        return Ok(Vec::new());
    }
    let Some(fence) = fence::read(&examined.layout)? else { return Ok(Vec::new()) };
    let cause = fence.refusal().chain().into_iter().skip(1).collect::<Vec<_>>().join(": ");
    Ok(vec![Found::problem(
        format!("the fence stands: {}", cause.lines().collect::<Vec<_>>().join(" ")),
        "nothing starts the service, neither systemd nor a reboot, until a run or a rollback succeeds",
        history::way_out(&examined.layout, &fence),
    )])
}

/// Nothing is admitted through the fence.
pub(super) fn admission(examined: &Examined) -> Findings {
    let path = examined.layout.admit();
    if examined.under_way || path.symlink_metadata().is_err() {
        return Ok(Vec::new());
    }
    if fence::admission(&examined.layout).ok().flatten().is_some() {
        return Err(Failure::new("a run is starting the service just now"));
    }
    let path = path.display().to_string();
    Ok(vec![Found::problem(
        format!("{path} was left by a run that was killed"),
        "while it is there the fence keeps nothing from starting the service",
        format!("rm {}", quoted(&path)),
    )])
}
