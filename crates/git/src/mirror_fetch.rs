//! Fetches from the remote or from a bundle into the mirror. The module may touch the network and `mirror.git`.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use refresh_programs::process::{Finished, Keep};
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, clock, disk};

use super::fetch_failure::FetchFailure;
use super::heads::{REMOTE_HEADS, tag_of, tip_of};
use super::locks::locks;
use super::mirror::{Mirror, Moves};
use super::mirror_call::{Call, Ensured, Hold, Source};
use super::mirror_layout::{configuration_for, lay_out};
use super::{LONG, allowing, lenient, moved, remote};

/// How long a fetch with a temporary failure waits before each further attempt; their number limits the attempts.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// The number of packs from which the mirror is repacked, and the number of loose objects in one of its 256
/// directories.
const MANY: (usize, usize) = (40, 32);

/// How long packing the mirror again may take. It is only tidying up, so it must end before the unit of the fetch does.
const REPACK: Duration = Duration::from_secs(300);

/// The space that must be free beside a second copy of all packs: the same that every run needs.
const RESERVE: u64 = 256 << 20;

/// Settings with which packing takes little memory beside the running service.
const SPARING: [&str; 6] =
    ["-c", "pack.threads=1", "-c", "pack.windowMemory=64m", "-c", "core.bigFileThreshold=16m"];

/// The largest number of files of the mirror that are added up.
const ENTRIES: u64 = 500_000;

/// The ref of the commit from the last bundle.
const FROM_BUNDLE: &str = "refs/bundle";

/// The options of a fetch into the mirror: nothing is fetched that was not requested, and nothing is cleaned up.
pub(super) const QUIETLY: [&str; 4] = ["--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--force"];

impl Mirror {
    /// Ensures that the mirror has the commit that the remote's `branch` points to, holds it for `run`, and returns it
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
            Some(unit) => unit.ensure(run, branch, source)?,
            None => match self.ensure_here(run, branch, source)? {
                Ensured::Commit(commit) => commit,
                Ensured::Replaced => return Err(Failure::new("the mirror was not put in its place")),
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
                let listed = self.list_remote(branch)?;
                (tip_of(branch, &listed.text())?, Some(listed))
            }
            Source::Quarantine(bundle) => (bundle.commit.clone(), None),
        };
        let fits = self.is_usable()? && self.configuration() == configuration_for(&tip);
        let mut is_new = !fits;
        if !fits {
            self.recreate(branch, &tip, source)?;
        } else if let Err((kind, failure)) = self.fetch(&self.path, branch, source)? {
            match kind {
                FetchFailure::LocalDamage if self.damage()?.is_some() => {
                    self.recreate(branch, &tip, source)?;
                    is_new = true;
                }
                FetchFailure::LocalDamage => {
                    return Err(FetchFailure::RemoteDamage.instead_of(&self.from(source), failure));
                }
                _ => return Err(failure),
            }
        } else if matches!(source, Source::Remote) && !self.is_complete(&tip)? {
            // A fetch does nothing if a branch points to the right commit but its objects are lost.
            self.recreate(branch, &tip, source)?;
            is_new = true;
        }
        if is_new && self.moves == Moves::ByConductor {
            return Ok(Ensured::Replaced);
        }
        checkpoint::reach("git:fetched");
        let tip = match source {
            Source::Remote => self.head(branch)?,
            Source::Quarantine(_) => tip,
        };
        self.hold(Hold::Run, run, &tip)?;
        if let Some(listed) = listed {
            disk::replace_file(&self.path.join(REMOTE_HEADS), listed.text().as_bytes(), 0o644)?;
            moved::record(&self.path, &listed.stderr)?;
        }
        self.repack_if_grown()?;
        disk::sync_file_system(&self.path)?;
        Ok(Ensured::Commit(tip))
    }

    /// Returns the commit that the remote's `branch` points to now, and stores nothing.
    ///
    /// # Errors
    /// As [`Mirror::ensure`].
    pub fn remote_tip(&self, branch: &BranchName) -> Outcome<CommitId> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::RemoteTip { branch: branch.clone() });
        }
        tip_of(branch, &self.remote_heads(branch)?)
    }

    /// Returns HEAD and the branches of the remote, as git lists them, and the tag of that name.
    pub(super) fn remote_heads(&self, branch: &BranchName) -> Outcome<String> {
        Ok(self.list_remote(branch)?.text())
    }

    fn list_remote(&self, branch: &BranchName) -> Outcome<Finished> {
        let url = self.url()?;
        let listed = self.persistently(|| {
            let program = remote::with_access_to_remote(&self.git, self.git.anywhere(), &self.remote, &url)?;
            self.git.runner().run(&program.args([
                "ls-remote",
                "--symref",
                "--",
                &url.text,
                "HEAD",
                "refs/heads/*",
                &format!("refs/tags/{}", tag_of(branch)),
            ]))
        })?;
        if listed.succeeded() {
            return Ok(listed);
        }
        let kind = FetchFailure::of(&listed);
        Err(kind.blame_clock(kind.failure(&url.text, &listed), self.last_fetch()))
    }

    /// Returns the time of the last fetch: the clock had at least reached it.
    fn last_fetch(&self) -> Option<jiff::Timestamp> {
        let found = std::fs::metadata(self.path.join(REMOTE_HEADS)).ok()?;
        jiff::Timestamp::try_from(found.modified().ok()?).ok()
    }

    /// Repeats an attempt with temporary failures; waits longer before each further attempt, within the deadline of a
    /// fetch.
    fn persistently(&self, attempt: impl Fn() -> Outcome<Finished>) -> Outcome<Finished> {
        let end = clock::monotonic() + self.remote.deadline;
        let mut finished = attempt()?;
        for (wait, number) in WAITS.into_iter().zip(2..) {
            let failure = FetchFailure::of(&finished);
            if finished.succeeded() || !failure.is_passing() || clock::monotonic() + wait >= end {
                break;
            }
            let cause = match failure {
                FetchFailure::Unreachable => "cannot be reached",
                _ => "does not answer properly",
            };
            let note = format!("the remote {cause}; attempt {number} of {}", WAITS.len() + 1);
            self.git.runner().events().note(&note);
            clock::pause(wait)?;
            finished = attempt()?;
        }
        Ok(finished)
    }

    /// Fetches into a repository; returns the kind of failure and the failure to report.
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
                    remote::with_access_to_remote(&self.git, program, &self.remote, &url)?
                        // git verifies the objects that the remote sends.
                        .args(["-c", "fetch.fsckObjects=true"])
                        .args(lenient("fetch.fsck", "ignore"))
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
        Ok(Err((kind, kind.failure(&self.from(source), &fetched))))
    }

    /// Returns the source of commits, for people.
    fn from(&self, source: Source<'_>) -> String {
        match source {
            Source::Remote => self.shown_url().unwrap_or_default(),
            Source::Quarantine(bundle) => bundle.directory.display().to_string(),
        }
    }

    /// Removes branches that cannot exist beside `branch`: `x` beside `x/y`, and the reverse. The commits that runs
    /// need are held for the runs.
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

    /// Packs the mirror again if many fetches have left many packs or loose objects. Nothing in it is dropped: trees
    /// and stashes borrow its objects.
    fn repack_if_grown(&self) -> Outcome<()> {
        let entries =
            |directory: &str| std::fs::read_dir(self.path.join(directory)).into_iter().flatten().flatten();
        let is_pack =
            |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "pack");
        let (packs, loose) = (entries("objects/pack").filter(is_pack).count(), entries("objects/17").count());
        if packs < MANY.0 && loose < MANY.1 {
            return Ok(());
        }
        let size = disk::usage(&self.path.join("objects"), ENTRIES).bytes;
        let found = rustix::fs::statvfs(&self.path).context(|| "cannot read the mirror".to_owned())?;
        if !has_room(found.f_bavail.saturating_mul(found.f_frsize), size) {
            let needed = (size + RESERVE).div_ceil(1 << 20);
            let note =
                format!("the mirror has many packs; packing it again needs {needed} MiB of free space");
            self.git.runner().events().note(&note);
            return Ok(());
        }
        let program =
            self.bare()?.args(SPARING).args(["repack", "-a", "-d", "-k", "--quiet"]).deadline(REPACK);
        let packed = self.git.runner().run(&program)?;
        if !packed.succeeded() {
            let why = packed.last_lines(2).join("; ");
            self.git.runner().events().note(&format!("the mirror could not be repacked: {why}"));
        }
        Ok(())
    }

    /// Returns the commit that `branch` points to in the mirror.
    fn head(&self, branch: &BranchName) -> Outcome<CommitId> {
        let found = self.commit_of(&format!("refs/heads/{branch}"))?;
        found.ok_or_else(|| Failure::new(format!("the fetch has not brought the branch {branch}")))
    }

    /// Makes a new mirror beside the old one, copies the commits that the old one still holds for runs, and puts the
    /// new one in place.
    pub(super) fn recreate(&self, branch: &BranchName, tip: &CommitId, source: Source<'_>) -> Outcome<()> {
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
            self.git.runner().events().warn("the mirror of the remote was damaged and has been replaced");
        }
        let old = allowing(self.guarded(&fresh)?, "file").arg("fetch");
        let old = old.args(["--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--"]);
        // The old one may be unreadable, so a failure is ignored.
        let old = old.arg(&self.path).args(["+refs/runs/*:refs/runs/*", "+refs/stash/*:refs/stash/*"]);
        let _ = self.git.runner().run(&old)?;
        disk::sync_file_system(&fresh)?;
        checkpoint::reach("git:mirror replaced");
        if by_conductor {
            return Ok(());
        }
        disk::exchange(&fresh, &self.path)?;
        disk::remove_tree(&fresh)
    }
}

/// Returns whether a second copy of `size` bytes leaves the reserve free.
fn has_room(free: u64, size: u64) -> bool {
    free.checked_sub(size).is_some_and(|rest| rest >= RESERVE)
}

/// Removes the locks and unfinished packs of a fetch that was killed, which would block the next one. Only one run
/// fetches at a time.
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

/// Returns `true` if two refs cannot both exist.
fn is_in_the_way(name: &str, wanted: &str) -> bool {
    let below =
        |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    below(name, wanted) || below(wanted, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_packed_again_only_if_a_second_copy_fits_beside_the_reserve() {
        assert!(has_room(RESERVE + 100, 100));
        assert!(!has_room(RESERVE + 99, 100));
        assert!(!has_room(50, 100));
    }
}
