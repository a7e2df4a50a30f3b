//! The request for a start: the requesting process decides everything here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::socket::SocketRequest;
use super::tree::SERVICE_MARK;
use crate::envfile::EnvFile;
use crate::{Running, StartedHow, probe};
use refresh_events::event::Events;
use refresh_programs::process::detached::ServiceProgram;
use refresh_programs::process::{RUN_MARK, Runner};
use refresh_settings as settings;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::environment::SEARCH_PATH;
use refresh_system::error::{Context as _, Failure, FailureMessage, Outcome};

/// The request that a supervisor reads on standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launch {
    /// The service.
    pub(super) program: ServiceProgram,
    /// The time limit of its stop.
    pub(super) stop_timeout: Duration,
    /// Its listening socket.
    pub(super) socket: Option<SocketRequest>,
}

/// The answer of a supervisor on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The service runs: under this supervisor, or already under another one.
    Runs(StartedHow, Running),
    /// Nothing was started.
    Refused(FailureMessage),
}

/// Prepares a start; returns the request, and warnings.
///
/// # Errors
/// The program does not exist, the environment file cannot be read, or this process cannot act as the owner of `app/`.
pub(super) fn prepare(layout: &Layout, service: &settings::Service) -> Outcome<(Launch, Vec<String>)> {
    let owner = Owner::of(&layout.app())?;
    if !owner.can_be_assumed() {
        return Err(Failure::new(format!(
            "the service runs as uid {}, and uid {} may not start it",
            owner.uid,
            Owner::own().uid
        ))
        .command("sudo ladylinux-refresh service start", &[]));
    }
    let file =
        EnvFile::read_at(layout, &silent()).context(|| "cannot read the service's environment".to_owned())?;
    let warnings = file
        .problems
        .iter()
        .map(|problem| format!("{}, {problem}; it is passed over", layout.env_file().display()))
        .collect();
    let deployed = EnvFile::read(&layout.deployed_env())?;
    let program = ServiceProgram {
        command: command(layout, service, &file)?,
        variables: variables(layout, owner, &[&file, &deployed]),
        directory: layout.app().into_os_string(),
        owner,
    };
    let open = |address| Ok(SocketRequest::Open((address, probe::service_port(&file)?).into()));
    let socket = service.socket.map(open).transpose()?;
    Ok((Launch { program, stop_timeout: service.stop_timeout, socket }, warnings))
}

/// Returns a runner that reports nothing: its program only reads a file.
pub(super) fn silent() -> Runner {
    Runner::new(Arc::new(Events::silent()))
}

fn command(layout: &Layout, service: &settings::Service, file: &EnvFile) -> Outcome<Vec<OsString>> {
    let port = probe::service_port(file)?.to_string();
    let mut words = service.command.iter().map(|word| replace(word, layout, &port));
    let program = words.next().ok_or_else(|| Failure::new("service.command is empty"))?;
    let program = find(&PathBuf::from(&program), layout).ok_or_else(|| {
        Failure::new(format!("the program {} of the service does not exist", Path::new(&program).display()))
            .hint("set service.command in /etc/ladylinux/refresh.toml")
    })?;
    Ok(std::iter::once(program.into_os_string()).chain(words).collect())
}

/// Replaces `{venv}`, `{app}` and `{port}`.
pub(super) fn replace(word: &str, layout: &Layout, port: &str) -> OsString {
    let values = [
        ("{venv}", layout.venv().into_os_string()),
        ("{app}", layout.app().into_os_string()),
        ("{port}", port.into()),
    ];
    let mut replaced = OsString::new();
    let mut rest = word;
    while let Some(start) = rest.find('{') {
        replaced.push(&rest[..start]);
        rest = &rest[start..];
        let known = values.iter().find(|(name, _)| rest.starts_with(name));
        replaced.push(known.map_or("{".as_ref(), |(_, value)| value.as_os_str()));
        rest = &rest[known.map_or(1, |(name, _)| name.len())..];
    }
    replaced.push(rest);
    replaced
}

/// Finds the program of the service: a path below `app/`, or a name in the environment's `bin` or the system's
/// directories.
fn find(program: &Path, layout: &Layout) -> Option<PathBuf> {
    if program.components().count() > 1 || program.is_absolute() {
        let path = layout.app().join(program);
        return path.is_file().then_some(path);
    }
    std::iter::once(layout.venv().join("bin"))
        .chain(SEARCH_PATH.split(':').map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Returns the full environment of the service: the base, then the files in their order.
fn variables(layout: &Layout, owner: Owner, files: &[&EnvFile]) -> Vec<(OsString, OsString)> {
    let mut search = layout.venv().join("bin").into_os_string();
    search.push(":");
    search.push(SEARCH_PATH);
    let mut all: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), search),
        ("LANG".into(), "C.UTF-8".into()),
        ("HOME".into(), home(owner.uid).into()),
    ];
    let mut set = |name: &str, value: &str| {
        all.retain(|(known, _)| known != name);
        all.push((name.into(), value.into()));
    };
    for (name, value) in files.iter().flat_map(|file| &file.variables) {
        // A service with the mark of a run would be ended as a remainder of that run. The supervisor sets the service's
        // own mark.
        if name != RUN_MARK && name != SERVICE_MARK {
            set(name, value);
        }
    }
    all
}

/// Returns the home of a user from the user database of the system; `/` if it does not contain the user.
fn home(uid: u32) -> String {
    let list = disk::read_if_there(Path::new("/etc/passwd")).ok().flatten().unwrap_or_default();
    parse_home(&String::from_utf8_lossy(&list), uid).unwrap_or_else(|| "/".to_owned())
}

fn parse_home(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let matches = fields.get(2)?.parse::<u32>().ok()? == uid;
        let home = fields.get(5)?;
        (matches && !home.is_empty()).then(|| (*home).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_other_braces_are_kept() {
        let layout = Layout::below("/r");
        assert_eq!(replace("{venv}/bin/x", &layout, "1"), "/r/opt/ladylinux/venv/bin/x");
        assert_eq!(replace("--app-dir={app}:{port}", &layout, "81"), "--app-dir=/r/opt/ladylinux/app:81");
        assert_eq!(replace("{\"a\": {b}}", &layout, "1"), "{\"a\": {b}}");
    }

    #[test]
    fn the_files_are_loaded_in_their_order_and_the_marks_are_not_theirs_to_set() {
        let layout = Layout::below("/r");
        let first =
            EnvFile::parse(b"A=1\nB=1\nLANG=de\nLADYLINUX_REFRESH_RUN=x\nLADYLINUX_REFRESH_SERVICE=x");
        let second = EnvFile::parse(b"B=2");
        let all = variables(&layout, Owner { uid: 0, gid: 0 }, &[&first, &second]);
        let value = |name: &str| {
            let found: Vec<_> = all.iter().filter(|(known, _)| known == name).collect();
            assert!(found.len() < 2, "{name} is set twice");
            found.first().map(|(_, value)| value.to_string_lossy().into_owned())
        };
        assert_eq!(value("A").as_deref(), Some("1"));
        assert_eq!(value("B").as_deref(), Some("2"));
        assert_eq!(value("LANG").as_deref(), Some("de"));
        assert_eq!(value(RUN_MARK), None);
        assert_eq!(value(SERVICE_MARK), None);
        assert!(value("PATH").unwrap().starts_with("/r/opt/ladylinux/venv/bin:"));
    }

    #[test]
    fn home_directories_are_read_by_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nlady:x:7:7::/opt/l:/bin/false\nbad\nnone:x:8:8:::\n";
        assert_eq!(parse_home(passwd, 7).as_deref(), Some("/opt/l"));
        assert_eq!(parse_home(passwd, 8), None);
        assert_eq!(parse_home(passwd, 9), None);
    }
}
