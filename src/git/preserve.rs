//! Puts preserved tracked files back: after the reset, and after a run that was killed before it could.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::disk::{self, Moved};
use crate::error::{Failure, Outcome};

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
    pub saved: super::path::TreePath,
}

/// Does the worker's side of [`OPERATION`]; returns how many files were put back.
///
/// # Errors
/// A file cannot be moved to its place.
pub fn handle(request: &Request) -> Outcome<usize> {
    let place = request.saved.as_path();
    let put_back = Tree::enter(&request.place).put_back(place)?;
    // Last, because it holds the mark that a reset had begun; the killed run's align needs it no more.
    disk::remove_tree(&saved::handoff(place))?;
    Ok(put_back.len())
}

impl Tree {
    /// Moves every preserved file that is still set aside to its place in the work tree. Doing it again changes
    /// nothing.
    pub(super) fn put_back(&self, place: &Path) -> Outcome<Vec<PathBuf>> {
        let Some(index) = saved::read(place)? else { return Ok(Vec::new()) };
        let reset_began = is_there(&saved::reset_mark(place));
        let mut done = Vec::new();
        for item in index.items.iter().filter(|item| item.kind == SavedKind::Preserved) {
            let Some(aside) = item.place_in(index.vault.as_path()) else { continue };
            checkpoint::reach("git:put back");
            if !reset_began && is_there(&self.app.join(item.path.as_path())) {
                // The file never left its place; since then somebody may have changed it.
                disk::remove_file_if_there(&aside)?;
                continue;
            }
            self.put_one_back(&aside, item.path.as_path())?;
            done.push(item.path.as_path().to_path_buf());
        }
        if !done.is_empty() {
            disk::sync_file_system(&self.app)?;
        }
        Ok(done)
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
        let inode =
            |path: &Path| std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
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
