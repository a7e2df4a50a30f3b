//! The fence against every other start of a unit: people, `Restart=`, dependencies, sockets. (A reboot is tested from
//! outside of the machine.)

use std::fs;
use std::os::unix::net::UnixStream;

use refresh_service::{Admission, ServiceManager as _, ServiceState, fence};
use rustix::process::{Pid, Signal, kill_process};

use super::world::{World, systemctl};
use crate::service::{self, Bench as _, Script, fact, run_id, start, until};

fn raise(world: &World) {
    fence::raise(world.layout(), &run_id(), "refresh in progress").unwrap();
}

#[track_caller]
fn stays_down(world: &World) {
    let state = world.systemd().observe().unwrap();
    assert!(matches!(state, ServiceState::Stopped { .. }), "{state}");
    assert!(!world.layout().app().join("ready").exists());
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1a_a_manual_start_fails_with_a_message_while_the_fence_stands() {
    let world = World::new(&Script::new(service::LISTENS), "");
    raise(&world);
    for verb in ["start", "restart"] {
        let output = systemctl(&[verb, world.unit.as_str()]);
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && printed.contains("Assertion failed"), "{printed}");
    }
    stays_down(&world);
    fence::lower(world.layout()).unwrap();
    assert!(systemctl(&["start", world.unit.as_str()]).status.success());
    fact(&world, "ready");
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1a_systemd_does_not_restart_a_service_that_dies_behind_the_fence() {
    let world = World::new(&Script::new(service::LISTENS), "Restart=always\nRestartSec=0");
    raise(&world);
    let main = world.systemd().start(Admission::Refresh(run_id())).unwrap().main;
    fact(&world, "ready");
    fs::remove_file(world.layout().app().join("ready")).unwrap();
    kill_process(Pid::from_raw(main.pid).unwrap(), Signal::KILL).unwrap();
    until("systemd's restart to be refused", || {
        (world.fact("AssertResult") == "no" && world.fact("ActiveState") != "activating").then_some(())
    });
    stays_down(&world);
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1a_a_unit_that_needs_the_service_does_not_start_it_behind_the_fence() {
    let world = World::new(&Script::new(service::LISTENS), "");
    raise(&world);
    for (need, starts) in [("Requires", false), ("Wants", true)] {
        let unit = world.unit.as_str();
        let text = format!(
            "[Unit]\n{need}={unit}\nAfter={unit}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
        );
        let other = world.add_unit(&format!("{}.service", need.to_lowercase()), &text);
        assert_eq!(systemctl(&["start", &other]).status.success(), starts, "{need}");
        stays_down(&world);
    }
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1a_a_socket_does_not_start_the_service_behind_the_fence() {
    let world = World::new(&Script::new(service::LISTENS), "");
    raise(&world);
    let path = world.layout().root().join("socket");
    let text = format!("[Socket]\nListenStream={}\nService={}\n", path.display(), world.unit);
    let socket = world.add_unit("door.socket", &text);
    assert!(systemctl(&["start", &socket]).status.success());
    let knock = UnixStream::connect(&path).unwrap();
    until("systemd's start to be refused", || (world.fact("AssertResult") == "no").then_some(()));
    stays_down(&world);
    drop(knock);
    systemctl(&["stop", &socket]);
    systemctl(&["reset-failed", &socket]);
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1a_a_gate_that_is_closed_before_systemd_runs_the_start_admits_no_start() {
    // The service is about to stop when the start is requested, so the start waits; by then the gate is closed.
    let world = World::new(
        &Script::new(
            "def end(*_):\n    note('ending', 1)\n    while not os.path.exists('end'): time.sleep(0.01)\n    os._exit(0)\n\
             signal.signal(signal.SIGTERM, end)\nnote('ready', os.getpid()); forever()",
        ),
        "",
    );
    start(&world);
    raise(&world);
    fs::remove_file(world.layout().app().join("ready")).unwrap();
    assert!(systemctl(&["stop", "--no-block", world.unit.as_str()]).status.success());
    fact(&world, "ending");
    fence::admitted(world.layout(), &run_id(), || {
        assert!(systemctl(&["start", "--no-block", world.unit.as_str()]).status.success());
        Ok(())
    })
    .unwrap();
    fs::write(world.layout().app().join("end"), "").unwrap();
    until("the start to be refused", || {
        (world.fact("AssertResult") == "no" && world.fact("ActiveState") == "inactive").then_some(())
    });
    stays_down(&world);
}
