//! Starts of units of every type, and the reports of failed ones.

use std::fs;
use std::process::Command;

use refresh_programs::systemd::Bus;
use refresh_service::{Admission, ServiceManager as _, ServiceState};
use refresh_system::error::Failure;
use rustix::process::{Pid, Signal, kill_process};

use super::world::{World, systemctl};
use crate::service::{self, Bench as _, Script, fact, message, start, until};

/// Notifies systemd that it is ready as soon as its `ready` exists.
const NOTIFIES: &str = r#"
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
note("ready", os.getpid())
s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)); forever()
"#;

fn refused(world: &World) -> Failure {
    world.systemd().start(Admission::Ordinary).unwrap_err()
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_5_a_unit_that_notifies_has_started_when_it_reports_that_it_is_ready() {
    let world = World::new(&Script::new(NOTIFIES), "Type=notify");
    let started = world.systemd().start(Admission::Ordinary).unwrap();
    assert_eq!(fact(&world, "ready"), started.main.pid.to_string());
    let again = World::new(&Script::new("note('ready', 1); forever()"), "Type=notify\nTimeoutStartSec=500ms");
    let failure = refused(&again);
    assert!(message(&failure).contains("TimeoutStartSec of 500ms"), "{}", message(&failure));
    assert!(again.systemd().observe().unwrap().is_down());
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1b_a_program_that_cannot_be_run_fails_the_start_of_an_exec_unit() {
    let world = World::new(&Script::new(""), "Type=exec\nExecStart=\nExecStart=/no/such/program");
    let manager = world.systemd();
    let failure = manager.start(Admission::Ordinary).unwrap_err();
    assert!(
        message(&failure).contains("203") && message(&failure).contains("cannot be run"),
        "{}",
        message(&failure)
    );
    let log = manager.log_tail(20).unwrap();
    assert!(log.iter().any(|line| line.starts_with("systemd: ") && line.contains("203/EXEC")), "{log:?}");
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1b_a_failed_start_carries_the_lines_of_exactly_its_invocation() {
    let script = Script::new(
        "n = len(os.listdir('starts')); open(f'starts/{n}', 'w')\nprint('start', n, flush=True); sys.exit(n)",
    );
    let world = World::new(&script, "Type=notify");
    fs::create_dir(world.layout().app().join("starts")).unwrap();
    for n in 0..3 {
        let manager = world.systemd();
        let failure = manager.start(Admission::Ordinary).unwrap_err();
        assert!(message(&failure).contains(&format!("exit code {n}")), "{}", message(&failure));
        let log = manager.log_tail(20).unwrap();
        let own: Vec<&String> = log.iter().filter(|line| !line.starts_with("systemd: ")).collect();
        assert_eq!(own, [&format!("start {n}")], "{log:?}");
    }
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_5_a_unit_that_systemd_gave_up_is_started_nevertheless_and_that_is_reported() {
    let script = Script::new("if os.path.exists('die'): sys.exit(1)\nnote('ready', os.getpid()); forever()");
    let world = World::new(&script, "Type=simple\n[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1h");
    let die = world.layout().app().join("die");
    fs::write(&die, "").unwrap();
    until("the start limit", || (!systemctl(&["start", world.unit.as_str()]).status.success()).then_some(()));
    fs::remove_file(&die).unwrap();
    let started = world.systemd().start(Admission::Ordinary).unwrap();
    assert!(started.warnings.iter().any(|line| line.contains("too quickly")), "{:?}", started.warnings);
    // No number of starts makes systemd give it up.
    for _ in 0..4 {
        world.systemd().stop().unwrap();
        start(&world);
    }
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_5_5_a_restart_by_systemd_is_seen_by_its_count_and_its_invocation() {
    let world = World::new(&Script::new(service::TALKS), "Restart=on-failure\nRestartSec=0");
    let manager = world.systemd();
    let main = manager.start(Admission::Ordinary).unwrap().main;
    fact(&world, "ready");
    let first = manager.observe().unwrap().running().unwrap().clone();
    assert_eq!((first.main, first.restarts), (main, 0));
    fs::remove_file(world.layout().app().join("ready")).unwrap();
    kill_process(Pid::from_raw(main.pid).unwrap(), Signal::KILL).unwrap();
    fact(&world, "ready");
    let second = until("the restart", || manager.observe().unwrap().running().cloned());
    // Once; a systemd that reloads its units in that instant may count it twice.
    assert!(second.restarts > first.restarts, "{second:?}");
    assert_ne!((second.main, &second.invocation), (first.main, &first.invocation));
    // The caller that started it gets the invocation that it started; every other caller gets the current one.
    let has = |log: Vec<String>, n: u32| log.contains(&format!("hello from start {n}"));
    until("the first's lines", || has(manager.log_tail(20).unwrap(), 1).then_some(()));
    until("the second's lines", || has(world.systemd().log_tail(20).unwrap(), 2).then_some(()));
    assert!(!has(manager.log_tail(20).unwrap(), 2));
    assert!(!has(world.systemd().log_tail(20).unwrap(), 1));
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn a_unit_that_is_missing_masked_or_broken_is_reported_as_such() {
    let world = World::new(&Script::new(service::LISTENS), "");
    let not_installed = |word: &str| {
        let state = world.systemd().observe().unwrap();
        assert!(matches!(&state, ServiceState::NotInstalled { why } if why.contains(word)), "{state}");
        assert!(message(&refused(&world)).contains(word));
        assert!(world.systemd().check().is_err());
        world.systemd().stop().unwrap();
    };
    assert!(systemctl(&["mask", world.unit.as_str()]).status.success());
    not_installed("masked");
    assert!(systemctl(&["unmask", world.unit.as_str()]).status.success());
    let text = fs::read_to_string(world.unit_file()).unwrap();
    fs::write(world.unit_file(), text.replace("ExecStart=", "ExecStrat=")).unwrap();
    Bus::connect().unwrap().reload().unwrap();
    not_installed("cannot load");
    fs::remove_file(world.unit_file()).unwrap();
    fs::remove_file(world.drop_in()).unwrap();
    Bus::connect().unwrap().reload().unwrap();
    not_installed("has no unit");
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1b_a_start_that_an_assertion_or_a_condition_forbids_names_it() {
    let world = World::new(&Script::new(service::LISTENS), "[Unit]\nAssertPathExists=/no/such/place");
    let failure = refused(&world);
    assert!(message(&failure).contains("AssertPathExists=/no/such/place"), "{}", message(&failure));
    let world = World::new(&Script::new(service::LISTENS), "[Unit]\nConditionPathExists=/no/such/place");
    let failure = refused(&world);
    assert!(message(&failure).contains("condition"), "{}", message(&failure));
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1b_a_command_before_or_after_the_main_one_that_fails_is_named_with_its_exit_code() {
    for key in ["ExecStartPre", "ExecStartPost"] {
        let world = World::new(&Script::new(service::LISTENS), &format!("{key}=/bin/sh -c 'exit 3'"));
        let words = format!("its {key}=/bin/sh -c exit 3 failed: exit code 3");
        // A systemd that reloads its units in that instant, as other tests make it do, forgets which command it was.
        until(&words, || message(&refused(&world)).contains(&words).then_some(()));
    }
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1b_the_requirements_of_a_unit_are_checked_before_it_is_stopped() {
    let world = World::new(
        &Script::new(service::LISTENS),
        "[Unit]\nRequires=no-such-thing.service\nRefuseManualStop=no",
    );
    let message = message(&world.systemd().check().unwrap_err());
    assert!(message.contains("requires no-such-thing.service, and that unit does not exist"), "{message}");
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn rw_7_1b_a_dependency_that_cannot_be_started_is_reported_as_such() {
    let world = World::new(
        &Script::new(service::LISTENS),
        "[Unit]\nRequires=no-such-thing.service\nAfter=no-such-thing.service",
    );
    let failure = refused(&world);
    assert!(
        message(&failure).contains("no-such-thing") || message(&failure).contains("requires"),
        "{}",
        message(&failure)
    );
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn a_user_without_the_right_to_start_the_unit_gets_that_reason() {
    let world = World::new(&Script::new(service::LISTENS), "");
    let program = std::env::current_exe().unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["--exact", "service_systemd::start::a_caller_without_rights", "--ignored", "--nocapture"])
        .env("CALLER_ROOT", world.layout().root())
        .env("CALLER_UNIT", world.unit.as_str())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(world.systemd().observe().unwrap().is_down());
}

/// Not a separate test: the process that [`a_user_without_the_right_to_start_the_unit_gets_that_reason`] runs.
#[test]
#[ignore = "is run by another test, as another user"]
fn a_caller_without_rights() {
    let (Some(root), Some(unit)) = (std::env::var_os("CALLER_ROOT"), std::env::var("CALLER_UNIT").ok())
    else {
        return;
    };
    let runner = refresh_programs::process::Runner::new(std::sync::Arc::new(
        refresh_events::event::Events::new(Vec::new()),
    ));
    let layout = refresh_settings::layout::Layout::below(root);
    let unit = refresh_settings::names::UnitName::parse(&unit).unwrap();
    let manager = refresh_service::systemd::Systemd::new(layout, unit, runner);
    assert!(manager.observe().unwrap().is_down(), "everybody may look");
    let failure = manager.start(Admission::Ordinary).unwrap_err();
    assert!(message(&failure).to_lowercase().contains("auth"), "{}", message(&failure));
}
