//! The bare mirror of the remote: the only part that speaks to the network, and the store from which `app/` is
//! aligned and compared.
//!
//! It may touch `mirror.git` below the tool's own state and nothing else. Commits of kept runs are held by
//! `refs/runs/<run>`; nothing in it is ever collected. Its configuration holds neither URL nor secret.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::checkpoint;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::process::{Finished, Keep, Program};
use crate::report::shell::quoted;
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, RunId};
use crate::settings::{Remote, RemoteUrl};

use super::bundle::Quarantine;
use super::fetch_failure::FetchFailure;
use super::worktree::LONG;
use super::{Git, Repository, allowing, guard, inspect, remote};

/// The mirror's own configuration. The owner of `app/` reads the mirror whatever the caller's umask is.
const CONFIGURATION: &str = "\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
\tsharedRepository = 0644
";

/// The ref that holds what the last bundle brought.
const FROM_BUNDLE: &str = "refs/bundle";

/// How the mirror is fetched into: nothing comes that was not asked for, and nothing is tidied.
pub(super) const QUIETLY: [&str; 4] = ["--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--force"];

/// Where commits come from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The remote: all its branches, as they are now.
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
}

impl Mirror {
    /// Names the mirror; nothing is touched yet.
    pub fn new(git: &Git, layout: &Layout, remote: &Remote) -> Self {
        Self { git: git.clone(), path: layout.mirror(), remote: remote.clone(), ensured: Arc::default() }
    }

    /// Returns the folder of the mirror.
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
        let commit = self.ensure_now(run, branch, source)?;
        *ensured = Some((run.clone(), commit.clone()));
        Ok(commit)
    }

    fn ensure_now(&self, run: &RunId, branch: &BranchName, source: Source<'_>) -> Outcome<CommitId> {
        if let Some(commit) = self.pinned(run)? {
            return Ok(commit);
        }
        let fetched = if self.is_usable()? { Some(self.fetch(&self.path, source)?) } else { None };
        match fetched {
            Some(fetched) if fetched.succeeded() => {}
            Some(fetched) if FetchFailure::of(&fetched) != FetchFailure::LocalDamage => {
                return Err(self.failed(&fetched, source));
            }
            _ => self.make_anew(source)?,
        }
        checkpoint::reach("git:fetched");
        let tip = match source {
            Source::Remote => self.head(branch)?,
            Source::Quarantine(bundle) => bundle.commit.clone(),
        };
        self.pin(run, &tip)?;
        disk::sync_file_system(&self.path)?;
        Ok(tip)
    }

    /// Holds `commit`, which must be in the mirror, for `run`.
    ///
    /// # Errors
    /// The commit is not in the mirror.
    pub fn pin(&self, run: &RunId, commit: &CommitId) -> Outcome<()> {
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
        self.commit_of(&pin_name(run))
    }

    /// Lets go of what was held for `run`.
    ///
    /// # Errors
    /// The mirror cannot be written.
    pub fn release(&self, run: &RunId) -> Outcome<()> {
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
        let program = self.bare()?.args(["for-each-ref", "--format=%(refname)", "refs/runs"]);
        let listed = self.git.run(&program, || "the commits that are held cannot be listed".to_owned())?;
        parse_pins(&listed.text())
            .iter()
            .filter(|run| !kept.contains(run))
            .try_for_each(|run| self.release(run))
    }

    /// Asks the remote what `branch` points to, and stores nothing.
    ///
    /// # Errors
    /// As [`Mirror::ensure`].
    pub fn remote_tip(&self, branch: &BranchName) -> Outcome<CommitId> {
        let url = self.url()?;
        let program = remote::equip(&self.git, self.git.anywhere(), &self.remote, url)?.args([
            "ls-remote",
            "--heads",
            "--",
            &url.text,
        ]);
        let listed = self.git.runner().run(&program)?;
        if !listed.succeeded() {
            return Err(FetchFailure::of(&listed).told(&url.text, &listed));
        }
        let heads = parse_heads(&listed.text());
        match heads.iter().find(|(name, _)| name == branch.as_str()) {
            Some((_, commit)) => Ok(commit.clone()),
            None => Err(no_such_branch(branch, heads.iter().map(|(name, _)| name))),
        }
    }

    /// Looks at everything that the mirror holds; tells what is damaged, `None` where nothing is.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn damage(&self) -> Outcome<Option<String>> {
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
        self.head(branch).map(drop)
    }

    /// Tells whether the mirror holds `commit`.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn contains(&self, commit: &CommitId) -> Outcome<bool> {
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
        guard::restore_configuration(&self.path, CONFIGURATION)
    }

    /// Prepares git for work in a repository laid out by [`lay_out`], whose configuration is the tool's own from now on.
    fn guarded(&self, git_dir: &Path) -> Outcome<Program> {
        guard::restore_configuration(git_dir, CONFIGURATION)?;
        Ok(self.git.at(&Repository::bare(git_dir)))
    }

    fn is_usable(&self) -> Outcome<bool> {
        if !self.path.join("HEAD").exists() {
            return Ok(false);
        }
        Ok(self.git.runner().run(&self.bare()?.args(["rev-parse", "--is-bare-repository"]))?.succeeded())
    }

    fn fetch(&self, into: &Path, source: Source<'_>) -> Outcome<Finished> {
        // Locks of a fetch that was killed would keep the next one out for good; one run at a time comes here.
        for lock in inspect::locks(into) {
            disk::remove_file_if_there(&lock)?;
        }
        for entry in std::fs::read_dir(into.join("objects/pack")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("tmp_") {
                disk::remove_file_if_there(&entry.path())?;
            }
        }
        let program = self.guarded(into)?;
        let program = match source {
            Source::Remote => {
                let url = self.url()?;
                remote::equip(&self.git, program, &self.remote, url)?
                    .args(["fetch", "--prune"])
                    .args(QUIETLY)
                    .args(["--progress", "--", &url.text, "+refs/heads/*:refs/heads/*"])
            }
            Source::Quarantine(bundle) => allowing(program, "file")
                .arg("fetch")
                .args(QUIETLY)
                .args(["--progress", "--"])
                .arg(&bundle.folder)
                .arg(format!("+refs/heads/{}:{FROM_BUNDLE}", bundle.branch))
                .deadline(LONG),
        };
        self.git.runner().run(&program.keep(Keep::Narrated("fetch".to_owned())))
    }

    /// The failure of a fetch.
    fn failed(&self, fetched: &Finished, source: Source<'_>) -> Failure {
        let from = match source {
            Source::Remote => self.shown_url().unwrap_or_default(),
            Source::Quarantine(bundle) => bundle.folder.display().to_string(),
        };
        FetchFailure::of(fetched).told(&from, fetched)
    }

    /// What the remote's `branch` pointed to when it was fetched last.
    fn head(&self, branch: &BranchName) -> Outcome<CommitId> {
        let heads = self.heads()?;
        let found = heads.iter().find(|(name, _)| name == branch.as_str()).map(|(_, commit)| commit.clone());
        found.ok_or_else(|| no_such_branch(branch, heads.iter().map(|(name, _)| name)))
    }

    /// Makes the mirror from nothing beside its place, takes over what the old one still holds for runs, and puts
    /// it in place.
    fn make_anew(&self, source: Source<'_>) -> Outcome<()> {
        let fresh = self.path.with_file_name("mirror.git.new");
        disk::remove_tree(&fresh)?;
        lay_out(&fresh)?;
        let fetched = self.fetch(&fresh, source)?;
        if !fetched.succeeded() {
            disk::remove_tree(&fresh)?;
            return Err(self.failed(&fetched, source));
        }
        if !self.path.exists() {
            disk::sync_file_system(&fresh)?;
            disk::move_new(&fresh, &self.path)?;
            return disk::sync_parent(&self.path);
        }
        self.git.runner().events().warn("the mirror of the remote was damaged and has been made anew");
        let old = allowing(self.guarded(&fresh)?, "file").arg("fetch");
        let old = old.args(["--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--"]);
        // Whether anything can still be read from the old one is luck.
        let _ = self.git.runner().run(&old.arg(&self.path).arg("+refs/runs/*:refs/runs/*"))?;
        disk::sync_file_system(&fresh)?;
        checkpoint::reach("git:mirror made anew");
        disk::exchange(&fresh, &self.path)?;
        disk::remove_tree(&fresh)
    }

    /// The branches of the mirror and what they point to.
    fn heads(&self) -> Outcome<Vec<(String, CommitId)>> {
        let program =
            self.bare()?.args(["for-each-ref", "--format=%(objectname)\t%(refname)", "refs/heads/"]);
        let listed = self.git.run(&program, || "cannot list the branches of the mirror".to_owned())?;
        Ok(parse_heads(&listed.text()))
    }
}

/// Lays out an empty bare repository of the tool's own.
pub(super) fn lay_out(folder: &Path) -> Outcome<()> {
    for inner in ["objects/info", "objects/pack", "refs/heads", "refs/runs"] {
        disk::make_folder(&folder.join(inner), 0o755)?;
    }
    disk::write_atomic(&folder.join("config"), CONFIGURATION.as_bytes(), 0o644)?;
    disk::write_atomic(&folder.join("HEAD"), b"ref: refs/heads/main\n", 0o644)
}

/// The ref that holds a run's commit.
fn pin_name(run: &RunId) -> String {
    format!("refs/runs/{run}")
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
