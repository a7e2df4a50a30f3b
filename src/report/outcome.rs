//! The result of a run as text for people: first the verdict, then the facts, last the error with the next command.
//! Pure.

use refresh_events::run_report::{
    Connections, Enforcement, Error, Outage, Phase, Report, Requested, RunResult,
};
use refresh_settings::names::CommitId;
use refresh_system::clock;
use refresh_system::text::{count, duration, harmless, harmless_line};

use super::error_json::Explained;
use refresh_system::screen::{Facts, Tone, fact, paint};

/// The shown amount of other programs' output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Only the output of hooks.
    #[default]
    Brief,
    /// All output.
    Full,
}

/// Returns the result of a run as lines of at most `width` columns, the first one empty. Warnings are not repeated:
/// each was printed when it occurred.
pub fn lines(report: &Report, detail: Detail, width: usize) -> Vec<String> {
    let mut facts = Facts::new(&verdict(report), width);
    facts.lines.insert(0, String::new());
    commit(report, &mut facts);
    held_back(report, &mut facts);
    if let Some(bundle) = &report.bundle {
        facts.add("bundle", &harmless_line(&bundle.file.display().to_string()));
        if let Some(digest) = &bundle.sha256 {
            facts.add("", &format!("sha256 {digest}"));
        }
    }
    if report.result != RunResult::Refused {
        environment(report, &mut facts);
    }
    if report.error.is_none() {
        facts.add("service", &service(report));
    }
    if let Some(parts) = report.downtime {
        facts.add("downtime", &parts.named().map(|(name, ms)| format!("{name} {}", duration(ms))).join(", "));
    }
    if let Some(seen) = &report.outage {
        outage(seen, &mut facts);
    }
    if let Some(text) = report.connections.as_ref().and_then(connections) {
        facts.add("connections", &text);
    }
    if let Some(models) = &report.models {
        let tone = if models.problems > 0 { Tone::Bad } else { Tone::Good };
        facts.add("models", &paint(tone, &models.in_words()));
    }
    if report.saved.count > 0 {
        let paths = shortened(&report.saved.paths, report.saved.count);
        facts.add("stash", &format!("{}: {paths}", count(report.saved.count, "local change")));
        if let Some(command) = &report.saved.command {
            facts.add("", command);
        }
    }
    if !report.protected.changed.is_empty() {
        let changed = shortened(&report.protected.changed, report.protected.changed.len());
        facts.add("protected", &format!("{} {changed}", paint(Tone::Bad, "changed during the refresh:")));
    }
    if detail == Detail::Brief && matches!(report.confinement, Some(Enforcement::Missing(_))) {
        facts.add("confinement", "not enforced; `doctor` reports what is missing");
    }
    if detail == Detail::Full {
        details(report, &mut facts);
    }
    // A run that ended in its preflight has no record: no other command finds it for long.
    if detail == Detail::Full || report.phases.iter().any(|part| part.phase != Phase::Preflight) {
        facts.add("run", report.run.as_str());
    }
    if let Some(error) = &report.error {
        facts.lines.push(String::new());
        facts.lines.extend(error_lines(error, &state(report), width));
    }
    facts.lines
}

/// Returns the effect of a run in one line.
fn verdict(report: &Report) -> String {
    let took = duration(report.duration_ms());
    let down = report.down_ms().map(|ms| format!(", down for {}", duration(ms))).unwrap_or_default();
    let short = |commit: &Option<CommitId>| {
        commit.as_ref().map_or("no commit", |commit: &CommitId| commit.short()).to_owned()
    };
    let (before, now) = (short(&report.commit_before), short(&report.commit));
    let moved = if before == now { format!("at {now}") } else { format!("from {before} to {now}") };
    let branch = &report.branch;
    match report.result {
        RunResult::Refreshed => {
            let word = if report.command == "rollback" { "Rolled back" } else { "Refreshed" };
            format!("{} {branch} {moved} in {took}{down}", paint(Tone::Good, word))
        }
        RunResult::Unchanged => {
            format!("{}: {branch} at {now}, found in {took}", paint(Tone::Good, "Already current"))
        }
        RunResult::HeldBack => {
            format!("{}: {branch} stays at {now}, found in {took}", paint(Tone::Warning, "Held back"))
        }
        RunResult::Refused => {
            let word = if report.exit_code > 128 { "Cancelled" } else { "Refused" };
            format!("{} after {took}; nothing was changed", paint(Tone::Bad, word))
        }
        RunResult::Halted => {
            let step = report.error.as_ref().map(|error| format!(" in {}", step(error))).unwrap_or_default();
            format!(
                "{}{step} after {took}; the service is {}",
                paint(Tone::Bad, "Halted"),
                state_word(report)
            )
        }
        RunResult::Interrupted => format!("{} after {took}", paint(Tone::Bad, "Interrupted")),
    }
}

/// Adds the commit of `app/`, and for a refused run the requested one.
fn commit(report: &Report, facts: &mut Facts) {
    let requested = report.requested.as_ref();
    let title = |requested: &Requested| {
        requested.title().map(|title| format!(" {}", harmless_line(&title))).unwrap_or_default()
    };
    let now = report.commit.as_ref().map_or("unknown", |commit| commit.short());
    if report.result == RunResult::Refused {
        if let Some(requested) = requested {
            let commit =
                requested.commit.as_ref().map(|commit| format!("{}{}", commit.short(), title(requested)));
            facts.add("requested", &commit.unwrap_or_else(|| requested.branch.to_string()));
        }
        facts.add("app/ is at", &format!("{now} on {}", report.branch));
        return;
    }
    let title = requested.filter(|it| it.commit == report.commit).map(title).unwrap_or_default();
    facts.add("commit", &format!("{now}{title}"));
}

/// Adds the commit that is held back, by whom, when and why, and the command that ends that.
fn held_back(report: &Report, facts: &mut Facts) {
    let Some(held) = &report.held_back else { return };
    facts.add("held back", &held.title());
    facts.add("", &held.cause_in_full());
    if let Some(why) = &held.why {
        facts.add("", &harmless_line(why));
    }
    facts.add("ends with", held.release());
}

/// Adds the time since when the service was down before the run, the failed runs, and the command that prints the log
/// of the first.
pub fn outage(seen: &Outage, facts: &mut Facts) {
    facts.add("outage", &format!("{} since {}", duration(seen.duration_ms), clock::in_words(seen.since)));
    for run in &seen.runs {
        facts.add("", &format!("run {run} failed"));
    }
    if let Some(command) = &seen.command {
        facts.add("", command);
    }
}

fn environment(report: &Report, facts: &mut Facts) {
    let environment = &report.environment;
    let mut words: Vec<String> = environment.name.iter().map(ToString::to_string).collect();
    words.extend(environment.interpreter.clone());
    words.extend(environment.packages.map(|number| count(number, "package")));
    if environment.built {
        words.push("built".to_owned());
    }
    facts.add("environment", &words.join(", "));
    facts.add("", &environment.path.display().to_string());
    for contaminated in &environment.contaminated {
        let number = count(contaminated.count, "path");
        let text = format!("{} was changed manually, {number}", contaminated.name);
        facts.add("contaminated", &paint(Tone::Warning, &text));
        for found in contaminated.found.iter().take(5) {
            facts.add("", &harmless_line(&found.to_string()));
        }
    }
}

fn service(report: &Report) -> String {
    let service = &report.service;
    let mut words = vec![service.state.clone()];
    words.extend(service.url.as_deref().map(harmless_line));
    words.extend(service.pid.map(|pid| format!("pid {pid}")));
    if service.fenced {
        words.push(paint(Tone::Bad, "fenced"));
    }
    words.join(", ")
}

/// Adds details for people who want all information.
fn details(report: &Report, facts: &mut Facts) {
    if let Some(lock) = &report.environment.lock {
        facts.add("lock", &harmless_line(&lock.in_words()));
    }
    if let Some(digest) = &report.environment.digest {
        facts.add("digest", digest);
    }
    if let Some(Enforcement::Missing(missing)) = &report.confinement {
        let text = harmless_line(&missing.join("; "));
        facts.add("confinement", &paint(Tone::Warning, &format!("not enforced: {text}")));
    }
    if !report.preserved.is_empty() {
        let paths = shortened(&report.preserved, report.preserved.len());
        facts.add("preserved", &format!("{}: {paths}", count(report.preserved.len(), "file")));
    }
    if !report.ignored.is_empty() {
        let paths = shortened(&report.ignored, report.ignored.len());
        facts.add("ignored", &format!("{} moved across: {paths}", count(report.ignored.len(), "path")));
    }
    if report.protected.changed.is_empty() && report.protected.entries > 0 {
        facts.add("protected", &format!("unchanged ({})", count(report.protected.entries, "entry")));
    }
}

fn state_word(report: &Report) -> String {
    let fenced = if report.service.fenced { " and fenced" } else { "" };
    format!("{}{fenced}", report.service.state)
}

/// Returns the state of the service at the end of a run, with its effect.
pub(super) fn state(report: &Report) -> String {
    let effect = if report.service.fenced { ": nothing starts it" } else { "" };
    format!("{}{effect}", state_word(report))
}

fn step(error: &Error) -> String {
    match error.phase.step() {
        Some(step) => format!("step {step} ({})", error.phase),
        None => error.phase.to_string(),
    }
}

/// Returns the lines about the failure of a run.
pub(super) fn error_lines(error: &Error, service: &str, width: usize) -> Vec<String> {
    let Error { chain, hints, next, .. } = error.clone();
    let explained = Explained { step: None, cause: chain, service: service.to_owned(), hints, next };
    failed(Some(&step(error)), &explained, width)
}

/// Returns a failure as lines: step, causes, state of the service, hints, the next command. Without a step, the causes
/// are one sentence.
pub(super) fn failed(step: Option<&str>, explained: &Explained, width: usize) -> Vec<String> {
    let Explained { cause, service, hints, next, .. } = explained;
    let word = paint(Tone::Bad, "error");
    let mut lines = Vec::new();
    if let (Some(step), Some((first, causes))) = (step, cause.split_first()) {
        lines.push(format!("{word} in {step}: {}", indented(first)));
        lines.extend(causes.iter().flat_map(|cause| fact("cause", &harmless(cause), width)));
    } else {
        lines.push(format!("{word}: {}", indented(&cause.join(": "))));
    }
    lines.extend(fact("service", service, width));
    for hint in hints.iter().filter(|hint| *hint != next) {
        lines.extend(advice("hint", hint, width));
    }
    lines.extend(advice("next", next, width));
    lines
}

/// Returns a line of advice. The next command stays on one line.
pub(super) fn advice(label: &str, text: &str, width: usize) -> Vec<String> {
    let text = harmless_line(text);
    if label == "next" {
        fact(label, &paint(Tone::Strong, &text), usize::MAX)
    } else {
        fact(label, &text, width)
    }
}

/// Returns a text of another program with its further lines indented: none of them can be mistaken for a line of this
/// program.
pub(super) fn indented(text: &str) -> String {
    harmless(text).replace('\n', "\n               ")
}

/// Returns the first of `count` items, and the number of further ones.
fn shortened(items: &[String], count: usize) -> String {
    const SHOWN: usize = 4;
    let mut text: Vec<String> = items.iter().take(SHOWN).map(|item| harmless_line(item)).collect();
    if count > text.len() {
        text.push(format!("and {} more", count - text.len()));
    }
    text.join(", ")
}

/// Returns the fate of the connections, if there were any.
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
    (!parts.is_empty()).then(|| parts.join("; "))
}
