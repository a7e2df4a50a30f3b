//! Aligns `app/` with a commit: fetch into its own repository, hard reset, removal of what is left (RW-5.2).
//!
//! Runs after a save and trusts only what that handed over. A file that is neither saved nor in a known commit stops
//! it before anything is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::process::{Finished, Program};
use crate::settings::names::{BranchName, CommitId};

use super::fetch_failure::{FetchFailure, parse_fetch_failure};
use super::inspect::{self, Head};
use super::made::Made;
use super::path::TreePath;
use super::save::Handoff;
use super::tree::{Files, Place, Tree, at_once, is_there};
use super::walk::{self, Access, Accounted, Preserve, Stray, unsaved};
use super::{Repository, allowing, path_of, records, saved, worktree};

/// The worker's operation.
pub const OPERATION: &str = "git-align";

/// What a worker is asked to align.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The saved place of the run, which a save has prepared.
    pub saved: TreePath,
    /// The branch to be on.
    pub branch: BranchName,
    /// The commit to be at.
    pub commit: CommitId,
    /// Processes that are at work in the repository.
    pub holders: Vec<String>,
}

/// What aligning did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aligned {
    /// Preserved tracked files that were put back.
    pub put_back: Vec<TreePath>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// Somebody is at work in the repository, something is not saved, or git fails.
pub fn handle(request: &Request) -> Outcome<Aligned> {
    let tree = Tree::enter(&request.place);
    if !tree.has_git_dir() {
        return Err(inspect::no_repository(&tree.app));
    }
    let handoff = handed_over(&tree, request)?;
    let files = tree
        .files(&request.commit)?
        .ok_or_else(|| Failure::new(format!("the commit {} is not in the mirror", request.commit.short())))?;
    let aligned = Align { tree: &tree, request, files, notes: Vec::new() }.all(&handoff)?;
    tree.leave()?;
    Ok(aligned)
}

/// Takes over what the save of this run found out.
fn handed_over(tree: &Tree, request: &Request) -> Outcome<Handoff> {
    let folder = saved::handoff(request.saved.as_path());
    let handoff: Handoff = disk::read_json(&folder.join("handoff.json"))?
        .ok_or_else(|| Failure::new("local changes were not looked at before the alignment"))?;
    for commit in handoff.base.iter().chain([&request.commit]) {
        if let Some(listing) = disk::read_if_there(&saved::listing(&folder, commit))? {
            tree.remember(commit, listing);
        }
    }
    Ok(handoff)
}

struct Align<'a> {
    tree: &'a Tree,
    request: &'a Request,
    files: Files,
    notes: Vec<String>,
}

/// Which index a reset begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    /// The one that the save refreshed: files it proves right are not written again.
    HandedOver,
    /// None: every file is written.
    None,
}

/// Leaves syncing to whoever asked for the alignment: once for all instead of once for each object.
const UNSYNCED: [&str; 2] = ["-c", "core.fsync=none"];

/// What may be overwritten or removed.
struct Allowed {
    /// The files of the base that are on disk as the base has them.
    base: Files,
    accounted: BTreeSet<PathBuf>,
    preserve: Preserve,
    kept: Vec<PathBuf>,
}

impl Align<'_> {
    fn all(mut self, handoff: &Handoff) -> Outcome<Aligned> {
        let place = self.request.saved.as_path();
        self.unlock()?;
        self.mend_head()?;
        let allowed = self.allowed(handoff)?;
        let fetched = self.check_and_fetch(&allowed)?;
        if saved::read(place)?.is_some() {
            disk::write_atomic(&saved::reset_mark(place), self.request.commit.as_str().as_bytes(), 0o600)?;
        }
        self.check_out(&fetched, &allowed)?;
        checkpoint::reach("git:reset");
        self.sweep(&allowed)?;
        checkpoint::reach("git:swept");
        let put_back = self.tree.put_back(place)?;
        disk::remove_tree(&saved::handoff(place))?;
        self.notes.extend(put_back.notes());
        Ok(Aligned { put_back: put_back.files, notes: self.notes })
    }

    /// Removes locks that nobody holds any more.
    fn unlock(&mut self) -> Outcome<()> {
        let locks = inspect::locks(&self.tree.git_dir());
        if let (Some(lock), false) = (locks.first(), self.request.holders.is_empty()) {
            return Err(Failure::new(format!(
                "{} is locked by process {}",
                lock.display(),
                self.request.holders.join(", ")
            ))
            .hint("let it finish or end it, then run the refresh again"));
        }
        for lock in locks {
            disk::remove_file_if_there(&lock)?;
            self.notes.push(format!("removed {}, which a git that runs no more has left", lock.display()));
        }
        Ok(())
    }

    /// Makes HEAD readable again after a power cut, without which git sees no repository.
    fn mend_head(&mut self) -> Outcome<()> {
        let git_dir = self.tree.git_dir();
        for folder in ["objects", "refs"] {
            disk::make_folder(&git_dir.join(folder), 0o755)?;
        }
        if inspect::head_of(&git_dir) == Head::Broken {
            let text = format!("ref: refs/heads/{}\n", self.request.branch);
            disk::remove_file_if_there(&git_dir.join("HEAD"))?;
            disk::write_atomic(&git_dir.join("HEAD"), text.as_bytes(), 0o644)?;
            self.notes.push("HEAD of the application's repository was broken and has been mended".to_owned());
        }
        for name in [self.local_ref(), self.remote_ref()] {
            let file = git_dir.join(&name);
            let broken = disk::read_if_there(&file).ok().flatten().is_some_and(|bytes| {
                let text = String::from_utf8_lossy(&bytes);
                CommitId::parse(text.trim()).is_err() && !text.starts_with("ref: ")
            });
            if broken {
                disk::remove_file_if_there(&file)?;
                self.notes
                    .push(format!("{name} of the application's repository was broken and has been mended"));
            }
        }
        Ok(())
    }

    fn local_ref(&self) -> String {
        format!("refs/heads/{}", self.request.branch)
    }

    fn remote_ref(&self) -> String {
        format!("refs/remotes/origin/{}", self.request.branch)
    }

    fn allowed(&self, handoff: &Handoff) -> Outcome<Allowed> {
        let base = match &handoff.base {
            Some(base) => self.tree.files(base)?.unwrap_or_default(),
            None => Files::new(),
        };
        let into = |path: &TreePath| path.as_path().to_path_buf();
        let preserve = Preserve::exactly(&handoff.preserved);
        let kept: Vec<PathBuf> = handoff.preserved.iter().map(into).collect();
        let accounted = handoff.accounted.iter().map(into).collect();
        Ok(Allowed { base, accounted, preserve, kept })
    }

    /// Stops where something on disk is neither saved nor in a known commit. Cheap: the index that the save refreshed
    /// tells by times and sizes what has changed since.
    fn check_nothing_unsaved(&self, allowed: &Allowed) -> Outcome<()> {
        if !allowed.base.is_empty() {
            let index = saved::handoff(self.request.saved.as_path()).join("index");
            let repository = self.tree.both().with_tree(&self.tree.app).with_index(index);
            let program =
                self.tree.git.at(&repository).args(["diff-files", "--name-only", "-z", "--no-renames"]);
            let listed =
                self.tree.git.run(&program, || "cannot look for changes that are not saved".to_owned())?;
            for path in records(&listed.stdout).map(path_of) {
                if is_there(&self.tree.app.join(&path)) && !allowed.accounted.contains(&path) {
                    return Err(unsaved(&path));
                }
            }
        }
        let accounted = Accounted::of(allowed.base.keys().chain(&allowed.accounted));
        let walked =
            walk::walk(&self.tree.app, &accounted, &allowed.preserve, &Made::default(), Access::Open)?;
        match walked.strays.iter().find(|(_, stray)| *stray != Stray::Regenerable) {
            Some((path, _)) => Err(unsaved(path)),
            None => Ok(()),
        }
    }

    /// Looks once more for what is not saved, and fetches the commit from the mirror into the application's own
    /// repository (RW-5.2a). At the same time, because a fetch only adds; names that have to go first wait for the look.
    fn check_and_fetch(&mut self, allowed: &Allowed) -> Outcome<Finished> {
        if self.is_blocked() {
            self.check_nothing_unsaved(allowed)?;
            self.clear_names()?;
            return self.fetch();
        }
        let this = &*self;
        let (checked, fetched) = at_once(|| this.check_nothing_unsaved(allowed), || this.fetch());
        checked?;
        fetched
    }

    /// Checks the fetched commit out (RW-5.2b). A repository that turns out to be damaged is replaced by one from
    /// nothing, filled from the mirror.
    fn check_out(&mut self, fetched: &Finished, allowed: &Allowed) -> Outcome<()> {
        if fetched.succeeded() {
            checkpoint::reach("git:fetched into app");
            let reset = self.reset(allowed, Index::HandedOver)?;
            if reset.succeeded() {
                return Ok(());
            }
            if !is_damage(&reset) {
                return Err(
                    reset.failure(&format!("cannot reset the work tree to {}", self.request.commit.short()))
                );
            }
        } else if !is_damage(fetched) {
            return Err(fetched.failure("cannot fetch into the application's repository"));
        }
        self.renew()?;
        self.fetch()?.ok(|| "cannot fetch into the application's new repository".to_owned())?;
        let reset = self.reset(allowed, Index::None)?;
        reset.ok(|| format!("cannot reset the work tree to {}", self.request.commit.short()))?;
        Ok(())
    }

    fn fetch(&self) -> Outcome<Finished> {
        let refspec = format!("+{}:{}", self.request.commit, self.remote_ref());
        let program = allowing(self.own()?, "file").args(["fetch", "--quiet", "--no-tags"]);
        // The mirror's side would start as many threads as the machine has processors, for a handful of objects.
        let program = program.args(["--upload-pack", "git -c pack.threads=1 upload-pack"]);
        let program =
            program.args(["--no-auto-gc", "--no-write-fetch-head", "--update-head-ok", "--force", "--"]);
        let program = program.arg(&self.tree.mirror).arg(&refspec).deadline(worktree::LONG);
        self.tree.git.runner().run(&program)
    }

    /// Puts a new, empty repository in the place of a damaged one, which is kept in the saved place.
    fn renew(&mut self) -> Outcome<()> {
        let git_dir = self.tree.git_dir();
        let other = self.tree.app.join(".git.new");
        disk::remove_tree(&other)?;
        init(&other, &self.request.branch, &self.request.commit)?;
        for kept in ["config", "hooks"] {
            if is_there(&git_dir.join(kept)) {
                disk::remove_tree(&other.join(kept))?;
                disk::move_new(&git_dir.join(kept), &other.join(kept))?;
            }
        }
        disk::exchange(&other, &git_dir)?;
        let vault = Path::new("refresh-saved");
        if is_there(&other.join(vault)) {
            disk::move_new(&other.join(vault), &git_dir.join(vault))?;
        }
        let aside = self.request.saved.as_path().join("damaged.git");
        if disk::move_new(&other, &aside)? == disk::Moved::OtherFileSystem {
            disk::make_folder(&git_dir.join(vault), 0o700)?;
            disk::move_new(
                &other,
                &git_dir.join(vault).join(format!("damaged-{}", self.request.commit.short())),
            )?;
        }
        self.notes.push("the application's repository was damaged; it was kept and made anew".to_owned());
        Ok(())
    }

    /// Tells whether names may stand in the way of the branch.
    fn is_blocked(&self) -> bool {
        let git_dir = self.tree.git_dir();
        [self.local_ref(), self.remote_ref()].iter().any(|name| may_be_blocked(&git_dir, name))
    }

    /// Removes names that stand in the way of the branch: `x` for a branch `x/y`, and the reverse. Their commits have
    /// been saved.
    fn clear_names(&mut self) -> Outcome<()> {
        let repository = Repository::bare(self.tree.git_dir());
        let program = self.tree.git.at(&repository).args([
            "for-each-ref",
            "--format=%(refname)",
            "refs/heads/",
            "refs/remotes/origin/",
        ]);
        let listed = self.tree.git.runner().run(&program)?;
        let text = listed.text();
        let conflicts: Vec<&str> = [self.local_ref(), self.remote_ref()]
            .iter()
            .flat_map(|wanted| text.lines().filter(move |name| in_the_way(name, wanted)))
            .collect();
        if conflicts.is_empty() {
            return Ok(());
        }
        // A branch that is checked out is let go first.
        let head = format!("ref: {}\n", self.local_ref());
        disk::write_atomic(&self.tree.git_dir().join("HEAD"), head.as_bytes(), 0o644)?;
        let input = conflicts.iter().map(|name| format!("delete {name}\n")).collect::<Vec<_>>().concat();
        let program = self
            .tree
            .git
            .at(&repository)
            .args(["update-ref", "--no-deref", "--stdin"])
            .input(input.into_bytes());
        self.tree.git.run(&program, || "cannot remove names that are in the way of the branch".to_owned())?;
        self.notes.extend(conflicts.iter().map(|name| {
            format!(
                "removed the local name {name}, which is in the way of the branch {}",
                self.request.branch
            )
        }));
        Ok(())
    }

    /// Checks the branch out by a hard reset (RW-5.2b).
    fn reset(&self, allowed: &Allowed, index: Index) -> Outcome<Finished> {
        let git_dir = self.tree.git_dir();
        for name in ["index", "index.lock"] {
            disk::remove_file_if_there(&git_dir.join(name))?;
        }
        let trusted =
            index == Index::HandedOver && !allowed.base.is_empty() && !self.attributes_change(allowed);
        let handed = saved::handoff(self.request.saved.as_path()).join("index");
        if trusted && is_there(&handed) {
            // Files whose times this index knows need not be written again. Without it every file is.
            disk::copy_new(&handed, &git_dir.join("index"))?;
            disk::set_mode(&git_dir.join("index"), 0o644)?;
        } else {
            // Where the commit has no attributes, the checkout would take those that lie there.
            for path in allowed.base.keys().chain(&allowed.accounted).filter(|path| is_attributes(path)) {
                if !self.files.contains_key(path) {
                    disk::remove_file_if_there(&self.tree.app.join(path))?;
                }
            }
        }
        if inspect::head_of(&git_dir) != Head::Branch(self.request.branch.to_string()) {
            let told = || format!("cannot go to the branch {}", self.request.branch);
            let branch = self.own()?.args(["symbolic-ref", "HEAD", &self.local_ref()]);
            self.tree.git.run(&branch, told)?;
        }
        checkpoint::reach("git:on branch");
        let reset = self.own()?.args(["reset", "--quiet", "--hard", self.request.commit.as_str(), "--"]);
        self.tree.git.runner().run(&reset.deadline(worktree::LONG))
    }

    /// Tells whether files may have to be converted in another way than before, though their blobs stay the same.
    fn attributes_change(&self, allowed: &Allowed) -> bool {
        let attributes = |files: &Files| -> Vec<(PathBuf, String)> {
            let named = files.iter().filter(|(path, _)| is_attributes(path));
            named.map(|(path, entry)| (path.clone(), entry.object.clone())).collect()
        };
        attributes(&allowed.base) != attributes(&self.files)
            || allowed.accounted.iter().any(|path| is_attributes(path))
    }

    /// Removes what is left over (RW-5.2c): files of known commits, caches and empty folders. All else has been moved
    /// by the save, and stops the run.
    fn sweep(&self, allowed: &Allowed) -> Outcome<()> {
        let accounted = Accounted::of(self.files.keys());
        let walked =
            walk::walk(&self.tree.app, &accounted, &allowed.preserve, &Made::default(), Access::Open)?;
        for (path, stray) in walked.strays {
            let place = self.tree.app.join(&path);
            match stray {
                Stray::Regenerable => disk::remove_tree(&place)?,
                Stray::File | Stray::Folder => {
                    for file in walk::files_below(&self.tree.app, &path)? {
                        let known = allowed.base.contains_key(&file) || allowed.accounted.contains(&file);
                        if !known && !is_within_cache(&file) {
                            return Err(unsaved(&file));
                        }
                    }
                    disk::remove_tree(&place)?;
                }
            }
        }
        for path in &allowed.kept {
            if !is_there(&self.tree.app.join(path)) {
                return Err(Failure::new(format!("{} was to be preserved and is gone", path.display())));
            }
        }
        Ok(())
    }

    /// Prepares git in the application's repository. What is written there comes from the mirror and counts only once
    /// step 2 has synced the file system; after a power cut before that, damage is met as any other: [`Self::renew`].
    fn own(&self) -> Outcome<Program> {
        Ok(self.tree.unfiltered()?.args(UNSYNCED))
    }
}

/// Makes an empty repository in `git_dir`, on `branch`; `like` tells the kind of hashes.
pub(super) fn init(git_dir: &Path, branch: &BranchName, like: &CommitId) -> Outcome<()> {
    for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
        disk::make_folder(&git_dir.join(folder), 0o755)?;
    }
    let (version, extension) =
        if like.as_str().len() == 64 { (1, "[extensions]\n\tobjectformat = sha256\n") } else { (0, "") };
    let config = format!(
        "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n{extension}"
    );
    disk::write_atomic(&git_dir.join("config"), config.as_bytes(), 0o644)?;
    disk::write_atomic(&git_dir.join("HEAD"), format!("ref: refs/heads/{branch}\n").as_bytes(), 0o644)
}

/// Tells whether git failed because of what the repository holds or lacks.
fn is_damage(finished: &Finished) -> bool {
    parse_fetch_failure(&finished.stderr) == FetchFailure::LocalDamage
}

/// Tells, without git, whether another name may be in the way of `wanted`: git is asked only then.
fn may_be_blocked(git_dir: &Path, wanted: &str) -> bool {
    let file = git_dir.join(wanted);
    let above = Path::new(wanted).ancestors().skip(1).take_while(|part| *part != Path::new("refs"));
    let packed = disk::read_if_there(&git_dir.join("packed-refs")).ok().flatten().unwrap_or_default();
    let packed = String::from_utf8_lossy(&packed)
        .lines()
        .any(|line| line.split_once(' ').is_some_and(|(_, name)| in_the_way(name, wanted)));
    let is_folder = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.is_dir());
    packed
        || is_folder(&file).unwrap_or(false)
        || above.into_iter().any(|part| !is_folder(&git_dir.join(part)).unwrap_or(true))
        || is_there(&git_dir.join("reftable"))
}

fn in_the_way(name: &str, wanted: &str) -> bool {
    let below =
        |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    below(name, wanted) || below(wanted, name)
}

fn is_attributes(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".gitattributes")
}

fn is_within_cache(path: &Path) -> bool {
    path.ancestors().any(|part| {
        part.file_name().is_some_and(|name| {
            ["__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"].iter().any(|cache| name == *cache)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_the_way_of_one_below_it_and_the_reverse() {
        assert!(in_the_way("refs/heads/x", "refs/heads/x/y"));
        assert!(in_the_way("refs/heads/x/y/z", "refs/heads/x/y"));
        assert!(!in_the_way("refs/heads/x", "refs/heads/x"));
        assert!(!in_the_way("refs/heads/xy", "refs/heads/x"));
    }
}
