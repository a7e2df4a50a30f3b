//! The mirror of the remote, the work tree and the environment.

use crate::error::Outcome;
use crate::process::Owner;
use crate::python::Current;
use crate::report::screen::count;
use crate::settings::Strategy;
use crate::source::prepared_tree;

use super::{Host, Look, Measure};

/// The mirror.
pub(super) struct Mirrored;

impl Measure for Mirrored {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let mirror = host.layout.mirror();
        let url = host.given.settings.remote.url.as_ref().map(|url| url.text.as_str()).unwrap_or_default();
        Ok(if host.mirrored()?.is_some() {
            Look::Fits(format!("left {} as it is", mirror.display()))
        } else if mirror.join("HEAD").exists() {
            Look::Needed(format!("fetch {} into {}", host.given.branch, mirror.display()))
        } else {
            Look::Needed(format!("mirror {url} in {}", mirror.display()))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let commit = host.commit()?;
        Ok(format!(
            "mirrored the remote in {}; {} is at {}",
            host.layout.mirror().display(),
            host.given.branch,
            commit.short()
        ))
    }
}

/// The work tree.
pub(super) struct Cloned;

impl Measure for Cloned {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let app = host.layout.app();
        Ok(if app.join(".git").exists() {
            Look::Fits(format!(
                "left {} as it is; the next run saves its local changes and aligns it",
                app.display()
            ))
        } else {
            Look::Needed(format!("clone {} into {}", host.given.branch, app.display()))
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let (on, commit) = (host.installation()?, host.commit()?);
        prepared_tree::deploy_first(on, &host.run, &host.given.branch, &commit)?;
        Ok(format!("cloned {} ({}) into {}", commit.short(), host.given.branch, on.layout.app().display()))
    }
}

/// The environment.
pub(super) struct Environment;

impl Measure for Environment {
    fn look(&self, host: &Host) -> Outcome<Look> {
        let layout = &host.layout;
        let venv = layout.venv();
        Ok(match venv.symlink_metadata() {
            Ok(found) if found.is_dir() => {
                Look::Fits(format!("left {} as it is; the first run adopts it", venv.display()))
            }
            Ok(_) => Look::Fits(format!("left {} as it is", venv.display())),
            // Whatever the application brings along would be built as root.
            Err(_) if layout.is_real() && Owner::of(&layout.app()).is_ok_and(|owner| owner.uid == 0) => {
                Look::Fits(format!(
                    "made no environment, since {} belongs to root; the first run builds it",
                    layout.app().display()
                ))
            }
            Err(_) => Look::Needed(format!("build the environment and point {} to it", venv.display())),
        })
    }

    fn carry_out(&self, host: &Host) -> Outcome<String> {
        let (on, commit) = (host.installation()?, host.commit()?);
        if on.environments().current()? != Current::Missing {
            return Ok(format!("left {} as it is", host.layout.venv().display()));
        }
        let wanted = on.release(&commit)?.wanted(on)?;
        let ensured = on.environments().ensure(&wanted, Strategy::WhenChanged, &host.run)?;
        on.environments().switch(&ensured.generation.name)?;
        let packages = count(ensured.generation.record.packages.len(), "package");
        Ok(format!("built {} with {packages}", ensured.generation.name))
    }
}
