//! The work tree as its owner's worker sees it: where it is, and the few git calls that several operations share.
//!
//! Everything here runs inside a worker that has the owner's rights and nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::Outcome;
use crate::event::Events;
use crate::process::{Keep, Program, RUN_MARK, Runner};
use crate::settings::environment;
use crate::settings::names::{CommitId, RunId};

use super::history::{EntryKind, TreeEntry, parse_tree};
use super::inspect::{self, Head};
use super::path::TreePath;
use super::{Git, Repository, records};

/// Where a worker finds things; part of every request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The git program.
    pub program: TreePath,
    /// The folder of its private configuration.
    pub home: TreePath,
    /// The work tree.
    pub app: TreePath,
    /// The bare mirror.
    pub mirror: TreePath,
    /// An empty folder of the owner's, outside the work tree, for private indexes.
    pub scratch: TreePath,
}

/// The work tree, inside a worker.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) git: Git,
    pub(super) app: PathBuf,
    pub(super) mirror: PathBuf,
    pub(super) scratch: PathBuf,
    /// What commits were listed to hold, as git wrote it: a commit never changes.
    listings: Mutex<BTreeMap<CommitId, Arc<[u8]>>>,
}

/// The files of a commit by path.
pub(super) type Files = BTreeMap<PathBuf, TreeEntry>;

impl Tree {
    /// Enters the place of a request. Children carry the mark of the run as this worker does.
    pub(super) fn enter(place: &Place) -> Self {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let runner = Runner::new(Arc::new(Events::silent()));
        let runner = match environment::variable(RUN_MARK).and_then(|run| RunId::parse(&run).ok()) {
            // The register belongs to the tool; the mark finds these children.
            Some(run) => runner.for_run(run, PathBuf::from("/dev/null")),
            None => runner,
        };
        let git = Git::found(&runner, place.program.as_path().into(), place.home.as_path().into());
        Self {
            git,
            app: place.app.as_path().into(),
            mirror: place.mirror.as_path().into(),
            scratch: place.scratch.as_path().into(),
            listings: Mutex::default(),
        }
    }

    /// `app/.git`
    pub(super) fn git_dir(&self) -> PathBuf {
        self.app.join(".git")
    }

    /// Tells whether `app/.git` is a real folder.
    pub(super) fn has_git_dir(&self) -> bool {
        std::fs::symlink_metadata(self.git_dir()).is_ok_and(|found| found.is_dir())
    }

    /// Prepares git for work in the application's own repository.
    pub(super) fn own(&self) -> Program {
        self.git
            .at(&Repository::bare(self.git_dir()).with_tree(&self.app))
            .env("GIT_INDEX_FILE", self.git_dir().join("index"))
    }

    /// As [`Self::own`], with the filters switched off that the repository's own configuration names: comparisons know
    /// none.
    pub(super) fn unfiltered(&self) -> Outcome<Program> {
        let file = self.git_dir().join("config");
        if !disk::read_if_there(&file)?.is_some_and(|bytes| {
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            text.contains("filter") || text.contains("include")
        }) {
            return Ok(self.own());
        }
        let program = self.own().args(["config", "--list", "-z", "--name-only", "--includes"]);
        let listed = self.git.runner().run(&program)?;
        let names: BTreeSet<String> = records(&listed.stdout).filter_map(filter_name).collect();
        let mut program = self.own();
        for name in names {
            for setting in ["clean=", "smudge=", "process=", "required=false"] {
                program = program.arg("-c").arg(format!("filter.{name}.{setting}"));
            }
        }
        Ok(program)
    }

    /// The mirror, with the objects of the application's repository readable as well; nothing is written to either.
    pub(super) fn both(&self) -> Repository {
        Repository::bare(&self.mirror).borrowing(self.git_dir().join("objects"))
    }

    /// Makes a git directory in the scratch folder that holds nothing of its own and reads the objects of both.
    pub(super) fn scratch_repository(
        &self,
        name: &str,
        attributes: &str,
        like: &CommitId,
    ) -> Outcome<Repository> {
        let folder = self.scratch.join(name);
        let repository = Repository::bare(&folder).passing().borrowing(self.mirror.join("objects"));
        let repository = if self.has_git_dir() {
            repository.borrowing(self.git_dir().join("objects"))
        } else {
            repository
        };
        if is_there(&folder) {
            return Ok(repository);
        }
        for part in ["objects", "refs", "info"] {
            disk::make_folder(&folder.join(part), 0o700)?;
        }
        let config = if like.as_str().len() == 64 {
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
        } else {
            "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        };
        disk::write_passing(&folder.join("config"), config.as_bytes(), 0o600)?;
        disk::write_passing(&folder.join("info/attributes"), attributes.as_bytes(), 0o600)?;
        disk::write_passing(&folder.join("HEAD"), b"ref: refs/heads/none\n", 0o600)?;
        Ok(repository)
    }

    /// Lists the files of a commit that either repository holds; `None` where none does.
    pub(super) fn files(&self, commit: &CommitId) -> Outcome<Option<Files>> {
        let Some(listing) = self.listing(commit)? else { return Ok(None) };
        let entries = parse_tree(&listing)?.into_iter();
        let files = entries.filter(|entry| entry.kind != EntryKind::Submodule);
        Ok(Some(files.map(|entry| (entry.path.clone(), entry)).collect()))
    }

    /// The files of a commit as git lists them; asked for once.
    pub(super) fn listing(&self, commit: &CommitId) -> Outcome<Option<Arc<[u8]>>> {
        let known = self.listings.lock().unwrap_or_else(PoisonError::into_inner).get(commit).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let program = self.git.at(&self.both()).args(["ls-tree", "-r", "-z", "--full-tree", commit.as_str()]);
        let listed = self.git.runner().run(&program.keep(Keep::Whole(1 << 30)))?;
        if !listed.succeeded() {
            return Ok(None);
        }
        Ok(Some(self.remember(commit, listed.stdout)))
    }

    /// Takes a listing over instead of asking git for it.
    pub(super) fn remember(&self, commit: &CommitId, listing: Vec<u8>) -> Arc<[u8]> {
        let listing: Arc<[u8]> = listing.into();
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.insert(commit.clone(), Arc::clone(&listing));
        listing
    }

    /// The commit that HEAD of the application's repository stands for, where it stands for one.
    pub(super) fn head(&self) -> Outcome<Option<CommitId>> {
        if !self.has_git_dir() {
            return Ok(None);
        }
        let program = self.own().args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
        let found = self.git.runner().run(&program)?;
        Ok(if found.succeeded() { CommitId::parse(found.text().trim()).ok() } else { None })
    }

    /// The commit that HEAD names, whether or not it is there. Spares a git where HEAD leads to a plain file.
    pub(super) fn named_by_head(&self) -> Outcome<Option<CommitId>> {
        let git_dir = self.git_dir();
        let plain = match inspect::head_of(&git_dir) {
            Head::Branch(name) => disk::read_if_there(&git_dir.join("refs/heads").join(name)).ok().flatten(),
            Head::Detached(commit) => return Ok(Some(commit)),
            Head::Broken => None,
        };
        match plain.and_then(|bytes| CommitId::parse(String::from_utf8_lossy(&bytes).trim()).ok()) {
            Some(commit) => Ok(Some(commit)),
            None => self.head(),
        }
    }

    /// Empties the scratch folder.
    pub(super) fn leave(self) -> Outcome<()> {
        for entry in std::fs::read_dir(&self.scratch).into_iter().flatten().flatten() {
            disk::remove_tree(&entry.path())?;
        }
        Ok(())
    }
}

/// Does two things at the same time that have nothing to do with each other.
pub(super) fn at_once<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        match one.join() {
            Ok(one) => (one, other),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Tells whether something is at `path`, a dangling link included.
pub(super) fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// The name of a filter in a key like `filter.NAME.smudge`.
fn filter_name(key: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(key);
    let (name, _) = text.trim().strip_prefix("filter.")?.rsplit_once('.')?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_found_by_their_names() {
        assert_eq!(filter_name(b"filter.a.b.smudge").as_deref(), Some("a.b"));
        assert_eq!(filter_name(b"core.bare"), None);
    }
}
