//! The effects of crashes, people and full disks: torn files, damaged stores, killed supervisors, failing system calls.
//! A run either refuses before anything is stopped or halts fenced, loses nothing, and the next one converges.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and damage files")]
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "a skipped test is reported")]
#![allow(clippy::type_complexity, reason = "a table of damages reads best in its place")]

use crate::crash;
use crate::dice::print_line;
use crate::host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crash::{EVERYTHING, Environment, Rig, kill};
use host::Ran;

/// The journal of the last run.
fn journal(rig: &Rig) -> PathBuf {
    let mut runs: Vec<PathBuf> = rig.host.runs();
    runs.sort_by_key(|run| fs::metadata(run.join("journal.jsonl")).and_then(|found| found.modified()).ok());
    runs.pop().unwrap().join("journal.jsonl")
}

fn cut(path: &Path, keep: impl FnOnce(usize) -> usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..keep(bytes.len())]).unwrap();
}

#[test]
fn rw_7_1a_a_torn_or_foreign_journal_means_unknown_and_the_next_run_observes_again() {
    let damages: [(&str, fn(&Path)); 5] = [
        ("torn", |path| cut(path, |length| length - 7)),
        ("empty", |path| cut(path, |_| 0)),
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("foreign", |path| fs::write(path, "{\"hello\":1}\n").unwrap()),
        ("without its first half", |path| {
            let bytes = fs::read(path).unwrap();
            let half = bytes.iter().skip(bytes.len() / 2).position(|byte| *byte == b'\n').unwrap();
            fs::write(path, &bytes[bytes.len() / 2 + half + 1..]).unwrap();
        }),
    ];
    let mut rig = Rig::new(Environment::Stays);
    for (what, damage) in damages {
        rig.trying = format!("{what} journal");
        rig.next_version();
        rig.drift();
        assert!(rig.kill(&["run"], Some("worker:align:cleaned#1"), EVERYTHING).by_kill);
        damage(&journal(&rig));
        assert!(rig.host.fenced());
        rig.expect_sound();
        rig.succeed(&["run"]);
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.go_on();
    }
}

/// Returns every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn rw_7_1a_damaged_files_of_the_tool_and_of_git_are_repaired_by_the_next_run() {
    let damages: [(&str, fn(&Rig)); 11] = [
        ("a stale fence", |rig| {
            rig.host.tool(["service", "stop"]).expect(0);
            fs::write(rig.host.layout.fence(), "torn {").unwrap();
            assert_ne!(rig.host.tool(["service", "start"]).code, Some(0));
        }),
        ("a torn status.json", |rig| cut(&rig.host.layout.status_file(), |length| length / 2)),
        ("a torn deployed.env", |rig| cut(&rig.host.layout.deployed_env(), |length| length / 2)),
        ("a torn environment record", |rig| {
            let live = fs::read_link(rig.host.layout.venv()).unwrap();
            let name = live.file_name().unwrap().to_str().unwrap().to_owned();
            cut(&rig.host.layout.environment_records().join(format!("{name}.json")), |length| length / 2);
        }),
        ("a torn report", |rig| {
            let run = journal(rig);
            cut(&run.with_file_name("report.json"), |length| length / 2);
        }),
        ("a mirror without objects", |rig| {
            for file in files(&rig.host.layout.mirror().join("objects")) {
                fs::remove_file(file).unwrap();
            }
        }),
        ("a mirror with torn objects", |rig| {
            let objects = files(&rig.host.layout.mirror().join("objects"));
            assert!(!objects.is_empty());
            for file in objects {
                fs::remove_file(&file).unwrap();
                fs::write(&file, "").unwrap();
            }
        }),
        ("a mirror with torn names", |rig| {
            let names = files(&rig.host.layout.mirror().join("refs"));
            assert!(!names.is_empty());
            for name in names {
                fs::write(name, "").unwrap();
            }
        }),
        ("a mirror without HEAD", |rig| fs::remove_file(rig.host.layout.mirror().join("HEAD")).unwrap()),
        ("an index.lock without a holder", |rig| {
            fs::write(rig.host.layout.app().join(".git/index.lock"), "").unwrap();
        }),
        ("a torn index", |rig| fs::write(rig.host.layout.app().join(".git/index"), "DIRC").unwrap()),
    ];
    let mut rig = Rig::new(Environment::Stays);
    for (what, damage) in damages {
        rig.trying = what.to_owned();
        rig.next_version();
        rig.drift();
        damage(&rig);
        rig.succeed(&["run"]);
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.go_on();
    }
}

#[test]
fn rw_5_1_a_service_whose_supervisor_was_killed_is_stopped_and_refreshed() {
    let mut rig = Rig::new(Environment::Stays);
    for both in [false, true] {
        rig.trying = format!("supervisor killed, service killed: {both}");
        rig.next_version();
        rig.drift();
        let (supervisors, services) = rig.service_processes();
        assert!(supervisors.len() == 1 && !services.is_empty(), "{supervisors:?} {services:?}");
        supervisors.into_iter().for_each(kill);
        if both {
            services.into_iter().for_each(kill);
        }
        rig.succeed(&["run"]);
        rig.expect_converged();
        rig.expect_changes_kept();
        let (supervisors, services) = rig.service_processes();
        assert!(supervisors.len() == 1 && !services.is_empty(), "{supervisors:?} {services:?}");
        rig.go_on();
    }
}

/// Returns whether system calls can be made to fail here. If that is required (`CI=true`), asserts it.
fn faults_can_be_injected() -> bool {
    let tried = Command::new("strace").args(["-f", "-e", "inject=fsync:error=EIO", "true"]).output();
    let there = tried.is_ok_and(|output| output.status.success());
    if !there {
        print_line("LEFT OUT: strace is missing or may not trace, so no system call can be made to fail");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "strace is needed: apt-get install strace");
    }
    there
}

/// Runs the program while system calls that touch `path` (or any path, without one) fail according to `inject`.
fn with_fault(rig: &mut Rig, path: Option<&Path>, inject: &str) -> Ran {
    let calls = inject.split(':').next().unwrap();
    let mut command = Command::new("strace");
    // With -D the program is a child of this process: its tracer stays with the service as long as that runs.
    command.args([
        "-D",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={inject}"),
    ]);
    if let Some(path) = path {
        command.arg("-P").arg(path);
    }
    let tool = rig.host.command(["run"]);
    command.arg(tool.get_program()).args(tool.get_args()).env_clear();
    command.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let printed = rig.host.beside("said");
    let file = fs::File::create(&printed).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut child = command.spawn().unwrap();
    rig.started(child.id());
    let code = child.wait().unwrap().code();
    Ran { code, out: fs::read_to_string(printed).unwrap(), err: String::new() }
}

#[test]
fn rw_7_1a_a_failing_disk_never_leaves_an_unchecked_service_and_the_next_run_converges() {
    /// The place of a fault, and the expected result.
    struct Fault {
        what: &'static str,
        path: fn(&Rig) -> Option<PathBuf>,
        inject: &'static str,
        code: i32,
    }
    // The directory of the state is synced after each of these: the fence is raised, `deployed.env` written, the status
    // written, the fence lowered. The records between the stop and the start are not synced: the fence covers them.
    let state: fn(&Rig) -> Option<PathBuf> = |rig| Some(rig.host.layout.state());
    let faults = [
        Fault {
            what: "the fence cannot be synced, so nothing is stopped",
            path: state,
            inject: "fsync:error=EIO:when=1",
            code: 3,
        },
        Fault {
            what: "the intent to stop cannot be synced, so nothing is stopped",
            path: |_| None,
            inject: "fdatasync:error=EIO:when=6",
            code: 3,
        },
        Fault {
            what: "deployed.env cannot be synced",
            path: state,
            inject: "fsync:error=EIO:when=2",
            code: 1,
        },
        Fault {
            what: "an entry of app/ cannot be moved",
            path: |_| None,
            inject: "renameat2:error=EIO:when=3",
            code: 1,
        },
        Fault {
            what: "the status cannot be synced when the service is proved",
            path: state,
            inject: "fsync:error=EIO:when=3",
            code: 1,
        },
        Fault {
            what: "the fence cannot be lowered",
            path: |rig| Some(rig.host.layout.fence()),
            inject: "/^unlink:error=EIO",
            code: 1,
        },
        Fault {
            what: "the fall of the fence cannot be synced",
            path: state,
            inject: "fsync:error=EIO:when=4",
            code: 1,
        },
    ];
    if !faults_can_be_injected() {
        return;
    }
    let mut rig = Rig::new(Environment::Stays);
    for fault in faults {
        rig.trying = fault.what.to_owned();
        rig.next_version();
        rig.drift();
        let path = (fault.path)(&rig);
        let ran = with_fault(&mut rig, path.as_deref(), fault.inject);
        assert_eq!(ran.code, Some(fault.code), "{}:\n{}", fault.what, ran.all());
        rig.expect_sound();
        if fault.code == 3 {
            assert!(!rig.host.fenced(), "{}", fault.what);
            assert_eq!(rig.host.version(), Some(rig.old.text.clone()), "{}", fault.what);
        } else {
            assert!(rig.host.fenced(), "{}", fault.what);
            assert_eq!(rig.host.report()["service"]["state"], "stopped", "{}:\n{}", fault.what, ran.all());
            let text = fs::read_to_string(journal(&rig)).unwrap();
            assert!(text.lines().last().unwrap().contains("halted"), "{}:\n{text}", fault.what);
        }
        rig.succeed(&["run"]);
        rig.expect_converged();
        rig.expect_changes_kept();
        rig.go_on();
    }
}

#[test]
fn rw_7_1a_a_disk_that_is_full_while_the_environment_is_built_stops_nothing() {
    if !faults_can_be_injected() {
        return;
    }
    let mut rig = Rig::new(Environment::Changes);
    rig.next_version();
    rig.drift();
    rig.succeed(&["run"]);
    rig.trying = "the disk is full while the environment is built".to_owned();
    // The name of the coming environment is known, because it has been built before.
    let built = rig.host.layout.home().join(fs::read_link(rig.host.layout.venv()).unwrap());
    let name = built.file_name().unwrap().to_str().unwrap().to_owned();
    rig.host.tool(["rollback"]).expect(0);
    refresh_system::disk::remove_tree(&built).unwrap();
    for file in files(&rig.host.layout.environment_records()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with(&name) {
            fs::remove_file(file).unwrap();
        }
    }
    rig.drift();
    let ran = with_fault(&mut rig, Some(&built.join("pyvenv.cfg")), "openat:error=ENOSPC");
    assert_eq!(ran.code, Some(3), "{}", ran.all());
    rig.expect_sound();
    assert!(!rig.host.fenced());
    assert_eq!(rig.host.version(), Some(rig.old.text.clone()));
    assert!(!built.exists(), "something of the environment is left");
    rig.succeed(&["run"]);
    rig.expect_converged();
    rig.expect_changes_kept();
}
