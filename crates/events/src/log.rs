//! The log of a run: every event as one plain line, in the directory of the run.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::event::{Event, Subscriber};
use refresh_system::error::Outcome;
use refresh_system::text::harmless;
use refresh_system::{clock, disk};

/// Keeps events in a file.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// Opens the log of a run.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(path: &Path) -> Outcome<Self> {
        Ok(Self { file: disk::append_own(path, 0o640)? })
    }
}

impl Subscriber for Log {
    fn take(&mut self, event: &Event) {
        if let Some(line) = line(event) {
            // People read logs on terminals, so text of other programs is escaped here as well.
            let line = harmless(&line).replace('\n', "\n    ");
            // In one write: a line is complete or missing.
            let line = format!("{} {line}\n", clock::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ"));
            let _ = self.file.write_all(line.as_bytes());
        }
    }
}

/// Returns the event as a line of the log; `None` for events that matter only when they happen.
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::RunStarted { run, program, .. } => format!("run {run} with version {program}"),
        Event::PhaseStarted { phase } => format!("{phase}: started"),
        Event::Progress { .. } => return None,
        Event::Output { phase, source, line } => format!("{phase}: {source}| {line}"),
        Event::Note { phase, message } => format!("{phase}: {message}"),
        Event::Warning { phase, message } => format!("{phase}: warning: {message}"),
        Event::PhaseFinished { phase, duration_ms, summary } => {
            format!("{phase}: done in {duration_ms} ms: {summary}")
        }
        Event::PhaseFailed { phase, duration_ms, error } => {
            format!("{phase}: failed after {duration_ms} ms: {}", error.join(": "))
        }
        Event::RunFinished { report } => {
            format!("{} with exit code {}", report.result, report.exit_code)
        }
    })
}
