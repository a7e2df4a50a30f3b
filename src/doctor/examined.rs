//! What is examined: the installation as far as it can be opened. Everything is looked at once, when it is first asked
//! for; what could not be opened is told to every check that needs it.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::error::{Failure, Outcome};
use crate::event::Events;
use crate::installation::{self, Installation};
use crate::journal::run_lock;
use crate::process::{Owner, Runner};
use crate::service::ServiceState;
use crate::service::envfile::EnvFile;
use crate::settings::Settings;
use crate::settings::layers::{Layers, Overrides};
use crate::settings::layout::Layout;
use crate::settings::names::CommitId;
use crate::settings::trust;
use crate::source::work_tree::TreeState;
use crate::status_file;
use crate::systemd;

use super::unit::Unit;

/// An installation, as far as it can be looked at.
pub struct Examined {
    /// The paths.
    pub layout: Layout,
    /// The settings; where the host's cannot be used, those that are built in.
    pub settings: Settings,
    /// Why the host's settings cannot be used.
    pub unusable: Option<Failure>,
    /// Whom `app/` belongs to.
    pub owner: Option<Owner>,
    /// Whether a run is in progress, which makes and removes what else would be a finding.
    pub under_way: bool,
    opened: Result<Installation, String>,
    tree: OnceCell<Result<TreeState, String>>,
    unit: OnceCell<Result<Option<Unit>, String>>,
    env_file: OnceCell<Result<EnvFile, String>>,
}

impl Examined {
    /// Opens what can be opened.
    ///
    /// # Errors
    /// Not even the built-in settings can be used.
    pub fn open(layout: &Layout) -> Outcome<Self> {
        // What root does not go by it is told of, and nothing of it is opened.
        let read = trust::check(layout).and_then(|()| Layers::read(layout, Overrides::default())).and_then(
            |layers| {
                let settings = layers.resolve()?;
                Ok((layers, settings))
            },
        );
        let (layers, settings, unusable) = match read {
            Ok((layers, settings)) => (Some(layers), settings, None),
            Err(failure) => {
                (None, Layers::of_text(layout, "", Overrides::default())?.resolve()?, Some(failure))
            }
        };
        let opened = match layers {
            None => Err("the settings cannot be used".to_owned()),
            Some(layers) => installation::check_there(layout)
                .and_then(|()| Installation::open(layers, Runner::new(Arc::new(Events::silent()))))
                .map_err(|failure| failure.chain().join(": ")),
        };
        Ok(Self {
            owner: Owner::of(&layout.app()).or_else(|_| Owner::of(&layout.home())).ok(),
            under_way: run_lock::held_by(&layout.lock_file()).ok().flatten().is_some()
                || status_file::read(layout).running_now().is_some(),
            layout: layout.clone(),
            settings,
            unusable,
            opened,
            tree: OnceCell::new(),
            unit: OnceCell::new(),
            env_file: OnceCell::new(),
        })
    }

    /// Returns the command that sets up what is missing.
    pub fn init(&self) -> String {
        let repo = if self.settings.remote.url.is_some() { "" } else { " --repo URL" };
        format!("ladylinux-refresh init{repo}")
    }

    /// Returns whether anything was ever set up here.
    pub fn is_installed(&self) -> bool {
        self.layout.home().is_dir() && self.layout.state().is_dir()
    }

    /// Returns the installation.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn opened(&self) -> Outcome<&Installation> {
        self.opened.as_ref().map_err(|why| Failure::new(why.clone()))
    }

    /// Returns the state of the work tree.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tree(&self) -> Outcome<&TreeState> {
        let on = self.opened()?;
        let tree = self.tree.get_or_init(|| on.tree_state().map_err(|failure| failure.chain().join(": ")));
        tree.as_ref().map_err(|why| Failure::new(why.clone()))
    }

    /// Returns the service's environment file, read with the rights of the service user.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn env_file(&self) -> Outcome<&EnvFile> {
        let read = || {
            let runner = Runner::new(Arc::new(Events::silent()));
            EnvFile::read_at(&self.layout, &runner).map_err(|failure| failure.chain().join(": "))
        };
        self.env_file.get_or_init(read).as_ref().map_err(|why| Failure::new(why.clone()))
    }

    /// Returns the unit of the service, where there is one.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn unit(&self) -> Outcome<Option<&Unit>> {
        let unit = self.unit.get_or_init(|| Unit::find(self).map_err(|failure| failure.chain().join(": ")));
        unit.as_ref().map(Option::as_ref).map_err(|why| Failure::new(why.clone()))
    }

    /// Returns the commit whose files are examined: the deployed one, else the one that `app/` is at; `None` where the
    /// mirror holds neither.
    ///
    /// # Errors
    /// The work tree or the mirror cannot be read.
    pub fn commit(&self) -> Outcome<Option<CommitId>> {
        let deployed = status_file::read(&self.layout).deployed.map(|pair| pair.commit);
        let commit = match deployed {
            Some(commit) => Some(commit),
            None => self.tree()?.commit.clone(),
        };
        let Some(commit) = commit else { return Ok(None) };
        Ok(self.opened()?.mirror.contains(&commit)?.then_some(commit))
    }

    /// Returns whether the service is a unit of systemd.
    pub fn is_kept_by_systemd(&self) -> bool {
        self.layout.is_real() && systemd::is_booted()
    }

    /// Returns the state of the service.
    ///
    /// # Errors
    /// Its manager cannot be asked.
    pub fn service(&self) -> Outcome<ServiceState> {
        self.opened()?.service.observe()
    }
}
