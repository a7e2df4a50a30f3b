//! `init --page`: the unit that answers visitors while the service is fenced. Its file belongs to this program, and
//! `init --undo` removes it. Every start of the service starts it first, and it runs only while the fence stands.

use std::path::PathBuf;

use refresh_installation::installation::typed;
use refresh_programs::systemd::Bus;
use refresh_service::envfile::EnvFile;
use refresh_service::page::UNIT;
use refresh_service::probe;
use refresh_service::systemd::sockets;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;

use super::own_files::{OwnFile, State};
use super::socket::socket_of;
use super::{Host, ManagerKind, Need};

/// Its text, with placeholders for the values that differ between machines.
const TEXT: &str = include_str!("units/ladylinux-refresh-page.service");

pub(super) fn check_page(host: &Host) -> Outcome<Need> {
    let sockets = socket_units(host)?;
    let facts = Bus::connect()?.unit(UNIT)?;
    let is_right = file(host, &sockets)?.state()? == State::Right;
    Ok(match facts.file_state.as_str() {
        "masked" | "masked-runtime" => Need::Fits(format!("left {UNIT} masked; visitors get no page")),
        "enabled" if is_right && !facts.needs_reload => Need::Fits(format!("left {UNIT} as it is")),
        _ => Need::Needed(format!("set up {UNIT}, which answers visitors while the service is fenced")),
    })
}

pub(super) fn apply_page(host: &Host) -> Outcome<String> {
    file(host, &socket_units(host)?)?.write()?;
    Bus::connect()?.enable(&[UNIT])?;
    if host.layout.fence().exists() {
        host.installation()?.service.show_page()?;
    }
    Ok(format!("set up {UNIT}, which answers visitors while the service is fenced"))
}

/// Returns `true` if the unit is installed.
pub(super) fn is_installed(layout: &Layout) -> bool {
    path(layout).symlink_metadata().is_ok()
}

/// Returns the path of the unit.
pub(super) fn path(layout: &Layout) -> PathBuf {
    layout.package_units().join(UNIT)
}

/// Returns the socket units of the service: the existing ones, or the one that `--socket` is about to create.
fn socket_units(host: &Host) -> Outcome<Vec<String>> {
    let unit = &host.input.settings.service.unit;
    let found = sockets::known(&Bus::connect()?, unit)?;
    if found.is_empty() {
        let new = socket_of(unit);
        if host.input.has_socket {
            return Ok(vec![new]);
        }
        return Err(Failure::new(format!(
            "{unit} has no socket unit, from which a page could take connections"
        ))
        .hint(typed(&host.layout, Hint::command("ladylinux-refresh init --socket --page", &[]))));
    }
    let port = probe::service_port(&EnvFile::read_at(&host.layout, &host.runner)?)?;
    for socket in &found {
        socket.check_own(unit.as_str(), port)?;
    }
    Ok(found.into_iter().map(|socket| socket.unit).collect())
}

fn file(host: &Host, sockets: &[String]) -> Outcome<OwnFile> {
    let ManagerKind::Systemd { program } = &host.manager else {
        return Err(Failure::new("only systemd keeps a page for the service"));
    };
    let text = text(&host.layout, &host.input.settings.service.unit, sockets, &program.display().to_string());
    Ok(OwnFile { path: path(&host.layout), text })
}

fn text(layout: &Layout, service: &UnitName, sockets: &[String], program: &str) -> String {
    let shown = |path: PathBuf| path.display().to_string();
    TEXT.replace("@SERVICE@", service.as_str())
        .replace("@STATE@", &shown(layout.state()))
        .replace("@FENCE@", &shown(layout.fence()))
        .replace("@ADMIT@", &shown(layout.admit()))
        .replace("@SOCKETS@", &sockets.join(" "))
        .replace("@PROGRAM@", program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_programs::units::Role;

    #[test]
    fn the_page_runs_only_while_the_fence_keeps_the_service_down() {
        let sockets = ["a.socket".to_owned(), "b.socket".to_owned()];
        let text =
            text(&Layout::below("/"), &UnitName::usual(), &sockets, "/usr/local/bin/ladylinux-refresh");
        for line in [
            "ConditionPathExists=/var/lib/ladylinux-refresh/fence",
            "ConditionPathExists=!/run/ladylinux-refresh/admit",
            "Before=ladylinux-api.service",
            "WantedBy=ladylinux-api.service",
            "Sockets=a.socket b.socket",
            "ExecStart=/usr/local/bin/ladylinux-refresh answer-while-fenced /var/lib/ladylinux-refresh/fence",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        let is_place = |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_uppercase());
        assert!(!text.split('@').skip(1).any(is_place), "{text}");
        assert!(!text.contains("Conflicts="));
    }

    #[test]
    fn the_page_is_confined_like_the_other_units() {
        let kept: Vec<&str> =
            TEXT.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
        // For these, the unit's file has different keys with the same meaning, or uses systemd's default.
        let elsewhere = ["Type", "KillMode", "SendSIGKILL", "TimeoutStopUSec", "CollectMode"];
        for property in Role::Hold.properties() {
            let name = property.name;
            assert!(elsewhere.contains(&name) || kept.contains(&name), "{name} is missing");
        }
    }
}
