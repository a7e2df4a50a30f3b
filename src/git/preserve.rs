//! Puts preserved tracked files back: after the reset, and after a run that was killed before it could.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::disk::{self, Moved};
use crate::error::{Failure, Outcome};
use crate::process::Keep;
use crate::report::shell::quoted;
use crate::settings::names::{CommitId, RunId};

use super::compare::{Difference, same_bytes};
use super::history::TreeEntry;
use super::path::TreePath;
use super::saved::{self, SavedKind};
use super::tree::{Place, Tree, is_there};

/// The worker's operation.
pub const OPERATION: &str = "git-put-back";

/// What a worker is asked to put back.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The saved place.
    pub saved: TreePath,
}

/// What became of what was set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBack {
    /// Files that were put back.
    pub files: Vec<TreePath>,
    /// Files that somebody has written anew meanwhile: they stay, and what was set aside stays saved.
    pub kept: Vec<TreePath>,
    /// The run that had set them aside, where something is kept.
    pub run: Option<RunId>,
}

impl PutBack {
    /// What a person should know.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let run = self.run.as_ref().map(ToString::to_string).unwrap_or_default();
        self.kept.iter().map(move |path| {
            format!(
                "{path} was written anew while what was preserved of it was set aside; it stays as it is, and \
                 what was set aside is saved: ladylinux-refresh drift show {run} {}",
                quoted(&path.to_string())
            )
        })
    }
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// A file cannot be moved to its place.
pub fn handle(request: &Request) -> Outcome<PutBack> {
    let place = request.saved.as_path();
    let put_back = Tree::enter(&request.place).put_back(place)?;
    // Last, because it holds the mark that a reset had begun; the killed run's align needs it no more.
    disk::remove_tree(&saved::handoff(place))?;
    Ok(put_back)
}

impl Tree {
    /// Moves every preserved file that is still set aside to its place in the work tree. Doing it again changes
    /// nothing.
    pub(super) fn put_back(&self, place: &Path) -> Outcome<PutBack> {
        let mut done = PutBack::default();
        let Some(mut index) = saved::read(place)? else { return Ok(done) };
        let mark = disk::read_if_there(&saved::reset_mark(place))?;
        let preserved = index.items.iter().filter(|item| item.kind == SavedKind::Preserved);
        let aside: Vec<(TreePath, PathBuf)> = preserved
            .filter_map(|item| Some((item.path.clone(), item.place_in(index.vault.as_path())?)))
            .collect();
        if let Some(mark) = &mark {
            done.kept = self.written_anew(&aside, mark)?;
        }
        if !done.kept.is_empty() {
            done.run = Some(index.run.clone());
            for item in index.items.iter_mut().filter(|item| done.kept.contains(&item.path)) {
                item.kind = SavedKind::Modified;
            }
            disk::write_json(&saved::index_file(place), &index, 0o600)?;
        }
        for (path, aside) in aside.into_iter().filter(|(path, _)| !done.kept.contains(path)) {
            checkpoint::reach("git:put back");
            if mark.is_none() && is_there(&self.app.join(path.as_path())) {
                // The file never left its place; since then somebody may have changed it.
                disk::remove_file_if_there(&aside)?;
                continue;
            }
            self.put_one_back(&aside, path.as_path())?;
            done.files.push(path);
        }
        if !done.files.is_empty() {
            disk::sync_file_system(&self.app)?;
        }
        Ok(done)
    }

    /// Finds those files in whose place lies neither what was set aside nor anything that the reset has put there:
    /// after a run that was killed the service may have been let on, and has written them anew.
    fn written_anew(&self, aside: &[(TreePath, PathBuf)], mark: &[u8]) -> Outcome<Vec<TreePath>> {
        let doubtful = aside.iter().filter(|(path, aside)| {
            let place = self.app.join(path.as_path());
            let is_file = std::fs::symlink_metadata(&place).is_ok_and(|found| !found.is_dir());
            is_file && inode(aside) != inode(&place) && !is_same(aside, &place)
        });
        let doubtful: Vec<TreePath> = doubtful.map(|(path, _)| path.clone()).collect();
        if doubtful.is_empty() {
            return Ok(doubtful);
        }
        let Ok(commit) = CommitId::parse(String::from_utf8_lossy(mark).trim()) else { return Ok(doubtful) };
        let Some(mut files) = self.files(&commit)? else { return Ok(doubtful) };
        // The attributes decide what a checkout looks like.
        files.retain(|file, _| {
            doubtful.iter().any(|path| path.as_path() == file)
                || file.file_name().is_some_and(|name| name == ".gitattributes")
        });
        let differing = self.compare(&commit, &files, "put-back")?.differing;
        let mut anew = Vec::new();
        for path in doubtful {
            let by_reset = match (files.get(path.as_path()), differing.get(path.as_path())) {
                (Some(_), None | Some(Difference::Missing)) => true,
                (Some(file), Some(Difference::Content)) => self.is_begun(file, path.as_path())?,
                (None, _) | (Some(_), Some(_)) => false,
            };
            if !by_reset {
                anew.push(path);
            }
        }
        Ok(anew)
    }

    /// Tells whether the beginning of a commit's file lies in its place, as a checkout that was killed leaves it.
    fn is_begun(&self, file: &TreeEntry, path: &Path) -> Outcome<bool> {
        let place = self.app.join(path);
        if !std::fs::symlink_metadata(&place).is_ok_and(|found| found.is_file()) {
            return Ok(false);
        }
        let Some(bytes) = disk::read_if_there(&place)? else { return Ok(true) };
        let blob = self.git.at(&self.both()).args(["cat-file", "blob", &file.object]);
        let blob = self.git.runner().run(&blob.keep(Keep::Whole(1 << 30)))?;
        Ok(blob.succeeded() && blob.stdout.starts_with(&bytes))
    }

    fn put_one_back(&self, aside: &Path, path: &Path) -> Outcome<()> {
        let to = self.app.join(path);
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.make_way(parent)?;
        }
        if std::fs::symlink_metadata(&to).is_ok_and(|found| found.is_dir()) && !disk::remove_if_empty(&to)? {
            return Err(Failure::new(format!(
                "{} became a folder; its preserved content stays in {}",
                to.display(),
                aside.display()
            ))
            .hint("move it by hand, or take the pattern out of `preserve`"));
        }
        if inode(aside) == inode(&to) {
            // Two names of one file: rename(2) would do nothing and leave both.
            return disk::remove_file_if_there(aside);
        }
        if disk::try_move_over(aside, &to)? == Moved::Done {
            return Ok(());
        }
        let fresh = to.with_file_name(".ladylinux-refresh-put-back");
        disk::remove_file_if_there(&fresh)?;
        disk::copy_new(aside, &fresh)?;
        disk::move_over(&fresh, &to)?;
        disk::sync_file_system(&self.app)?;
        disk::remove_file_if_there(aside)
    }

    /// Makes the folders that `parent` consists of, each a real one.
    pub(super) fn make_way(&self, parent: &Path) -> Outcome<()> {
        let mut folder = self.app.clone();
        for part in parent.components() {
            folder.push(part);
            match std::fs::symlink_metadata(&folder) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    return Err(Failure::new(format!(
                        "{} is no folder, so a preserved file below it has no place",
                        folder.display()
                    ))
                    .hint("take the pattern out of `preserve`"));
                }
                Err(_) => disk::make_folder(&folder, 0o755)?,
            }
        }
        debug_assert!(is_there(&folder));
        Ok(())
    }
}

/// What a name stands for.
fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok()
}

/// Tells whether two links lead to the same place, or two files hold the same bytes.
fn is_same(one: &Path, other: &Path) -> bool {
    match (std::fs::read_link(one), std::fs::read_link(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), Err(_)) => {
            // A pipe must not even be opened: that would wait for a writer.
            let is_file = |path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
            is_file(one) && is_file(other) && matches!(same_bytes(one, other), Ok(Some(true)))
        }
        _ => false,
    }
}
