//! `wait`: follows a run that is in progress, or shows how one ended.

use crate::cli::WaitArgs;
use refresh_events::event::Event;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::history;
use refresh_run::relay::follow::{Follower, OnInterrupt};
use refresh_run::relay::spool::Spool;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::disk;
use refresh_system::error::Failure;

use super::{reporter, run_id, run_process};

/// Follows a run from its beginning to its end.
pub(super) fn wait(layout: &Layout, args: &WaitArgs) -> Result<Success, Error> {
    let run = run_id::resolve_or_current(layout, "wait", args.run.as_deref())?;
    let mut reporter = reporter(&args.report);
    if Spool::of(layout, &run).is_there() {
        let on_interrupt = OnInterrupt::Leave;
        return run_process::follow(Follower { layout, run: &run, reporter, on_interrupt, bus: None });
    }
    // Its events no longer exist, but its report does.
    check_known(layout, "wait", &run)?;
    let past = history::one(layout, &run).map_err(|failure| Refusal::of("wait", failure))?;
    let Some(report) = past.report else {
        let (service, next) = (run_process::service_in_words(layout), "ladylinux-refresh run".to_owned());
        return Err(Error::Lost { run, end: None, service, next });
    };
    let code = report.exit_code;
    reporter.take(&Event::RunFinished { report: Box::new(report) });
    if code == 0 { Ok(Success::Done) } else { Err(Error::Reported(code)) }
}

/// Refuses a run without any kept data.
pub(super) fn check_known(layout: &Layout, during: &str, run: &RunId) -> Result<(), Error> {
    let failure = match disk::is_directory(&layout.run(run)) {
        Ok(true) => return Ok(()),
        Ok(false) => {
            Failure::new(format!("run {run} does not exist")).command("ladylinux-refresh history", &[])
        }
        Err(failure) => failure,
    };
    Err(Refusal::of(during, failure))
}
