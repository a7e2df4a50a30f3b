//! The other units of the application: those that stop with the service have the fence, and none continues with an old
//! version unnoticed.

use std::path::{Path, PathBuf};

use crate::doctor::{DoctorFinding, Examined, Findings, refused};
use refresh_installation::installation::Installation;
use refresh_programs::process::identity::{is_launcher, is_session};
use refresh_run::plan::{preflight, reach};
use refresh_service::systemd::Systemd;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::text::{harmless_line, quoted_path};

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
    Ok(found.chain(triggers).chain(cron_jobs(&on.layout)).collect())
}

/// The largest number of bytes of a file of cron that is read.
const CRON_FILE: u64 = 64 << 10;

/// Finds the jobs of cron in files of root that name a path of the application. The crontab of another user is not read: that
/// user controls it, and a running job of it is found by its processes.
fn cron_jobs(layout: &Layout) -> Vec<DoctorFinding> {
    let root = layout.root();
    let entries = std::fs::read_dir(root.join("etc/cron.d")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files.extend([root.join("etc/crontab"), root.join("var/spool/cron/crontabs/root")]);
    let places = layout.of_application();
    let fence = quoted_path(&layout.fence());
    let job = |file: PathBuf| {
        let text = disk::read_if_roots(&file, CRON_FILE).ok()??;
        let named = named_path(&String::from_utf8_lossy(&text), &places, &fence)?;
        Some(DoctorFinding::note(
            format!("{} starts a program of the application ({named})", file.display()),
            "cron does so also during a refresh, while the files of the application change",
            format!("begin its command with: test -e {fence} && exit 0;"),
        ))
    };
    files.into_iter().filter_map(job).collect()
}

/// Returns the first path in `places` that a line names which is no comment and does not test for the fence.
fn named_path(text: &str, places: &[PathBuf], fence: &str) -> Option<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.contains(fence));
    let words = lines.flat_map(|line| line.split(|c: char| c.is_whitespace() || "\"';&|()<>=".contains(c)));
    let mut words = words.map(harmless_line);
    words.find(|word| places.iter().any(|place| Path::new(word).starts_with(place)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_of_cron_is_found_by_its_paths_unless_it_tests_for_the_fence() {
        let places = ["/opt/ladylinux/app", "/opt/ladylinux/venv"].map(PathBuf::from);
        for (line, found) in [
            ("* * * * * u /opt/ladylinux/venv/bin/python x", Some("/opt/ladylinux/venv/bin/python")),
            ("@daily u cd /opt/ladylinux/app && ./backup", Some("/opt/ladylinux/app")),
            ("@daily u sh -c 'cd /opt/ladylinux/app;./backup'", Some("/opt/ladylinux/app")),
            ("# * * * * * u /opt/ladylinux/venv/bin/python x", None),
            ("* * * * * u test -e /var/lib/x/fence && exit 0; /opt/ladylinux/venv/bin/python x", None),
            (
                "* * * * * u /opt/ladylinux/venv/bin/python /srv/fence.py",
                Some("/opt/ladylinux/venv/bin/python"),
            ),
            ("* * * * * u /opt/ladylinux/application", None),
        ] {
            assert_eq!(named_path(line, &places, "/var/lib/x/fence").as_deref(), found, "{line}");
        }
    }
}
