//! The bare mirror of the remote: the only part that uses the network, and the store with which `app/` is aligned and
//! compared.
//!
//! The module may touch `mirror.git` in the tool's own store and nothing else. `refs/runs/<run>` hold the commits of
//! kept runs; the mirror is never garbage-collected. Its configuration contains neither URL nor secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use refresh_programs::process::Program;
use refresh_programs::units::Units;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_settings::{Remote, RemoteUrl};
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};

use super::heads::{REMOTE_HEADS, parse_default, tip_of};
use super::mirror_call::{Call, Hold};
use super::mirror_layout::configuration_of;
use super::mirror_unit::MirrorUnit;
use super::tree_entry::TreeEntry;
use super::{Git, LONG, Repository, guard, lenient};

/// The bare mirror of the remote.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(super) git: Git,
    pub(super) path: PathBuf,
    pub(super) remote: Remote,
    /// The commit that a run got: it is held in the mirror and no longer changes.
    pub(super) ensured: Arc<Mutex<Option<(RunId, CommitId)>>>,
    /// The commit whose files were listed last, and the list: a commit never changes.
    pub(super) listed: Arc<Mutex<Option<Listing>>>,
    pub(super) moves: Moves,
    /// Set if each request goes to a unit.
    pub(super) unit: Option<MirrorUnit>,
}

/// A commit and all its files.
pub(super) type Listing = (CommitId, Arc<[TreeEntry]>);

/// The process that puts a new mirror in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moves {
    /// This process.
    Here,
    /// The conductor: the directory that contains the mirror does not belong to this process.
    ByConductor,
}

impl Mirror {
    /// Names the mirror; nothing is touched yet.
    pub fn new(git: &Git, layout: &Layout, remote: &Remote) -> Self {
        Self::at(git, &layout.mirror(), remote, Moves::Here)
    }

    /// Names a mirror at `path`.
    pub(super) fn at(git: &Git, path: &Path, remote: &Remote, moves: Moves) -> Self {
        let (git, path, remote) = (git.clone(), path.to_path_buf(), remote.clone());
        Self { git, path, remote, ensured: Arc::default(), listed: Arc::default(), moves, unit: None }
    }

    /// Returns the same mirror, with requests in units if systemd starts them: then root starts no git itself.
    #[must_use]
    pub fn in_units(self, units: &Units) -> Self {
        let unit = units.can_bind().then(|| MirrorUnit {
            units: units.clone(),
            git: self.git.clone(),
            path: self.path.clone(),
            remote: self.remote.clone(),
        });
        Self { unit, ..self }
    }

    /// Returns the directory of the mirror.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Holds `commit`, which must be in the mirror, for `run` or its stash.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn hold(&self, hold: Hold, run: &RunId, commit: &CommitId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Hold { hold, run: run.clone(), commit: commit.clone() });
        }
        if !self.contains(commit)? {
            return Err(Failure::new(format!("the commit {} is not in the mirror", commit.short())));
        }
        let program = self.bare()?.args(["update-ref", &hold.ref_of(run), commit.as_str()]);
        self.git.run(&program, || format!("cannot hold the commit {}", commit.short()))?;
        Ok(())
    }

    /// Returns the commit that is held for `run`.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub fn pinned(&self, run: &RunId) -> Outcome<Option<CommitId>> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Pinned { run: run.clone() });
        }
        self.commit_of(&Hold::Run.ref_of(run))
    }

    /// Releases the commit that was held for `run` or its stash.
    ///
    /// # Errors
    /// The mirror cannot be written.
    pub fn release(&self, hold: Hold, run: &RunId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Release { hold, run: run.clone() });
        }
        if !self.path.join("HEAD").exists() {
            return Ok(());
        }
        let program = self.bare()?.args(["update-ref", "-d", &hold.ref_of(run)]);
        self.git.run(&program, || format!("cannot release the commit of run {run}"))?;
        Ok(())
    }

    /// Releases the commits of all runs except those in `kept`.
    ///
    /// # Errors
    /// The mirror cannot be read or written.
    pub fn release_all_but(&self, kept: &BTreeSet<RunId>) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::ReleaseAllBut { kept: kept.clone() });
        }
        let program = self.bare()?.args(["for-each-ref", "--format=%(refname)", "refs/runs"]);
        let listed = self.git.run(&program, || "the commits that are held cannot be listed".to_owned())?;
        parse_pins(&listed.text())
            .iter()
            .filter(|run| !kept.contains(run))
            .try_for_each(|run| self.release(Hold::Run, run))
    }

    /// Checks everything in the mirror; returns the damage, `None` if nothing is damaged.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn damage(&self) -> Outcome<Option<String>> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Damage);
        }
        if !self.is_usable()? {
            return Ok(Some("git does not take it for a repository".to_owned()));
        }
        let program = self
            .bare()?
            .args(lenient("fsck", "warn"))
            .args(["fsck", "--no-dangling", "--no-progress"])
            .deadline(LONG);
        let checked = self.git.runner().run(&program)?;
        if checked.succeeded() {
            return Ok(None);
        }
        Ok(Some(checked.last_lines(3).join("; ")))
    }

    /// Checks that the remote had a branch when it was fetched last.
    ///
    /// # Errors
    /// The remote had no branch of that name; the failure names the nearest. Or the mirror cannot be read.
    pub fn check_branch(&self, branch: &BranchName) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::CheckBranch { branch: branch.clone() });
        }
        match disk::read_if_there(&self.path.join(REMOTE_HEADS))? {
            None => Ok(()),
            Some(listed) => tip_of(branch, &String::from_utf8_lossy(&listed)).map(drop),
        }
    }

    /// Returns the default branch that the remote had when it was fetched last, if it is not `branch`, and if `branch`
    /// was still at the commit `at`.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub fn other_default(&self, branch: &BranchName, at: Option<&CommitId>) -> Outcome<Option<String>> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::OtherDefault { branch: branch.clone(), at: at.cloned() });
        }
        let listed = disk::read_if_there(&self.path.join(REMOTE_HEADS))?.unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed);
        let stands = at.is_none_or(|at| tip_of(branch, &listed).is_ok_and(|tip| tip == *at));
        Ok(parse_default(&listed).filter(|default| stands && default != branch.as_str()))
    }

    /// Returns whether the mirror contains `commit`.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn contains(&self, commit: &CommitId) -> Outcome<bool> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::Contains { commit: commit.clone() });
        }
        if !self.path.join("HEAD").exists() {
            return Ok(false);
        }
        Ok(self.commit_of(&format!("{commit}^{{commit}}"))?.is_some())
    }

    /// Returns the commit that `name` means; `None` if it means none, or the mirror does not exist.
    pub(super) fn commit_of(&self, name: &str) -> Outcome<Option<CommitId>> {
        let program = self.bare()?.args(["rev-parse", "--verify", "--quiet", "--end-of-options", name]);
        let found = self.git.runner().run(&program)?;
        if found.succeeded() { CommitId::parse(found.text().trim()).map(Some) } else { Ok(None) }
    }

    /// Returns the remote's URL, which contains no credentials, for people.
    pub fn shown_url(&self) -> Option<String> {
        self.remote.url.clone()
    }

    pub(super) fn url(&self) -> Outcome<RemoteUrl> {
        self.remote.checked_url()?.ok_or_else(|| {
            Failure::new("no remote is configured")
                .command("ladylinux-refresh init --repo URL", &[])
                .hint("or set remote.url in the host's refresh.toml")
        })
    }

    /// Prepares git for work in the mirror.
    ///
    /// # Errors
    /// Users other than this one or root control files that git reads there.
    pub(super) fn bare(&self) -> Outcome<Program> {
        self.guarded(&self.path)
    }

    /// Ensures that the mirror's configuration is the tool's own; called before every git that reads it.
    ///
    /// # Errors
    /// As [`Mirror::bare`].
    pub(super) fn guard(&self) -> Outcome<()> {
        guard::restore_configuration(&self.path, self.configuration())
    }

    /// Prepares git for work in a repository laid out by [`lay_out`], and ensures that its configuration is the tool's
    /// own.
    pub(super) fn guarded(&self, git_dir: &Path) -> Outcome<Program> {
        guard::restore_configuration(git_dir, configuration_of(git_dir))?;
        Ok(self.git.at(&Repository::bare(git_dir)))
    }

    pub(super) fn is_usable(&self) -> Outcome<bool> {
        if !self.path.join("HEAD").exists() {
            return Ok(false);
        }
        Ok(self.git.runner().run(&self.bare()?.args(["rev-parse", "--is-bare-repository"]))?.succeeded())
    }

    /// Returns the configuration that the mirror must have, by the one that it has.
    pub(super) fn configuration(&self) -> &'static str {
        configuration_of(&self.path)
    }
}

/// Returns the runs that a list of refs names.
fn parse_pins(text: &str) -> Vec<RunId> {
    text.lines().filter_map(|line| RunId::parse(line.strip_prefix("refs/runs/")?).ok()).collect()
}
