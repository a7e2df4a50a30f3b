//! Removal of files and directories. A part of the module that writes files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::{Context as _, Failure, Outcome};

use super::sync::sync_parent;

/// Removes a file or a link. A missing one is not an error.
///
/// # Errors
/// The kernel refuses.
pub fn remove_file_if_there(path: &Path) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::new(format!("cannot remove {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

/// Removes a file durably: it stays removed after a power cut.
///
/// # Errors
/// The kernel refuses, or the sync fails.
pub fn remove_file_durably(path: &Path) -> Outcome<()> {
    remove_file_if_there(path)?;
    sync_parent(path)
}

/// Removes an empty directory; returns whether it was empty (and was removed).
///
/// # Errors
/// The kernel refuses for a reason other than that the directory is not empty.
pub fn remove_if_empty(path: &Path) -> Outcome<bool> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => {
            Err(Failure::new(format!("cannot remove the directory {}", path.display())).because(error))
        }
    }
}

/// Removes a tree, also one whose directories are read-only, without following links. A missing tree is not an error.
///
/// # Errors
/// Something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Outcome<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Ok(found) if !found.is_dir() => return remove_file_if_there(path),
        _ => {}
    }
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    // Root needs no permissions, and must not change modes along paths that other users can turn into links meanwhile.
    if !rustix::process::geteuid().is_root() {
        open_directories(path);
    }
    fs::remove_dir_all(path).context(|| format!("cannot remove {}", path.display()))
}

/// Gives the owner back the right to change each directory of a tree; directories that cannot be changed are reported
/// by the removal.
fn open_directories(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_directories(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_tree_is_removed_and_links_in_it_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let kept = directory.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("weights"), b"w").unwrap();
        let tree = directory.path().join("tree/inner");
        fs::create_dir_all(&tree).unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("link")).unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o555)).unwrap();
        remove_tree(&directory.path().join("tree")).unwrap();
        assert!(!directory.path().join("tree").exists());
        assert!(kept.join("weights").exists());
    }
}
