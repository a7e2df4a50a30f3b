//! Creates a bundle: everything that a refresh of one branch needs, in one file.
//!
//! Data that is missing in the tool's own stores is fetched first, in the same way as in staging.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use sha2::{Digest as _, Sha256};

use refresh_git::Hold;
use refresh_installation::installation::Installation;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::disk;
use refresh_system::disk::{Content, Digested};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::quoted_path;
use refresh_system::{clock, interrupt};

use super::archive::{self, Header, Member, Platform, SCHEMA};

/// Checks that `output` can be written, before anything is fetched for it.
///
/// # Errors
/// The path is something other than a regular file, or its directory is missing or not writable.
pub fn check_output(output: &Path) -> Outcome<()> {
    if output.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(Failure::new(format!("{} exists and is not a regular file", output.display())));
    }
    let directory = output.parent().unwrap_or(output);
    if !disk::is_directory(directory)? {
        return Err(Failure::new(format!("the directory {} does not exist", directory.display()))
            .hint(format!("mkdir -p {}", quoted_path(directory))));
    }
    rustix::fs::access(directory, Access::WRITE_OK)
        .context(|| format!("{} is not writable", directory.display()))
}

/// Packs a branch into `output`. The caller holds the run lock.
///
/// # Errors
/// A required part is not available, or the file cannot be written; then `output` is unchanged.
pub fn create(on: &Installation, branch: &BranchName, output: &Path) -> Outcome<(Header, Content)> {
    check_output(output)?;
    let run = RunId::new(clock::now(), std::process::id());
    let commit = on.mirror.ensure(&run, branch)?;
    let scratch = on.layout.cache().join("bundle-create");
    let packed = pack(on, branch, &commit, &scratch, output);
    let tidied = interrupt::shielded(|| {
        disk::remove_tree(&scratch)?;
        on.mirror.release(Hold::Run, &run)
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
) -> Outcome<(Header, Content)> {
    let wanted = on.release(commit)?.wanted(on)?;
    let provided = on.environments().provide(&wanted)?;
    let pack = || {
        disk::remove_tree(scratch)?;
        disk::make_directory(&on.layout.cache(), 0o755)?;
        disk::make_new_directory(scratch, 0o711)?;
        on.runner.events().note("packing the commits");
        let commits = on.mirror.write_bundle(branch, &scratch.join("git"))?;
        let lock = scratch.join(archive::LOCK);
        disk::write_json(&lock, &provided.lock, 0o600)?;
        let (uv, program) = &provided.uv;
        let files = [commits, lock, program.clone(), provided.cache.clone()];
        let names = [archive::COMMITS, archive::LOCK, &format!("{}{uv}", archive::TOOLS), archive::CACHE];
        let members = names.iter().zip(&files).map(|(name, file)| member(name, file));
        let header = Header {
            schema: SCHEMA,
            made_at: clock::now(),
            made_by: concat!("ladylinux-refresh ", env!("CARGO_PKG_VERSION")).to_owned(),
            branch: branch.clone(),
            commit: commit.clone(),
            platform: Platform::of(on.interpreter()?),
            definitions: wanted.definitions_digest().to_owned(),
            packages: provided.lock.packages.len(),
            members: members.collect::<Outcome<_>>()?,
        };
        let content = disk::write_by(output, 0o600, |file| write(&header, &files, file))?;
        Ok((header, content))
    };
    let packed = pack();
    disk::remove_file_if_there(&provided.cache)?;
    packed
}

/// Computes the digest of a file that will be a member.
fn member(name: &str, file: &Path) -> Outcome<Member> {
    // Another user may have written it; it may be sparse and endless.
    let mut content = Digested::new(open(file)?.take(archive::LARGEST + 1));
    let copied = std::io::copy(&mut content, &mut std::io::sink());
    interrupt::check()?;
    copied.context(|| format!("cannot read {}", file.display()))?;
    let Content { sha256, size } = content.finish();
    if size > archive::LARGEST {
        return Err(Failure::new(format!("{} is too large for a bundle", file.display())));
    }
    Ok(Member { name: name.to_owned(), sha256, size })
}

fn write(header: &Header, files: &[PathBuf], output: &mut File) -> Outcome<Content> {
    let context = || "cannot write the bundle".to_owned();
    let mut bytes = serde_json::to_vec_pretty(header).context(context)?;
    bytes.push(b'\n');
    let line = archive::digest_line(&hex::encode(Sha256::digest(&bytes)));
    let mut sink = tar::Builder::new(Digested::new(output));
    for (name, text) in [(archive::HEADER, bytes.as_slice()), (archive::DIGEST, line.as_bytes())] {
        sink.append(&archive::block(name, text.len() as u64)?, text).context(context)?;
    }
    for (member, file) in header.members.iter().zip(files) {
        let mut source = Digested::new(open(file)?.take(member.size));
        let written = sink.append(&archive::block(&member.name, member.size)?, &mut source);
        interrupt::check()?;
        written.context(context)?;
        let found = source.finish();
        if (&found.sha256, found.size) != (&member.sha256, member.size) {
            return Err(Failure::new(format!("{} changed while it was packed", file.display())));
        }
    }
    Ok(sink.into_inner().context(context)?.finish())
}

/// Opens a file that another user may have written: not a link, a pipe or a device.
fn open(path: &Path) -> Outcome<File> {
    disk::open_regular(path).context(|| format!("cannot read {}", path.display()))
}
