//! A service that a person stopped stays stopped until a person starts it: no timer and no request does so.

use crate::awkward_units::{set_up, start, start_with};
use crate::lab;

use lab::{LOCAL_INDEX, Lab, Machine, until};

fn is_up(machine: &Machine) -> bool {
    machine.exec("systemctl is-active ladylinux-api").code == Some(0)
}

/// Asserts that an unattended run leaves the service stopped and reports why.
#[track_caller]
fn held_back(machine: &Machine) {
    let ran = machine.refresh("run --if-changed").expect(0);
    ran.prints("Held back").prints("the service was stopped at ").prints("`run`; or start the service");
    assert!(!is_up(machine));
}

/// Asserts that an unattended run starts the service.
#[track_caller]
fn started(machine: &Machine) {
    machine.refresh("run --if-changed").expect(0).prints("Refreshed");
    assert!(is_up(machine));
}

#[test]
fn a_service_that_a_person_stopped_is_started_by_no_timer_and_no_request_until_run_is_typed() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    machine.write("/etc/ladylinux/refresh.toml", &format!("allowed_branches = [\"main\"]\n{settings}"));
    machine.exec("systemctl stop ladylinux-api").expect(0);
    held_back(&machine);
    machine.push_version("two");
    held_back(&machine);
    assert_eq!(machine.read("/opt/ladylinux/app/version.txt").as_deref(), Some("one"));
    machine.tool("status").expect(0).prints("stopped on request at ").prints("service start");
    assert!(machine.tool("status --json").expect(0).out.contains("\"asked_to_stop\": \"2"));
    machine.refresh("plan").expect(0).prints("from unattended runs: the service was stopped at ");
    machine.exec("touch /run/ladylinux-refresh/request/refresh").expect(0);
    let request = || machine.json("/var/lib/ladylinux-refresh/status.json")["last_request"].clone();
    until("the answer", || (request()["outcome"] == "refused").then_some(()));
    assert!(request()["why"].to_string().contains("the service was stopped"), "{}", request());
    assert!(!is_up(&machine));

    machine.refresh("run").expect(0).prints("Refreshed");
    assert_eq!(machine.version().as_deref(), Some("two"));
    machine.refresh("run --if-changed").expect(0).prints("Already current");

    // One that has to be killed, or ends with an error, was stopped all the same.
    start_with(&machine, "[Service]\nExecStop=/bin/false\n");
    until("the service", || machine.version());
    machine.exec("systemctl stop ladylinux-api; systemctl is-failed ladylinux-api").expect(0);
    held_back(&machine);
    machine.exec("systemctl reset-failed ladylinux-api").expect(0);
    // One that systemd has unloaded with its stop, and one that waited for its automatic restart.
    start(&machine);
    until("the service", || machine.version());
    machine.exec("systemctl disable --now ladylinux-api").expect(0);
    held_back(&machine);
    machine.exec("systemctl enable ladylinux-api").expect(0);
    start_with(&machine, "[Service]\nRestart=always\nRestartSec=1000\n");
    until("the service", || machine.version());
    machine.exec("systemctl kill --signal=KILL ladylinux-api").expect(0);
    let state = || machine.exec("systemctl show --property=SubState --value ladylinux-api").out;
    until("the wait for the restart", || (state().trim() == "auto-restart").then_some(()));
    machine.exec("systemctl stop ladylinux-api").expect(0);
    held_back(&machine);
    start(&machine);
    machine.push_version("three");
    machine.refresh("run --if-changed").expect(0).prints("Refreshed");
}

#[test]
fn a_service_that_ended_without_the_decision_of_a_person_is_started_by_an_unattended_run() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    // By itself: systemd takes this signal for a good end.
    machine.exec("systemctl kill --signal=TERM ladylinux-api").expect(0);
    until("its end", || (!is_up(&machine)).then_some(()));
    started(&machine);
    // By a restart whose start fails before the service runs.
    machine.exec("touch /srv/needed").expect(0);
    start_with(&machine, "[Service]\nEnvironmentFile=/srv/needed\n");
    until("the service", || machine.version());
    machine.exec("rm /srv/needed; systemctl restart ladylinux-api; touch /srv/needed");
    assert!(!is_up(&machine));
    started(&machine);
    // With a unit that it needs, which is active again.
    machine.write("/etc/systemd/system/base.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    start_with(&machine, "[Unit]\nRequires=base.service\nAfter=base.service\n");
    until("the service", || machine.version());
    machine.exec("systemctl stop base && systemctl start base").expect(0);
    assert!(!is_up(&machine));
    started(&machine);
    // By a run that halted, whose fence a person has removed.
    let broken = "[[hook]]\nname = \"broken\"\nkind = \"check\"\ncommand = [\"false\"]\n";
    machine.write("/srv/work/refresh.toml", broken);
    machine.push_version("two");
    machine.refresh("run").expect(1);
    machine.tool("unfence").expect(0);
    machine.exec("rm /srv/work/refresh.toml").expect(0);
    machine.push_version("three");
    started(&machine);
    // Before the last boot: systemd remembers nothing of it.
    machine.exec("systemctl disable --now ladylinux-api").expect(0);
    machine.reboot();
    assert!(!is_up(&machine));
    started(&machine);
}

#[test]
fn an_unattended_run_leaves_a_stopped_service_stopped_if_the_remote_is_down_too() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    machine.write("/etc/ladylinux/refresh.toml", &format!("allowed_branches = [\"main\"]\n{settings}"));
    machine.exec("mv /srv/app.git /srv/away").expect(0);
    machine.refresh("run --if-changed").expect(3).prints("nothing was changed");
    machine.exec("systemctl stop ladylinux-api").expect(0);
    held_back(&machine);
    let report = machine.json("/var/lib/ladylinux-refresh/status.json")["last_run"].clone();
    assert_ne!(report["result"], "refused", "{report}");
    machine.exec("touch /run/ladylinux-refresh/request/refresh").expect(0);
    let request = || machine.json("/var/lib/ladylinux-refresh/status.json")["last_request"].clone();
    until("the answer", || (request()["outcome"] == "refused").then_some(()));
    assert!(request()["why"].to_string().contains("the service was stopped"), "{}", request());
    machine.refresh("run").expect(3);
    assert!(!is_up(&machine));
    machine.exec("mv /srv/away /srv/app.git").expect(0);
    machine.refresh("run").expect(0);
    assert!(is_up(&machine));
}

#[test]
fn a_service_that_a_person_stops_during_staging_stays_stopped_even_if_systemd_has_restarted_it_before() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    start_with(&machine, "[Service]\nRestart=always\nRestartSec=0\n");
    until("the service", || machine.version());
    let wait = "while ! test -e /srv/go; do sleep 0.1; done";
    let hook = format!(
        "[[hook]]\nname = \"wait\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \"{wait}\"]\nstage = true\n"
    );
    machine.write("/srv/work/refresh.toml", &hook);
    let restarts = || machine.exec("systemctl show --property=NRestarts --value ladylinux-api").out;
    for (version, has_restarted) in [("two", false), ("three", true)] {
        if has_restarted {
            machine.exec("systemctl kill --signal=KILL ladylinux-api").expect(0);
            until("the restart", || (restarts().trim() == "1").then_some(()));
            until("the service", || machine.version());
        }
        machine.exec("rm -f /srv/go").expect(0);
        machine.push_version(version);
        let line =
            format!("PIP_INDEX_URL={LOCAL_INDEX} ladylinux-refresh run --if-changed >/srv/printed 2>&1");
        let mut run = machine.spawn(&format!("{line}; echo $? >/srv/code"));
        until("the hook", || (machine.exec("pgrep --full [s]rv/go").code == Some(0)).then_some(()));
        machine.exec("systemctl stop ladylinux-api; touch /srv/go").expect(0);
        run.wait().unwrap();
        let printed = machine.read("/srv/printed").unwrap();
        assert_eq!(machine.read("/srv/code").as_deref(), Some("3\n"), "{printed}");
        assert!(printed.contains("the service was stopped on request during staging"), "{printed}");
        assert!(!is_up(&machine), "{printed}");
        held_back(&machine);
        start(&machine);
    }
}

#[test]
fn a_start_by_a_person_that_systemd_cannot_begin_ends_the_hold_of_the_stop_before_it() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    let drop_in = "/etc/systemd/system/ladylinux-api.service.d/60-invalid.conf";
    let invalidate = || {
        machine.write(drop_in, "[Service]\nExecStart=\n");
        machine.exec("systemctl daemon-reload").expect(0);
    };
    let repair = || machine.exec(&format!("rm {drop_in} && systemctl daemon-reload")).expect(0);
    // While the unit is invalid, systemd begins no start; here it becomes so during the stop of a restart.
    let during = format!("printf '[Service]\\nExecStart=\\n' >{drop_in} && systemctl daemon-reload");
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    let allowed = format!("{settings}[service]\nallow_root_exec = [\"/bin/sh\"]\n");
    machine.write("/etc/ladylinux/refresh.toml", &allowed);
    machine.write("/srv/invalidate", &format!("if rm /srv/once; then {during}; fi\n"));
    start_with(&machine, "[Service]\nExecStopPost=+/bin/sh /srv/invalidate\n");
    until("the service", || machine.version());
    machine.exec("touch /srv/once").expect(0);
    let restarted = machine.refresh("service restart");
    assert!(!is_up(&machine), "{}", restarted.all());
    repair();
    started(&machine);

    // A person who stops the service afterwards has decided again, and `service start` is a decision as well.
    machine.exec("systemctl stop ladylinux-api").expect(0);
    held_back(&machine);
    invalidate();
    machine.refresh("service start").expect(3);
    repair();
    assert!(!is_up(&machine));
    started(&machine);
    machine.exec("systemctl stop ladylinux-api").expect(0);
    held_back(&machine);
}
