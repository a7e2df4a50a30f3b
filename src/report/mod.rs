//! The result of a run as one value, and its renderings.
//!
//! [`Report`] is the contract: `report.json`, `status.json`, the last line of `--format json` and the human text are
//! all made from it. [`screen`] is the one door to standard output and standard error.

pub mod aside;
pub mod github;
pub mod history_page;
pub mod human;
pub mod json;
pub mod log;
pub mod progress;
pub mod screen;
pub mod shell;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::event::Phase;
use crate::journal::record::Ending;
use crate::models::verify as models;
use crate::python::Overlap;
use crate::python::contamination::Finding;
use crate::python::lock::Summary;
use crate::settings::names::{BranchName, CommitId, GenerationName, RunId};
use crate::units::Enforcement;

/// The version of the report's format.
pub const SCHEMA: u32 = 1;

/// All about one run (RW-5.6).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The run.
    pub run: RunId,
    /// What was asked for: `run` or `rollback`.
    pub command: String,
    /// How it ended.
    pub result: Ending,
    /// The exit code.
    pub exit_code: u8,
    /// Whether commit or environment are others than before.
    pub changed: bool,
    /// Whether staging came before the stop.
    pub staged: bool,
    /// When it began, in UTC.
    pub started_at: jiff::Timestamp,
    /// When it ended, in UTC.
    pub finished_at: jiff::Timestamp,
    /// The branch.
    pub branch: BranchName,
    /// The commit that `app/` holds now (RW-5.6a); `None` where that cannot be told.
    pub commit: Option<CommitId>,
    /// The commit that it held before.
    pub commit_before: Option<CommitId>,
    /// The bundle that it came from; `None` where it came from the remote.
    #[serde(default)]
    pub bundle: Option<Bundle>,
    /// The environment (RW-5.6b).
    pub environment: Environment,
    /// The service (RW-5.6c).
    pub service: Service,
    /// From the stop to the first good answer, in milliseconds; `None` where there was none.
    pub downtime_ms: Option<u64>,
    /// What that time was needed for.
    #[serde(default)]
    pub downtime: Option<DowntimeParts>,
    /// What became of connections while the socket of the service stayed open; `None` where it did not.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// Every part of the run, in order.
    pub phases: Vec<PhaseReport>,
    /// What was found when the models were looked at; `None` where they were not (RW-6.2).
    #[serde(default)]
    pub models: Option<models::Summary>,
    /// Local changes that were saved.
    pub saved: Saved,
    /// Files of the application that were kept in place, relative to `app/`.
    pub preserved: Vec<String>,
    /// Git-ignored paths that moved from the old tree into the new one, relative to `app/`.
    #[serde(default)]
    pub ignored: Vec<String>,
    /// What became of the protected paths.
    pub protected: Protected,
    /// How far units were confined; `None` where that cannot be found out.
    #[serde(default)]
    pub confinement: Option<Enforcement>,
    /// Things a person should look at.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub error: Option<Error>,
}

/// What became of connections while the service was down and its socket open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Those that were open from some time before the stop until then, and ended with the service: streams and idle ones.
    pub ended: usize,
    /// Those that waited at once for the new service.
    pub waited: u32,
    /// How long the first of them waited, in milliseconds; `None` where none did.
    pub longest_wait_ms: Option<u64>,
}

/// What a downtime was needed for, in milliseconds; together they are the downtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowntimeParts {
    /// From the request to stop until the service is gone.
    pub stop_ms: u64,
    /// Moving the tree in and switching the environment.
    pub sync_ms: u64,
    /// The hooks.
    pub hooks_ms: u64,
    /// From there to the first good answer.
    pub start_ms: u64,
}

impl DowntimeParts {
    /// Divides a downtime: `start` is the time from the beginning of step 5 to the first good answer.
    pub fn of(downtime_ms: u64, start_ms: u64, phases: &[PhaseReport]) -> Self {
        let took = |wanted: &[Phase]| -> u64 {
            phases.iter().filter(|part| wanted.contains(&part.phase)).map(|part| part.duration_ms).sum()
        };
        let (sync_ms, hooks_ms) = (took(&[Phase::Sync, Phase::Environment]), took(&[Phase::Prepare]));
        let stop_ms = downtime_ms.saturating_sub(sync_ms + hooks_ms + start_ms);
        Self { stop_ms, sync_ms, hooks_ms, start_ms }
    }

    /// Returns each part with its name, in their order.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        [("stop", self.stop_ms), ("sync", self.sync_ms), ("hooks", self.hooks_ms), ("start", self.start_ms)]
    }
}

/// The bundle that a run was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The file.
    pub file: PathBuf,
    /// Its sha256; `None` where it was refused before it was read whole.
    pub sha256: Option<String>,
}

/// The environment at the end of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Environment {
    /// The path that the service uses: the link.
    pub path: PathBuf,
    /// The generation that it leads to.
    pub generation: Option<GenerationName>,
    /// The generation that it led to before.
    pub generation_before: Option<GenerationName>,
    /// The interpreter: implementation and version.
    pub interpreter: Option<String>,
    /// How many distributions are installed.
    pub packages: Option<usize>,
    /// Whether this run built it.
    pub built: bool,
    /// Why it was built or reused.
    pub reason: String,
    /// The lock that it was built from; `None` where that is not known.
    #[serde(default)]
    pub lock: Option<Summary>,
    /// The digest of what is installed, the same on every machine; `None` where it is not known.
    #[serde(default)]
    pub digest: Option<String>,
    /// Files that several packages bring, and whose is used.
    #[serde(default)]
    pub overlaps: Vec<Overlap>,
    /// Environments that somebody had changed by hand, and that are not used any more.
    #[serde(default)]
    pub contaminated: Vec<Contaminated>,
}

/// An environment that somebody had changed by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contaminated {
    /// The generation.
    pub generation: GenerationName,
    /// How many files and directories differed.
    pub count: usize,
    /// The first of them.
    pub found: Vec<Finding>,
}

/// The service at the end of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Service {
    /// `running`, `stopped` or `unknown`.
    pub state: String,
    /// Its main process.
    pub pid: Option<i32>,
    /// The URL that was probed.
    pub url: Option<String>,
    /// Whether the fence stands.
    pub fenced: bool,
    /// The other units of the application.
    #[serde(default)]
    pub others: Vec<OtherUnit>,
}

/// A unit of the application beside the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherUnit {
    /// Its name.
    pub unit: String,
    /// What ties it to the service.
    pub tie: Tie,
    /// What it does at the end of the run.
    pub state: OtherState,
}

/// What ties a unit to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tie {
    /// systemd stops it together with the service.
    StoppedWithIt,
    /// The host names it in `service.also`.
    Also,
    /// Nothing.
    None,
}

/// What a unit beside the service does at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherState {
    /// It was started again.
    Started,
    /// It is down.
    Down,
    /// It was not restarted.
    RunsOldVersion,
}

/// One part of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseReport {
    /// Which.
    pub phase: Phase,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Whether it succeeded.
    pub ok: bool,
    /// What it did, in a few words.
    pub summary: String,
}

/// Local changes that a run saved.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Saved {
    /// How many entries.
    pub count: usize,
    /// The first of them, relative to `app/`.
    pub paths: Vec<String>,
    /// Where they are.
    pub place: Option<PathBuf>,
    /// The command that shows them.
    pub look: Option<String>,
}

/// What became of models, containers, configuration and persistent data (RW-3.2, RW-6.1).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Protected {
    /// How many entries were looked at before and after.
    pub entries: usize,
    /// What differed afterwards, although no hook had run yet.
    pub changed: Vec<String>,
}

/// Why a run failed (RW-7.1b).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Error {
    /// In which part.
    pub phase: Phase,
    /// What happened: the outermost sentence first, the root cause last.
    pub chain: Vec<String>,
    /// What may help, the closest to the cause first.
    pub hints: Vec<String>,
    /// The command to type next.
    pub next: String,
}

impl Report {
    /// Returns the report as everybody may read it; `failure` is what its error tells. What hooks and the service wrote may
    /// hold secrets: it stays in the log of the run, and with those who followed it.
    #[must_use]
    pub fn open(&self, failure: Option<&Failure>) -> Self {
        let mut open = self.clone();
        if let Some(error) = &mut open.error {
            error.chain = failure.map(Failure::open_chain).unwrap_or_default();
        }
        open
    }

    /// Returns why the run did not succeed, in a line; `None` where it did.
    pub fn why(&self) -> Option<String> {
        self.error.as_ref().map(|error| screen::harmless(&error.chain.join(": ")))
    }

    /// Returns how long the run took, in milliseconds.
    pub fn duration_ms(&self) -> u64 {
        u64::try_from(self.finished_at.duration_since(self.started_at).as_millis()).unwrap_or(0)
    }

    /// Returns how it ended, for a line among others: `refreshed`, `rolled back`, `rollback halted`.
    pub fn in_words(&self) -> String {
        match (self.command.as_str(), self.result) {
            ("rollback", Ending::Refreshed) => "rolled back".to_owned(),
            ("rollback", other) => format!("rollback {}", other.word()),
            (_, other) => other.word().to_owned(),
        }
    }
}
