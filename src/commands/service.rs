//! `service`: control of the service, under systemd or the embedded supervisor.

use std::time::Duration;

use crate::cli::ServiceCommand;
use refresh_installation::exit::{Error, Refusal, Success};
use refresh_installation::history;
use refresh_installation::installation::Installation;
use refresh_run::refresh::others;
use refresh_service::{Admission, StartedHow, fence, supervisor};
use refresh_settings::layout::Layout;
use refresh_system::clock;
use refresh_system::error::Outcome;
use refresh_system::screen;
use refresh_system::screen::print_line;
use refresh_system::text::{harmless_line, quoted};

use super::{open, refuse, service_restart, start_request, warn};

/// Performs `service …`.
pub(super) fn service(layout: &Layout, command: &ServiceCommand) -> Result<Success, Error> {
    let during = match command {
        ServiceCommand::Start => "service start",
        ServiceCommand::Stop => "service stop",
        ServiceCommand::Restart => "service restart",
        ServiceCommand::Status => "service status",
        ServiceCommand::Logs { .. } => "service logs",
    };
    let on = open(layout, during)?;
    let context = |failure| refuse(&on, during, failure, "ladylinux-refresh status");
    match command {
        ServiceCommand::Start => return start(&on),
        ServiceCommand::Stop => stop(&on).map_err(context)?,
        ServiceCommand::Status => {
            let state = on.service.observe().map_err(context)?;
            print_line(&format!("{}: {state}", on.service.describe()));
            if let Some(fence) = fence::read(layout).map_err(context)? {
                print_line(&harmless_line(&fence.refusal().chain().join(": ")));
            }
            if state.running().is_none() {
                return Ok(Success::Findings);
            }
        }
        ServiceCommand::Restart => return service_restart::restart(&on),
        ServiceCommand::Logs { lines, follow: true } => follow(&on, *lines).map_err(context)?,
        ServiceCommand::Logs { lines, follow: false } => {
            for line in on.service.log_tail(*lines).map_err(context)? {
                print_line(&harmless_line(&line));
            }
        }
    }
    Ok(Success::Done)
}

/// Starts the service and waits until it is healthy. One that ran already is left alone. A service that fails its
/// health check stays unchanged, and the command ends with exit code 5.
fn start(on: &Installation) -> Result<Success, Error> {
    let refused = |failure| {
        // What matters is the failure of the start.
        let _ = start_request::record(&on.layout);
        let fence = fence::read(&on.layout).ok().flatten();
        let next = fence.map(|fence| history::way_out(&on.layout, &fence));
        let next = next.unwrap_or_else(|| "ladylinux-refresh status".to_owned());
        refuse(on, "service start", failure, &next)
    };
    let probe = service_restart::health_check(on);
    // A fence is named before a fault of the health check, which matters only for a service that is started.
    let runs = || on.service.observe().is_ok_and(|state| state.running().is_some());
    let probe = if on.is_fenced() || runs() { probe } else { Ok(probe.map_err(refused)?) };
    let started = on.service.start(Admission::Ordinary).map_err(refused)?;
    let _ = start_request::forget(&on.layout);
    warn(&started.warnings);
    warn(&others::start_noted(on));
    let word = if started.how == StartedHow::Fresh { "started" } else { "runs already" };
    print_line(&format!("{} {word} (pid {})", on.service.describe(), started.main.pid));
    if started.how != StartedHow::Fresh {
        return Ok(Success::Done);
    }
    let healthy = probe.and_then(|probe| Ok((service_restart::check(on, &probe, &started)?, probe)));
    service_restart::report(on, "service start", healthy, |(healthy, probe)| {
        print_line(&service_restart::in_words(healthy, probe));
    })
}

fn stop(on: &Installation) -> Outcome<()> {
    // A record of an earlier start is of no effect after this stop.
    let _ = start_request::forget(&on.layout);
    let stopped = on.service.stop()?;
    if !on.service.has_units() {
        supervisor::note_stop(&on.layout)?;
    }
    warn(&stopped.notes);
    print_line(&format!("{} {}", on.service.describe(), harmless_line(&stopped.to_string())));
    warn(&starts_again(on, &on.layout));
    Ok(())
}

/// The interval of reads of new lines.
const EVERY: Duration = Duration::from_millis(500);

/// Prints the last lines of the log and each new one, until a signal arrives or the reader of the output ends.
fn follow(on: &Installation, lines: usize) -> Outcome<()> {
    let mut place = None;
    loop {
        let (new, after) = on.service.log_after(place.as_ref(), lines)?;
        for line in new {
            print_line(&harmless_line(&line));
        }
        place = after;
        if !screen::is_taken() || clock::pause(EVERY).is_err() {
            return Ok(());
        }
    }
}

/// Returns warnings with the socket units that start a stopped service with the next connection. The fence prevents
/// that.
fn starts_again(on: &Installation, layout: &Layout) -> Vec<String> {
    let is_fenced = fence::read(layout).is_ok_and(|fence| fence.is_some());
    let sockets = if is_fenced { Vec::new() } else { on.service.sockets().unwrap_or_default() };
    let open = sockets.into_iter().filter(|socket| socket.is_open);
    open.map(|socket| {
        let unit = &socket.unit;
        format!(
            "{unit} starts it again with the next connection; to keep it down: systemctl stop {}",
            quoted(unit)
        )
    })
    .collect()
}

/// Runs the embedded supervisor until its service has ended.
pub(super) fn supervise(layout: &Layout) -> Result<Success, Error> {
    supervisor::run_supervisor(layout).map_err(|failure| Refusal::of("supervise", failure))?;
    Ok(Success::Done)
}
