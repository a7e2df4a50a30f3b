//! Environments without a network: the parts that a bundle contains, and their way into uv's cache on another machine.
//!
//! A bundle brings uv, the lock, and a uv cache with exactly the packages that the lock names. On the other machine,
//! this cache is added to the machine's own cache, and the environment is built as usual, offline. uv must be the
//! pinned version. The rest is trusted like the remote, whose commits the same bundle brings.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, disk};

use super::construct::{self, BuildRequest};
use super::interpreter::Interpreter;
use super::lock::Lock;
use super::recorded_environments::{EnvironmentSpec, Environments};
use super::uv_operation::{Setup, UvOperation};
use super::{Site, record, uv};

/// The operation that creates the cache of a bundle.
pub(crate) const PACK: &str = "python-pack-cache";

/// The operation that imports the cache of a bundle.
pub(crate) const UNPACK: &str = "python-unpack-cache";

/// The prefix of the directories of unpacked packages in a uv cache. They are moved in first, because other entries
/// refer to them.
const ARCHIVES: &str = "archive-";

/// Creates a cache with the packages of a lock, as an archive.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackRequest {
    setup: Setup,
    interpreter: Interpreter,
    lock: Lock,
    /// The path of the new archive.
    archive: PathBuf,
}

/// The parts of an environment that a bundle contains.
#[derive(Debug)]
pub struct Provided {
    /// The lock.
    pub lock: Lock,
    /// uv: its name, and the program.
    pub uv: (String, PathBuf),
    /// The archive of the uv cache.
    pub cache: PathBuf,
}

/// Returns the name of uv in bundles.
pub fn uv_name() -> String {
    uv::name()
}

impl Environments<'_> {
    /// Provides everything that another machine needs for the specification. The archive stays until the next run
    /// cleans up, or the caller removes it.
    ///
    /// # Errors
    /// The definition does not resolve, or a package is not available.
    pub fn provide(&self, wanted: &EnvironmentSpec) -> Outcome<Provided> {
        self.check_strict(wanted)?;
        let lock = self.lock(wanted)?;
        self.site.ensure_uv(&wanted.interpreter)?;
        let setup = self.site.setup()?;
        let archive = setup.directory.join("bundle.tar");
        let request = PackRequest {
            setup,
            interpreter: wanted.interpreter.clone(),
            lock: lock.clone(),
            archive: archive.clone(),
        };
        self.site.runner.events().note("packing what the lock names");
        let () = self.site.call(PACK, &request)?;
        let program = uv::program_in(&self.site.layout.uv());
        Ok(Provided { lock, uv: (uv::name(), program), cache: archive })
    }

    /// Imports the lock of another machine for this specification, and the archive of a cache. The lock replaces a
    /// different one of this machine.
    ///
    /// # Errors
    /// The lock is not understood or differs from the application's own lock, or the cache cannot be written.
    pub fn take_in(&self, wanted: &EnvironmentSpec, bytes: &[u8], archive: &Path) -> Outcome<()> {
        let mut lock = Lock::of_bytes(bytes)?;
        wanted.key().clone_into(&mut lock.key);
        if wanted.definitions.is_locked() {
            let law = self.site.ask_for_lock(wanted, false)?;
            if law.digest() != lock.digest() {
                return Err(Failure::new(format!(
                    "its lock differs from the application's own {}",
                    law.summary().source
                )));
            }
        }
        let () = self.site.call(UNPACK, &(self.site.setup()?, archive))?;
        let known = self.known_lock(wanted)?;
        if known.as_ref().is_some_and(|known| known.digest() != lock.digest()) {
            self.site.runner.events().note("the lock of the bundle replaces another one of this machine");
        }
        if known.as_ref() == Some(&lock) { Ok(()) } else { lock.write(self.site.layout) }
    }
}

impl Site<'_> {
    /// Installs the uv of a bundle. A uv of another version is skipped: it is not used here.
    ///
    /// # Errors
    /// It is not the pinned one, or does not run on this machine.
    pub fn take_uv(&self, interpreter: &Interpreter, name: &str, file: &Path) -> Outcome<()> {
        if name == uv::name() {
            return self.ensure_uv_from(interpreter, Some(file.to_path_buf()));
        }
        self.runner.events().warn(&format!("the bundle brings {name:?}, which this version does not use"));
        Ok(())
    }
}

/// Performs the operation. The files from which an environment is built with an empty cache are all that it needs.
pub(super) fn pack(request: &PackRequest) -> Outcome<()> {
    UvOperation::within(&request.setup, "pack", |operation| {
        let cache = operation.scratch.join("cache");
        disk::make_directory(&cache, 0o755)?;
        let build = BuildRequest {
            setup: request.setup.clone(),
            interpreter: request.interpreter.clone(),
            lock: request.lock.clone(),
            directory: operation.scratch.join("environment"),
            cache: Some(cache.clone()),
        };
        construct::handle(&build)?;
        let context = || format!("cannot write {}", request.archive.display());
        disk::remove_file_if_there(&request.archive)?;
        let file = disk::open_append(&request.archive, 0o644)?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        archive.follow_symlinks(false);
        archive.append_dir_all("cache", &cache).context(context)?;
        archive.into_inner().and_then(|writer| writer.into_inner().map_err(Into::into)).context(context)?;
        Ok(())
    })
}

/// Performs the operation. The unpacked packages come first, then the entries that refer to them: an incompletely
/// imported cache has no entry without its target.
pub(super) fn unpack(setup: &Setup, file: &Path) -> Outcome<()> {
    UvOperation::within(setup, "unpack", |operation| {
        let context = || format!("cannot unpack {}", file.display());
        let opened = File::open(file).context(context)?;
        let mut archive = tar::Archive::new(BufReader::new(opened));
        archive.set_preserve_permissions(true);
        archive.unpack(&operation.scratch).context(context)?;
        checkpoint::reach("bundle:cache unpacked");
        let (from, to) = (operation.scratch.join("cache"), setup.cache());
        disk::sync_file_system(&operation.scratch)?;
        disk::make_directory(&to, 0o755)?;
        let mut names = record::entries(&from)?;
        names.sort_by_key(|name| !name.starts_with(ARCHIVES));
        for name in names {
            move_in(&from.join(&name), &to.join(&name), name.starts_with(ARCHIVES))?;
        }
        Ok(())
    })
}

/// Moves a file or directory to its place in the cache. Existing directories are filled, existing files replaced. An
/// unpacked package (`whole`) is one unit: an existing one is left unchanged.
fn move_in(from: &Path, to: &Path, whole: bool) -> Outcome<()> {
    let is_there = to.symlink_metadata().is_ok();
    let is_directory = from.symlink_metadata().is_ok_and(|found| found.is_dir());
    if !is_directory || !is_there {
        return disk::move_over(from, to);
    }
    for name in record::entries(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        if !whole {
            move_in(&from, &to, false)?;
        } else if to.symlink_metadata().is_err() {
            disk::move_over(&from, &to)?;
        }
    }
    Ok(())
}
