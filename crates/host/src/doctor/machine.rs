//! The machine: space on its disks, its clock, and the process on the service's port.

use jiff::Timestamp;

use refresh_events::run_report::Report;
use refresh_installation::installation::Installation;
use refresh_installation::{history, status_file};
use refresh_programs::systemd::Bus;
use refresh_run::plan::space::Makes;
use refresh_run::plan::{confinement, preflight, space};
use refresh_system::clock;

use super::{DoctorFinding, Examined, Findings, refused};

/// This program did not exist before this time, so a clock with an earlier time is wrong.
const EARLIEST: i64 = 1_735_689_600;
/// A clock with a later time is wrong as well.
const LATEST: i64 = 4_102_444_800;

/// Checks that there is enough space for a refresh.
pub(super) fn space(_: &Examined, on: &Installation) -> Findings {
    refused(
        space::check(on, Makes::New),
        "a refresh fetches and builds before it stops the service, and is refused without room for that",
    )
}

/// Checks that the time of the clock is plausible.
pub(super) fn clock(examined: &Examined) -> Findings {
    let status = status_file::read(&examined.layout);
    let last = status.last_run.map(|run| run.finished_at).max(status.deployed.map(|pair| pair.refreshed_at));
    let now = clock::now();
    let is_future = |report: &Report| report.finished_at > now;
    let future = history::all(&examined.layout)?.into_iter().filter_map(|past| past.report).find(is_future);
    let of_the_past = || {
        let report = future?;
        Some(DoctorFinding::note(
            format!(
                "run {} ended at {}, which is in the future",
                report.run,
                clock::in_words(report.finished_at)
            ),
            "the clock was wrong then; runs are ordered by their number, not by the clock",
            "ladylinux-refresh history",
        ))
    };
    Ok(wrong(now, last)
        .map(|what| {
            DoctorFinding::problem(
                what,
                "with a wrong clock certificates are refused, and the times of runs are wrong; to set it, a machine needs a \
                 service for it, such as systemd-timesyncd",
                "timedatectl set-ntp true",
            )
        })
        .or_else(of_the_past)
        .into_iter()
        .collect())
}

/// Returns the problem of the time; `last` is the end of the last run.
fn wrong(now: Timestamp, last: Option<Timestamp>) -> Option<String> {
    if !(EARLIEST..LATEST).contains(&now.as_second()) {
        return Some(format!("the clock is at {}", clock::in_words(now)));
    }
    let last = last.filter(|last| *last > now)?;
    Some(format!(
        "the clock is at {}, before the end of the last run at {}",
        clock::in_words(now),
        clock::in_words(last)
    ))
}

/// Checks that the clock is synchronized.
pub(super) fn clock_source(examined: &Examined) -> Findings {
    if !examined.is_kept_by_systemd() || Bus::connect()?.clock_is_synchronized()? {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::note(
        "the clock is not synchronized with another one",
        "it drifts, and after a restored snapshot it has the time of the snapshot; synchronizing it needs a service, such as \
         systemd-timesyncd",
        "timedatectl set-ntp true",
    )])
}

/// Checks that units are confined as far as the host's settings require.
pub(super) fn confinement(_: &Examined, on: &Installation) -> Findings {
    refused(confinement::check(on), "every refresh is refused until it is, or until the settings accept it")
}

/// Checks that no other process has the port of the service.
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
    fn a_clock_that_went_back_or_is_implausible_is_wrong() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let now = at(1_800_000_000);
        assert_eq!(wrong(now, None), None);
        assert_eq!(wrong(now, Some(at(1_799_999_999))), None);
        assert!(wrong(now, Some(at(1_800_000_100))).unwrap().contains("before the end of the last run"));
        assert!(wrong(at(0), None).unwrap().contains("1970"));
        assert!(wrong(at(LATEST), None).is_some());
    }
}
