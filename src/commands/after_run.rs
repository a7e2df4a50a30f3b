//! `after-run`: completes a run whose process has ended. systemd starts it after every end of a run's unit.

use std::time::Duration;

use crate::cli::AfterRunArgs;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::installation::Installation;
use refresh_installation::journal::run_lock;
use refresh_installation::journal::run_lock::Taken;
use refresh_installation::journal::{Entry, Status, store};
use refresh_installation::status_file;
use refresh_programs::process::{ExitKind, Runner};
use refresh_run::refresh::killed;
use refresh_run::relay::spool::Spool;
use refresh_service::fence;
use refresh_settings::layers::{Layers, Overrides};
use refresh_settings::layout::Layout;
use refresh_settings::names::{RunId, UnitName};
use refresh_system::environment;
use refresh_system::interrupt::signal_name;

use super::{open, warn};

/// The time limit for waiting for a reader of the lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// Does nothing if the run ended by itself. Otherwise stops the service that it left behind the fence, and reports
/// that.
pub(super) fn after_run(layout: &Layout, args: &AfterRunArgs) -> Result<Success, Error> {
    let run = RunId::parse(&args.run).map_err(Error::Usage)?;
    let end = end_from_systemd();
    let closed = close_run(layout, &run, end);
    // This comes after it: a report has more information than the end of the process.
    let settled = status_file::settle_request(layout, &run, end);
    let spool = Spool::of(layout, &run);
    if spool.is_there() {
        // This comes last: followers then find everything else complete.
        if let Err(failure) = spool.set_end(end) {
            warn(&[format!("those who follow the run wait for its end: {}", failure.chain().join(": "))]);
        }
    }
    closed?;
    settled.map_err(|failure| Refusal::of("after-run", failure))?;
    Ok(Success::Done)
}

fn close_run(layout: &Layout, run: &RunId, end: ExitKind) -> Result<(), Error> {
    let refused = |failure| Refusal::of("after-run", failure);
    let read = store::read(&layout.run(run)).map_err(refused)?;
    let unit = read.as_ref().and_then(unit_of_service);
    let over = read.is_none_or(|read| matches!(read.status, Some(Status::Ended { .. })));
    let current = status_file::read(layout).current;
    if over && current.is_none_or(|current| current.run != *run) {
        return Ok(());
    }
    // This comes first, since it needs nothing else: afterwards the remains of this run admit no start by systemd.
    fence::remove_stale_admission(layout).map_err(refused)?;
    let taken = run_lock::take(&layout.lock_file(), "after-run", None, PATIENCE).map_err(refused)?;
    let on = opened(layout, unit)?;
    match taken {
        Taken::Ours(_lock) => killed::settle(&on, run, end),
        Taken::Theirs(_) => killed::keep_down(&on, run),
    }
    .map_err(refused)
}

/// Opens the installation. Settings that can no longer be read or trusted are reported. They are no reason to leave the
/// service running: the journal of the run contains the name of the unit.
fn opened(layout: &Layout, unit: Option<UnitName>) -> Result<Installation, Error> {
    let error = match open(layout, "after-run") {
        Err(error @ (Error::Usage(_) | Error::Refused(_))) => error,
        other => return other,
    };
    super::print_error(layout, &error);
    let text = format!("[service]\nunit = \"{}\"\n", unit.unwrap_or_else(UnitName::usual));
    Layers::of_text(layout, &text, Overrides::default())
        .and_then(|layers| Installation::open(layers, Runner::silent()))
        .map_err(Error::Usage)
}

fn unit_of_service(read: &store::Read) -> Option<UnitName> {
    read.entries().find_map(|entry| match entry {
        Entry::Begun { unit, .. } => Some(unit.clone()),
        _ => None,
    })
}

/// Returns how the main process ended (systemd.exec(5): `$EXIT_CODE`, `$EXIT_STATUS`).
fn end_from_systemd() -> ExitKind {
    let how = environment::variable("EXIT_CODE");
    let status = environment::variable("EXIT_STATUS").unwrap_or_default();
    parse_end(how.as_deref(), &status)
}

fn parse_end(how: Option<&str>, status: &str) -> ExitKind {
    if how == Some("exited")
        && let Ok(code) = status.parse()
    {
        return ExitKind::Code(code);
    }
    let known = (1..32).find(|number| signal_name(*number) == Some(&format!("SIG{status}")));
    // Only SIGKILL ends a run without a known name.
    ExitKind::Signal(known.or_else(|| status.parse().ok()).unwrap_or(9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_that_systemd_reports_is_understood() {
        assert_eq!(parse_end(Some("exited"), "4"), ExitKind::Code(4));
        assert_eq!(parse_end(Some("killed"), "KILL"), ExitKind::Signal(9));
        assert_eq!(parse_end(Some("dumped"), "SEGV"), ExitKind::Signal(11));
        assert_eq!(parse_end(Some("killed"), "TERM"), ExitKind::Signal(15));
        assert_eq!(parse_end(None, ""), ExitKind::Signal(9));
    }
}
