//! The one door to writing files, and the knowledge of what has to be synced before it counts.
//!
//! Names: *atomic* means that a reader, or a machine after a power cut, sees the old state or the new one; *durable*
//! means that the new state is on the disk when the function returns. Source: rename(2), fsync(2), syncfs(2).
#![expect(clippy::disallowed_methods, reason = "this is the room that writes files")]

pub mod beneath;
pub mod mounts;
mod own;
mod reading;
mod stream;
mod taking;

pub use beneath::open_without_links;
pub use own::{Depth, Foreign, foreign, open_own, read_if_roots, read_own, read_own_json};
pub use reading::{is_directory, read_at_most, read_if_there, read_json};
pub use stream::write_by;
pub use taking::{Content, content_of_own, open_regular, take_copy};

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RenameFlags, renameat_with};
use rustix::process::Uid;
use serde::Serialize;

use crate::error::{Context as _, Failure, Outcome};
use crate::process::Owner;

/// Replaces the file at `path` by `bytes`, atomically and durably. `mode` is the new file's permission bits.
///
/// # Errors
/// The directory is missing or not writable, the disk is full, or a sync fails.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    write_whole(path, bytes, mode)?;
    sync_parent(path)
}

/// Replaces the file at `path` by `bytes`, atomically, but not durably: after a power cut it is the old one or the new one,
/// and whole.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    let context = || format!("cannot write {}", path.display());
    let fresh = beside(path, "new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(&fresh)
        .context(context)?;
    file.write_all(bytes).context(context)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).context(context)?;
    file.sync_all().context(context)?;
    fs::rename(&fresh, path).context(context)
}

/// Replaces the file at `path` by `bytes`, atomically for readers but not durably: for what no power cut outlives.
///
/// # Errors
/// The directory is missing or not writable, or the disk is full.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    let context = || format!("cannot write {}", path.display());
    let fresh = beside(path, "new");
    remove_file_if_there(&fresh)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).context(context)?;
    file.write_all(bytes).context(context)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).context(context)?;
    fs::rename(&fresh, path).context(context)
}

/// Writes a new file that nobody needs after a crash; not synced.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write_passing(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    let context = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).context(context)?;
    file.write_all(bytes).context(context)
}

/// Writes to a file of the kernel, which is there and takes orders (in a cgroup, for instance).
///
/// # Errors
/// The kernel does not take it.
pub fn order(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let context = || format!("cannot write to {}", path.display());
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes)).context(context)
}

/// Writes `value` as JSON to `path`, atomically and durably.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Outcome<()> {
    write_json_whole(path, value, mode)?;
    sync_parent(path)
}

/// Writes `value` as JSON to `path`, as [`write_whole`] does.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_json_whole<T: Serialize>(path: &Path, value: &T, mode: u32) -> Outcome<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).context(|| format!("cannot encode {}", path.display()))?;
    bytes.push(b'\n');
    write_whole(path, &bytes, mode)
}

/// Makes the directory and its parents, each new one with `mode`; one that is there is left as it is.
///
/// # Errors
/// A part of the path cannot be made.
pub fn make_directory(path: &Path, mode: u32) -> Outcome<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .context(|| format!("cannot make the directory {}", path.display()))
}

/// Makes one new directory; it must not be there yet.
///
/// # Errors
/// The directory exists, or cannot be made.
pub fn make_new_directory(path: &Path, mode: u32) -> Outcome<()> {
    let context = || format!("cannot make the directory {}", path.display());
    fs::DirBuilder::new().mode(mode).create(path).context(context)
}

/// Makes one new directory that belongs to `owner`; it must not be there yet. Whoever can exchange it meanwhile gets nothing
/// else made over or opened in its place.
///
/// # Errors
/// The directory exists, or cannot be made or given away.
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

/// Opens a directory that was only just made: no link, ours, and nothing in it.
fn open_own_directory(path: &Path) -> Outcome<File> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .context(|| "it was exchanged while it was made".to_owned())?;
    let found = file.metadata().context(|| "it cannot be looked at".to_owned())?;
    let is_empty = found.nlink() <= 2;
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o777 != 0o700 || !is_empty {
        return Err(Failure::new("it was exchanged while it was made"));
    }
    Ok(file)
}

/// Gives one file or directory (never what a link points to) to `owner`, where we are root and it is not theirs yet.
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

/// Points the symbolic link `link` to `target`, atomically and durably, whether or not it was there.
///
/// # Errors
/// `link` is something else than a link, or the directory is not writable.
pub fn point_link(link: &Path, target: &Path) -> Outcome<()> {
    let context = || format!("cannot point {} to {}", link.display(), target.display());
    match fs::symlink_metadata(link) {
        Ok(found) if !found.is_symlink() => {
            return Err(Failure::new(format!("{} is not a symbolic link", link.display())));
        }
        _ => {}
    }
    let fresh = beside(link, "new");
    remove_file_if_there(&fresh)?;
    std::os::unix::fs::symlink(target, &fresh).context(context)?;
    fs::rename(&fresh, link).context(context)?;
    sync_parent(link)
}

/// Swaps what two names of one file system stand for, atomically and durably (`RENAME_EXCHANGE`).
///
/// # Errors
/// One of the names is missing, or the file system cannot exchange.
pub fn exchange(one: &Path, other: &Path) -> Outcome<()> {
    renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, RenameFlags::EXCHANGE)
        .context(|| format!("cannot exchange {} and {}", one.display(), other.display()))?;
    sync_parent(one)?;
    sync_parent(other)
}

/// What became of an attempt to move something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It is at its new place.
    Done,
    /// The new place is on another file system; nothing was changed.
    OtherFileSystem,
}

/// Moves `from` to `to`, which must not exist (`RENAME_NOREPLACE`). Not durable until the file system is synced.
///
/// # Errors
/// `to` exists, or the kernel refuses for another reason than that the two are on different file systems.
pub fn move_new(from: &Path, to: &Path) -> Outcome<Moved> {
    match renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Moved::Done),
        Err(rustix::io::Errno::XDEV) => Ok(Moved::OtherFileSystem),
        Err(error) => {
            Err(Failure::new(format!("cannot move {} to {}", from.display(), to.display())).because(error))
        }
    }
}

/// Moves `from` over `to`, replacing a file that is there. Not durable until the file system is synced.
///
/// # Errors
/// The kernel refuses.
pub fn move_over(from: &Path, to: &Path) -> Outcome<()> {
    fs::rename(from, to).context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// As [`move_over`], telling where the new place can only be reached by a copy: another file system, or another mount of
/// the same one, which no comparison of devices shows.
///
/// # Errors
/// The kernel refuses for another reason.
pub fn try_move_over(from: &Path, to: &Path) -> Outcome<Moved> {
    match fs::rename(from, to) {
        Ok(()) => Ok(Moved::Done),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => Ok(Moved::OtherFileSystem),
        Err(error) => {
            Err(Failure::new(format!("cannot move {} to {}", from.display(), to.display())).because(error))
        }
    }
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
    let mut source = OpenOptions::new().read(true).open(from).context(context)?;
    let mut fresh = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).context(context)?;
    std::io::copy(&mut source, &mut fresh).context(context)?;
    fresh.set_permissions(fs::Permissions::from_mode(found.permissions().mode() & 0o7777)).context(context)
}

/// Sets the permission bits of a file or directory; what a link points to is never changed.
///
/// # Errors
/// `path` is a link, is missing, or belongs to somebody else.
pub fn set_mode(path: &Path, mode: u32) -> Outcome<()> {
    let context = || format!("cannot change the mode of {}", path.display());
    if fs::symlink_metadata(path).context(context)?.is_symlink() {
        return Err(Failure::new(format!("{} is a symbolic link", path.display())));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(context)
}

/// Removes a file or a link; that it is missing already is no error.
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

/// Removes a file durably: after a power cut it is still gone.
///
/// # Errors
/// The kernel refuses, or the sync fails.
pub fn remove_file_durably(path: &Path) -> Outcome<()> {
    remove_file_if_there(path)?;
    sync_parent(path)
}

/// Removes an empty directory; tells whether it was empty (and is gone).
///
/// # Errors
/// The kernel refuses for another reason than that something is in it.
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

/// Removes a whole tree, also one whose directories are read-only, without following links; that it is missing already
/// is no error.
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
    // Root needs no rights, and must not change modes along paths that somebody else can turn into links meanwhile.
    if !rustix::process::geteuid().is_root() {
        open_directories(path);
    }
    fs::remove_dir_all(path).context(|| format!("cannot remove {}", path.display()))
}

/// Gives the owner back the right to change each directory of a tree; what cannot be changed shows at the removal.
fn open_directories(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_directories(&entry.path());
        }
    }
}

/// Opens a file to append to, making it with `mode` where it is missing.
///
/// # Errors
/// It cannot be opened.
pub fn open_append(path: &Path, mode: u32) -> Outcome<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .open(path)
        .context(|| format!("cannot open {}", path.display()))
}

/// Opens a file of the tool's own state to append to, making it with `mode` where it is missing.
///
/// # Errors
/// As [`open_own`].
pub fn append_own(path: &Path, mode: u32) -> Outcome<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    open_own(path, flags, Mode::from_raw_mode(mode))?
        .ok_or_else(|| Failure::new(format!("cannot open {}", path.display())))
}

/// Opens a file to lock: read and write, never truncated, never unlinked.
///
/// Nobody else may even read it: whoever can open a file can lock it (flock(2)), and the service could hold up every run.
///
/// # Errors
/// It cannot be opened, is a link, or root asks and others decide on it.
pub fn open_lock(path: &Path) -> Outcome<File> {
    let context = || format!("cannot open {}", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE;
    let file = open_own(path, flags, Mode::from_raw_mode(0o600))?.ok_or_else(|| Failure::new(context()))?;
    if file.metadata().context(context)?.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600)).context(context)?;
    }
    Ok(file)
}

/// Syncs the directory that holds `path`, so that a rename or removal in it is durable.
///
/// # Errors
/// The sync fails.
pub fn sync_parent(path: &Path) -> Outcome<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    open_directory(directory)
        .and_then(|directory| directory.sync_all())
        .context(|| format!("cannot sync the directory {}", directory.display()))
}

/// Opens a directory and nothing else: what others put in its place, such as a pipe, is an error and no wait.
fn open_directory(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Syncs the whole file system that the directory `path` lies on (syncfs(2)): git and the installers do not sync what they write.
///
/// # Errors
/// `path` is missing, or a write to its disk failed.
pub fn sync_file_system(path: &Path) -> Outcome<()> {
    let context = || format!("cannot sync the file system of {}", path.display());
    let file = open_directory(path).context(context)?;
    rustix::fs::syncfs(&file).context(context)
}

/// Returns whether two paths lie on the same device.
///
/// # Errors
/// One of them is missing.
pub fn same_device(one: &Path, other: &Path) -> Outcome<bool> {
    let device = |path: &Path| {
        fs::symlink_metadata(path)
            .map(|found| found.dev())
            .context(|| format!("cannot look at {}", path.display()))
    };
    Ok(device(one)? == device(other)?)
}

/// Removes what processes that were killed while they wrote a file left beside it. What a living process is writing stays.
///
/// # Errors
/// The directory cannot be read, or the kernel refuses.
pub fn sweep_unwritten(directory: &Path) -> Outcome<()> {
    let context = || format!("cannot look into {}", directory.display());
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        listed => listed.context(context)?,
    };
    for entry in listed {
        let path = entry.context(context)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some((_, writer)) = name.strip_prefix('.').and_then(|name| name.rsplit_once(".new-")) else {
            continue;
        };
        if !Path::new("/proc").join(writer).exists() {
            remove_file_if_there(&path)?;
        }
    }
    Ok(())
}

/// The name for the next version of a file, in the same directory: hidden, and of this process alone.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}-{}", rustix::process::getpid().as_raw_nonzero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_was_writing_is_swept_away_and_what_a_living_one_writes_stays() {
        let directory = tempfile::tempdir().unwrap();
        let living = beside(&directory.path().join("a"), "new");
        for path in
            [&living, &directory.path().join(".a.new-999999999"), &directory.path().join("a.new-999999999")]
        {
            write_passing(path, b"", 0o600).unwrap();
        }
        sweep_unwritten(directory.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [living, directory.path().join("a.new-999999999")]);
        sweep_unwritten(&directory.path().join("nothing")).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_was_exchanged_while_it_was_made_is_left_alone() {
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

    #[test]
    fn a_link_is_repointed_and_a_real_folder_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("venv");
        point_link(&link, Path::new("a")).unwrap();
        point_link(&link, Path::new("b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("b"));
        let real = directory.path().join("real");
        fs::create_dir(&real).unwrap();
        assert!(point_link(&real, Path::new("b")).is_err());
    }

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
