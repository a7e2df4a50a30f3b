//! Writing of files. A part of the module that writes files.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::error::{Context as _, Failure, Outcome};

use super::own::open_own;
use super::removal::remove_file_if_there;
use super::sync::sync_parent;

/// Creates the file `path`, which must not exist, with the permission bits `mode`. If `is_synced`, the content that
/// `write` writes is synced. After a failure the file does not exist.
pub(super) fn fill_new<T>(
    path: &Path,
    mode: u32,
    is_synced: bool,
    write: impl FnOnce(&mut File) -> Outcome<T>,
) -> Outcome<T> {
    let context = || format!("cannot write {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).context(context)?;
    let written = write(&mut file).and_then(|value| {
        file.set_permissions(fs::Permissions::from_mode(mode)).context(context)?;
        if is_synced {
            file.sync_all().context(context)?;
        }
        Ok(value)
    });
    if written.is_err() {
        let _ = remove_file_if_there(path);
    }
    written
}

/// Replaces the file at `path` by the content that `write` writes, atomically. If that fails, the old file stays and no
/// temporary file is left.
fn replace<T>(
    path: &Path,
    mode: u32,
    is_synced: bool,
    write: impl FnOnce(&mut File) -> Outcome<T>,
) -> Outcome<T> {
    let fresh = beside(path, "new");
    remove_file_if_there(&fresh)?;
    let value = fill_new(&fresh, mode, is_synced, write)?;
    if let Err(error) = fs::rename(&fresh, path) {
        let _ = remove_file_if_there(&fresh);
        return Err(Failure::new(format!("cannot write {}", path.display())).because(error));
    }
    Ok(value)
}

fn write_all<'a>(path: &'a Path, bytes: &'a [u8]) -> impl FnOnce(&mut File) -> Outcome<()> + 'a {
    move |file| file.write_all(bytes).context(|| format!("cannot write {}", path.display()))
}

/// Replaces the file at `path` by `bytes`, atomically and durably. `mode` is the new file's permission bits.
///
/// # Errors
/// The directory is missing or not writable, the disk is full, or a sync fails.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    replace_file(path, bytes, mode)?;
    sync_parent(path)
}

/// Replaces the file at `path` by the content that `fill` writes, atomically and durably: for files too large for
/// memory.
///
/// # Errors
/// As [`write_atomic`], or `fill` fails.
pub fn write_by<T>(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> Outcome<T>) -> Outcome<T> {
    let value = replace(path, mode, true, fill)?;
    sync_parent(path).map(|()| value)
}

/// Replaces the file at `path` by `bytes`, atomically, but not durably: after a power cut it is the old one or the new
/// one, and complete.
///
/// # Errors
/// As [`write_atomic`].
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    replace(path, mode, true, write_all(path, bytes))
}

/// Replaces the file at `path` by `bytes`, atomically for readers but not durably: for content that is not needed after
/// a power cut.
///
/// # Errors
/// The directory is missing or not writable, or the disk is full.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    replace(path, mode, false, write_all(path, bytes))
}

/// Writes a new file that has no use after a crash; not synced.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write_unsynced(path: &Path, bytes: &[u8], mode: u32) -> Outcome<()> {
    fill_new(path, mode, false, write_all(path, bytes))
}

/// Writes to an existing file of the kernel that accepts commands (in a cgroup, for instance).
///
/// # Errors
/// The kernel refuses the bytes.
pub fn order(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let context = || format!("cannot write to {}", path.display());
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes)).context(context)
}

/// Writes `value` as JSON to `path`, atomically and durably.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Outcome<()> {
    replace_json(path, value, mode)?;
    sync_parent(path)
}

/// Writes `value` as JSON to `path`, as [`replace_file`] does.
///
/// # Errors
/// As [`write_atomic`].
pub fn replace_json<T: Serialize>(path: &Path, value: &T, mode: u32) -> Outcome<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).context(|| format!("cannot encode {}", path.display()))?;
    bytes.push(b'\n');
    replace_file(path, &bytes, mode)
}

/// Opens a file to append to. Creates it with `mode` if it is missing.
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

/// Opens a file of the tool's own state to append to. Creates it with `mode` if it is missing.
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
/// Other users cannot even read it: a program that can open a file can lock it (flock(2)), and then the service could
/// block every run.
///
/// # Errors
/// It cannot be opened, is a link, or the caller is root and other users control it.
pub fn open_lock(path: &Path) -> Outcome<File> {
    let context = || format!("cannot open {}", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE;
    let file = open_own(path, flags, Mode::from_raw_mode(0o600))?.ok_or_else(|| Failure::new(context()))?;
    if file.metadata().context(context)?.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600)).context(context)?;
    }
    Ok(file)
}

/// Removes the temporary files of processes that were killed while they wrote a file. The files of living processes
/// stay.
///
/// # Errors
/// The directory cannot be read, or the kernel refuses.
pub fn sweep_unwritten(directory: &Path) -> Outcome<()> {
    let context = || format!("cannot read {}", directory.display());
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

/// The name for the next version of a file, in the same directory: hidden, and used only by this process.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}-{}", rustix::process::getpid().as_raw_nonzero()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_of_a_killed_process_are_removed_and_those_of_a_living_one_stay() {
        let directory = tempfile::tempdir().unwrap();
        let living = beside(&directory.path().join("a"), "new");
        for path in
            [&living, &directory.path().join(".a.new-999999999"), &directory.path().join("a.new-999999999")]
        {
            write_unsynced(path, b"", 0o600).unwrap();
        }
        sweep_unwritten(directory.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [living, directory.path().join("a.new-999999999")]);
        sweep_unwritten(&directory.path().join("nothing")).unwrap();
    }

    #[test]
    fn a_file_is_replaced_completely_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_incomplete_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let put = |text: &'static [u8]| move |file: &mut File| file.write_all(text).context(String::new);
        write_by(&path, 0o644, put(b"one")).unwrap();
        let failed = write_by(&path, 0o644, |file| {
            put(b"tw")(file)?;
            Err::<(), _>(Failure::new("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_by(&path, 0o644, put(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
