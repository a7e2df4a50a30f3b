//! The installation that is examined, as far as it can be opened. Everything is read once, when a check first needs it.
//! Every check that needs it gets a failure to read it.

use std::cell::OnceCell;
use std::sync::Arc;

use refresh_events::event::Events;
use refresh_installation::installation::Installation;
use refresh_installation::journal::run_lock;
use refresh_installation::status_file;
use refresh_programs::process::Runner;
use refresh_programs::systemd;
use refresh_service::ServiceState;
use refresh_service::envfile::EnvFile;
use refresh_settings::layers::{Layers, Overrides};
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId};
use refresh_settings::users::owner_of_app;
use refresh_settings::{Settings, trust};
use refresh_source::work_tree::TreeState;
use refresh_system::disk::Owner;
use refresh_system::error::{Failure, Outcome};

use super::unit_files::Unit;
use crate::host::presence;
use refresh_source::work_tree;

/// A value that is read once, or why it cannot be read.
struct Once<T>(OnceCell<Result<T, String>>);

impl<T> Once<T> {
    const fn new() -> Self {
        Self(OnceCell::new())
    }

    fn get(&self, read: impl FnOnce() -> Outcome<T>) -> Outcome<&T> {
        let read = || read().map_err(|failure| failure.chain().join(": "));
        self.0.get_or_init(read).as_ref().map_err(|why| Failure::new(why.clone()))
    }
}

/// An installation, as far as it can be read.
pub struct Examined {
    /// The paths.
    pub layout: Layout,
    /// The settings; if those of the host cannot be used, the built-in ones.
    pub settings: Settings,
    /// Why the host's settings cannot be used.
    pub unusable: Option<Failure>,
    /// The branch that the next run deploys.
    pub branch: BranchName,
    /// The owner of `app/`.
    pub owner: Option<Owner>,
    /// Whether a run is in progress. A run temporarily creates files that would be findings otherwise.
    pub under_way: bool,
    opened: Result<Installation, String>,
    tree: Once<TreeState>,
    unit: Once<Option<Unit>>,
    env_file: Once<EnvFile>,
}

impl Examined {
    /// Opens the installation as far as possible.
    ///
    /// # Errors
    /// Not even the built-in settings can be used.
    pub fn open(layout: &Layout) -> Outcome<Self> {
        // Settings that other users than root can change are not opened.
        Self::of(layout, trust::check(layout).and_then(|()| Layers::read(layout, Overrides::default())))
    }

    /// Opens the installation as far as possible at the end of `init`. `layers` and `branch` are those of `init`;
    /// `tree` is the state of `app/`, which may not be part of an installation yet.
    ///
    /// # Errors
    /// The errors of [`Self::open`].
    pub fn of_init(
        layout: &Layout,
        layers: Layers,
        branch: BranchName,
        tree: Option<TreeState>,
    ) -> Outcome<Self> {
        let tree = Once(tree.map_or_else(OnceCell::new, |tree| OnceCell::from(Ok(tree))));
        Ok(Self { branch, tree, ..Self::of(layout, Ok(layers))? })
    }

    fn of(layout: &Layout, layers: Outcome<Layers>) -> Outcome<Self> {
        let read = layers.and_then(|layers| layers.resolve().map(|settings| (settings, layers)));
        let (settings, unusable, opened) = match read {
            Ok((settings, layers)) => {
                let opened = presence::check_there(layout)
                    .and_then(|()| Installation::open(layers, Runner::new(Arc::new(Events::silent()))));
                (settings, None, opened.map_err(|failure| failure.chain().join(": ")))
            }
            Err(failure) => {
                let built_in = Layers::of_text(layout, "", Overrides::default())?.resolve()?;
                (built_in, Some(failure), Err("the settings cannot be used".to_owned()))
            }
        };
        let status = status_file::read(layout);
        Ok(Self {
            layout: layout.clone(),
            branch: settings.branch_to_follow(status.deployed.as_ref().map(|pair| pair.branch.clone())),
            settings,
            unusable,
            owner: owner_of_app(layout).ok(),
            under_way: run_lock::held_by(&layout.lock_file()).ok().flatten().is_some()
                || status.running_now().is_some(),
            opened,
            tree: Once::new(),
            unit: Once::new(),
            env_file: Once::new(),
        })
    }

    /// Returns the command that sets up the missing parts.
    pub(crate) fn init(&self) -> String {
        let repo = if self.settings.remote.url.is_some() { "" } else { " --repo URL" };
        format!("ladylinux-refresh init{repo}")
    }

    /// Returns whether a part of the installation was ever set up here.
    pub(crate) fn is_installed(&self) -> bool {
        self.layout.home().is_dir() && self.layout.state().is_dir()
    }

    /// Returns the installation.
    ///
    /// # Errors
    /// It does not exist, or it cannot be opened.
    pub(crate) fn opened(&self) -> Outcome<&Installation> {
        self.opened.as_ref().map_err(|why| Failure::new(why.clone()))
    }

    /// Returns the state of the working tree.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn tree(&self) -> Outcome<&TreeState> {
        self.tree.get(|| work_tree::of(self.opened()?))
    }

    /// Returns the service's environment file, read with the rights of the service user.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn env_file(&self) -> Outcome<&EnvFile> {
        self.env_file.get(|| EnvFile::read_at(&self.layout, &Runner::new(Arc::new(Events::silent()))))
    }

    /// Returns the unit of the service, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn unit(&self) -> Outcome<Option<&Unit>> {
        let find = || Unit::find(&self.layout, &self.settings.service.unit, self.is_kept_by_systemd());
        self.unit.get(find).map(Option::as_ref)
    }

    /// Returns the commit whose files are examined: the deployed one, else the one of `app/`; `None` if the mirror has
    /// neither.
    ///
    /// # Errors
    /// The working tree or the mirror cannot be read.
    pub(crate) fn commit(&self) -> Outcome<Option<CommitId>> {
        let deployed = status_file::read(&self.layout).deployed.map(|pair| pair.commit);
        let commit = match deployed {
            Some(commit) => Some(commit),
            None => self.tree()?.commit.clone(),
        };
        let Some(commit) = commit else { return Ok(None) };
        Ok(self.opened()?.mirror.contains(&commit)?.then_some(commit))
    }

    /// Returns whether the service is a unit of systemd.
    pub(crate) fn is_kept_by_systemd(&self) -> bool {
        self.layout.is_real() && systemd::is_booted()
    }

    /// Returns the state of the service.
    ///
    /// # Errors
    /// Its manager cannot be queried.
    pub(crate) fn service(&self) -> Outcome<ServiceState> {
        self.opened()?.service.observe()
    }
}
