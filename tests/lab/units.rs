//! Units on a real machine: transient services of systemd with the whole table.
//!
//! Actions that must happen inside a machine are in tests of this file that are ignored here. The other tests copy this
//! test program into a machine and run one of them there.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests create the input of the program, and print their measurements"
)]

use crate::lab;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lab::{Lab, Machine};
use refresh_events::event::Events;
use refresh_events::run_report::Enforcement;
use refresh_programs::process::{ChildEnd, Program, Runner};
use refresh_programs::units::operations::{READY, Ready, ReadyRequest};
use refresh_programs::units::{Access, Bind, Role, UnitOptions, Units, users};
use refresh_settings::layout::Layout;
use refresh_system::disk::Owner;

/// The path of this test program in a machine.
const INSIDE: &str = "/usr/local/bin/inside";

/// Boots a machine with the program, its users and the directories of an installation.
fn machine(lab: &Lab) -> Machine {
    let machine = Machine::boot(lab, "web");
    machine.install_tool();
    machine.copy_in(&std::env::current_exe().unwrap(), INSIDE, 0o755);
    machine.add_service_user();
    machine.write("/usr/lib/sysusers.d/ladylinux-refresh.conf", &users::sysusers());
    machine.exec("systemd-sysusers").expect(0);
    machine.exec("install -d /var/lib/ladylinux-refresh /opt/ladylinux /srv/tree /srv/environment").expect(0);
    let theirs = "install -d -o ladylinux -g ladylinux /opt/ladylinux/app /opt/ladylinux/models \
                  /var/lib/ladylinux/data";
    machine.exec(theirs).expect(0);
    machine
}

#[track_caller]
fn run_inside(machine: &Machine, test: &str) {
    let line = format!("{INSIDE} --ignored --exact --nocapture units::{test}");
    let ran = machine.exec(&line).expect(0).prints("1 passed");
    // The measurements in the machine, for a run with --nocapture.
    eprint!("{}", ran.err);
}

#[test]
fn every_role_is_confined_as_in_its_row_of_the_table() {
    let Some(lab) = Lab::open() else { return };
    run_inside(&machine(&lab), "inside_every_role");
}

#[test]
fn no_unit_is_more_exposed_than_3_0() {
    let Some(lab) = Lab::open() else { return };
    run_inside(&machine(&lab), "inside_exposure");
}

#[test]
fn a_waiting_unit_cannot_be_traced_and_is_replaced_when_it_is_ended() {
    let Some(lab) = Lab::open() else { return };
    run_inside(&machine(&lab), "inside_waiting");
}

#[test]
fn requests_that_only_read_share_a_unit_until_it_is_ended() {
    let Some(lab) = Lab::open() else { return };
    run_inside(&machine(&lab), "inside_sessions");
}

#[test]
fn nothing_outlives_its_unit_and_failures_have_a_cause() {
    let Some(lab) = Lab::open() else { return };
    run_inside(&machine(&lab), "inside_ends");
}

fn units() -> Units {
    let runner = Runner::new(Arc::new(Events::silent()))
        .with_worker(PathBuf::from("/usr/local/bin/ladylinux-refresh"));
    let service = Owner::named("ladylinux").unwrap().unwrap();
    Units::new(&Layout::below("/"), &runner, service)
}

fn options(role: Role) -> UnitOptions {
    UnitOptions::new(role, Duration::from_secs(60))
}

fn sh(script: &str) -> Program {
    Program::new("/bin/sh").arg("-c").arg(script)
}

#[track_caller]
fn prints(units: &Units, options: &UnitOptions, script: &str) -> String {
    let finished = units.run(options, &sh(script)).unwrap();
    assert!(finished.succeeded(), "{script}: {finished:?} {}", String::from_utf8_lossy(&finished.stderr));
    finished.text().trim().to_owned()
}

#[test]
#[ignore = "runs inside a machine"]
fn inside_every_role() {
    let units = units();
    assert_eq!(units.enforcement().unwrap(), Enforcement::Enforced);
    for &role in Role::ALL {
        let user = match role {
            Role::Fetch | Role::Build => "ladylinux-refresh",
            Role::Rehearse | Role::Hold | Role::Probe => "ladylinux-staging",
            _ => "ladylinux",
        };
        assert_eq!(prints(&units, &options(role), "id -un; umask"), format!("{user}\n0022"));
        let status = prints(
            &units,
            &options(role),
            "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status",
        );
        // The unit that has the sockets can set options of them.
        let capabilities = if role == Role::Hold { "0000000000001000" } else { "0000000000000000" };
        for line in [
            &format!("CapEff:\t{capabilities}"),
            &format!("CapBnd:\t{capabilities}"),
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(line), "{role:?}: {status}");
        }
        let network =
            prints(&units, &options(role), "cat /proc/self/net/dev | wc -l; ls /proc | grep -c '^1$' || :");
        assert!(network.ends_with("\n0"), "{role:?} sees process 1: {network}");
        let owner = units.user_of(role).unwrap();
        let place = format!("/srv/place-{user}");
        std::fs::create_dir_all(&place).unwrap();
        std::os::unix::fs::chown(&place, Some(owner.uid), Some(owner.gid)).unwrap();
        let write = format!("echo x >{place}/file");
        let refused = units.run(&options(role), &sh(&write)).unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only"), "{role:?}: {refused:?}");
        prints(&units, &options(role).writes(&place), &write);
        let terminal = units.run(&options(role), &sh("echo x >/dev/tty")).unwrap();
        assert!(!terminal.succeeded(), "{role:?} has a terminal");
    }
    let bind = Bind {
        source: "/srv/tree".into(),
        destination: "/opt/ladylinux/app".into(),
        access: Access::ReadWrite,
    };
    std::fs::write("/srv/tree/here", "prepared\n").unwrap();
    let staging = units.user_of(Role::Rehearse).unwrap();
    std::os::unix::fs::chown("/srv/tree", Some(staging.uid), Some(staging.gid)).unwrap();
    let rehearsal = options(Role::Rehearse).sees(bind);
    let seen = prints(&units, &rehearsal, "cd /opt/ladylinux/app && cat here && echo built >product");
    assert_eq!(seen, "prepared");
    assert_eq!(std::fs::read_to_string("/srv/tree/product").unwrap(), "built\n");
}

/// Returns the units of a role that exist.
fn names(role: Role) -> Vec<String> {
    let pattern = format!("ladylinux-refresh-{role}-*");
    let output =
        Command::new("systemctl").args(["list-units", "--all", "--plain", "--no-legend", &pattern]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Waits until systemd has no unit of a role any more: it lists a unit for a moment after its last process has ended.
fn await_gone(role: Role) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !names(role).is_empty() {
        assert!(std::time::Instant::now() < end, "units outlive their end: {:?}", names(role));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "runs inside a machine"]
fn inside_exposure() {
    let units = units();
    for &role in Role::ALL {
        let waiting = units.wait_in_unit(&options(role), READY, &ReadyRequest {}).unwrap();
        let names = names(role);
        assert_eq!(names.len(), 1, "{names:?}");
        let output =
            Command::new("systemd-analyze").args(["security", "--no-pager", &names[0]]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let level = text.lines().find(|line| line.contains("Overall exposure level")).expect("a level");
        let number = level.split(": ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        eprintln!("{role:?}: {number}");
        assert!(number.parse::<f64>().unwrap() <= 3.0, "{role:?}: {text}");
        waiting.end();
        await_gone(role);
    }
}

#[test]
#[ignore = "runs inside a machine"]
fn inside_sessions() {
    let units = units().with_sessions();
    let ask = |options: &UnitOptions| units.call::<_, Ready>(options, READY, &ReadyRequest {}).unwrap().user;
    let reading = options(Role::Inspect);
    units.start_beforehand(Role::Inspect);
    assert_eq!(ask(&reading), units.user_of(Role::Inspect).unwrap());
    let first = names(Role::Inspect);
    ask(&reading.clone().writes("/var/lib/ladylinux-refresh/scratch/own"));
    assert_eq!(names(Role::Inspect), first, "a second request has another unit");
    assert_eq!(first.len(), 1);
    assert_eq!(ask(&options(Role::Build)), units.user_of(Role::Build).unwrap(), "another role, another user");
    // Each request that does more than read has a separate unit, which ends with its response.
    ask(&reading.clone().writes("/srv"));
    assert_eq!(names(Role::Inspect), first);
    for signal in ["KILL", "STOP", "TERM"] {
        let kill = ["kill", "--kill-whom=main", "--signal", signal, &names(Role::Inspect)[0]];
        let killed = Command::new("systemctl").args(kill).output().unwrap();
        assert!(killed.status.success(), "SIG{signal}: {killed:?}");
        assert_eq!(ask(&reading), units.user_of(Role::Inspect).unwrap(), "after SIG{signal}");
        assert_eq!(names(Role::Inspect).len(), 1);
    }
    units.keep_ready(Role::Probe).unwrap();
    let probe = names(Role::Probe);
    units.end_sessions(Some(Role::Probe));
    await_gone(Role::Inspect);
    units.keep_ready(Role::Probe).unwrap();
    assert_eq!(
        (names(Role::Probe), probe.len()),
        (probe, 1),
        "the unit of the health check waits through the stop"
    );
    units.end_sessions(None);
    for role in [Role::Probe, Role::Inspect, Role::Build] {
        await_gone(role);
    }
    ask(&reading);
    drop(units);
    await_gone(Role::Inspect);
}

#[test]
#[ignore = "runs inside a machine"]
fn inside_waiting() {
    let units = units();
    let options = options(Role::Align);
    let mut waiting = units.wait_in_unit(&options, READY, &ReadyRequest {}).unwrap();
    let unit = names(Role::Align).remove(0);
    let main = || {
        let unit = names(Role::Align).remove(0);
        let output =
            Command::new("systemctl").args(["show", "--value", "-p", "MainPID", &unit]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let pid = main();
    let as_service = |line: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid=ladylinux", "--regid=ladylinux", "--clear-groups", "/bin/sh", "-c", line])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, _) = as_service(&format!("ls /proc/{pid}/root/ /proc/{pid}/fd/"));
    assert!(!done, "the service user sees through /proc/{pid}");
    let attach = "import ctypes,sys; l=ctypes.CDLL(None,use_errno=True); \
                  sys.exit(0 if l.ptrace(16,int(sys.argv[1]),0,0)==0 else ctypes.get_errno())";
    let (done, printed) = as_service(&format!("python3 -c '{attach}' {pid}"));
    assert!(!done && printed.is_empty(), "the service user traces the unit: {printed}");
    // The same attack on an ordinary process of the same user succeeds, so the test is meaningful.
    let (done, printed) =
        as_service(&format!("sleep 60 & python3 -c '{attach}' $!; code=$?; kill -KILL $!; exit $code"));
    assert!(done, "{printed}");
    assert!(as_service(&format!("kill -STOP {pid}")).0);
    let _: Ready = waiting.ask(&ReadyRequest {}).unwrap();
    assert_eq!((waiting.fresh_started(), main()), (0, pid.clone()));
    assert!(as_service(&format!("kill -KILL {pid}")).0);
    let _: Ready = waiting.ask(&ReadyRequest {}).unwrap();
    assert_eq!(waiting.fresh_started(), 1);
    assert_ne!(names(Role::Align), [unit]);
    drop(waiting);
}

#[test]
#[ignore = "runs inside a machine"]
fn inside_ends() {
    let units = units();
    let finished = units.run(&options(Role::Hooks), &sh("setsid sleep 1234 & echo $!; exit 3")).unwrap();
    assert_eq!(finished.ended, ChildEnd::Exited(3));
    let pid = finished.text();
    assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "a descendant outlived its unit");
    let finished = units.run(&options(Role::Hooks), &sh("kill -SEGV $$")).unwrap();
    assert_eq!(finished.ended, ChildEnd::Signalled(11));
    let short = UnitOptions::new(Role::Hooks, Duration::from_millis(500));
    let finished = units.run(&short, &sh("trap '' TERM; sleep 60; sleep 61")).unwrap();
    assert!(matches!(finished.ended, ChildEnd::PastDeadline(_)), "{finished:?}");
    let missing = Bind {
        source: "/nowhere".into(),
        destination: "/opt/ladylinux/app".into(),
        access: Access::ReadOnly,
    };
    let failed = units.run(&options(Role::Rehearse).sees(missing), &sh("true")).unwrap_err();
    assert!(failed.chain().join(": ").contains("its view of the file system"), "{:?}", failed.chain());
    let begun = std::time::Instant::now();
    for _ in 0..10 {
        let _: Ready = units.call(&options(Role::Inspect), READY, &ReadyRequest {}).unwrap();
    }
    eprintln!("one call takes {:?}", begun.elapsed() / 10);
    let left = Command::new("systemctl")
        .args(["list-units", "--all", "--plain", "--no-legend", "ladylinux-refresh-*"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
}
