//! Copies a file from a place where another user can write to a place where that user cannot, and digests it meanwhile.
//! Only the copy is checked afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::error::{Context as _, Failure, Outcome};
use crate::interrupt;

use super::reading::open_with;
use super::write::fill_new;

/// The digest and the size of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Its sha256, in hexadecimal digits.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A reader or writer that digests all bytes that pass through it, and fails when the command is interrupted.
#[derive(Debug)]
pub struct Digested<T> {
    inner: T,
    digest: Sha256,
    size: u64,
}

impl<T> Digested<T> {
    /// Wraps a reader or writer before its first byte.
    pub fn new(inner: T) -> Self {
        Self { inner, digest: Sha256::new(), size: 0 }
    }

    /// Returns how many bytes have passed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest of all bytes that have passed.
    pub fn finish(self) -> Content {
        Content { sha256: hex::encode(self.digest.finalize()), size: self.size }
    }

    fn add(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        interrupt::check().map(|()| bytes.len()).map_err(std::io::Error::other)
    }
}

impl<T: Read> Read for Digested<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.add(&buffer[..count])
    }
}

impl<T: Write> Write for Digested<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.add(&bytes[..count])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Copies the file at `from` to the new file `to`, synced, with the permission bits `mode`. Another user who can write
/// at `from` cannot make this follow a link, wait for a pipe, read a device, or fill the disk with more than `limit`
/// bytes.
///
/// # Errors
/// `from` is not a regular file, is larger than `limit` or cannot be read; `to` exists or cannot be written. After an
/// error `to` does not exist, unless it existed before.
pub fn take_copy(from: &Path, to: &Path, mode: u32, limit: u64) -> Outcome<Content> {
    let context = || format!("cannot take in {}", from.display());
    let source = open_regular(from).context(context)?;
    fill_new(to, mode, true, |file| {
        let mut source = Digested::new(source.take(limit.saturating_add(1)));
        let copied = std::io::copy(&mut source, file);
        interrupt::check()?;
        copied.context(|| format!("cannot copy it to {}", to.display()))?;
        if source.size > limit {
            return Err(Failure::new(format!("it has more than {limit} bytes")));
        }
        Ok(source.finish())
    })
    .context(context)
}

/// Opens a regular file to read it. Does not follow a link in the last part of the path, and does not wait for a pipe.
///
/// # Errors
/// The path leads to something else, or the kernel refuses.
pub fn open_regular(path: &Path) -> Outcome<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_with(path, flags).context(|| "it cannot be opened".to_owned())?;
    if file.metadata().context(|| "it cannot be read".to_owned())?.is_file() {
        return Ok(file);
    }
    Err(Failure::new("it is not a regular file"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SHA256_OF_X: &str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

    #[test]
    fn a_copy_has_the_returned_digest_and_is_read_only() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "x").unwrap();
        let content = take_copy(&from, &to, 0o444, 1).unwrap();
        assert_eq!(content, Content { sha256: SHA256_OF_X.to_owned(), size: 1 });
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o7777, 0o444);
        assert!(take_copy(&from, &to, 0o444, 1).is_err(), "an existing file is not written over");
    }

    #[test]
    fn links_pipes_devices_directories_and_files_that_are_too_large_are_not_taken_in() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("large"), "xx").unwrap();
        std::os::unix::fs::symlink(at("large"), at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for name in ["large", "link", "device", "directory", "pipe", "missing"] {
            let failure = take_copy(&at(name), &at("to"), 0o444, 1).unwrap_err();
            assert!(failure.summary().contains(name), "{failure}");
            assert!(!at("to").exists(), "{name}");
        }
        assert!(take_copy(Path::new("/dev/zero"), &at("to"), 0o444, 1).is_err());
    }
}
