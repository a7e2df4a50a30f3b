//! The machine: room on its disks, its clock, and who sits on the service's port.
#![expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]

use jiff::Timestamp;

use crate::clock;
use crate::installation::Installation;
use crate::plan::{confinement, preflight, space};
use crate::status_file;
use crate::systemd::Bus;

use super::{Examined, Findings, Found, refused};

/// Before this time there was no such program, so a clock that says otherwise is wrong.
const EARLIEST: i64 = 1_735_689_600;
/// A clock beyond this is wrong as well.
const LATEST: i64 = 4_102_444_800;

/// There is room for a refresh.
pub(super) fn space(_: &Examined, on: &Installation) -> Findings {
    refused(
        space::check(on),
        "a refresh fetches and builds before it stops the service, and is refused without room for that",
    )
}

/// The clock says a time that can be.
pub(super) fn clock(examined: &Examined) -> Findings {
    let status = status_file::read(&examined.layout);
    let last = status.last_run.map(|run| run.finished_at).max(status.deployed.map(|pair| pair.refreshed_at));
    Ok(wrong(clock::now(), last)
        .map(|what| {
            Found::problem(
                what,
                "certificates are refused by a wrong clock, and runs are told in the wrong order",
                "timedatectl set-ntp true",
            )
        })
        .into_iter()
        .collect())
}

/// Returns what is wrong with the time, given when the last run ended.
fn wrong(now: Timestamp, last: Option<Timestamp>) -> Option<String> {
    if !(EARLIEST..LATEST).contains(&now.as_second()) {
        return Some(format!("the clock says {}", clock::in_words(now)));
    }
    let last = last.filter(|last| *last > now)?;
    Some(format!(
        "the clock says {}, which is before the end of the last run at {}",
        clock::in_words(now),
        clock::in_words(last)
    ))
}

/// Somebody keeps the clock right.
pub(super) fn clock_source(examined: &Examined) -> Findings {
    if !examined.is_kept_by_systemd() || Bus::connect()?.clock_is_synchronized()? {
        return Ok(Vec::new());
    }
    Ok(vec![Found::note(
        "the clock is not synchronized with another one",
        "it drifts, and after a snapshot was restored it says the snapshot's time",
        "timedatectl set-ntp true",
    )])
}

/// Units are confined as far as the host's settings require.
pub(super) fn confinement(_: &Examined, on: &Installation) -> Findings {
    refused(confinement::check(on), "every refresh is refused until it is, or until the settings accept it")
}

/// Nobody but the service sits on its port.
pub(super) fn port(examined: &Examined, on: &Installation) -> Findings {
    refused(
        preflight::probe(on, &examined.service()?),
        "the service cannot listen there, so it does not start, or is not the one that answers",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_back_or_is_out_of_the_world_is_wrong() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let now = at(1_800_000_000);
        assert_eq!(wrong(now, None), None);
        assert_eq!(wrong(now, Some(at(1_799_999_999))), None);
        assert!(wrong(now, Some(at(1_800_000_100))).unwrap().contains("before the end of the last run"));
        assert!(wrong(at(0), None).unwrap().contains("1970"));
        assert!(wrong(at(LATEST), None).is_some());
    }
}
