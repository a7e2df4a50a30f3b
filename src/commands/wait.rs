//! `wait`: follows a run that is in progress, or shows how one ended.

use crate::cli::WaitArgs;
use crate::disk;
use crate::error::Failure;
use crate::event::Event;
use crate::exit::{Ended, Error, Refusal};
use crate::history;
use crate::installation::as_typed;
use crate::relay::follow::{Follower, OnInterrupt};
use crate::relay::spool::Spool;
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

use super::{place, reporter, run_id};

/// Follows a run from its beginning to its end.
pub(super) fn wait(layout: &Layout, args: &WaitArgs) -> Result<Ended, Error> {
    let run = run_id::resolve_or_current(layout, "wait", args.run.as_deref())?;
    let mut reporter = reporter(&args.report);
    if Spool::of(layout, &run).is_there() {
        let on_interrupt = OnInterrupt::Leave;
        return place::follow(Follower { layout, run: &run, reporter, on_interrupt, bus: None });
    }
    // What was told while it went on is forgotten; its report is not.
    check_known(layout, "wait", &run)?;
    let past = history::one(layout, &run).map_err(|failure| Refusal::of("wait", failure))?;
    let Some(report) = past.report else {
        let (service, next) = (place::service_in_words(layout), as_typed(layout, "ladylinux-refresh run"));
        return Err(Error::Lost { run, end: None, service, next });
    };
    let code = report.exit_code;
    reporter.take(&Event::RunFinished { report: Box::new(report) });
    if code == 0 { Ok(Ended::Done) } else { Err(Error::Told(code)) }
}

/// Refuses a run of which nothing is kept.
pub(super) fn check_known(layout: &Layout, during: &str, run: &RunId) -> Result<(), Error> {
    let failure = match disk::is_directory(&layout.run(run)) {
        Ok(true) => return Ok(()),
        Ok(false) => {
            Failure::new(format!("there is no run {run}")).hint(as_typed(layout, "ladylinux-refresh history"))
        }
        Err(failure) => failure,
    };
    Err(Refusal::of(during, failure))
}
