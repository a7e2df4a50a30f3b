//! Where the application runs although the unit of the service does not exist: under another name, or in the systemd of
//! a user. Reads processes and unit files; changes nothing.

use std::fs;
use std::path::PathBuf;

use super::Systemd;
use super::others::{evidence, is_within, places};
use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::all_pids;
use refresh_programs::systemd::file::UnitFile;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::error::Failure;
use refresh_system::text::quoted_path;

/// A unit that runs the application in place of the one in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The unit and how it shows, for people.
    pub what: String,
    /// What to do, before `ladylinux-refresh init`.
    pub repair: String,
}

impl Systemd {
    /// Returns the failure of a unit that does not exist: with the unit that runs the application instead, if there is one.
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
        if let Some(unit) = process.unit().and_then(|unit| another(&unit)) {
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

/// Finds a unit file of people whose program is the application's.
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
        let runs_it = |key: &str, value: &str| {
            key == "ExecStart" && value.split(' ').any(|word| is_within(places, word))
        };
        let found = file.assignments.iter().any(|it| runs_it(&it.key, &it.value));
        found.then_some((unit, path))
    })
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
}
