//! One installation: its layout, its settings, and a door to each room.
//!
//! Opened once per command. Nothing is done here; what takes time (finding an interpreter, reading a commit) is done
//! when it is first asked for and kept, because neither changes during a command.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;

use crate::bundle::{Bundle, Given};
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::git::Git;
use crate::git::mirror::Mirror;
use crate::host::migration;
use crate::process::{Owner, Runner};
use crate::python::{Environments, Generation, Interpreter, Site};
use crate::refresh::{Release, begin};
use crate::report;
use crate::report::shell::quoted_path;
use crate::service::envfile::{self, EnvFile};
use crate::service::supervisor::Embedded;
use crate::service::systemd::Systemd;
use crate::service::{ServiceManager, ServiceState, fence, probe};
use crate::settings::Settings;
use crate::settings::layers::Layers;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, GenerationName, RunId};
use crate::source::exchange::Exchanges;
use crate::source::place::{Place, Scratch};
use crate::source::work_tree::{self, TreeState};
use crate::systemd;
use crate::units::Units;

/// The name of the user that builds environments.
const BUILDER: &str = "ladylinux-refresh";

/// An installation and the doors to its parts.
pub struct Installation {
    /// The paths.
    pub layout: Layout,
    /// What settings are resolved from, once a commit adds its own.
    pub layers: Layers,
    /// The settings as far as the host says them.
    pub settings: Settings,
    /// Whom `app/` and the environments belong to.
    pub owner: Owner,
    /// Whom the environments belong to, and as whom everything that others wrote is read.
    pub builder: Owner,
    /// Starts other programs.
    pub runner: Runner,
    /// Starts sandboxed units.
    pub units: Units,
    git: Git,
    /// The mirror of the remote.
    pub mirror: Mirror,
    /// The service.
    pub service: Box<dyn ServiceManager>,
    /// The bundle that everything comes from instead of the network, where the command was given one.
    pub bundle: Option<Bundle>,
    interpreter: OnceCell<Interpreter>,
    env_file: RefCell<Option<(Option<envfile::Stamp>, EnvFile)>>,
    releases: RefCell<Vec<Release>>,
}

impl Installation {
    /// Opens the installation that `layers` describe.
    ///
    /// # Errors
    /// A setting cannot be used, or git is missing.
    pub fn open(layers: Layers, runner: Runner) -> Outcome<Self> {
        let settings = layers.resolve()?;
        let layout = layers.layout.clone();
        let owner = Owner::of(&layout.app()).or_else(|_| Owner::of(&layout.home())).unwrap_or(Owner::own());
        let git = Git::new(&runner, &layout)?;
        let units = Units::new(&layout, &runner, owner).with_sessions();
        let mirror = Mirror::new(&git, &layout, &settings.remote).in_units(&units);
        let service = manager(&settings, &runner);
        let builder = builder(&layout, owner);
        Ok(Self {
            layout,
            layers,
            settings,
            owner,
            builder,
            runner,
            units,
            git,
            mirror,
            service,
            bundle: None,
            interpreter: OnceCell::new(),
            env_file: RefCell::default(),
            releases: RefCell::new(Vec::new()),
        })
    }

    /// The same installation with a bundle, where there is one: then no network is used.
    #[must_use]
    pub fn with_bundle(self, given: Option<Given>) -> Self {
        Self { bundle: given.map(Bundle::new), ..self }
    }

    /// Makes sure that the mirror holds what `branch` points to, holds it for `run`, and returns it (RW-5.2a).
    ///
    /// # Errors
    /// The remote cannot be reached or has no such branch, or the bundle is refused.
    pub fn ensure_commit(&self, run: &RunId, branch: &BranchName) -> Outcome<CommitId> {
        match &self.bundle {
            None => self.mirror.ensure(run, branch),
            Some(bundle) => bundle.ensure_commit(self, run, branch),
        }
    }

    /// Makes sure, without staging, that `branch` can be had, as far as that can be known before the stop.
    ///
    /// # Errors
    /// As [`Self::ensure_commit`].
    pub fn check_source(&self, branch: &BranchName) -> Outcome<()> {
        match &self.bundle {
            None => self.mirror.remote_tip(branch).map(drop),
            Some(bundle) => bundle.prove(self),
        }
    }

    /// Reads what a commit brings; a commit never changes, so it is read once.
    ///
    /// # Errors
    /// The commit cannot be deployed.
    pub fn release(&self, commit: &CommitId) -> Outcome<Release> {
        if let Some(known) = self.releases.borrow().iter().find(|release| release.commit == *commit) {
            return Ok(known.clone());
        }
        let release = Release::read(self, commit)?;
        self.releases.borrow_mut().push(release.clone());
        Ok(release)
    }

    /// Reads the state of `app/` and its repository.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tree_state(&self) -> Outcome<TreeState> {
        work_tree::read(&self.layout, &self.git, &self.units)
    }

    /// Returns where an operation on the source finds git and the mirror.
    pub(crate) fn source_place(&self, scratch: &Scratch) -> Place {
        let (program, configuration) = self.git.found_at();
        Place {
            program: program.into(),
            configuration: configuration.into(),
            mirror: self.layout.mirror().into(),
            scratch: scratch.path().into(),
        }
    }

    /// Returns the exchanges of trees, for recovery.
    pub fn exchanges(&self) -> Exchanges<'_> {
        Exchanges { layout: &self.layout, owner: self.owner }
    }

    /// Returns where and for whom environments are made.
    pub(crate) fn site(&self) -> Site<'_> {
        Site {
            runner: &self.runner,
            layout: &self.layout,
            python: &self.settings.python,
            owner: self.builder,
            offline: self.bundle.is_some(),
            units: &self.units,
        }
    }

    /// Returns the environments.
    pub fn environments(&self) -> Environments<'_> {
        Environments::new(self.site())
    }

    /// Returns the name of the live generation, where `venv` leads to a known one.
    pub fn live(&self) -> Option<GenerationName> {
        Some(self.live_generation()?.name)
    }

    /// Returns the live generation, where `venv` leads to a known one.
    pub fn live_generation(&self) -> Option<Generation> {
        self.environments().current().ok()?.generation().cloned()
    }

    /// Finds the interpreter that environments are made with.
    ///
    /// # Errors
    /// There is none that can be used.
    pub fn interpreter(&self) -> Outcome<&Interpreter> {
        if let Some(found) = self.interpreter.get() {
            return Ok(found);
        }
        let found = Interpreter::find(self.site())?;
        Ok(self.interpreter.get_or_init(|| found))
    }

    /// Reads the service's environment file, with the rights of the service's user. One that has not changed is not read
    /// again: to start a unit takes longer than what is done with it while the service is down.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn env_file(&self) -> Outcome<EnvFile> {
        let path = self.layout.env_file();
        let stamp = envfile::stamp(&path);
        if let Some((of, file)) = &*self.env_file.borrow()
            && stamp.is_some()
            && *of == stamp
        {
            return Ok(file.clone());
        }
        let file = EnvFile::read_as(&self.units, self.owner, &path)?;
        *self.env_file.borrow_mut() = Some((stamp, file.clone()));
        Ok(file)
    }

    /// Returns the port that the service listens on.
    ///
    /// # Errors
    /// The env file names none that can be used.
    pub fn port(&self) -> Outcome<u16> {
        let env_file = self.env_file()?;
        probe::service_port(&env_file)
    }

    /// Returns the URL that the probe asks, as far as the host's settings tell it.
    ///
    /// # Errors
    /// The env file or the settings of the probe cannot be used.
    pub fn probe_url(&self) -> Outcome<String> {
        let env_file = self.env_file()?;
        Ok(probe::resolve(&self.settings.probe, &env_file, None)?.url)
    }

    /// Returns whether the fence stands. Where that cannot be told, it does.
    pub fn is_fenced(&self) -> bool {
        !matches!(fence::read(&self.layout), Ok(None))
    }

    /// Returns the state of the service for a report (RW-5.6c).
    pub fn service_report(&self, url: Option<String>) -> report::Service {
        let (state, pid) = match self.service.observe() {
            Ok(ServiceState::Running(running)) => ("running".to_owned(), Some(running.main.pid)),
            Ok(state) if state.is_down() => ("stopped".to_owned(), None),
            Ok(other) => (other.to_string(), None),
            Err(failure) => (format!("unknown ({failure})"), None),
        };
        report::Service { state, pid, url, fenced: self.is_fenced(), others: Vec::new() }
    }

    /// Returns the state of the service in words, for errors.
    pub fn service_in_words(&self) -> String {
        let service = self.service_report(None);
        let fenced = if service.fenced { " and fenced: nothing starts it" } else { "" };
        format!("{}{fenced}", service.state)
    }

    /// Returns a command of this program as it has to be typed for this installation.
    pub fn as_typed(&self, command: &str) -> String {
        as_typed(&self.layout, command)
    }

    /// Returns the log of a run.
    pub fn log_of(&self, run: &RunId) -> PathBuf {
        self.layout.run(run).join(begin::LOG)
    }
}

/// The user that builds environments, which owns nothing else; where there is none, and below a root, the owner of the tree.
fn builder(layout: &Layout, owner: Owner) -> Owner {
    if !layout.is_real() || Owner::own().uid != 0 {
        return owner;
    }
    Owner::named(BUILDER).ok().flatten().unwrap_or(owner)
}

/// Chooses who keeps the service: systemd, where it is the real machine's PID 1; the embedded supervisor everywhere else.
fn manager(settings: &Settings, runner: &Runner) -> Box<dyn ServiceManager> {
    if settings.layout.is_real() && systemd::is_booted() {
        let (layout, unit) = (settings.layout.clone(), settings.service.unit.clone());
        Box::new(Systemd::new(layout, unit, runner.clone()).with(settings.service.also.clone()))
    } else {
        Box::new(Embedded::new(settings))
    }
}

/// Returns a text with every command of this program in it as it has to be typed for the installation at `layout`, and with
/// the configuration where it lies there.
pub fn as_typed(layout: &Layout, text: &str) -> String {
    if layout.is_real() {
        return text.to_owned();
    }
    let root = quoted_path(layout.root());
    let words: Vec<&str> = text.split(' ').collect();
    let typed = words.iter().enumerate().map(|(index, word)| {
        let is_command = word.trim_start_matches('`') == "ladylinux-refresh";
        match words.get(index + 1) {
            Some(next) if is_command && *next != "--root" => format!("{word} --root {root}"),
            _ if ["/etc/ladylinux/", "/etc/ladylinux-"].iter().any(|start| word.starts_with(start)) => {
                layout.root().join(&word[1..]).display().to_string()
            }
            _ => (*word).to_owned(),
        }
    });
    typed.collect::<Vec<_>>().join(" ")
}

/// Refuses what is not an installation yet.
///
/// # Errors
/// The directories of the deployment contract are missing, or the caller may not look.
pub fn check_there(layout: &Layout) -> Outcome<()> {
    for directory in [layout.home(), layout.state()] {
        if !disk::is_directory(&directory).map_err(|failure| failure.hint(who_may(layout)))? {
            if migration::is_needed(layout)? {
                return Err(Failure::new("this installation is of version 0.1")
                    .hint(as_typed(layout, "ladylinux-refresh init")));
            }
            return Err(Failure::new(format!(
                "there is no installation here: {} is missing",
                directory.display()
            ))
            .hint(as_typed(layout, "ladylinux-refresh init --repo URL")));
        }
    }
    Ok(())
}

/// Refuses a place where nothing at all of an installation is: a root that was mistyped.
///
/// # Errors
/// As [`check_there`].
pub fn check_anything(layout: &Layout) -> Outcome<()> {
    for directory in [layout.home(), layout.state(), layout.etc()] {
        if disk::is_directory(&directory).map_err(|failure| failure.hint(who_may(layout)))? {
            return Ok(());
        }
    }
    check_there(layout)
}

/// Refuses whoever may not write the tool's own state.
///
/// # Errors
/// The caller may not.
pub fn check_writable(layout: &Layout) -> Outcome<()> {
    let state = layout.state();
    rustix::fs::access(&state, rustix::fs::Access::WRITE_OK)
        .context(|| format!("{} is not writable", state.display()))
        .map_err(|failure| failure.hint(who_may(layout)))
}

/// Says who may do what others are refused.
fn who_may(layout: &Layout) -> &'static str {
    if layout.is_real() {
        "run it as root"
    } else {
        "run it as root, or as the user who initialized the installation"
    }
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installation").field("layout", &self.layout).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_as_it_has_to_be_typed() {
        let trial = Layout::below("/trial");
        assert_eq!(as_typed(&trial, "ladylinux-refresh run"), "ladylinux-refresh --root /trial run");
        assert_eq!(as_typed(&trial, "apt install git"), "apt install git");
        for text in
            ["allow it: ladylinux-refresh init", "sudo ladylinux-refresh run", "run `ladylinux-refresh run`"]
        {
            let typed = as_typed(&trial, text);
            assert_eq!(typed, text.replace("refresh ", "refresh --root /trial "));
            assert_eq!(as_typed(&trial, &typed), typed);
        }
        let file = "correct /etc/ladylinux/refresh.toml";
        assert_eq!(as_typed(&trial, file), "correct /trial/etc/ladylinux/refresh.toml");
        assert_eq!(as_typed(&trial, "/etc/ladylinux-refresh.toml"), "/trial/etc/ladylinux-refresh.toml");
        assert_eq!(as_typed(&Layout::below("/"), file), file);
        assert_eq!(as_typed(&Layout::below("/"), "ladylinux-refresh run"), "ladylinux-refresh run");
    }
}
