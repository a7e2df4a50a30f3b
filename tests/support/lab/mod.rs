//! A lab of real machines: Debian under systemd-nspawn with systemd as PID 1, each an overlay on one base, on private
//! networks.
//!
//! [`Lab::open`] builds the base (`lab/base.sh`) and removes the leftovers of killed test runs. A [`Machine`] boots in
//! about half a second; dropping it removes all of it, also while a test panics. Every name contains the test process
//! (pid and start time), so test processes do not interfere.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(clippy::disallowed_methods, reason = "tests lay out files and start programs")]
#![allow(clippy::unwrap_used, clippy::unused_self, reason = "a test that cannot continue is a failed test")]
#![allow(unused_imports, reason = "not every test uses everything")]

mod cgroup;
mod disk;
mod files;
mod machine;
mod network;
#[path = "../person.rs"]
mod person;
#[path = "../ran.rs"]
mod ran;
mod server;
mod small_host;
mod sweep;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use refresh_programs::process::ProcessId;

pub use disk::Disk;
pub use machine::{Builder, Groups, Machine, signal};
pub use network::Network;
pub use ran::Ran;
pub use server::{How, Server};
pub use small_host::{SERVER, UNIT};

/// The base of all machines.
#[derive(Debug, Clone)]
pub struct Lab {
    base: PathBuf,
    wheels: PathBuf,
}

/// The address of the package index for machines, as in `python.index_url`.
pub const LOCAL_INDEX: &str = "file:///srv/wheels/simple";

/// The search path of commands inside a machine.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Lab {
    /// Opens the lab; `None`, reported past the test runner, if no machine can be booted. Under `CI=true` that is a
    /// failure.
    pub fn open() -> Option<Self> {
        static LAB: OnceLock<Option<Lab>> = OnceLock::new();
        let lab = LAB.get_or_init(|| {
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/base.sh");
            // Its output goes to the standard error of the test, since a first build takes a while.
            let output = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
            assert!(output.status.success(), "lab/base.sh failed");
            let output = String::from_utf8(output.stdout).unwrap();
            let mut lines = output.lines().map(PathBuf::from);
            let lab = Self { base: lines.next().unwrap(), wheels: lines.next().unwrap() };
            sweep::leftovers(&lab.worlds());
            Some(lab)
        });
        if lab.is_none() {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let line = format!("{test}: LEFT OUT: the machines of the lab need root");
            assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{line}");
            // In one piece: skipped tests report at the same time.
            let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        }
        lab.clone()
    }

    /// The directory of wheels that machines see at `/srv/wheels`.
    pub fn wheels(&self) -> &Path {
        &self.wheels
    }

    /// The directory of the machines of all test processes.
    fn worlds(&self) -> PathBuf {
        self.base.parent().unwrap().join("worlds")
    }

    /// Returns a name that is unique on this host, and a new directory with that name.
    fn place(&self) -> (String, PathBuf) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let own = ProcessId::own();
        let name = format!(
            "{}{}-{}-{}",
            sweep::PREFIX,
            own.pid,
            own.started,
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let directory = self.worlds().join(&name);
        fs::create_dir_all(&directory).unwrap();
        (name, directory)
    }
}

/// Waits for an effect of another process; long, so that a slow machine is no failure.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let began = Instant::now();
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        // A command on a machine is slower than reading a file: the processors are left to the awaited process.
        std::thread::sleep((began.elapsed() * 2).clamp(Duration::from_millis(5), Duration::from_millis(200)));
    }
}

/// Runs a program of this host and asserts that it succeeds. Returns its output.
#[track_caller]
fn must<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
