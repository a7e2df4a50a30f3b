//! Finds the application if it runs although the unit of the service does not exist: under another name, or in the
//! systemd instance of a user. Reads processes and unit files; changes nothing.

use std::fs;
use std::path::PathBuf;

use super::Systemd;
use super::others::{evidence, is_within, places};
use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::{all_pids, is_launcher};
use refresh_programs::systemd::file::UnitFile;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::error::Failure;
use refresh_system::text::quoted_path;

/// A unit that runs the application in place of the one in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The unit and the evidence, for people.
    pub what: String,
    /// The instruction, to follow before `ladylinux-refresh init`.
    pub repair: String,
}

impl Systemd {
    /// Returns the failure of a missing unit, with the unit that runs the application instead, if there is one.
    pub(super) fn missing(&self, why: String) -> Failure {
        let failure = Failure::new(why);
        let failure = match find(&self.layout, &self.unit, &self.also) {
            Some(found) => failure.because(Failure::new(found.what)).hint(found.repair),
            None => failure,
        };
        failure.command("ladylinux-refresh init", &[])
    }
}

/// Returns the unit that runs the application in place of `unit`, which does not exist; `None` if none is found.
pub fn find(layout: &Layout, unit: &UnitName, also: &[UnitName]) -> Option<Elsewhere> {
    let places = places(layout);
    let another = |name: &str| {
        let is_known = name == unit.as_str()
            || name.starts_with("ladylinux-refresh")
            || also.iter().any(|also| also.as_str() == name);
        UnitName::parse(name).ok().filter(|_| !is_known)
    };
    let renamed = |unit: &UnitName, evidence: &str| Elsewhere {
        what: format!("{unit} runs the application: {evidence}"),
        repair: format!("set `unit = \"{unit}\"` under [service] in {}", quoted_path(&layout.host_file())),
    };
    let processes = all_pids().into_iter().filter_map(ProcessId::of);
    let mut of_user = None;
    for (process, evidence) in processes.filter_map(|process| Some((process, evidence(process, &places)?))) {
        if let Some(unit) = process.unit().filter(|unit| !is_launcher(unit)).and_then(|unit| another(&unit)) {
            return Some(renamed(&unit, &evidence));
        }
        of_user = of_user.or_else(|| Some((process.unit_of_user()?, evidence)));
    }
    if let Some(((uid, unit), evidence)) = of_user {
        return Some(Elsewhere {
            what: format!(
                "{unit} of uid {uid} runs the application in the systemd of that user, which a refresh does not handle: {evidence}"
            ),
            repair: format!("as the user with uid {uid}: systemctl --user disable --now {unit}"),
        });
    }
    let (unit, file) = with_file(layout, &places, another)?;
    Some(renamed(&unit, &format!("{} names it", file.display())))
}

/// Finds a unit file of an administrator whose program belongs to the application.
fn with_file(
    layout: &Layout,
    places: &[PathBuf],
    another: impl Fn(&str) -> Option<UnitName>,
) -> Option<(UnitName, PathBuf)> {
    let entries = fs::read_dir(layout.host_units()).ok()?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().find_map(|path| {
        let unit = another(path.file_name()?.to_str()?)?;
        let file = UnitFile::read([&path]).ok()?;
        // For instance the job of a timer, which is not a service.
        let is_oneshot = file.value("Service", "Type") == Some("oneshot");
        (!is_oneshot && runs_application(&file, places)).then_some((unit, path))
    })
}

/// Returns whether a unit file starts something in `places`, or works there.
fn runs_application(file: &UnitFile, places: &[PathBuf]) -> bool {
    // systemd treats these characters before a path as marks; a shell removes quotes.
    let plain = |word: &str| {
        is_within(
            places,
            word.trim_start_matches(['-', '@', ':', '+', '!', '|', '\'', '"'])
                .trim_end_matches(['\'', '"', ';']),
        )
    };
    let commands = file.list("Service", "ExecStart");
    let works_there = file.value("Service", "WorkingDirectory").is_some_and(plain);
    !commands.is_empty() && works_there
        || commands.iter().any(|command| command.split_whitespace().any(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::disk;

    #[test]
    fn a_unit_file_of_another_name_that_runs_the_application_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.host_units(), 0o755).unwrap();
        let write = |name: &str, program: &str| {
            let text = format!("[Service]\nExecStart={program} server.py\n");
            disk::replace_file(&layout.host_units().join(name), text.as_bytes(), 0o644).unwrap();
        };
        let find = || find(&layout, &UnitName::usual(), &[UnitName::parse("worker.service").unwrap()]);
        let program = layout.venv().join("bin/python");
        write("nginx.service", "/usr/sbin/nginx");
        write("worker.service", program.to_str().unwrap());
        write("ladylinux-refresh.service", program.to_str().unwrap());
        assert_eq!(find(), None);
        write("lady.service", program.to_str().unwrap());
        let found = find().unwrap();
        assert!(found.what.starts_with("lady.service runs the application: "), "{found:?}");
        assert!(found.repair.starts_with("set `unit = \"lady.service\"` under [service] in "), "{found:?}");
    }

    #[test]
    fn a_unit_file_runs_the_application_by_its_command_or_its_directory_and_a_job_of_a_timer_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.host_units(), 0o755).unwrap();
        let (app, venv) = (layout.app().display().to_string(), layout.venv().display().to_string());
        for (lines, is_one) in [
            (format!("WorkingDirectory=-{app}\nExecStart=/usr/bin/python3 server.py"), true),
            (format!("ExecStart=-{venv}/bin/uvicorn x:app"), true),
            (format!("ExecStart=/bin/sh -c 'cd \"{app}\"; exec python3 server.py'"), true),
            (format!("ExecStart=/usr/bin/env {venv}/bin/gunicorn x:app"), true),
            (format!("WorkingDirectory={app}"), false),
            (format!("Type=oneshot\nExecStart={venv}/bin/python backup.py"), false),
            (format!("ExecStart=/usr/bin/tail {app}lication/log"), false),
        ] {
            let path = layout.host_units().join("lady.service");
            disk::replace_file(&path, format!("[Service]\n{lines}\n").as_bytes(), 0o644).unwrap();
            let found = with_file(&layout, &places(&layout), |name| UnitName::parse(name).ok());
            assert_eq!(found.is_some(), is_one, "{lines}");
        }
    }
}
