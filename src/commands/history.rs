//! `history`: past runs.

use std::io::{BufRead as _, BufReader};

use rustix::fs::{Mode, OFlags};

use crate::cli::HistoryArgs;
use crate::report::human;
use crate::report::outcome::Detail;
use crate::report::{json, outcome};
use refresh_host::host::presence::check_there;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::history as past;
use refresh_installation::history::PastRun;
use refresh_installation::installation::as_typed;
use refresh_installation::journal::run_lock;
use refresh_run::relay::spool::Spool;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::clock;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure};
use refresh_system::hint::Hint;
use refresh_system::screen;
use refresh_system::screen::{Tone, fact, paint, print_line};
use refresh_system::text::{duration, harmless, harmless_line};

use super::{run_id, wait};

/// Lists the runs, or shows one.
pub(super) fn history(layout: &Layout, args: &HistoryArgs) -> Result<Success, Error> {
    let context = |failure| Refusal::of("history", failure);
    check_there(layout).map_err(context)?;
    // This is checked before the runs are read: a run that has just ended then has its report.
    let now = run_lock::held_by(&layout.lock_file()).map_err(context)?.and_then(|holder| holder.run);
    if let Some(name) = &args.run {
        let run = run_id::resolve(layout, "history", name)?;
        if args.log {
            return print_log(layout, &run);
        }
        show(layout, &one(layout, run)?, now.as_ref(), args.json);
    } else {
        let all = past::all(layout).map_err(context)?;
        let runs = &all[..args.limit.min(all.len())];
        if args.json {
            let reports: Vec<_> = runs.iter().filter_map(|run| run.report.as_ref()).collect();
            print_line(&json::pretty(&reports));
        } else {
            list(runs, &all, now.as_ref(), screen::width());
            if runs.len() < all.len() {
                let command = Hint::command("ladylinux-refresh history -n", &[&all.len().to_string()]);
                print_line(&format!(
                    "{} more: {}",
                    all.len() - runs.len(),
                    as_typed(layout, &command.to_string())
                ));
            }
        }
    }
    Ok(Success::Done)
}

/// Returns one run. A run that changed nothing has no record; it is read from its events while they are kept.
fn one(layout: &Layout, run: RunId) -> Result<PastRun, Error> {
    let known = wait::check_known(layout, "history", &run);
    match (known, Spool::of(layout, &run).report()) {
        (Err(_), Some(report)) => Ok(PastRun { run, report: Some(report) }),
        (known, _) => {
            known.and_then(|()| past::one(layout, &run).map_err(|failure| Refusal::of("history", failure)))
        }
    }
}

/// Prints the log of a run, which hooks may have made large: only one line of it is in memory at a time.
fn print_log(layout: &Layout, run: &RunId) -> Result<Success, Error> {
    wait::check_known(layout, "history", run)?;
    let refused = |failure| Refusal::of("history", failure);
    let path = layout.run_log(run);
    let file = disk::open_own(&path, OFlags::RDONLY, Mode::empty()).map_err(refused)?;
    let mut log = BufReader::new(file.ok_or_else(|| refused(Failure::new(format!("run {run} has no log"))))?);
    let mut line = Vec::new();
    let mut read = |line: &mut Vec<u8>| {
        line.clear();
        log.read_until(b'\n', line).context(|| format!("cannot read {}", path.display()))
    };
    while read(&mut line).map_err(refused)? > 0 && screen::is_taken() {
        print_line(&harmless(String::from_utf8_lossy(&line).trim_end_matches('\n')));
    }
    Ok(Success::Done)
}

fn show(layout: &Layout, run: &PastRun, now: Option<&RunId>, json: bool) {
    match (&run.report, json) {
        (Some(report), true) => print_line(&json::pretty(report)),
        (Some(report), false) => {
            let (table, width) = (screen::width(), screen::text_width());
            for part in &report.phases {
                let tone = if part.ok { Tone::Good } else { Tone::Bad };
                let summary = harmless_line(&part.summary);
                print_line(&human::phase_line(tone, part.phase, &summary, part.duration_ms, table));
            }
            screen::print_lines(&outcome::lines(report, Detail::Full, width));
            for warning in &report.warnings {
                screen::print_lines(&fact("warning", &paint(Tone::Warning, &harmless_line(warning)), width));
            }
            let log = layout.run_log(&run.run);
            if log.exists() {
                screen::print_lines(&fact("log", &log.display().to_string(), width));
            }
        }
        (None, _) => {
            let run = std::slice::from_ref(run);
            list(run, run, now, screen::width());
        }
    }
}

/// The width of the bar of the longest downtime, in columns.
const BAR: u64 = 12;
/// The smallest widths in columns from which a line has the bars, and the subjects of commits.
const WITH_BARS: usize = 100;
const WITH_SUBJECTS: usize = 72;

/// Lists runs of `all`, one per line; `now` is the run in progress.
fn list(runs: &[PastRun], all: &[PastRun], now: Option<&RunId>, width: usize) {
    if all.is_empty() {
        print_line("there were no runs yet");
        return;
    }
    let longest = runs.iter().filter_map(own_downtime).max().unwrap_or(0);
    let rows: Vec<[String; 6]> = runs.iter().map(|run| cells(run, all, now)).collect();
    let [when, result, down, commit, run, subject] = ["WHEN", "RESULT", "DOWN", "COMMIT", "RUN", "SUBJECT"];
    let lines = if width >= WITH_BARS {
        let bars = runs.iter().map(own_downtime);
        let with_bar = rows.into_iter().zip(bars).map(|([when, result, down, commit, run, subject], ms)| {
            let bar = ms.map(|ms| bar(ms, longest)).unwrap_or_default();
            [when, result, down, bar, commit, run, subject]
        });
        screen::table([when, result, down, "", commit, run, subject], &with_bar.collect::<Vec<_>>(), width)
    } else if width >= WITH_SUBJECTS {
        screen::table([when, result, down, commit, run, subject], &rows, width)
    } else {
        let narrow = rows.into_iter().map(|[when, result, _, commit, run, _]| [when, result, commit, run]);
        screen::table([when, result, commit, run], &narrow.collect::<Vec<_>>(), width)
    };
    screen::print_lines(&lines);
    for run in runs.iter().rev() {
        screen::print_lines(&outage(run, all, screen::text_width()));
    }
}

/// Returns the downtime of a run, in milliseconds, unless it also includes earlier runs.
fn own_downtime(run: &PastRun) -> Option<u64> {
    run.report.as_ref().filter(|report| report.outage.is_none())?.downtime_ms
}

/// Returns the lines about an outage that spans several runs.
fn outage(run: &PastRun, all: &[PastRun], width: usize) -> Vec<String> {
    let Some(outage) = run.report.as_ref().and_then(|report| report.outage.as_ref()) else {
        return Vec::new();
    };
    let (down, end) = (duration(outage.duration_ms), distinct(&run.run, all));
    let start = outage.runs.first().map(|first| format!(", from run {}", distinct(first, all)));
    fact("outage", &format!("{down}{} to run {end}", start.unwrap_or_default()), width)
}

/// Returns the columns of a run in the list: time, result, downtime, commit, run ID, subject.
fn cells(run: &PastRun, all: &[PastRun], now: Option<&RunId>) -> [String; 6] {
    let id = distinct(&run.run, all).to_owned();
    let Some(report) = &run.report else {
        let word = if now == Some(&run.run) { "in progress" } else { "interrupted" };
        let when = run.run.time().map(clock::to_the_minute).unwrap_or_default();
        return [when, word.to_owned(), "-".to_owned(), "-".to_owned(), id, String::new()];
    };
    let requested = report.requested.as_ref();
    let commit = requested.and_then(|requested| requested.commit.as_ref()).or(report.commit.as_ref());
    let subject = requested.and_then(|requested| requested.subject.as_deref()).unwrap_or_default();
    // A run that was refused before its commit was known is described by its branch.
    let (commit, subject) = match requested {
        Some(requested) if requested.commit.is_none() => {
            ("-".to_owned(), format!("branch {}", requested.branch))
        }
        _ => (commit.map_or("-", |commit| &commit.as_str()[..COMMIT]).to_owned(), harmless_line(subject)),
    };
    // The width is the same for 97 ms and 1.20 s: the columns after it are aligned.
    let down = report.down_ms().map_or_else(|| "-".to_owned(), |ms| format!("{:<6}", duration(ms)));
    [clock::to_the_minute(report.started_at), report.in_words(), down, commit, id, subject]
}

/// The number of shown digits of a commit.
const COMMIT: usize = 7;
/// The number of shown letters of a run ID if they are unique: date and time to the second.
const DISTINCT: usize = 15;

/// Returns a beginning of a run ID that no other run has.
fn distinct<'a>(run: &'a RunId, runs: &[PastRun]) -> &'a str {
    let text = run.as_str();
    let start = text.get(..DISTINCT).unwrap_or(text);
    let alike = runs.iter().filter(|other| other.run.as_str().starts_with(start)).count();
    if alike > 1 { text } else { start }
}

/// Returns the bar of a downtime, in proportion to the longest one.
fn bar(ms: u64, longest: u64) -> String {
    let columns = if longest == 0 { 0 } else { (ms * BAR).div_ceil(longest) };
    "█".repeat(usize::try_from(columns).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_downtime_has_the_longest_bar_and_the_shortest_at_least_a_column() {
        assert_eq!(bar(1000, 1000), "████████████");
        assert_eq!(bar(500, 1000), "██████");
        assert_eq!(bar(1, 1000), "█");
        assert_eq!(bar(0, 0), "");
    }

    #[test]
    fn a_run_id_is_cut_to_a_unique_beginning() {
        let run = |id: &str| PastRun { run: RunId::parse(id).unwrap(), report: None };
        let runs = [run("20260102T030405123Z-1"), run("20260102T030405999Z-2"), run("20260102T030406000Z-3")];
        assert_eq!(distinct(&runs[0].run, &runs), "20260102T030405123Z-1");
        assert_eq!(distinct(&runs[2].run, &runs), "20260102T030406");
    }
}
