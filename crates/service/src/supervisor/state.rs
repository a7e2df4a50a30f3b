//! The record that a supervisor keeps, and the lock that shows that it lives.
//!
//! The lock (`flock`, held for life) decides whether there is a supervisor. The record only names its process and the
//! service. A record without a held lock is outdated.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{Exit, Force, Running};
use refresh_programs::process::{Handle, ProcessId};
use refresh_settings::layout::Layout;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{clock, disk};

/// The time limit of a supervisor from locking to its first record, and from its last record to its end.
const TURNOVER: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(1);

/// The record, `state.json`: one invocation of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The boot that the process ids belong to.
    pub(super) boot: String,
    /// The supervisor's own process.
    pub(super) supervisor: ProcessId,
    /// When it started.
    pub(super) since: Timestamp,
    /// The bytes of the log before this invocation.
    pub(super) log_start: u64,
    /// The main process, once it is started.
    pub(super) main: Option<ProcessId>,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Starting,
    Running,
    Stopping,
    /// No process of the service is left.
    ChildEnd {
        /// How the main process ended; `None` if it was never started.
        exit: Option<Exit>,
        force: Force,
        /// The processes that outlived the main process, for people.
        leftovers: Vec<String>,
    },
}

impl State {
    /// Returns the record of this process, a supervisor that is about to start its service.
    pub(super) fn new(log_start: u64) -> Self {
        Self {
            boot: clock::boot_id(),
            supervisor: ProcessId::own(),
            since: clock::now(),
            log_start,
            main: None,
            stage: Stage::Starting,
        }
    }

    /// Reads the record; `None` if it is missing or torn.
    pub(super) fn read(layout: &Layout) -> Outcome<Option<Self>> {
        let Some(bytes) = disk::read_if_there(&file(layout, "state.json"))? else { return Ok(None) };
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Replaces the record. Not synced: after a power cut there is no service that it could describe.
    pub(super) fn write(&self, layout: &Layout) -> Outcome<()> {
        write_json(layout, "state.json", self)
    }

    /// Returns the main process, if it can still exist.
    pub(super) fn main(&self) -> Option<ProcessId> {
        self.main.filter(|_| self.is_of_this_boot())
    }

    /// Returns the facts of the service if its main process lives.
    pub(super) fn running(&self) -> Option<Running> {
        let main = self.main().filter(|main| self.stage == Stage::Running && main.is_alive())?;
        Some(self.facts(main))
    }

    /// Returns the facts of the service whose main process is `main`.
    pub(super) fn facts(&self, main: ProcessId) -> Running {
        let invocation = format!("{}-{}", self.since.strftime("%Y%m%dT%H%M%S%.6f"), self.supervisor.pid);
        Running { main, since: self.since, restarts: 0, invocation }
    }

    fn is_of_this_boot(&self) -> bool {
        self.boot == clock::boot_id()
    }

    fn has_living_supervisor(&self) -> bool {
        self.is_of_this_boot() && self.supervisor.is_alive()
    }
}

fn file(layout: &Layout, name: &str) -> PathBuf {
    layout.supervisor().join(name)
}

fn write_json(layout: &Layout, name: &str, value: &impl Serialize) -> Outcome<()> {
    let path = file(layout, name);
    let bytes = serde_json::to_vec(value).context(|| format!("cannot write {}", path.display()))?;
    disk::write_volatile(&path, &bytes, 0o644)
}

/// Records the stop timeout of the service. The supervisor reads it at the stop, because the configuration may have
/// changed since the start.
pub(super) fn write_stop_timeout(layout: &Layout, timeout: Duration) -> Outcome<()> {
    write_json(layout, "stop-timeout", &timeout)
}

/// Returns the recorded timeout, if one can be read.
pub(super) fn read_stop_timeout(layout: &Layout) -> Option<Duration> {
    disk::read_json(&file(layout, "stop-timeout")).ok().flatten()
}

/// Returns the living supervisor and its record. Waits for one that has just locked to write its record, and for one
/// that has written its last record to end.
///
/// # Errors
/// A process without a record holds the lock.
pub(super) fn living(layout: &Layout) -> Outcome<Option<(Handle, State)>> {
    let limit = clock::monotonic() + TURNOVER;
    loop {
        if !is_locked(layout)? {
            return Ok(None);
        }
        if let Some(state) = State::read(layout)?.filter(State::is_of_this_boot)
            && !matches!(state.stage, Stage::ChildEnd { .. })
            && let Some(handle) = Handle::open(state.supervisor)
        {
            return Ok(Some((handle, state)));
        }
        if clock::monotonic() > limit {
            let lock = file(layout, "lock");
            return Err(Failure::new(format!("an unknown process holds {}", lock.display()))
                .command("fuser -v", &[&lock]));
        }
        clock::sleep_uninterrupted(TICK);
    }
}

/// Returns whether a supervisor holds the lock. Takes a shared lock for an instant.
pub(super) fn is_locked(layout: &Layout) -> Outcome<bool> {
    let path = file(layout, "lock");
    let context = || format!("cannot read {}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        // Only the owner can open the lock, but every user can see the process.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Ok(State::read(layout)?.is_some_and(|state| state.has_living_supervisor()));
        }
        Err(error) => return Err(Failure::new(context()).because(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(Failure::new(context()).because(error)),
    }
}

/// The right to supervise: only one process has it at a time, and the kernel releases it when that process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; `Err` of the facts if a service runs under another supervisor. Waits for a supervisor that is
    /// starting: if two start at the same instant, one finds the service of the other. Waits also for one that is
    /// ending, and for observers, which hold the lock for an instant.
    ///
    /// # Errors
    /// The lock cannot be opened, or a process without a running service holds it for long.
    pub(super) fn take(layout: &Layout) -> Outcome<Result<Self, Running>> {
        let file = disk::open_lock(&file(layout, "lock"))?;
        let limit = clock::monotonic() + TURNOVER;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Ok(Self { _file: file })),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(Failure::new("cannot lock the supervisor's lock").because(error)),
            }
            let state = State::read(layout)?.filter(State::has_living_supervisor);
            if let Some(running) = state.and_then(|state| state.running()) {
                return Ok(Err(running));
            }
            if clock::monotonic() > limit {
                return Err(Failure::new("another supervisor is starting or stopping for too long")
                    .command("ladylinux-refresh service stop", &[]));
            }
            clock::sleep_uninterrupted(TICK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.supervisor(), 0o755).unwrap();
        (directory, layout)
    }

    #[test]
    fn a_state_without_the_lock_is_not_trusted() {
        let (_directory, layout) = world();
        let main = Some(ProcessId::own());
        State { main, stage: Stage::Running, ..State::new(0) }.write(&layout).unwrap();
        assert!(living(&layout).unwrap().is_none());
        let lock = Lock::take(&layout).unwrap().expect("not ours");
        assert!(living(&layout).unwrap().is_some());
        assert_eq!(Lock::take(&layout).unwrap().unwrap_err().main, ProcessId::own());
        drop(lock);
        assert!(living(&layout).unwrap().is_none());
    }

    #[test]
    fn a_torn_state_reads_as_none_and_one_of_another_boot_names_no_process() {
        let (_directory, layout) = world();
        disk::write_volatile(&file(&layout, "state.json"), b"{\"boot\":", 0o644).unwrap();
        assert_eq!(State::read(&layout).unwrap(), None);
        let main = Some(ProcessId::own());
        let mut old = State { main, stage: Stage::Stopping, ..State::new(0) };
        assert!(old.main().is_some());
        old.boot = "another".into();
        assert_eq!(old.main(), None);
    }
}
