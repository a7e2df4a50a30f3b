//! A machine of version 0.1 is migrated to this version. `data/machine-0.1.tar.gz` contains the files that 0.1 left on
//! a machine of the lab after `init` and two runs, without its caches and tools.

use crate::lab;

use std::path::Path;

use lab::{Lab, Machine, until};

const OLD: &str = "/var/lib/ladylinux/refresh";
const NEW: &str = "/var/lib/ladylinux-refresh";

/// A machine in the state of 0.1: the service runs the second commit in the environment that 0.1 built, and `adopted-1`
/// is the environment from before.
fn machine_of_0_1(lab: &Lab) -> Machine {
    let machine = Machine::boot(lab, "host");
    machine.add_service_user();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/machine-0.1.tar.gz");
    machine.copy_in(&data, "/srv/machine.tar.gz", 0o644);
    machine.exec("tar -C / -xzf /srv/machine.tar.gz && systemctl daemon-reload").expect(0);
    machine.exec("systemctl start ladylinux-api ladylinux-refresh-request.path").expect(0);
    until("the application", || version(&machine));
    machine.install_tool();
    machine.exec("git clone --quiet /srv/app.git /srv/work").expect(0);
    machine
}

fn push(machine: &Machine, version: &str) {
    machine.write("/srv/work/version", &format!("{version}\n"));
    let commit = "git -c user.name=x -c user.email=x@x commit --quiet --message change";
    machine
        .exec(&format!("cd /srv/work && git add -A && {commit} && git push --quiet origin main"))
        .expect(0);
}

fn version(machine: &Machine) -> Option<String> {
    machine.http("http://127.0.0.1:8000/version").map(|text| text.trim().to_owned())
}

#[test]
fn a_run_migrates_a_machine_of_0_1_and_refreshes_it() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine_of_0_1(&lab);
    assert_eq!(version(&machine).as_deref(), Some("two"));
    machine.refresh("status").expect(3).prints("of version 0.1").prints("ladylinux-refresh init");
    machine.refresh("init --dry-run").expect(0).prints("would move the state of version 0.1");
    assert!(machine.path(OLD).join("runs").is_dir(), "a dry run moved something");

    push(&machine, "three");
    machine
        .refresh("run")
        .expect(0)
        .prints(
            "moved the state of version 0.1 from /var/lib/ladylinux/refresh to /var/lib/ladylinux-refresh",
        )
        .prints("moved the mirror to /opt/ladylinux-refresh/mirror.git")
        .prints("moved the environments from /opt/ladylinux/venvs to /opt/ladylinux-refresh/environments")
        .prints("to the new places")
        .prints("gave /opt/ladylinux and /var/lib/ladylinux to uid");
    assert_eq!(version(&machine).as_deref(), Some("three"));
    // The service user owns again the directories that 0.1 took, and the application makes new directories.
    let owners = machine.exec("stat -c %U /opt/ladylinux /var/lib/ladylinux | sort -u").expect(0).out;
    assert_eq!(owners.trim(), "ladylinux");
    machine.exec_as("ladylinux", "mkdir /var/lib/ladylinux/qdrant").expect(0);
    machine.exec(&format!("test ! -e {OLD}")).expect(0);
    let shown = machine
        .exec("systemctl show ladylinux-api -p Asserts -p EnvironmentFiles; systemctl cat ladylinux-api");
    assert!(!shown.out.contains(OLD), "{}", shown.out);
    shown.prints(&format!("AssertPathExists=|!{NEW}/fence")).prints(&format!("{NEW}/deployed.env"));
    machine.exec("systemctl cat ladylinux-refresh-request.path").prints("/run/ladylinux-refresh/request");
    machine.exec("systemctl is-active ladylinux-refresh-request.path").expect(0);
    machine.exec("getent passwd ladylinux-refresh ladylinux-staging").expect(0);
    assert!(!machine.refresh("run").expect(0).all().contains("version 0.1"), "it was migrated twice");

    // A rollback to a version that 0.1 deployed is possible, and its history exists.
    machine.refresh("history").expect(0);
    machine.refresh("rollback").expect(0);
    assert_eq!(version(&machine).as_deref(), Some("two"));
    machine.refresh("doctor").expect(0);
}

#[test]
fn rw_7_1a_a_fenced_machine_of_0_1_stays_fenced_if_its_migration_is_killed_at_any_point() {
    let Some(lab) = Lab::open() else { return };
    let machine = machine_of_0_1(&lab);
    machine.exec("systemctl stop ladylinux-api").expect(0);
    machine.write(&format!("{OLD}/fence"), "{}");
    // Killed at each instant between two effects; the effects of the call before are complete.
    let mut kills = 0;
    while machine.exec(&format!("test -e {OLD}")).code == Some(0) {
        kills += 1;
        let killed = machine.exec(&format!("LADYLINUX_REFRESH_KILL_AT={kills} ladylinux-refresh init"));
        if killed.code == Some(0) {
            break;
        }
        let started = machine.exec("systemctl start ladylinux-api");
        assert_ne!(started.code, Some(0), "a fenced service started after a kill at instant {kills}");
        machine.exec("systemctl is-active ladylinux-api").expect(3);
        assert!(kills < 100, "{}", killed.all());
    }
    assert!(kills > 6, "only {kills} instants were tried");
    machine.refresh("init").expect(0);
    machine.exec(&format!("test ! -e {OLD} && test -e {NEW}/fence")).expect(0);
    assert_ne!(machine.exec("systemctl start ladylinux-api").code, Some(0));
    machine.refresh("run").expect(0);
    assert_eq!(version(&machine).as_deref(), Some("two"));
}
