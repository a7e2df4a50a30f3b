//! One run at a time.
//!
//! The lock is flock(2) on a file that is never unlinked, so the kernel releases it when its holder ends, for any
//! reason. The content of the file (the holder, since when) is for messages only.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

use refresh_programs::process::{ProcessId, leftover};
use refresh_settings::names::RunId;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::{clock, disk};

/// How long a reader of the lock may delay a process that takes it.
const GLANCE: Duration = Duration::from_millis(300);

/// How long processes of a killed holder may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The held lock; dropping it releases it.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// The holder of the lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holder {
    /// The command that it runs.
    pub command: String,
    /// Its run, if it is one.
    pub run: Option<RunId>,
    /// Its process.
    pub process: ProcessId,
    /// Since when, in UTC.
    pub since: jiff::Timestamp,
}

/// The result of an attempt to take the lock.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(RunLock),
    /// Another process holds it: which one, if the file names it.
    Theirs(Option<Holder>),
}

/// Takes the lock, waiting for at most `patience`.
///
/// # Errors
/// The lock file cannot be opened or written, or the wait is interrupted.
pub fn take(path: &Path, command: &str, run: Option<&RunId>, patience: Duration) -> Outcome<Taken> {
    let context = || format!("cannot lock {}", path.display());
    let mut file = disk::open_lock(path)?;
    let start = clock::monotonic();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = holder(&mut file);
                // A process that calls `held_by` holds the lock for an instant, and the file still names an earlier
                // holder.
                let alive = holder.as_ref().is_some_and(|holder| holder.process.is_alive());
                let limit = if alive { patience } else { patience.max(GLANCE) };
                if clock::monotonic().duration_since(start) >= limit {
                    return Ok(Taken::Theirs(holder));
                }
                clock::pause(Duration::from_millis(20))?;
            }
            Err(error) => return Err(error).context(context),
        }
    }
    end_leftovers(holder(&mut file))?;
    let holder = Holder {
        command: command.to_owned(),
        run: run.cloned(),
        process: ProcessId::own(),
        since: clock::now(),
    };
    let bytes = serde_json::to_vec(&holder).context(context)?;
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&bytes)).context(context)?;
    Ok(Taken::Ours(RunLock { _file: file }))
}

/// Ends the processes that the last holder left if it was killed. A run that was killed in preflight has no directory,
/// so a recovery would not find it, but its worker may still be working in `app/`.
fn end_leftovers(last: Option<Holder>) -> Outcome<()> {
    let Some(run) = last.filter(|last| !last.process.is_alive()).and_then(|last| last.run) else {
        return Ok(());
    };
    leftover::end(&run, &[], PATIENCE).map(drop)
}

/// Returns the holder of the lock, without taking it; `None` if it is free, or if the caller cannot read it.
///
/// # Errors
/// The lock file cannot be examined.
pub fn held_by(path: &Path) -> Outcome<Option<Holder>> {
    let Ok(Some(mut file)) = disk::open_own(path, OFlags::RDONLY, Mode::empty()) else { return Ok(None) };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(holder(&mut file)),
        _ => Ok(None),
    }
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_gets_the_holder_of_the_lock_and_afterwards_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let run = RunId::parse("r-1").unwrap();
        let first = take(&path, "run", Some(&run), Duration::ZERO).unwrap();
        assert!(matches!(first, Taken::Ours(_)));
        match take(&path, "run", None, Duration::ZERO).unwrap() {
            Taken::Theirs(Some(holder)) => assert_eq!(holder.run, Some(run)),
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(matches!(take(&path, "run", None, Duration::ZERO).unwrap(), Taken::Ours(_)));
    }

    #[test]
    fn other_users_cannot_open_the_lock_to_delay_a_run() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        // The state that an earlier version left.
        disk::write_atomic(&path, b"", 0o644).unwrap();
        take(&path, "run", None, Duration::ZERO).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
