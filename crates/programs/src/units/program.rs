//! The file that units execute: a copy of the running program in a directory that root owns, which other users can
//! execute but not read. The kernel lets no process of the same user trace such a process or read its `/proc/PID/root`.
//! The module writes this one file.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// Executable by all, readable only by root.
const MODE: u32 = 0o711;

/// Returns the copy of the running program `own`; makes it if it is missing or differs.
///
/// # Errors
/// The copy cannot be written.
pub(super) fn ensure(layout: &Layout, own: &Path) -> Outcome<PathBuf> {
    // Several threads can start units at the same time.
    static WRITER: Mutex<()> = Mutex::new(());
    let _writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let copy = layout.state().join("program");
    let context = || format!("cannot copy this program to {}", copy.display());
    let mut source = File::open(own).context(context)?;
    let found = source.metadata().context(context)?;
    let written = found.modified().context(context)?;
    if is_copy(&copy, found.len(), written) {
        return Ok(copy);
    }
    disk::write_by(&copy, MODE, |file| {
        std::io::copy(&mut source, file).context(context)?;
        file.set_permissions(fs::Permissions::from_mode(MODE)).context(context)?;
        file.set_modified(written).context(context)
    })?;
    Ok(copy)
}

/// Returns whether the file is ours, unreadable for others, and has the length and the time of its original.
fn is_copy(copy: &Path, length: u64, written: SystemTime) -> bool {
    fs::symlink_metadata(copy).is_ok_and(|found| {
        found.is_file()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o7777 == MODE
            && found.len() == length
            && found.modified().is_ok_and(|time| time == written)
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out a program")]
mod tests {
    use super::*;

    #[test]
    fn simultaneous_threads_all_get_the_copy() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        fs::create_dir_all(layout.state()).unwrap();
        let own = root.path().join("own");
        for round in 0..100 {
            fs::write(&own, format!("version {round}").repeat(1000)).unwrap();
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ensure(&layout, &own))).collect();
                for thread in threads {
                    thread.join().unwrap().unwrap();
                }
            });
        }
    }

    #[test]
    fn the_copy_is_made_once_and_again_when_the_program_changes() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        fs::create_dir_all(layout.state()).unwrap();
        let own = root.path().join("own");
        fs::write(&own, "one").unwrap();
        let copy = ensure(&layout, &own).unwrap();
        let first = fs::metadata(&copy).unwrap();
        assert_eq!((first.mode() & 0o7777, fs::read(&copy).unwrap()), (MODE, b"one".to_vec()));
        assert_eq!(fs::metadata(ensure(&layout, &own).unwrap()).unwrap().ino(), first.ino());
        fs::write(&own, "other").unwrap();
        ensure(&layout, &own).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"other");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        ensure(&layout, &own).unwrap();
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, MODE);
    }
}
