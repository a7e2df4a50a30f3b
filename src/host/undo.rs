//! `init --undo`: removes everything that this program ever added to a machine, and leaves the service running.
//!
//! Each step finds out by itself whether it is needed, so what was killed goes on at the next call; the settings and the
//! state, by which it is found again, go last. What is of people stays: their local changes and the environment from before
//! this program are moved beside the work tree. Content of the service user's is read and written by operations only.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::{self, Moved};
use crate::error::{Context as _, Failure, Outcome};
use crate::installation::Installation;
use crate::report::shell::quoted_path;
use crate::service::page::UNIT as PAGE;
use crate::source::own_objects;
use crate::systemd::unit::{ActiveState, LoadState};
use crate::systemd::{self, Bus};
use crate::units::{Job, Role};

use super::own_files::{self, REQUESTS, TIMER};
use super::page;
use super::relocate::{self, RelocateRequest, Relocated};
use super::socket;
use super::trust;
use super::user::{OWN_USERS, OwnUsers};

/// How long it may take to copy an environment.
const RELOCATION: Duration = Duration::from_secs(3600);

/// How the host's file begins that `init` writes.
const SIGNATURE: &str = "# Settings of this host for ladylinux-refresh.";

/// How long the service may take beyond its own stop timeout to stop and start again.
const RESTART: Duration = Duration::from_secs(90);

/// An installation that is to be removed.
pub struct Undo<'a> {
    on: &'a Installation,
    bus: Option<Bus>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The application's repository gets its own objects.
    OwnObjects,
    /// The environment in use takes the place of the link.
    Environment {
        /// The environment.
        from: PathBuf,
        /// Whether it is the one from before this program, whose programs name the place of the link.
        is_adopted: bool,
    },
    /// Something of people's is moved beside the work tree.
    Keep {
        /// Where it lies.
        from: PathBuf,
        /// Where it goes.
        to: PathBuf,
    },
    /// Requests and schedule end.
    Disable,
    /// A unit that `init --socket` or `init --page` has installed ends; a running service keeps its socket until it is restarted.
    End(String),
    /// A file, a link or a directory is removed.
    Remove(PathBuf),
    /// systemd reads its units again, and the service is restarted where it runs and a run has started it.
    Restart,
    /// The embedded supervisor ends, and the service with it.
    Stop,
    /// The users are removed.
    Users,
}

impl Step {
    /// Describes it, to be read behind "would".
    pub fn describe(&self, on: &Installation) -> String {
        let (app, venv) = (on.layout.app(), on.layout.venv());
        match self {
            Self::OwnObjects => format!("copy the objects that {}/.git borrows into it", app.display()),
            Self::Environment { from, .. } => {
                format!("put {} in the place of the link {}", from.display(), venv.display())
            }
            Self::Keep { from, to } => format!("keep {} as {}", from.display(), to.display()),
            Self::Disable => format!("stop and disable {REQUESTS} and {TIMER}"),
            Self::End(unit) => format!("stop and disable {unit}"),
            Self::Remove(path) => format!("remove {}", path.display()),
            Self::Restart => format!(
                "let systemd read its units again, and restart {} where a run has started it",
                on.settings.service.unit
            ),
            Self::Stop => "stop the service, which no service manager keeps".to_owned(),
            Self::Users => format!("remove the system users {}", OWN_USERS.join(" and ")),
        }
    }
}

impl<'a> Undo<'a> {
    /// Begins; changes nothing.
    ///
    /// # Errors
    /// The service is fenced, or systemd cannot be reached.
    pub fn begin(on: &'a Installation) -> Outcome<Self> {
        if on.is_fenced() {
            return Err(Failure::new("the service is fenced: what is deployed has not proved that it works")
                .hint(on.as_typed("ladylinux-refresh run"))
                .hint(on.as_typed("ladylinux-refresh unfence")));
        }
        let is_on_systemd = on.layout.is_real() && systemd::is_booted();
        let bus = if is_on_systemd { Some(Bus::connect()?) } else { None };
        Ok(Self { on, bus })
    }

    /// Returns what has to be done, in its order.
    ///
    /// # Errors
    /// It cannot be found out.
    pub fn plan(&self) -> Outcome<Vec<Step>> {
        let layout = &self.on.layout;
        let mut steps = Vec::new();
        if layout.app().join(".git/objects/info/alternates").symlink_metadata().is_ok() {
            steps.push(Step::OwnObjects);
        }
        if let Some(step) = self.environment()? {
            steps.push(step);
        }
        steps.extend(self.kept()?);
        if self.bus.is_some() {
            steps.push(Step::Disable);
            let unit = &self.on.settings.service.unit;
            if socket::socket_path(layout, unit).exists() && !socket::written(layout, unit)?.is_empty() {
                steps.push(Step::End(socket::socket_of(unit)));
            }
            if page::is_installed(layout) {
                steps.push(Step::End(PAGE.to_owned()));
            }
        } else if !self.on.service.observe()?.is_down() {
            steps.push(Step::Stop);
        }
        let units = self.unit_files()?;
        let had_units = !units.is_empty();
        steps.extend(units.into_iter().map(Step::Remove));
        if had_units && self.bus.is_some() {
            steps.push(Step::Restart);
        }
        let link = layout.home().join("venvs");
        let link = link.is_symlink().then_some(link);
        let side = layout.home().join(SIDE);
        let side = side.symlink_metadata().is_ok().then_some(side);
        let own = [layout.volatile(), layout.store()].into_iter().filter(|path| path.exists());
        steps.extend(link.into_iter().chain(side).chain(own).map(Step::Remove));
        if self.bus.is_some() {
            steps.push(Step::Users);
        }
        if is_written_by_init(&layout.host_file())? {
            steps.push(Step::Remove(layout.host_file()));
        }
        steps.push(Step::Remove(layout.state()));
        Ok(steps)
    }

    /// Does one step.
    ///
    /// # Errors
    /// It cannot be done; the next `init --undo` goes on from there.
    pub fn carry_out(&self, step: &Step) -> Outcome<()> {
        let on = self.on;
        match step {
            Step::OwnObjects => own_objects::take(on).map(drop),
            Step::Environment { from, is_adopted } => self.put_back(from, *is_adopted),
            Step::Keep { from, to } => keep(from, to),
            Step::Disable => self.disable(),
            Step::End(unit) => self.end(unit),
            Step::Remove(path) => remove(path),
            Step::Restart => self.restart(),
            Step::Stop => on.service.stop().map(drop),
            Step::Users => OwnUsers::remove(&on.runner).map(drop),
        }
    }

    /// The environment that the link leads to, where it is one of the store's.
    fn environment(&self) -> Outcome<Option<Step>> {
        let layout = &self.on.layout;
        let Ok(target) = fs::read_link(layout.venv()) else { return Ok(None) };
        let target = layout.home().join(target);
        let context = || format!("cannot find the environment {}", target.display());
        let real = target.canonicalize().context(context)?;
        let environments = layout.environments();
        let environments = environments.canonicalize().unwrap_or(environments);
        if real.parent() != Some(environments.as_path()) {
            return Ok(None);
        }
        let is_adopted = real.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adopted-"));
        Ok(Some(Step::Environment { from: real, is_adopted }))
    }

    /// What of people's lies in the tool's own places.
    fn kept(&self) -> Outcome<Vec<Step>> {
        let layout = &self.on.layout;
        let kept = layout.home().join("kept-by-refresh");
        let mut steps = Vec::new();
        let mut keep = |from: PathBuf, name: String| steps.push(Step::Keep { from, to: kept.join(name) });
        for (directory, prefix) in [(layout.stashes(), "stash"), (layout.moved_all(), "moved")] {
            for name in names(&directory)? {
                keep(directory.join(&name), format!("{prefix}-{name}"));
            }
        }
        for name in names(&layout.runs())? {
            let saved = layout.runs().join(&name).join("saved");
            if saved.is_dir() {
                keep(saved, format!("saved-{name}"));
            }
        }
        let in_use = self.environment()?;
        for name in names(&layout.environments())? {
            let path = layout.environments().join(&name);
            let is_in_use = matches!(&in_use, Some(Step::Environment { from, .. }) if from.ends_with(&name));
            if name.starts_with("adopted-") && !is_in_use && path.is_dir() && !path.is_symlink() {
                keep(path, format!("venv-{name}"));
            }
        }
        Ok(steps)
    }

    /// Units and other files of this program's, and what is empty without them.
    fn unit_files(&self) -> Outcome<Vec<PathBuf>> {
        if self.bus.is_none() {
            return Ok(Vec::new());
        }
        let (layout, service) = (&self.on.layout, &self.on.settings.service);
        let files = own_files::all(layout, service, &trust::program()?);
        let mut paths: Vec<PathBuf> = files.into_iter().map(|file| file.path).collect();
        paths.extend(socket::written(layout, &service.unit)?);
        paths.push(page::path(layout));
        paths.retain(|path| path.symlink_metadata().is_ok());
        for unit in [&service.unit].into_iter().chain(&service.also) {
            let directory = layout.drop_in(unit).parent().map(Path::to_path_buf).unwrap_or_default();
            let is_ours = |name: &String| paths.contains(&directory.join(name));
            if directory.is_dir() && names(&directory)?.iter().all(is_ours) {
                paths.push(directory);
            }
        }
        Ok(paths)
    }

    /// Puts the environment in the place of the link by one rename: there is one at every instant.
    fn put_back(&self, from: &Path, is_adopted: bool) -> Outcome<()> {
        let (layout, owner) = (&self.on.layout, self.on.owner);
        let venv = layout.venv();
        if is_adopted {
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
        let job = Job::new(Role::Align, RELOCATION).writes(&side);
        let _: Relocated = self.on.units.call_as(&job, owner, relocate::OPERATION, &request)?;
        disk::exchange(&venv, &side)?;
        disk::sync_parent(&venv)?;
        disk::remove_file_if_there(&side)
    }

    fn disable(&self) -> Outcome<()> {
        let Some(bus) = &self.bus else { return Ok(()) };
        for unit in [REQUESTS, TIMER] {
            if bus.unit(unit)?.load == LoadState::NotFound {
                continue;
            }
            bus.stop(unit, super::units::START)?;
            bus.disable(&[unit])?;
        }
        bus.reload()
    }

    fn end(&self, unit: &str) -> Outcome<()> {
        let Some(bus) = &self.bus else { return Ok(()) };
        bus.stop(unit, super::units::START)?;
        bus.disable(&[unit])
    }

    /// A running service that was deployed holds programs of the store open, and would look for what it has not loaded yet
    /// where nothing is. One that no run has started has nothing of it.
    fn restart(&self) -> Outcome<()> {
        let Some(bus) = &self.bus else { return Ok(()) };
        bus.reload()?;
        let service = &self.on.settings.service;
        let is_deployed = self.on.layout.deployed_env().exists();
        if !is_deployed || bus.unit(service.unit.as_str())?.active != ActiveState::Active {
            return Ok(());
        }
        let limit = service.stop_timeout + RESTART;
        bus.restart(service.unit.as_str(), limit)
    }
}

/// The name beside `venv` where the copy of the environment is made.
const SIDE: &str = ".venv.undo";

/// Moves something of people's to a place that has nothing yet.
fn keep(from: &Path, to: &Path) -> Outcome<()> {
    if let Some(directory) = to.parent() {
        disk::make_directory(directory, 0o755)?;
    }
    if disk::move_new(from, to)? == Moved::OtherFileSystem {
        return Err(Failure::new(format!(
            "{} lies on another file system than {}",
            from.display(),
            to.display()
        ))
        .hint(format!("mv {} {}", quoted_path(from), quoted_path(to))));
    }
    disk::sync_parent(to)
}

fn remove(path: &Path) -> Outcome<()> {
    disk::remove_tree(path)?;
    disk::sync_parent(path)
}

/// Returns whether a file of settings is the one that `init` wrote, whatever people have set in it since.
fn is_written_by_init(path: &Path) -> Outcome<bool> {
    Ok(disk::read_if_there(path)?.is_some_and(|bytes| bytes.starts_with(SIGNATURE.as_bytes())))
}

/// Returns the names in a directory, sorted; none where it is missing.
fn names(directory: &Path) -> Outcome<Vec<String>> {
    let context = || format!("cannot read {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(context)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.context(context)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

impl std::fmt::Debug for Undo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").field("layout", &self.on.layout).finish_non_exhaustive()
    }
}
