//! Units without systemd: processes that this program confines itself, below a root.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests create the input of the program")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use refresh_events::event::Events;
use refresh_events::run_report::Enforcement;
use refresh_programs::process::identity::all_pids;
use refresh_programs::process::{ChildEnd, Program, Runner};
use refresh_programs::units::operations::{READY, Ready, ReadyRequest};
use refresh_programs::units::{Credential, Role, UnitOptions, Units};
use refresh_settings::layout::Layout;
use refresh_system::disk::Owner;

struct World {
    _root: tempfile::TempDir,
    layout: Layout,
    units: Units,
}

fn world() -> World {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::below(root.path());
    for directory in [layout.app(), layout.models(), layout.state()] {
        fs::create_dir_all(directory).unwrap();
    }
    let runner = Runner::new(Arc::new(Events::silent()))
        .with_worker(PathBuf::from(env!("CARGO_BIN_EXE_ladylinux-refresh")));
    let units = Units::new(&layout, &runner, Owner::own());
    World { _root: root, layout, units }
}

fn options(role: Role) -> UnitOptions {
    UnitOptions::new(role, Duration::from_secs(60))
}

fn sh(script: &str) -> Program {
    Program::new("/bin/sh").arg("-c").arg(script)
}

fn has_landlock(units: &Units) -> bool {
    match units.enforcement().unwrap() {
        Enforcement::Enforced => true,
        Enforcement::Missing(all) => !all.iter().any(|one| one.contains("Landlock")),
    }
}

#[test]
fn rw_6_1_a_program_can_write_to_its_own_directories_and_not_to_models() {
    let world = world();
    let (app, models) = (world.layout.app(), world.layout.models());
    let script = format!(
        "echo ok >{}/note && echo tmp >$TMPDIR/x && mv $TMPDIR/x {}/moved; echo bad >{}/weights; echo $?",
        app.display(),
        app.display(),
        models.display()
    );
    let finished = world.units.run(&options(Role::Hooks).writes(&app), &sh(&script)).unwrap();
    assert_eq!(fs::read_to_string(app.join("note")).unwrap(), "ok\n");
    assert_eq!(fs::read_to_string(app.join("moved")).unwrap(), "tmp\n");
    if has_landlock(&world.units) {
        assert_ne!(finished.text().trim(), "0", "{finished:?}");
        assert!(!models.join("weights").exists());
    }
    let left: Vec<_> = fs::read_dir(world.layout.volatile()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_copy_of_a_secret_exists_as_long_as_the_job() {
    let world = world();
    let secret = world.layout.state().join("token");
    fs::write(&secret, "s3cret").unwrap();
    let with_secret = |deadline| {
        let credential = Credential { name: "token".to_owned(), source: secret.clone() };
        let mut options = UnitOptions::new(Role::Fetch, deadline);
        options.credentials.push(credential);
        options
    };
    let left = || fs::read_dir(world.layout.volatile()).map_or(0, Iterator::count);
    let read = sh(&format!(
        "cat {0}/credentials-*/token; stat -c %a {0}/credentials-*",
        world.layout.volatile().display()
    ));
    let finished = world.units.run(&with_secret(Duration::from_secs(60)), &read).unwrap();
    assert_eq!(finished.text(), "s3cret700\n");
    assert_eq!(left(), 0);
    let late = world.units.run(&with_secret(Duration::from_millis(300)), &sh("sleep 60")).unwrap();
    assert!(matches!(late.ended, ChildEnd::PastDeadline(_)), "{late:?}");
    assert_eq!(left(), 0);
    let waiting =
        world.units.wait_in_unit(&with_secret(Duration::from_secs(60)), READY, &ReadyRequest {}).unwrap();
    assert_eq!(left(), 1);
    waiting.end();
    assert_eq!(left(), 0);
}

#[test]
fn a_program_gets_its_own_environment_directory_and_input_and_its_code_is_returned() {
    let world = world();
    let program = sh("cat; pwd; echo $GREETING; grep NoNewPrivs /proc/self/status; exit 7")
        .input(b"input\n".to_vec())
        .env("GREETING", "hello")
        .directory(world.layout.app());
    let finished = world.units.run(&options(Role::Hooks), &program).unwrap();
    assert_eq!(finished.ended, ChildEnd::Exited(7));
    let expected = format!("input\n{}\nhello\nNoNewPrivs:\t1\n", world.layout.app().display());
    assert_eq!(finished.text(), expected);
}

#[test]
fn a_program_that_does_not_exist_is_reported_by_name() {
    let world = world();
    let finished = world.units.run(&options(Role::Hooks), &Program::new("/nowhere/at-all")).unwrap();
    assert!(!finished.succeeded());
    assert!(String::from_utf8_lossy(&finished.stderr).contains("/nowhere/at-all"), "{finished:?}");
}

#[test]
fn a_unit_past_its_deadline_is_ended_with_all_that_it_started() {
    let world = world();
    let options = UnitOptions::new(Role::Hooks, Duration::from_millis(500));
    let finished = world.units.run(&options, &sh("sleep 61 & echo $!; sleep 62")).unwrap();
    assert!(matches!(finished.ended, ChildEnd::PastDeadline(_)), "{finished:?}");
    let pid: i32 = finished.text().trim().parse().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn an_operation_answers_and_an_unknown_one_is_a_failure() {
    let world = world();
    let request = ReadyRequest {};
    let options = options(Role::Inspect);
    let _: Ready = world.units.call(&options, READY, &request).unwrap();
    let failed = world.units.call::<_, Ready>(&options, "no-such-operation", &request).unwrap_err();
    assert!(failed.chain().join("\n").contains("no-such-operation"), "{:?}", failed.chain());
}

#[test]
fn a_waiting_unit_answers_many_times_and_is_replaced_when_others_end_it() {
    let world = world();
    let request = ReadyRequest {};
    let options = options(Role::Align);
    let mut waiting = world.units.wait_in_unit(&options, READY, &request).unwrap();
    for _ in 0..3 {
        let _: Ready = waiting.ask(&request).unwrap();
    }
    let own = std::process::id().to_string();
    let unit = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent == Some(own.as_str()) && line.contains(&format!("unit\0{READY}"))
    };
    let pid = all_pids().into_iter().find(unit).expect("the waiting unit");
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let _: Ready = waiting.ask(&request).unwrap();
    assert_eq!(waiting.fresh_started(), 0, "a stopped one goes on");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let _: Ready = waiting.ask(&request).unwrap();
    assert!(waiting.is_alive());
    assert_eq!(waiting.fresh_started(), 1);
    waiting.end();
}
