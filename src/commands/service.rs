//! `service`: control of the service, whoever keeps it.

use crate::cli::ServiceCommand;
use crate::exit::{Ended, Error, Refusal};
use crate::installation::Installation;
use crate::refresh::others;
use crate::report::screen::{harmless_line, say};
use crate::report::shell::quoted;
use crate::service::{Admission, StartedHow, fence, supervisor};
use crate::settings::layout::Layout;

use super::{open, refuse};

/// Does what `service …` asks for.
pub(super) fn service(layout: &Layout, command: &ServiceCommand) -> Result<Ended, Error> {
    let during = match command {
        ServiceCommand::Start => "service start",
        ServiceCommand::Stop => "service stop",
        ServiceCommand::Status => "service status",
        ServiceCommand::Logs { .. } => "service logs",
    };
    let on = open(layout, during)?;
    let context = |failure| refuse(&on, during, failure, "ladylinux-refresh status");
    match command {
        ServiceCommand::Start => {
            let started = on.service.start(Admission::Ordinary).map_err(context)?;
            for warning in &started.warnings {
                say(&format!("warning: {}", harmless_line(warning)));
            }
            for warning in others::start_noted(&on) {
                say(&format!("warning: {}", harmless_line(&warning)));
            }
            let word = if started.how == StartedHow::Fresh { "started" } else { "runs already" };
            say(&format!("{} {word} (pid {})", on.service.describe(), started.main.pid));
        }
        ServiceCommand::Stop => {
            let stopped = on.service.stop().map_err(context)?;
            for note in &stopped.notes {
                say(&format!("warning: {}", harmless_line(note)));
            }
            say(&format!("{} {}", on.service.describe(), harmless_line(&stopped.to_string())));
            for warning in starts_again(&on, layout) {
                say(&format!("warning: {}", harmless_line(&warning)));
            }
        }
        ServiceCommand::Status => {
            let state = on.service.observe().map_err(context)?;
            say(&format!("{}: {state}", on.service.describe()));
            if let Some(fence) = fence::read(layout).map_err(context)? {
                say(&format!("fenced: {}", harmless_line(&fence.refusal().chain().join(": "))));
            }
            if state.running().is_none() {
                return Ok(Ended::Findings);
            }
        }
        ServiceCommand::Logs { lines } => {
            for line in on.service.log_tail(*lines).map_err(context)? {
                say(&harmless_line(&line));
            }
        }
    }
    Ok(Ended::Done)
}

/// Names the socket units that start a stopped service with the next connection. The fence keeps them from it.
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

/// Is the embedded supervisor, until its service has ended.
pub(super) fn supervise(layout: &Layout) -> Result<Ended, Error> {
    supervisor::run_supervisor(layout).map_err(|failure| Refusal::of("supervise", failure))?;
    Ok(Ended::Done)
}
