//! Reading a bundle: once, from its first byte to its last, each compared or digested. Nothing that the file says of
//! itself is believed for more than the next read.

use std::fs::File;
use std::io::{Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use super::blocks::{self, BLOCK, Block};
use super::header::{self, Header, Member};
use crate::error::{Context as _, Failure, Outcome};
use crate::process::interrupt;
use crate::report::shell::quoted_path;

/// A bundle whose header has been read and proved.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    length: u64,
    read: u64,
    digest: Sha256,
}

/// What a whole bundle turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Its sha256.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Reader {
    /// Opens a bundle and reads its header.
    ///
    /// # Errors
    /// It is no bundle, cut, altered, or of another version.
    pub(super) fn open(path: &Path) -> Outcome<(Self, Header)> {
        let told = || format!("cannot read {}", path.display());
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::options()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(path)
            .context(told)?;
        let found = file.metadata().context(told)?;
        if !found.is_file() {
            return Err(Failure::new(told()).because(Failure::new("it is no regular file")));
        }
        let length = found.len();
        let mut reader = Self { path: path.to_path_buf(), file, length, read: 0, digest: Sha256::new() };
        let header = reader.header()?;
        Ok((reader, header))
    }

    fn header(&mut self) -> Outcome<Header> {
        let first = self.block_or_none()?.ok_or_else(|| self.no_bundle())?;
        let name = header::HEADER.as_bytes();
        if !first.starts_with(name) || first[name.len()] != 0 {
            return Err(self.no_bundle());
        }
        let size = blocks::size_in(&first).filter(|size| *size <= header::LARGEST);
        let size = size.ok_or_else(|| self.altered("the size of its header cannot be"))?;
        if first != blocks::head(header::HEADER, size) {
            return Err(self.altered("its first block is not what it should be"));
        }
        let mut bytes = Vec::new();
        let sha256 = self.content(size, &mut bytes)?;
        let line = digest_line(&sha256);
        self.head(header::DIGEST, line.len() as u64)?;
        let mut said = Vec::new();
        self.content(line.len() as u64, &mut said)?;
        if said != line.as_bytes() {
            return Err(self.altered("its header is not what it was when it was made"));
        }
        let header = Header::parse(&bytes)?;
        let members = header
            .members
            .iter()
            .try_fold(self.read, |sum, member| sum.checked_add(blocks::room(member.size)?));
        let whole = members.and_then(|sum| sum.checked_add(blocks::END));
        match whole {
            Some(whole) if whole == self.length => Ok(header),
            Some(whole) if whole < self.length => Err(self.altered("something follows after its end")),
            Some(whole) => Err(self.cut(whole)),
            None => Err(self.altered("the sizes of its members cannot be")),
        }
    }

    /// Reads the next member, which has to be this one, into `sink`.
    ///
    /// # Errors
    /// Another member stands there, or its content is another.
    pub(super) fn member(&mut self, member: &Member, sink: &mut dyn Write) -> Outcome<()> {
        self.head(&member.name, member.size)?;
        let sha256 = self.content(member.size, sink)?;
        if sha256 == member.sha256 {
            return Ok(());
        }
        Err(self.altered(&format!("{} is not what it was when it was made", member.name)))
    }

    /// Reads what follows the last member.
    ///
    /// # Errors
    /// It is not the end.
    pub(super) fn end(mut self) -> Outcome<Whole> {
        self.zeros(blocks::END)?;
        Ok(Whole { sha256: hex::encode(self.digest.finalize()), size: self.read })
    }

    /// Reads a block that has to stand before this member.
    fn head(&mut self, name: &str, size: u64) -> Outcome<()> {
        let found = self.block()?;
        if found == blocks::head(name, size) {
            return Ok(());
        }
        let there = blocks::describe(&found);
        Err(if there == format!("{name:?}") {
            self.altered(&format!("what stands before {name} is not what it should be"))
        } else {
            self.altered(&format!("where {name} should be stands {there}"))
        })
    }

    /// Reads the content of a member and the zeros behind it; returns its digest.
    fn content(&mut self, size: u64, sink: &mut dyn Write) -> Outcome<String> {
        let mut digest = Sha256::new();
        let mut buffer = vec![0_u8; 128 << 10];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = self.some(&mut buffer[..most])?;
            digest.update(&buffer[..count]);
            sink.write_all(&buffer[..count]).context(|| "cannot unpack the bundle".to_owned())?;
            left -= count as u64;
            interrupt::check()?;
        }
        self.zeros(blocks::padding(size))?;
        Ok(hex::encode(digest.finalize()))
    }

    fn zeros(&mut self, count: u64) -> Outcome<()> {
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        let mut buffer = [0_u8; BLOCK];
        while left > 0 {
            let most = left.min(BLOCK);
            let read = self.some(&mut buffer[..most])?;
            if buffer[..read].iter().any(|byte| *byte != 0) {
                return Err(self.altered("there is something where nothing should be"));
            }
            left -= read;
        }
        Ok(())
    }

    fn block(&mut self) -> Outcome<Block> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            filled += self.some(&mut block[filled..])?;
        }
        Ok(block)
    }

    /// Reads the first block; `None` where the file does not have one.
    fn block_or_none(&mut self) -> Outcome<Option<Block>> {
        if self.length < BLOCK as u64 { Ok(None) } else { self.block().map(Some) }
    }

    /// Reads at least one byte.
    fn some(&mut self, buffer: &mut [u8]) -> Outcome<usize> {
        let told = || format!("cannot read {}", self.path.display());
        let count = self.file.read(buffer).context(told)?;
        if count == 0 {
            return Err(self.cut(self.length.max(self.read + 1)));
        }
        self.digest.update(&buffer[..count]);
        self.read += count as u64;
        Ok(count)
    }

    fn no_bundle(&self) -> Failure {
        Failure::new(format!("{} is no bundle of this program", self.path.display()))
            .hint("ladylinux-refresh bundle create --output FILE")
    }

    fn altered(&self, how: &str) -> Failure {
        self.told("has been altered", Failure::new(how))
    }

    fn cut(&self, whole: u64) -> Failure {
        let how = format!("it has {} bytes; whole it has at least {whole}", self.length);
        self.told("is cut", Failure::new(how))
    }

    fn told(&self, what: &str, why: Failure) -> Failure {
        let shown = self.path.display();
        Failure::new(format!("the bundle {shown} {what}"))
            .because(why)
            .hint(format!("compare on both machines: sha256sum {}", quoted_path(&self.path)))
            .hint("copy it again, or make it again: ladylinux-refresh bundle create --output FILE")
    }
}

/// The line that stands beside the header, as `sha256sum -c` reads it.
pub(super) fn digest_line(sha256: &str) -> String {
    format!("{sha256}  {}\n", header::HEADER)
}
