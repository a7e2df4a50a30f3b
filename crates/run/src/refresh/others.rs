//! The other units of the application in a run: recorded before the stop, started again after step 5, named in the
//! report.

use refresh_events::run_report::{OtherState, OtherUnit, Tie};
use refresh_installation::installation::Installation;
use refresh_programs::process::identity::{is_launcher, is_session};
use refresh_service::others;
use refresh_service::others::{Others, Trigger, Untied};
use refresh_system::error::Outcome;
use refresh_system::text::quoted;

use super::account::Account;

/// Records, before the stop, the units that stop with the service and those that continue to run the old version.
///
/// # Errors
/// The manager cannot be queried, or the record cannot be written; then nothing may be stopped.
pub(crate) fn note(on: &Installation, account: &mut Account) -> Outcome<()> {
    let found = on.service.others()?;
    // Behind a fence they are down because of the run that raised it.
    let mut stay_down = found.down.on_request.clone();
    if on.is_fenced() {
        let left = on.service.left_down()?;
        stay_down = others::noted_down(&on.layout).on_request;
        stay_down.retain(|unit| left.contains(unit));
    } else {
        others::note_down(&on.layout, &found.down)?;
    }
    for unit in stay_down {
        account
            .warn(format!("{unit} was stopped on request and stays down: systemctl start {}", quoted(&unit)));
    }
    let noted = others::note(&on.layout, &account.report.run, &found.stopped_with_it)?;
    let entry = |unit: &str, tie, state| OtherUnit { unit: unit.to_owned(), tie, state };
    account.report.service.others =
        noted.iter().map(|unit| entry(unit, Tie::StoppedWithIt, OtherState::Down)).collect();
    let also = on.settings.service.also.iter().filter(|_| on.service.has_units());
    account.report.service.others.extend(also.map(|unit| entry(unit.as_str(), Tie::Also, OtherState::Down)));
    let untied = found.untied.iter().map(|it| entry(&it.unit, Tie::None, OtherState::RunsOldVersion));
    account.report.service.others.extend(untied);
    account.untied = found.untied;
    account.triggers = found.triggers;
    Ok(())
}

/// After the service has passed its health check, starts the units again that were stopped with it, and warns of units
/// that run the old version.
pub(crate) fn settle(on: &Installation, account: &mut Account) {
    let mut left = Vec::new();
    let left_down = on.service.left_down().unwrap_or_default();
    let also = |other: &&mut OtherUnit| other.tie == Tie::Also && !left_down.contains(&other.unit);
    for other in account.report.service.others.iter_mut().filter(also) {
        other.state = OtherState::Started;
    }
    let noted: Vec<String> = account
        .report
        .service
        .others
        .iter()
        .filter(|it| it.tie == Tie::StoppedWithIt)
        .map(|it| it.unit.clone())
        .collect();
    for unit in noted {
        account.progress(&format!("starting {unit} again"));
        match on.service.start_again(&unit) {
            Ok(()) => set(account, &unit, OtherState::Started),
            Err(failure) => {
                account.warn(not_started(&unit, &failure.chain()));
                left.push(unit);
            }
        }
    }
    if let Err(failure) = others::keep(&on.layout, left) {
        account.warn(failure.chain().join(": "));
    }
    warn_of_others(on, account);
}

/// Starts the units again that an earlier run has stopped with the service; returns warnings for a person.
pub fn start_noted(on: &Installation) -> Vec<String> {
    let noted = match others::noted(&on.layout) {
        Ok(noted) => noted,
        Err(failure) => return vec![failure.chain().join(": ")],
    };
    let (mut left, mut warnings) = (Vec::new(), Vec::new());
    for unit in noted {
        if let Err(failure) = on.service.start_again(&unit) {
            warnings.push(not_started(&unit, &failure.chain()));
            left.push(unit);
        }
    }
    if let Err(failure) = others::keep(&on.layout, left) {
        warnings.push(failure.chain().join(": "));
    }
    warnings
}

fn not_started(unit: &str, chain: &[String]) -> String {
    format!(
        "{unit} was stopped together with the service and cannot be started again: {} (systemctl status {})",
        chain.join(": "),
        quoted(unit)
    )
}

fn warn_of_others(on: &Installation, account: &mut Account) {
    if account.untied.is_empty() && account.triggers.is_empty() {
        return;
    }
    let Others { untied: now, triggers, .. } = match on.service.others() {
        Ok(found) => found,
        Err(failure) => {
            let units: Vec<&str> = account.untied.iter().map(|it| it.unit.as_str()).collect();
            let what = format!("cannot check which units still run the old version ({})", units.join(", "));
            account.warn(format!("{what}: {}", failure.chain().join(": ")));
            return;
        }
    };
    for before in std::mem::take(&mut account.triggers) {
        let is_same = |now: &&Trigger| now.unit == before.unit && now.starts == before.starts;
        if triggers.iter().find(is_same).is_some_and(|now| now.invocation != before.invocation) {
            account.warn(format!(
                "{} has started {} during this refresh, while its files changed ({}): check its result; to prevent that, {}",
                before.unit,
                before.starts,
                before.evidence,
                before.repair(&on.settings.service.unit, &on.layout)
            ));
        }
    }
    // If a hook or a person has restarted it meanwhile, it runs the new version.
    let runs_on = |it: &Untied| now.iter().any(|now| now.unit == it.unit && now.invocation == it.invocation);
    for it in std::mem::take(&mut account.untied) {
        if !runs_on(&it) {
            set(account, &it.unit, OtherState::Started);
            continue;
        }
        if is_launcher(&it.unit) || is_session(&it.unit) {
            account.warn(format!(
                "a program that {} has started still runs the old version ({}): it does until it ends",
                it.unit, it.evidence
            ));
            continue;
        }
        account.warn(format!(
            "{} still runs the old version ({}): systemctl restart {}; or name it in `also` under [service] in {}",
            it.unit,
            it.evidence,
            quoted(&it.unit),
            on.layout.host_file().display()
        ));
    }
}

fn set(account: &mut Account, unit: &str, state: OtherState) {
    for other in account.report.service.others.iter_mut().filter(|other| other.unit == unit) {
        other.state = state;
    }
}
