//! Writing files that are too large to be held in memory.
#![expect(clippy::disallowed_methods, reason = "this is the room that writes files")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{beside, remove_file_if_there, sync_parent};
use crate::error::{Context as _, Outcome};

/// Replaces the file at `path` by what `fill` writes, atomically and durably. Where that fails, the old one stays and
/// nothing is left beside it. `mode` is the new file's permission bits.
///
/// # Errors
/// As [`super::write_atomic`], or `fill` fails.
pub fn write_by(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> Outcome<()>) -> Outcome<()> {
    let context = || format!("cannot write {}", path.display());
    let fresh = beside(path, "new");
    remove_file_if_there(&fresh)?;
    let mut sink =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).context(context)?;
    let written = fill(&mut sink)
        .and_then(|()| sink.sync_all().context(context))
        .and_then(|()| fs::rename(&fresh, path).context(context));
    if written.is_err() {
        remove_file_if_there(&fresh)?;
    }
    written?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::error::Failure;

    #[test]
    fn what_cannot_be_written_to_its_end_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let put = |text: &'static [u8]| move |file: &mut File| file.write_all(text).context(String::new);
        write_by(&path, 0o644, put(b"one")).unwrap();
        let failed = write_by(&path, 0o644, |file| {
            put(b"tw")(file)?;
            Err(Failure::new("no more"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_by(&path, 0o644, put(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
