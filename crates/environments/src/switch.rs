//! Makes an environment the live one: one atomic rename of a link.
//!
//! A real directory in the link's place is adopted: a link is made under another name, the two are exchanged, and the
//! directory, which now has the other name, is moved among the environments. If the program is killed in between, the
//! next call finishes the adoption; `venv` is never missing.

use std::fs;
use std::path::{Path, PathBuf};

use refresh_programs::units::Role;
use refresh_settings::names::EnvironmentName;
use refresh_system::checkpoint;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::aside;

use super::compare::{DESCRIBE, DescribeResponse};
use super::record::{self, Origin, Record};
use super::recorded_environments::{Environments, VenvState};

/// The first word in the names of adopted directories.
pub(super) const ADOPTED: &str = "adopted";

/// The result of a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// The environment that was live before, if it was a good one.
    pub before: Option<EnvironmentName>,
    /// The environment that is live now.
    pub after: EnvironmentName,
    /// Whether the link had to be changed.
    pub changed: bool,
    /// The name under which a real directory was kept.
    pub adopted: Option<EnvironmentName>,
}

impl Environments<'_> {
    /// Points `venv` to a good environment, atomically and durably (RW-5.3).
    ///
    /// # Errors
    /// The environment is not good, or the link cannot be changed; `venv` is then unchanged.
    pub fn switch(&self, to: &EnvironmentName) -> Outcome<Switched> {
        let adopted_before = self.finish_adoption()?;
        if self.good(to)?.is_none() {
            return Err(Failure::new(format!(
                "the environment {to} is damaged or changed, so it cannot be used"
            ))
            .command_for("build it again", "ladylinux-refresh run", &[]));
        }
        let current = self.current()?;
        let before = current.recorded().map(|live| live.name.clone());
        let target = self.site.layout.environment(to);
        let changed = before.as_ref() != Some(to);
        let mut adopted = adopted_before.into_iter().last();
        if current == VenvState::RealDirectory {
            adopted = Some(self.adopt(&target)?);
        } else if changed {
            checkpoint::reach("python:before the switch");
            disk::point_link(&self.site.layout.venv(), &target)?;
        }
        checkpoint::reach("python:switched");
        Ok(Switched { before, after: to.clone(), changed, adopted })
    }

    /// Puts a link to `target` in the place of the real directory `venv` and keeps the directory as an environment.
    fn adopt(&self, target: &Path) -> Outcome<EnvironmentName> {
        let layout = self.site.layout;
        if !disk::same_device(&layout.venv(), &layout.environments())? {
            return Err(Failure::new(format!(
                "{} and {} lie on different file systems, so the directory cannot be kept as an environment",
                layout.venv().display(),
                layout.environments().display()
            ))
            .command_for(
                "move it away yourself",
                "mv",
                &[&layout.venv(), &aside(&layout.venv())],
            ));
        }
        let side = self.side();
        disk::point_link(&side, target)?;
        checkpoint::reach("python:before the exchange");
        disk::exchange(&layout.venv(), &side)?;
        checkpoint::reach("python:exchanged");
        self.finish_adoption()?
            .pop()
            .ok_or_else(|| Failure::new(format!("the old environment is not at {}", side.display())))
    }

    /// Finishes the adoption that an interrupted run began, and returns the adopted environments.
    pub(super) fn finish_adoption(&self) -> Outcome<Vec<EnvironmentName>> {
        let layout = self.site.layout;
        self.sweep_links()?;
        let side = self.side();
        match fs::symlink_metadata(&side) {
            Ok(found) if found.is_dir() => {
                self.site.setup()?;
                let place = layout.environment(&self.next_name(ADOPTED)?);
                disk::move_new(&side, &place)?;
                disk::sync_parent(&place)?;
                disk::sync_parent(&side)?;
                checkpoint::reach("python:old environment moved");
            }
            Ok(_) => disk::remove_file_if_there(&side)?,
            Err(_) => {}
        }
        let mut adopted = Vec::new();
        for name in record::entries(&layout.environments())? {
            let Ok(name) = EnvironmentName::parse(&name) else { continue };
            let directory = layout.environment(&name);
            if super::recorded_environments::number(&name, ADOPTED).is_none()
                || directory.is_symlink()
                || Record::read(layout, &name)?.is_some()
            {
                continue;
            }
            // Its owner has made everything in it, so its owner inspects it.
            let owner = Owner::of(&directory)?;
            let operation = self.site.unit_options(Role::Inspect);
            let found: DescribeResponse = self.site.units.call_as(&operation, owner, DESCRIBE, &directory)?;
            Record::new(name.clone(), Origin::Adopted, found.packages, found.size, None).write(layout)?;
            checkpoint::reach("python:adoption recorded");
            adopted.push(name);
        }
        Ok(adopted)
    }

    /// Removes the links beside `venv` that a run left when it was killed during a switch.
    fn sweep_links(&self) -> Outcome<()> {
        let home = self.site.layout.home();
        for name in record::entries(&home)? {
            let path = home.join(&name);
            if name.starts_with(".venv.") && name.contains("new-") && path.is_symlink() {
                disk::remove_file_if_there(&path).context(|| "cannot tidy up".to_owned())?;
            }
        }
        Ok(())
    }

    /// Returns the name beside `venv` that is used to exchange a directory and a link.
    fn side(&self) -> PathBuf {
        self.site.layout.home().join(".venv.switching")
    }
}
