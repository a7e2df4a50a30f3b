//! Events and results for people.
//!
//! All output is made from the same values that programs get; [`error`] and [`super::outcome::lines`] are tested with
//! fixtures.

use std::time::Duration;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue};
use indicatif::{ProgressBar, ProgressStyle};

use refresh_events::event::{Event, Subscriber};
use refresh_events::run_report::Phase;
use refresh_installation::exit;
use refresh_system::text::{duration, harmless, harmless_line};

use super::error_json::Explained;
use super::outcome::{self, Detail, advice, error_lines, failed, state};
use crate::cli::Cli;
use refresh_system::screen::{self, Tone, fact, paint};

/// Renders events as one line per step; on a terminal, with progress.
#[derive(Debug, Default)]
pub struct Human {
    bar: Option<ProgressBar>,
    detail: Detail,
}

impl Human {
    /// Returns the reporter; `detail` is the shown amount of other programs' output.
    pub fn new(detail: Detail) -> Self {
        Self { bar: None, detail }
    }

    fn start_bar(&mut self, phase: Phase) {
        if !screen::is_terminal() {
            return;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:<13} {wide_msg} {elapsed}") {
            bar.set_style(if screen::is_ascii() { style.tick_chars("|/-\\ ") } else { style });
        }
        bar.set_prefix(label(phase));
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn print_line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| screen::print_line(line)),
            None => screen::print_line(line),
        }
    }
}

impl Subscriber for Human {
    fn take(&mut self, event: &Event) {
        let is_wanted = matches!(event, Event::Warning { .. } | Event::RunFinished { .. });
        if screen::is_quiet() && self.detail == Detail::Brief && !is_wanted {
            return;
        }
        match event {
            Event::RunStarted { .. } => {}
            Event::PhaseStarted { phase } => self.start_bar(*phase),
            Event::Progress { what, done, total, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(match (done, total) {
                        (Some(done), Some(total)) => format!("{} {done}/{total}", harmless_line(what)),
                        (Some(done), None) => format!("{} {done}", harmless_line(what)),
                        _ => harmless_line(what),
                    });
                }
            }
            Event::Output { phase, source, line } => {
                if self.detail == Detail::Full || *phase == Phase::Prepare {
                    self.print_line(&paint(Tone::Quiet, &format!("    {source}| {}", harmless_line(line))));
                } else if let Some(bar) = &self.bar {
                    bar.set_message(harmless_line(line));
                }
            }
            Event::Note { message, .. } => self.print_line(&format!("    {}", narrated(message))),
            Event::Warning { message, .. } => {
                self.print_line(&format!("    {} {}", paint(Tone::Warning, "warning:"), narrated(message)));
            }
            Event::PhaseFinished { phase, duration_ms, summary } => {
                self.end_bar();
                self.print_line(&phase_line(
                    Tone::Good,
                    *phase,
                    &harmless_line(summary),
                    *duration_ms,
                    screen::width(),
                ));
            }
            Event::PhaseFailed { phase, duration_ms, .. } => {
                self.end_bar();
                self.print_line(&phase_line(Tone::Bad, *phase, "failed", *duration_ms, screen::width()));
            }
            Event::RunFinished { report: result } => {
                self.end_bar();
                let lines = outcome::lines(result, self.detail, screen::text_width());
                // The empty line separates the result from the steps, which are not printed then.
                let skipped = usize::from(screen::is_quiet());
                lines.iter().skip(skipped).for_each(|line| screen::print_line(line));
            }
        }
    }
}

/// Returns the line of a finished phase, which fits into `width` columns.
pub fn phase_line(tone: Tone, phase: Phase, summary: &str, duration_ms: u64, width: usize) -> String {
    let mark = paint(tone, if tone == Tone::Good { "✓" } else { "✗" });
    let (label, time) = (label(phase), duration(duration_ms));
    // There is one space between mark and label, label and summary, and summary and time.
    let middle = width.saturating_sub(1 + 13 + time.len().max(8) + 3);
    let summary = screen::cut(summary, middle);
    screen::spelled(&format!("{mark} {label:<13} {summary:<middle$} {time:>8}")).into_owned()
}

/// Returns a note or a warning, wrapped and with its further lines indented.
fn narrated(message: &str) -> String {
    screen::wrapped(&harmless(message), screen::text_width().saturating_sub(6)).join("\n      ")
}

fn label(phase: Phase) -> String {
    match phase.step() {
        Some(step) => format!("{step} {phase}"),
        None => format!("· {phase}"),
    }
}

/// Renders the error that ended a command without a report. `typed` converts a command of this program to the form to
/// type for this installation.
pub fn error(error: &exit::Error, typed: impl Fn(&str) -> String) -> Vec<String> {
    let width = screen::text_width();
    match error {
        exit::Error::Run(report) => {
            report.error.iter().flat_map(|error| error_lines(error, &state(report), width)).collect()
        }
        exit::Error::Detached { run, next, .. } => {
            vec![format!("run {run} continues; follow it with: {}", typed(next))]
        }
        _ => {
            let is_refused = matches!(error, exit::Error::Refused(_));
            let explained = Explained::new(error, typed);
            explained
                .map(|it| failed(it.step.as_deref().filter(|_| is_refused), &it, width))
                .unwrap_or_default()
        }
    }
}

/// The similarity from which one word may be a typo of the other.
const ALIKE: f64 = 0.8;

/// Words that people type for a command, and the command.
const MEANT: [(&str, &str); 6] = [
    ("uninstall", "init --undo"),
    ("start", "service start"),
    ("stop", "service stop"),
    ("restart", "service restart"),
    ("logs", "service logs"),
    ("version", "--version"),
];

/// Suggests only commands for people, and the right one for a word that looks like another command.
fn suggest_commands(error: &mut clap::Error) {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let meant = MEANT.iter().find(|(word, _)| word == typed).map(|(_, meant)| vec![(*meant).to_owned()]);
    let near = match error.remove(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(near)) => near,
        _ => Vec::new(),
    };
    let is_shown =
        |name: &String| !Cli::command().find_subcommand(name).is_some_and(clap::Command::is_hide_set);
    let near = meant.unwrap_or_else(|| near.into_iter().filter(is_shown).collect());
    if !near.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(near));
    }
}

/// Renders the error of a command line: the message of its parser, in the form of all other errors. `command` is the
/// command with the help for it.
pub fn wrong_words(mut error: clap::Error, command: &str) -> Vec<String> {
    // The parser's own advice (to escape an option, or to use one that is hardly similar) is misleading.
    error.remove(ContextKind::Suggested);
    suggest_commands(&mut error);
    // It also lists the commands that only the program itself uses.
    error.remove(ContextKind::ValidSubcommand);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.trim_start_matches('-').to_owned()),
        _ => None,
    };
    if let (Some(given), Some(meant)) = (text(ContextKind::InvalidArg), text(ContextKind::SuggestedArg))
        && strsim::jaro_winkler(&given, &meant) < ALIKE
    {
        error.remove(ContextKind::SuggestedArg);
    }
    let text = error
        .render()
        .to_string()
        .replace("invalid digit found in string", "it is not an integer")
        .replace("number too large to fit in target type", "it is too large");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut lines = vec![format!("{}: ", paint(Tone::Bad, "error"))];
    for line in text.lines().filter(|line| !line.starts_with("For more information")) {
        let line = harmless(line);
        match lines.as_mut_slice() {
            [first] if first.ends_with(": ") => first.push_str(&line),
            _ if line.trim().is_empty() => {}
            _ => lines.push(line),
        }
    }
    lines.extend(fact("service", "not touched", screen::text_width()));
    lines.extend(advice("next", &format!("{command} --help"), screen::text_width()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_phase_fits_into_60_80_and_120_columns() {
        for width in [60, 80, 120] {
            for summary in ["done", &"word ".repeat(40)] {
                let line = phase_line(Tone::Good, Phase::Environment, summary, 61_234, width);
                assert_eq!(line.chars().count(), width, "{line}");
                assert!(line.ends_with(" 1 min 01 s"), "{line}");
            }
        }
    }
}
