//! The contract of every service manager, as functions over the trait, and the services for its tests.
//!
//! A test file makes a [`Bench`] for its manager and calls the clauses; no clause depends on the kind of manager.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests create installations")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use refresh_programs::process::ProcessId;
use refresh_service::deployed::Deployment;
use refresh_service::port::Address;
use refresh_service::{Admission, Before, Force, ServiceManager, Started, StartedHow, fence, health, port};
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName, RunId};
use refresh_system::clock;
use refresh_system::error::Failure;

/// An environment in which the manager under test runs one service. Dropping it ends the service.
pub(crate) trait Bench {
    /// The installation.
    fn layout(&self) -> &Layout;
    /// A manager of its service, as in another process.
    fn manager(&self) -> Box<dyn ServiceManager>;
    /// The port in its environment file.
    fn port(&self) -> u16;
}

/// The description of a service under test.
pub(crate) struct Script {
    /// A Python program, put into `app/service.py`.
    pub(crate) text: String,
    /// The time that it has to end after the request.
    pub(crate) stop_timeout: Duration,
}

impl Script {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: format!("{PRELUDE}\n{text}"), stop_timeout: Duration::from_secs(20) }
    }

    pub(crate) fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }
}

/// Makes a bench for a script.
pub(crate) type Factory = fn(&Script) -> Box<dyn Bench>;

/// The beginning of every script: `note(name, value)` leaves a fact in the working directory, completely or not at all.
const PRELUDE: &str = r#"
import os, signal, socket, sys, threading, time
def note(name, value):
    with open(name + ".new", "w") as f: f.write(str(value))
    os.rename(name + ".new", name)
def listen():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(os.environ["LADYLINUX_PORT"]))); s.listen(16)
    return s
def forever():
    while True: signal.pause()
"#;

/// Listens on its port until it is requested to end.
pub(crate) const LISTENS: &str = r#"
s = listen(); note("ready", os.getpid()); print("ready", flush=True); forever()
"#;

/// Leaves a child that forked twice, leads its own session, holds the port and ignores SIGTERM.
pub(crate) const LEAVES_ORPHANS: &str = r#"
s = listen(); os.set_inheritable(s.fileno(), True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note("orphan", os.getpid()); forever()
    os._exit(0)
os.wait()
while not os.path.exists("orphan"): time.sleep(0.001)
note("ready", os.getpid()); forever()
"#;

/// Ignores SIGTERM.
pub(crate) const IGNORES_SIGTERM: &str = r#"
signal.signal(signal.SIGTERM, signal.SIG_IGN); note("ready", os.getpid()); forever()
"#;

/// Records the number of its start, and ends on request.
pub(crate) const TALKS: &str = r#"
n = int(open("count").read()) + 1 if os.path.exists("count") else 1
print("hello from start", n, flush=True); print("and on stderr", n, file=sys.stderr, flush=True)
note("count", n); note("ready", os.getpid()); forever()
"#;

/// Records its environment and its working directory.
pub(crate) const TELLS_ABOUT_ITSELF: &str = r#"
import json
umask = os.umask(0); os.umask(umask)
fds = {n: os.readlink("/proc/self/fd/" + n) for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n)}
note("self", json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "umask": umask, "uid": os.getuid(), "groups": os.getgroups(), "fds": fds, "parent": os.getppid()}))
note("ready", os.getpid()); forever()
"#;

/// Waits for an effect of another process; long, so that a slow machine is no failure.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for a fact that the script records.
pub(crate) fn fact(bench: &dyn Bench, name: &str) -> String {
    let path = bench.layout().app().join(name);
    until(name, || fs::read_to_string(&path).ok())
}

/// Waits for a process whose pid the script records.
pub(crate) fn process(bench: &dyn Bench, name: &str) -> ProcessId {
    ProcessId::of(fact(bench, name).parse().unwrap()).expect("it lives")
}

pub(crate) fn start(bench: &dyn Bench) -> ProcessId {
    let _ = fs::remove_file(bench.layout().app().join("ready"));
    let started =
        bench.manager().start(Admission::Ordinary).unwrap_or_else(|failure| panic!("{}", message(&failure)));
    assert_eq!(started.how, StartedHow::Fresh);
    fact(bench, "ready");
    started.main
}

pub(crate) fn message(failure: &Failure) -> String {
    format!("{} (hints: {})", failure.chain().join(": "), failure.hint_texts().join(", "))
}

pub(crate) fn run_id() -> RunId {
    RunId::parse("20260102T030405Z-1").unwrap()
}

pub(crate) fn python() -> PathBuf {
    ["/usr/bin/python3", "/usr/local/bin/python3"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .unwrap_or_else(|| "python3".into())
}

// The clauses.

pub(crate) fn a_started_service_is_observed_as_running_and_a_stopped_one_as_stopped(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    assert!(bench.manager().observe().unwrap().is_down());
    let main = start(&*bench);
    let state = bench.manager().observe().unwrap();
    assert_eq!(state.running().map(|running| (running.main, running.restarts)), Some((main, 0)), "{state}");
    let stopped = bench.manager().stop().unwrap();
    assert_eq!((stopped.before, stopped.force), (Before::Running, Force::Asked), "{stopped}");
    assert!(bench.manager().observe().unwrap().is_down());
}

pub(crate) fn a_stop_ends_every_process_of_the_tree_and_frees_the_port(make: Factory) {
    let bench = make(&Script::new(LEAVES_ORPHANS));
    let main = start(&*bench);
    let orphan = process(&*bench, "orphan");
    assert_ne!(main, orphan);
    let stopped = bench.manager().stop().unwrap();
    assert!(!main.is_alive() && !orphan.is_alive());
    assert_eq!(stopped.force, Force::LeftoversKilled);
    assert!(stopped.leftovers.iter().any(|left| left.starts_with(&format!("{} ", orphan.pid))), "{stopped}");
    assert_eq!(port::holder(bench.port()).unwrap(), None);
}

pub(crate) fn stopping_a_stopped_service_succeeds(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    assert_eq!(bench.manager().stop().unwrap().before, Before::Stopped);
    start(&*bench);
    bench.manager().stop().unwrap();
    assert_eq!(bench.manager().stop().unwrap().before, Before::Stopped);
}

pub(crate) fn a_service_that_ignores_the_request_to_end_is_killed_and_the_stop_reports_it(make: Factory) {
    let bench = make(&Script::new(IGNORES_SIGTERM).stop_timeout(Duration::from_millis(300)));
    let main = start(&*bench);
    let stopped = bench.manager().stop().unwrap();
    assert_eq!(stopped.force, Force::Killed);
    assert!(stopped.took >= Duration::from_millis(300), "{stopped}");
    assert!(stopped.to_string().contains("killed"), "{stopped}");
    assert!(!main.is_alive());
}

pub(crate) fn while_the_fence_stands_an_ordinary_start_is_refused(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    fence::raise(bench.layout(), &run_id(), "refresh in progress").unwrap();
    let failure = bench.manager().start(Admission::Ordinary).unwrap_err();
    assert!(message(&failure).contains("fenced"), "{}", message(&failure));
    assert!(message(&failure).contains("unfence"), "{}", message(&failure));
    assert!(bench.manager().observe().unwrap().is_down());
    assert!(!bench.layout().app().join("ready").exists());
    fence::lower(bench.layout()).unwrap();
    start(&*bench);
}

pub(crate) fn a_fence_that_cannot_be_read_refuses_nevertheless(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    fs::write(bench.layout().fence(), b"{\"ru").unwrap();
    assert!(bench.manager().start(Admission::Ordinary).is_err());
    assert!(bench.manager().observe().unwrap().is_down());
}

pub(crate) fn the_refresh_that_fenced_the_service_starts_it_through_the_fence(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    fence::raise(bench.layout(), &run_id(), "refresh in progress").unwrap();
    let started = bench.manager().start(Admission::Refresh(run_id())).unwrap();
    fact(&*bench, "ready");
    assert!(!bench.layout().admit().exists(), "the gate is open for that moment only");
    assert_eq!(bench.manager().observe().unwrap().running().map(|running| running.main), Some(started.main));
    bench.manager().stop().unwrap();
    assert!(bench.manager().start(Admission::Ordinary).is_err(), "the fence still stands");
}

pub(crate) fn a_service_that_runs_is_not_started_twice(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    let main = start(&*bench);
    let again = bench.manager().start(Admission::Ordinary).unwrap();
    assert_eq!((again.main, again.how), (main, StartedHow::RanAlready));
}

pub(crate) fn two_starts_at_the_same_instant_make_one_service(make: Factory) {
    let bench = make(&Script::new(LISTENS));
    let managers: Vec<_> = (0..4).map(|_| bench.manager()).collect();
    let mains: Vec<ProcessId> = std::thread::scope(|scope| {
        let threads: Vec<_> = managers
            .into_iter()
            .map(|manager| {
                scope.spawn(move || {
                    let started = manager.start(Admission::Ordinary);
                    started.unwrap_or_else(|failure| panic!("{}", message(&failure))).main
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(mains.iter().all(|main| *main == mains[0]), "{mains:?}");
    fact(&*bench, "ready");
    assert_eq!(bench.manager().observe().unwrap().running().map(|running| running.main), Some(mains[0]));
}

pub(crate) fn the_log_tail_holds_the_lines_of_exactly_this_invocation(make: Factory) {
    let bench = make(&Script::new(TALKS));
    assert_eq!(bench.manager().log_tail(10).unwrap(), Vec::<String>::new());
    let lines = |n: u32| vec![format!("hello from start {n}"), format!("and on stderr {n}")];
    start(&*bench);
    until("the first start's lines", || (bench.manager().log_tail(10).unwrap() == lines(1)).then_some(()));
    bench.manager().stop().unwrap();
    assert_eq!(bench.manager().log_tail(10).unwrap(), lines(1));
    start(&*bench);
    until("the second start's lines", || (bench.manager().log_tail(10).unwrap() == lines(2)).then_some(()));
    assert_eq!(bench.manager().log_tail(1).unwrap(), lines(2)[1..]);
}

pub(crate) fn the_service_finds_its_environment_file_its_version_and_its_directory(make: Factory) {
    let bench = make(&Script::new(TELLS_ABOUT_ITSELF));
    let deployed = Deployment {
        commit: CommitId::parse(&"0a".repeat(20)).unwrap(),
        branch: BranchName::parse("main").unwrap(),
        refreshed_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        environment: EnvironmentName::parse("abc-1").unwrap(),
        run: RunId::parse("r-1").unwrap(),
    };
    deployed.write(bench.layout()).unwrap();
    start(&*bench);
    let noted: serde_json::Value = serde_json::from_str(&fact(&*bench, "self")).unwrap();
    assert_eq!(noted["env"]["LADYLINUX_PORT"], bench.port().to_string());
    assert_eq!(noted["env"]["LADYLINUX_COMMIT"], "0a".repeat(20));
    assert_eq!(noted["env"]["LADYLINUX_BRANCH"], "main");
    assert_eq!(noted["env"]["LADYLINUX_REFRESHED_AT"], "2026-01-02T03:04:05Z");
    assert_eq!(noted["cwd"], bench.layout().app().to_str().unwrap());
}

/// Overwrites its environment, as gunicorn and Celery do with setproctitle, and listens.
pub(crate) const EMPTIES_ITS_ENVIRONMENT: &str = r#"
import ctypes
s = listen()
fields = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
begin, end = int(fields[47]), int(fields[48])
ctypes.memset(begin, 0, end - begin)
note("ready", os.getpid()); forever()
"#;

pub(crate) fn a_service_is_identified_by_its_invocation_even_if_it_has_emptied_its_environment(
    make: Factory,
) {
    let bench = make(&Script::new(EMPTIES_ITS_ENVIRONMENT));
    let manager = bench.manager();
    let not_before = clock::boot_ticks();
    let started =
        manager.start(Admission::Ordinary).unwrap_or_else(|failure| panic!("{}", message(&failure)));
    fact(&*bench, "ready");
    assert_eq!(started.main.variable("PATH"), None, "the environment is empty now");
    health::check_new(&*manager, &started, not_before)
        .unwrap_or_else(|failure| panic!("{}", message(&failure)));
    let holders = port::holders(bench.port()).unwrap();
    assert_eq!(holders.iter().map(|holder| holder.process).collect::<Vec<_>>(), [Some(started.main)]);
    let listens = Address::Tcp(([127, 0, 0, 1], bench.port()).into());
    assert_eq!(port::addresses_of(&manager.processes().unwrap()).unwrap(), [listens]);

    // A process that began before this start, one of another invocation, and an unrelated one are not the new service.
    let why = |failure: Failure| message(&failure);
    let too_old = why(health::check_new(&*manager, &started, started.main.started + 1).unwrap_err());
    assert!(too_old.contains("before this refresh"), "{too_old}");
    let other = Started { invocation: "another".to_owned(), ..started.clone() };
    let other = why(health::check_new(&*manager, &other, not_before).unwrap_err());
    assert!(other.contains("instead of another"), "{other}");
    let stranger = why(health::check_part(&*manager, ProcessId::own(), 0).unwrap_err());
    assert!(stranger.contains("does not belong"), "{stranger}");
    manager.stop().unwrap();
    assert!(health::check_new(&*manager, &started, not_before).is_err());
}
