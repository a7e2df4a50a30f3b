//! The contract of a service manager, fulfilled by the embedded supervisor with real processes, and further promises of
//! that supervisor.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests create installations and start programs"
)]

use crate::service;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use refresh_programs::process::ExitKind;
use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::{all_pids, parse_stat};
use refresh_service::supervisor::Embedded;
use refresh_service::{Admission, Before, Force, ServiceManager, ServiceState, fence};
use refresh_settings::Service;
use refresh_settings::layout::Layout;
use rustix::process::{Pid, Signal, kill_process};
use service::{Bench, Script, fact, message, process, run_id, start, until};

/// An installation whose service is a Python script under the embedded supervisor.
struct World {
    _directory: tempfile::TempDir,
    layout: Layout,
    stop_timeout: Duration,
    port: u16,
}

impl World {
    fn new(script: &Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let layout = Layout::below(directory.path());
        for path in [layout.app(), layout.etc(), layout.state()] {
            fs::create_dir_all(path).unwrap();
        }
        let port = crate::port::free();
        fs::write(layout.env_file(), format!("LADYLINUX_PORT={port}\n")).unwrap();
        fs::write(layout.app().join("service.py"), &script.text).unwrap();
        Self { _directory: directory, layout, stop_timeout: script.stop_timeout, port }
    }

    fn embedded(&self) -> Embedded {
        embedded(&self.layout, self.stop_timeout)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.layout.supervisor().join("state.json")).unwrap()).unwrap()
    }

    fn supervisor(&self) -> ProcessId {
        serde_json::from_value(self.state()["supervisor"].clone()).unwrap()
    }
}

fn embedded(layout: &Layout, stop_timeout: Duration) -> Embedded {
    let python = service::python().to_str().unwrap().to_owned();
    let command = vec![python, "{app}/service.py".to_owned(), "{port}".to_owned()];
    Embedded::new(layout.clone(), Service { command, stop_timeout, ..Service::default() })
        .with_program(env!("CARGO_BIN_EXE_ladylinux-refresh").into())
}

impl Bench for World {
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn manager(&self) -> Box<dyn ServiceManager> {
        Box::new(self.embedded())
    }
    fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let stopped = self.embedded().stop();
        if !std::thread::panicking() {
            stopped.unwrap();
        }
    }
}

fn bench(script: &Script) -> Box<dyn Bench> {
    Box::new(World::new(script))
}

macro_rules! keeps {
    ($($name:ident: $clause:ident;)*) => {
        $(#[test] fn $name() { service::$clause(bench); })*
    };
}

keeps! {
    rw_5_1_a_started_service_is_running_and_a_stopped_one_is_stopped: a_started_service_is_observed_as_running_and_a_stopped_one_as_stopped;
    rw_5_1_a_stop_ends_every_process_of_the_tree_and_frees_the_port: a_stop_ends_every_process_of_the_tree_and_frees_the_port;
    rw_5_1_stopping_a_stopped_service_succeeds: stopping_a_stopped_service_succeeds;
    rw_5_1_a_service_that_ignores_the_request_to_end_is_killed_and_that_is_reported: a_service_that_ignores_the_request_to_end_is_killed_and_the_stop_reports_it;
    rw_7_1a_while_the_fence_stands_an_ordinary_start_is_refused: while_the_fence_stands_an_ordinary_start_is_refused;
    rw_7_1a_a_fence_that_cannot_be_read_refuses_nevertheless: a_fence_that_cannot_be_read_refuses_nevertheless;
    rw_5_5_the_refresh_that_fenced_the_service_starts_it_through_the_fence: the_refresh_that_fenced_the_service_starts_it_through_the_fence;
    a_service_that_runs_is_not_started_twice: a_service_that_runs_is_not_started_twice;
    two_starts_at_the_same_instant_make_one_service: two_starts_at_the_same_instant_make_one_service;
    the_log_tail_holds_the_lines_of_exactly_this_invocation: the_log_tail_holds_the_lines_of_exactly_this_invocation;
    rw_5_5_the_service_finds_its_environment_file_its_version_and_its_directory: the_service_finds_its_environment_file_its_version_and_its_directory;
    rw_5_5_a_service_is_identified_by_its_process_even_if_it_has_emptied_its_environment: a_service_is_identified_by_its_invocation_even_if_it_has_emptied_its_environment;
}

/// Another process that starts the service: this test program, running only [`a_caller`].
struct Caller {
    child: Child,
}

impl Caller {
    fn spawn(world: &World, role: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service_contract::a_caller", "--ignored", "--nocapture", "--test-threads=1"])
            .env("CALLER_ROOT", world.layout.root())
            .env("CALLER_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Waits until the caller has started the service and reports it.
    fn has_started(&mut self, world: &World) {
        assert!(self.child.try_wait().unwrap().is_none(), "the caller ended");
        until("the caller's start", || world.layout.root().join("started").exists().then_some(()));
    }

    /// Ends the caller as a power cut does.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a test: the process of a [`Caller`].
#[test]
#[ignore = "is run by other tests, as another process"]
fn a_caller() {
    let Some(root) = std::env::var_os("CALLER_ROOT") else { return };
    let layout = Layout::below(root);
    let manager = embedded(&layout, Duration::from_secs(20));
    let role = std::env::var("CALLER_ROLE").unwrap();
    // A descriptor that every child inherits, like one of a careless caller.
    let careless = rustix::io::dup(std::io::stdout()).unwrap();
    if role == "ordinary" {
        manager.start(Admission::Ordinary).unwrap();
        drop(careless);
        return;
    }
    fence::raise(&layout, &run_id(), "refresh in progress").unwrap();
    manager.start(Admission::Refresh(run_id())).unwrap();
    if role == "refresh that settles" {
        fence::lower(&layout).unwrap();
    }
    fs::write(layout.root().join("started"), "").unwrap();
    // Lives until it is killed, or until its parent is killed.
    let _ = std::io::stdin().read(&mut [0; 1]);
}

#[test]
fn the_service_outlives_the_process_that_started_it_and_keeps_none_of_its_descriptors() {
    let world = World::new(&Script::new(service::TELLS_ABOUT_ITSELF));
    let mut caller = Caller::spawn(&world, "ordinary");
    let mut printed = Vec::new();
    // Ends only when no process has the other end open any more: neither the caller, nor the supervisor, nor the
    // service.
    caller.child.stdout.take().unwrap().read_to_end(&mut printed).unwrap();
    caller.child.stderr.take().unwrap().read_to_end(&mut printed).unwrap();
    assert!(caller.child.wait().unwrap().success(), "{}", String::from_utf8_lossy(&printed));

    fact(&world, "ready");
    let main = world.embedded().observe().unwrap().running().expect("it runs").main;
    let supervisor = world.supervisor();
    assert!(supervisor.is_alive());
    let stat = parse_stat(&fs::read_to_string(format!("/proc/{}/stat", supervisor.pid)).unwrap()).unwrap();
    assert_eq!(stat.session, supervisor.pid, "it leads its own session");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", supervisor.pid)).unwrap(), Path::new("/"));

    let noted: serde_json::Value = serde_json::from_str(&fact(&world, "self")).unwrap();
    let fds = noted["fds"].as_object().unwrap();
    assert_eq!(fds["0"], "/dev/null");
    assert_eq!(fds["1"], fds["2"]);
    // A further descriptor is that of the listing itself, which is closed when it is read.
    assert_eq!(fds.len(), 3, "{fds:?}");
    assert_eq!(noted["umask"], 0o022);
    assert_eq!(noted["parent"], supervisor.pid);
    assert!(noted["env"].get("CALLER_ROOT").is_none() && noted["env"].get("LADYLINUX_REFRESH_RUN").is_none());
    assert!(main.is_alive());
}

#[test]
fn rw_7_1a_a_service_does_not_outlive_the_refresh_that_was_checking_it() {
    let world = World::new(&Script::new(service::LEAVES_ORPHANS));
    let mut caller = Caller::spawn(&world, "refresh");
    caller.has_started(&world);
    fact(&world, "ready");
    let orphan = process(&world, "orphan");
    assert!(world.embedded().observe().unwrap().running().is_some());
    caller.kill();
    until("the service's end", || world.embedded().observe().unwrap().is_down().then_some(()));
    assert!(!orphan.is_alive());
    assert!(world.embedded().start(Admission::Ordinary).is_err(), "the fence stands");
}

#[test]
fn rw_5_5_a_healthy_service_outlives_the_refresh_that_started_it() {
    let world = World::new(&Script::new(service::LISTENS));
    let mut caller = Caller::spawn(&world, "refresh that settles");
    caller.has_started(&world);
    fact(&world, "ready");
    // The fence of a later refresh is not the one of this start.
    let later = refresh_settings::names::RunId::parse("later").unwrap();
    fence::raise(&world.layout, &later, "refresh in progress").unwrap();
    let main = world.embedded().observe().unwrap().running().expect("it runs").main;
    caller.kill();
    // The supervisor wakes up at the end of the caller; if it wakes up for a line of output after that, it has noticed
    // the end.
    let supervisor = world.supervisor();
    until("the supervisor to let go of the lease", || {
        let links = fs::read_dir(format!("/proc/{}/fd", supervisor.pid)).unwrap();
        let holds = links
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|link| link.to_string_lossy().contains("pidfd"));
        (!holds).then_some(())
    });
    assert!(main.is_alive());
    assert_eq!(world.embedded().observe().unwrap().running().map(|running| running.main), Some(main));
}

#[test]
fn rw_7_1a_an_admission_of_a_killed_refresh_admits_no_start() {
    let world = World::new(&Script::new(service::LISTENS));
    fence::raise(&world.layout, &run_id(), "refresh in progress").unwrap();
    let mut gone = Command::new("/bin/true").spawn().unwrap();
    let process = ProcessId::of_child(gone.id().try_into().unwrap()).unwrap();
    gone.wait().unwrap();
    fs::create_dir_all(world.layout.volatile()).unwrap();
    let left = serde_json::to_vec(&fence::AdmitRecord { run: run_id(), process }).unwrap();
    fs::write(world.layout.admit(), left).unwrap();
    let failure = world.embedded().start(Admission::Ordinary).unwrap_err();
    assert!(message(&failure).contains("fenced"), "{}", message(&failure));
}

#[test]
fn a_dead_service_is_not_restarted_its_exit_is_recorded_and_its_children_end() {
    let world = World::new(&Script::new(
        "if os.fork() == 0:\n    os.setsid(); note('orphan', os.getpid()); forever()\n\
         while not os.path.exists('orphan'): time.sleep(0.001)\n\
         print('no such table', flush=True); sys.exit(3)",
    ));
    world.embedded().start(Admission::Ordinary).unwrap();
    let last = until("the service's end", || match world.embedded().observe().unwrap() {
        ServiceState::Stopped { last } => Some(last),
        _ => None,
    });
    assert_eq!(last.unwrap().how, ExitKind::Code(3));
    assert_eq!(world.embedded().log_tail(5).unwrap(), ["no such table"]);
    let orphan: i32 = fact(&world, "orphan").parse().unwrap();
    assert_eq!(ProcessId::of(orphan), None);
    until("the supervisor's end", || (!world.supervisor().is_alive()).then_some(()));
    assert_eq!(world.embedded().stop().unwrap().before, Before::Stopped);
}

#[test]
fn rw_5_1_a_service_whose_supervisor_was_killed_is_found_and_ended() {
    let world = World::new(&Script::new(service::LEAVES_ORPHANS).stop_timeout(Duration::from_millis(500)));
    let main = start(&world);
    let orphan = process(&world, "orphan");
    let supervisor = world.supervisor();
    kill_process(Pid::from_raw(supervisor.pid).unwrap(), Signal::KILL).unwrap();
    let left = until("the supervisor's end", || match world.embedded().observe().unwrap() {
        ServiceState::LeftBehind { processes } => Some(processes),
        _ => None,
    });
    assert!(left.contains(&main) && left.contains(&orphan), "{left:?}");
    let failure = world.embedded().start(Admission::Ordinary).unwrap_err();
    assert!(message(&failure).contains("ladylinux-refresh service stop"), "{}", message(&failure));
    let stopped = world.embedded().stop().unwrap();
    assert_eq!((stopped.before, stopped.force), (Before::LeftBehind, Force::Killed), "{stopped}");
    assert!(!main.is_alive() && !orphan.is_alive());
    fs::remove_file(world.layout.app().join("orphan")).unwrap();
    start(&world);
}

#[test]
fn a_program_that_is_missing_or_cannot_run_is_reported_and_nothing_is_left_running() {
    let world = World::new(&Script::new(service::LISTENS));
    let with = |command: &str| {
        let command = vec![command.to_owned()];
        let service = Service { command, stop_timeout: Duration::from_secs(1), ..Service::default() };
        Embedded::new(world.layout.clone(), service)
            .with_program(env!("CARGO_BIN_EXE_ladylinux-refresh").into())
    };
    let missing = with("no-such-program-anywhere").start(Admission::Ordinary).unwrap_err();
    assert!(message(&missing).contains("no-such-program-anywhere"), "{}", message(&missing));
    let broken = world.layout.app().join("broken");
    fs::write(&broken, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let broken = with("{app}/broken");
    let failure = broken.start(Admission::Ordinary).unwrap_err();
    assert!(message(&failure).contains("No such file"), "{}", message(&failure));
    assert_eq!(broken.observe().unwrap(), ServiceState::Stopped { last: None });
}

#[test]
fn a_line_of_the_environment_file_that_sets_nothing_is_a_warning() {
    let world = World::new(&Script::new(service::LISTENS));
    let mut file = fs::OpenOptions::new().append(true).open(world.layout.env_file()).unwrap();
    writeln!(file, "export A=1").unwrap();
    let started = world.embedded().start(Admission::Ordinary).unwrap();
    assert!(started.warnings.iter().any(|warning| warning.contains("line 2")), "{:?}", started.warnings);
}

#[test]
fn rw_5_1_a_stop_uses_the_timeout_that_is_set_now() {
    let mut world =
        World::new(&Script::new(service::IGNORES_SIGTERM).stop_timeout(Duration::from_secs(3600)));
    start(&world);
    world.stop_timeout = Duration::from_millis(50);
    assert_eq!(world.embedded().stop().unwrap().force, Force::Killed);
}

#[test]
fn rw_5_1_a_paused_service_ends_on_request() {
    let world = World::new(&Script::new(service::LISTENS));
    let main = start(&world);
    kill_process(Pid::from_raw(main.pid).unwrap(), Signal::STOP).unwrap();
    let stopped = world.embedded().stop().unwrap();
    assert_eq!(stopped.force, Force::Asked, "{stopped}");
}

#[test]
fn rw_5_1_a_stop_ends_processes_that_are_forked_while_it_kills() {
    let world = World::new(
        &Script::new(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); note('ready', 1)\n\
             while True:\n    time.sleep(0.002)\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(60)\n        os._exit(0)\n    os.wait()",
        )
        .stop_timeout(Duration::from_millis(200)),
    );
    start(&world);
    let mark = ProcessId::own();
    assert_eq!(world.embedded().stop().unwrap().force, Force::Killed);
    let root = world.layout.root().to_str().unwrap().to_owned();
    let left: Vec<ProcessId> = all_pids()
        .into_iter()
        .filter_map(ProcessId::of)
        .filter(|process| *process != mark)
        .filter(|process| {
            process.variable("LADYLINUX_REFRESH_SERVICE").is_some_and(|mark| mark.ends_with(&root))
        })
        .collect();
    assert_eq!(left, []);
}

#[test]
fn root_runs_the_service_as_the_owner_of_the_tree_and_without_groups_of_root() {
    if !rustix::process::geteuid().is_root() {
        // Not root: the owner is the user of this process, which every other test here covers.
        return;
    }
    let world = World::new(&Script::new(service::TELLS_ABOUT_ITSELF));
    std::os::unix::fs::chown(world.layout.app(), Some(65534), Some(65534)).unwrap();
    start(&world);
    let noted: serde_json::Value = serde_json::from_str(&fact(&world, "self")).unwrap();
    assert_eq!(noted["uid"], 65534);
    assert!(noted["groups"].as_array().unwrap().iter().all(|group| *group == 65534), "{noted}");
    world.embedded().stop().unwrap();
}

#[test]
fn rw_5_1_a_service_is_stopped_even_if_nothing_can_be_written() {
    let world = World::new(&Script::new(service::LISTENS));
    let main = start(&world);
    // The file cannot be replaced by a write.
    fs::create_dir_all(world.layout.supervisor().join("stop-timeout/full")).unwrap();
    let stopped = world.manager().stop().unwrap_or_else(|failure| panic!("{}", message(&failure)));
    assert_eq!((stopped.before, stopped.force), (Before::Running, Force::Asked), "{stopped}");
    assert!(!main.is_alive());
}
