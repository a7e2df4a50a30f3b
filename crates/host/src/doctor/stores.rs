//! The tool's own stores, and the remains of earlier runs.
#![expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]

use refresh_git::locks::locks;
use refresh_installation::history;
use refresh_installation::installation::Installation;
use refresh_installation::journal::recover;
use refresh_installation::status_file;
use refresh_installation::status_file::{StatusFile, is_supported};
use refresh_service::fence;
use refresh_settings::names::BranchName;
use refresh_system::disk;
use refresh_system::error::Failure;
use refresh_system::hint::Hint;
use refresh_system::text::quoted;

use super::{DoctorFinding, Examined, Findings, edit, quoted_all, some_of};

/// Checks that the mirror exists and is not damaged.
pub(super) fn mirror(_: &Examined, on: &Installation) -> Findings {
    let path = on.mirror.path().display().to_string();
    let why = "app/ is aligned from it, and an earlier commit can be returned to only from there";
    if !on.mirror.path().exists() {
        return Ok(vec![DoctorFinding::problem(format!("{path} is missing"), why, "ladylinux-refresh run")]);
    }
    Ok(match on.mirror.damage()? {
        None => Vec::new(),
        Some(what) => {
            vec![DoctorFinding::problem(format!("{path} is damaged: {what}"), why, "ladylinux-refresh run")]
        }
    })
}

/// Checks that the mirror has no lock files without a run.
pub(super) fn mirror_locks(examined: &Examined, on: &Installation) -> Findings {
    let locks: Vec<String> = locks(on.mirror.path()).iter().map(|lock| lock.display().to_string()).collect();
    if examined.under_way || locks.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::problem(
        format!("lock files that no run holds: {}", some_of(&locks)),
        "a fetch that was killed left them; the next run removes them",
        format!("rm {}", quoted_all(&locks)),
    )])
}

/// Checks that the branches in the settings exist.
pub(super) fn branch(examined: &Examined, on: &Installation) -> Findings {
    if !on.mirror.path().exists() {
        return Ok(Vec::new());
    }
    let settings = &examined.settings;
    let deployed = status_file::read(&on.layout).deployed.map(|pair| pair.branch);
    let followed = settings.branch_to_follow(deployed);
    // A missing branch is a problem, so it needs no note.
    let exists = on.mirror.check_branch(&followed).is_ok();
    let other = if exists { on.mirror.other_default(&followed, None)? } else { None };
    let mut named: Vec<BranchName> = vec![followed.clone()];
    named.extend_from_slice(&settings.allowed_branches);
    named.sort();
    named.dedup();
    let mut found = Vec::new();
    found.extend(other.map(|other| {
        let other = quoted(&other);
        DoctorFinding::note(
            format!("runs follow {followed}, and the default branch of the remote is {other}, as of the last fetch"),
            "a branch that was renamed stands still, and every run finds it up to date",
            format!("ladylinux-refresh plan {other}"),
        )
    }));
    for branch in named {
        let Err(failure) = on.mirror.check_branch(&branch) else { continue };
        let hints = failure.hints();
        let is_set = settings.branch.iter().chain(&settings.allowed_branches).any(|named| *named == branch);
        let repair = if is_set {
            edit(&on.layout.host_file())
        } else {
            // A similar name, which the failure has, can be an older version.
            "ladylinux-refresh run BRANCH".to_owned()
        };
        found.push(DoctorFinding::problem(
            format!(
                "{}, as of the last fetch; {}",
                failure.chain().join(": "),
                hints.first().map(Hint::to_string).unwrap_or_default()
            ),
            "a run for a branch that does not exist is refused",
            repair,
        ));
    }
    Ok(found)
}

/// Checks that `status.json` can be read.
pub(super) fn status_file(examined: &Examined) -> Findings {
    let path = examined.layout.status_file();
    let read = disk::read_json::<StatusFile>(&path);
    let what = match disk::read_if_there(&path) {
        Err(failure) => return Err(failure),
        Ok(None) => return Ok(Vec::new()),
        Ok(Some(_)) => match read {
            Ok(Some(status)) if !is_supported(status.schema) => {
                format!(
                    "{} has the format {}, which this version does not support",
                    path.display(),
                    status.schema
                )
            }
            Ok(_) => return Ok(Vec::new()),
            Err(failure) => failure.chain().join(": "),
        },
    };
    Ok(vec![DoctorFinding::problem(
        what,
        "the deployed version is unknown, and a rollback cannot find the last good one",
        "ladylinux-refresh run",
    )])
}

/// Checks that no run was interrupted.
pub(super) fn interrupted(examined: &Examined) -> Findings {
    if examined.under_way {
        return Ok(Vec::new());
    }
    let runs: Vec<String> = recover::interrupted(&examined.layout)?.iter().map(ToString::to_string).collect();
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::problem(
        format!("runs that did not come to their end: {}", some_of(&runs)),
        "the next run restores the files that such a run had moved, and ends the processes that it left",
        "ladylinux-refresh run",
    )])
}

/// Checks that the service is not fenced.
pub(super) fn fence(examined: &Examined) -> Findings {
    if examined.under_way {
        return Ok(Vec::new());
    }
    let Some(fence) = fence::read(&examined.layout)? else { return Ok(Vec::new()) };
    let cause = fence.refusal().chain().into_iter().skip(1).collect::<Vec<_>>().join(": ");
    Ok(vec![DoctorFinding::problem(
        format!("the service is fenced: {}", cause.lines().collect::<Vec<_>>().join(" ")),
        "neither systemd nor a reboot starts the service until a run or a rollback succeeds",
        history::way_out(&examined.layout, &fence),
    )])
}

/// Checks that no person has removed the fence of a failed run.
pub(super) fn unfenced(examined: &Examined) -> Findings {
    if examined.under_way {
        return Ok(Vec::new());
    }
    let Some(report) = history::unfenced(&examined.layout)? else { return Ok(Vec::new()) };
    let next = report.error.map_or_else(|| "ladylinux-refresh run".to_owned(), |error| error.next);
    Ok(vec![DoctorFinding::note(
        format!("run {} failed, and its fence was removed", report.run),
        "the version in app/ has not passed a health check, and nothing keeps it from a start",
        next,
    )])
}

/// Checks that no start is admitted through the fence.
pub(super) fn admission(examined: &Examined) -> Findings {
    let path = examined.layout.admit();
    if examined.under_way || path.symlink_metadata().is_err() {
        return Ok(Vec::new());
    }
    if fence::admission(&examined.layout).ok().flatten().is_some() {
        return Err(Failure::new("a run is starting the service just now"));
    }
    let path = path.display().to_string();
    Ok(vec![DoctorFinding::problem(
        format!("{path} was left by a run that was killed"),
        "while it exists, the fence does not stop a start of the service",
        format!("rm {}", quoted(&path)),
    )])
}
