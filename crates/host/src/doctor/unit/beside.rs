//! The other units of the application: those that stop with the service have the fence, and none continues with an old
//! version unnoticed.

use crate::doctor::{DoctorFinding, Examined, Findings, refused};
use refresh_installation::installation::Installation;
use refresh_programs::process::identity::{is_launcher, is_session};
use refresh_run::plan::{preflight, reach};
use refresh_service::systemd::Systemd;

/// Checks that every unit that runs the application is tied to the service, or is known not to be.
pub(in crate::doctor) fn untied(examined: &Examined, on: &Installation) -> Findings {
    if !examined.is_kept_by_systemd() {
        return Ok(Vec::new());
    }
    let file = on.layout.host_file();
    let others = on.service.others()?;
    let triggers = others.triggers.iter().map(|it| {
        DoctorFinding::note(
            format!("{} starts {}, which runs the application ({})", it.unit, it.starts, it.evidence),
            "it does so also during a refresh, while the files of the application change",
            it.repair(&on.settings.service.unit, &on.layout),
        )
    });
    let found = others.untied.iter().map(|it| {
        if is_launcher(&it.unit) || is_session(&it.unit) {
            return DoctorFinding::note(
                format!("{} has started a program of the application ({})", it.unit, it.evidence),
                "after a refresh it still runs the old version, until it ends",
                "refresh when it has ended, or start it from a separate unit",
            );
        }
        DoctorFinding::note(
            format!(
                "{} runs the application ({}), and a refresh neither stops nor starts it",
                it.unit, it.evidence
            ),
            "after a refresh it still runs the old version, until you restart it",
            format!(
                "add {:?} to `also` under [service] in {}, then: ladylinux-refresh init",
                it.unit,
                file.display()
            ),
        )
    });
    Ok(found.chain(triggers).collect())
}

/// Checks that the units of `service.also` can be stopped, started and fenced like the service.
pub(in crate::doctor) fn also(examined: &Examined, on: &Installation) -> Findings {
    let service = &examined.settings.service;
    if !examined.is_kept_by_systemd() || service.also.is_empty() {
        return Ok(Vec::new());
    }
    let systemd = Systemd::new(examined.layout.clone(), service.unit.clone(), on.runner.clone());
    refused(
        systemd.with(service.also.clone()).check_also(),
        "a run is refused until then: it would be stopped with the service, and not be started again or not be fenced",
    )
}

/// Checks that the running service listens at the address of the probe.
pub(in crate::doctor) fn reached(examined: &Examined, on: &Installation) -> Findings {
    let service = examined.service()?;
    if !refused(preflight::probe(on, &service), "")?.is_empty() {
        // The check of the port reports it.
        return Ok(Vec::new());
    }
    let why = "a run is refused if the health check cannot reach the service: it would stop the new version for that";
    match reach::check(on, &service) {
        Ok(warnings) => Ok(warnings
            .into_iter()
            .map(|what| {
                DoctorFinding::note(what, "the refresh may be the repair", "ladylinux-refresh service logs")
            })
            .collect()),
        Err(failure) => refused(Err(failure), why),
    }
}
