//! The result of bad input: an exit code, and an error with the place, the cause, the state of the service and the next
//! command. Nothing in the installation has been touched.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

mod command_line;
mod port;
mod remote;
mod rights;
mod settings;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::host::{Host, Ran, ran};

/// The parts that a refused refresh leaves unchanged.
#[derive(Debug, PartialEq, Eq)]
struct State {
    /// Every entry of `app/`, `.git` included: mode, time of the last change, content.
    app: BTreeMap<PathBuf, (u32, i64, Vec<u8>)>,
    venv: Option<PathBuf>,
    /// The service's main process: its pid and when it started.
    service: Option<(i64, String)>,
    fenced: bool,
    /// The content of `status.json`.
    status: Option<Vec<u8>>,
}

impl State {
    fn of(host: &Host) -> Self {
        let mut app = BTreeMap::new();
        inventory(&host.layout.app(), &mut app);
        Self {
            app,
            venv: fs::read_link(host.layout.venv()).ok(),
            service: service(host),
            fenced: host.fenced(),
            status: fs::read(host.layout.status_file()).ok(),
        }
    }
}

fn inventory(path: &Path, into: &mut BTreeMap<PathBuf, (u32, i64, Vec<u8>)>) {
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let content = if found.is_file() { fs::read(path).unwrap() } else { Vec::new() };
    into.insert(path.to_owned(), (found.mode(), found.mtime_nsec() + found.mtime(), content));
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            inventory(&entry.unwrap().path(), into);
        }
    }
}

/// The service, if it runs.
fn service(host: &Host) -> Option<(i64, String)> {
    let pid = host.service_pid()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    Some((pid, started))
}

/// A command that must be refused: the code, the parts of the error, and nothing touched. Staging keeps a separate
/// report, so `status.json` may describe a run that was refused there.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], code: i32, says: &[&str]) -> Ran {
    refused_by(host, host.command(arguments), code, says)
}

#[track_caller]
fn refused_by(host: &Host, mut command: Command, code: i32, says: &[&str]) -> Ran {
    let before = State::of(host);
    assert!(before.service.is_some(), "the service has to run, or the test shows nothing");
    let printed = ran(command.output().unwrap()).expect(code);
    let after = State::of(host);
    assert_eq!(before.app, after.app, "app/ was touched\n{}", printed.all());
    assert_eq!(before.venv, after.venv);
    assert_eq!(before.service, after.service, "the service is another one\n{}", printed.all());
    assert!(!after.fenced, "fenced\n{}", printed.all());
    assert_eq!(host.version().as_deref(), Some("one"), "the old version does not answer");
    printed.reports(host, says)
}

trait Reports {
    fn reports(self, host: &Host, says: &[&str]) -> Self;
}

impl Reports for Ran {
    /// Asserts the parts of an error: its texts, the state of the service, and the next command.
    #[track_caller]
    fn reports(self, host: &Host, says: &[&str]) -> Self {
        let all = self.all();
        for text in says {
            assert!(all.contains(text), "{text:?} is missing in\n{all}");
        }
        assert!(all.contains("\n  service      "), "the state of the service is missing in\n{all}");
        let next = all.lines().find_map(|line| line.strip_prefix("  next         ")).unwrap_or_default();
        assert!(
            next.starts_with(&typed(host)) || next == "ladylinux-refresh --help",
            "next: {next:?} in\n{all}"
        );
        self
    }
}

/// The program as it must be typed for the host.
fn typed(host: &Host) -> String {
    format!("ladylinux-refresh --root {}", host.layout.root().display())
}

/// The settings of the host with one text in them replaced by another one.
fn reconfigure(host: &Host, old: &str, new: &str) {
    let settings = host.settings("");
    assert!(settings.contains(old), "{old:?} is not in\n{settings}");
    fs::write(host.layout.host_file(), settings.replace(old, new)).unwrap();
}

/// A command inside its own mount namespace, after `script` has arranged the mounts there.
fn in_namespace(host: &Host, script: &str, arguments: &[&str]) -> Command {
    let inner = host.command(arguments);
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    command.args(["sh", "-euc", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
