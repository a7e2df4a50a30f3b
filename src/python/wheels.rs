//! The wheel store: wheels by sha256, where the service's user cannot write.
//!
//! Every build takes its wheels from here and from nowhere else. pip fetches them, as the owner, into a folder of
//! passage; each is copied out of the owner's reach and taken in only when its digest is one of the lock.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::Site;
use super::installer::Job;
use super::interpreter::Interpreter;
use super::lock::{Lock, Wheel, hexadecimal};
use super::pip::Pip;
use super::record;
use super::requirements::normal_name;
use super::trouble;
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::Keep;

/// The store of one installation.
#[derive(Debug, Clone, Copy)]
pub struct Wheels<'a> {
    site: Site<'a>,
}

impl<'a> Wheels<'a> {
    /// Opens the store.
    pub fn new(site: Site<'a>) -> Self {
        Self { site }
    }

    /// Returns the place of a wheel in the store.
    pub fn path(&self, wheel: &Wheel) -> PathBuf {
        self.site.layout.wheels().join(&wheel.sha256).join(&wheel.file)
    }

    /// Tells whether all wheels of a lock are there.
    pub fn has_all(&self, lock: &Lock) -> bool {
        (lock.packages.is_empty() || !lock.wheels.is_empty())
            && lock.wheels.iter().all(|wheel| {
                std::fs::symlink_metadata(self.path(wheel))
                    .is_ok_and(|found| found.is_file() && found.len() == wheel.size)
            })
    }

    /// Makes sure that all wheels of a lock are there, and notes in the lock which ones this platform takes.
    ///
    /// # Errors
    /// One cannot be had, or is not what the lock says.
    pub fn ensure(&self, lock: &mut Lock, interpreter: &Interpreter) -> Outcome<()> {
        if self.has_all(lock) {
            return Ok(());
        }
        let scratch = self.site.layout.cache().join(format!("wheels-{}", lock.key));
        disk::remove_tree(&scratch)?;
        disk::make_folder(&scratch, 0o755)?;
        let fetched = self.fetch(lock, interpreter, &scratch);
        let tidied = disk::remove_tree(&scratch);
        lock.wheels = fetched.context(|| "cannot fetch the wheels".to_owned())?;
        tidied?;
        lock.write(self.site.layout)
    }

    fn fetch(&self, lock: &Lock, interpreter: &Interpreter, scratch: &Path) -> Outcome<Vec<Wheel>> {
        let site = self.site;
        let pip = Pip::ensure(site, interpreter)?;
        site.owned_cache(&site.layout.cache().join("pip"))?;
        site.runner.events().note(&format!("fetching the wheels of {} packages", lock.packages.len()));
        let passage = scratch.join("fetched");
        disk::make_owned_folder(&passage, 0o755, &site.owner)?;
        let list = scratch.join("lock.txt");
        disk::write_atomic(&list, lock.requirements().as_bytes(), 0o644)?;
        let until = clock::monotonic() + site.python.deadline;
        let job = Job { site, interpreter, folder: scratch, scratch, until };
        let download = pip
            .program(&job)
            .args(["download", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
            .args(["--progress-bar", "off", "--dest"])
            .arg(&passage)
            .arg("--requirement")
            .arg(&list)
            .keep(Keep::Narrated("pip".to_owned()));
        let finished = site.runner.run(&download)?;
        if !finished.succeeded() {
            return Err(trouble::explain(&finished, "cannot fetch the packages"));
        }
        checkpoint::reach("python:wheels fetched");
        let mut wheels = Vec::new();
        for name in record::entries(&passage)? {
            wheels.push(self.take_in(lock, &passage.join(&name), &name)?);
        }
        wheels.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        checkpoint::reach("python:wheels taken in");
        Ok(wheels)
    }

    /// Copies one wheel out of the owner's reach and proves it.
    pub(super) fn take_in(&self, lock: &Lock, from: &Path, file: &str) -> Outcome<Wheel> {
        let mut parts = file.strip_suffix(".whl").unwrap_or_default().split('-');
        let (Some(name), Some(version)) = (parts.next(), parts.next()) else {
            return Err(Failure::new(format!("{file:?} is not the name of a wheel")));
        };
        let name = normal_name(name);
        let store = self.site.layout.wheels();
        disk::make_folder(&store, 0o755)?;
        let aside = store.join(format!(".new-{file}"));
        disk::remove_file_if_there(&aside)?;
        disk::copy_new(from, &aside)?;
        disk::set_mode(&aside, 0o444)?;
        let (sha256, size) = digest(&aside)?;
        let known =
            lock.packages.iter().find(|package| package.name == name && package.digests.contains(&sha256));
        let Some(known) = known else {
            disk::remove_file_if_there(&aside)?;
            return Err(Failure::new(format!("{file} is not what the lock says (sha256 {sha256})")));
        };
        let wheel = Wheel { name, version: known.version.clone(), file: file.to_owned(), sha256, size };
        debug_assert!(!version.is_empty());
        let place = self.path(&wheel);
        if let Some(folder) = place.parent() {
            disk::make_folder(folder, 0o755)?;
        }
        disk::move_over(&aside, &place)?;
        Ok(wheel)
    }
}

/// The sha256 and the size of a file.
fn digest(path: &Path) -> Outcome<(String, u64)> {
    use sha2::{Digest as _, Sha256};
    use std::io::Read as _;
    let told = || format!("cannot read {}", path.display());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened: OwnedFd = openat(CWD, path, flags, Mode::empty()).context(told)?;
    let mut file = File::from(opened);
    let (mut state, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0_u8; 128 << 10];
    loop {
        match file.read(&mut buffer).context(told)? {
            0 => return Ok((hexadecimal(&state.finalize()), size)),
            count => {
                state.update(&buffer[..count]);
                size += count as u64;
            }
        }
        crate::process::interrupt::check()?;
    }
}
