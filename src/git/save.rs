//! Saves local changes: nothing is removed from the work tree that was not saved first; regenerable caches and
//! unchanged products of hooks ([`super::made`]) excepted.
//!
//! Order: observe, describe everything in `index.json`, then link or copy what git will replace, move what git does
//! not know, bundle what only local names reach. What has to stay in place is set aside under a second name and put
//! back by [`super::preserve`] after the reset.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::clock;
use crate::disk::{self, Moved};
use crate::error::{Context as _, Failure, Outcome};
use crate::process::Keep;
use crate::settings::names::{CommitId, RunId};

use super::compare::Difference;
use super::drift::{Observed, Tip};
use super::made::Made;
use super::path::TreePath;
use super::saved::{self, SCHEMA, SavedIndex, SavedItem, SavedKind, SavedTip};
use super::tree::{Files, Place, Tree, at_once, is_there};
use super::walk::{self, Access, Accounted, Preserve, Stray};
use super::{Repository, inspect};

/// The worker's operation.
pub const OPERATION: &str = "git-save";

/// What a worker is asked to save.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// What for.
    pub save: SaveRequest,
}

/// What is to be saved, and where to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaveRequest {
    /// The run that saves.
    pub run: RunId,
    /// The folder of all runs, whose saved places tell which commits are safe already.
    pub runs: TreePath,
    /// The saved place of this run ([`saved::place_of`]).
    pub saved: TreePath,
    /// The commits that account for files (the deployed one, an interrupted run's target); HEAD is looked at before
    /// them, the target after them.
    pub known: Vec<CommitId>,
    /// The commit that the tree will be aligned with.
    pub target: CommitId,
    /// Patterns of application state that stays in place.
    pub preserve: Vec<String>,
    /// What the hooks of the last run made.
    pub made: Made,
}

/// What was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The changes.
    pub items: Vec<SavedItem>,
    /// The local names whose commits were saved now or earlier.
    pub tips: Vec<SavedTip>,
    /// Files and folders that stay in place because a preserve pattern names them.
    pub preserved: Vec<TreePath>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Saved {
    /// Returns the changes that were taken out of the tree: all but the preserved ones.
    pub fn taken(&self) -> impl Iterator<Item = &SavedItem> {
        self.items.iter().filter(|item| item.kind != SavedKind::Preserved)
    }
}

/// What align needs to know of the save before it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handoff {
    /// The base of the comparison; its refreshed index lies beside.
    pub(super) base: Option<CommitId>,
    /// Paths whose content on disk is saved or is in a known commit, besides those that the index proves.
    pub(super) accounted: BTreeSet<TreePath>,
    /// Paths that stay.
    pub(super) preserved: Vec<TreePath>,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// Something cannot be read, moved or written; what was moved until then is described in the saved place.
pub fn handle(request: &Request) -> Outcome<Saved> {
    let tree = Tree::enter(&request.place);
    if !tree.has_git_dir() {
        return Err(inspect::no_repository(&tree.app));
    }
    let saved = Save::new(&tree, &request.save)?.all()?;
    tree.leave()?;
    Ok(saved)
}

struct Save<'a> {
    tree: &'a Tree,
    request: &'a SaveRequest,
    preserve: Preserve,
    place: &'a Path,
    vault: PathBuf,
    notes: Vec<String>,
}

/// What has to be done to save.
struct Work {
    items: Vec<SavedItem>,
    preserved: Vec<PathBuf>,
    caches: Vec<PathBuf>,
}

impl<'a> Save<'a> {
    fn new(tree: &'a Tree, request: &'a SaveRequest) -> Outcome<Self> {
        let place = request.saved.as_path();
        let vault = if can_be_moved(&tree.git_dir(), place)? {
            place.to_path_buf()
        } else {
            tree.git_dir().join("refresh-saved").join(request.run.as_str())
        };
        let preserve = Preserve::patterns(&request.preserve)?;
        Ok(Self { tree, request, preserve, place, vault, notes: Vec::new() })
    }

    fn all(mut self) -> Outcome<Saved> {
        let mut known = self.request.known.clone();
        known.push(self.request.target.clone());
        // The files, and what only local names reach, are two questions.
        let (tips, observed) = at_once(
            || self.tree.files(&self.request.target).and_then(|files| Ok((files, self.tree.local_tips()?))),
            || self.tree.observe(&known, &self.preserve, &self.request.made, Access::Open),
        );
        let (observed, (target, tips)) = (observed?, tips?);
        let target = target.ok_or_else(|| {
            Failure::new(format!("the commit {} is not in the mirror", self.request.target.short()))
        })?;
        let work = self.plan(&observed, &target)?;
        let (tips, repository) = self.tips(tips);
        let index = SavedIndex {
            schema: SCHEMA,
            run: self.request.run.clone(),
            at: clock::now(),
            base: observed.base.as_ref().map(|(commit, ..)| commit.clone()),
            vault: self.vault.clone().into(),
            items: work.items,
            tips,
            repository: repository.then(|| Path::new("repository.git").into()),
        };
        let fresh = index.tips.iter().any(|tip| tip.held_by.is_none());
        let anything = !index.items.is_empty() || fresh || repository;
        if anything {
            self.write(&index, &observed)?;
        }
        for cache in &work.caches {
            // A product that somebody touched meanwhile stays, and stops the alignment.
            if !self.request.made.is_untouched(&self.tree.app, cache) {
                continue;
            }
            disk::remove_tree(&self.tree.app.join(cache))?;
        }
        self.reopen_moved(&observed, &index)?;
        self.hand_off(&observed, &index, &work.preserved)?;
        checkpoint::reach("git:saved");
        let staying = work.preserved.into_iter().map(TreePath::from);
        let aside =
            index.items.iter().filter(|item| item.kind == SavedKind::Preserved).map(|item| item.path.clone());
        let preserved = staying.chain(aside).collect();
        Ok(Saved { preserved, items: index.items, tips: index.tips, notes: self.notes })
    }

    /// Decides for each difference what becomes of it.
    fn plan(&mut self, observed: &Observed, target: &Files) -> Outcome<Work> {
        let arriving = Accounted::of(target.keys());
        let mut work = Work { items: Vec::new(), preserved: Vec::new(), caches: Vec::new() };
        for (path, difference) in &observed.differing {
            let preserved = *difference != Difference::Missing && self.preserve.covers(path);
            let kind = match difference {
                Difference::Missing => SavedKind::Deleted,
                _ if preserved && self.fits(path, &arriving) => SavedKind::Preserved,
                Difference::Mode => SavedKind::Mode,
                _ => SavedKind::Modified,
            };
            work.items.push(self.item(path, kind)?);
        }
        for (path, stray) in &observed.walked.strays {
            match stray {
                Stray::Regenerable => work.caches.push(path.clone()),
                Stray::File => work.items.push(self.item(path, SavedKind::Untracked)?),
                Stray::Folder => work.items.push(self.item(path, SavedKind::UntrackedFolder)?),
            }
        }
        for path in &observed.walked.preserved {
            let blocked = path.ancestors().any(|part| arriving.has_file(part)) || arriving.has_folder(path);
            if !blocked {
                work.preserved.push(path.clone());
                continue;
            }
            for file in walk::files_below(&self.tree.app, path)? {
                let kind = match (self.fits(&file, &arriving), arriving.has_file(&file)) {
                    (true, true) => SavedKind::Preserved,
                    (true, false) => {
                        work.preserved.push(file);
                        continue;
                    }
                    (false, _) => SavedKind::Untracked,
                };
                work.items.push(self.item(&file, kind)?);
            }
        }
        for name in inspect::operation_files(&self.tree.git_dir()) {
            work.items.push(self.item(&Path::new(".git").join(name), SavedKind::GitState)?);
        }
        Ok(work)
    }

    /// Tells whether a preserved file can have its place in the new commit: no folder there, no file above it.
    fn fits(&mut self, path: &Path, arriving: &Accounted) -> bool {
        let fits =
            !arriving.has_folder(path) && !path.ancestors().skip(1).any(|part| arriving.has_file(part));
        if !fits {
            self.notes.push(format!(
                "{} cannot be preserved, because the new commit needs its place; it was saved instead",
                path.display()
            ));
        }
        fits
    }

    fn item(&self, path: &Path, kind: SavedKind) -> Outcome<SavedItem> {
        let folder = match kind {
            SavedKind::Deleted => {
                return Ok(SavedItem { path: path.into(), kind, stored: None, mode: 0, size: None });
            }
            SavedKind::Modified | SavedKind::Mode => "files",
            SavedKind::Untracked | SavedKind::UntrackedFolder => "untracked",
            SavedKind::Preserved => "preserved",
            SavedKind::GitState => "git-state",
        };
        let place = self.tree.app.join(path);
        let found = fs::symlink_metadata(&place).context(|| format!("cannot look at {}", place.display()))?;
        Ok(SavedItem {
            path: path.into(),
            kind,
            stored: Some(Path::new(folder).join(path).into()),
            mode: found.permissions().mode() & 0o7777,
            size: (!found.is_dir()).then_some(found.len()),
        })
    }

    /// Writes the description, then saves item by item.
    fn write(&mut self, index: &SavedIndex, observed: &Observed) -> Outcome<()> {
        disk::make_folder(&self.vault, 0o700)?;
        if self.vault != self.place {
            disk::point_link(&self.place.join("vault"), &self.vault)?;
        }
        disk::write_json(&saved::index_file(self.place), index, 0o600)?;
        checkpoint::reach("git:save described");
        self.patches(index, observed)?;
        for item in &index.items {
            if let Some(stored) = &item.stored {
                self.keep(item, &self.vault.join(stored.as_path()))?;
                checkpoint::reach("git:item saved");
            }
        }
        self.bundle(&index.tips)?;
        if index.repository.is_some() {
            self.keep_repository()?;
        }
        disk::sync_file_system(self.place)?;
        if self.vault == self.place { Ok(()) } else { disk::sync_file_system(&self.vault) }
    }

    /// Saves one item: what git will replace gets a second name, everything else is moved.
    fn keep(&self, item: &SavedItem, to: &Path) -> Outcome<()> {
        let from = self.tree.app.join(item.path.as_path());
        if let Some(parent) = to.parent() {
            disk::make_folder(parent, 0o700)?;
        }
        if matches!(item.kind, SavedKind::Modified | SavedKind::Mode | SavedKind::Preserved) {
            let is_folder = fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir());
            if !is_folder {
                return link_or_copy(item, &from, to);
            }
        }
        match disk::move_new(&from, to)? {
            Moved::Done => Ok(()),
            Moved::OtherFileSystem => {
                Err(Failure::new(format!("{} lies on a file system of its own", from.display()))
                    .hint("unmount what is mounted below the work tree"))
            }
        }
    }

    /// Folders that were closed were opened to look into them; the saved ones are closed again.
    fn reopen_moved(&self, observed: &Observed, index: &SavedIndex) -> Outcome<()> {
        for (path, mode) in observed.walked.opened.iter().rev() {
            let moved = index.items.iter().find(|item| {
                item.kind == SavedKind::UntrackedFolder && path.starts_with(item.path.as_path())
            });
            if moved.is_some() {
                disk::set_mode(&self.vault.join("untracked").join(path), *mode)?;
            }
        }
        Ok(())
    }

    /// Writes what changed as patches, for people; the contents are saved besides.
    fn patches(&mut self, index: &SavedIndex, observed: &Observed) -> Outcome<()> {
        let options = ["-p", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-renames"];
        let changed: Vec<&Path> = index
            .items
            .iter()
            .filter(|item| {
                !matches!(item.kind, SavedKind::Untracked | SavedKind::UntrackedFolder | SavedKind::GitState)
            })
            .map(|item| item.path.as_path())
            .filter(|path| {
                // git would wait for a writer of a pipe.
                let found = fs::symlink_metadata(self.tree.app.join(path));
                found.map_or(true, |found| found.is_file() || found.is_symlink())
            })
            .collect();
        if let (Some((base, _, private)), false) = (&observed.base, changed.is_empty()) {
            let repository = self.tree.both().with_tree(&self.tree.app).with_index(private);
            let program =
                self.tree.git.at(&repository).arg("diff-index").args(options).arg(base.as_str()).arg("--");
            // As many as a command line holds for sure.
            let mut room = 100_000_usize;
            let shown = changed.iter().take_while(|path| {
                room = room.saturating_sub(path.as_os_str().len() + 1);
                room > 0
            });
            self.patch(program.args(shown), "worktree.patch")?;
        }
        if !is_there(&self.tree.git_dir().join("index")) {
            return Ok(());
        }
        let staged = self.tree.own().args(["diff-index", "--cached"]).args(options).arg("HEAD");
        self.patch(staged, "staged.patch")
    }

    fn patch(&mut self, program: crate::process::Program, name: &str) -> Outcome<()> {
        match self.tree.git.runner().run(&program.keep(Keep::Whole(64 << 20))) {
            Ok(finished) if finished.succeeded() && !finished.stdout.is_empty() => {
                disk::write_atomic(&self.place.join(name), &finished.stdout, 0o600)
            }
            Ok(finished) if finished.succeeded() => Ok(()),
            Err(failure) if failure.interrupted_by().is_some() => Err(failure),
            Ok(_) | Err(_) => {
                self.notes.push(format!("{name} could not be written; the contents are saved all the same"));
                Ok(())
            }
        }
    }

    /// The local names to save, and whether the whole repository has to be kept because they cannot be told.
    fn tips(&mut self, tips: Option<Vec<Tip>>) -> (Vec<SavedTip>, bool) {
        let Some(tips) = tips else {
            self.notes
                .push("the local commits cannot be told apart; the whole repository was kept".to_owned());
            return (Vec::new(), true);
        };
        let mut earlier = saved::bundled(self.request.runs.as_path());
        earlier.retain(|(run, _)| *run != self.request.run);
        let held =
            |tip: &Tip| earlier.iter().find(|(_, commit)| *commit == tip.commit).map(|(run, _)| run.clone());
        let tips = tips.into_iter().map(|tip| SavedTip { held_by: held(&tip), tip });
        // A restore leaves such names; what they stand for is saved already.
        let tips = tips.filter(|saved| saved.held_by.is_none() || !saved.tip.name.starts_with("saved/"));
        (tips.collect(), false)
    }

    /// Bundles the commits of local names that no earlier run has saved; nothing is written to `app/.git`.
    fn bundle(&self, tips: &[SavedTip]) -> Outcome<()> {
        let fresh: Vec<&Tip> = tips.iter().filter(|tip| tip.held_by.is_none()).map(|tip| &tip.tip).collect();
        let Some(first) = fresh.first() else { return Ok(()) };
        let told = || "cannot bundle the local commits".to_owned();
        let scratch = self.tree.scratch_repository("bundle.git", "", &first.commit)?;
        let line = |tip: &&Tip| format!("{} refs/saved/{}\n", tip.commit, tip.name);
        let refs = fresh.iter().map(line).collect::<Vec<_>>().concat();
        disk::write_passing(&scratch.git_dir.join("packed-refs"), refs.as_bytes(), 0o600)?;
        let known = self
            .tree
            .git
            .at(&Repository::bare(&self.tree.mirror))
            .args(["for-each-ref", "--format=%(objectname)"]);
        let known = self.tree.git.run(&known, told)?.text();
        let known: BTreeSet<&str> = known.lines().collect();
        let file = saved::bundle_file(self.place);
        let fresh_file = self.place.join("commits.bundle.new");
        let program = self.tree.git.at(&scratch).args(["bundle", "create", "--quiet"]).arg(&fresh_file);
        let program = program.arg("--all").arg("--not").args(known).deadline(super::worktree::LONG);
        self.tree.git.run(&program, told)?;
        disk::move_over(&fresh_file, &file)
    }

    /// Keeps a copy of the application's repository, by second names where that is possible.
    fn keep_repository(&self) -> Outcome<()> {
        let to = self.vault.join("repository.git");
        disk::remove_tree(&to)?;
        link_tree(&self.tree.git_dir(), &to, Path::new("refresh-saved"))
    }

    /// Leaves to align what it must know to remove nothing that was not saved.
    fn hand_off(&self, observed: &Observed, index: &SavedIndex, preserved: &[PathBuf]) -> Outcome<()> {
        let folder = saved::handoff(self.place);
        disk::remove_tree(&folder)?;
        disk::make_folder(&folder, 0o700)?;
        if let Some((_, _, private)) = &observed.base {
            disk::copy_new(private, &folder.join("index"))?;
        }
        for commit in index.base.iter().chain([&self.request.target]) {
            let listing = saved::listing(&folder, commit);
            if let (Some(bytes), false) = (self.tree.listing(commit)?, is_there(&listing)) {
                disk::write_passing(&listing, &bytes, 0o600)?;
            }
        }
        let replaced = index.items.iter().map(|item| item.path.clone());
        let explained = observed.explained.iter().map(|path| path.as_path().into());
        let handoff = Handoff {
            base: index.base.clone(),
            accounted: replaced.chain(explained).collect(),
            preserved: preserved.iter().map(|path| path.as_path().into()).collect(),
        };
        let bytes =
            serde_json::to_vec(&handoff).context(|| "cannot encode what is handed over".to_owned())?;
        disk::write_passing(&folder.join("handoff.json"), &bytes, 0o600)
    }
}

/// Tells, by trying, whether what is in the work tree can be moved to the saved place. Bind mounts of one file system
/// have one device and are no less apart.
fn can_be_moved(git_dir: &Path, place: &Path) -> Outcome<bool> {
    let (from, folder) = (git_dir.join(".ladylinux-refresh-probe"), saved::handoff(place));
    let to = folder.join("probe");
    disk::make_folder(&folder, 0o700)?;
    for left in [&from, &to] {
        disk::remove_file_if_there(left)?;
    }
    disk::write_passing(&from, b"", 0o600)?;
    let moved = disk::move_new(&from, &to)?;
    for left in [&from, &to] {
        disk::remove_file_if_there(left)?;
    }
    disk::remove_if_empty(&folder)?;
    Ok(moved == Moved::Done)
}

/// Gives a file a second name, or copies it where that cannot be; one that its owner has closed is opened for that.
fn link_or_copy(item: &SavedItem, from: &Path, to: &Path) -> Outcome<()> {
    if disk::link_new(from, to)? == Moved::Done {
        return Ok(());
    }
    copy_closed(from, item.mode, to)
}

/// Copies a file that its owner may have closed to himself; such a one is opened for that.
fn copy_closed(from: &Path, mode: u32, to: &Path) -> Outcome<()> {
    let closed = mode & 0o400 == 0;
    if closed {
        disk::set_mode(from, mode | 0o400)?;
    }
    disk::copy_new(from, to)?;
    if closed { disk::set_mode(to, mode) } else { Ok(()) }
}

/// Copies a tree, giving files a second name where that is possible; the folder called `without` is left out.
fn link_tree(from: &Path, to: &Path, without: &Path) -> Outcome<()> {
    let told = || format!("cannot read {}", from.display());
    disk::make_folder(to, 0o700)?;
    for entry in fs::read_dir(from).context(told)? {
        let entry = entry.context(told)?;
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        let kind = entry.file_type().context(told)?;
        if kind.is_dir() {
            if name.as_bytes() != without.as_os_str().as_bytes() {
                link_tree(&entry.path(), &target, Path::new(""))?;
            }
        } else if !(name == "objects" || from.components().any(|part| part.as_os_str() == "objects"))
            || disk::link_new(&entry.path(), &target)? == Moved::OtherFileSystem
        {
            // Only objects never change in place.
            let mode = entry.metadata().context(told)?.permissions().mode() & 0o7777;
            copy_closed(&entry.path(), mode, &target)?;
        }
    }
    Ok(())
}
