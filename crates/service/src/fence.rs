//! The fence: a file that blocks the start of the service while it exists (RW-7.1a).
//!
//! It stands from before the stop until the restarted service has settled. Only its existence counts; its content is
//! for people. So a torn or foreign fence stands like any other.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use refresh_events::run_report::Phase;
use refresh_programs::process::ProcessId;
use refresh_settings::layout::Layout;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, clock, disk};

/// The content of a fence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRecord {
    /// The run that raised it.
    pub run: RunId,
    /// Since when the service is blocked; a later run that raises a standing fence again keeps this time.
    pub since: Timestamp,
    /// The reason, in a sentence.
    pub reason: String,
    /// The causes of the failure, outermost first; empty while the run is in progress.
    #[serde(default)]
    pub cause: Vec<String>,
    /// The place where the run halted; missing while it is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
}

/// The place where a run halted: the public information, also for visitors of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The part that failed.
    pub phase: Phase,
    /// The commit in `app/`, if it is known.
    pub commit: Option<CommitId>,
}

/// A fence that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fence {
    /// Its record can be read.
    Known(FenceRecord),
    /// It is torn or foreign, and still stands.
    Unreadable {
        /// The problem.
        why: String,
    },
}

impl Fence {
    /// Returns the record, if there is one.
    pub fn record(&self) -> Option<&FenceRecord> {
        match self {
            Self::Known(record) => Some(record),
            Self::Unreadable { .. } => None,
        }
    }

    /// Returns the failure of a start that the fence refuses.
    pub fn refusal(&self) -> Failure {
        let failure = match self {
            Self::Known(record) => {
                let since = clock::in_words(record.since);
                let failure = Failure::new(format!("fenced since {since}; the service must not be started"));
                let sentences = std::iter::once(&record.reason).chain(&record.cause).rev();
                let cause = sentences.map(Failure::new).reduce(|cause, failure| failure.because(cause));
                match cause {
                    Some(cause) => failure.because(cause),
                    None => failure,
                }
            }
            Self::Unreadable { why } => Failure::new("fenced; the service must not be started")
                .because(Failure::new(format!("the fence's record cannot be read: {why}"))),
        };
        failure.command("ladylinux-refresh run", &[]).command("ladylinux-refresh unfence", &[])
    }
}

/// Raises the fence for `run`. When this returns, the fence stands, also after a power cut.
///
/// # Errors
/// The file cannot be written or synced: the service must not be stopped then.
pub fn raise(layout: &Layout, run: &RunId, reason: &str) -> Outcome<FenceRecord> {
    let before = read(layout)?;
    let since = before.as_ref().and_then(Fence::record).map_or_else(clock::now, |before| before.since);
    let record =
        FenceRecord { run: run.clone(), since, reason: reason.to_owned(), cause: Vec::new(), halt: None };
    if let Err(failure) = write(layout, &record) {
        if before.is_none() {
            // The file may exist, but is not safe against a power cut yet. The service is not stopped, so nothing may
            // block its start.
            let _ = disk::remove_file_if_there(&layout.fence());
        }
        return Err(failure);
    }
    checkpoint::reach("fence:raised");
    Ok(record)
}

/// Adds the reason why `run` halted to a standing fence.
///
/// # Errors
/// The file cannot be written; the fence stands unchanged.
pub fn explain(layout: &Layout, run: &RunId, reason: &str, cause: &Failure, halt: Halt) -> Outcome<()> {
    let since = match read(layout)? {
        Some(Fence::Known(before)) => before.since,
        _ => clock::now(),
    };
    let (reason, cause) = (reason.to_owned(), cause.open_chain());
    let record = FenceRecord { run: run.clone(), since, reason, cause, halt: Some(halt) };
    write(layout, &record)
}

/// Lowers the fence. When this returns, the fence is down, also after a power cut.
///
/// # Errors
/// The file cannot be removed, or the sync fails.
pub fn lower(layout: &Layout) -> Outcome<()> {
    checkpoint::reach("fence:before-lowering");
    disk::remove_file_durably(&layout.fence()).context(|| "cannot lower the fence".to_owned())?;
    checkpoint::reach("fence:lowered");
    Ok(())
}

/// Returns the fence, if it stands.
///
/// # Errors
/// Its existence cannot be determined; callers must assume that it stands.
pub fn read(layout: &Layout) -> Outcome<Option<Fence>> {
    let path = layout.fence();
    match disk::read_own(&path) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => Ok(Some(match serde_json::from_slice(&bytes) {
            Ok(record) => Fence::Known(record),
            Err(error) => Fence::Unreadable { why: error.to_string() },
        })),
        Err(failure) if stands(&path) => Ok(Some(Fence::Unreadable { why: failure.chain().join(": ") })),
        Err(failure) => Err(failure),
    }
}

/// A directory or link in the place of the fence, or an unreadable file, is a fence too.
fn stands(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn write(layout: &Layout, record: &FenceRecord) -> Outcome<()> {
    disk::write_json(&layout.fence(), record, 0o644).context(|| "cannot raise the fence".to_owned())
}

/// The record that admits a start through the fence: the file `admit`, which the refresh creates for the moment of its
/// own start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitRecord {
    /// The run.
    pub run: RunId,
    /// Its process. When the process has ended, the file admits no start.
    pub process: ProcessId,
}

/// Opens the fence for one start by `run`, performs `start`, and closes the fence again in any case.
///
/// # Errors
/// The file cannot be written or removed, or the start fails.
pub fn admitted<T>(layout: &Layout, run: &RunId, start: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let context = || "cannot admit the service through the fence".to_owned();
    disk::make_directory(&layout.volatile(), 0o755).context(context)?;
    let record = AdmitRecord { run: run.clone(), process: ProcessId::own() };
    let bytes = serde_json::to_vec(&record).context(context)?;
    disk::write_volatile(&layout.admit(), &bytes, 0o644).context(context)?;
    checkpoint::reach("fence:admitted");
    let started = start();
    checkpoint::reach("fence:started");
    let closed = disk::remove_file_if_there(&layout.admit());
    let started = started?;
    closed.map(|()| started)
}

/// Returns the run that is admitted now. The file of a killed run admits no start.
///
/// # Errors
/// The file exists and cannot be read.
pub fn admission(layout: &Layout) -> Outcome<Option<AdmitRecord>> {
    let record: Option<AdmitRecord> = disk::read_json(&layout.admit())?;
    Ok(record.filter(|record| record.process.is_alive()))
}

/// Removes the admission of a killed run; that of a living run stays.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_stale_admission(layout: &Layout) -> Outcome<()> {
    match admission(layout) {
        Ok(Some(_)) => Ok(()),
        _ => disk::remove_file_if_there(&layout.admit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn world() -> (tempfile::TempDir, Layout, RunId) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        (directory, layout, RunId::parse("run-1").unwrap())
    }

    #[test]
    fn rw_7_1a_a_raised_fence_is_read_back_and_readable_by_all_users() {
        let (_directory, layout, run) = world();
        assert_eq!(read(&layout).unwrap(), None);
        let record = raise(&layout, &run, "refresh in progress").unwrap();
        assert_eq!(read(&layout).unwrap(), Some(Fence::Known(record)));
        let mode = layout.fence().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        lower(&layout).unwrap();
        assert_eq!(read(&layout).unwrap(), None);
    }

    #[test]
    fn rw_7_1a_a_torn_fence_still_refuses_a_start() {
        let (_directory, layout, _run) = world();
        for torn in [&b""[..], b"{\"run\":", b"\xff\xfe"] {
            disk::write_atomic(&layout.fence(), torn, 0o644).unwrap();
            assert!(matches!(read(&layout).unwrap(), Some(Fence::Unreadable { .. })));
        }
    }

    #[test]
    fn rw_7_1b_a_refused_start_reports_the_cause_of_the_halt() {
        let (_directory, layout, run) = world();
        let raised = raise(&layout, &run, "refresh in progress").unwrap();
        let cause = Failure::new("the migration failed").because(Failure::new("no such table"));
        let halt = Halt { phase: Phase::Prepare, commit: None };
        explain(&layout, &run, "run run-1 halted in step 4", &cause, halt).unwrap();
        let fence = read(&layout).unwrap().unwrap();
        assert_eq!(fence.record().unwrap().since, raised.since);
        let refusal = fence.refusal().chain().join(": ");
        assert!(refusal.contains("the migration failed: no such table"), "{refusal}");
    }

    #[test]
    fn rw_7_1a_a_run_that_died_admits_no_start() {
        let (_directory, layout, run) = world();
        admitted(&layout, &run, || {
            assert_eq!(admission(&layout).unwrap().unwrap().run, run);
            Ok(())
        })
        .unwrap();
        assert_eq!(admission(&layout).unwrap(), None);
        let dead = AdmitRecord { run, process: ProcessId { started: 1, ..ProcessId::own() } };
        disk::write_json(&layout.admit(), &dead, 0o644).unwrap();
        assert_eq!(admission(&layout).unwrap(), None);
    }
}
