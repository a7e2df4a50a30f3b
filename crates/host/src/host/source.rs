//! The mirror of the remote, the working tree and the environment.
#![expect(clippy::unnecessary_wraps, reason = "every step answers in the same way")]

use refresh_environments::VenvState;
use refresh_settings::Strategy;
use refresh_source::prepared_tree;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;
use refresh_system::text::count;

use super::{Host, Need};

pub(super) fn check_mirror(host: &Host) -> Outcome<Need> {
    let mirror = host.layout.mirror();
    let url = host.input.settings.remote.url.as_deref().unwrap_or_default();
    Ok(if host.mirrored()?.is_some() {
        Need::Fits(format!("left {} as it is", mirror.display()))
    } else if mirror.join("HEAD").exists() {
        Need::Needed(format!("fetch {} into {}", host.input.branch, mirror.display()))
    } else {
        Need::Needed(format!("mirror {url} in {}", mirror.display()))
    })
}

pub(super) fn apply_mirror(host: &Host) -> Outcome<String> {
    let commit = host.commit()?;
    Ok(format!(
        "mirrored the remote in {}; {} is at {}",
        host.layout.mirror().display(),
        host.input.branch,
        commit.short()
    ))
}

pub(super) fn check_work_tree(host: &Host) -> Outcome<Need> {
    let app = host.layout.app();
    Ok(if app.join(".git").exists() {
        Need::Fits(format!(
            "left {} as it is; the next run saves its local changes and aligns it",
            app.display()
        ))
    } else {
        Need::Needed(format!("clone {} into {}", host.input.branch, app.display()))
    })
}

pub(super) fn apply_work_tree(host: &Host) -> Outcome<String> {
    let (on, commit) = (host.installation()?, host.commit()?);
    prepared_tree::deploy_first(on, &host.run, &host.input.branch, &commit)?;
    Ok(format!("cloned {} ({}) into {}", commit.short(), host.input.branch, on.layout.app().display()))
}

pub(super) fn check_environment(host: &Host) -> Outcome<Need> {
    let layout = &host.layout;
    let venv = layout.venv();
    Ok(match venv.symlink_metadata() {
        Ok(found) if found.is_dir() => {
            Need::Fits(format!("left {} as it is; the first run adopts it", venv.display()))
        }
        Ok(_) => Need::Fits(format!("left {} as it is", venv.display())),
        // The packages of the application would be built as root.
        Err(_) if layout.is_real() && Owner::of(&layout.app()).is_ok_and(|owner| owner.uid == 0) => {
            Need::Fits(format!(
                "built no environment, because {} belongs to root; the first run builds it",
                layout.app().display()
            ))
        }
        Err(_) => Need::Needed(format!("build the environment and point {} to it", venv.display())),
    })
}

pub(super) fn apply_environment(host: &Host) -> Outcome<String> {
    let (on, commit) = (host.installation()?, host.commit()?);
    if on.environments().current()? != VenvState::Missing {
        return Ok(format!("left {} as it is", host.layout.venv().display()));
    }
    let wanted = on.release(&commit)?.wanted(on)?;
    let ensured = on.environments().ensure(&wanted, Strategy::WhenChanged, &host.run)?;
    on.environments().switch(&ensured.environment.name)?;
    let packages = count(ensured.environment.record.packages.len(), "package");
    Ok(format!("built {} with {packages}", ensured.environment.name))
}
