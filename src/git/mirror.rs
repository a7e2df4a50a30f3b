//! The bare mirror of the remote: the only part that speaks to the network, and the store from which `app/` is
//! aligned and compared.
//!
//! It may touch `mirror.git` below the tool's own state and nothing else. Commits of kept runs are held by
//! `refs/runs/<run>`; nothing in it is ever collected. Its configuration holds neither URL nor secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::process::{Finished, Keep, Program};
use crate::report::shell::quoted;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::settings::{Remote, RemoteUrl};
use crate::units::Units;

use super::LONG;
use super::bundle::Quarantine;
use super::fetch_failure::FetchFailure;
use super::locks::locks;
use super::mirror_unit::{Call, MirrorUnit};
use super::{Git, Repository, allowing, guard, remote};

/// The mirror's own configuration. The owner of `app/` reads the mirror because every process of this program has the umask
/// 022; `sharedRepository` would set the set-group-ID bit, which a run may not.
const SHA1: &str = "\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
";

/// The same for a remote whose objects have SHA-256 names.
const SHA256: &str = "\
[core]
\trepositoryformatversion = 1
\tfilemode = true
\tbare = true
[extensions]
\tobjectformat = sha256
";

/// How often a fetch is tried whose failure may pass, and how long it waits before each further try.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// From how many packs on the mirror is repacked; and from how many loose objects in one of its 256 directories.
const MANY: (usize, usize) = (40, 32);

/// The file in the mirror that lists the branches of the remote as of the last fetch.
const REMOTE_HEADS: &str = "remote-heads";

/// The ref that holds what the last bundle brought.
const FROM_BUNDLE: &str = "refs/bundle";

/// How the mirror is fetched into: nothing comes that was not asked for, and nothing is tidied.
pub(super) const QUIETLY: [&str; 4] = ["--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--force"];

/// Where commits come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The remote: the branch that the run follows, as it is now.
    Remote,
    /// A bundle: its one branch. What the remote's branches were when they were fetched last stays known.
    Quarantine(&'a Quarantine),
}

/// The bare mirror of the remote.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(super) git: Git,
    path: PathBuf,
    remote: Remote,
    /// What a run was told: it is held in the mirror and does not change any more.
    ensured: Arc<Mutex<Option<(RunId, CommitId)>>>,
    moves: Moves,
    /// Set where each question goes to a unit.
    pub(super) unit: Option<MirrorUnit>,
}

/// Who puts a mirror that was made new in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moves {
    /// This process.
    Here,
    /// The conductor: the directory that the mirror lies in is not this process' own.
    ByConductor,
}

/// What became of a fetch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ensured {
    /// The mirror holds this commit for the run.
    Commit(CommitId),
    /// The mirror has been made new beside its place, and has to be put there.
    MadeNew,
}

impl Mirror {
    /// Names the mirror; nothing is touched yet.
    pub fn new(git: &Git, layout: &Layout, remote: &Remote) -> Self {
        Self::at(git, &layout.mirror(), remote, Moves::Here)
    }

    /// Names a mirror at `path`.
    pub(super) fn at(git: &Git, path: &Path, remote: &Remote, moves: Moves) -> Self {
        let (git, path, remote) = (git.clone(), path.to_path_buf(), remote.clone());
        Self { git, path, remote, ensured: Arc::default(), moves, unit: None }
    }

    /// The same mirror, asked in units where systemd starts them: root starts no git by itself there.
    #[must_use]
    pub fn in_units(self, units: &Units) -> Self {
        let unit = units.can_bind().then(|| MirrorUnit { units: units.clone() });
        Self { unit, ..self }
    }

    /// Returns the remote.
    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Returns the directory of the mirror.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that the mirror holds what the remote's `branch` points to, holds it for `run`, and returns it
    /// (RW-5.2a). The first call of a run fetches; later ones return the same commit without the network.
    ///
    /// # Errors
    /// The remote cannot be reached, refuses, stalls, has no such branch, or the disk is full.
    pub fn ensure(&self, run: &RunId, branch: &BranchName) -> Outcome<CommitId> {
        self.ensure_from(run, branch, Source::Remote)
    }

    /// As [`Mirror::ensure`], with commits of another source.
    ///
    /// # Errors
    /// As [`Mirror::ensure`].
    pub fn ensure_from(&self, run: &RunId, branch: &BranchName, source: Source<'_>) -> Outcome<CommitId> {
        let mut ensured = self.ensured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, commit)) = ensured.as_ref().filter(|(known, _)| known == run) {
            return Ok(commit.clone());
        }
        let commit = match &self.unit {
            Some(unit) => unit.ensure(self, run, branch, source)?,
            None => match self.ensure_here(run, branch, source)? {
                Ensured::Commit(commit) => commit,
                Ensured::MadeNew => return Err(Failure::new("the mirror was not put in its place")),
            },
        };
        *ensured = Some((run.clone(), commit.clone()));
        Ok(commit)
    }

    /// As [`Mirror::ensure_from`], with git of this process.
    pub(super) fn ensure_here(
        &self,
        run: &RunId,
        branch: &BranchName,
        source: Source<'_>,
    ) -> Outcome<Ensured> {
        if let Some(commit) = self.pinned(run)? {
            return Ok(Ensured::Commit(commit));
        }
        let (tip, listed) = match source {
            Source::Remote => {
                let listed = self.remote_heads()?;
                (tip_of(branch, &parse_heads(&listed))?, Some(listed))
            }
            Source::Quarantine(bundle) => (bundle.commit.clone(), None),
        };
        let fits = self.is_usable()? && self.configuration() == configuration_for(&tip);
        let mut is_new = !fits;
        if !fits {
            self.make_anew(branch, &tip, source)?;
        } else if let Err((kind, failure)) = self.fetch(&self.path, branch, source)? {
            match kind {
                FetchFailure::LocalDamage if self.damage()?.is_some() => {
                    self.make_anew(branch, &tip, source)?;
                    is_new = true;
                }
                FetchFailure::LocalDamage => {
                    return Err(FetchFailure::RemoteDamage.instead_of(&self.from(source), failure));
                }
                _ => return Err(failure),
            }
        }
        if is_new && self.moves == Moves::ByConductor {
            return Ok(Ensured::MadeNew);
        }
        checkpoint::reach("git:fetched");
        let tip = match source {
            Source::Remote => self.head(branch)?,
            Source::Quarantine(_) => tip,
        };
        self.pin(run, &tip)?;
        if let Some(listed) = listed {
            disk::write_whole(&self.path.join(REMOTE_HEADS), listed.as_bytes(), 0o644)?;
        }
        self.repack_if_grown()?;
        disk::sync_file_system(&self.path)?;
        Ok(Ensured::Commit(tip))
    }

    /// Holds `commit`, which must be in the mirror, for `run`.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn pin(&self, run: &RunId, commit: &CommitId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::Pin { run: run.clone(), commit: commit.clone() });
        }
        if !self.contains(commit)? {
            return Err(Failure::new(format!("the commit {} is not in the mirror", commit.short())));
        }
        let program = self.bare()?.args(["update-ref", &pin_name(run), commit.as_str()]);
        self.git.run(&program, || format!("cannot hold the commit {}", commit.short()))?;
        Ok(())
    }

    /// Returns the commit that is held for `run`.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub fn pinned(&self, run: &RunId) -> Outcome<Option<CommitId>> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::Pinned { run: run.clone() });
        }
        self.commit_of(&pin_name(run))
    }

    /// Lets go of what was held for `run`.
    ///
    /// # Errors
    /// The mirror cannot be written.
    pub fn release(&self, run: &RunId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::Release { run: run.clone() });
        }
        if !self.path.join("HEAD").exists() {
            return Ok(());
        }
        let program = self.bare()?.args(["update-ref", "-d", &pin_name(run)]);
        self.git.run(&program, || format!("cannot let go of the commit of run {run}"))?;
        Ok(())
    }

    /// Lets go of the commits of all runs but those.
    ///
    /// # Errors
    /// The mirror cannot be read or written.
    pub fn release_all_but(&self, kept: &BTreeSet<RunId>) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::ReleaseAllBut { kept: kept.clone() });
        }
        let program = self.bare()?.args(["for-each-ref", "--format=%(refname)", "refs/runs"]);
        let listed = self.git.run(&program, || "the commits that are held cannot be listed".to_owned())?;
        parse_pins(&listed.text())
            .iter()
            .filter(|run| !kept.contains(run))
            .try_for_each(|run| self.release(run))
    }

    /// Holds `commit`, which must be in the mirror, for the stash of `run`.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn hold_for_stash(&self, run: &RunId, commit: &CommitId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::HoldForStash { run: run.clone(), commit: commit.clone() });
        }
        let program = self.bare()?.args(["update-ref", &stash_name(run), commit.as_str()]);
        self.git.run(&program, || format!("cannot hold the commit {}", commit.short())).map(drop)
    }

    /// Lets go of the commit that was held for the stash of `run`.
    ///
    /// # Errors
    /// The mirror cannot be written.
    pub fn release_stash(&self, run: &RunId) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::ReleaseStash { run: run.clone() });
        }
        let program = self.bare()?.args(["update-ref", "-d", &stash_name(run)]);
        self.git.run(&program, || format!("cannot let go of the commit of the stash of {run}")).map(drop)
    }

    /// Asks the remote what `branch` points to, and stores nothing.
    ///
    /// # Errors
    /// As [`Mirror::ensure`].
    pub fn remote_tip(&self, branch: &BranchName) -> Outcome<CommitId> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::RemoteTip { branch: branch.clone() });
        }
        tip_of(branch, &parse_heads(&self.remote_heads()?))
    }

    /// The branches of the remote, as git lists them.
    fn remote_heads(&self) -> Outcome<String> {
        let url = self.url()?;
        let listed = self.persistently(|| {
            let program = remote::equip(&self.git, self.git.anywhere(), &self.remote, url)?;
            self.git.runner().run(&program.args(["ls-remote", "--heads", "--", &url.text]))
        })?;
        if listed.succeeded() {
            return Ok(listed.text());
        }
        Err(FetchFailure::of(&listed).told(&url.text, &listed))
    }

    /// Looks at everything that the mirror holds; tells what is damaged, `None` where nothing is.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn damage(&self) -> Outcome<Option<String>> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::Damage);
        }
        if !self.is_usable()? {
            return Ok(Some("git does not take it for a repository".to_owned()));
        }
        let program = self.bare()?.args(["fsck", "--no-dangling", "--no-progress"]).deadline(LONG);
        let checked = self.git.runner().run(&program)?;
        if checked.succeeded() {
            return Ok(None);
        }
        Ok(Some(checked.last_lines(3).join("; ")))
    }

    /// Checks that the remote had a branch when it was fetched last.
    ///
    /// # Errors
    /// It had none of that name: told with the nearest names. Or the mirror cannot be read.
    pub fn check_branch(&self, branch: &BranchName) -> Outcome<()> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::CheckBranch { branch: branch.clone() });
        }
        match disk::read_if_there(&self.path.join(REMOTE_HEADS))? {
            None => Ok(()),
            Some(listed) => tip_of(branch, &parse_heads(&String::from_utf8_lossy(&listed))).map(drop),
        }
    }

    /// Returns whether the mirror holds `commit`.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn contains(&self, commit: &CommitId) -> Outcome<bool> {
        if let Some(unit) = &self.unit {
            return unit.ask(self, Call::Contains { commit: commit.clone() });
        }
        if !self.path.join("HEAD").exists() {
            return Ok(false);
        }
        Ok(self.commit_of(&format!("{commit}^{{commit}}"))?.is_some())
    }

    /// The commit that `name` stands for; `None` where it stands for none, or there is no mirror.
    fn commit_of(&self, name: &str) -> Outcome<Option<CommitId>> {
        let program = self.bare()?.args(["rev-parse", "--verify", "--quiet", "--end-of-options", name]);
        let found = self.git.runner().run(&program)?;
        if found.succeeded() { CommitId::parse(found.text().trim()).map(Some) } else { Ok(None) }
    }

    /// Returns the remote's URL, which holds no credentials, for people.
    pub fn shown_url(&self) -> Option<String> {
        self.remote.url.as_ref().map(|url| url.text.clone())
    }

    fn url(&self) -> Outcome<&RemoteUrl> {
        self.remote.url.as_ref().ok_or_else(|| {
            Failure::new("no remote is configured")
                .hint("ladylinux-refresh init --repo URL, or set remote.url in refresh.toml")
        })
    }

    /// Prepares git for work in the mirror.
    ///
    /// # Errors
    /// Others than this user or root decide on what git reads there.
    pub(super) fn bare(&self) -> Outcome<Program> {
        self.guarded(&self.path)
    }

    /// Makes sure that the mirror's configuration is the tool's own; before every git that reads it.
    ///
    /// # Errors
    /// As [`Mirror::bare`].
    pub(super) fn guard(&self) -> Outcome<()> {
        guard::restore_configuration(&self.path, self.configuration())
    }

    /// Prepares git for work in a repository laid out by [`lay_out`], whose configuration is the tool's own from now on.
    fn guarded(&self, git_dir: &Path) -> Outcome<Program> {
        guard::restore_configuration(git_dir, configuration_of(git_dir))?;
        Ok(self.git.at(&Repository::bare(git_dir)))
    }

    fn is_usable(&self) -> Outcome<bool> {
        if !self.path.join("HEAD").exists() {
            return Ok(false);
        }
        Ok(self.git.runner().run(&self.bare()?.args(["rev-parse", "--is-bare-repository"]))?.succeeded())
    }

    /// The configuration that the mirror has to have, by the one that it has.
    fn configuration(&self) -> &'static str {
        configuration_of(&self.path)
    }

    /// Tries what may fail for a moment; waits longer before each further try, within the deadline of a fetch.
    fn persistently(&self, attempt: impl Fn() -> Outcome<Finished>) -> Outcome<Finished> {
        let end = clock::monotonic() + remote::deadline(&self.remote);
        let mut finished = attempt()?;
        for wait in WAITS {
            let failure = FetchFailure::of(&finished);
            if finished.succeeded() || !failure.is_passing() || clock::monotonic() + wait >= end {
                break;
            }
            self.git.runner().events().note("the remote does not answer properly; it is tried once more");
            clock::pause(wait)?;
            finished = attempt()?;
        }
        Ok(finished)
    }

    /// Fetches into a repository; returns the kind of failure and what to report.
    fn fetch(
        &self,
        into: &Path,
        branch: &BranchName,
        source: Source<'_>,
    ) -> Outcome<Result<(), (FetchFailure, Failure)>> {
        self.clear_way(into, branch)?;
        let fetched = self.persistently(|| {
            remove_leftovers(into)?;
            let program = self.guarded(into)?;
            let program = match source {
                Source::Remote => {
                    let url = self.url()?;
                    let refspec = format!("+refs/heads/{branch}:refs/heads/{branch}");
                    remote::equip(&self.git, program, &self.remote, url)?
                        .args(CHECKED)
                        .arg("fetch")
                        .args(QUIETLY)
                        .args(["--progress", "--", &url.text, &refspec])
                }
                Source::Quarantine(bundle) => allowing(program, "file")
                    .arg("fetch")
                    .args(QUIETLY)
                    .args(["--progress", "--"])
                    .arg(&bundle.directory)
                    .arg(format!("+refs/heads/{}:{FROM_BUNDLE}", bundle.branch))
                    .deadline(LONG),
            };
            self.git.runner().run(&program.keep(Keep::Narrated("fetch".to_owned())))
        })?;
        if fetched.succeeded() {
            return Ok(Ok(()));
        }
        let kind = FetchFailure::of(&fetched);
        Ok(Err((kind, kind.told(&self.from(source), &fetched))))
    }

    /// Where commits come from, for people.
    fn from(&self, source: Source<'_>) -> String {
        match source {
            Source::Remote => self.shown_url().unwrap_or_default(),
            Source::Quarantine(bundle) => bundle.directory.display().to_string(),
        }
    }

    /// Removes branches that cannot exist beside `branch`: `x` beside `x/y`, and the reverse. What runs need of them is held
    /// for the runs.
    fn clear_way(&self, git_dir: &Path, branch: &BranchName) -> Outcome<()> {
        let program = self.guarded(git_dir)?.args(["for-each-ref", "--format=%(refname)", "refs/heads/"]);
        let listed = self.git.runner().run(&program)?;
        let wanted = format!("refs/heads/{branch}");
        for name in listed.text().lines().filter(|name| is_in_the_way(name, &wanted)) {
            let program = self.guarded(git_dir)?.args(["update-ref", "-d", name]);
            self.git.run(&program, || format!("cannot remove the branch {name} of the mirror"))?;
        }
        Ok(())
    }

    /// Packs the mirror again if many fetches have left many packs or loose objects. Nothing that it holds is dropped: trees
    /// and stashes borrow from it.
    fn repack_if_grown(&self) -> Outcome<()> {
        let entries =
            |directory: &str| std::fs::read_dir(self.path.join(directory)).into_iter().flatten().flatten();
        let is_pack =
            |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "pack");
        let (packs, loose) = (entries("objects/pack").filter(is_pack).count(), entries("objects/17").count());
        if packs < MANY.0 && loose < MANY.1 {
            return Ok(());
        }
        let program = self.bare()?.args(["repack", "-a", "-d", "-k", "--quiet"]).deadline(LONG);
        let packed = self.git.runner().run(&program)?;
        if !packed.succeeded() {
            let why = packed.last_lines(2).join("; ");
            self.git.runner().events().note(&format!("the mirror could not be repacked: {why}"));
        }
        Ok(())
    }

    /// What `branch` points to in the mirror.
    fn head(&self, branch: &BranchName) -> Outcome<CommitId> {
        let found = self.commit_of(&format!("refs/heads/{branch}"))?;
        found.ok_or_else(|| Failure::new(format!("the fetch has not brought the branch {branch}")))
    }

    /// Makes the mirror from nothing beside its place, takes over what the old one still holds for runs, and puts
    /// it in place.
    fn make_anew(&self, branch: &BranchName, tip: &CommitId, source: Source<'_>) -> Outcome<()> {
        let fresh = self.path.with_file_name("mirror.git.new");
        let by_conductor = self.moves == Moves::ByConductor;
        if !by_conductor {
            disk::remove_tree(&fresh)?;
        }
        lay_out(&fresh, tip)?;
        if let Err((_, failure)) = self.fetch(&fresh, branch, source)? {
            if !by_conductor {
                disk::remove_tree(&fresh)?;
            }
            return Err(failure);
        }
        if by_conductor && !self.path.join("HEAD").exists() {
            return disk::sync_file_system(&fresh);
        }
        if !self.path.exists() {
            disk::sync_file_system(&fresh)?;
            disk::move_new(&fresh, &self.path)?;
            return disk::sync_parent(&self.path);
        }
        if !by_conductor {
            self.git.runner().events().warn("the mirror of the remote was damaged and has been made anew");
        }
        let old = allowing(self.guarded(&fresh)?, "file").arg("fetch");
        let old = old.args(["--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--"]);
        // Whether anything can still be read from the old one is luck.
        let old = old.arg(&self.path).args(["+refs/runs/*:refs/runs/*", "+refs/stash/*:refs/stash/*"]);
        let _ = self.git.runner().run(&old)?;
        disk::sync_file_system(&fresh)?;
        checkpoint::reach("git:mirror made anew");
        if by_conductor {
            return Ok(());
        }
        disk::exchange(&fresh, &self.path)?;
        disk::remove_tree(&fresh)
    }
}

/// The settings with which git verifies what a remote sends; old commits of honest tools break the last few rules.
const CHECKED: [&str; 8] = [
    "-c",
    "fetch.fsckObjects=true",
    "-c",
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "-c",
    "fetch.fsck.badTimezone=ignore",
    "-c",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
];

/// Removes the locks and unfinished packs of a fetch that was killed, which would keep the next one out. One run at a time
/// fetches.
fn remove_leftovers(git_dir: &Path) -> Outcome<()> {
    for lock in locks(git_dir) {
        disk::remove_file_if_there(&lock)?;
    }
    for entry in std::fs::read_dir(git_dir.join("objects/pack")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("tmp_") {
            disk::remove_file_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Returns `true` if two refs cannot exist beside each other.
fn is_in_the_way(name: &str, wanted: &str) -> bool {
    let below =
        |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    below(name, wanted) || below(wanted, name)
}

/// The configuration of a repository whose commits are named like `commit`.
fn configuration_for(commit: &CommitId) -> &'static str {
    if commit.as_str().len() == 64 { SHA256 } else { SHA1 }
}

/// The configuration that a repository of the tool's own has to have, by the one that it has.
fn configuration_of(git_dir: &Path) -> &'static str {
    let found = disk::read_at_most(&git_dir.join("config"), 4096).ok().flatten();
    if found.as_deref() == Some(SHA256.as_bytes()) { SHA256 } else { SHA1 }
}

/// Lays out an empty bare repository of the tool's own, for commits that are named like `commit`.
pub(super) fn lay_out(directory: &Path, commit: &CommitId) -> Outcome<()> {
    for inner in ["objects/info", "objects/pack", "refs/heads", "refs/runs"] {
        disk::make_directory(&directory.join(inner), 0o755)?;
    }
    disk::write_atomic(&directory.join("config"), configuration_for(commit).as_bytes(), 0o644)?;
    disk::write_atomic(&directory.join("HEAD"), b"ref: refs/heads/main\n", 0o644)
}

/// The ref that holds a run's commit.
fn pin_name(run: &RunId) -> String {
    format!("refs/runs/{run}")
}

/// The ref that holds the commit of a run's stash.
fn stash_name(run: &RunId) -> String {
    format!("refs/stash/{run}")
}

/// Reads lines of `<hash> TAB refs/heads/<name>`.
fn parse_heads(text: &str) -> Vec<(String, CommitId)> {
    text.lines()
        .filter_map(|line| {
            let (hash, name) = line.split_once('\t')?;
            Some((name.strip_prefix("refs/heads/")?.to_owned(), CommitId::parse(hash).ok()?))
        })
        .collect()
}

/// What a branch points to.
fn tip_of(branch: &BranchName, heads: &[(String, CommitId)]) -> Outcome<CommitId> {
    let found = heads.iter().find(|(name, _)| name == branch.as_str()).map(|(_, commit)| commit.clone());
    found.ok_or_else(|| no_such_branch(branch, heads.iter().map(|(name, _)| name)))
}

/// The failure for a branch that the remote does not have, with the names that come close.
fn no_such_branch<'a>(branch: &BranchName, names: impl Iterator<Item = &'a String>) -> Failure {
    let wanted = branch.as_str();
    let mut near: Vec<(f64, &String)> = names
        .map(|name| (strsim::jaro_winkler(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0));
    let failure = Failure::new(format!("the remote has no branch {wanted}"));
    let close: Vec<&str> =
        near.iter().take(3).filter(|(score, _)| *score > 0.7).map(|(_, name)| name.as_str()).collect();
    if !close.is_empty() {
        let again = format!("ladylinux-refresh run {}", quoted(close[0]));
        return failure.hint(format!("did you mean {}?", close.join(", "))).hint(again);
    }
    let some: Vec<&str> = near.iter().take(10).map(|(_, name)| name.as_str()).collect();
    if some.is_empty() {
        return failure.hint("the remote has no branches at all");
    }
    failure.hint(format!("it has {}", some.join(", ")))
}

/// The runs that a list of refs names.
fn parse_pins(text: &str) -> Vec<RunId> {
    text.lines().filter_map(|line| RunId::parse(line.strip_prefix("refs/runs/")?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_branch_is_told_with_the_nearest_names() {
        let names = ["main", "feature/login", "feature/logout"].map(str::to_owned);
        let failure = no_such_branch(&BranchName::parse("feature/logni").unwrap(), names.iter());
        assert!(failure.hints()[0].contains("feature/login"), "{failure:?}");
        let names = ["main;id>$(id)".to_owned()];
        let failure = no_such_branch(&BranchName::parse("main;id").unwrap(), names.iter());
        assert_eq!(failure.hints()[1], "ladylinux-refresh run 'main;id>$(id)'");
        let failure = no_such_branch(&BranchName::parse("zzz").unwrap(), names.iter());
        assert!(failure.hints()[0].contains("it has"), "{failure:?}");
    }

    #[test]
    fn lines_that_are_no_heads_are_left_out() {
        let hash = "0123456789012345678901234567890123456789";
        let heads = parse_heads(&format!("{hash}\trefs/heads/a/b\nnonsense\n{hash}\trefs/tags/v1\n"));
        assert_eq!(heads.len(), 1);
        assert_eq!(heads[0].0, "a/b");
    }
}
