//! `init --socket`: a socket unit for the service, and the drop-in with which its command accepts connections from it.
//! Both are files of this program, and `init --undo` removes them. Nothing is restarted: the next run starts the
//! service from the socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use refresh_programs::systemd::Bus;
use refresh_programs::systemd::unit::LoadState;
use refresh_service::envfile::EnvFile;
use refresh_service::probe;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};

use super::own_files::OwnFile;
use super::socket_command::{FdForm, fd_form};
use super::{Host, Need, unit_text};

/// The beginning of both files.
const SIGNATURE: &str = "# Written by `ladylinux-refresh init --socket`.";

/// The largest number of connections that wait while the service is stopped.
const BACKLOG: u32 = 4096;

pub(super) fn check_socket(host: &Host) -> Outcome<Need> {
    let unit = &host.input.settings.service.unit;
    let name = socket_of(unit);
    if is_set_up(&host.layout, unit)? {
        return Ok(Need::Fits(format!("left {name} as it is")));
    }
    let directories = host.layout.unit_directories();
    let is_other =
        |path: &PathBuf| path.symlink_metadata().is_ok() && *path != socket_path(&host.layout, unit);
    if let Some(path) = directories.iter().map(|directory| directory.join(&name)).find(is_other) {
        return Err(Failure::new(format!("{} already exists", path.display()))
            .hint("a socket unit on the port of the service is used as it is, without --socket")
            .command_for("or check it, then", "rm", &[&path]));
    }
    // A unit that init is about to create has the command of the settings.
    if Bus::connect()?.unit(unit.as_str())?.load != LoadState::NotFound {
        form(host)?;
    }
    Ok(Need::Needed(format!("set up {name}, from which {unit} takes its connections")))
}

pub(super) fn apply_socket(host: &Host) -> Outcome<String> {
    let unit = &host.input.settings.service.unit;
    let form = form(host)?;
    let name = socket_of(unit);
    // The socket unit comes first: with the drop-in alone, the service would start without a descriptor.
    for (path, text) in [
        (socket_path(&host.layout, unit), socket_text(unit, form.address)),
        (drop_in_path(&host.layout, unit), drop_in_text(&name, &form.words)),
    ] {
        OwnFile { path, text }.write()?;
    }
    Bus::connect()?.enable(&[&name])?;
    Ok(format!("set up {name} on {}; the next run starts {unit} from it", form.address))
}

/// Returns the command of the service that uses descriptor 3, and its present address.
fn form(host: &Host) -> Outcome<FdForm> {
    let unit = &host.input.settings.service.unit;
    let facts = Bus::connect()?.unit(unit.as_str())?;
    let port = probe::service_port(&EnvFile::read_at(&host.layout, &host.runner)?)?;
    if facts.program.as_deref().map(Path::to_str) != Some(facts.command.first().map(String::as_str)) {
        return Err(Failure::new(format!("{unit} starts its program under another name (\"@\")"))
            .hint(format!("write a socket unit for {unit} yourself")));
    }
    let form = fd_form(&facts.command, port)?;
    if form.address.port() == port {
        return Ok(form);
    }
    Err(Failure::new(format!("{unit} listens on {}, while the port of the service is {port}", form.address))
        .hint(format!("set {}={} in {}", probe::PORT, form.address.port(), host.layout.env_file().display())))
}

/// Returns the existing files that `--socket` has written for the service.
///
/// # Errors
/// A file cannot be read.
pub(super) fn written(layout: &Layout, unit: &UnitName) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    // The drop-in comes first: without it the socket unit is not needed.
    for path in [drop_in_path(layout, unit), socket_path(layout, unit)] {
        if disk::read_if_there(&path)?.is_some_and(|bytes| bytes.starts_with(SIGNATURE.as_bytes())) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_set_up(layout: &Layout, unit: &UnitName) -> Outcome<bool> {
    Ok(written(layout, unit)?.len() == 2)
}

/// Returns the name of the socket unit of a service.
pub(super) fn socket_of(unit: &UnitName) -> String {
    format!("{}.socket", unit.as_str().trim_end_matches(".service"))
}

/// Returns the path of the socket unit.
pub(super) fn socket_path(layout: &Layout, unit: &UnitName) -> PathBuf {
    layout.package_units().join(socket_of(unit))
}

fn drop_in_path(layout: &Layout, unit: &UnitName) -> PathBuf {
    layout.package_units().join(format!("{unit}.d/60-ladylinux-refresh-socket.conf"))
}

fn socket_text(unit: &UnitName, address: SocketAddr) -> String {
    // Servers open an IPv6 address only for IPv6.
    let only = if address.is_ipv6() { "BindIPv6Only=ipv6-only\n" } else { "" };
    format!(
        "{SIGNATURE}\n[Unit]\nDescription=Socket of {unit}\n\n[Socket]\nListenStream={address}\n{only}\
         Backlog={BACKLOG}\n\n[Install]\nWantedBy=sockets.target\n"
    )
}

fn drop_in_text(socket: &str, words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| unit_text::word(word)).collect();
    format!("{SIGNATURE}\n[Service]\nSockets={socket}\nExecStart=\nExecStart={}\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_replaces_the_command_and_names_the_socket() {
        let words = ["/v/bin/uvicorn", "a b", "100%", "${X}", "--fd", "3"].map(str::to_owned);
        let text = drop_in_text("api.socket", &words);
        let command = "ExecStart=/v/bin/uvicorn \"a b\" 100%% ${X} --fd 3";
        assert!(text.ends_with(&format!("Sockets=api.socket\nExecStart=\n{command}\n")), "{text}");
    }

    #[test]
    fn the_socket_unit_has_the_address_and_only_that() {
        let unit = UnitName::usual();
        let text = socket_text(&unit, "[::]:8000".parse().unwrap());
        assert!(text.contains("ListenStream=[::]:8000\nBindIPv6Only=ipv6-only\nBacklog=4096\n"), "{text}");
        assert!(!socket_text(&unit, "0.0.0.0:1".parse().unwrap()).contains("BindIPv6Only"));
        assert_eq!(socket_of(&unit), "ladylinux-api.socket");
    }
}
