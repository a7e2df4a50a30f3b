//! `status.json`: the last result and the deployed version.
//!
//! Replaced atomically and readable by the service's user: the application itself can show which version runs, whether
//! a refresh is in progress and how the last one ended. The deployed version changes only when a refresh has settled.
//!
//! A run and the process that answers the application's requests both write this file, so each change is made under the
//! file's own lock, for an instant.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use refresh_events::event::{Event, Subscriber};
use refresh_events::run_report::{HeldBack, Phase, Report};
use refresh_programs::process::{ExitKind, ProcessId};
use refresh_service::deployed::Deployment;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, RunId};
use refresh_system::disk::beneath::{Directory, Entry};
use refresh_system::environment;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::aside;
use refresh_system::{clock, disk};

/// The version of the file's format.
pub const SCHEMA: u32 = 2;

/// Returns whether this version reads a file of this format. Files of version 0.1 have the format 1, in which some fields
/// have other names.
pub fn is_supported(schema: u32) -> bool {
    (1..=SCHEMA).contains(&schema)
}

/// The content of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatusFile {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The pair of commit and environment that last passed its health check.
    pub deployed: Option<Deployment>,
    /// The run that is in progress. If its process no longer exists, it was killed.
    #[serde(default)]
    pub current: Option<Current>,
    /// The last run that ended.
    pub last_run: Option<Report>,
    /// The last request of the application.
    #[serde(default)]
    pub last_request: Option<LastRequest>,
    /// The commits that no unattended run deploys, the latest last.
    #[serde(default)]
    pub held_back: Vec<HeldBack>,
}

/// How many commits are held back at most; more are not needed, because a branch has one tip.
const HELD_BACK: usize = 20;

impl StatusFile {
    /// Returns the content in the current format, in which it is written again.
    fn current(self) -> Self {
        Self { schema: SCHEMA, ..self }
    }

    /// Holds a commit back; an earlier reason for the same one is replaced.
    fn hold_back(&mut self, held: HeldBack) {
        self.held_back.retain(|other| other.commit != held.commit);
        self.held_back.push(held);
        let surplus = self.held_back.len().saturating_sub(HELD_BACK);
        self.held_back.drain(..surplus);
    }

    /// Returns the run that is in progress, if its process exists.
    pub fn running_now(&self) -> Option<RunId> {
        self.current.as_ref().filter(|current| current.process.is_alive()).map(|current| current.run.clone())
    }

    /// Records the outcome of the request that started run `run`, if it is still open: the process that answered it may
    /// have ended before the run. `why` is the reason if the run failed.
    fn settle_request(&mut self, run: &RunId, why: Option<String>) {
        if let Some(request) = self.last_request.as_mut().filter(|request| request.is_open_for(run)) {
            request.outcome = if why.is_none() { RequestOutcome::Done } else { RequestOutcome::Failed };
            request.why = why;
        }
    }
}

/// A run that is in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The run.
    pub run: RunId,
    /// The command: `run` or `rollback`.
    pub command: String,
    /// The branch.
    pub branch: BranchName,
    /// When it began, in UTC.
    pub started_at: jiff::Timestamp,
    /// The current part: preflight, staging, stop or restart. `stop` includes all parts while the service is down, because
    /// writing this file durably takes longer than some of them; the journal has each.
    pub phase: Phase,
    /// Its process.
    pub process: ProcessId,
}

/// The result of a request of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRequest {
    /// When the request was found, in UTC.
    pub at: jiff::Timestamp,
    /// The branch to refresh; `None` if the settings could not be read.
    pub branch: Option<String>,
    /// Its outcome.
    pub outcome: RequestOutcome,
    /// The reason, if it did not succeed.
    pub why: Option<String>,
    /// The run that it led to.
    pub run: Option<RunId>,
}

impl StatusFile {
    /// Returns the status of a new installation.
    fn empty() -> Self {
        Self::default().current()
    }
}

impl LastRequest {
    /// Returns whether the request started run `run` and its outcome is not recorded yet.
    fn is_open_for(&self, run: &RunId) -> bool {
        self.outcome == RequestOutcome::Started && self.run.as_ref() == Some(run)
    }
}

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestOutcome {
    /// The settings do not allow it.
    Refused,
    /// Its run was started.
    Started,
    /// Its run succeeded.
    Done,
    /// Its run did not succeed.
    Failed,
}

/// Reads the file. A damaged or foreign one counts as empty: observation decides.
pub fn read(layout: &Layout) -> StatusFile {
    let read: Option<StatusFile> = disk::read_own_json(&layout.status_file()).ok().flatten();
    read.filter(|status| is_supported(status.schema)).map_or_else(StatusFile::empty, StatusFile::current)
}

/// Reads the file to change it. A damaged file, or one of another version, is kept beside it; the deployed pair of the
/// latter stays, since `rollback` returns to it.
///
/// # Errors
/// The file exists and cannot be read, or cannot be kept.
fn read_to_change(layout: &Layout) -> Outcome<StatusFile> {
    let path = layout.status_file();
    let Some(bytes) = disk::read_own(&path)? else { return Ok(StatusFile::empty()) };
    match serde_json::from_slice::<StatusFile>(&bytes) {
        Ok(status) if is_supported(status.schema) => return Ok(status.current()),
        _ => disk::replace_file(&path.with_extension("json.unreadable"), &bytes, 0o644)?,
    }
    let other: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let deployed = other.and_then(|status| serde_json::from_value(status.get("deployed")?.clone()).ok());
    Ok(StatusFile { deployed, ..StatusFile::empty() })
}

/// Records that a pair has passed its health check. After a run no commit of its branch is held back any longer; after
/// a rollback the commit that it returned to is not, unless the rollback itself holds it back: it has left another
/// environment of the same commit.
///
/// # Errors
/// The file cannot be written.
pub fn set_deployed(layout: &Layout, deployed: &Deployment, is_rollback: bool) -> Outcome<()> {
    change(layout, |status| {
        status.deployed = Some(deployed.clone());
        let is_over = |held: &HeldBack| {
            if is_rollback {
                held.commit == deployed.commit && held.run.as_ref() != Some(&deployed.run)
            } else {
                held.commit == deployed.commit || held.branch == deployed.branch
            }
        };
        status.held_back.retain(|held| !is_over(held));
    })
}

/// Holds a commit back from unattended runs.
///
/// # Errors
/// The file cannot be written.
pub fn hold_back(layout: &Layout, held: HeldBack) -> Outcome<()> {
    change(layout, |status| status.hold_back(held))
}

/// Records how a run ended, in the form that every user may read ([`Report::open`]); the run is no longer in progress.
///
/// # Errors
/// The file cannot be written.
pub fn set_last_run(layout: &Layout, report: &Report) -> Outcome<()> {
    change(layout, |status| {
        if let Some(held) = report.held_back_by_halt(environment::caller()) {
            status.hold_back(held);
        }
        status.settle_request(&report.run, report.why());
        status.last_run = Some(report.clone());
        status.current = None;
    })
}

/// Records that no run is in progress, if the file has one.
///
/// # Errors
/// The file cannot be written.
pub fn clear_current(layout: &Layout) -> Outcome<()> {
    if read(layout).current.is_none() {
        return Ok(());
    }
    change(layout, |status| {
        if let Some(current) = status.current.take() {
            status.settle_request(&current.run, Some("its run was interrupted".to_owned()));
        }
    })
}

/// Settles the request that run `run` was started for, by the end of its process. A settled request stays unchanged.
///
/// # Errors
/// The file cannot be written.
pub fn settle_request(layout: &Layout, run: &RunId, end: ExitKind) -> Outcome<()> {
    if !read(layout).last_request.is_some_and(|request| request.is_open_for(run)) {
        return Ok(());
    }
    let why = (end != ExitKind::Code(0)).then(|| format!("its run did not succeed: {end}"));
    change(layout, |status| status.settle_request(run, why))
}

/// Records the result of a request.
///
/// # Errors
/// The file cannot be written.
pub fn set_last_request(layout: &Layout, request: &LastRequest) -> Outcome<()> {
    change(layout, |status| status.last_request = Some(request.clone()))
}

/// Writes the run in progress. While the service is down, nothing is written: a write would extend the downtime, and
/// the application does not read the file then.
#[derive(Debug)]
pub struct CurrentRunWriter {
    layout: Layout,
    current: Current,
}

impl CurrentRunWriter {
    /// Makes the writer, and writes the run. Without this file the run could not record its success later.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn new(layout: &Layout, current: Current) -> Outcome<Self> {
        let first = current.clone();
        change_in_passing(layout, |status| status.current = Some(first))
            .map_err(|failure| with_repair(layout, failure))?;
        Ok(Self { layout: layout.clone(), current })
    }
}

/// Adds the command that removes the obstacle, if the file itself is one.
fn with_repair(layout: &Layout, failure: Failure) -> Failure {
    let path = layout.status_file();
    let found = Directory::open(&layout.state(), Path::new(""))
        .and_then(|state| path.file_name().map_or(Ok(None), |name| state.entry(name)));
    match found.ok().flatten() {
        Some(Entry { obstacle: Some(obstacle), .. }) => failure.hint(Hint::shell(obstacle.cure(&path))),
        Some(Entry { is_directory: true, .. }) => failure.command("mv", &[&path, &aside(&path)]),
        _ => failure,
    }
}

impl Subscriber for CurrentRunWriter {
    fn take(&mut self, event: &Event) {
        let Event::PhaseStarted { phase } = event else { return };
        if matches!(phase, Phase::Staging | Phase::Stop | Phase::Restart) {
            self.current.phase = *phase;
            let current = self.current.clone();
            // After a failure, readers get an older part, which is no reason to end a run.
            let _ = change_in_passing(&self.layout, |status| status.current = Some(current));
        }
    }
}

/// How long another process may hold the file's lock, which takes an instant.
const PATIENCE: Duration = Duration::from_secs(5);

/// Changes the file durably.
fn change(layout: &Layout, by: impl FnOnce(&mut StatusFile)) -> Outcome<()> {
    change_in_passing(layout, by)?;
    disk::sync_parent(&layout.status_file())
}

/// Changes the file, but not durably: after a power cut it may have its old content.
fn change_in_passing(layout: &Layout, by: impl FnOnce(&mut StatusFile)) -> Outcome<()> {
    let lock = disk::open_lock(&layout.status_file().with_extension("lock"))?;
    let start = clock::monotonic();
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if clock::monotonic().duration_since(start) > PATIENCE {
            return Err(Failure::new("another process holds the lock of status.json")
                .command("ladylinux-refresh status", &[]));
        }
        clock::sleep_uninterrupted(Duration::from_millis(2));
    }
    let mut status = read_to_change(layout)?;
    by(&mut status);
    disk::replace_json(&layout.status_file(), &status, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_foreign_status_reads_as_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        for bytes in [&b""[..], b"{\"schema\":1,\"dep", b"{\"schema\":99}", b"[]"] {
            disk::write_atomic(&layout.status_file(), bytes, 0o644).unwrap();
            assert!(read(&layout).deployed.is_none());
        }
    }

    fn a_request() -> LastRequest {
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        LastRequest { at, branch: None, outcome: RequestOutcome::Refused, why: None, run: None }
    }

    #[test]
    fn a_status_of_another_version_is_kept_and_its_deployed_pair_stays() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        let run = RunId::parse("r-1").unwrap();
        let deployed = serde_json::json!({
            "commit": "1".repeat(40), "branch": "main", "environment": "g-1",
            "refreshed_at": "2026-01-02T03:04:05Z", "run": "r-1",
        });
        let newer = serde_json::json!({"schema": 99, "deployed": deployed, "rings": []}).to_string();
        disk::write_atomic(&layout.status_file(), newer.as_bytes(), 0o644).unwrap();
        let request = LastRequest { run: Some(run.clone()), ..a_request() };
        set_last_request(&layout, &request).unwrap();
        assert_eq!(read(&layout).deployed.map(|pair| pair.run), Some(run));
        let kept = disk::read_if_there(&layout.status_file().with_extension("json.unreadable")).unwrap();
        assert_eq!(kept.as_deref(), Some(newer.as_bytes()));
    }

    #[test]
    fn a_status_of_version_0_1_is_read_with_its_former_names_and_written_in_the_current_format() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        let deployed = serde_json::json!({
            "commit": "1".repeat(40), "branch": "main", "generation": "g-1",
            "refreshed_at": "2026-01-02T03:04:05Z", "run": "r-1",
        });
        let old = serde_json::json!({"schema": 1, "deployed": deployed, "last_run": null}).to_string();
        disk::write_atomic(&layout.status_file(), old.as_bytes(), 0o644).unwrap();
        set_last_request(&layout, &a_request()).unwrap();
        let status: serde_json::Value = disk::read_json(&layout.status_file()).unwrap().unwrap();
        assert_eq!((&status["schema"], &status["deployed"]["environment"]), (&2.into(), &"g-1".into()));
    }

    #[test]
    fn the_environment_in_a_report_of_version_0_1_is_read_with_its_former_names() {
        let old = serde_json::json!({
            "path": "/opt/ladylinux/venv", "generation": "b-2", "generation_before": "a-1", "interpreter": null,
            "packages": 1, "built": true, "reason": "",
            "contaminated": [{"generation": "a-1", "count": 0, "found": []}],
        });
        let read: refresh_events::run_report::Environment = serde_json::from_value(old).unwrap();
        let names = [read.name.as_ref(), read.name_before.as_ref(), Some(&read.contaminated[0].name)];
        assert_eq!(names.map(|name| name.unwrap().as_str()), ["b-2", "a-1", "a-1"]);
    }

    #[test]
    fn a_status_that_cannot_be_read_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        disk::make_directory(&layout.status_file(), 0o755).unwrap();
        assert!(set_last_request(&layout, &a_request()).is_err());
        assert!(layout.status_file().is_dir());
        let current = Current {
            run: RunId::parse("r-1").unwrap(),
            command: "run".to_owned(),
            branch: BranchName::parse("main").unwrap(),
            started_at: a_request().at,
            phase: Phase::Preflight,
            process: ProcessId::own(),
        };
        let failure = CurrentRunWriter::new(&layout, current).unwrap_err();
        assert!(failure.hint_texts()[0].starts_with("mv "), "{:?}", failure.hint_texts());
    }
}
