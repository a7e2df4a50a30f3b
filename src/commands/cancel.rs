//! `cancel`: requests a proper halt from a run, like Ctrl-C, and reports how it ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cli::CancelArgs;
use refresh_events::event::{Event, Subscriber};
use refresh_events::run_report::{Report, RunResult};
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::history;
use refresh_run::relay::follow;
use refresh_run::relay::follow::{FollowOutcome, Follower, OnInterrupt};
use refresh_run::relay::spool::Spool;
use refresh_settings::layout::Layout;
use refresh_system::clock;
use refresh_system::screen::print_line;

use super::run_process::service_in_words;
use super::{run_id, wait};

/// The time limit for a newly started run to become a process.
const BEGIN: Duration = Duration::from_secs(10);

/// Halts a run.
pub(super) fn cancel(layout: &Layout, args: &CancelArgs) -> Result<Success, Error> {
    let refused = |failure| Refusal::of("cancel", failure);
    let run = run_id::resolve_or_current(layout, "cancel", args.run.as_deref())?;
    let spool = Spool::of(layout, &run);
    if !spool.is_there() {
        wait::check_known(layout, "cancel", &run)?;
    }
    let limit = clock::monotonic() + BEGIN;
    let mut was_over = true;
    while spool.is_there() && spool.end().is_none() {
        if follow::cancel(&spool).map_err(refused)? {
            was_over = false;
            break;
        }
        if spool.worker().is_some() || clock::monotonic() > limit {
            break;
        }
        clock::pause(Duration::from_millis(20)).map_err(refused)?;
    }
    if was_over {
        let report = history::one(layout, &run).map_err(refused)?.report;
        let how = report.map(|report| format!(": {}", report.in_words())).unwrap_or_default();
        print_line(&format!("run {run} is not in progress{how}"));
        return Ok(Success::Done);
    }
    let seen = ReportCollector::default();
    let reporter = Box::new(seen.clone());
    let follower = Follower { layout, run: &run, reporter, on_interrupt: OnInterrupt::Leave, bus: None };
    if let FollowOutcome::Left(signal) = follower.follow() {
        let next = format!("ladylinux-refresh wait {run}");
        return Err(Error::Detached { run, signal, next });
    }
    let report = seen.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    let word = match report.map(|report| report.result) {
        None => "ended without a report".to_owned(),
        // It was halted before its first step, or its own checks refused it at that moment.
        Some(RunResult::Refused) => "ended before it changed anything".to_owned(),
        Some(other) => other.to_string(),
    };
    print_line(&format!("run {run} {word}; the service is {}", service_in_words(layout)));
    Ok(Success::Done)
}

/// Keeps the report.
#[derive(Clone, Default)]
struct ReportCollector(Arc<Mutex<Option<Report>>>);

impl Subscriber for ReportCollector {
    fn take(&mut self, event: &Event) {
        if let Event::RunFinished { report } = event {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.as_ref().clone());
        }
    }
}
