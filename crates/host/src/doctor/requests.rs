//! The units that answer the requests of the application.

use crate::requests::{PATH_UNIT, UNIT};
use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};

use super::{DoctorFinding, Examined, Findings};

/// Checks that the units wait for requests and answer them.
pub(super) fn answered(examined: &Examined) -> Findings {
    if !examined.is_kept_by_systemd() {
        return Ok(Vec::new());
    }
    let bus = Bus::connect()?;
    Ok(found(&bus.unit(PATH_UNIT)?, &bus.unit(UNIT)?).into_iter().collect())
}

fn found(path: &UnitFacts, service: &UnitFacts) -> Option<DoctorFinding> {
    if path.active == ActiveState::Failed {
        return Some(DoctorFinding::problem(
            format!("{PATH_UNIT} has failed ({})", path.result),
            "no request of the application is answered until it is started again",
            format!("systemctl reset-failed {UNIT} {PATH_UNIT} && systemctl start {PATH_UNIT}"),
        ));
    }
    (service.active == ActiveState::Failed).then(|| {
        DoctorFinding::note(
            format!("{UNIT} has failed ({})", service.result),
            "the last request of the application was not answered as it should be",
            format!("journalctl -u {UNIT}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn a_failed_watch_is_a_problem_and_a_failed_answer_is_a_note() {
        let unit =
            |active, result: &str| UnitFacts { active, result: result.to_owned(), ..UnitFacts::default() };
        let (waits, idle) = (unit(ActiveState::Active, "success"), unit(ActiveState::Inactive, "success"));
        assert_eq!(found(&waits, &idle), None);
        let failed = found(&waits, &unit(ActiveState::Failed, "exit-code")).unwrap();
        assert_eq!(failed.severity, Severity::Note);
        let given_up = unit(ActiveState::Failed, "unit-start-limit-hit");
        let failed = found(&given_up, &unit(ActiveState::Failed, "start-limit-hit")).unwrap();
        assert_eq!(failed.severity, Severity::Problem);
        assert!(failed.what.contains("unit-start-limit-hit"), "{failed:?}");
    }
}
