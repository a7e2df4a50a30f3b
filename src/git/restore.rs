//! Lists what was saved of local changes, brings it back, and removes it when a person says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Moved};
use crate::error::{Context as _, Failure, Outcome};
use crate::report::shell::quoted_path;
use crate::settings::names::{CommitId, RunId};

use super::compare::{Difference, same_bytes};
use super::history::TreeEntry;
use super::path::TreePath;
use super::saved::{self, SavedIndex, SavedItem, SavedKind};
use super::tree::{Files, Place, Tree, is_there};
use super::{allowing, walk};

/// The worker's operation for [`handle`].
pub const OPERATION: &str = "git-restore";
/// The worker's operation for [`handle_list`].
pub const LIST: &str = "git-saved";
/// The worker's operation for [`handle_prune`].
pub const PRUNE: &str = "git-prune";

/// What a worker is asked to list.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListRequest {
    /// Where.
    pub place: Place,
    /// The folder of all runs.
    pub runs: TreePath,
}

/// A saved place with what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPlace {
    /// Its description.
    pub index: SavedIndex,
    /// The space it takes, in bytes.
    pub size: u64,
    /// Items that the description names and that do not lie here: preserved files, which were put back, and what a
    /// save that was cut short did not come to.
    pub absent: BTreeSet<TreePath>,
    /// Whether the bundle of this run's own local commits lies here.
    pub bundled: bool,
}

/// What is to be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Only these paths and what lies below them; none: everything.
    pub paths: Vec<TreePath>,
    /// What happens to a file that is in the way.
    pub present: Present,
}

/// What happens to a file that is in the way of one that is brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Present {
    /// It stays, and the restore is refused before it begins, unless it is what the saved change was made to.
    Refuse,
    /// It is replaced.
    Replace,
}

/// What a worker is asked to bring back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The saved place.
    pub saved: TreePath,
    /// What.
    pub wanted: Restore,
}

/// What was brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Files and folders.
    pub paths: Vec<TreePath>,
    /// Files that had been deleted when the run saved; they are not deleted again.
    pub deleted: Vec<TreePath>,
    /// Names in `app/.git` that hold the saved commits now (`refs/saved/<run>/…`).
    pub refs: Vec<String>,
}

/// What a worker is asked to remove.
#[derive(Debug, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Where.
    pub place: Place,
    /// The folder of all runs.
    pub runs: TreePath,
    /// The saved place.
    pub saved: TreePath,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// The space that it took, in bytes.
    pub freed: u64,
}

/// Does the worker's side of [`LIST`].
///
/// # Errors
/// A description cannot be read.
pub fn handle_list(request: &ListRequest) -> Outcome<Vec<SavedPlace>> {
    let mut places = Vec::new();
    for place in places_of(request.runs.as_path()) {
        if let Some(index) = saved::read(&place)? {
            let vault = index.vault.as_path();
            let away = if vault == place { 0 } else { walk::size_of(vault) };
            let absent = index
                .items
                .iter()
                .filter(|item| item.kind != SavedKind::Deleted && item.place_in(vault).is_none());
            let absent = absent.map(|item| item.path.clone()).collect();
            let bundled = is_there(&saved::bundle_file(&place));
            places.push(SavedPlace { size: walk::size_of(&place) + away, absent, bundled, index });
        }
    }
    places.sort_by(|one, other| one.index.run.cmp(&other.index.run));
    Ok(places)
}

fn places_of(runs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    entries.map(|entry| saved::place_of(&entry.path())).filter(|place| place.is_dir()).collect()
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// Nothing is saved there, a path is not among the saved ones, something else is in its place, or it cannot be written.
pub fn handle(request: &Request) -> Outcome<Restored> {
    let tree = Tree::enter(&request.place);
    let index =
        saved::read(request.saved.as_path())?.ok_or_else(|| saved::nothing_under(request.saved.as_path()))?;
    let restored =
        Restoring { tree: &tree, index: &index, place: request.saved.as_path(), wanted: &request.wanted }
            .all()?;
    tree.leave()?;
    Ok(restored)
}

struct Restoring<'a> {
    tree: &'a Tree,
    index: &'a SavedIndex,
    place: &'a Path,
    wanted: &'a Restore,
}

impl Restoring<'_> {
    fn all(self) -> Outcome<Restored> {
        let everything = self.wanted.paths.is_empty();
        let mut work: Vec<(PathBuf, PathBuf, &SavedItem)> = Vec::new();
        let mut restored = Restored::default();
        for item in self.index.items.iter().filter(|item| item.kind != SavedKind::GitState) {
            let at = item.path.as_path();
            let wanted = everything || self.wanted.paths.iter().any(|path| at.starts_with(path.as_path()));
            if wanted && item.kind == SavedKind::Deleted {
                restored.deleted.push(item.path.clone());
            }
            let Some(stored) = item.place_in(self.index.vault.as_path()) else { continue };
            if wanted {
                work.push((stored, at.to_path_buf(), item));
                continue;
            }
            // Something inside a folder that was saved as one.
            for path in self.wanted.paths.iter().map(TreePath::as_path) {
                if let Ok(inside) = path.strip_prefix(at)
                    && is_there(&stored.join(inside))
                {
                    work.push((stored.join(inside), path.to_path_buf(), item));
                }
            }
        }
        for path in self.wanted.paths.iter().map(TreePath::as_path) {
            let mut found = work.iter().map(|(_, at, _)| at.as_path());
            let mut deleted = restored.deleted.iter().map(TreePath::as_path);
            if !found.any(|at| at.starts_with(path)) && !deleted.any(|at| at.starts_with(path)) {
                return Err(Failure::new(format!(
                    "{} is not among what run {} saved",
                    path.display(),
                    self.index.run
                ))
                .hint(format!("ladylinux-refresh drift show {}", self.index.run)));
            }
        }
        self.check(&work)?;
        for (stored, at, item) in work {
            self.bring_back(&stored, &at, item)?;
            restored.paths.push(at.into());
        }
        if everything {
            restored.refs = self.commits()?;
        }
        disk::sync_file_system(&self.tree.app)?;
        Ok(restored)
    }

    /// Refuses the whole restore, before anything is changed, where one of its files cannot go to its place.
    fn check(&self, work: &[(PathBuf, PathBuf, &SavedItem)]) -> Outcome<()> {
        for (_, at, _) in work {
            let folders = at.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
            for folder in folders.map(|folder| self.tree.app.join(folder)) {
                if fs::symlink_metadata(&folder).is_ok_and(|found| !found.is_dir()) {
                    return Err(Failure::new(format!(
                        "{} is no folder, so {} has no place",
                        folder.display(),
                        at.display()
                    )));
                }
            }
        }
        if self.wanted.present == Present::Replace {
            return Ok(());
        }
        let origin = self.origin(work)?;
        let mut reasons = Vec::new();
        for (stored, at, _) in work {
            if let Some(reason) = self.reason_against(&origin, stored, at)? {
                reasons.push((at, reason));
            }
        }
        let Some((first, _)) = reasons.first() else { return Ok(()) };
        let told: Vec<String> =
            reasons.iter().take(5).map(|(at, reason)| format!("{} {reason}", at.display())).collect();
        let more = match reasons.len() - told.len() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(Failure::new(format!("{}{more}", told.join("; ")))
            .hint(format!("ladylinux-refresh drift show {} {}", self.index.run, quoted_path(first)))
            .hint("add --overwrite to put what was saved in the place of what is there"))
    }

    /// Looks at what the saved changes were made to.
    fn origin(&self, work: &[(PathBuf, PathBuf, &SavedItem)]) -> Outcome<Origin> {
        let files_of = |commit: Option<&CommitId>| match commit {
            Some(commit) => Ok(self.tree.files(commit)?.unwrap_or_default()),
            None => Ok::<_, Failure>(Files::new()),
        };
        let wanted: BTreeSet<&Path> = work.iter().map(|(_, at, _)| at.as_path()).collect();
        let mut files = files_of(self.index.base.as_ref())?;
        // The attributes decide what a checkout looks like.
        files.retain(|file, _| {
            wanted.contains(file.as_path()) || file.file_name().is_some_and(|name| name == ".gitattributes")
        });
        let differing = match &self.index.base {
            Some(base) if !files.is_empty() => self.tree.compare(base, &files, "restore")?.differing,
            _ => BTreeMap::new(),
        };
        Ok(Origin { files, differing, head: files_of(self.tree.head()?.as_ref())? })
    }

    /// Says why a saved file must not go to its place: something else is there than the saved change was made to.
    fn reason_against(&self, origin: &Origin, stored: &Path, at: &Path) -> Outcome<Option<&'static str>> {
        let (before, deployed) = (origin.files.get(at), origin.head.get(at));
        if before.is_some() && !origin.differing.contains_key(at) {
            return Ok(None);
        }
        let to = self.tree.app.join(at);
        let Ok(found) = fs::symlink_metadata(&to) else {
            return Ok(
                (before.is_some() && deployed.is_none()).then_some("was removed upstream since it was saved")
            );
        };
        let kept = fs::symlink_metadata(stored).context(|| format!("cannot look at {}", stored.display()))?;
        let same = if found.is_symlink() && kept.is_symlink() {
            fs::read_link(&to).ok() == fs::read_link(stored).ok()
        } else {
            found.is_file() && kept.is_file() && same_bytes(stored, &to)? == Some(true)
        };
        let content = |file: &TreeEntry| (file.kind, file.object.clone());
        Ok(match deployed {
            _ if same => None,
            Some(_) if deployed.map(content) != before.map(content) => {
                Some("changed upstream since it was saved")
            }
            _ => Some("is there and differs from what was saved"),
        })
    }

    /// Copies one saved file or folder to its place; what is saved stays saved.
    fn bring_back(&self, stored: &Path, at: &Path, item: &SavedItem) -> Outcome<()> {
        let to = self.tree.app.join(at);
        if let Some(parent) = at.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.tree.make_way(parent)?;
        }
        let fresh = to.with_file_name(".ladylinux-refresh-restore");
        disk::remove_tree(&fresh)?;
        if let Err(failure) = copy_tree(stored, &fresh) {
            disk::remove_tree(&fresh)?;
            return Err(failure);
        }
        if at == item.path.as_path() && !fs::symlink_metadata(&fresh).is_ok_and(|found| found.is_symlink()) {
            disk::set_mode(&fresh, item.mode)?;
        }
        if is_there(&to) && disk::move_new(&fresh, &to).is_err() {
            disk::exchange(&fresh, &to)?;
            return disk::remove_tree(&fresh);
        }
        if is_there(&fresh) && disk::move_new(&fresh, &to)? == Moved::OtherFileSystem {
            return Err(Failure::new(format!("{} lies on a file system of its own", to.display())));
        }
        Ok(())
    }

    /// Brings the saved commits into the application's repository, under `refs/saved/<run>/`.
    fn commits(&self) -> Outcome<Vec<String>> {
        // A save that was cut short may not have come to its bundle; the commits are where they were.
        let bundled = is_there(&saved::bundle_file(self.place));
        let tips: Vec<_> = self.index.tips.iter().filter(|tip| bundled || tip.held_by.is_some()).collect();
        let mut names = Vec::new();
        let mut runs: Vec<&RunId> =
            tips.iter().map(|tip| tip.held_by.as_ref().unwrap_or(&self.index.run)).collect();
        runs.sort();
        runs.dedup();
        for run in runs {
            let place = if *run == self.index.run {
                self.place.to_path_buf()
            } else {
                let runs = self.place.parent().and_then(Path::parent).unwrap_or(self.place);
                saved::place_of(&runs.join(run.as_str()))
            };
            let bundle = saved::bundle_file(&place);
            let told = || format!("cannot bring the commits of run {run} back");
            // The commits that the bundle builds on come from the mirror.
            let bytes = disk::read_if_there(&bundle)?.ok_or_else(|| Failure::new(told()))?;
            let fetch = ["fetch", "--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head"];
            let needed = parse_prerequisites(&bytes);
            if !needed.is_empty() {
                let program = allowing(self.tree.own(), "file")
                    .args(fetch)
                    .arg("--")
                    .arg(&self.tree.mirror)
                    .args(needed);
                self.tree.git.run(&program, told)?;
            }
            let refspec = format!("+refs/saved/*:refs/saved/{run}/*");
            let program = allowing(self.tree.own(), "file").args(fetch).arg("--").arg(&bundle).arg(refspec);
            self.tree.git.run(&program, told)?;
        }
        for tip in tips {
            let run = tip.held_by.as_ref().unwrap_or(&self.index.run);
            names.push(format!("refs/saved/{run}/{}", tip.tip.name));
        }
        Ok(names)
    }
}

/// What the saved changes were made to, and what became of it.
struct Origin {
    /// The wanted files, as the commit had them that the tree was compared with.
    files: Files,
    /// Those that are not on disk as they were then.
    differing: BTreeMap<PathBuf, Difference>,
    /// The files of the commit that is deployed now.
    head: Files,
}

/// Reads the commits that a bundle builds on: lines with a minus in its head, which an empty line ends.
fn parse_prerequisites(bundle: &[u8]) -> Vec<String> {
    bundle
        .split(|byte| *byte == b'\n')
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let text = String::from_utf8_lossy(line.strip_prefix(b"-")?).into_owned();
            text.split(' ').next().map(str::to_owned)
        })
        .collect()
}

/// Copies a file, link or whole folder with permission bits; pipes and sockets are left out.
fn copy_tree(from: &Path, to: &Path) -> Outcome<()> {
    let told = || format!("cannot read {}", from.display());
    let found = fs::symlink_metadata(from).context(told)?;
    if !found.is_dir() {
        return if found.is_file() || found.is_symlink() { disk::copy_new(from, to) } else { Ok(()) };
    }
    disk::make_folder(to, 0o700)?;
    for entry in fs::read_dir(from).context(told)? {
        let entry = entry.context(told)?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    disk::set_mode(to, std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777)
}

/// Does the worker's side of [`PRUNE`].
///
/// # Errors
/// A later run relies on the commits that are saved here, or something cannot be removed.
pub fn handle_prune(request: &PruneRequest) -> Outcome<Prune> {
    let place = request.saved.as_path();
    let Some(index) = saved::read(place)? else {
        let freed = walk::size_of(place);
        empty(place)?;
        return Ok(Prune { freed });
    };
    if let Some(item) = index
        .items
        .iter()
        .find(|item| item.kind == SavedKind::Preserved && item.place_in(index.vault.as_path()).is_some())
    {
        return Err(Failure::new(format!("{} is still set aside and has to be put back first", item.path))
            .hint("ladylinux-refresh run"));
    }
    for other in places_of(request.runs.as_path()) {
        let Some(other) = saved::read(&other)? else { continue };
        if other.run != index.run && other.tips.iter().any(|tip| tip.held_by.as_ref() == Some(&index.run)) {
            return Err(Failure::new(format!(
                "run {} relies on the commits that run {} saved",
                other.run, index.run
            ))
            .hint(format!("ladylinux-refresh drift prune {}", other.run)));
        }
    }
    let vault = index.vault.as_path();
    let mut freed = walk::size_of(place);
    if vault != place {
        freed += walk::size_of(vault);
        disk::remove_tree(vault)?;
    }
    empty(place)?;
    Ok(Prune { freed })
}

/// Removes everything in a folder; the description goes last, so that a removal that is cut short can be repeated.
fn empty(place: &Path) -> Outcome<()> {
    let index = saved::index_file(place);
    for entry in fs::read_dir(place).context(|| format!("cannot read {}", place.display()))?.flatten() {
        if entry.path() != index {
            disk::remove_tree(&entry.path())?;
        }
    }
    disk::remove_file_if_there(&index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bundle_builds_on_is_read_from_its_head() {
        let one = "1".repeat(40);
        let bundle = format!("# v2 git bundle\n-{one} subject\n{one} refs/saved/HEAD\n\n-PACK");
        assert_eq!(parse_prerequisites(bundle.as_bytes()), [one]);
    }
}
