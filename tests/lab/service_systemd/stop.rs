//! Stops that systemd alone does not complete, or that another event interrupts.

use std::fs;
use std::thread;
use std::time::Duration;

use refresh_programs::process::ProcessId;
use refresh_programs::systemd::Bus;
use refresh_service::{Before, Force, ServiceManager as _, ServiceState, fence, port};

use super::world::{World, systemctl};
use crate::service::{self, Bench as _, Script, process, run_id, start, until};

/// Leaves a worker that holds the port and ends on request.
const LEAVES_A_WORKER: &str = r#"
s = listen(); os.set_inheritable(s.fileno(), True)
if os.fork() == 0:
    note("worker", os.getpid()); forever()
while not os.path.exists("worker"): time.sleep(0.001)
note("ready", os.getpid()); forever()
"#;

/// Ends only when a file exists.
const ENDS_SLOWLY: &str = r#"
def end(*_):
    note("ending", 1)
    while not os.path.exists("end"): time.sleep(0.01)
    os._exit(0)
signal.signal(signal.SIGTERM, end); note("ready", os.getpid()); forever()
"#;

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_workers_that_outlive_kill_mode_process_are_ended_and_reported() {
    let world = World::new(&Script::new(LEAVES_A_WORKER), "KillMode=process");
    start(&world);
    let worker = process(&world, "worker");
    assert!(world.systemd().owns(worker).unwrap());
    assert!(!world.systemd().owns(ProcessId::own()).unwrap());
    let stopped = world.systemd().stop().unwrap();
    assert_eq!((stopped.before, stopped.force), (Before::Running, Force::Asked), "{stopped}");
    assert!(stopped.leftovers.iter().any(|left| left.starts_with(&format!("{} ", worker.pid))), "{stopped}");
    assert!(stopped.notes.iter().any(|note| note.contains("KillMode=process")), "{:?}", stopped.notes);
    assert!(!worker.is_alive());
    assert_eq!(port::holder(world.port()).unwrap(), None);
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_workers_that_the_stop_of_another_program_left_are_found_and_ended() {
    let world = World::new(&Script::new(LEAVES_A_WORKER), "KillMode=process");
    start(&world);
    let worker = process(&world, "worker");
    assert!(systemctl(&["stop", world.unit.as_str()]).status.success());
    assert!(worker.is_alive());
    let state = world.systemd().observe().unwrap();
    assert_eq!(state, ServiceState::LeftBehind { processes: vec![worker] });
    assert!(world.systemd().owns(worker).unwrap());
    let stopped = world.systemd().stop().unwrap();
    assert_eq!((stopped.before, stopped.force), (Before::LeftBehind, Force::Asked), "{stopped}");
    assert!(!worker.is_alive());
    assert!(world.systemd().observe().unwrap().is_down());
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_workers_that_ignore_the_request_to_end_are_killed_through_the_cgroup() {
    let world = World::new(&Script::new(service::LEAVES_ORPHANS), "KillMode=process\nTimeoutStopSec=500ms");
    start(&world);
    let orphan = process(&world, "orphan");
    let stopped = world.systemd().stop().unwrap();
    assert_eq!(stopped.force, Force::LeftoversKilled, "{stopped}");
    assert!(!orphan.is_alive());
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_a_stop_that_systemd_ended_by_sigkill_reports_it_with_the_reason() {
    let script = Script::new(service::IGNORES_SIGTERM).stop_timeout(Duration::from_millis(400));
    let world = World::new(&script, "");
    start(&world);
    let stopped = world.systemd().stop().unwrap();
    assert_eq!(stopped.force, Force::Killed);
    assert_eq!(stopped.exit.unwrap().how.to_string(), "ended by SIGKILL");
    assert!(stopped.notes.iter().any(|note| note.contains("TimeoutStopSec of 400ms")), "{:?}", stopped.notes);
    let last = world.systemd().observe().unwrap();
    assert!(last.is_down(), "{last}");
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_a_unit_without_a_limit_that_ignores_the_request_to_end_is_killed_nevertheless() {
    let world = World::new(&Script::new(service::IGNORES_SIGTERM), "TimeoutStopSec=infinity");
    start(&world);
    let stopped = world.systemd().without_limit(Duration::from_millis(500)).stop().unwrap();
    assert_eq!(stopped.force, Force::Killed);
    assert!(stopped.took < Duration::from_secs(30), "{stopped}");
    assert!(stopped.notes.iter().any(|note| note.contains("TimeoutStopSec=infinity")), "{:?}", stopped.notes);
    assert!(world.systemd().observe().unwrap().is_down());
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_a_unit_that_waits_for_its_automatic_restart_is_stopped_too() {
    let world = World::new(&Script::new("sys.exit(3)"), "Restart=always\nRestartSec=1h");
    assert!(systemctl(&["start", world.unit.as_str()]).status.success());
    let waiting = until("the wait for the restart", || {
        let state = world.systemd().observe().unwrap();
        state.to_string().contains("waiting to be restarted").then_some(state)
    });
    assert!(!waiting.is_down() && waiting.to_string().contains("exit code 3"), "{waiting}");
    assert_eq!(world.systemd().stop().unwrap().before, Before::Running);
    assert!(world.systemd().observe().unwrap().is_down());
}

/// Stops a service and calls `disturb` between the request to end and the end.
fn disturbed_by(world: &World, disturb: impl Fn()) {
    start(world);
    fence::raise(world.layout(), &run_id(), "refresh in progress").unwrap();
    thread::scope(|scope| {
        let stop = scope.spawn(|| world.systemd().stop());
        until("the request to end", || world.layout().app().join("ending").exists().then_some(()));
        disturb();
        fs::write(world.layout().app().join("end"), "").unwrap();
        let stopped = stop.join().unwrap().unwrap();
        assert_eq!((stopped.before, stopped.force), (Before::Running, Force::Asked), "{stopped}");
    });
    let state = world.systemd().observe().unwrap();
    assert!(state.is_down(), "{state}");
    fence::lower(world.layout()).unwrap();
    let _ = fs::remove_file(world.layout().app().join("ending"));
    start(world);
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_a_stop_is_not_lost_when_systemd_reloads_its_units_meanwhile() {
    let world = World::new(&Script::new(ENDS_SLOWLY), "");
    let bus = Bus::connect().unwrap();
    disturbed_by(&world, || (0..3).for_each(|_| bus.reload().unwrap()));
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_1_a_stop_is_not_lost_when_systemd_is_executed_anew_meanwhile() {
    let world = World::new(&Script::new(ENDS_SLOWLY), "");
    disturbed_by(&world, || assert!(systemctl(&["daemon-reexec"]).status.success()));
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1a_a_start_that_another_program_requests_during_the_stop_does_not_keep_the_service_up() {
    let world = World::new(&Script::new(ENDS_SLOWLY), "");
    let unit = world.unit.to_string();
    disturbed_by(&world, || assert!(systemctl(&["start", "--no-block", &unit]).status.success()));
}
