//! Events and results for people.
//!
//! Everything here is made from the same values that programs get; [`report`] and [`error`] are pure and tested on
//! fixtures.

use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use indicatif::{ProgressBar, ProgressStyle};

use super::screen::{self, Tone, count, duration, harmless, harmless_line, paint};
use super::{Connections, Error, Report};
use crate::clock;
use crate::event::{Event, Phase, Subscriber};
use crate::exit::{self, Refusal};
use crate::journal::record::Ending;
use crate::journal::run_lock::Holder;
use crate::units::Enforcement;

/// Renders events as a line per step; on a terminal with progress.
#[derive(Debug, Default)]
pub struct Human {
    bar: Option<ProgressBar>,
    detail: Detail,
}

/// How much of other programs' output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Only what hooks say.
    #[default]
    Brief,
    /// Everything.
    Full,
}

impl Human {
    /// Makes the reporter; `detail` says how much of other programs' output is shown.
    pub fn new(detail: Detail) -> Self {
        Self { bar: None, detail }
    }

    fn start_bar(&mut self, phase: Phase) {
        if !screen::is_terminal() {
            return;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:<13} {wide_msg} {elapsed}") {
            bar.set_style(style);
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

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| screen::say(line)),
            None => screen::say(line),
        }
    }
}

impl Subscriber for Human {
    fn take(&mut self, event: &Event) {
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
                    self.say(&paint(Tone::Quiet, &format!("    {source}| {}", harmless_line(line))));
                } else if let Some(bar) = &self.bar {
                    bar.set_message(harmless_line(line));
                }
            }
            Event::Note { message, .. } => self.say(&format!("    {}", indented(message))),
            Event::Warning { message, .. } => {
                self.say(&format!("    {} {}", paint(Tone::Warning, "warning:"), indented(message)));
            }
            Event::PhaseFinished { phase, duration_ms, summary } => {
                self.end_bar();
                self.say(&phase_line(
                    Tone::Good,
                    *phase,
                    &harmless_line(summary),
                    *duration_ms,
                    screen::width(),
                ));
            }
            Event::PhaseFailed { phase, duration_ms, .. } => {
                self.end_bar();
                self.say(&phase_line(Tone::Bad, *phase, "failed", *duration_ms, screen::width()));
            }
            Event::RunFinished { report: result } => {
                self.end_bar();
                for line in report(result) {
                    screen::say(&line);
                }
            }
        }
    }
}

/// Returns the line of a phase that has ended, which fits into `width` columns.
fn phase_line(tone: Tone, phase: Phase, summary: &str, duration_ms: u64, width: usize) -> String {
    let mark = paint(tone, if tone == Tone::Good { "✓" } else { "✗" });
    let (label, time) = (label(phase), duration(duration_ms));
    // Between mark and label, label and summary, and summary and time is a space each.
    let middle = width.saturating_sub(1 + 13 + time.len().max(8) + 3);
    let summary = screen::cut(summary, middle);
    format!("{mark} {label:<13} {summary:<middle$} {time:>8}")
}

fn label(phase: Phase) -> String {
    match phase.step() {
        Some(step) => format!("{step} {phase}"),
        None => format!("· {phase}"),
    }
}

/// Renders the result of a run. Its warnings are not repeated: they were told when they arose.
pub fn report(report: &Report) -> Vec<String> {
    let mut lines = vec![String::new()];
    let head = match report.result {
        Ending::Refreshed if report.command == "rollback" => paint(Tone::Good, "Rolled back"),
        Ending::Refreshed => paint(Tone::Good, "Refreshed"),
        Ending::Unchanged => paint(Tone::Good, "Already current"),
        Ending::Refused => paint(Tone::Bad, "Refused, nothing touched,"),
        Ending::Halted => paint(Tone::Bad, "Halted"),
        Ending::Interrupted => paint(Tone::Bad, "Interrupted"),
    };
    let word = if report.result == Ending::Refused { "after" } else { "in" };
    lines.push(format!("{head} {word} {} (run {})", duration(report.duration_ms()), report.run));
    let commit = report.commit.as_ref().map_or("unknown", |commit| commit.short());
    let before = match &report.commit_before {
        Some(before) if Some(before) != report.commit.as_ref() => format!(", before: {}", before.short()),
        _ => String::new(),
    };
    lines.push(format!("  commit       {commit} on {}{before}", report.branch));
    if let Some(bundle) = &report.bundle {
        let digest = bundle.sha256.as_ref().map(|digest| format!(", sha256 {digest}")).unwrap_or_default();
        lines.push(format!("  bundle       {}{digest}", harmless_line(&bundle.file.display().to_string())));
    }
    lines.push(format!("  environment  {}", environment(report)));
    if let Some(lock) = &report.environment.lock {
        lines.push(format!("  lock         {}", harmless_line(&lock.in_words())));
    }
    if let Some(digest) = &report.environment.digest {
        lines.push(format!("  digest       {digest}"));
    }
    for contaminated in &report.environment.contaminated {
        let number = count(contaminated.count, "path");
        let text = format!("{} was changed by hand, {number}", contaminated.generation);
        lines.push(format!("  contaminated {}", paint(Tone::Warning, &text)));
        lines.extend(
            contaminated
                .found
                .iter()
                .take(5)
                .map(|found| format!("               {}", harmless_line(&found.to_string()))),
        );
    }
    let service = &report.service;
    let mut words = vec![service.state.clone()];
    words.extend(service.pid.map(|pid| format!("pid {pid}")));
    words.extend(service.url.clone());
    if service.fenced {
        words.push(paint(Tone::Bad, "fenced"));
    }
    lines.push(format!("  service      {}", words.join(", ")));
    if let Some(ms) = report.downtime_ms {
        let parts =
            report.downtime.map(|parts| parts.named().map(|(name, ms)| format!("{name} {}", duration(ms))));
        let parts = parts.map(|parts| format!(": {}", parts.join(", "))).unwrap_or_default();
        lines.push(format!("  downtime     {}{parts}", duration(ms)));
    }
    lines.extend(report.connections.as_ref().and_then(connections));
    if let Some(Enforcement::Missing(missing)) = &report.confinement {
        let text = harmless_line(&missing.join("; "));
        lines.push(format!("  confinement  {}", paint(Tone::Warning, &format!("not enforced: {text}"))));
    }
    if let Some(models) = &report.models {
        let tone = if models.problems > 0 { Tone::Bad } else { Tone::Good };
        lines.push(format!("  models       {}", paint(tone, &models.in_words())));
    }
    if report.saved.count > 0 {
        lines.push(format!(
            "  saved        {}: {}",
            count(report.saved.count, "local change"),
            shortened(&report.saved.paths, report.saved.count)
        ));
        lines.extend(report.saved.look.iter().map(|look| format!("               look: {look}")));
    }
    if !report.preserved.is_empty() {
        lines.push(format!(
            "  aligned      except {}: {}",
            count(report.preserved.len(), "preserved file"),
            shortened(&report.preserved, report.preserved.len())
        ));
    }
    if !report.ignored.is_empty() {
        lines.push(format!(
            "  kept         {} that git ignores: {}",
            count(report.ignored.len(), "path"),
            shortened(&report.ignored, report.ignored.len())
        ));
    }
    if !report.protected.changed.is_empty() {
        let changed = shortened(&report.protected.changed, report.protected.changed.len());
        lines.push(format!("  protected    {} {changed}", paint(Tone::Bad, "changed during the refresh:")));
    } else if report.protected.entries > 0 {
        lines.push(format!("  protected    {} entries, untouched", report.protected.entries));
    }
    if let Some(error) = &report.error {
        lines.push(String::new());
        lines.extend(error_lines(error, &state(report)));
    }
    lines
}

fn environment(report: &Report) -> String {
    let environment = &report.environment;
    let mut words = vec![environment.path.display().to_string()];
    if let Some(generation) = &environment.generation {
        words[0].push_str(&format!(" → {generation}"));
    }
    words.extend(environment.interpreter.clone());
    words.extend(environment.packages.map(|number| count(number, "package")));
    if !environment.reason.is_empty() {
        words.push(environment.reason.clone());
    }
    words.join(", ")
}

fn state(report: &Report) -> String {
    let fenced = if report.service.fenced { " and fenced: nothing starts it" } else { "" };
    format!("{}{fenced}", report.service.state)
}

fn error_lines(error: &Error, service: &str) -> Vec<String> {
    let step = match error.phase.step() {
        Some(step) => format!("step {step} ({})", error.phase),
        None => error.phase.to_string(),
    };
    refused(&step, &error.chain, service, &error.hints, &error.next)
}

/// Renders a failure: where, what, why, what state the service is in, what to type next.
fn refused(during: &str, chain: &[String], service: &str, hints: &[String], next: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let first = chain.first().map(String::as_str).unwrap_or_default();
    lines.push(format!("{} in {during}: {}", paint(Tone::Bad, "error"), indented(first)));
    for cause in chain.iter().skip(1) {
        for (index, line) in harmless(cause).lines().enumerate() {
            let lead = if index == 0 { "  because    " } else { "             " };
            lines.push(format!("{lead}{line}"));
        }
    }
    lines.push(format!("  service    {service}"));
    for hint in hints.iter().filter(|hint| *hint != next) {
        lines.push(format!("  try        {}", harmless_line(hint)));
    }
    lines.push(format!("  next       {}", paint(Tone::Strong, &harmless_line(next))));
    lines
}

/// Returns a text from elsewhere whose further lines stand so far to the right that none can be taken for a line of ours.
fn indented(text: &str) -> String {
    harmless(text).replace('\n', "\n             ")
}

fn shortened(items: &[String], count: usize) -> String {
    const SHOWN: usize = 4;
    let mut text: Vec<String> = items.iter().take(SHOWN).map(|item| harmless_line(item)).collect();
    if count > text.len() {
        text.push(format!("and {} more", count - text.len()));
    }
    text.join(", ")
}

/// Renders what ended a command that has no report.
/// `typed` turns a command of this program into what has to be typed for the installation at hand.
pub fn error(error: &exit::Error, typed: impl Fn(&str) -> String) -> Vec<String> {
    use exit::Error;
    match error {
        Error::Usage(failure) => {
            let mut lines =
                vec![format!("{}: {}", paint(Tone::Bad, "error"), indented(&failure.chain().join(": ")))];
            let mut hints = failure.hints();
            let next = hints.pop_if(|last| last.starts_with("ladylinux-refresh "));
            let next = next.unwrap_or_else(|| "ladylinux-refresh --help".to_owned());
            lines.push("  service    not touched".to_owned());
            lines.extend(hints.iter().map(|hint| format!("  try        {}", harmless_line(&typed(hint)))));
            lines.push(format!("  next       {}", paint(Tone::Strong, &harmless_line(&typed(&next)))));
            lines
        }
        Error::Refused(refusal) => {
            let Refusal { during, failure, service, next } = refusal.as_ref();
            let hints: Vec<String> = failure.hints().iter().map(|hint| typed(hint)).collect();
            refused(during, &failure.chain(), service, &hints, &typed(next))
        }
        Error::Locked { holder, next } => locked(holder.as_deref(), next),
        Error::Run(report) => {
            report.error.iter().flat_map(|error| error_lines(error, &state(report))).collect()
        }
        Error::Told(_) => Vec::new(),
        Error::Detached { run, next, .. } => vec![format!("run {run} goes on; follow it with: {next}")],
        Error::Lost { run, end, service, next } => {
            let how = end.map_or("nobody knows how".to_owned(), |end| end.to_string());
            vec![
                format!("{}: run {run} is over without a report ({how})", paint(Tone::Bad, "error")),
                format!("  service    {service}"),
                format!("  next       {}", paint(Tone::Strong, &harmless_line(next))),
            ]
        }
        Error::Bug(what) => vec![
            format!(
                "{}: this is a bug in ladylinux-refresh: {}",
                paint(Tone::Bad, "error"),
                harmless_line(what)
            ),
            "  service    unknown".to_owned(),
            format!("  next       {}", paint(Tone::Strong, &typed("ladylinux-refresh status"))),
        ],
    }
}

/// How alike two words have to be that one may be meant for the other.
const ALIKE: f64 = 0.8;

/// Renders what is wrong with a command line: what its parser says, in the form of every other error.
pub fn wrong_words(mut error: clap::Error) -> Vec<String> {
    // The parser's own advice (to escape an option, or to use one that is hardly like it) leads astray.
    error.remove(ContextKind::Suggested);
    // It lists the commands that only the program itself gives, too.
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
        .replace("invalid digit found in string", "it is no whole number")
        .replace("number too large to fit in target type", "it is too large");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let command: Vec<&str> = text
        .lines()
        .find_map(|line| line.strip_prefix("Usage: "))
        .into_iter()
        .flat_map(str::split_whitespace)
        .take_while(|word| word.starts_with(|first: char| first.is_ascii_lowercase()))
        .collect();
    let command = if command.is_empty() { "ladylinux-refresh".to_owned() } else { command.join(" ") };
    let mut lines = vec![format!("{}: ", paint(Tone::Bad, "error"))];
    for line in text.lines().filter(|line| !line.starts_with("For more information")) {
        let line = harmless(line);
        match lines.as_mut_slice() {
            [first] if first.ends_with(": ") => first.push_str(&line),
            _ if line.trim().is_empty() => {}
            _ => lines.push(line),
        }
    }
    lines.push("  service    not touched".to_owned());
    lines.push(format!("  next       {}", paint(Tone::Strong, &format!("{command} --help"))));
    lines
}

fn locked(holder: Option<&Holder>, next: &str) -> Vec<String> {
    let who = match holder {
        Some(holder) => {
            let run = holder.run.as_ref().map(|run| format!(" {run}")).unwrap_or_default();
            let (pid, since) = (holder.process.pid, clock::in_words(holder.since));
            format!("{}{run} (pid {pid}) is in progress since {since}", holder.command)
        }
        None => "another run is in progress".to_owned(),
    };
    vec![
        format!("{}: {who}", paint(Tone::Bad, "error")),
        "  service    left to that run".to_owned(),
        format!("  next       {}", paint(Tone::Strong, &harmless_line(next))),
    ]
}
/// What became of connections, where there were any.
fn connections(seen: &Connections) -> Option<String> {
    let mut parts = Vec::new();
    if seen.waited > 0 {
        let longest =
            seen.longest_wait_ms.map(|ms| format!(", at most {}", duration(ms))).unwrap_or_default();
        parts.push(format!("{} waited{longest}", seen.waited));
    }
    if seen.ended > 0 {
        parts.push(format!("{} that had been open for longer ended with the stop", seen.ended));
    }
    (!parts.is_empty()).then(|| format!("  connections  {}", parts.join("; ")))
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
