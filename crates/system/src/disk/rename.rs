//! Changes of names: links, exchanges, moves and copies. A part of the module that writes files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxFlags, renameat, renameat_with, statat, statx};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::error::{Context as _, Failure, Outcome};

use super::removal::remove_file_if_there;
use super::sync::sync_parent;
use super::write::{beside, fill_new};

/// Points the symbolic link `link` to `target`, atomically and durably, whether or not it existed.
///
/// # Errors
/// `link` exists and is not a link, or the directory is not writable.
pub fn point_link(link: &Path, target: &Path) -> Outcome<()> {
    let context = || format!("cannot point {} to {}", link.display(), target.display());
    if fs::symlink_metadata(link).is_ok_and(|found| !found.is_symlink()) {
        return Err(Failure::new(format!("{} is not a symbolic link", link.display())));
    }
    let fresh = beside(link, "new");
    remove_file_if_there(&fresh)?;
    std::os::unix::fs::symlink(target, &fresh).context(context)?;
    fs::rename(&fresh, link).context(context)?;
    sync_parent(link)
}

/// Exchanges two names of one file system, atomically and durably (`RENAME_EXCHANGE`).
///
/// Some file systems cannot do that (NFS, 9p, older ZFS, some of FUSE). There `one` is missing for a moment, and its
/// content has the name of `other` meanwhile.
///
/// # Errors
/// One of the names is missing, or the kernel refuses.
pub fn exchange(one: &Path, other: &Path) -> Outcome<()> {
    let context = || format!("cannot exchange {} and {}", one.display(), other.display());
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Err(error) if lacks_flags(error) => exchange_in_steps(one, other).context(context)?,
        done => done.context(context)?,
    }
    sync_parent(one)?;
    sync_parent(other)
}

fn exchange_in_steps(one: &Path, other: &Path) -> std::io::Result<()> {
    let aside = beside(other, "new");
    fs::symlink_metadata(one)?;
    fs::rename(other, &aside)?;
    if let Err(error) = fs::rename(one, other) {
        let _ = fs::rename(&aside, other);
        return Err(error);
    }
    fs::rename(&aside, one)
}

/// Returns `true` for the errors of a file system that does not support the flags of `renameat2`. Source: renameat2(2).
fn lacks_flags(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// Renames to a name that must not exist (`RENAME_NOREPLACE`). On a file system without that flag it checks first.
/// Another process that creates the name between check and rename loses its file.
pub(super) fn rename_new<P: Arg + Copy, Q: Arg + Copy>(
    from: impl AsFd,
    name: P,
    to: impl AsFd,
    to_name: Q,
) -> rustix::io::Result<()> {
    match renameat_with(&from, name, &to, to_name, RenameFlags::NOREPLACE) {
        Err(error) if lacks_flags(error) => match statat(&to, to_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(&from, name, &to, to_name),
            Ok(_) => Err(Errno::EXIST),
            Err(error) => Err(error),
        },
        done => done,
    }
}

/// Moves `from` to `to`, which must not exist (`RENAME_NOREPLACE`). Not durable until the file system is synced.
///
/// # Errors
/// `to` exists, or the kernel refuses.
pub fn move_new(from: &Path, to: &Path) -> Outcome<()> {
    let context = || format!("cannot move {} to {}", from.display(), to.display());
    rename_new(CWD, from, CWD, to).context(context)
}

/// Moves `from` over `to`, replacing an existing file. Not durable until the file system is synced.
///
/// # Errors
/// The kernel refuses.
pub fn move_over(from: &Path, to: &Path) -> Outcome<()> {
    fs::rename(from, to).context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// Copies a regular file or a symbolic link, with its permission bits, to a new name.
///
/// # Errors
/// `to` exists, or one of the two cannot be read or written.
pub fn copy_new(from: &Path, to: &Path) -> Outcome<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    let found = fs::symlink_metadata(from).context(context)?;
    if found.is_symlink() {
        let target = fs::read_link(from).context(context)?;
        return std::os::unix::fs::symlink(target, to).context(context);
    }
    let mut source = fs::File::open(from).context(context)?;
    let copied = fill_new(to, found.permissions().mode() & 0o7777, false, |file| {
        std::io::copy(&mut source, file).map(drop).context(context)
    });
    copied.context(context)
}

/// Returns whether two paths are on the same device and mount, so that a rename can move a file between them.
///
/// # Errors
/// One of them is missing.
pub fn same_device(one: &Path, other: &Path) -> Outcome<bool> {
    let device = |path: &Path| {
        fs::symlink_metadata(path)
            .map(|found| found.dev())
            .context(|| format!("cannot read {}", path.display()))
    };
    Ok(device(one)? == device(other)? && mount_of(one) == mount_of(other))
}

/// Returns the number of the mount that a path is on; `None` if the kernel does not report it. The kernel refuses a
/// rename from one bind mount of a file system to another (rename(2), EXDEV).
fn mount_of(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_repointed_and_a_real_directory_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("venv");
        point_link(&link, Path::new("a")).unwrap();
        point_link(&link, Path::new("b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("b"));
        let real = directory.path().join("real");
        fs::create_dir(&real).unwrap();
        assert!(point_link(&real, Path::new("b")).is_err());
    }
}
