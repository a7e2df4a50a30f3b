//! What a supervisor writes down of itself, and the lock that proves it lives.
//!
//! The lock (`flock`, held for life) decides whether there is a supervisor; the state file only says which process it
//! is and what it knows. A state without a held lock is history.

use std::fs::File;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Handle, ProcessId};
use crate::report::shell::quoted_path;
use crate::service::{Exit, Force};
use crate::settings::layout::Layout;

/// How long a supervisor may take from locking to saying which process it is, or from its last word to its end.
const TURNOVER: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(1);

/// The state file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The boot that the process ids belong to.
    pub(super) boot: String,
    /// The supervisor's own process.
    pub(super) supervisor: ProcessId,
    /// The name of this invocation of the service, as the log marks it.
    pub(super) invocation: String,
    /// Where the service is in its life.
    pub(super) stage: Stage,
}

/// Where a service is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The supervisor is there, the service is not yet.
    Starting,
    /// The main process runs.
    Running {
        /// It.
        main: ProcessId,
        /// Since when.
        since: Timestamp,
    },
    /// The service is being ended.
    Stopping {
        /// The main process.
        main: ProcessId,
    },
    /// Nothing of the service is left.
    Ended(Ending),
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ending {
    /// How the main process ended; `None` where that was never started.
    pub(super) exit: Option<Exit>,
    /// What it took.
    pub(super) force: Force,
    /// The processes that outlived the main process.
    pub(super) leftovers: Vec<String>,
}

impl State {
    /// Reads the state; one that is missing, torn or of another boot is none.
    pub(super) fn read(layout: &Layout) -> Outcome<Option<Self>> {
        let Some(bytes) = disk::read_if_there(&file(layout))? else { return Ok(None) };
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Replaces the state file. Not synced: after a power cut there is no service that it could speak of.
    pub(super) fn write(&self, layout: &Layout) -> Outcome<()> {
        let bytes = serde_json::to_vec(self).context(|| "cannot encode the supervisor's state".to_owned())?;
        disk::write_volatile(&file(layout), &bytes, 0o644)
    }

    /// Returns the main process, where it may still be there.
    pub(super) fn main(&self) -> Option<ProcessId> {
        match self.stage {
            Stage::Running { main, .. } | Stage::Stopping { main } if self.is_of_this_boot() => Some(main),
            _ => None,
        }
    }

    /// Returns how the service ended the last time.
    pub(super) fn last_exit(&self) -> Option<Exit> {
        match &self.stage {
            Stage::Ended(ending) => ending.exit,
            _ => None,
        }
    }

    fn is_of_this_boot(&self) -> bool {
        self.boot == boot()
    }
}

fn file(layout: &Layout) -> std::path::PathBuf {
    layout.supervisor().join("state.json")
}

/// Names the running kernel's boot.
pub(super) fn boot() -> String {
    clock::boot_id()
}

fn lock_path(layout: &Layout) -> std::path::PathBuf {
    layout.supervisor().join("lock")
}

/// Leaves word how long the service has to end, for the supervisor to find when it is asked to stop: the settings may
/// have changed since the start.
pub(super) fn leave_stop_timeout(layout: &Layout, timeout: Duration) -> Outcome<()> {
    let bytes = serde_json::to_vec(&timeout).context(|| "cannot encode the stop timeout".to_owned())?;
    disk::write_volatile(&stop_timeout_path(layout), &bytes, 0o644)
}

/// Returns the word that was left, if one can be read.
pub(super) fn left_stop_timeout(layout: &Layout) -> Option<Duration> {
    disk::read_json(&stop_timeout_path(layout)).ok().flatten()
}

fn stop_timeout_path(layout: &Layout) -> std::path::PathBuf {
    layout.supervisor().join("stop-timeout")
}

/// A supervisor that lives.
#[derive(Debug)]
pub(super) struct Living {
    /// Its process.
    pub(super) handle: Handle,
    /// What it last wrote down.
    pub(super) state: State,
}

/// Finds the living supervisor; waits for one that has just locked to say who it is, and for one that has said its
/// last word to be gone.
///
/// # Errors
/// The lock is held by something that does not say who it is.
pub(super) fn living(layout: &Layout) -> Outcome<Option<Living>> {
    let limit = clock::monotonic() + TURNOVER;
    loop {
        if !is_locked(layout)? {
            return Ok(None);
        }
        if let Some(state) = State::read(layout)?.filter(State::is_of_this_boot)
            && !matches!(state.stage, Stage::Ended(_))
            && let Some(handle) = Handle::open(state.supervisor)
        {
            return Ok(Some(Living { handle, state }));
        }
        if clock::monotonic() > limit {
            return Err(Failure::new(format!(
                "something holds {} and does not say who it is",
                lock_path(layout).display()
            ))
            .hint(format!("fuser -v {}", quoted_path(&lock_path(layout)))));
        }
        clock::pause_regardless(TICK);
    }
}

/// Returns whether a supervisor holds the lock. Looks with a shared lock, held for an instant; [`Lock::take`] knows.
pub(super) fn is_locked(layout: &Layout) -> Outcome<bool> {
    let path = lock_path(layout);
    let context = || format!("cannot look at {}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        // Only its owner can look at the lock; everybody can see the process.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Ok(State::read(layout)?
                .is_some_and(|state| state.is_of_this_boot() && state.supervisor.is_alive()));
        }
        Err(error) => return Err(Failure::new(context()).because(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(Failure::new(context()).because(error)),
    }
}

/// The right to supervise: one process at a time has it, and the kernel takes it back when that process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// What came of asking for the right to supervise.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is ours.
    Ours(Lock),
    /// Another supervisor has it, and its service runs.
    RunsAlready,
}

impl Lock {
    /// Takes the lock; waits for a supervisor that is starting, so that one of two starts at the same instant finds the
    /// other's service, for one that is ending, and for observers, who hold it for an instant.
    ///
    /// # Errors
    /// The lock cannot be opened, or is held for long by something that has no running service.
    pub(super) fn take(layout: &Layout) -> Outcome<Taken> {
        let file = disk::open_lock(&lock_path(layout))?;
        let limit = clock::monotonic() + TURNOVER;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Taken::Ours(Self { _file: file })),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(Failure::new("cannot lock the supervisor's lock").because(error));
                }
            }
            let runs = State::read(layout)?.is_some_and(|state| {
                matches!(state.stage, Stage::Running { .. })
                    && state.is_of_this_boot()
                    && state.supervisor.is_alive()
            });
            if runs {
                return Ok(Taken::RunsAlready);
            }
            if clock::monotonic() > limit {
                return Err(Failure::new("another supervisor is on its way in or out for too long")
                    .hint("ladylinux-refresh service stop"));
            }
            clock::pause_regardless(TICK);
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

    fn state(supervisor: ProcessId, stage: Stage) -> State {
        State { boot: boot(), supervisor, invocation: "i".into(), stage }
    }

    #[test]
    fn a_state_without_the_lock_is_not_believed() {
        let (_directory, layout) = world();
        let main = ProcessId::own();
        let stage = Stage::Running { main, since: Timestamp::UNIX_EPOCH };
        state(ProcessId::own(), stage).write(&layout).unwrap();
        assert!(living(&layout).unwrap().is_none());
        let Taken::Ours(lock) = Lock::take(&layout).unwrap() else { panic!("not ours") };
        assert!(living(&layout).unwrap().is_some());
        assert!(matches!(Lock::take(&layout).unwrap(), Taken::RunsAlready));
        drop(lock);
        assert!(living(&layout).unwrap().is_none());
    }

    #[test]
    fn a_torn_state_is_none_and_one_of_another_boot_names_no_process() {
        let (_directory, layout) = world();
        disk::write_volatile(&file(&layout), b"{\"boot\":", 0o644).unwrap();
        assert_eq!(State::read(&layout).unwrap(), None);
        let mut old = state(ProcessId::own(), Stage::Stopping { main: ProcessId::own() });
        assert!(old.main().is_some());
        old.boot = "another".into();
        assert_eq!(old.main(), None);
    }
}
