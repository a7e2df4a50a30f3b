//! The report of a run as plain data.
//!
//! [`Report`] is the contract: `report.json`, `status.json`, the last line of `--format json` and the human text are
//! all derived from it. The module touches nothing; `report` renders the report.

mod environment;
mod held_back;
mod models;
mod phase;
mod service;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::error::Failure;
use refresh_system::text;

pub use environment::{Contaminated, Environment, LockSummary, Overlap};
pub use held_back::{HeldBack, HeldBy, RELEASE};
pub use models::ModelsSummary;
pub use phase::Phase;
pub use service::{OtherState, OtherUnit, Service, Tie};

/// The version of the report's format.
pub(crate) const SCHEMA: u32 = 2;

/// The exit code of a run that SIGTERM halted: the machine went down, which is no evidence against the commit.
const SHUT_DOWN: u8 = 128 + 15;

fn schema() -> u32 {
    SCHEMA
}

/// All about one run (RW-5.6).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The version of the format, [`SCHEMA`]; a report that was read has the current one too.
    #[serde(skip_deserializing, default = "schema")]
    pub schema: u32,
    /// The run.
    pub run: RunId,
    /// The command: `run` or `rollback`.
    pub command: String,
    /// How it ended.
    pub result: RunResult,
    /// The exit code.
    pub exit_code: u8,
    /// Whether commit or environment differ from before.
    pub changed: bool,
    /// Whether staging came before the stop.
    pub staged: bool,
    /// When it began, in UTC.
    pub started_at: jiff::Timestamp,
    /// When it ended, in UTC.
    pub finished_at: jiff::Timestamp,
    /// The branch.
    pub branch: BranchName,
    /// The commit in `app/` now (RW-5.6a); `None` if it cannot be read.
    pub commit: Option<CommitId>,
    /// The commit in `app/` before.
    pub commit_before: Option<CommitId>,
    /// The version that the run was to deploy; `None` if the run ended before it was known.
    #[serde(default)]
    pub requested: Option<Requested>,
    /// The bundle that it came from; `None` if it came from the remote.
    #[serde(default)]
    pub bundle: Option<Bundle>,
    /// The environment (RW-5.6b).
    pub environment: Environment,
    /// The service (RW-5.6c).
    pub service: Service,
    /// From the stop to the first good answer, in milliseconds; `None` if no good answer came.
    pub downtime_ms: Option<u64>,
    /// The parts of that time.
    #[serde(default)]
    pub downtime: Option<DowntimeParts>,
    /// The time without the service, if it was down before this run because earlier ones had not succeeded.
    #[serde(default)]
    pub outage: Option<Outage>,
    /// The connections while the socket of the service stayed open; `None` if it did not.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// Every part of the run, in order.
    pub phases: Vec<PhaseReport>,
    /// The result of verifying the models; `None` if they were not verified (RW-6.2).
    #[serde(default)]
    pub models: Option<ModelsSummary>,
    /// Local changes that were saved.
    pub saved: Saved,
    /// Files of the application that were kept in place, relative to `app/`.
    pub preserved: Vec<String>,
    /// Git-ignored paths that moved from the old tree into the new one, relative to `app/`.
    #[serde(default)]
    pub ignored: Vec<String>,
    /// The result of checking the protected paths.
    pub protected: Protected,
    /// How far units were confined; `None` if that cannot be determined.
    #[serde(default)]
    pub confinement: Option<Enforcement>,
    /// The commit that the run did not deploy, since a person, a halt or a stop of the service holds it back; `None` for other results.
    #[serde(default)]
    pub held_back: Option<HeldBack>,
    /// Things that a person should check.
    pub warnings: Vec<String>,
    /// Why it failed.
    pub error: Option<Error>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum RunResult {
    /// All six steps succeeded.
    Refreshed,
    /// Nothing had to be done, and nothing was done.
    Unchanged,
    /// An unattended run found a commit that is held back, and did nothing.
    HeldBack,
    /// Preflight or staging failed; the refresh was not started.
    Refused,
    /// A step failed; the service is stopped and fenced.
    Halted,
    /// The run was killed, and a later run cleaned up after it.
    Interrupted,
}

/// How far the table of units is in force on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "missing", rename_all = "snake_case")]
pub enum Enforcement {
    /// All of it.
    Enforced,
    /// All but this, a sentence each.
    Missing(Vec<String>),
}

/// The version that a run was to deploy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// The branch.
    pub branch: BranchName,
    /// Its commit; `None` if the run did not reach the remote.
    pub commit: Option<CommitId>,
    /// The first line of the commit's message, if the mirror could be read.
    pub subject: Option<String>,
    /// The author of the commit, if the mirror could be read.
    pub author: Option<String>,
}

impl Requested {
    /// Returns the first line of the commit's message and its author, for people.
    pub fn title(&self) -> Option<String> {
        let author = self.author.as_deref().map(|author| format!(" ({author})")).unwrap_or_default();
        self.subject.as_deref().map(|subject| format!("{subject}{author}"))
    }
}

/// The connections while the service was down and its socket open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections that were open for some time before the stop and ended with the service: streams and idle ones.
    pub ended: usize,
    /// The largest number of connections that waited for the new service at the same time.
    pub waited: u32,
    /// How long the first of them waited, in milliseconds; `None` if none did.
    pub longest_wait_ms: Option<u64>,
}

/// A time without the service that began in one run and ended in a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// When the service was fenced, in UTC.
    pub since: jiff::Timestamp,
    /// From then to the first good answer, in milliseconds.
    pub duration_ms: u64,
    /// The runs that did not succeed in that time, the earliest first.
    pub runs: Vec<RunId>,
    /// The command that prints the log of the first of them.
    #[serde(alias = "look")]
    pub command: Option<String>,
}

impl Outage {
    /// Begins with the time from a fence until now. It can span a boot, so the wall clock measures it.
    pub fn since(since: jiff::Timestamp, now: jiff::Timestamp) -> Self {
        let duration_ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(0);
        Self { since, duration_ms, runs: Vec::new(), command: None }
    }
}

/// The parts of a downtime, in milliseconds; their sum is the downtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowntimeParts {
    /// From the request to stop until the service has ended.
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
        [("stop", self.stop_ms), ("switch", self.sync_ms), ("hooks", self.hooks_ms), ("start", self.start_ms)]
    }
}

/// The bundle that a run received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The file.
    pub file: PathBuf,
    /// Its sha256; `None` if it was refused before it was read completely.
    pub sha256: Option<String>,
}

/// One part of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseReport {
    /// The part.
    pub phase: Phase,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Whether it succeeded.
    pub ok: bool,
    /// Its result, in a few words.
    pub summary: String,
}

/// Local changes that a run saved.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Saved {
    /// How many entries.
    pub count: usize,
    /// The first of them, relative to `app/`.
    pub paths: Vec<String>,
    /// Their directory.
    pub place: Option<PathBuf>,
    /// The command that shows them.
    #[serde(alias = "look")]
    pub command: Option<String>,
}

/// The check of models, containers, configuration and persistent data (RW-3.2, RW-6.1).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Protected {
    /// How many entries were compared before and after.
    pub entries: usize,
    /// The entries that differed afterwards, although no hook had run yet.
    pub changed: Vec<String>,
}

/// Why a run failed (RW-7.1b).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Error {
    /// The part of the run.
    pub phase: Phase,
    /// The causes: the outermost sentence first, the root cause last.
    pub chain: Vec<String>,
    /// The hints, the closest to the cause first.
    pub hints: Vec<String>,
    /// The command to type next.
    pub next: String,
}

impl Report {
    /// Makes the report of a run that begins; the run fills it later.
    pub fn new(run: RunId, command: &str, started_at: jiff::Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            run,
            command: command.to_owned(),
            result: RunResult::Interrupted,
            exit_code: 0,
            changed: false,
            staged: false,
            started_at,
            finished_at: started_at,
            branch: BranchName::main(),
            commit: None,
            commit_before: None,
            requested: None,
            bundle: None,
            environment: Environment::default(),
            service: Service::default(),
            downtime_ms: None,
            downtime: None,
            outage: None,
            connections: None,
            phases: Vec::new(),
            models: None,
            saved: Saved::default(),
            preserved: Vec::new(),
            ignored: Vec::new(),
            protected: Protected::default(),
            confinement: None,
            held_back: None,
            warnings: Vec::new(),
            error: None,
        }
    }

    /// Returns the report in the form that every user may read; `failure` is the cause of its error. The output of
    /// hooks and of the service can contain secrets: it stays in the log of the run and in the output of commands that
    /// followed it.
    #[must_use]
    pub fn open(&self, failure: Option<&Failure>) -> Self {
        let mut open = self.clone();
        if let Some(error) = &mut open.error {
            error.chain = failure.map(Failure::open_chain).unwrap_or_default();
        }
        open
    }

    /// Returns the commit that this run holds back because it halted; `None` if it ended in another way, or if its
    /// target was an earlier version, which no unattended run deploys. `user` typed its command.
    pub fn held_back_by_halt(&self, user: Option<String>) -> Option<HeldBack> {
        let is_one = self.result == RunResult::Halted && self.command == "run" && self.exit_code != SHUT_DOWN;
        let requested = self.requested.as_ref().filter(|_| is_one)?;
        Some(HeldBack {
            commit: requested.commit.clone()?,
            branch: requested.branch.clone(),
            subject: requested.subject.clone(),
            by: HeldBy::Halt,
            run: Some(self.run.clone()),
            at: self.started_at,
            user,
            why: self.why(),
        })
    }

    /// Returns the commit that this run holds back because it has rolled it back, or it has another environment; `None`
    /// for every other run. Even if a rollback halted, a person has decided against that commit.
    pub fn held_back_by_rollback(&self) -> Option<HeldBack> {
        let is_one =
            matches!(self.result, RunResult::Refreshed | RunResult::Halted) && self.command == "rollback";
        let left = self.commit_before.as_ref().filter(|_| is_one)?;
        let is_same =
            Some(left) == self.commit.as_ref() && self.environment.name_before == self.environment.name;
        (!is_same).then(|| HeldBack {
            commit: left.clone(),
            branch: self.branch.clone(),
            subject: None,
            by: HeldBy::Rollback,
            run: Some(self.run.clone()),
            at: self.started_at,
            user: None,
            why: None,
        })
    }

    /// Returns why the run did not succeed, in a line; `None` if it did.
    pub fn why(&self) -> Option<String> {
        self.error.as_ref().map(|error| text::harmless(&error.chain.join(": ")))
    }

    /// Returns how long the run took, in milliseconds: the sum of its parts, which the monotonic clock measures. A run
    /// that was killed measured nothing.
    pub fn duration_ms(&self) -> u64 {
        if self.result != RunResult::Interrupted {
            return self.phases.iter().map(|part| part.duration_ms).sum();
        }
        u64::try_from(self.finished_at.duration_since(self.started_at).as_millis()).unwrap_or(0)
    }

    /// Returns the length of the downtime that this run ended, in milliseconds; `None` if it ended none.
    pub fn down_ms(&self) -> Option<u64> {
        self.outage.as_ref().map(|outage| outage.duration_ms).or(self.downtime_ms)
    }

    /// Returns how it ended, for a line among others: `refreshed`, `rolled back`, `rollback halted`.
    pub fn in_words(&self) -> String {
        match (self.command.as_str(), self.result) {
            ("rollback", RunResult::Refreshed) => "rolled back".to_owned(),
            ("rollback", other) => format!("rollback {other}"),
            (_, RunResult::HeldBack) => "held back".to_owned(),
            (_, other) => other.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halted(exit_code: u8) -> Report {
        let mut report = Report::new(RunId::parse("r-1").unwrap(), "run", jiff::Timestamp::UNIX_EPOCH);
        let commit = CommitId::parse(&"1".repeat(40)).unwrap();
        report.requested = Some(Requested {
            branch: BranchName::main(),
            commit: Some(commit),
            subject: Some("B".to_owned()),
            author: None,
        });
        (report.result, report.exit_code) = (RunResult::Halted, exit_code);
        report
    }

    #[test]
    fn a_halt_holds_its_commit_back_unless_the_machine_was_shut_down() {
        let held = halted(1).held_back_by_halt(Some("alice".to_owned())).unwrap();
        assert_eq!(held.title(), "1111111111 B");
        assert_eq!(held.cause(), "a run of it by alice halted");
        assert!(halted(130).held_back_by_halt(None).is_some(), "a person cancelled it");
        assert_eq!(halted(143).held_back_by_halt(None), None);
        let rolled_back = Report { command: "rollback".to_owned(), ..halted(1) };
        assert_eq!(rolled_back.held_back_by_halt(None), None);
        assert_eq!(Report { result: RunResult::Refused, ..halted(3) }.held_back_by_halt(None), None);
    }

    #[test]
    fn a_rollback_holds_back_the_commit_that_it_left_even_if_it_halted() {
        let left = CommitId::parse(&"2".repeat(40)).unwrap();
        let rollback = |result: RunResult| Report {
            command: "rollback".to_owned(),
            commit_before: Some(left.clone()),
            result,
            ..halted(1)
        };
        for result in [RunResult::Refreshed, RunResult::Halted] {
            let held = rollback(result).held_back_by_rollback().unwrap();
            assert_eq!((held.commit, held.by), (left.clone(), HeldBy::Rollback));
        }
        assert_eq!(rollback(RunResult::Refused).held_back_by_rollback(), None);
    }

    #[test]
    fn the_duration_of_a_run_does_not_depend_on_the_wall_clock() {
        let part =
            |duration_ms| PhaseReport { phase: Phase::Stop, duration_ms, ok: true, summary: String::new() };
        let jumped = "2036-01-01T00:00:00Z".parse().unwrap();
        let report = Report { phases: vec![part(5), part(7)], finished_at: jumped, ..halted(1) };
        assert_eq!(report.duration_ms(), 12);
        let back = Report { started_at: jumped, finished_at: jiff::Timestamp::UNIX_EPOCH, ..report };
        assert_eq!(back.duration_ms(), 12);
    }
}
