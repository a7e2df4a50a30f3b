//! Events for GitHub Actions: groups, annotations, the step summary and outputs.
//!
//! Source: the workflow commands and environment files of GitHub Actions.

use std::io::Write as _;
use std::path::PathBuf;

use super::human;
use super::screen::{self, harmless};
use super::{Report, screen::duration};
use crate::disk;
use crate::event::{Event, Subscriber};
use crate::settings::environment;

/// Renders events for a job of GitHub Actions.
#[derive(Debug)]
pub struct GitHub {
    summary: Option<PathBuf>,
    outputs: Option<PathBuf>,
    open: bool,
}

impl GitHub {
    /// Makes the reporter where the environment is that of a job.
    pub fn detect() -> Option<Self> {
        (environment::variable("GITHUB_ACTIONS").as_deref() == Some("true")).then(|| Self {
            summary: environment::variable("GITHUB_STEP_SUMMARY").map(PathBuf::from),
            outputs: environment::variable("GITHUB_OUTPUT").map(PathBuf::from),
            open: false,
        })
    }

    /// Makes the reporter outside of a job: no summary, no outputs.
    pub fn without_job() -> Self {
        Self { summary: None, outputs: None, open: false }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            screen::say("::endgroup::");
        }
    }
}

impl Subscriber for GitHub {
    fn take(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, .. } => screen::say(&format!("run {run}")),
            Event::PhaseStarted { phase } => {
                self.close();
                self.open = true;
                screen::say(&format!("::group::{phase}"));
            }
            Event::Progress { .. } => {}
            // A line that another program wrote must not be taken for a workflow command.
            Event::Output { source, line, .. } => screen::say(&format!("{source}| {}", harmless(line))),
            Event::Note { message, .. } => screen::say(&harmless(message)),
            Event::Warning { message, .. } => screen::say(&format!("::warning::{}", escape(message))),
            Event::PhaseFinished { phase, duration_ms, summary } => {
                screen::say(&format!("{phase}: {} ({})", harmless(summary), duration(*duration_ms)));
                self.close();
            }
            Event::PhaseFailed { phase, error, .. } => {
                self.close();
                screen::say(&format!("::error title={phase} failed::{}", escape(&error.join(": "))));
            }
            Event::RunFinished { report } => {
                self.close();
                for line in human::report(report) {
                    screen::say(&line);
                }
                append(self.summary.as_ref(), &summary(report));
                append(self.outputs.as_ref(), &outputs(report));
            }
        }
    }
}

fn append(path: Option<&PathBuf>, text: &str) {
    if let Some(mut file) = path.and_then(|path| disk::open_append(path, 0o644).ok()) {
        let _ = file.write_all(text.as_bytes());
    }
}

/// The outputs of the step: `commit`, `changed`, `downtime_ms`, and `result`.
fn outputs(report: &Report) -> String {
    let commit = report.commit.as_ref().map_or("", |commit| commit.as_str());
    let downtime = report.downtime_ms.map(|ms| ms.to_string()).unwrap_or_default();
    format!(
        "commit={commit}\nchanged={}\ndowntime_ms={downtime}\nresult={}\n",
        report.changed,
        report.result.word()
    )
}

/// The step summary, in Markdown.
fn summary(report: &Report) -> String {
    let mut text =
        format!("### Refresh {}: {}\n\n| step | time | |\n|---|---|---|\n", report.run, report.result.word());
    for part in &report.phases {
        let mark = if part.ok { "" } else { "failed" };
        text.push_str(&format!("| {} | {} | {mark} |\n", part.phase, duration(part.duration_ms)));
    }
    if let Some(error) = &report.error {
        text.push_str(&format!("\n**{}**: {}\n\n", error.phase, harmless(&error.chain.join(": "))));
        text.push_str(&format!("Next: `{}`\n", error.next));
    }
    text
}

/// Escapes the data of a workflow command.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_cannot_become_a_workflow_command() {
        assert_eq!(escape("a\n::set-output::b%"), "a%0A::set-output::b%25");
    }
}
