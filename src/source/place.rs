//! The paths that an operation of this room needs, and the scratch directory it may write to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::disk;
use crate::error::Outcome;
use crate::event::Events;
use crate::git::Git;
use crate::git::path::TreePath;
use crate::process::{Owner, ProcessId, RUN_MARK, Runner};
use crate::settings::environment;
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

/// Where an operation finds git and the mirror; part of every request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The git program.
    pub program: TreePath,
    /// The directory of git's private configuration.
    pub configuration: TreePath,
    /// The bare mirror.
    pub mirror: TreePath,
    /// A directory that the operation may write to.
    pub scratch: TreePath,
}

impl Place {
    /// Returns git as the operation starts it.
    pub(super) fn git(&self) -> Git {
        git_at(&self.program, &self.configuration)
    }
}

/// Returns the git `program` as an operation starts it. New files are readable by all, whatever the caller's umask is.
pub(super) fn git_at(program: &TreePath, configuration: &TreePath) -> Git {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let runner = Runner::new(Arc::new(Events::silent()));
    let runner = match environment::variable(RUN_MARK).and_then(|run| RunId::parse(&run).ok()) {
        // The register belongs to the conductor; the mark finds these children.
        Some(run) => runner.for_run(run, PathBuf::from("/dev/null")),
        None => runner,
    };
    Git::found(&runner, program.as_path().into(), configuration.as_path().into())
}

/// Removes the scratch directories of conductors that are gone. One that cannot be removed does no harm.
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

/// A scratch directory for one operation. The conductor makes it and removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a scratch directory that belongs to `owner`: in the tool's state, or in `/tmp` for a user who may only read
    /// that.
    ///
    /// # Errors
    /// Neither directory is writable.
    pub fn make(layout: &Layout, owner: &Owner) -> Outcome<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let own = ProcessId::own();
        let directory = layout.scratch();
        remove_abandoned(&directory);
        let name = format!("{}-{}-s{}", own.pid, own.started, COUNT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(&name);
        let made = disk::make_directory(&directory, 0o755);
        if made.and_then(|()| disk::make_owned_directory(&path, 0o700, owner)).is_ok() {
            return Ok(Self { path });
        }
        let path = PathBuf::from(format!("/tmp/ladylinux-refresh-{name}-{}", clock::now().as_nanosecond()));
        disk::make_owned_directory(&path, 0o700, owner)?;
        Ok(Self { path })
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with its content.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(self) -> Outcome<()> {
        disk::remove_tree(&self.path)
    }
}
