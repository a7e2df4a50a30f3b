//! `init --undo`: removes everything that this program has added to a machine, and leaves the service running.
//!
//! Each step checks itself whether it is needed, so a killed removal continues at the next call. The settings and the
//! state, which identify the installation, are removed last. Data of people stays: their local changes and the
//! environment from before this program are moved beside the working tree. Only operations read and write content of
//! the service user.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refresh_installation::history;
use refresh_installation::installation::Installation;
use refresh_programs::systemd;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, LoadState};
use refresh_programs::units::{Role, UnitOptions};
use refresh_service::fence;
use refresh_service::page::UNIT as PAGE;
use refresh_settings::layout::Layout;
use refresh_source::own_objects;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;

use super::own_files::{self, REQUESTS, TIMER};
use super::relocate::{self, RelocateRequest};
use super::user::{self, OWN_USERS};
use super::{files, page, socket, trust};

/// The time limit of a copy of an environment.
const RELOCATION: Duration = Duration::from_secs(3600);

/// The extra time for the service to stop and start again, beyond its own stop timeout.
const RESTART: Duration = Duration::from_secs(90);

/// An installation to be removed.
pub struct Undo<'a> {
    on: &'a Installation,
    bus: Option<Bus>,
}

/// One step.
pub struct UndoStep<'a> {
    /// Its effect, in words that follow "would".
    pub what: String,
    apply: Box<dyn Fn() -> Outcome<()> + 'a>,
}

impl<'a> UndoStep<'a> {
    fn new(what: String, apply: impl Fn() -> Outcome<()> + 'a) -> Self {
        Self { what, apply: Box::new(apply) }
    }

    fn remove(path: PathBuf) -> Self {
        Self::new(format!("remove {}", path.display()), move || remove(&path))
    }

    /// Performs the step.
    ///
    /// # Errors
    /// It fails; the next `init --undo` continues from there.
    pub fn apply(&self) -> Outcome<()> {
        (self.apply)()
    }
}

impl<'a> Undo<'a> {
    /// Returns the removal of an installation; changes nothing.
    ///
    /// # Errors
    /// systemd cannot be reached.
    pub fn new(on: &'a Installation) -> Outcome<Self> {
        let is_on_systemd = on.layout.is_real() && systemd::is_booted();
        let bus = if is_on_systemd { Some(Bus::connect()?) } else { None };
        Ok(Self { on, bus })
    }

    /// Refuses the removal while the service is fenced.
    ///
    /// # Errors
    /// The service is fenced.
    pub fn check(&self) -> Outcome<()> {
        let Some(fence) = fence::read(&self.on.layout)? else { return Ok(()) };
        Err(Failure::new("`init --undo` is refused while the service is fenced")
            .hint(Hint::shell(history::way_out(&self.on.layout, &fence)))
            .command("ladylinux-refresh unfence", &[]))
    }

    /// Returns the steps that are needed, in their order.
    ///
    /// # Errors
    /// The installation cannot be read.
    pub fn steps(&self) -> Outcome<Vec<UndoStep<'_>>> {
        let (on, layout) = (self.on, &self.on.layout);
        let mut steps = Vec::new();
        let app = layout.app();
        if app.join(".git/objects/info/alternates").symlink_metadata().is_ok() {
            let what = format!("copy the objects that {}/.git borrows into it", app.display());
            steps.push(UndoStep::new(what, || own_objects::take(on)));
        }
        let environment = self.environment()?;
        if let Some(from) = environment.clone() {
            let what = format!("put {} in the place of the link {}", from.display(), layout.venv().display());
            steps.push(UndoStep::new(what, move || self.put_back(&from)));
        }
        for (from, to) in self.kept(environment.as_deref())? {
            let what = format!("keep {} as {}", from.display(), to.display());
            steps.push(UndoStep::new(what, move || keep(&from, &to)));
        }
        self.stop_steps(&mut steps)?;
        let link = layout.home().join("venvs");
        let link = link.is_symlink().then_some(link);
        let side = layout.home().join(SIDE);
        let side = side.symlink_metadata().is_ok().then_some(side);
        let own = [layout.volatile(), layout.store()].into_iter().filter(|path| path.exists());
        steps.extend(link.into_iter().chain(side).chain(own).map(UndoStep::remove));
        if self.bus.is_some() {
            let what = format!("remove the system users {}", OWN_USERS.join(" and "));
            steps.push(UndoStep::new(what, || user::remove_own_users(&on.runner)));
        }
        if is_as_init_wrote_it(layout)? {
            steps.push(UndoStep::remove(layout.host_file()));
        }
        steps.push(UndoStep::remove(layout.state()));
        Ok(steps)
    }

    /// Returns a file of settings that people wrote or changed, which stays.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn settings_that_stay(&self) -> Outcome<Option<PathBuf>> {
        let file = self.on.layout.host_file();
        let stays = file.exists() && !is_as_init_wrote_it(&self.on.layout)?;
        Ok(stays.then_some(file))
    }

    /// Adds the steps that end this program's own units, or the embedded supervisor.
    fn stop_steps<'s>(&'s self, steps: &mut Vec<UndoStep<'s>>) -> Outcome<()> {
        let (on, layout, unit) = (self.on, &self.on.layout, &self.on.settings.service.unit);
        let Some(bus) = &self.bus else {
            if !on.service.observe()?.is_down() {
                let what = "stop the service, which no service manager keeps".to_owned();
                steps.push(UndoStep::new(what, || on.service.stop().map(drop)));
            }
            return Ok(());
        };
        let mut own = vec![REQUESTS.to_owned(), TIMER.to_owned()];
        if socket::socket_path(layout, unit).exists() && !socket::written(layout, unit)?.is_empty() {
            // A running service keeps its socket until it is restarted.
            own.push(socket::socket_of(unit));
        }
        if page::is_installed(layout) {
            own.push(PAGE.to_owned());
        }
        for unit in own {
            let what = format!("stop and disable {unit}");
            steps.push(UndoStep::new(what, move || end(bus, &unit)));
        }
        let files = self.unit_files()?;
        let had_files = !files.is_empty();
        steps.extend(files.into_iter().map(UndoStep::remove));
        if had_files {
            let what =
                format!("let systemd read its units again, and restart {unit} where a run has started it");
            steps.push(UndoStep::new(what, || self.restart(bus)));
        }
        Ok(())
    }

    /// Returns the environment in use, if it is in the store.
    fn environment(&self) -> Outcome<Option<PathBuf>> {
        let layout = &self.on.layout;
        let Ok(target) = fs::read_link(layout.venv()) else { return Ok(None) };
        let target = layout.home().join(target);
        let context = || format!("cannot find the environment {}", target.display());
        let real = target.canonicalize().context(context)?;
        let environments = layout.environments();
        let environments = environments.canonicalize().unwrap_or(environments);
        Ok((real.parent() == Some(environments.as_path())).then_some(real))
    }

    /// Returns files of the users in the tool's own directories, each with its new place.
    fn kept(&self, in_use: Option<&Path>) -> Outcome<Vec<(PathBuf, PathBuf)>> {
        let layout = &self.on.layout;
        let kept = layout.home().join("kept-by-refresh");
        let mut moves = Vec::new();
        // An earlier removal may have kept something under the same name.
        let mut keep = |from: PathBuf, name: String| {
            let others = (2..).map(|number| format!("{name}-{number}"));
            let mut places = [name.clone()].into_iter().chain(others).map(|name| kept.join(name));
            moves.extend(places.find(|to| to.symlink_metadata().is_err()).map(|to| (from, to)));
        };
        for (directory, prefix) in [(layout.stashes(), "stash"), (layout.moved_all(), "moved")] {
            for name in disk::names(&directory)? {
                keep(directory.join(&name), format!("{prefix}-{}", name.display()));
            }
        }
        for name in disk::names(&layout.runs())? {
            let saved = layout.runs().join(&name).join("saved");
            if saved.is_dir() {
                keep(saved, format!("saved-{}", name.display()));
            }
        }
        for name in disk::names(&layout.environments())? {
            let path = layout.environments().join(&name);
            let is_in_use = in_use.is_some_and(|in_use| in_use.ends_with(&name));
            if name.as_encoded_bytes().starts_with(ADOPTED.as_bytes())
                && !is_in_use
                && path.is_dir()
                && !path.is_symlink()
            {
                keep(path, format!("venv-{}", name.display()));
            }
        }
        Ok(moves)
    }

    /// Returns this program's units and other files, and the directories that are empty without them.
    fn unit_files(&self) -> Outcome<Vec<PathBuf>> {
        let (layout, service) = (&self.on.layout, &self.on.settings.service);
        let files = own_files::all(layout, service, &trust::program()?);
        let mut paths: Vec<PathBuf> = files.into_iter().map(|file| file.path).collect();
        paths.extend(socket::written(layout, &service.unit)?);
        paths.push(page::path(layout));
        paths.retain(|path| path.symlink_metadata().is_ok());
        for unit in [&service.unit].into_iter().chain(&service.also) {
            let directory = layout.drop_in(unit).parent().map(Path::to_path_buf).unwrap_or_default();
            let is_ours = |name: &OsString| paths.contains(&directory.join(name));
            if directory.is_dir() && disk::names(&directory)?.iter().all(is_ours) {
                paths.push(directory);
            }
        }
        Ok(paths)
    }

    /// Puts the environment in the place of the link by one rename: an environment exists at every instant.
    fn put_back(&self, from: &Path) -> Outcome<()> {
        let (layout, owner) = (&self.on.layout, self.on.owner);
        let venv = layout.venv();
        // The programs of the environment from before this program contain the path of the link.
        if from.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ADOPTED)) {
            disk::exchange(&venv, from)?;
            return disk::sync_parent(&venv);
        }
        let side = layout.home().join(SIDE);
        disk::remove_tree(&side)?;
        disk::make_owned_directory(&side, 0o755, &owner)?;
        let name = from.file_name().unwrap_or_default();
        let old =
            [from.to_path_buf(), layout.environments().join(name), layout.home().join("venvs").join(name)];
        let request = RelocateRequest {
            from: from.to_path_buf(),
            to: side.clone(),
            old: old.iter().map(|path| path.display().to_string()).collect(),
            new: venv.display().to_string(),
        };
        let options = UnitOptions::new(Role::Align, RELOCATION).writes(&side);
        self.on.units.call_as::<_, ()>(&options, owner, relocate::OPERATION, &request)?;
        disk::exchange(&venv, &side)?;
        disk::sync_parent(&venv)?;
        disk::remove_file_if_there(&side)
    }

    /// Restarts a running service that a run has deployed. It has files of the store open, and would search for files
    /// that it has not loaded yet in an empty place. A service that no run has started uses nothing of the store.
    fn restart(&self, bus: &Bus) -> Outcome<()> {
        bus.reload()?;
        let service = &self.on.settings.service;
        let is_deployed = self.on.layout.deployed_env().exists();
        if !is_deployed || bus.unit(service.unit.as_str())?.active != ActiveState::Active {
            return Ok(());
        }
        bus.restart(service.unit.as_str(), service.stop_timeout + RESTART)
    }
}

/// Stops and disables a unit of this program's own.
fn end(bus: &Bus, unit: &str) -> Outcome<()> {
    if bus.unit(unit)?.load == LoadState::NotFound {
        return Ok(());
    }
    bus.stop(unit, super::units::START)?;
    bus.disable(&[unit])
}

/// The prefix of the names of environments that were in use before this program.
const ADOPTED: &str = "adopted-";

/// The name of the copy of the environment, beside `venv`.
const SIDE: &str = ".venv.undo";

/// Moves data of people to an empty place.
fn keep(from: &Path, to: &Path) -> Outcome<()> {
    if let Some(directory) = to.parent() {
        disk::make_directory(directory, 0o755)?;
    }
    // `mv` also copies to another file system.
    disk::move_new(from, to).map_err(|failure| failure.command("mv", &[&from, &to]))?;
    disk::sync_parent(to)
}

fn remove(path: &Path) -> Outcome<()> {
    disk::remove_tree(path)?;
    disk::sync_parent(path)
}

/// Returns whether the host's file is as `init` wrote it.
fn is_as_init_wrote_it(layout: &Layout) -> Outcome<bool> {
    let written = disk::read_if_there(&files::written_host_file(layout))?;
    Ok(written.is_some() && disk::read_if_there(&layout.host_file())? == written)
}

impl std::fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").field("layout", &self.on.layout).finish_non_exhaustive()
    }
}
