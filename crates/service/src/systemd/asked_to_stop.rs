//! Finds out if the service is down because systemd was asked to stop it. Reads from systemd and the journal; changes nothing.

use jiff::Timestamp;

use super::journald::LastEvent;
use super::{Systemd, journald};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, LoadState, UnitFacts};
use refresh_system::error::Outcome;

impl Systemd {
    /// Returns since when the unit is down because systemd was asked to stop it.
    pub(super) fn find_asked_to_stop(&self) -> Outcome<Option<Timestamp>> {
        Ok(self.find_requested_stop()?.map(|(at, _)| at))
    }

    /// Returns since when the unit is down because systemd was asked to stop it, and the ended invocation. The journal records
    /// each such request. If it is not readable, or has no start and no stop of the unit any more, a good end counts as
    /// requested: a server ends well only then.
    pub(super) fn find_requested_stop(&self) -> Outcome<Option<(Timestamp, String)>> {
        let bus = Bus::connect()?;
        let facts = self.facts(&bus)?;
        if !is_certainly_down(&facts) {
            return Ok(None);
        }
        let last = journald::last_event(&self.runner, self.unit.as_str()).ok().flatten();
        let Some((at, invocation)) = requested_stop(&facts, last.as_ref()) else { return Ok(None) };
        for name in &facts.stopped_by {
            if took_down(&bus.unit(name)?, at) {
                return Ok(None);
            }
        }
        Ok(Some((at, invocation)))
    }
}

/// Returns when the unit was stopped on request, and the ended invocation, by the last event of the journal; without one,
/// by its end.
fn requested_stop(facts: &UnitFacts, last: Option<&LastEvent>) -> Option<(Timestamp, String)> {
    let Some(last) = last else {
        let is_good_end = facts.active == ActiveState::Inactive && facts.result == "success";
        let was_started = !facts.invocation.is_empty() && is_of_last_invocation(facts, &facts.invocation);
        let at = facts.inactive_since.filter(|_| is_good_end && was_started)?;
        return Some((at, facts.invocation.clone()));
    };
    let is_it = last.is_requested_stop && is_of_last_invocation(facts, &last.invocation);
    is_it.then(|| (last.at, last.invocation.clone()))
}

/// Returns whether the unit is down and nothing is about to start it.
fn is_certainly_down(facts: &UnitFacts) -> bool {
    let is_down = matches!(facts.active, ActiveState::Inactive | ActiveState::Failed);
    is_down && facts.job.is_none() && facts.load == LoadState::Loaded
}

/// Returns whether `invocation` is the last one of the unit. systemd unloads a disabled unit with its stop, and then has
/// no invocation of it. A start whose conditions did not hold leaves the invocation before it.
fn is_of_last_invocation(facts: &UnitFacts, invocation: &str) -> bool {
    let is_unloaded = facts.invocation.is_empty() && facts.inactive_since.is_none();
    let is_last = facts.invocation == invocation && facts.conditions_held && facts.assertions_held;
    is_unloaded || is_last
}

/// Returns whether a unit whose stop stops the service may have done so: it is down itself, or was started since.
fn took_down(other: &UnitFacts, since: Timestamp) -> bool {
    other.active != ActiveState::Active || other.active_since.is_some_and(|active| active > since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn stopped() -> UnitFacts {
        UnitFacts {
            load: LoadState::Loaded,
            active: ActiveState::Inactive,
            inactive_since: Some(at(100)),
            invocation: "one".to_owned(),
            conditions_held: true,
            assertions_held: true,
            result: "success".to_owned(),
            ..UnitFacts::default()
        }
    }

    #[test]
    fn without_a_journal_a_good_end_since_the_boot_counts_as_a_stop_on_request() {
        let event =
            |is_requested_stop| LastEvent { is_requested_stop, invocation: "one".to_owned(), at: at(99) };
        assert_eq!(requested_stop(&stopped(), Some(&event(true))), Some((at(99), "one".to_owned())));
        assert_eq!(requested_stop(&stopped(), Some(&event(false))), None, "it ended by itself");
        assert_eq!(requested_stop(&stopped(), None), Some((at(100), "one".to_owned())));
        let unloaded = UnitFacts { invocation: String::new(), inactive_since: None, ..stopped() };
        for other in [
            unloaded,
            UnitFacts { active: ActiveState::Failed, ..stopped() },
            UnitFacts { result: "exit-code".to_owned(), ..stopped() },
            UnitFacts { conditions_held: false, ..stopped() },
        ] {
            assert_eq!(requested_stop(&other, None), None, "{other:?}");
        }
    }

    #[test]
    fn a_unit_that_runs_is_about_to_start_or_is_masked_is_not_certainly_down() {
        assert!(is_certainly_down(&stopped()));
        assert!(is_certainly_down(&UnitFacts { active: ActiveState::Failed, ..stopped() }));
        for other in [
            UnitFacts { active: ActiveState::Active, ..stopped() },
            UnitFacts { active: ActiveState::Activating, ..stopped() },
            UnitFacts { job: Some(7), ..stopped() },
            UnitFacts { load: LoadState::Masked, ..stopped() },
        ] {
            assert!(!is_certainly_down(&other), "{other:?}");
        }
    }

    #[test]
    fn a_stop_before_the_last_start_of_the_unit_is_over() {
        assert!(is_of_last_invocation(&stopped(), "one"));
        let unloaded = UnitFacts {
            invocation: String::new(),
            inactive_since: None,
            conditions_held: false,
            ..stopped()
        };
        assert!(is_of_last_invocation(&unloaded, "one"));
        for other in [
            UnitFacts { invocation: "two".to_owned(), ..stopped() },
            UnitFacts { conditions_held: false, ..stopped() },
            UnitFacts { assertions_held: false, ..stopped() },
        ] {
            assert!(!is_of_last_invocation(&other, "one"), "{other:?}");
        }
    }

    #[test]
    fn a_unit_that_is_down_or_was_started_since_may_have_taken_the_service_with_it() {
        let active = |since: i64| UnitFacts {
            active: ActiveState::Active,
            active_since: Some(at(since)),
            ..UnitFacts::default()
        };
        let since = at(100);
        assert!(!took_down(&active(5), since));
        assert!(took_down(&active(101), since));
        assert!(took_down(&stopped(), since));
    }
}
