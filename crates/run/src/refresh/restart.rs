//! Step 5: file systems synced, service started through the fence, probed until it is healthy and has settled, fence
//! down (RW-5.5). If that fails, the service is stopped again and stays fenced (RW-7.1).

use crate::plan::{Target, reach};
use refresh_environments::RecordedEnvironment;
use refresh_installation::installation::{Installation, Release};
use refresh_installation::{history, status_file};
use refresh_service::deployed::Deployment;
use refresh_service::probe;
use refresh_service::probe::ResolvedProbe;
use refresh_service::{Admission, fence, health, port, port_holder};
use refresh_settings as settings;
use refresh_settings::ImportCheck;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::{duration, quoted_path};
use refresh_system::{checkpoint, clock, disk, interrupt};

use super::account::Account;
use super::socket;
use super::socket_holder::is_systemd;

/// The number of the service's last lines in an error.
const LOG_LINES: usize = 20;

/// Starts the service and checks it.
///
/// # Errors
/// The service cannot be started, does not become healthy within the deadline, does not stay healthy, or is not the new
/// version. It is then stopped again.
pub(crate) fn restart(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    environment: &RecordedEnvironment,
) -> Outcome<String> {
    account.restart_since = Some(clock::monotonic());
    account.progress("syncing file systems");
    // Neither git nor the installers sync their files; without this sync, a "success" may not survive a power cut.
    disk::sync_file_system(&on.layout.app())?;
    if !disk::same_device(&on.layout.app(), &on.layout.environments())? {
        disk::sync_file_system(&on.layout.environments())?;
    }
    let deployed = account.deployment(&release.commit, &environment.name);
    deployed.write(&on.layout)?;
    checkpoint::reach("restart:deployed");

    account.progress("starting");
    let probe = before_the_start(on, account, release, &deployed)?;
    let summary = start_and_check(on, account, &probe)
        .map_err(|failure| stop_again(on, "the service did not pass its health check", failure))?;
    let is_rollback = matches!(account.target, Target::Earlier(_));
    settle(on, &deployed, is_rollback)
        .map_err(|failure| stop_again(on, "the service works, but that cannot be written down", failure))?;
    socket::release(account);
    Ok(summary)
}

/// Makes the checked pair the deployed one. The status is written first: it must be true when the fence is lowered.
fn settle(on: &Installation, deployed: &Deployment, is_rollback: bool) -> Outcome<()> {
    status_file::set_deployed(&on.layout, deployed, is_rollback)?;
    checkpoint::reach("restart:status");
    fence::lower(&on.layout)
}

/// Resolves the probe of the service, and checks that no other process answers in its place.
fn before_the_start(
    on: &Installation,
    account: &mut Account,
    release: &Release,
    deployed: &Deployment,
) -> Outcome<ResolvedProbe> {
    let env_file = on.env_file()?;
    let settings = probe_of_target(on, account, &release.settings.probe);
    let probe = probe::resolve(&settings, &env_file, Some(deployed))?;
    account.report.service.url = Some(probe.url.clone());
    account.report.service.check = Some(probe::in_words(&settings));
    let port = on.port()?;
    match port::holder_but(port, |holder| socket::is_allowed(on, account, holder))? {
        Some(stranger) => Err(port_holder::held(port, &stranger)),
        None => Ok(probe),
    }
}

/// Returns the probe of the target. An earlier version that has passed another one cannot meet expectations that the host
/// has set since, so it needs to meet none.
fn probe_of_target(on: &Installation, account: &mut Account, probe: &settings::Probe) -> settings::Probe {
    let Target::Earlier(pair) = &account.target else { return probe.clone() };
    let run = pair.run.clone();
    let passed = history::one(&on.layout, &run).ok().and_then(|past| past.report?.service.check);
    let Some(passed) = passed.filter(|passed| *passed != probe::in_words(probe)) else {
        return probe.clone();
    };
    account.warn(format!(
        "the health check has changed since this version passed it in run {run} ({passed}): any status below 500 is accepted"
    ));
    settings::Probe { status: None, json_field: None, json_value: None, body: None, ..probe.clone() }
}

fn start_and_check(on: &Installation, account: &mut Account, probe: &ResolvedProbe) -> Outcome<String> {
    let not_before = clock::boot_ticks();
    let started = on.service.start(Admission::Refresh(account.report.run.clone()))?;
    for warning in &started.warnings {
        account.warn(warning.clone());
    }
    checkpoint::reach("restart:started");
    let healthy = health::await_healthy(probe, &on.units, on.service.as_ref(), started.main)
        .map_err(|failure| with_settings(on, probe, failure))?;
    health::check_new(on.service.as_ref(), &started, not_before)?;
    let number = on.port()?;
    if probe::addresses(probe).iter().any(|address| address.port() == number) {
        account.asked_here = healthy.attempts;
    }
    check_listeners(on, account, not_before)?;
    on.service.check_together()?;
    account.start_took = account.restart_since.map(|since| healthy.first_good.duration_since(since));
    account.report.downtime_ms =
        account.down_since.map(|since| clock::millis(healthy.first_good.duration_since(since)));
    account.report.outage = account.outage.take();
    if let Some((outage, ms)) = account.report.outage.as_mut().zip(account.report.downtime_ms) {
        outage.duration_ms += ms;
    }
    checkpoint::reach("restart:settled");
    let (ready, settle) = (clock::millis(healthy.took), probe.settle);
    Ok(format!(
        "healthy after {} (HTTP {}), stable for {}",
        duration(ready),
        healthy.status,
        duration(clock::millis(settle))
    ))
}

/// Adds the setting to change to the failure of a service that runs, but does not listen where the probe asks.
fn with_settings(on: &Installation, probe: &ResolvedProbe, failure: Failure) -> Failure {
    if !failure.summary().starts_with(health::LATE) {
        return failure;
    }
    let Ok(listens) = on.service.processes().and_then(|processes| port::addresses_of(&processes)) else {
        return failure;
    };
    let file = quoted_path(&on.layout.host_file());
    if listens.is_empty() {
        return failure
            .rooted_in(Failure::new("the service listens on no address yet"))
            .hint(format!("where its start takes longer, set `deadline` under [probe] in {file}"));
    }
    let Some((addresses, url)) = reach::other_addresses(&listens, probe) else { return failure };
    let failure = failure.rooted_in(Failure::new(format!("the service listens on {addresses}")));
    match url {
        Some(url) => failure.hint(format!("set `url = \"{url}\"` under [probe] in {file}")),
        None => failure,
    }
}

/// Checks that every process that listens on the service's port belongs to the new service: a stranger or a left-over
/// process of the old one could also answer. A service with a probe on another address need not listen here.
fn check_listeners(on: &Installation, account: &Account, not_before: u64) -> Outcome<()> {
    let number = on.port()?;
    let holders = port::holders(number)?;
    for holder in holders.into_iter().filter(|holder| !socket::is_allowed(on, account, holder)) {
        if is_systemd(&holder) && socket::is_kept_open(on)? {
            continue;
        }
        let Some(process) = holder.process else { return Err(port_holder::held(number, &holder)) };
        health::check_part(on.service.as_ref(), process, not_before)
            .map_err(|why| port_holder::held(number, &holder).because(why))?;
    }
    Ok(())
}

/// Returns the line that names the last exception of Python, below its traceback.
fn exception(lines: &[String]) -> Option<&String> {
    let is_exception = |line: &&String| {
        let name = line.split(':').next().unwrap_or_default();
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c));
        is_name && (name.ends_with("Error") || name.ends_with("Exception"))
    };
    let start =
        lines.iter().rposition(|line| line.trim_start().starts_with("Traceback (most recent call"))?;
    lines[start..].iter().rfind(is_exception)
}

/// Ends a service that failed its health check; its last lines are part of the error.
fn stop_again(on: &Installation, what: &str, failure: Failure) -> Failure {
    let said = on.service.log_tail(LOG_LINES).unwrap_or_default();
    let stopped = interrupt::shielded(|| on.service.stop());
    let summary = match stopped {
        Ok(_) => what.to_owned(),
        Err(stuck) => {
            format!("{what}, and it cannot be stopped: {}", stuck.chain().join(": "))
        }
    };
    let cause = if said.iter().all(|line| line.trim().is_empty()) {
        failure
    } else {
        let exception = exception(&said).map(|line| format!("{line}\n")).unwrap_or_default();
        let is_import = ["ModuleNotFoundError", "ImportError"].iter().any(|name| exception.starts_with(name));
        let failure = failure.rooted_in(Failure::written(&said, &format!("{exception}its last lines:\n")));
        if is_import && on.settings.python.import_check != ImportCheck::Import {
            let file = on.layout.host_file();
            failure.hint(format!(
                "`import_check = \"import\"` under [python] in {} finds this before the stop",
                file.display()
            ))
        } else {
            failure
        }
    };
    Failure::new(summary).because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exception_of_python_is_the_last_line_of_its_kind_below_a_traceback() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let died = lines(
            "Traceback (most recent call last):\n  File \"a\"\nModuleNotFoundError: No module named 'x'\nsystemd: y",
        );
        assert_eq!(exception(&died).unwrap(), "ModuleNotFoundError: No module named 'x'");
        assert_eq!(exception(&lines("ValueError: of another program")), None);
    }
}
