//! Reads a bundle once, from its first byte to its last, and compares or digests each byte. The content of the file is
//! trusted only for the next read.

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use refresh_system::disk;
use refresh_system::disk::{Content, Digested};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::interrupt;
use refresh_system::text::quoted_path;

use super::archive::{self, BLOCK, END, Header, Member};

/// A bundle whose header has been read and verified.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: Digested<File>,
    length: u64,
}

impl Reader {
    /// Opens a bundle and reads its header.
    ///
    /// # Errors
    /// It is not a bundle, or it is truncated, altered, or of another version.
    pub(super) fn open(path: &Path) -> Outcome<(Self, Header)> {
        let context = || format!("cannot read {}", path.display());
        let file = disk::open_with(path, OFlags::NONBLOCK | OFlags::NOCTTY).context(context)?;
        let found = file.metadata().context(context)?;
        if !found.is_file() {
            return Err(Failure::new(context()).because(Failure::new("it is not a regular file")));
        }
        let mut reader = Self { path: path.to_path_buf(), file: Digested::new(file), length: found.len() };
        let header = reader.header()?;
        Ok((reader, header))
    }

    fn header(&mut self) -> Outcome<Header> {
        let not_a_bundle = || {
            Failure::new(format!("{} is no bundle of this program", self.path.display()))
                .command("ladylinux-refresh bundle create --output FILE", &[])
        };
        if self.length < BLOCK {
            return Err(not_a_bundle());
        }
        let mut first = tar::Header::new_old();
        self.file
            .read_exact(first.as_mut_bytes())
            .context(|| format!("cannot read {}", self.path.display()))?;
        if first.path_bytes() != archive::HEADER.as_bytes() {
            return Err(not_a_bundle());
        }
        let size = first.entry_size().ok().filter(|size| *size <= archive::LARGEST_HEADER);
        let size = size.ok_or_else(|| self.altered("the size of its header cannot be"))?;
        if first.as_bytes() != archive::block(archive::HEADER, size)?.as_bytes() {
            return Err(self.altered("its first block is damaged"));
        }
        let mut bytes = Vec::new();
        let sha256 = self.content(size, &mut bytes)?;
        let (line, mut found) = (archive::digest_line(&sha256), Vec::new());
        self.block(archive::DIGEST, line.len() as u64)?;
        self.content(line.len() as u64, &mut found)?;
        if found != line.as_bytes() {
            return Err(self.altered("its header does not match its checksum"));
        }
        let header = Header::parse(&bytes)?;
        // No sum of these sizes, each of them checked, exceeds 64 bits.
        let members: u64 =
            header.members.iter().map(|member| BLOCK + member.size.next_multiple_of(BLOCK)).sum();
        match self.file.size() + members + END {
            complete if complete < self.length => Err(self.altered("data follows after its end")),
            complete if complete > self.length => Err(self.cut(complete)),
            _ => Ok(header),
        }
    }

    /// Reads the next member, which must be this one, into `sink`.
    ///
    /// # Errors
    /// The file has another member there, or its content differs.
    pub(super) fn member(&mut self, member: &Member, sink: &mut dyn Write) -> Outcome<()> {
        self.block(&member.name, member.size)?;
        if self.content(member.size, sink)? == member.sha256 {
            return Ok(());
        }
        Err(self.altered(&format!("{} does not match its checksum", member.name)))
    }

    /// Reads the end of the archive after the last member.
    ///
    /// # Errors
    /// Something else follows.
    pub(super) fn end(mut self) -> Outcome<Content> {
        self.zeros(END)?;
        Ok(self.file.finish())
    }

    /// Reads the block that must precede this member.
    fn block(&mut self, name: &str, size: u64) -> Outcome<()> {
        let (expected, mut found) = (archive::block(name, size)?, Vec::new());
        self.pass(BLOCK, &mut found)?;
        if found == expected.as_bytes() {
            return Ok(());
        }
        let found = tar::Header::from_byte_slice(&found);
        let kind = found.entry_type();
        let is_member = found.as_ustar().is_some() && kind.is_file();
        Err(if is_member && found.path_bytes() == name.as_bytes() {
            self.altered(&format!("the header of {name} is damaged"))
        } else {
            self.altered(&format!("it has {} in the place of {name}", archive::describe(found)))
        })
    }

    /// Reads the content of a member and the zeros after it; returns its digest.
    fn content(&mut self, size: u64, sink: &mut dyn Write) -> Outcome<String> {
        let mut sink = Digested::new(sink);
        self.pass(size, &mut sink)?;
        self.zeros(size.next_multiple_of(BLOCK) - size)?;
        Ok(sink.finish().sha256)
    }

    fn zeros(&mut self, count: u64) -> Outcome<()> {
        let mut bytes = Vec::new();
        self.pass(count, &mut bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            Err(self.altered("its padding is not empty"))
        } else {
            Ok(())
        }
    }

    /// Reads exactly `count` bytes into `sink`.
    fn pass(&mut self, count: u64, sink: &mut dyn Write) -> Outcome<()> {
        let copied = std::io::copy(&mut (&mut self.file).take(count), sink);
        interrupt::check()?;
        let copied = copied.context(|| format!("cannot unpack {}", self.path.display()))?;
        if copied == count { Ok(()) } else { Err(self.cut(self.length.max(self.file.size() + 1))) }
    }

    fn altered(&self, how: &str) -> Failure {
        self.refused("has been altered", how)
    }

    fn cut(&self, complete: u64) -> Failure {
        self.refused(
            "is cut",
            &format!("it has {} bytes; a complete one has at least {complete}", self.length),
        )
    }

    fn refused(&self, what: &str, why: &str) -> Failure {
        Failure::new(format!("the bundle {} {what}", self.path.display()))
            .because(Failure::new(why))
            .hint(format!("compare on both machines: sha256sum {}", quoted_path(&self.path)))
            .command_for(
                "copy it again, or create it again",
                "ladylinux-refresh bundle create --output FILE",
                &[],
            )
    }
}
