//! A compromised service beside a run: it reaches for what runs as its own user.

use super::target::Target;
use crate::lab::Lab;

#[test]
fn the_service_user_does_not_answer_in_place_of_the_resolver() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    target.attack("poison_lock.py 120", "watching");
    let commit = target.push(&[("requirements.txt", "six==1.16.0\n")]);
    let ran = target.tool("run");
    let locks = "grep -rl colorama /var/lib/ladylinux/refresh /var/lib/ladylinux-refresh /opt/ladylinux-refresh/environments 2>/dev/null";
    let poisoned = target.machine.exec(locks).out;
    assert_eq!(poisoned, "", "a foreign package is in a lock\n{}", target.loot());
    assert!(!target.loot().contains("RESOLVER"), "{}", target.loot());
    ran.expect(0);
    target.expect_running(&commit);
}

#[test]
fn no_process_of_the_service_outlives_its_stop_and_changes_what_was_proved() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    target.attack("ride_worker.py 120", "watching");
    let commit = target.push(&[("more.txt", "more\n")]);
    let ran = target.tool("run");
    let code = target.machine.read("/opt/ladylinux/app/server.py").unwrap();
    assert!(!code.contains("INFECTED"), "{}", target.loot());
    // Units that read for the service user start git, which the same user may trace. What comes of it ends with the unit.
    assert!(!target.loot().contains("marked"), "{}", target.loot());
    ran.expect(0);
    target.expect_running(&commit);
}

#[test]
fn the_service_user_cannot_look_into_the_unit_that_waits_for_the_stop() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // The unit waits until the service has stopped, which takes long enough to reach for it.
    let slow = "/etc/systemd/system/ladylinux-api.service.d/slow.conf";
    target.machine.write(slow, "[Service]\nExecStop=/bin/sleep 3\n");
    target.machine.exec("systemctl daemon-reload").expect(0);
    target.attack("reach_unit.py 300", "watching");
    let commit = target.push(&[("more.txt", "more\n")]);
    target.tool("run").expect(0);
    let loot = target.loot();
    assert!(loot.contains("FOUND align"), "it has not met the unit\n{loot}");
    assert!(!loot.contains("REACHED align"), "{loot}");
    // Nothing with its uid is in the group of the conductor itself that could be taken over.
    assert!(!loot.contains("REACHED run"), "{loot}");
    target.expect_running(&commit);
}

#[test]
fn a_service_that_ends_the_unit_that_waits_for_the_stop_keeps_no_refresh_from_happening() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // The first time it ends what it can; the other time it never lets one live.
    for (limit, warns) in [(2, false), (1000, true)] {
        target.attack(&format!("end_unit.py 300 align {limit}"), "watching");
        let commit = target.push(&[("limit.txt", &format!("{limit}\n"))]);
        let ran = target.tool("run");
        let loot = target.loot();
        assert_eq!(ran.code, Some(0), "{}\n{loot}", ran.all());
        assert!(
            loot.matches("ENDED align").count() >= 2,
            "{limit}: it met too few units\n{}\n{loot}",
            ran.all()
        );
        assert_eq!(ran.all().contains("perhaps by a process of ladylinux"), warns, "{}", ran.all());
        target.expect_running(&commit);
        target.forget_loot();
    }
}

#[test]
fn a_service_that_ends_the_units_that_read_for_it_is_named_and_goes_on_running() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let before = target.answer();
    target.attack("end_unit.py 300 inspect 1000", "watching");
    target.push(&[("more.txt", "more\n")]);
    let ran = target.tool("run");
    let loot = target.loot();
    assert!(loot.matches("ENDED inspect").count() >= 3, "it met too few units\n{}\n{loot}", ran.all());
    ran.expect(3).says("a process of ladylinux").says("ps -o pid,unit,args -u ladylinux");
    assert_eq!(target.answer(), before, "the service was touched");
    target.machine.exec("pkill -KILL -f '[e]nd_unit'").expect(0);
    target.forget_loot();
    // Two of three ended units are no reason to refuse.
    target.attack("end_unit.py 300 inspect 2", "watching");
    let commit = target.push(&[("again.txt", "again\n")]);
    let ran = target.tool("run");
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.all(), target.loot());
    assert_eq!(target.loot().matches("ENDED inspect").count(), 2, "{}", target.loot());
    target.expect_running(&commit);
}

#[test]
fn a_hook_leaves_no_process_that_changes_the_code_or_holds_the_port() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // The first waits until the hook is over and its result is in; the other is there when the service comes.
    for (name, ghost) in [
        ("marks", "sleep 0.4; for i in $(seq 500); do echo \\\"# INFECTED\\\" >>server.py; sleep 0.01; done"),
        ("holds", "exec python3 -m http.server 8000"),
    ] {
        let hook = format!(
            "[[hook]]\nname = \"{name}\"\nkind = \"index\"\n\
             command = [\"sh\", \"-c\", \"setsid env -i PATH=$PATH sh -c '{ghost}' </dev/null >/dev/null 2>&1 & sleep 0.2\"]\n"
        );
        let commit = target.push(&[("refresh.toml", &hook)]);
        let ran = target.tool("run");
        assert_eq!(ran.code, Some(0), "{name}\n{}", ran.all());
        target.expect_running(&commit);
        let left = target.machine.exec("pgrep -u ladylinux -f 'INFECTED|http[.]server' -a").out;
        assert_eq!(left, "", "{name} left a process\n{}", ran.all());
    }
}
