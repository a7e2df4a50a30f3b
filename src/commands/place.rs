//! Where a run happens: in this process, or in one of its own that this one starts and follows.
//!
//! On a host with systemd it is always one of its own (`relay`), so that whatever becomes of the caller, the refresh goes
//! on. The command line is checked here first, so that a mistake is told at once and by whoever made it.

use std::sync::Arc;

use crate::cli::{Format, PlaceArgs, ReportArgs};
use crate::clock;
use crate::error::Failure;
use crate::event::{Events, Subscriber};
use crate::exit::{self, Ended, Error, Refusal};
use crate::installation::{self, as_typed};
use crate::process::ProcessId;
use crate::relay::follow::{Followed, Follower, OnInterrupt};
use crate::relay::spool::{self, Spool, Spooler};
use crate::relay::start::{self, Errand, NotBegun};
use crate::relay::unit_of;
use crate::report::screen;
use crate::service::ExitKind;
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;
use crate::settings::names::RunId;

use super::{open, reporter, settings, tell_unless_reported};

/// A run as it was asked for.
pub(super) struct Wanted<'a> {
    /// Where the installation is.
    pub(super) layout: &'a Layout,
    /// Its name, where somebody has to know it beforehand.
    pub(super) run: Option<RunId>,
    /// Where it happens.
    pub(super) place: &'a PlaceArgs,
    /// How it reports.
    pub(super) report: &'a ReportArgs,
    /// The flags that are settings.
    pub(super) overrides: &'a Overrides,
    /// The same as the command line of a worker.
    pub(super) arguments: Vec<String>,
}

/// The place of a run that happens in this process.
pub(super) struct Seat {
    /// Its name.
    pub(super) run: RunId,
    /// When it began, in UTC.
    pub(super) started_at: jiff::Timestamp,
    /// Where its events go.
    pub(super) events: Arc<Events>,
    spool: Spool,
}

impl Seat {
    /// Tells from now on what happens to whoever follows. To be called by the holder of the run lock: before, nothing is
    /// written. A spool that cannot be made is no reason not to refresh.
    pub(super) fn open_spool(&self, layout: &Layout) {
        if let Ok(spooler) = Spooler::open(&self.spool) {
            self.events.subscribe(Box::new(spooler));
            let _ = self.spool.set_worker(ProcessId::own());
        }
        spool::prune(layout);
    }
}

/// Has a run done where it belongs; `here` does it in this process.
pub(super) fn place(
    wanted: Wanted<'_>,
    here: impl FnOnce(&Seat) -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    if let Some(name) = &wanted.place.worker {
        let run = RunId::parse(name).map_err(Error::Usage)?;
        return as_worker(wanted.layout, run, here);
    }
    let run = wanted.run.clone().unwrap_or_else(new_name);
    if start::in_units(wanted.layout) || wanted.place.detach {
        return elsewhere(wanted, &run);
    }
    let seat = seat(wanted.layout, run, vec![reporter(wanted.report)]);
    let result = here(&seat);
    end(&seat, &result);
    result
}

/// Returns whether a run would be started in a unit and followed.
pub(super) fn would_be_in_a_unit(layout: &Layout, args: &PlaceArgs) -> bool {
    args.worker.is_none() && !args.detach && start::in_units(layout)
}

/// Does in this process what ends with success, as the run of this name. To be called by the holder of the run lock.
pub(super) fn here(layout: &Layout, run: RunId, report: &ReportArgs, work: impl FnOnce(&Seat)) -> Ended {
    let seat = seat(layout, run, vec![reporter(report)]);
    seat.open_spool(layout);
    work(&seat);
    end(&seat, &Ok(Ended::Done));
    Ended::Done
}

/// Makes the name of a run that is asked for now.
pub(super) fn new_name() -> RunId {
    RunId::new(clock::now(), std::process::id())
}

fn seat(layout: &Layout, run: RunId, subscribers: Vec<Box<dyn Subscriber>>) -> Seat {
    let spool = Spool::of(layout, &run);
    Seat { run, started_at: clock::now(), events: Arc::new(Events::new(subscribers)), spool }
}

/// Does the run for others to follow. What has no event is told on standard error, which they read as well.
fn as_worker(
    layout: &Layout,
    run: RunId,
    here: impl FnOnce(&Seat) -> Result<Ended, Error>,
) -> Result<Ended, Error> {
    let seat = seat(layout, run, Vec::new());
    if seat.spool.make().is_ok() {
        let _ = seat.spool.set_worker(ProcessId::own());
    }
    let result = here(&seat);
    if let Err(error) = &result {
        tell_unless_reported(layout, error);
    }
    end(&seat, &result);
    result.map_err(|error| Error::Told(error.code()))
}

/// Tells those who follow that nothing more will come.
fn end(seat: &Seat, result: &Result<Ended, Error>) {
    if seat.spool.is_there() {
        let code = result.as_ref().map_or_else(Error::code, |_| 0);
        let _ = seat.spool.set_end(ExitKind::Code(code.into()));
    }
}

/// Starts the run in a process of its own, and follows it unless that is not wanted.
fn elsewhere(wanted: Wanted<'_>, run: &RunId) -> Result<Ended, Error> {
    let Wanted { layout, place, report, overrides, arguments, .. } = wanted;
    let refused = |failure: Failure| Refusal::of("preflight", failure);
    installation::check_there(layout).map_err(refused)?;
    let settings = settings(layout, overrides.clone())?.resolve().map_err(Error::Usage)?;
    installation::check_writable(layout).map_err(refused)?;
    let errand = Errand { layout, run, arguments };
    let bus = if start::in_units(layout) {
        if start::is_inside(&settings.service.unit) {
            let unit = unit_of(run);
            screen::complain(&format!(
                "this was started from inside the service, which a refresh stops; it goes on outside of it, in {unit}"
            ));
        }
        Some(errand.in_unit().map_err(|why| not_begun(layout, run, why))?)
    } else {
        errand.detached().map_err(refused)?;
        None
    };
    if place.detach {
        if let Some(bus) = &bus {
            start::await_begin(layout, bus, run).map_err(|why| not_begun(layout, run, why))?;
        }
        match report.format() {
            Some(Format::Json) => screen::say(&serde_json::json!({ "run": run }).to_string()),
            _ => screen::say(run.as_str()),
        }
        return Ok(Ended::Done);
    }
    let reporter = reporter(report);
    follow(Follower { layout, run, reporter, on_interrupt: OnInterrupt::Cancel, bus })
}

/// Tells of a run that nobody has seen begin. Once systemd was asked for it, it may go on whatever becomes of this process.
fn not_begun(layout: &Layout, run: &RunId, why: NotBegun) -> Error {
    let failure = match why {
        NotBegun::Refused(failure) => return Refusal::of("preflight", failure),
        NotBegun::Unconfirmed(failure) => failure,
    };
    let next = as_typed(layout, &format!("ladylinux-refresh wait {run}"));
    if let Some(signal) = failure.interrupted_by() {
        return Error::Detached { run: run.clone(), signal, next };
    }
    Error::Refused(Box::new(Refusal {
        during: "preflight".to_owned(),
        failure: Failure::new(format!("run {run} was asked for; whether it began could not be confirmed"))
            .because(failure),
        service: service_in_words(layout),
        next,
    }))
}

/// Follows a run and passes on how it ended.
pub(super) fn follow(follower: Follower<'_>) -> Result<Ended, Error> {
    let (layout, run) = (follower.layout, follower.run.clone());
    let next = |command: &str| as_typed(layout, &format!("ladylinux-refresh {command}"));
    match follower.follow() {
        Followed::Left(signal) => {
            let next = next(&format!("wait {run}"));
            Err(Error::Detached { run, signal, next })
        }
        Followed::Over { end: Some(ExitKind::Code(0)), .. }
        | Followed::Over { end: None, reported: Some(0) } => Ok(Ended::Done),
        Followed::Over { end: Some(ExitKind::Code(code)), .. } => {
            Err(Error::Told(u8::try_from(code).unwrap_or(1)))
        }
        Followed::Over { end: Some(ExitKind::Signal(signal)), reported: Some(_) } => {
            Err(Error::Told(exit::of_signal(signal)))
        }
        Followed::Over { end: None, reported: Some(code) } => Err(Error::Told(code)),
        Followed::Over { end, reported: None } => {
            let service = service_in_words(layout);
            Err(Error::Lost { run, end, service, next: next("run") })
        }
    }
}

/// The state of the service, as far as whoever asks may know it.
pub(super) fn service_in_words(layout: &Layout) -> String {
    open(layout, "status").map_or_else(|_| "unknown".to_owned(), |on| on.service_in_words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_systemd_was_asked_for_is_named_whatever_becomes_of_who_asked() {
        let (layout, run) = (Layout::below("/nowhere"), RunId::parse("r-1").unwrap());
        let wait = "ladylinux-refresh --root /nowhere wait r-1";
        let told = |failure| not_begun(&layout, &run, NotBegun::Unconfirmed(failure));
        let Error::Detached { run: named, signal: 15, next } = told(Failure::interrupted(15)) else {
            panic!()
        };
        assert_eq!((&named, next.as_str()), (&run, wait));
        let Error::Refused(refusal) = told(Failure::new("the connection is lost")) else { panic!() };
        assert!(refusal.failure.summary().contains("run r-1 was asked for"), "{refusal:?}");
        assert_eq!(refusal.next, wait);
        assert_ne!(refusal.service, "not touched");
    }
}
