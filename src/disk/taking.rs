//! Taking in a file that lies where somebody else can write: it is copied out of their reach while it is digested, and
//! only the copy is judged.
#![expect(clippy::disallowed_methods, reason = "this is part of the room that writes files")]

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::error::{Context as _, Failure, Outcome};
use crate::process::interrupt;

/// What a file holds, as far as that tells it from every other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its sha256, in hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Copies the file at `from` to the new file `to`, synced, with the permission bits `mode`, and tells what was copied.
/// Whoever can write at `from` cannot make this follow a link, wait for a pipe, read a device, or fill the disk with more
/// than `limit` bytes.
///
/// # Errors
/// `from` is no regular file, is larger than `limit` or cannot be read; `to` exists or cannot be written. Then there is
/// no `to`, unless it was there before.
pub fn take_copy(from: &Path, to: &Path, mode: u32, limit: u64) -> Outcome<Content> {
    let context = || format!("cannot take in {}", from.display());
    let source = open_regular(from).context(context)?;
    let mut fresh = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .context(|| format!("cannot write {}", to.display()))?;
    let copied = digest_of(source, limit, |bytes| {
        fresh.write_all(bytes).context(|| format!("cannot write {}", to.display()))
    })
    .and_then(|content| {
        let context = || format!("cannot write {}", to.display());
        fresh.set_permissions(Permissions::from_mode(mode)).context(context)?;
        fresh.sync_all().context(context)?;
        Ok(content)
    });
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied.context(context)
}

/// Reads a file of the tool's own and tells what it holds. It has to be what the tool has put there: a regular file of
/// our own user that nobody may write to.
///
/// # Errors
/// It is missing, is something else, or cannot be read.
pub fn content_of_own(path: &Path) -> Outcome<Content> {
    let file = open_regular(path)?;
    let found = file.metadata().context(|| "it cannot be looked at".to_owned())?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Failure::new(format!("it belongs to uid {}", found.uid())));
    }
    if found.mode() & 0o222 != 0 {
        return Err(Failure::new(format!("it can be written to (mode {:o})", found.mode() & 0o7777)));
    }
    digest_of(file, u64::MAX, |_| Ok(()))
}

/// Opens a regular file to read it. Does not follow a link in the last part of the path, and does not wait for a pipe.
///
/// # Errors
/// The path leads to something else, or the kernel refuses.
pub fn open_regular(path: &Path) -> Outcome<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path)
        .context(|| "it cannot be opened".to_owned())?;
    if file.metadata().context(|| "it cannot be looked at".to_owned())?.is_file() {
        return Ok(file);
    }
    Err(Failure::new("it is no regular file"))
}

fn digest_of(mut file: File, limit: u64, mut pass_on: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<Content> {
    let (mut state, mut size) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0_u8; 128 << 10];
    loop {
        interrupt::check()?;
        let count = file.read(&mut buffer).context(|| "it cannot be read".to_owned())?;
        if count == 0 {
            return Ok(Content { sha256: hex::encode(state.finalize()), size });
        }
        size += count as u64;
        if size > limit {
            return Err(Failure::new(format!("it has more than {limit} bytes")));
        }
        state.update(&buffer[..count]);
        pass_on(&buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SHA256_OF_X: &str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

    #[test]
    fn what_is_copied_is_what_is_told_and_nobody_can_write_it() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "x").unwrap();
        let content = take_copy(&from, &to, 0o444, 1).unwrap();
        assert_eq!(content, Content { sha256: SHA256_OF_X.to_owned(), size: 1 });
        assert_eq!(content_of_own(&to).unwrap(), content);
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o7777, 0o444);
        assert!(take_copy(&from, &to, 0o444, 1).is_err(), "what is there is not written over");
        assert!(content_of_own(&from).unwrap_err().summary().contains("can be written to"));
    }

    #[test]
    fn links_pipes_devices_directories_and_files_that_are_too_large_are_not_taken_in() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("large"), "xx").unwrap();
        std::os::unix::fs::symlink(at("large"), at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for name in ["large", "link", "device", "folder", "pipe", "missing"] {
            let failure = take_copy(&at(name), &at("to"), 0o444, 1).unwrap_err();
            assert!(failure.summary().contains(name), "{failure}");
            assert!(!at("to").exists(), "{name}");
        }
        assert!(take_copy(Path::new("/dev/zero"), &at("to"), 0o444, 1).is_err());
    }
}
