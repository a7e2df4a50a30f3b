//! Making a bundle: everything that a refresh of one branch needs, in one file.
//!
//! What is missing in the tool's own stores is fetched first, as staging would.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use sha2::{Digest as _, Sha256};

use super::blocks;
use super::header::{self, Header, Member, Platform, SCHEMA};
use super::read::{Whole, digest_line};
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::installation::Installation;
use crate::process::interrupt;
use crate::python::Wanted;
use crate::python::bundled::Provided;
use crate::report::shell::quoted;
use crate::settings::names::{BranchName, CommitId, RunId};

/// A member that is going to be written.
struct Coming {
    member: Member,
    from: PathBuf,
}

/// Makes sure that `output` can be written, before anything is fetched for it.
///
/// # Errors
/// Something else is there, or its directory is missing or may not be written to.
pub fn check_output(output: &Path) -> Outcome<()> {
    if output.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(Failure::new(format!("{} is there and no regular file", output.display())));
    }
    let directory = output.parent().unwrap_or(output);
    if !disk::is_directory(directory)? {
        return Err(Failure::new(format!("there is no directory {}", directory.display()))
            .hint(format!("mkdir -p {}", quoted(&directory.display().to_string()))));
    }
    rustix::fs::access(directory, Access::WRITE_OK)
        .context(|| format!("{} is not writable", directory.display()))
}

/// Packs a branch into `output`. The caller holds the lock of the runs.
///
/// # Errors
/// Something that is needed cannot be had, or the file cannot be written; then `output` is what it was.
pub fn create(on: &Installation, branch: &BranchName, output: &Path) -> Outcome<(Header, Whole)> {
    check_output(output)?;
    let run = RunId::new(clock::now(), std::process::id());
    let commit = on.mirror.ensure(&run, branch)?;
    let scratch = on.layout.cache().join("bundle-create");
    let packed = pack(on, branch, &commit, &scratch, output);
    let tidied = interrupt::shielded(|| {
        disk::remove_tree(&scratch)?;
        on.mirror.release(&run)
    });
    let packed = packed?;
    tidied?;
    Ok(packed)
}

fn pack(
    on: &Installation,
    branch: &BranchName,
    commit: &CommitId,
    scratch: &Path,
    output: &Path,
) -> Outcome<(Header, Whole)> {
    let release = on.release(commit)?;
    let wanted = release.wanted(on)?;
    let provided = on.environments().provide(&wanted)?;
    let packed = pack_with(on, branch, commit, scratch, output, &wanted, &provided);
    disk::remove_file_if_there(&provided.cache)?;
    packed
}

fn pack_with(
    on: &Installation,
    branch: &BranchName,
    commit: &CommitId,
    scratch: &Path,
    output: &Path,
    wanted: &Wanted,
    provided: &Provided,
) -> Outcome<(Header, Whole)> {
    disk::remove_tree(scratch)?;
    disk::make_directory(&on.layout.cache(), 0o755)?;
    disk::make_new_directory(scratch, 0o711)?;

    on.runner.events().note("packing the commits");
    let commits = on.mirror.write_bundle(branch, &scratch.join("git"))?;
    let kept = scratch.join(header::LOCK);
    disk::write_json(&kept, &provided.lock, 0o600)?;
    let (uv, program) = &provided.uv;
    let coming = [
        member(header::COMMITS, commits)?,
        member(header::LOCK, kept)?,
        member(&format!("{}{uv}", header::TOOLS), program.clone())?,
        member(header::CACHE, provided.cache.clone())?,
    ];
    let header = Header {
        schema: SCHEMA,
        made_at: clock::now(),
        made_by: concat!("ladylinux-refresh ", env!("CARGO_PKG_VERSION")).to_owned(),
        branch: branch.clone(),
        commit: commit.clone(),
        platform: Platform::of(on.interpreter()?),
        definitions: wanted.definitions_digest().to_owned(),
        packages: provided.lock.packages.len(),
        members: coming.iter().map(|coming| coming.member.clone()).collect(),
    };
    let mut whole = None;
    disk::write_by(output, 0o600, |file| {
        whole = Some(write(&header, &coming, file)?);
        Ok(())
    })?;
    whole.map(|whole| (header, whole)).ok_or_else(|| Failure::new("the bundle was not written"))
}

/// Looks at a file that is going to be a member.
fn member(name: &str, from: PathBuf) -> Outcome<Coming> {
    let content = open(&from)?;
    // Another user may have written it, sparse and without an end.
    let (sha256, size) = copy(&mut content.take(blocks::LARGEST + 1), &mut std::io::sink())?;
    if size > blocks::LARGEST {
        return Err(Failure::new(format!("{} is too large for a bundle", from.display())));
    }
    Ok(Coming { member: Member { name: name.to_owned(), sha256, size }, from })
}

fn write(header: &Header, coming: &[Coming], file: &mut File) -> Outcome<Whole> {
    let context = || "cannot write the bundle".to_owned();
    let mut sink = Digested { inner: file, digest: Sha256::new(), size: 0 };
    let mut bytes = serde_json::to_vec_pretty(header).context(context)?;
    bytes.push(b'\n');
    let line = digest_line(&hex::encode(Sha256::digest(&bytes)));
    for (name, content) in [(header::HEADER, bytes.as_slice()), (header::DIGEST, line.as_bytes())] {
        sink.write_all(&blocks::head(name, content.len() as u64)).context(context)?;
        sink.write_all(content).context(context)?;
        zeros(&mut sink, blocks::padding(content.len() as u64)).context(context)?;
    }
    for Coming { member, from } in coming {
        sink.write_all(&blocks::head(&member.name, member.size)).context(context)?;
        let written = copy(&mut open(from)?.take(member.size), &mut sink)?;
        if written != (member.sha256.clone(), member.size) {
            return Err(Failure::new(format!("{} changed while it was packed", from.display())));
        }
        zeros(&mut sink, blocks::padding(member.size)).context(context)?;
    }
    zeros(&mut sink, blocks::END).context(context)?;
    Ok(Whole { sha256: hex::encode(sink.digest.finalize()), size: sink.size })
}

/// Opens a file that another user may have written: not a link, a pipe or a device.
fn open(path: &Path) -> Outcome<File> {
    disk::open_regular(path).context(|| format!("cannot read {}", path.display()))
}

fn zeros(sink: &mut impl Write, count: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::repeat(0).take(count), sink).map(drop)
}

/// Copies everything; returns digest and size.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Outcome<(String, u64)> {
    let context = || "cannot pack a file".to_owned();
    let mut digest = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0_u8; 128 << 10];
    loop {
        let count = from.read(&mut buffer).context(context)?;
        if count == 0 {
            return Ok((hex::encode(digest.finalize()), size));
        }
        digest.update(&buffer[..count]);
        to.write_all(&buffer[..count]).context(context)?;
        size += count as u64;
        interrupt::check()?;
    }
}

/// Digests what passes.
struct Digested<'a> {
    inner: &'a mut File,
    digest: Sha256,
    size: u64,
}

impl Write for Digested<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
