//! The conditions for the stop of a unit; without them its start would be refused (RW-7). The unit and all units that
//! it requires can be loaded, and it can be started and stopped by name.
//!
//! Reads units over the bus and changes nothing.

use std::collections::{BTreeSet, VecDeque};

use crate::page;
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, LoadState, UnitFacts};
use refresh_settings::names::UnitName;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;

/// The largest number of units that are read; a machine has some hundreds.
const LIMIT: usize = 1000;

/// Checks that systemd does not refuse to stop or to start a unit by name.
///
/// # Errors
/// It refuses one of the two.
pub(super) fn check_manual(unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    for (refuses, key, verb) in [
        (facts.refuses_stop, "RefuseManualStop", "stops"),
        (facts.refuses_start, "RefuseManualStart", "starts"),
    ] {
        if refuses {
            return Err(Failure::new(format!("{unit} has {key}=yes, so systemd never {verb} it by name"))
                .command_for(&format!("remove {key}= with"), "systemctl edit --full", &[&unit]));
        }
    }
    Ok(())
}

/// Checks that neither a stop of a unit nor a start that fails affects the machine.
///
/// # Errors
/// For instance, systemd reboots or powers off after the stop or after a failed start.
pub(super) fn check_action(unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    for (key, action, event) in [
        ("SuccessAction", &facts.success_action, "a stop of it"),
        ("FailureAction", &facts.failure_action, "a version that does not start"),
        ("StartLimitAction", &facts.start_limit_action, "a version that does not start"),
    ] {
        if !matches!(action.as_str(), "" | "none") {
            let what = format!("{unit} has {key}={action}, so {event} has that effect on the machine");
            let purpose = format!("remove {key}= with");
            return Err(Failure::new(what).command_for(&purpose, "systemctl edit --full", &[&unit]));
        }
    }
    Ok(())
}

/// Checks that a start of `unit` would not wait for another unit: the service would be down during the wait. The run
/// itself stops the page of a fenced service.
///
/// # Errors
/// A unit that it is ordered after is still starting or stopping; or systemd cannot be queried.
pub(super) fn check_order(bus: &Bus, unit: &UnitName) -> Outcome<()> {
    let awaited = bus.awaited(unit.as_str())?.into_iter().find(|other| other != page::UNIT);
    let Some(other) = awaited else { return Ok(()) };
    Err(Failure::new(format!(
        "{unit} starts only after {other}, which systemd is still starting: once stopped, {unit} would stay down until then"
    ))
    .command_for("wait until it is not listed any more", "systemctl list-jobs", &[])
    .command_for("or, if it never ends", "systemctl stop", &[&other]))
}

/// Checks that every unit that `unit` requires can be loaded, and every unit that those require. If `unit` is active, none
/// that systemd would have to start for it may have failed.
///
/// # Errors
/// One is missing, masked or unusable, has failed, or must be active already and is not; or systemd cannot be queried.
pub fn check_needs(bus: &Bus, unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    check_needs_of(unit.as_str(), facts, |name| bus.unit(name))
}

fn check_needs_of(unit: &str, facts: &UnitFacts, read: impl Fn(&str) -> Outcome<UnitFacts>) -> Outcome<()> {
    let mut seen = BTreeSet::from([unit.to_owned()]);
    // A service that is down has nothing to lose by a start that fails.
    let is_up = facts.active == ActiveState::Active;
    let mut waiting = VecDeque::from([(unit.to_owned(), facts.clone(), is_up)]);
    while let Some((parent, facts, is_started)) = waiting.pop_front() {
        for name in &facts.needs {
            if seen.len() >= LIMIT || !seen.insert(name.clone()) {
                continue;
            }
            let needed = read(name)?;
            if let Some(failure) = not_loadable(&parent, name, &needed) {
                return Err(failure);
            }
            if facts.requisites.contains(name) && needed.active != ActiveState::Active {
                return Err(Failure::new(format!(
                    "{parent} has Requisite={name}, which must be active already, and it is not"
                ))
                .command("systemctl start", &[&name]));
            }
            // The start of a service opens its own sockets again.
            let is_own_socket = facts.triggered_by.contains(name);
            if is_started
                && !is_own_socket
                && let Some(failure) = not_startable(&parent, name, &needed)
            {
                return Err(failure);
            }
            // An active unit needs no start.
            let is_started = is_started && needed.is_down();
            waiting.push_back((name.clone(), needed, is_started));
        }
    }
    Ok(())
}

/// Returns why the start of a unit that `parent` requires would fail, or can: a device that is not present cannot be
/// started, and a unit that has failed may fail again.
fn not_startable(parent: &str, name: &str, needed: &UnitFacts) -> Option<Failure> {
    let (what, verb) = match needed.active {
        ActiveState::Failed => ("has failed", "systemctl start"),
        ActiveState::Inactive if name.ends_with(".device") => ("is not present", "systemctl status"),
        _ => return None,
    };
    let failure = Failure::new(format!(
        "{parent} requires {name}, which {what}: once stopped, {parent} may not start again"
    ));
    Some(failure.command(verb, &[&name]))
}

fn not_loadable(parent: &str, name: &str, needed: &UnitFacts) -> Option<Failure> {
    let edit = || {
        let edit = Hint::command("systemctl edit --full", &[&parent]);
        edit.with_purpose("install it, or use Wants= instead of Requires= with")
    };
    let (what, hint) = match needed.load {
        LoadState::Loaded => return None,
        LoadState::NotFound => ("that unit does not exist".to_owned(), edit()),
        LoadState::Masked => ("that unit is masked".to_owned(), Hint::command("systemctl unmask", &[&name])),
        LoadState::Bad => {
            let why = needed.load_error.as_deref().unwrap_or("its file cannot be used");
            let hint = Hint::command("systemd-analyze verify", &[&name]);
            (format!("systemd cannot load that unit: {why}"), hint)
        }
    };
    Some(
        Failure::new(format!(
            "{parent} requires {name}, and {what}: once stopped, {parent} would not start again"
        ))
        .hint(hint),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(names: &[&str]) -> UnitFacts {
        let needs = names.iter().map(|name| (*name).to_owned()).collect();
        UnitFacts { load: LoadState::Loaded, active: ActiveState::Active, needs, ..UnitFacts::default() }
    }

    fn refusal(first: &[&str], read: impl Fn(&str) -> UnitFacts) -> String {
        let checked = check_needs_of("api.service", &needs(first), |name| Ok(read(name)));
        checked
            .err()
            .map(|failure| format!("{failure} [{}]", failure.hint_texts().join("; ")))
            .unwrap_or_default()
    }

    #[test]
    fn rw_7_1b_a_required_unit_that_cannot_be_loaded_is_refused_however_far_away_it_is() {
        let world = |state: LoadState| {
            move |name: &str| match name {
                "llm.service" => needs(&["gpu.service"]),
                "gpu.service" => UnitFacts { load: state, ..needs(&[]) },
                _ => needs(&[]),
            }
        };
        let first = ["llm.service", "sysinit.target"];
        assert_eq!(refusal(&first, world(LoadState::Loaded)), "");
        let missing = refusal(&first, world(LoadState::NotFound));
        assert!(
            missing.starts_with("llm.service requires gpu.service, and that unit does not exist"),
            "{missing}"
        );
        assert!(refusal(&first, world(LoadState::Masked)).contains("[systemctl unmask gpu.service]"));
        assert!(refusal(&first, world(LoadState::Bad)).contains("[systemd-analyze verify gpu.service]"));
    }

    #[test]
    fn units_that_require_each_other_are_read_once() {
        let reads = std::cell::Cell::new(0);
        let found = refusal(&["b.service"], |name| {
            reads.set(reads.get() + 1);
            if name == "b.service" { needs(&["api.service", "c.service"]) } else { needs(&["b.service"]) }
        });
        assert_eq!((found.as_str(), reads.get()), ("", 2));
    }

    #[test]
    fn rw_7_1b_a_unit_that_has_to_be_active_already_and_is_not_is_refused() {
        let facts = UnitFacts { requisites: vec!["db.service".to_owned()], ..needs(&["db.service"]) };
        let down = UnitFacts { active: ActiveState::Inactive, ..needs(&[]) };
        let failure = check_needs_of("api.service", &facts, |_| Ok(down.clone())).unwrap_err();
        assert_eq!(failure.hint_texts(), ["systemctl start db.service"]);
        check_needs_of("api.service", &facts, |_| Ok(needs(&[]))).unwrap();
    }

    #[test]
    fn rw_7_1b_a_required_unit_that_has_failed_or_a_device_that_is_gone_is_refused_while_the_service_runs() {
        let state = |active: ActiveState, units: &[&str]| UnitFacts { active, ..needs(units) };
        let (failed, down) = (ActiveState::Failed, ActiveState::Inactive);
        let db = |active: ActiveState| refusal(&["db.service"], |_| state(active, &[]));
        assert_eq!((db(ActiveState::Active), db(down)), (String::new(), String::new()));
        let found = db(failed);
        assert!(found.starts_with("api.service requires db.service, which has failed"), "{found}");
        assert!(found.ends_with("[systemctl start db.service]"), "{found}");
        let disk = |mount: ActiveState| {
            refusal(&["x.mount"], |name| match name {
                "x.mount" => state(mount, &["dev-x.device"]),
                _ => state(down, &[]),
            })
        };
        assert!(
            disk(down).starts_with("x.mount requires dev-x.device, which is not present"),
            "{}",
            disk(down)
        );
        assert_eq!(disk(ActiveState::Active), "", "it stays active");
        let facts = UnitFacts { active: down, ..needs(&["db.service"]) };
        check_needs_of("api.service", &facts, |_| Ok(state(failed, &[]))).unwrap();
    }

    #[test]
    fn rw_7_1b_a_unit_that_refuses_to_be_started_by_name_is_refused() {
        let unit = UnitName::usual();
        check_manual(&unit, &needs(&[])).unwrap();
        let facts = UnitFacts { refuses_start: true, ..needs(&[]) };
        assert!(check_manual(&unit, &facts).unwrap_err().summary().contains("RefuseManualStart=yes"));
        let facts = UnitFacts { refuses_stop: true, ..needs(&[]) };
        assert!(check_manual(&unit, &facts).unwrap_err().summary().contains("RefuseManualStop=yes"));
    }
}
