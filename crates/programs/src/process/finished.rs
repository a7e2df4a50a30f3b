//! The result of a child: how it ended, and its output. The module touches nothing.

use std::time::Duration;

use refresh_system::error::{Failure, Outcome};

/// How the output of a child is handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Kept completely, up to this many bytes of each stream; more is a failure.
    All(usize),
    /// Streamed line by line as events under this name; the last 64 KiB of each stream are kept.
    Narrated(String),
    /// Standard output is a response and kept completely, up to this many bytes. The lines of standard error are events
    /// under the name `narrate`, if it is set, and the last 64 KiB are kept.
    Response {
        /// How many bytes of standard output are kept; more is a failure.
        limit: usize,
        /// The name of the events for progress.
        narrate: Option<String>,
    },
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEnd {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It was ended because it passed its deadline.
    PastDeadline(Duration),
    /// It was ended because it was silent for this long.
    Stalled(Duration),
}

/// The result of a child.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The program's name.
    pub program: String,
    /// How it ended.
    pub ended: ChildEnd,
    /// Its standard output (the end of it, when narrated).
    pub stdout: Vec<u8>,
    /// Its standard error (the end of it, when narrated).
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Returns whether it exited with code 0.
    pub fn succeeded(&self) -> bool {
        self.ended == ChildEnd::Exited(0)
    }

    /// Returns the standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns the last `count` lines that are not empty of standard error, or of standard output if standard error is
    /// empty; in the form that a terminal shows at the end, without progress that was overwritten.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let of = |bytes: &[u8]| -> Vec<String> {
            let text = String::from_utf8_lossy(bytes);
            let seen =
                |line: &'_ str| line.trim_end().rsplit('\r').next().unwrap_or_default().trim_end().to_owned();
            let lines: Vec<String> = text.lines().map(seen).filter(|line| !line.is_empty()).collect();
            lines[lines.len().saturating_sub(count)..].to_vec()
        };
        let stderr = of(&self.stderr);
        if stderr.is_empty() { of(&self.stdout) } else { stderr }
    }

    /// Returns this end as a failure: `summary`, caused by how the program ended, caused by its output.
    pub fn failure(&self, summary: &str) -> Failure {
        let how = match self.ended {
            ChildEnd::Exited(code) => format!("{} exited with code {code}", self.program),
            ChildEnd::Signalled(signal) => format!("{} was ended by signal {signal}", self.program),
            ChildEnd::PastDeadline(after) => {
                format!("{} was ended after its deadline of {after:?}", self.program)
            }
            ChildEnd::Stalled(after) => {
                format!("{} was ended after {after:?} without a sign of life", self.program)
            }
        };
        let said = self.last_lines(15);
        let cause = if said.is_empty() {
            Failure::new(how)
        } else {
            Failure::new(how).because(Failure::written(&said, ""))
        };
        Failure::new(summary).because(cause)
    }

    /// Returns itself if it exited with code 0.
    ///
    /// # Errors
    /// The end as [`Finished::failure`].
    pub fn ok(self, summary: impl FnOnce() -> String) -> Outcome<Self> {
        if self.succeeded() { Ok(self) } else { Err(self.failure(&summary())) }
    }
}
