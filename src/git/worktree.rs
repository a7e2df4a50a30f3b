//! The work tree as the rest of the program sees it: every operation is asked of a worker with the rights of the
//! tree's owner, and never done by this process itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::disk;
use crate::error::Outcome;
use crate::process::{Owner, ProcessId, worker};
use crate::report::shell::{quoted, quoted_path};
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::units::{Job, Role, Units};

use super::align::{self, Aligned};
use super::drift::{self, Drift};
use super::inspect::{self, TreeState, Unremovable};
use super::made::Made;
use super::mirror::Mirror;
use super::path::TreePath;
use super::preserve::PutBack;
use super::proof::{self, Proof};
use super::save::{self, SaveRequest, Saved};
use super::tree::Place;
use super::{Git, aside, preserve, saved, start};

/// How long one git command on the work tree may take; large trees on slow disks take minutes.
pub(super) const LONG: Duration = Duration::from_secs(1800);

/// The work tree `app/`, worked on as its owner.
#[derive(Debug, Clone)]
pub struct WorkTree {
    git: Git,
    layout: Layout,
    owner: Owner,
    units: Units,
}

/// What a run wants saved; the rest follows from the work tree.
#[derive(Debug, Clone)]
pub struct ToSave<'a> {
    /// The run.
    pub run: &'a RunId,
    /// The commits that account for files: the deployed one, an interrupted run's target.
    pub known: &'a [CommitId],
    /// The commit that the tree will be aligned with.
    pub target: &'a CommitId,
    /// Patterns of application state that stays in place.
    pub preserve: &'a [String],
}

impl WorkTree {
    /// Names the work tree and whose it is; nothing is touched yet.
    pub fn new(git: &Git, layout: &Layout, owner: Owner) -> Self {
        let units = Units::new(layout, git.runner(), owner);
        Self { git: git.clone(), layout: layout.clone(), owner, units }
    }

    /// Looks at the tree and its repository, and changes nothing.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn inspect(&self) -> Outcome<TreeState> {
        self.within(|place| self.ask(inspect::OPERATION, &inspect::Request { place }))
    }

    /// Finds what the owner of the tree cannot remove from it.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn unremovable(&self) -> Outcome<Vec<Unremovable>> {
        self.within(|place| self.ask(inspect::UNREMOVABLE, &inspect::Request { place }))
    }

    /// Returns the URL that people who work in the tree pull from, where one is set.
    ///
    /// # Errors
    /// The repository cannot be asked.
    pub fn origin(&self) -> Outcome<Option<String>> {
        self.within(|place| self.ask(inspect::ORIGIN, &inspect::Request { place }))
    }

    /// Moves a folder out of the tree, to a name that nothing has yet in a folder of the owner's.
    ///
    /// # Errors
    /// The folder cannot be renamed to that name.
    pub fn move_aside(&self, from: &Path, to: &Path) -> Outcome<()> {
        self.ask(aside::OPERATION, &aside::Request { from: from.into(), to: to.into() })
    }

    /// Returns the mount points at or below the tree.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub fn mounts(&self) -> Outcome<Vec<PathBuf>> {
        inspect::mounts_below(&self.layout.app())
    }

    /// Observes how the tree differs from the known commits, and changes nothing.
    ///
    /// # Errors
    /// The tree or the mirror cannot be read.
    pub fn drift(&self, known: &[CommitId], preserve: &[String]) -> Outcome<Drift> {
        let (known, preserve) = (known.to_vec(), preserve.to_vec());
        let (runs, made) = (self.layout.runs().into(), self.made());
        self.within(|place| {
            self.ask(drift::OPERATION, &drift::Request { place, runs, known, preserve, made })
        })
    }

    /// What the hooks made; without a list that can be read everything is a local change.
    fn made(&self) -> Made {
        disk::read_own_json(&self.layout.made_file()).ok().flatten().unwrap_or_default()
    }

    /// Saves every local change under the run; must come before [`WorkTree::align`].
    ///
    /// # Errors
    /// Something cannot be saved. What was moved until then is described in the saved place.
    pub fn save(&self, wanted: &ToSave<'_>) -> Outcome<Saved> {
        let place = self.saved(wanted.run);
        if !place.exists() {
            disk::make_folder(&self.layout.run(wanted.run), 0o755)?;
            disk::make_owned_folder(&place, 0o700, &self.owner)?;
        }
        let request = SaveRequest {
            run: wanted.run.clone(),
            runs: self.layout.runs().into(),
            saved: place.into(),
            known: wanted.known.to_vec(),
            target: wanted.target.clone(),
            preserve: wanted.preserve.to_vec(),
            made: self.made(),
        };
        self.within(|place| self.ask(save::OPERATION, &save::Request { place, save: request }))
    }

    /// Aligns the tree with `commit`, on `branch` (RW-5.2). Durable once the file system of `app/` is synced.
    ///
    /// # Errors
    /// The save is missing, somebody is at work in the repository, or something on disk is not saved.
    pub fn align(&self, run: &RunId, branch: &BranchName, commit: &CommitId) -> Outcome<Aligned> {
        let place = self.saved(run);
        let holders = inspect::holders(&self.layout.app());
        let aligned = self.within(|scratch| {
            let request = align::Request {
                place: scratch,
                saved: place.as_path().into(),
                branch: branch.clone(),
                commit: commit.clone(),
                holders,
            };
            self.ask(align::OPERATION, &request)
        })?;
        disk::remove_if_empty(&place)?;
        Ok(aligned)
    }

    /// Proves that the tree is `commit`, except for what is preserved.
    ///
    /// # Errors
    /// It is not; the failure names the first differences.
    pub fn prove(&self, commit: &CommitId, preserved: &[TreePath]) -> Outcome<Proof> {
        let (commit, preserved) = (commit.clone(), preserved.to_vec());
        self.within(|place| self.ask(proof::OPERATION, &proof::Request { place, commit, preserved }))
    }

    /// Makes the tree from nothing: `app/` must be absent or empty.
    ///
    /// # Errors
    /// There is something already, or the disk is full.
    pub fn clone_from(&self, mirror: &Mirror, branch: &BranchName, commit: &CommitId) -> Outcome<()> {
        let app = self.layout.app();
        if !app.exists() {
            disk::make_owned_folder(&app, 0o755, &self.owner)?;
        }
        let url = mirror.shown_url();
        let (branch, commit) = (branch.clone(), commit.clone());
        self.within(|place| self.ask(start::OPERATION, &start::Request { place, branch, commit, url }))
    }

    /// Puts back what a run that was killed had set aside. Doing it again changes nothing.
    ///
    /// # Errors
    /// A file cannot be put back.
    pub fn put_back(&self, run: &RunId) -> Outcome<PutBack> {
        let place = self.saved(run);
        if !place.exists() {
            return Ok(PutBack::default());
        }
        let saved = place.as_path().into();
        let put_back =
            self.within(|place| self.ask(preserve::OPERATION, &preserve::Request { place, saved }))?;
        disk::remove_if_empty(&place)?;
        Ok(put_back)
    }

    fn saved(&self, run: &RunId) -> PathBuf {
        saved::place_of(&self.layout.run(run))
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(&self, operation: &str, request: &Q) -> Outcome<A> {
        let scratch = self.layout.state().join("scratch");
        let job = if READING.contains(&operation) {
            Job::new(Role::Inspect, LONG)
        } else if operation == aside::OPERATION {
            // One directory above both: a rename between two writable directories is one between two mounts.
            Job::new(Role::Align, LONG).writes(self.layout.home().parent().unwrap_or(Path::new("/")))
        } else {
            Job::new(Role::Align, LONG).writes(self.layout.home()).writes(self.layout.runs())
        };
        // Where this user may only read the state, the scratch directory is another.
        let elsewhere = !is_writable(&scratch);
        let job = if elsewhere { job.writes("/tmp") } else { job.writes(scratch) };
        self.units.call(&job, operation, request)
    }

    /// Does `work` with a scratch folder of the owner's, which is gone afterwards.
    fn within<A>(&self, work: impl FnOnce(Place) -> Outcome<A>) -> Outcome<A> {
        let scratch = self.scratch()?;
        let result = work(Place {
            program: self.git.program.as_path().into(),
            home: self.git.home.as_path().into(),
            app: self.layout.app().into(),
            mirror: self.layout.mirror().into(),
            scratch: scratch.as_path().into(),
        });
        let removed = disk::remove_tree(&scratch);
        let value = result?;
        removed.map(|()| value)
    }

    /// Makes a scratch folder: below the tool's state, or in /tmp for somebody who may only read that.
    fn scratch(&self) -> Outcome<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let own = ProcessId::own();
        let name = format!("{}-{}-{}", own.pid, own.started, COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = self.layout.state().join("scratch");
        if self.layout.state().is_dir() && disk::make_folder(&folder, 0o755).is_ok() {
            sweep(&folder);
            let place = folder.join(&name);
            if disk::make_owned_folder(&place, 0o700, &self.owner).is_ok() {
                return Ok(place);
            }
        }
        let unique = clock::now().as_nanosecond();
        let place = Path::new("/tmp").join(format!("ladylinux-refresh-{name}-{unique}"));
        disk::make_owned_folder(&place, 0o700, &self.owner)?;
        Ok(place)
    }
}

/// The operations that write to their scratch directory alone.
const READING: [&str; 5] =
    [inspect::OPERATION, inspect::UNREMOVABLE, inspect::ORIGIN, drift::OPERATION, proof::OPERATION];

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Removes the scratch folders of processes that are gone. What cannot be removed is in nobody's way.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let pid = parts.next().and_then(|pid| pid.parse().ok());
        let started = parts.next().and_then(|started| started.parse().ok());
        if let (Some(pid), Some(started)) = (pid, started)
            && !(ProcessId { pid, started }).is_alive()
        {
            let _ = disk::remove_tree(&entry.path());
        }
    }
}

/// Does the worker's side of any operation of this room; `None` where it is not one of them.
pub fn answer(operation: &str, request: &[u8]) -> Option<Vec<u8>> {
    Some(match operation {
        inspect::OPERATION => worker::answer(request, |request| inspect::handle(&request)),
        inspect::ORIGIN => worker::answer(request, |request| inspect::handle_origin(&request)),
        inspect::UNREMOVABLE => worker::answer(request, |request| inspect::handle_unremovable(&request)),
        drift::OPERATION => worker::answer(request, |request| drift::handle(&request)),
        save::OPERATION => worker::answer(request, |request| save::handle(&request)),
        align::OPERATION => worker::answer(request, |request| align::handle(&request)),
        proof::OPERATION => worker::answer(request, |request| proof::handle(&request)),
        preserve::OPERATION => worker::answer(request, |request| preserve::handle(&request)),
        aside::OPERATION => worker::answer(request, |request| aside::handle(&request)),
        start::OPERATION => worker::answer(request, |request| start::handle(&request)),
        super::own_objects::OPERATION => {
            worker::answer(request, |request| super::own_objects::handle(&request))
        }
        _ => return None,
    })
}

/// Returns the command that sets the origin of the clone at `app`, to be typed by the user of this process. Git obeys what
/// the clone's configuration names, so only its owner starts git there, never root for the owner.
pub fn set_origin_command(owner: Owner, app: &Path, url: &str) -> String {
    let git = format!("git -C {} remote set-url origin {}", quoted_path(app), quoted(url));
    if owner.uid == rustix::process::geteuid().as_raw() {
        return git;
    }
    let name = owner.name().unwrap_or_else(|| format!("#{}", owner.uid));
    format!("sudo -u {} {git}", quoted(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_the_owner_of_a_clone_starts_git_in_it() {
        let own = rustix::process::geteuid().as_raw();
        let command = |uid| set_origin_command(Owner { uid, gid: 0 }, Path::new("/a b"), "https://h/r;id");
        assert_eq!(command(own), "git -C '/a b' remote set-url origin 'https://h/r;id'");
        assert_eq!(command(own + 61_900), format!("sudo -u '#{}' {}", own + 61_900, command(own)));
    }
}
