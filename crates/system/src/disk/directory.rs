//! New directories, owners and modes. A part of the module that writes files.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::Uid;

use crate::error::{Context as _, Failure, Outcome};

use super::owner::Owner;
use super::reading::open_with;

/// Creates the directory and its parents, each new one with `mode`. Existing directories are left unchanged.
///
/// # Errors
/// A part of the path cannot be created.
pub fn make_directory(path: &Path, mode: u32) -> Outcome<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .context(|| format!("cannot make the directory {}", path.display()))
}

/// Creates one new directory; it must not exist yet.
///
/// # Errors
/// The directory exists, or cannot be created.
pub fn make_new_directory(path: &Path, mode: u32) -> Outcome<()> {
    let context = || format!("cannot make the directory {}", path.display());
    fs::DirBuilder::new().mode(mode).create(path).context(context)
}

/// Creates one new directory that belongs to `owner`; it must not exist yet. If a program exchanges it meanwhile, the
/// replacement gets no new owner or mode.
///
/// # Errors
/// The directory exists, or cannot be created or given away.
pub fn make_owned_directory(path: &Path, mode: u32, owner: &Owner) -> Outcome<()> {
    let context = || format!("cannot make the directory {}", path.display());
    fs::DirBuilder::new().mode(0o700).create(path).context(context)?;
    let directory = open_own_directory(path).context(context)?;
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
        rustix::fs::fchown(&directory, Some(uid), Some(gid)).context(context)?;
    }
    directory.set_permissions(fs::Permissions::from_mode(mode)).context(context)
}

/// Opens a directory that was only just created: it is not a link, it is ours, and it is empty.
fn open_own_directory(path: &Path) -> Outcome<File> {
    let file = open_with(path, OFlags::NOFOLLOW | OFlags::DIRECTORY)
        .context(|| "another program replaced it while it was created".to_owned())?;
    let found = file.metadata().context(|| "it cannot be read".to_owned())?;
    let is_empty = found.nlink() <= 2;
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o777 != 0o700 || !is_empty {
        return Err(Failure::new("another program replaced it while it was created"));
    }
    Ok(file)
}

/// Makes `owner` the owner of one file or directory (never of the target of a link), if we are root and it is not
/// theirs yet.
///
/// # Errors
/// The kernel refuses.
pub fn give(path: &Path, owner: &Owner) -> Outcome<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .context(|| format!("cannot give {} to uid {}", path.display(), owner.uid))
}

/// Sets the permission bits of a file or directory; the target of a link is never changed.
///
/// # Errors
/// `path` is a link, is missing, or belongs to another user.
pub fn set_mode(path: &Path, mode: u32) -> Outcome<()> {
    let context = || format!("cannot change the mode of {}", path.display());
    if fs::symlink_metadata(path).context(context)?.is_symlink() {
        return Err(Failure::new(format!("{} is a symbolic link", path.display())));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_replaced_while_it_was_made_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&other, directory.path().join("link")).unwrap();
        assert!(open_own_directory(&directory.path().join("link")).is_err());
        assert!(open_own_directory(&other).is_err(), "it is not one that was just made");
        let fresh = directory.path().join("fresh");
        make_owned_directory(&fresh, 0o755, &Owner::own()).unwrap();
        assert_eq!(fs::metadata(&fresh).unwrap().permissions().mode() & 0o7777, 0o755);
    }
}
