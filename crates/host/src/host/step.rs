//! A step of `init`, and the machine that it works on. It queries the remote for the branch.

use std::cell::OnceCell;
use std::path::PathBuf;

use rustix::io::Errno;

use refresh_git::Hold;
use refresh_git::mirror::Mirror;
use refresh_installation::installation::Installation;
use refresh_programs::process::Runner;
use refresh_programs::systemd;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, RunId};
use refresh_settings::users::SERVICE_USER;
use refresh_system::disk::Owner;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::aside;

use super::input::InitInput;
use super::own_git::{tree_of, with_git};
use super::trust;
use refresh_source::work_tree::TreeState;

/// The manager of the service on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ManagerKind {
    /// systemd, which runs this program from its present path.
    Systemd {
        /// The program that the units name.
        program: PathBuf,
    },
    /// The embedded supervisor: a world below a directory, or a machine without systemd.
    Embedded,
}

/// A machine, or a world below a directory, that is set up for the service.
pub struct Host {
    pub(super) layout: Layout,
    pub(super) manager: ManagerKind,
    /// The checked input of `init`.
    pub input: InitInput,
    pub(super) run: RunId,
    pub(super) runner: Runner,
    /// The commit of the branch at the remote; it may not be in the mirror yet.
    pub(super) tip: OnceCell<CommitId>,
    pub(super) installation: OnceCell<Installation>,
}

/// Whether a step has something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing must be done; the sentence reports that.
    Fits(String),
    /// Something must be done; the text follows the word "would".
    Needed(String),
}

/// A part of a step, done on a machine.
type Action<T> = Box<dyn Fn(&Host) -> Outcome<T>>;

/// One step of `init`.
pub struct Step {
    /// Checks whether it is needed, and changes nothing.
    pub check: Action<Need>,
    /// Performs the step, and reports its effect. After a failure the effects of earlier steps stay, and the next
    /// `init` continues.
    pub apply: Action<String>,
}

impl Step {
    pub(super) fn new(check: fn(&Host) -> Outcome<Need>, apply: fn(&Host) -> Outcome<String>) -> Self {
        Self { check: Box::new(check), apply: Box::new(apply) }
    }
}

impl Host {
    /// Checks everything possible before anything is created: the place, the program that units would name, the remote
    /// and its branch.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn new(layout: &Layout, input: InitInput, run: RunId, runner: Runner) -> Outcome<Self> {
        let manager = if layout.is_real() && systemd::is_booted() {
            if !rustix::process::geteuid().is_root() {
                return Err(Failure::new("only root can set up a machine").because(Errno::PERM).command_for(
                    "for a trial in a directory of yours",
                    "ladylinux-refresh --root DIR init --repo URL",
                    &[],
                ));
            }
            ManagerKind::Systemd { program: trust::program()? }
        } else {
            ManagerKind::Embedded
        };
        let host = Self {
            layout: input.settings.layout.clone(),
            manager,
            input,
            run,
            runner,
            tip: OnceCell::new(),
            installation: OnceCell::new(),
        };
        let input = &host.input;
        if (input.has_socket || input.has_page) && host.manager == ManagerKind::Embedded {
            return Err(Failure::new("only systemd keeps a socket or a page for the service")
                .hint("run this again without --socket and --page"));
        }
        host.check_place()?;
        if host.manager == ManagerKind::Embedded {
            host.owner()?;
        }
        host.check_remote()?;
        Ok(host)
    }

    /// Refuses a place with other content: the root of a world is created; existing content is never taken over.
    pub(super) fn check_place(&self) -> Outcome<()> {
        let root = self.layout.root();
        if root.exists() && !root.is_dir() {
            return Err(Failure::new(format!("{} is not a directory", root.display())));
        }
        let app = self.layout.app();
        let is_empty = || app.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if app.is_symlink() || (app.exists() && !app.join(".git").is_dir() && !is_empty()) {
            return Err(Failure::new(format!("{} exists and is not a Git working tree", app.display()))
                .command_for("check its content, then move it away", "mv", &[&app, &aside(&app)]));
        }
        Ok(())
    }

    /// Queries the remote for the branch: a mistake in the URL or the branch leaves nothing behind.
    pub(super) fn check_remote(&self) -> Outcome<()> {
        let tip = with_git(&self.runner, |git, world| {
            Mirror::new(git, world, &self.input.settings.remote).remote_tip(&self.input.branch)
        })?;
        let _ = self.tip.set(tip);
        Ok(())
    }

    /// Returns the owner of the application: with systemd the service user; otherwise its present owner, below a root
    /// the caller, and on a real machine the service user, never root.
    pub(super) fn owner(&self) -> Outcome<Owner> {
        let layout = &self.layout;
        if self.manager == ManagerKind::Embedded {
            if let Ok(owner) = Owner::of(&layout.app()) {
                return Ok(owner);
            }
            if !layout.is_real() {
                return Ok(Owner::of(&layout.home()).unwrap_or(Owner::own()));
            }
        }
        service_user()
    }

    /// Returns the state of `app/`, which may not be part of an installation yet; `None` if it is not a repository.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tree(&self) -> Outcome<Option<TreeState>> {
        let Ok(owner) = self.owner() else { return Ok(None) };
        if !self.layout.app().join(".git").is_dir() {
            return Ok(None);
        }
        tree_of(&self.layout, &self.runner, owner).map(Some)
    }

    /// Returns the installation, after its directories exist.
    pub(super) fn installation(&self) -> Outcome<&Installation> {
        if let Some(on) = self.installation.get() {
            return Ok(on);
        }
        let on = Installation::open(self.input.layers.clone(), self.runner.clone())?;
        Ok(self.installation.get_or_init(|| on))
    }

    /// Returns the present commit of the branch; fetches it once.
    pub(super) fn commit(&self) -> Outcome<CommitId> {
        self.installation()?.mirror.ensure(&self.run, &self.input.branch)
    }

    /// Returns the commit of the branch, if the mirror already has it; fetches nothing.
    pub(super) fn mirrored(&self) -> Outcome<Option<CommitId>> {
        if !self.layout.mirror().join("HEAD").exists() {
            return Ok(None);
        }
        let Some(tip) = self.tip.get() else { return Ok(None) };
        Ok(self.installation()?.mirror.contains(tip)?.then(|| tip.clone()))
    }

    /// Releases the commit that the mirror keeps for this `init`.
    ///
    /// # Errors
    /// The mirror cannot be written.
    pub fn release(&self) -> Outcome<()> {
        self.installation.get().map_or(Ok(()), |on| on.mirror.release(Hold::Run, &self.run))
    }
}

/// Returns the service user.
pub(super) fn service_user() -> Outcome<Owner> {
    Owner::named(SERVICE_USER)?.ok_or_else(|| {
        Failure::new(format!("the user {SERVICE_USER} does not exist, and the application must belong to it"))
            .hint(format!("useradd --system --user-group --shell /usr/sbin/nologin {SERVICE_USER}"))
    })
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("layout", &self.layout).finish_non_exhaustive()
    }
}
