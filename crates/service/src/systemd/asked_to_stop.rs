//! Finds out if the service is down because systemd was asked to stop it. Reads from systemd and the journal; changes nothing.

use jiff::Timestamp;

use super::{Systemd, journald};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, LoadState, UnitFacts};
use refresh_system::error::Outcome;

impl Systemd {
    /// Returns since when the unit is down because systemd was asked to stop it. The journal records each such request; if the
    /// journal is not readable, or no longer contains the request, the result is `None`.
    pub(super) fn find_asked_to_stop(&self) -> Outcome<Option<Timestamp>> {
        let bus = Bus::connect()?;
        let facts = self.facts(&bus)?;
        let (Some(since), Some(invocation)) = (down_since(&facts), self.invocation(&facts)) else {
            return Ok(None);
        };
        for name in &facts.stopped_by {
            if took_down(&bus.unit(name)?, since) {
                return Ok(None);
            }
        }
        Ok(journald::was_stopped(&self.runner, &invocation).unwrap_or(false).then_some(since))
    }
}

/// Returns since when the unit is down, if its last start has succeeded and nothing is about to start it.
fn down_since(facts: &UnitFacts) -> Option<Timestamp> {
    let is_down = matches!(facts.active, ActiveState::Inactive | ActiveState::Failed);
    // A start whose conditions did not hold leaves the invocation before it.
    let is_last = facts.conditions_held && facts.assertions_held && facts.job.is_none();
    let is_certain = is_down && is_last && facts.load == LoadState::Loaded;
    facts.inactive_since.filter(|_| is_certain)
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
            conditions_held: true,
            assertions_held: true,
            ..UnitFacts::default()
        }
    }

    #[test]
    fn a_unit_that_runs_was_never_active_or_met_no_condition_is_not_certainly_stopped() {
        assert_eq!(down_since(&stopped()), Some(at(100)));
        assert_eq!(down_since(&UnitFacts { active: ActiveState::Failed, ..stopped() }), Some(at(100)));
        for other in [
            UnitFacts { active: ActiveState::Active, ..stopped() },
            UnitFacts { active: ActiveState::Activating, ..stopped() },
            UnitFacts { inactive_since: None, ..stopped() },
            UnitFacts { conditions_held: false, ..stopped() },
            UnitFacts { assertions_held: false, ..stopped() },
            UnitFacts { load: LoadState::Masked, ..stopped() },
            UnitFacts { job: Some(7), ..stopped() },
        ] {
            assert_eq!(down_since(&other), None, "{other:?}");
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
