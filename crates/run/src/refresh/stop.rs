//! Step 1: fence up, service down, its processes ended, its port free (RW-5.1).

use std::time::Duration;

use crate::plan::Target;
use refresh_events::run_report::{HeldBack, HeldBy, Outage};
use refresh_installation::installation::Installation;
use refresh_installation::status_file;
use refresh_service::probe;
use refresh_service::{Admission, Force, Running, ServiceState, fence, port};
use refresh_settings::names::CommitId;
use refresh_system::environment;
use refresh_system::error::Outcome;
use refresh_system::{checkpoint, clock, interrupt};

use super::account::Account;
use super::{others, socket};

/// The time limit for the kernel to free the port of ended processes.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// Stops the service behind a fence.
///
/// # Errors
/// The fence cannot be raised (then nothing was stopped), a process of the service cannot be ended, or a stranger
/// holds its port.
pub(crate) fn stop(on: &Installation, account: &mut Account) -> Outcome<String> {
    // The unit of the probe sends the health check after the start: it need not be started while the service is down.
    let probe = probe::role(on.settings.probe.url.as_deref());
    on.units.keep_ready(probe)?;
    socket::hold(on, account)?;
    others::note(on, account)?;
    on.units.end_sessions(Some(probe));
    hold_back(on, account)?;
    let was_fenced = on.is_fenced();
    let before = if was_fenced { None } else { on.service.observe()?.running().cloned() };
    let reason = format!("refresh {} is in progress", account.report.run);
    let fence = fence::raise(&on.layout, &account.report.run, &reason)?;
    account.outage = was_fenced.then(|| Outage::since(fence.since, clock::now()));
    let began = clock::monotonic();
    account.down_since = Some(began);
    let is_held = before.is_some() && socket::close_gate(on, account);
    let waits_outside = is_held || socket::open_next(on, account);
    // An interruption does not end this early: a halted run leaves a stopped service (RW-7.1a).
    let stopped = interrupt::shielded(|| on.service.stop());
    if before.is_some() {
        socket::open_gate(account);
    }
    let stopped = match stopped {
        Ok(stopped) => stopped,
        Err(failure) => {
            interrupt::shielded(|| leave_untouched(on, account, before.as_ref()));
            return Err(failure);
        }
    };
    if !waits_outside {
        // Up to this point the service still answered.
        account.down_since = Some(began + stopped.others_took);
    }
    if stopped.force == Force::Killed {
        account.warn(format!("the service {stopped}: it did not end within its stop timeout"));
    }
    for note in &stopped.notes {
        account.warn(note.clone());
    }
    for process in &stopped.leftovers {
        account.note(&format!("ended a left-over process of the service: {process}"));
    }
    checkpoint::reach("stop:stopped");
    port::await_free(on.port()?, PORT_PATIENCE, |holder| socket::is_allowed(on, account, holder))?;
    Ok(stopped.to_string())
}

/// Holds back the commit that a rollback leaves, for unattended runs, before anything is stopped. Even if the rollback
/// fails, a person has decided against that commit. A rollback to the present commit and environment leaves nothing.
fn hold_back(on: &Installation, account: &Account) -> Outcome<()> {
    let Target::Earlier(pair) = &account.target else { return Ok(()) };
    let is_present =
        |commit: &CommitId| *commit == pair.commit && on.live().as_ref() == Some(&pair.environment);
    let Some(commit) = account.report.commit_before.clone().filter(|commit| !is_present(commit)) else {
        return Ok(());
    };
    let deployed = status_file::read(&on.layout).deployed.filter(|deployed| deployed.commit == commit);
    let held = HeldBack {
        branch: deployed.map_or_else(|| pair.branch.clone(), |deployed| deployed.branch),
        subject: on.mirror.commit_line(&commit).ok().map(|line| line.subject),
        commit,
        by: HeldBy::Rollback,
        run: Some(account.report.run.clone()),
        at: account.report.started_at,
        user: environment::caller(),
        why: None,
    };
    status_file::hold_back(&on.layout, held)
}

/// If a failed stop has not affected the service, lowers the fence again and starts the units that were stopped before
/// the service. Such a run counts as refused, not as halted.
fn leave_untouched(on: &Installation, account: &mut Account, before: Option<&Running>) {
    on.service.close_next_socket();
    let now = on.service.observe().ok();
    if before.is_none() || now.as_ref().and_then(ServiceState::running) != before {
        return;
    }
    let lowered = fence::lower(&on.layout).and_then(|()| on.service.start(Admission::Ordinary).map(drop));
    if let Err(failure) = lowered {
        account.warn(format!("not all is as it was before the stop: {}", failure.chain().join(": ")));
    }
    for warning in others::start_noted(on) {
        account.warn(warning);
    }
    socket::release(account);
    account.report.service.others.clear();
    account.down_since = None;
}
