//! `history`: the runs of the past.

use crate::cli::HistoryArgs;
use crate::disk;
use crate::exit::{Ended, Error, Refusal};
use crate::history::{self as past, Past};
use crate::installation::check_there;
use crate::journal::run_lock;
use crate::relay::spool::Spool;
use crate::report::history_page;
use crate::report::human;
use crate::report::json;
use crate::report::screen::{Tone, count, duration, harmless_line, paint, say};
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

use super::{run_id, wait};

/// Lists the runs, or shows one whole.
pub(super) fn history(layout: &Layout, args: &HistoryArgs) -> Result<Ended, Error> {
    let context = |failure| Refusal::of("history", failure);
    check_there(layout).map_err(context)?;
    // Asked before the runs are read: one that has just ended has its report by then.
    let now = run_lock::held_by(&layout.lock_file()).map_err(context)?.and_then(|holder| holder.run);
    if let Some(name) = &args.run {
        let run = run_id::resolve(layout, "history", name)?;
        show(layout, &one(layout, run)?, now.as_ref(), args.json);
    } else {
        let mut runs = past::all(layout).map_err(context)?;
        runs.truncate(args.limit);
        if args.json {
            let reports: Vec<_> = runs.iter().filter_map(|run| run.report.as_ref()).collect();
            say(&json::pretty(&reports));
        } else if let Some(file) = &args.html {
            let reports: Vec<_> = runs.iter().filter_map(|run| run.report.as_ref()).collect();
            let page = history_page::page(&layout.home().display().to_string(), &reports);
            disk::write_atomic(file, page.as_bytes(), 0o644).map_err(context)?;
            say(&format!("wrote {} of {}", file.display(), count(reports.len(), "run")));
        } else {
            let longest = runs.iter().filter_map(|run| run.report.as_ref()?.downtime_ms).max().unwrap_or(0);
            for run in &runs {
                say(&line(run, now.as_ref(), longest));
            }
            if runs.is_empty() {
                say("there were no runs yet");
            }
        }
    }
    Ok(Ended::Done)
}

/// One run; of one that changed nothing, and so has no record, what it told while that is there.
fn one(layout: &Layout, run: RunId) -> Result<Past, Error> {
    let known = wait::check_known(layout, "history", &run);
    match (known, Spool::of(layout, &run).report()) {
        (Err(_), Some(report)) => Ok(Past { run, report: Some(report) }),
        (known, _) => {
            known.and_then(|()| past::one(layout, &run).map_err(|failure| Refusal::of("history", failure)))
        }
    }
}

fn show(layout: &Layout, run: &Past, now: Option<&RunId>, json: bool) {
    match (&run.report, json) {
        (Some(report), true) => say(&json::pretty(report)),
        (Some(report), false) => {
            human::report(report).iter().skip(1).for_each(|line| say(line));
            say("");
            for part in &report.phases {
                say(&format!(
                    "  {:<12} {:>10}  {}",
                    part.phase,
                    duration(part.duration_ms),
                    harmless_line(&part.summary)
                ));
            }
            for warning in &report.warnings {
                say(&format!("  {}      {}", paint(Tone::Warning, "warning"), harmless_line(warning)));
            }
            let log = layout.run(&run.run).join("log");
            if log.exists() {
                say(&format!("  log          {}", log.display()));
            }
        }
        (None, _) => say(&line(run, now, 0)),
    }
}

/// How wide the bar of the longest downtime is, in columns.
const BAR: u64 = 12;

/// One line for a run; `now` is the one that is in progress, `longest` the longest downtime of those listed, in
/// milliseconds.
fn line(run: &Past, now: Option<&RunId>, longest: u64) -> String {
    match &run.report {
        None => {
            let word = if now == Some(&run.run) { "in progress" } else { "interrupted" };
            format!("{:<28} {word}", run.run.as_str())
        }
        Some(report) => {
            let commit = report.commit.as_ref().map_or("unknown", |commit| commit.short());
            let (run, what) = (run.run.as_str(), report.in_words());
            let line = format!("{run:<28} {what:<18} {commit} on {}", report.branch);
            report.downtime_ms.map_or_else(
                || line.clone(),
                |ms| format!("{line}, down {:<8} {}", duration(ms), bar(ms, longest)),
            )
        }
    }
}

/// A bar as long as a downtime is, beside the longest one.
fn bar(ms: u64, longest: u64) -> String {
    let columns = if longest == 0 { 0 } else { (ms * BAR).div_ceil(longest) };
    "#".repeat(usize::try_from(columns).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_downtime_has_the_whole_bar_and_the_shortest_at_least_a_column() {
        assert_eq!(bar(1000, 1000), "############");
        assert_eq!(bar(500, 1000), "######");
        assert_eq!(bar(1, 1000), "#");
        assert_eq!(bar(0, 0), "");
    }
}
