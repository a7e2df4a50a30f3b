//! Signals, streams that are closed or never end, and the lock: a run continues or halts properly, and there is one at
//! a time.
//!
//! A run is held at a known point: by a named pipe that a part of it reads (a hook, the service, the interpreter), or
//! by a server that answers nothing. The pipe has a reader, or the server a caller, when the point is reached.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

mod interrupts;
mod lock;
mod streams;

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Host, Ran, ran};
use rustix::process::{Pid, Signal, kill_process};

/// The longest time to reach a point, before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A named pipe that holds each of its readers.
struct Hold(PathBuf);

impl Hold {
    fn new(host: &Host) -> Self {
        let path = host.beside("hold");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        Self(path)
    }

    /// The shell command that waits as long as the pipe exists.
    fn script(&self) -> String {
        format!("if [ -p {0} ]; then read x < {0} || :; fi", self.0.display())
    }

    fn hook(&self, kind: &str) -> String {
        let stage = if kind == "check" { "stage = true\n" } else { "" };
        let script = self.script();
        format!(
            "[[hook]]\nname = \"hold\"\nkind = \"{kind}\"\n{stage}command = [\"sh\", \"-c\", '''{script}''']\n"
        )
    }

    /// Waits until `run` is held. It continues when the returned value is dropped.
    fn reached(&self, run: &mut Child) -> File {
        let open = || {
            let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
            OpenOptions::new().write(true).custom_flags(flags).open(&self.0).ok()
        };
        until(run, open)
    }

    /// From now on nothing is held.
    fn lift(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// Waits until a condition becomes true while `run` is in progress.
#[track_caller]
fn until<T>(run: &mut Child, mut reached: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = reached() {
            return value;
        }
        if let Some(status) = run.try_wait().unwrap() {
            let mut printed = String::new();
            run.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
            panic!("the run ended before it was held: {status}\n{printed}");
        }
        assert!(Instant::now() < limit, "the run does not come to the point");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a run whose events the test reads.
fn start(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.command([arguments, &["--format", "json"]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(run: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap(), signal).unwrap();
}

fn end(run: Child) -> Ran {
    ran(run.wait_with_output().unwrap())
}

/// The report that ends the stream of a run.
fn last_report(printed: &Ran) -> serde_json::Value {
    let last: serde_json::Value = serde_json::from_str(printed.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "run_finished", "{}", printed.all());
    last["report"].clone()
}

/// Returns the processes whose working directory is in the installation: none of a run or of the service may be left.
fn left_over(host: &Host) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(directory) = fs::read_link(entry.path().join("cwd")) else { continue };
        if directory.starts_with(host.layout.app()) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    found
}

fn reconfigure(host: &Host, old: &str, new: &str) {
    let settings = host.settings("");
    assert!(settings.contains(old), "{old:?} is not in\n{settings}");
    fs::write(host.layout.host_file(), settings.replace(old, new)).unwrap();
}
