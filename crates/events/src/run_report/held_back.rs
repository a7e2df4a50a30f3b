//! A commit that unattended runs hold back, and why. Plain data; the module touches nothing.

use serde::{Deserialize, Serialize};

use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_system::clock;
use refresh_system::text::harmless_line;

/// A commit that no unattended run deploys, until a newer commit comes or `run` is typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// The commit.
    pub commit: CommitId,
    /// The branch that it was deployed from.
    pub branch: BranchName,
    /// The first line of its message, if it is known.
    #[serde(default)]
    pub subject: Option<String>,
    /// The reason why it is held back.
    pub by: HeldBy,
    /// The run that rolled it back, or that halted; `None` if the service was stopped.
    #[serde(default)]
    pub run: Option<RunId>,
    /// When that run began, or since when the service is down, in UTC.
    pub at: jiff::Timestamp,
    /// The user who typed the command of that run, if it was typed and the user is known.
    #[serde(default)]
    pub user: Option<String>,
    /// Why the run halted; `None` after a rollback.
    #[serde(default)]
    pub why: Option<String>,
}

/// The reason why a commit is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// A person returned to an earlier version.
    Rollback,
    /// A run of it halted.
    Halt,
    /// The service was stopped on request, and is down since then. This holds back every commit, and is recorded in no file.
    Stop,
}

impl HeldBack {
    /// Returns the commit with its subject, for people.
    pub fn title(&self) -> String {
        if self.by == HeldBy::Stop {
            return format!("every commit of {}", self.branch);
        }
        let subject = self.subject.as_deref().map(|it| format!(" {}", harmless_line(it))).unwrap_or_default();
        format!("{}{subject}", self.commit.short())
    }

    /// Returns the reason why it is held back, without the time: `rolled back by alice`, `its run halted`.
    pub fn cause(&self) -> String {
        let user = self.user.as_deref().map(harmless_line);
        match (self.by, user) {
            (HeldBy::Rollback, Some(user)) => format!("rolled back by {user}"),
            (HeldBy::Rollback, None) => "rolled back".to_owned(),
            (HeldBy::Halt, Some(user)) => format!("a run of it by {user} halted"),
            (HeldBy::Halt, None) => "a run of it halted".to_owned(),
            (HeldBy::Stop, _) => "the service was stopped".to_owned(),
        }
    }

    /// Returns the reason with the time and the run.
    pub fn cause_in_full(&self) -> String {
        let run = self.run.as_ref().map(|run| format!(", run {run}")).unwrap_or_default();
        format!("{} at {}{run}", self.cause(), clock::in_words(self.at))
    }

    /// Returns the events that end it, for people.
    pub fn release(&self) -> &'static str {
        if self.by == HeldBy::Stop { RELEASE_STOPPED } else { RELEASE }
    }
}

/// The events that end it if the service was stopped, for people.
const RELEASE_STOPPED: &str = "`run`; or start the service";

/// The events that end it, for people.
pub const RELEASE: &str = "`run`, or a newer commit of the branch";
