//! The paths and groups that the unit of a running service needs for its start. If one was removed meanwhile, the
//! service would not start again, in any version. Reads the file system and the groups; changes nothing.

use std::path::{Path, PathBuf};

use refresh_programs::process::{ChildEnd, Program, Runner};
use refresh_programs::systemd::file::UnitFile;
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::error::{Failure, Outcome};

/// Checks that the needs of the start of a running service still exist. A stopped service is not checked: it has
/// nothing to lose, and some of its paths exist only while it runs (`RuntimeDirectory=`).
///
/// # Errors
/// Something was removed, or something exists that must be missing.
pub(super) fn check(layout: &Layout, runner: &Runner, unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    if facts.active != ActiveState::Active {
        return Ok(());
    }
    let places = layout.of_application();
    // The next version may bring it.
    let may_come = |path: &Path| places.iter().any(|place| path.starts_with(place));
    for needed in &facts.start_needs.paths {
        let is_of_a_run = needed.path == layout.fence() || needed.path == layout.admit();
        if is_of_a_run || may_come(&needed.path) || needed.path.exists() != needed.is_unwanted {
            continue;
        }
        let (key, path) = (&needed.key, needed.path.display());
        let state = if needed.is_unwanted { "exists" } else { "does not exist" };
        return Err(gone(unit, key, &format!("{path} {state}")));
    }
    let file = UnitFile::read(facts.fragment.iter().chain(&facts.drop_ins))?;
    if let Some((key, path)) = files_of_streams(&file).find(|(_, path)| !may_come(path) && !path.exists()) {
        return Err(gone(unit, key, &format!("{} does not exist", path.display())));
    }
    for group in &facts.start_needs.groups {
        if is_missing(runner, group) {
            return Err(gone(unit, "Group", &format!("the group {group} does not exist")));
        }
    }
    Ok(())
}

/// Returns the paths that systemd needs to open the standard streams: a file for the input, and the directory of a file for the
/// output. The bus has no property for them. Paths with specifiers are left out, and
/// relative ones, which systemd ignores.
fn files_of_streams(file: &UnitFile) -> impl Iterator<Item = (&'static str, PathBuf)> {
    ["StandardInput", "StandardOutput", "StandardError"].into_iter().filter_map(|key| {
        let (kind, path) = file.value("Service", key)?.split_once(':')?;
        let is_file =
            matches!(kind, "file" | "append" | "truncate") && path.starts_with('/') && !path.contains('%');
        let path = Path::new(path);
        let needed = if key == "StandardInput" { path } else { path.parent()? };
        is_file.then(|| (key, needed.to_path_buf()))
    })
}

fn gone(unit: &UnitName, key: &str, what: &str) -> Failure {
    Failure::new(format!("{what}, and {unit} has {key}= of it: once stopped, {unit} would not start again"))
        .hint("put it back as it was when the service started")
        .command_for(&format!("or correct {key}= with"), "systemctl edit --full", &[unit])
}

/// Returns whether the group is in no database of this machine. Without getent(1) that is unknown.
fn is_missing(runner: &Runner, group: &str) -> bool {
    let found = runner.run(&Program::new("getent").args(["group", "--"]).arg(group));
    // "One or more supplied key could not be found in the database."
    found.is_ok_and(|found| found.ended == ChildEnd::Exited(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_an_output_and_the_file_of_an_input_are_needed() {
        let found = |text: &str| {
            let file = UnitFile::parse(format!("[Service]\n{text}\n").as_bytes());
            files_of_streams(&file).map(|(key, path)| format!("{key} {}", path.display())).collect::<Vec<_>>()
        };
        let all =
            "StandardInput=file:/srv/in\nStandardOutput=append:/srv/log/out\nStandardError=truncate:/srv/err";
        assert_eq!(found(all), ["StandardInput /srv/in", "StandardOutput /srv/log", "StandardError /srv"]);
        for none in ["StandardOutput=journal", "StandardError=fd:x", "StandardOutput=append:/srv/%n/x", ""] {
            assert_eq!(found(none), [""; 0], "{none}");
        }
    }
}
