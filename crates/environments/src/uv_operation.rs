//! The work of one operation with uv: the settings of the host, the writable directories, and the deadline.
//!
//! Everything here happens in the process of an operation, as the user that environments belong to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use refresh_events::event::Events;
use refresh_programs::process::{Keep, ProcessId, Program, Runner};
use refresh_programs::units::operations::Progress;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen;
use refresh_system::{clock, disk};

use super::install_error;
use super::network::Variables;

/// The settings of the host for every operation of this crate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The directory of uv, its cache and the scratch directories.
    pub(super) directory: PathBuf,
    /// The network variables of uv.
    pub(super) network: Variables,
    /// The indexes of single packages.
    pub(super) indexes: BTreeMap<String, String>,
    /// Whether packages without a wheel may be built from source.
    pub(super) allow_source: bool,
    /// Whether environments see the packages of the system, too.
    pub(super) system_site_packages: bool,
    /// Whether the network is not used.
    pub(super) offline: bool,
    /// How long the operation may take.
    pub(super) deadline: Duration,
    /// The name of this boot of the machine.
    pub(super) boot: String,
}

impl Setup {
    /// Returns uv's cache, which is the store that environments are built from.
    pub(super) fn cache(&self) -> PathBuf {
        self.directory.join("cache")
    }

    /// Returns the directory of the scratch directories.
    pub(super) fn scratch(&self) -> PathBuf {
        self.directory.join(SCRATCH)
    }
}

/// The name of the directory of the scratch directories.
pub(super) const SCRATCH: &str = "scratch";

/// The work of one operation.
#[derive(Debug)]
pub(super) struct UvOperation<'a> {
    pub(super) setup: &'a Setup,
    pub(super) runner: Runner,
    /// A directory that is removed when the operation ends; the working directory of its programs.
    pub(super) scratch: PathBuf,
    until: Instant,
}

impl<'a> UvOperation<'a> {
    /// Performs `work` with a scratch directory of this name.
    ///
    /// # Errors
    /// The directory cannot be created, or the work fails.
    pub(super) fn within<A>(
        setup: &'a Setup,
        name: &str,
        work: impl FnOnce(&Self) -> Outcome<A>,
    ) -> Outcome<A> {
        begin_with_cache(setup)?;
        let scratch = setup.scratch().join(name);
        disk::remove_tree(&scratch)?;
        disk::make_directory(&setup.scratch(), 0o755)?;
        disk::make_directory(&scratch, 0o755)?;
        let operation = Self { setup, runner: runner(), scratch, until: clock::monotonic() + setup.deadline };
        let done = work(&operation);
        let tidied = disk::remove_tree(&operation.scratch);
        let value = done?;
        end_with_cache(setup)?;
        tidied.map(|()| value)
    }

    /// Prepares a program with the remaining time of the deadline.
    pub(super) fn program(&self, path: &Path) -> Program {
        Program::new(path).directory(&self.scratch).deadline(self.left())
    }

    /// Runs a uv command, passes on its output, and explains its failure.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn run(&self, program: Program, summary: &str) -> Outcome<()> {
        let name = program.name();
        let finished = self.runner.run(&program.keep(Keep::Narrated(name)))?;
        if finished.succeeded() {
            Ok(())
        } else {
            Err(install_error::explain(&finished, summary, &self.setup.network))
        }
    }

    /// Runs a program and returns its output.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn output_of(&self, program: &Program, summary: &str) -> Outcome<String> {
        let finished = self.runner.run(program)?;
        finished.ok(|| summary.to_owned()).map(|finished| finished.text())
    }

    /// Fails if the deadline has passed.
    ///
    /// # Errors
    /// The deadline has passed.
    pub(super) fn in_time(&self) -> Outcome<()> {
        if self.left().is_zero() {
            let limit = self.setup.deadline;
            return Err(Failure::new(format!("the environment was not built within {limit:?}"))
                .hint("give it longer: python.deadline in the host's refresh.toml"));
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(clock::monotonic())
    }
}

/// Returns a name of this boot. In a container, the boot ID of the kernel does not change, but the first process does.
pub(super) fn boot() -> String {
    let first = ProcessId::of(1).map_or(0, |process| process.started);
    format!("{}-{first}", clock::boot_id())
}

/// The file beside the cache that exists while parts of the cache may not be on the disk yet. It contains the boot that
/// writes to the cache.
const UNSYNCED: &str = "cache-unsynced";

/// Removes a cache that was in use when the machine stopped: uv renames files into it without syncing them, and treats
/// an empty one as complete. Then records that it is in use.
///
/// # Errors
/// The cache cannot be removed, or the note cannot be written.
fn begin_with_cache(setup: &Setup) -> Outcome<()> {
    let (note, boot) = (setup.directory.join(UNSYNCED), &setup.boot);
    disk::sweep_unwritten(&setup.directory)?;
    match disk::read_if_there(&note)? {
        Some(earlier) if earlier == boot.as_bytes() => return Ok(()),
        Some(_) => {
            screen::print_to_stderr(
                "the machine went down while the package cache was written: it is filled again",
            );
            disk::remove_tree(&setup.cache())?;
        }
        None => {}
    }
    disk::write_atomic(&note, boot.as_bytes(), 0o644)
}

/// Syncs the cache to the disk, and records that.
///
/// # Errors
/// The disk cannot be written.
fn end_with_cache(setup: &Setup) -> Outcome<()> {
    let cache = setup.cache();
    if cache.is_dir() {
        disk::sync_file_system(&cache)?;
    }
    disk::remove_file_if_there(&setup.directory.join(UNSYNCED))
}

/// Starts programs on behalf of an operation, and reports events to its caller.
pub(super) fn runner() -> Runner {
    Runner::in_operation(Events::new(vec![Box::new(Progress)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(directory: &Path) -> Setup {
        Setup {
            directory: directory.to_path_buf(),
            network: Variables::default(),
            indexes: BTreeMap::new(),
            allow_source: false,
            system_site_packages: false,
            offline: true,
            deadline: Duration::from_secs(60),
            boot: boot(),
        }
    }

    #[test]
    fn rw_7_1a_a_cache_that_was_written_when_the_machine_went_down_is_filled_again() {
        let root = tempfile::tempdir().unwrap();
        let setup = setup(root.path());
        let (wheel, note) = (setup.cache().join("wheel"), root.path().join(UNSYNCED));
        let fill = |operation: &UvOperation<'_>| {
            disk::make_directory(&operation.setup.cache(), 0o755)?;
            disk::write_atomic(&wheel, b"", 0o644)
        };
        UvOperation::within(&setup, "one", fill).unwrap();
        assert!(wheel.exists() && !note.exists(), "what is on the disk needs no note");
        let failed: Outcome<()> = UvOperation::within(&setup, "two", |_| Err(Failure::new("killed")));
        assert!(failed.is_err() && note.exists());
        UvOperation::within(&setup, "three", |_| Ok(())).unwrap();
        assert!(wheel.exists() && !note.exists(), "within one boot the cache is what was written");
        disk::write_atomic(&note, b"another boot", 0o644).unwrap();
        let killed = root.path().join(format!(".{UNSYNCED}.new-999999999"));
        disk::write_unsynced(&killed, b"", 0o644).unwrap();
        UvOperation::within(&setup, "four", |_| Ok(())).unwrap();
        assert!(!killed.exists(), "what a killed process was writing is gone");
        assert!(!wheel.exists() && !note.exists());
    }
}
