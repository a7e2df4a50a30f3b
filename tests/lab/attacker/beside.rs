//! A compromised service during a run: it attacks the processes that run as its own user.

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
fn no_process_of_the_service_outlives_its_stop_and_changes_verified_files() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    target.attack("ride_worker.py 120", "watching");
    let commit = target.push(&[("more.txt", "more\n")]);
    let ran = target.tool("run");
    let code = target.machine.read("/opt/ladylinux/app/server.py").unwrap();
    assert!(!code.contains("INFECTED"), "{}", target.loot());
    // Units that read for the service user start git, which the same user can trace. The results of that end with the
    // unit.
    assert!(!target.loot().contains("marked"), "{}", target.loot());
    ran.expect(0);
    target.expect_running(&commit);
}

#[test]
fn the_service_user_cannot_inspect_the_unit_that_waits_for_the_stop() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // The unit waits until the service has stopped, which leaves enough time for an attack.
    let slow = "/etc/systemd/system/ladylinux-api.service.d/slow.conf";
    target.machine.write(slow, "[Service]\nExecStop=/bin/sleep 3\n");
    target.machine.exec("systemctl daemon-reload").expect(0);
    target.attack("reach_unit.py 300", "watching");
    let commit = target.push(&[("more.txt", "more\n")]);
    target.tool("run").expect(0);
    let loot = target.loot();
    assert!(loot.contains("FOUND align"), "it has not met the unit\n{loot}");
    assert!(!loot.contains("REACHED align"), "{loot}");
    // The control group of the conductor contains no process with the uid of the service that could be taken over.
    assert!(!loot.contains("REACHED run"), "{loot}");
    target.expect_running(&commit);
}

#[test]
fn a_service_that_ends_the_unit_that_waits_for_the_stop_prevents_no_refresh() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // The first time it ends every unit that it can; the other time it ends each unit at once.
    for (limit, warns) in [(2, false), (1000, true)] {
        // On a busy machine a unit may be gone before the attack finds it: then the attack is repeated.
        let is_met = (0..8).any(|attempt| {
            target.attack(&format!("end_unit.py 300 align {limit}"), "watching");
            let commit = target.push(&[("limit.txt", &format!("{limit} {attempt}\n"))]);
            let ran = target.tool("run");
            let loot = target.loot();
            assert_eq!(ran.code, Some(0), "{}\n{loot}", ran.all());
            let is_warned = ran.all().contains("perhaps by a process of ladylinux");
            assert!(warns || !is_warned, "{}", ran.all());
            let is_met = loot.matches("ENDED align").count() >= 2 && is_warned == warns;
            target.expect_running(&commit);
            target.forget_loot();
            is_met
        });
        assert!(is_met, "{limit}: it met too few units, or the last of them without a warning");
    }
}

#[test]
fn a_service_that_ends_the_units_that_read_for_it_is_named_and_keeps_running() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // Two of three ended units are no reason to refuse. On a busy machine a unit may be gone before the attack finds
    // it: then the attack is repeated.
    for (limit, is_refused) in [(1000, true), (2, false)] {
        let is_met = (0..8).any(|attempt| {
            let before = target.await_answer();
            target.attack(&format!("end_unit.py 300 inspect {limit}"), "watching");
            let commit = target.push(&[("limit.txt", &format!("{limit} {attempt}\n"))]);
            let ran = target.tool("run");
            let loot = target.loot();
            let count = loot.matches("ENDED inspect").count();
            target.machine.exec("pkill -KILL -f '[e]nd_unit'");
            target.forget_loot();
            if ran.code == Some(0) {
                assert!(is_refused || count <= limit, "{count} of {limit}\n{loot}");
                target.expect_running(&commit);
                return !is_refused && count == limit;
            }
            assert!(is_refused && count >= 3, "{} units were ended\n{}\n{loot}", count, ran.all());
            ran.expect(3).prints("a process of ladylinux").prints("ps -o pid,unit,args -u ladylinux");
            assert_eq!(target.answer().as_ref(), Some(&before), "the service was touched");
            true
        });
        assert!(is_met, "{limit}: it met too few units");
    }
}

#[test]
fn a_hook_leaves_no_process_that_changes_the_code_or_holds_the_port() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    // The first process waits until the hook has ended and its result was recorded; the other exists when the service
    // starts.
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
