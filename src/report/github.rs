//! Events for GitHub Actions: groups, annotations, the step summary and outputs.
//!
//! Source: the workflow commands and environment files of GitHub Actions.

use std::io::Write as _;
use std::path::PathBuf;

use crate::report::outcome::Detail;
use refresh_events::event::{Event, Subscriber};
use refresh_events::run_report::Report;
use refresh_system::disk;
use refresh_system::environment;
use refresh_system::text::{duration, harmless, harmless_line};

use super::outcome;
use refresh_system::screen;

/// Renders events for a job of GitHub Actions.
#[derive(Debug)]
pub struct GitHub {
    summary: Option<PathBuf>,
    outputs: Option<PathBuf>,
    open: bool,
}

impl GitHub {
    /// Returns the reporter if the environment is that of a job.
    pub fn detect() -> Option<Self> {
        (environment::variable("GITHUB_ACTIONS").as_deref() == Some("true")).then(|| Self {
            summary: environment::variable("GITHUB_STEP_SUMMARY").map(PathBuf::from),
            outputs: environment::variable("GITHUB_OUTPUT").map(PathBuf::from),
            open: false,
        })
    }

    /// Returns the reporter outside a job: no summary, no outputs.
    pub fn without_job() -> Self {
        Self { summary: None, outputs: None, open: false }
    }

    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            screen::print_line("::endgroup::");
        }
    }
}

impl Subscriber for GitHub {
    fn take(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, .. } => screen::print_line(&format!("run {run}")),
            Event::PhaseStarted { phase } => {
                self.close();
                self.open = true;
                screen::print_line(&format!("::group::{phase}"));
            }
            Event::Progress { .. } => {}
            Event::Output { source, line, .. } => screen::print_line(&inert(&format!("{source}| {line}"))),
            Event::Note { message, .. } => screen::print_line(&inert(message)),
            Event::Warning { message, .. } => screen::print_line(&format!("::warning::{}", escape(message))),
            Event::PhaseFinished { phase, duration_ms, summary } => {
                screen::print_line(&inert(&format!("{phase}: {summary} ({})", duration(*duration_ms))));
                self.close();
            }
            Event::PhaseFailed { phase, error, .. } => {
                self.close();
                screen::print_line(&format!("::error title={phase} failed::{}", escape(&error.join(": "))));
            }
            Event::RunFinished { report } => {
                self.close();
                for line in outcome::lines(report, Detail::Brief, usize::MAX) {
                    screen::print_line(&inert(&line));
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

/// Returns the outputs of the step: `commit`, `changed`, `downtime_ms`, and `result`.
fn outputs(report: &Report) -> String {
    let commit = report.commit.as_ref().map_or("", |commit| commit.as_str());
    let downtime = report.downtime_ms.map(|ms| ms.to_string()).unwrap_or_default();
    format!("commit={commit}\nchanged={}\ndowntime_ms={downtime}\nresult={}\n", report.changed, report.result)
}

/// Returns the step summary, in Markdown.
fn summary(report: &Report) -> String {
    let mut text =
        format!("### Refresh {}: {}\n\n| step | time | |\n|---|---|---|\n", report.run, report.result);
    for part in &report.phases {
        let mark = if part.ok { "" } else { "failed" };
        text.push_str(&format!("| {} | {} | {mark} |\n", part.phase, duration(part.duration_ms)));
    }
    if let Some(error) = &report.error {
        // The error is a block of code: nothing in it is Markdown or HTML.
        text.push_str(&format!("\nError in {}:\n\n", error.phase));
        let chain = harmless(&error.chain.join("\nbecause "));
        text.extend(chain.lines().map(|line| format!("    {line}\n")));
        text.push_str(&format!("\nNext:\n\n    {}\n", harmless_line(&error.next)));
    }
    text
}

/// Makes text of other programs safe for the log of a job: no line of it can act as a workflow command. The runner
/// recognizes `::name::` at the start of a line, after blanks, and `##[name]` anywhere in a line.
fn inert(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace("##[", "##\\[");
        if line.trim_start().starts_with("::") { format!("| {line}") } else { line }
    };
    harmless(text).split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Escapes the data of a workflow command.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_become_a_workflow_command() {
        assert_eq!(escape("a\n::set-output::b%"), "a%0A::set-output::b%25");
        assert_eq!(inert("a\n  ::error::b\r::x ##[error]c"), "a\n|   ::error::b\\r::x ##\\[error]c");
    }
}
