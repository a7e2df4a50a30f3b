//! The process of a run: this one, or a separate one that this one starts and follows.
//!
//! On a host with systemd it is always a separate one (`relay`): the refresh continues even if the caller ends. The
//! command line is checked here first: a mistake is reported immediately.

use crate::cli::{Format, PlaceArgs, ReportArgs};
use refresh_host::host::presence;
use refresh_installation::exit;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation;
use refresh_installation::journal::run_lock;
use refresh_programs::process::{ExitKind, ProcessId};
use refresh_programs::units::{is_inside, unit_of};
use refresh_run::relay::follow::{FollowOutcome, Follower, OnInterrupt};
use refresh_run::relay::start;
use refresh_run::relay::start::{RunStart, StartError};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::clock;
use refresh_system::error::Failure;
use refresh_system::screen;

use super::local_run::LocalRun;
use super::run_request::RunRequest;
use super::{locked_by, open, print_unless_reported, reporter, settings};

/// Performs a run in the right process.
pub(super) fn carry_out(
    layout: &Layout,
    request: &RunRequest,
    run: RunId,
    place: &PlaceArgs,
    report: &ReportArgs,
) -> Result<Success, Error> {
    if let Some(name) = &place.worker {
        return as_worker(layout, request, RunId::parse(name).map_err(Error::Usage)?);
    }
    if start::in_units(layout) || place.detach {
        return start_process(layout, request, &run, place, report);
    }
    let local = LocalRun::new(layout, run, vec![reporter(report)]);
    let result = local.refresh(layout, request);
    local.end(&result);
    result
}

/// Returns whether a run would be started in a unit and followed.
pub(super) fn would_be_in_a_unit(layout: &Layout, args: &PlaceArgs) -> bool {
    args.worker.is_none() && !args.detach && start::in_units(layout)
}

/// Returns the ID of a run that is requested now.
pub(super) fn new_name() -> RunId {
    RunId::new(clock::now(), std::process::id())
}

/// Performs the run for followers. Output without an event goes to standard error, which they also read.
fn as_worker(layout: &Layout, request: &RunRequest, run: RunId) -> Result<Success, Error> {
    let local = LocalRun::new(layout, run, Vec::new());
    if local.spool.make().is_ok() {
        let _ = local.spool.set_worker(ProcessId::own());
    }
    let result = local.refresh(layout, request);
    if let Err(error) = &result {
        print_unless_reported(layout, error);
    }
    local.end(&result);
    result.map_err(|error| Error::Reported(error.code()))
}

/// Starts the run in a separate process, and follows it unless it is detached.
fn start_process(
    layout: &Layout,
    request: &RunRequest,
    run: &RunId,
    place: &PlaceArgs,
    report: &ReportArgs,
) -> Result<Success, Error> {
    let refused = |failure: Failure| Refusal::of("preflight", failure);
    presence::check_there(layout).map_err(refused)?;
    if request.lock.wait.is_zero() {
        check_unlocked(layout)?;
    }
    let settings = settings(layout, request.overrides.clone())?.resolve().map_err(Error::Usage)?;
    installation::check_writable(layout).map_err(refused)?;
    let start = RunStart { layout, run, arguments: request.for_worker() };
    let bus = if start::in_units(layout) {
        if is_inside(&settings.service.unit) {
            let unit = unit_of(run);
            screen::print_to_stderr(&format!(
                "this was started from inside the service, which a refresh stops; it continues outside of it, in {unit}"
            ));
        }
        Some(start.in_unit().map_err(|why| start_failure(layout, run, why))?)
    } else {
        start.detached().map_err(refused)?;
        None
    };
    if place.detach {
        if let Some(bus) = &bus {
            start::await_begin(layout, bus, run).map_err(|why| start_failure(layout, run, why))?;
        }
        match report.format() {
            Some(Format::Json) => screen::print_line(&serde_json::json!({ "run": run }).to_string()),
            _ => screen::print_line(run.as_str()),
        }
        return Ok(Success::Done);
    }
    let reporter = reporter(report);
    follow(Follower { layout, run, reporter, on_interrupt: OnInterrupt::Cancel, bus })
}

/// Refuses to start a run that would only find another run in progress.
fn check_unlocked(layout: &Layout) -> Result<(), Error> {
    match run_lock::held_by(&layout.lock_file()) {
        Ok(Some(holder)) => Err(locked_by(Some(holder))),
        Ok(None) => Ok(()),
        Err(failure) => Err(Refusal::of("preflight", failure)),
    }
}

/// Reports a run whose beginning is not confirmed. After the request to systemd, the run may continue even if this
/// process ends.
fn start_failure(layout: &Layout, run: &RunId, why: StartError) -> Error {
    let failure = match why {
        StartError::Refused(failure) => return Refusal::of("preflight", failure),
        StartError::Unconfirmed(failure) => failure,
    };
    let next = format!("ladylinux-refresh wait {run}");
    if let Some(signal) = failure.interrupted_by() {
        return Error::Detached { run: run.clone(), signal, next };
    }
    Error::Refused(Box::new(Refusal {
        during: "preflight".to_owned(),
        failure: Failure::new(format!("run {run} was requested; its start could not be confirmed"))
            .because(failure),
        service: service_in_words(layout),
        next,
    }))
}

/// Follows a run and returns its end.
pub(super) fn follow(follower: Follower<'_>) -> Result<Success, Error> {
    let (layout, run) = (follower.layout, follower.run.clone());
    match follower.follow() {
        FollowOutcome::Left(signal) => {
            let next = format!("ladylinux-refresh wait {run}");
            Err(Error::Detached { run, signal, next })
        }
        FollowOutcome::Over { end: end @ (None | Some(ExitKind::Signal(_))), reported: None } => {
            let (service, next) = (service_in_words(layout), "ladylinux-refresh run".to_owned());
            Err(Error::Lost { run, end, service, next })
        }
        FollowOutcome::Over { end, reported } => match end.map(exit::of_process).or(reported) {
            Some(0) | None => Ok(Success::Done),
            Some(code) => Err(Error::Reported(code)),
        },
    }
}

/// Returns the state of the service, as far as the caller can read it.
pub(super) fn service_in_words(layout: &Layout) -> String {
    open(layout, "status").map_or_else(|_| "unknown".to_owned(), |on| on.service_in_words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_run_is_named_even_if_its_client_is_interrupted() {
        let (layout, run) = (Layout::below("/nowhere"), RunId::parse("r-1").unwrap());
        let wait = "ladylinux-refresh wait r-1";
        let reported = |failure| start_failure(&layout, &run, StartError::Unconfirmed(failure));
        let Error::Detached { run: named, signal: 15, next } = reported(Failure::interrupted(15)) else {
            panic!()
        };
        assert_eq!((&named, next.as_str()), (&run, wait));
        let Error::Refused(refusal) = reported(Failure::new("the connection is lost")) else { panic!() };
        assert!(refusal.failure.summary().contains("run r-1 was requested"), "{refusal:?}");
        assert_eq!(refusal.next, wait);
        assert_ne!(refusal.service, "not touched");
    }
}
