//! Requests to operations of this crate: the paths that they need, and the scratch directory that they may write to.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::Mode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use refresh_events::event::Events;
use refresh_git::Git;
use refresh_git::path::TreePath;
use refresh_installation::installation::Installation;
use refresh_programs::process::{ProcessId, Runner};
use refresh_programs::units::{Role, UnitOptions};
use refresh_settings::layout::Layout;
use refresh_system::clock;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

/// The time limit of an operation on a tree. A tree without an answer is kept.
pub(super) const DEADLINE: Duration = Duration::from_secs(180);

/// The location of git and of the mirror; part of every request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GitLocation {
    /// The git program.
    pub program: TreePath,
    /// The directory of git's private configuration.
    pub configuration: TreePath,
    /// The bare mirror.
    pub mirror: TreePath,
    /// A directory to which the operation may write.
    pub scratch: TreePath,
}

impl GitLocation {
    /// Returns the location of git and of the mirror for an operation on the source.
    pub(super) fn of(on: &Installation, scratch: &Scratch) -> Self {
        let (program, configuration) = on.git().found_at();
        Self {
            program: program.into(),
            configuration: configuration.into(),
            mirror: on.layout.mirror().into(),
            scratch: scratch.path().into(),
        }
    }

    /// Returns the git of the operation.
    pub(super) fn git(&self) -> Git {
        git_at(&self.program, &self.configuration)
    }
}

/// The request of an operation that concerns only `app/` and its own repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RepositoryRequest {
    program: TreePath,
    configuration: TreePath,
    /// The working tree.
    pub(super) app: TreePath,
}

impl RepositoryRequest {
    pub(super) fn new(git: &Git, layout: &Layout) -> Self {
        let (program, configuration) = git.found_at();
        Self { program: program.into(), configuration: configuration.into(), app: layout.app().into() }
    }

    /// Returns the git of the operation.
    pub(super) fn git(&self) -> Git {
        git_at(&self.program, &self.configuration)
    }
}

/// Performs an operation that only reads, as the service user.
///
/// # Errors
/// The operation's own failure, or it took too long.
pub(super) fn inspect<Q: Serialize, A: DeserializeOwned>(
    on: &Installation,
    operation: &str,
    request: impl FnOnce(GitLocation) -> Q,
) -> Outcome<A> {
    Scratch::with(on, |scratch| {
        let options = UnitOptions::new(Role::Inspect, DEADLINE).writes(scratch.path());
        on.units.call(&options, operation, &request(GitLocation::of(on, scratch)))
    })
}

/// Returns the git `program` of an operation. New files are readable by all users, whatever the umask of the caller.
fn git_at(program: &TreePath, configuration: &TreePath) -> Git {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let runner = Runner::in_operation(Events::silent());
    Git::found(&runner, program.as_path().into(), configuration.as_path().into())
}

/// Removes the scratch directories of conductors that have ended. A directory that cannot be removed does no harm.
fn remove_abandoned(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-').map(str::parse);
        if let (Some(Ok(pid)), Some(Ok(started))) = (parts.next(), parts.next())
            && !(ProcessId { pid: i32::try_from(pid).unwrap_or(0), started }).is_alive()
        {
            let _ = disk::remove_tree(&entry.path());
        }
    }
}

/// A scratch directory for one operation. The conductor creates and removes it.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates a scratch directory that belongs to `owner`: in the state of the tool, or in `/tmp` for a user who can
    /// only read the state.
    ///
    /// # Errors
    /// Neither directory is writable.
    pub(crate) fn make(layout: &Layout, owner: Owner) -> Outcome<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let own = ProcessId::own();
        let directory = layout.scratch();
        remove_abandoned(&directory);
        let name = format!("{}-{}-s{}", own.pid, own.started, COUNT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(&name);
        let made = disk::make_directory(&directory, 0o755);
        if made.and_then(|()| disk::make_owned_directory(&path, 0o700, &owner)).is_ok() {
            return Ok(Self { path });
        }
        let path = PathBuf::from(format!("/tmp/ladylinux-refresh-{name}-{}", clock::now().as_nanosecond()));
        disk::make_owned_directory(&path, 0o700, &owner)?;
        Ok(Self { path })
    }

    /// Performs `work` with a scratch directory of the service user, then removes the directory.
    pub(super) fn with<T>(on: &Installation, work: impl FnOnce(&Self) -> Outcome<T>) -> Outcome<T> {
        let scratch = Self::make(&on.layout, on.owner)?;
        let done = work(&scratch);
        let removed = scratch.remove();
        let done = done?;
        removed.map(|()| done)
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with its content.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn remove(self) -> Outcome<()> {
        disk::remove_tree(&self.path)
    }
}
