//! `service restart`: stop, start and health check of the deployed version, under the run lock. A fenced service stays
//! stopped.

use crate::cli::LockArgs;
use refresh_installation::exit::{Error, Success};
use refresh_installation::history;
use refresh_installation::installation::Installation;
use refresh_run::plan::preflight;
use refresh_run::refresh::others;
use refresh_service::deployed::Deployment;
use refresh_service::health;
use refresh_service::health::Healthy;
use refresh_service::probe;
use refresh_service::probe::ResolvedProbe;
use refresh_service::{Admission, Started, fence};
use refresh_settings::names::RunId;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen::{Tone, paint, print_line};
use refresh_system::text::duration;
use refresh_system::{clock, interrupt};

use super::{lock, print_error, refuse, start_request, warn};

/// The command, for errors.
const DURING: &str = "service restart";

/// Restarts the service, and reports its downtime. A service that fails its health check stays unchanged, and the
/// command ends with exit code 5.
pub(super) fn restart(on: &Installation) -> Result<Success, Error> {
    let context = |failure| refuse(on, DURING, failure, "ladylinux-refresh status");
    let _lock = lock(&on.layout, DURING, None, &LockArgs::default())?;
    if let Some(fence) = fence::read(&on.layout).map_err(context)? {
        return Err(refuse(on, DURING, fence.refusal(), &history::way_out(&on.layout, &fence)));
    }
    preflight::outside(on).map_err(context)?;
    let probe = health_check(on).map_err(context)?;
    note_others(on).map_err(context)?;
    let began = clock::monotonic();
    // A signal between the two would leave the service down.
    let (stopped, started) =
        interrupt::shielded(|| on.service.stop().map(|stopped| (stopped, start(on)))).map_err(context)?;
    // What matters is the result of the start.
    let _ = match &started {
        Ok(_) => start_request::forget(&on.layout),
        Err(_) => start_request::record(&on.layout),
    };
    warn(&stopped.notes);
    let healthy = started.and_then(|started| {
        warn(&started.warnings);
        check(on, &probe, &started)
    });
    report(on, DURING, healthy, |healthy| {
        let down = duration(clock::millis(healthy.first_good.duration_since(began)));
        let restarted = paint(Tone::Good, "Restarted");
        print_line(&format!("{restarted}: {}, down for {down}", in_words(healthy, &probe)));
    })
}

/// Returns the result of a health check in words.
pub(super) fn in_words(healthy: &Healthy, probe: &ResolvedProbe) -> String {
    let stable = duration(clock::millis(probe.settle));
    format!("healthy (HTTP {}), stable for {stable}", healthy.status)
}

/// Ends a command by the result of its health check; a failure is printed.
pub(super) fn report<T>(
    on: &Installation,
    during: &str,
    healthy: Outcome<T>,
    print: impl FnOnce(&T),
) -> Result<Success, Error> {
    match healthy {
        Ok(healthy) => {
            print(&healthy);
            Ok(Success::Done)
        }
        Err(failure) if failure.interrupted_by().is_some() => {
            Err(refuse(on, during, failure, "ladylinux-refresh status"))
        }
        Err(failure) => {
            print_error(&on.layout, &refuse(on, during, failure, "ladylinux-refresh service logs"));
            Ok(Success::Findings)
        }
    }
}

/// Returns the health check of the deployed version. If the settings of that version cannot be read, it is that of the
/// host, with a warning: the service can start without the mirror.
pub(super) fn health_check(on: &Installation) -> Outcome<ResolvedProbe> {
    let deployed = Deployment::read(&on.layout).ok().flatten();
    let release = match deployed.as_ref().map(|deployed| on.release(&deployed.commit)).transpose() {
        Ok(release) => release,
        Err(failure) => {
            warn(&[format!("the health check is that of the host alone: {failure}")]);
            None
        }
    };
    let settings = release.as_ref().map_or(&on.settings.probe, |release| &release.settings.probe);
    probe::resolve(settings, &on.env_file()?, deployed.as_ref())
}

/// Records the units that systemd stops together with the service, which are started again with it, and those that were down
/// before.
fn note_others(on: &Installation) -> Outcome<()> {
    let found = on.service.others()?;
    refresh_service::others::note_down(&on.layout, &found.down)?;
    let name = RunId::new(clock::now(), std::process::id());
    refresh_service::others::note(&on.layout, &name, &found.stopped_with_it).map(|_| ())
}

/// Starts the service and the units that were stopped with it.
fn start(on: &Installation) -> Outcome<Started> {
    let mut started = on.service.start(Admission::Ordinary)?;
    started.warnings.extend(others::start_noted(on));
    Ok(started)
}

/// Waits until the started service is healthy.
pub(super) fn check(on: &Installation, probe: &ResolvedProbe, started: &Started) -> Outcome<Healthy> {
    health::await_healthy(probe, &on.units, on.service.as_ref(), started.main).map_err(|failure| {
        if failure.interrupted_by().is_some() {
            return failure;
        }
        Failure::new("the service fails its health check").because(failure)
    })
}
