//! The lines of the unit: commands, paths, the user, the kind of stop.
#![expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]

use std::path::Path;

use refresh_programs::systemd::Bus;
use refresh_programs::systemd::root_exec::{COMMANDS, PREFIXES, is_yes};
use refresh_programs::systemd::unit::LoadState;
use refresh_system::disk::Owner;
use refresh_system::error::Outcome;

use crate::doctor::unit_files::{Unit, spelled};
use crate::doctor::{DoctorFinding, Examined, Findings, quoted_all, refused, some_of};
use refresh_service::systemd::requirements::check_needs;
use refresh_settings::users::SERVICE_USER;
use refresh_system::text::quoted;

/// Groups whose members can read or write files that only root should access.
const WAYS_TO_ROOT: [&str; 8] = ["root", "0", "disk", "shadow", "sudo", "docker", "lxd", "libvirt"];

/// Checks that no command uses a kind of variable that systemd does not support.
pub(in crate::doctor) fn variables(_: &Examined, unit: &Unit) -> Findings {
    let mut found = Vec::new();
    for key in COMMANDS {
        for command in unit.file.list("Service", key) {
            let unknown = shell_variables(command);
            if unknown.is_empty() {
                continue;
            }
            found.push(DoctorFinding::problem(
                format!("{key}= of {} uses {}", unit.name, some_of(&unknown)),
                "systemd does not support defaults in variables: the program gets an empty text or the text itself, never the default",
                unit.edit(),
            ));
        }
    }
    Ok(found)
}

/// Returns the variables of a command that only a shell expands (`${NAME:-default}`).
fn shell_variables(command: &str) -> Vec<String> {
    // If a colon is among its prefixes, systemd does not expand the command.
    let prefixes = command.len() - command.trim_start_matches(PREFIXES).len();
    if command[..prefixes].contains(':') {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut rest = command;
    while let Some(at) = rest.find("${") {
        let dollars = rest[..at].bytes().rev().take_while(|byte| *byte == b'$').count();
        let after = &rest[at + 2..];
        let Some(end) = after.find('}') else { break };
        let name = &after[..end];
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        // A doubled dollar sign means a single one, and is for a shell that the command starts.
        if !plain && dollars % 2 == 0 {
            found.push(format!("${{{name}}}"));
        }
        rest = &after[end + 1..];
    }
    found
}

/// Checks that its required units exist.
pub(in crate::doctor) fn requirements(examined: &Examined, unit: &Unit) -> Findings {
    let mut found = Vec::new();
    for key in ["Requires", "Requisite", "BindsTo"] {
        for name in unit.file.words("Unit", key) {
            if name.contains('%') || exists(examined, name)? {
                continue;
            }
            found.push(DoctorFinding::problem(
                format!("{} has {key}={name}, and that unit does not exist", unit.name),
                "systemd refuses to start the service; Wants= would start it all the same",
                unit.edit(),
            ));
        }
    }
    if let (true, Some(facts)) = (found.is_empty(), &unit.facts) {
        // This includes the requirements of those units, and existing units that cannot be used.
        return refused(
            check_needs(&Bus::connect()?, &unit.name, facts),
            "systemd refuses to start the service then",
        );
    }
    Ok(found)
}

fn exists(examined: &Examined, name: &str) -> Outcome<bool> {
    if examined.is_kept_by_systemd() {
        return Ok(Bus::connect()?.unit(name)?.load != LoadState::NotFound);
    }
    // systemd itself creates units of other types.
    if !["service", "socket", "path", "timer"].iter().any(|kind| name.ends_with(&format!(".{kind}"))) {
        return Ok(true);
    }
    let template = name.split_once('@').and_then(|(stem, rest)| {
        let (_, kind) = rest.rsplit_once('.')?;
        Some(format!("{stem}@.{kind}"))
    });
    let directories = examined.layout.unit_directories();
    let is_there =
        |name: &str| directories.iter().any(|directory| directory.join(name).symlink_metadata().is_ok());
    Ok(is_there(name) || template.is_some_and(|template| is_there(&template)))
}

/// Checks that the paths are those of the deployment contract.
pub(in crate::doctor) fn paths(examined: &Examined, unit: &Unit) -> Findings {
    let layout = &examined.layout;
    let (venv, app) = (spelled(layout, &layout.venv()), spelled(layout, &layout.app()));
    let env_file = spelled(layout, &layout.env_file());
    let mut found = Vec::new();
    let mut differs = |what: String, why: &str| found.push(DoctorFinding::problem(what, why, unit.edit()));
    let name = &unit.name;
    let program = unit.file.list("Service", "ExecStart").last().and_then(|command| program(command));
    match program {
        None => differs(format!("{name} has no ExecStart="), "the service would not start"),
        Some(program) if !Path::new(program).starts_with(&venv) => differs(
            format!("ExecStart= of {name} starts {program}, which is not in {}", venv.display()),
            "a refresh builds the environment that venv leads to; the service would run with another one",
        ),
        Some(_) => {}
    }
    let directory = unit.file.value("Service", "WorkingDirectory").map(|it| it.trim_start_matches('-'));
    if directory.is_none_or(|it| !Path::new(it).components().eq(app.components())) {
        differs(
            format!(
                "WorkingDirectory= of {name} is {}, not {}",
                directory.unwrap_or("not set"),
                app.display()
            ),
            "the service would load its modules from somewhere else than the working tree that is refreshed",
        );
    }
    let files = unit.file.list("Service", "EnvironmentFile");
    if !files.iter().any(|it| Path::new(it.trim_start_matches('-')) == env_file) {
        differs(
            format!("{name} does not read {} (EnvironmentFile=)", env_file.display()),
            "ports, paths and flags are set there, and the probe asks the port that it names",
        );
    }
    Ok(found)
}

/// Returns the program of a command, without the prefixes.
fn program(command: &str) -> Option<&str> {
    command.split_whitespace().next().map(|word| word.trim_start_matches(PREFIXES).trim_matches('"'))
}

/// Checks that it does not run as root, but as the owner of `app/`.
pub(in crate::doctor) fn user(examined: &Examined, unit: &Unit) -> Findings {
    let why = "anyone who controls the application controls the machine";
    let name = &unit.name;
    let mut found = Vec::new();
    for key in COMMANDS {
        for command in unit.file.list("Service", key) {
            let word = command.split_whitespace().next().unwrap_or_default();
            let program = word.trim_start_matches(PREFIXES);
            if word[..word.len() - program.len()].contains(['+', '!']) {
                let what = format!("{key}={word} of {name} starts with root's rights, regardless of User=");
                let is_allowed = examined.settings.service.allow_root_exec.iter().any(|it| it == program);
                let severity = if is_allowed { DoctorFinding::note } else { DoctorFinding::problem };
                found.push(severity(what, why, unit.edit()));
            }
        }
    }
    for key in ["Group", "SupplementaryGroups"] {
        let groups = unit.file.words("Service", key);
        if let Some(group) = groups.iter().find(|group| WAYS_TO_ROOT.contains(group)) {
            let what = format!("{name} runs in the group {group} ({key}=), and that leads to root");
            found.push(DoctorFinding::problem(what, why, unit.edit()));
        }
    }
    let user = unit.file.value("Service", "User");
    let is_dynamic = unit.file.value("Service", "DynamicUser").is_some_and(is_yes);
    match user {
        None if is_dynamic => {}
        None => found.push(DoctorFinding::problem(
            format!("{name} runs as root: it has no User="),
            why,
            unit.edit(),
        )),
        Some("root" | "0") => {
            found.push(DoctorFinding::problem(format!("{name} runs as root"), why, unit.edit()));
        }
        Some(user) if examined.layout.is_real() => found.extend(stranger(examined, unit, user)?),
        Some(_) => {}
    }
    if user.is_some() && unit.file.value("Service", "PermissionsStartOnly").is_some_and(is_yes) {
        let what = format!("all commands of {name} but ExecStart= run as root (PermissionsStartOnly=)");
        found.push(DoctorFinding::problem(what, why, unit.edit()));
    }
    Ok(found)
}

/// Returns a finding if the user does not exist, or does not own `app/`.
fn stranger(examined: &Examined, unit: &Unit, user: &str) -> Outcome<Option<DoctorFinding>> {
    let uid = match user.parse() {
        Ok(uid) => Some(uid),
        Err(_) => Owner::named(user)?.map(|owner| owner.uid),
    };
    let Some(uid) = uid else {
        let repair = if user == SERVICE_USER && !examined.is_installed() {
            examined.init()
        } else {
            format!("useradd --system --user-group --shell /usr/sbin/nologin {}", quoted(user))
        };
        return Ok(Some(DoctorFinding::problem(
            format!("{} runs as {user}, and that user does not exist", unit.name),
            "systemd cannot start it (status=217/USER)",
            repair,
        )));
    };
    let other = examined.owner.filter(|it| it.uid != uid);
    Ok(other.map(|other| {
        DoctorFinding::problem(
            format!("{} runs as {user} (uid {uid}), and app/ belongs to uid {}", unit.name, other.uid),
            "what the application writes in its tree belongs to one, and a refresh works as the other",
            unit.edit(),
        )
    }))
}

/// Checks that a stop ends all its processes.
pub(in crate::doctor) fn kill_mode(_: &Examined, unit: &Unit) -> Findings {
    let Some(mode @ ("process" | "none")) = unit.file.value("Service", "KillMode") else {
        return Ok(Vec::new());
    };
    let files = quoted_all(unit.fragment.iter().chain(&unit.drop_ins).map(|path| path.to_string_lossy()));
    Ok(vec![DoctorFinding::problem(
        format!("{} has KillMode={mode}", unit.name),
        "a stop leaves worker processes behind, which keep the port and the data from the next start",
        format!("sed -i '/^KillMode=/d' {files} && systemctl daemon-reload"),
    )])
}

/// Checks that a stop does not wait for connections that stay open.
pub(in crate::doctor) fn stop(_: &Examined, unit: &Unit) -> Findings {
    let commands = unit.file.list("Service", "ExecStart");
    let mut found = Vec::new();
    let is_uvicorn = |command: &&&str| {
        command.split_whitespace().any(|word| word == "uvicorn" || word.ends_with("/uvicorn"))
            && !command.contains("--timeout-graceful-shutdown")
    };
    if commands.iter().any(|command| is_uvicorn(&command)) {
        found.push(DoctorFinding::note(
            format!("{} starts uvicorn without --timeout-graceful-shutdown", unit.name),
            "uvicorn waits for every open stream at a stop, so a refresh with a browser connected takes until systemd kills it",
            unit.edit(),
        ));
    }
    if unit.file.value("Service", "TimeoutStopSec").is_some_and(|it| ["infinity", "0"].contains(&it)) {
        found.push(DoctorFinding::note(
            format!("systemd waits for ever for {} to stop (TimeoutStopSec=)", unit.name),
            "a service that hangs at its stop blocks a refresh until you end it",
            unit.edit(),
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_unknown_to_systemd_are_found() {
        let of = |command| shell_variables(command);
        assert_eq!(of("/v/bin/uvicorn a:b --host ${HOST:-0.0.0.0} --port ${PORT}"), ["${HOST:-0.0.0.0}"]);
        assert_eq!(of("/bin/sh -c 'x --port $${PORT:-1}'"), Vec::<String>::new());
        assert_eq!(of("/bin/sh -c 'x $$${PORT:-1}'"), ["${PORT:-1}"]);
        assert_eq!(of(":/bin/x ${PORT:-1}"), Vec::<String>::new());
        assert_eq!(of("-/bin/x ${A:+b}${C"), ["${A:+b}"]);
    }

    #[test]
    fn a_program_is_read_past_its_prefixes() {
        assert_eq!(program("-@/opt/x a b"), Some("/opt/x"));
        assert_eq!(program("\"/opt/x\" a"), Some("/opt/x"));
    }
}
