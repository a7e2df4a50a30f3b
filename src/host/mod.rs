//! What `init` brings a machine to: the deployment contract, as a list of measures.
//!
//! Each measure is a value that looks whether it is needed, says what it would do, and does it; so `--dry-run` shows the
//! very list that is carried out otherwise, and a second `init` finds every measure needless. Nothing that is there is
//! overwritten, except files of this program's own. What only people should change is told at the end ([`by_hand`]).

pub mod by_hand;
mod directories;
mod files;
pub mod given;
pub mod migration;
mod own_files;
mod page;
pub mod relocate;
mod socket;
mod socket_command;
mod source;
mod trust;
pub mod undo;
pub(crate) mod unit;
mod unit_text;
mod units;
mod user;

use std::cell::OnceCell;
use std::path::PathBuf;

use crate::disk;
use crate::error::{Failure, Outcome};
use crate::git::Git;
use crate::git::mirror::Mirror;
use crate::installation::Installation;
use crate::process::{Owner, Runner};
use crate::report::shell::quoted_path;
use crate::settings::layout::Layout;
use crate::settings::names::{CommitId, RunId};
use crate::systemd::{self, Bus};

pub use given::{Given, Wish};

/// The user that a real machine's application belongs to.
pub const SERVICE_USER: &str = "ladylinux";

/// Who keeps the service on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keeper {
    /// systemd, which runs this program from where it lies.
    Systemd {
        /// The program that the units name.
        program: PathBuf,
    },
    /// The embedded supervisor: a world below a directory, or a machine without systemd.
    Embedded,
}

/// A machine, or a world below a directory, that is brought to the contract.
pub struct Host {
    layout: Layout,
    keeper: Keeper,
    given: Given,
    run: RunId,
    runner: Runner,
    /// What the branch points to at the remote; not yet in the mirror, perhaps.
    tip: OnceCell<CommitId>,
    installation: OnceCell<Installation>,
    bus: OnceCell<Bus>,
}

/// What a measure finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing has to be done; a sentence that says so.
    Fits(String),
    /// It is needed; what it would do, to be read behind "would".
    Needed(String),
}

/// One thing that `init` sees to.
pub trait Measure {
    /// Looks whether it is needed, and changes nothing.
    ///
    /// # Errors
    /// It cannot be told.
    fn look(&self, host: &Host) -> Outcome<Look>;

    /// Does it, and says what was done.
    ///
    /// # Errors
    /// It cannot be done; what was done before stays, and the next `init` goes on from there.
    fn carry_out(&self, host: &Host) -> Outcome<String>;
}

/// Returns all measures, in the order in which they have to be taken.
pub fn measures(host: &Host) -> Vec<Box<dyn Measure>> {
    let mut list: Vec<Box<dyn Measure>> = Vec::new();
    let on_systemd = matches!(host.keeper, Keeper::Systemd { .. });
    if on_systemd {
        list.push(Box::new(user::ServiceUser));
        list.push(Box::new(user::OwnUsers));
    }
    list.push(Box::new(directories::Folders));
    list.push(Box::new(files::HostFile));
    list.push(Box::new(files::EnvFile));
    list.push(Box::new(source::Mirrored));
    list.push(Box::new(source::Cloned));
    list.push(Box::new(source::Environment));
    if on_systemd {
        list.push(Box::new(unit::Installed));
        if host.given.has_socket {
            list.push(Box::new(socket::Socket));
        }
        // One that is installed is brought up to date.
        if host.given.has_page || page::is_installed(&host.layout) {
            list.push(Box::new(page::Page));
        }
        list.extend(units::measures(host));
    }
    list
}

impl Host {
    /// Looks where `init` works and checks what can be checked before anything is made: the place, the program that
    /// units would name, the remote and its branch.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn look(layout: &Layout, given: Given, run: RunId, runner: Runner) -> Outcome<Self> {
        let keeper = if layout.is_real() && systemd::is_booted() {
            if !rustix::process::geteuid().is_root() {
                return Err(Failure::new("only root can bring a machine to the contract").hint(
                    "as root, or for a trial in a directory of yours: ladylinux-refresh --root DIR init --repo URL",
                ));
            }
            Keeper::Systemd { program: trust::program()? }
        } else {
            Keeper::Embedded
        };
        let host = Self {
            layout: given.settings.layout.clone(),
            keeper,
            given,
            run,
            runner,
            tip: OnceCell::new(),
            installation: OnceCell::new(),
            bus: OnceCell::new(),
        };
        let given = &host.given;
        if (given.has_socket || given.has_page) && host.keeper == Keeper::Embedded {
            return Err(Failure::new("only systemd keeps a socket or a page for the service")
                .hint("run this again without --socket and --page"));
        }
        host.check_place()?;
        if host.keeper == Keeper::Embedded {
            host.owner()?;
        }
        host.check_remote()?;
        Ok(host)
    }

    /// Refuses a place that is something else: the root of a world is made, what lies there is never taken over.
    fn check_place(&self) -> Outcome<()> {
        let root = self.layout.root();
        if root.exists() && !root.is_dir() {
            return Err(Failure::new(format!("{} is not a directory", root.display())));
        }
        let app = self.layout.app();
        let is_empty = || app.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if app.is_symlink() || (app.exists() && !app.join(".git").is_dir() && !is_empty()) {
            return Err(Failure::new(format!("{} is there and is no Git work tree", app.display()))
                .hint(format!("look what is in it, then move it away: mv {0} {0}.old", quoted_path(&app))));
        }
        Ok(())
    }

    /// Asks the remote for the branch: a mistake in the URL or the branch leaves nothing behind.
    fn check_remote(&self) -> Outcome<()> {
        let tip = self.with_git(|git, world| {
            Mirror::new(git, world, &self.given.settings.remote).remote_tip(&self.given.branch)
        })?;
        let _ = self.tip.set(tip);
        Ok(())
    }

    /// Does `work` with a git whose configuration lies in a world of its own, which is gone afterwards.
    fn with_git<T>(&self, work: impl FnOnce(&Git, &Layout) -> Outcome<T>) -> Outcome<T> {
        let scratch = PathBuf::from(format!("/tmp/ladylinux-refresh-init-{}", self.run));
        disk::make_new_directory(&scratch, 0o755)?;
        let world = Layout::below(scratch);
        let done = Git::new(&self.runner, &world).and_then(|git| work(&git, &world));
        let removed = disk::remove_tree(world.root());
        let done = done?;
        removed.map(|()| done)
    }

    /// Returns whom the application belongs to: on systemd the service user; elsewhere whom it belongs to already, below
    /// a root whoever calls, and on a real machine the service user, never root.
    fn owner(&self) -> Outcome<Owner> {
        let layout = &self.layout;
        if self.keeper == Keeper::Embedded {
            if let Ok(owner) = Owner::of(&layout.app()) {
                return Ok(owner);
            }
            if !layout.is_real() {
                return Ok(Owner::of(&layout.home()).unwrap_or(Owner::own()));
            }
        }
        service_user()
    }

    /// Returns the installation, once its directories are there.
    fn installation(&self) -> Outcome<&Installation> {
        if let Some(on) = self.installation.get() {
            return Ok(on);
        }
        let on = Installation::open(self.given.layers.clone(), self.runner.clone())?;
        Ok(self.installation.get_or_init(|| on))
    }

    /// Returns the commit that the branch points to now; fetched once.
    fn commit(&self) -> Outcome<CommitId> {
        self.installation()?.mirror.ensure(&self.run, &self.given.branch)
    }

    /// Returns what the branch points to, where the mirror holds it already; nothing is fetched.
    fn mirrored(&self) -> Outcome<Option<CommitId>> {
        if !self.layout.mirror().join("HEAD").exists() {
            return Ok(None);
        }
        let Some(tip) = self.tip.get() else { return Ok(None) };
        Ok(self.installation()?.mirror.contains(tip)?.then(|| tip.clone()))
    }

    /// Returns the connection to systemd.
    fn bus(&self) -> Outcome<&Bus> {
        if let Some(bus) = self.bus.get() {
            return Ok(bus);
        }
        let bus = Bus::connect()?;
        Ok(self.bus.get_or_init(|| bus))
    }

    /// Lets go of what was held while the measures were taken.
    ///
    /// # Errors
    /// The mirror cannot be written.
    pub fn release(&self) -> Outcome<()> {
        self.installation.get().map_or(Ok(()), |on| on.mirror.release(&self.run))
    }
}

/// Looks the service user up.
fn service_user() -> Outcome<Owner> {
    Owner::named(SERVICE_USER)?.ok_or_else(|| {
        Failure::new(format!("there is no user {SERVICE_USER}, whom the application has to belong to"))
            .hint(format!("useradd --system --user-group --shell /usr/sbin/nologin {SERVICE_USER}"))
    })
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("layout", &self.layout).finish_non_exhaustive()
    }
}
