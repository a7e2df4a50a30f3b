//! Ways from the service user to root: its terminal, the tool's own state, and directories that are replaced.

use super::target::{REMOTE, TABLES, Target};
use crate::lab::{Lab, until};

#[test]
fn no_program_that_root_starts_at_a_terminal_gives_the_service_user_that_terminal() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    target.attack("type_as_root.py 300", "watching");
    let commands =
        ["status", "plan", "doctor", "drift list", "verify --environment", "lock", "run", "status"];
    let lines = commands.map(|command| format!("ladylinux-refresh {command}"));
    let shown = target.type_as_root(&lines.each_ref().map(String::as_str));
    assert!(shown.contains("Refreshed"), "{shown}");
    target.expect_nothing_of_roots_done();
    assert!(!target.loot().contains("TERMINAL"), "{}", target.loot());
}

#[test]
fn a_package_of_the_repository_does_not_type_into_roots_terminal() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::prepared(&lab, &[("requirements.txt", "evilpth==1.0\n")]);
    let build = "python3 /srv/attacks/wheel_with_pth.py /srv/wheels/simple /srv/index";
    target.machine.exec(build).expect(0);
    target.settings(&TABLES.replace("INDEX", "file:///srv/index"));
    let shown = target.type_as_root(&["ladylinux-refresh init", "ladylinux-refresh run"]);
    assert!(shown.contains("Refreshed"), "{shown}");
    target.await_answer();
    target.expect_nothing_of_roots_done();
    // The package was installed: the attack did not fail because of the index.
    target.machine.exec("ls /opt/ladylinux/venv/lib/python3*/site-packages/evilpth.pth").expect(0);
}

#[test]
fn a_state_directory_that_the_service_user_puts_in_place_while_init_works_is_not_used() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::prepared(&lab, &[]);
    let attack = format!("python3 /srv/attacks/plant_state.py wait 60 {REMOTE}");
    let mut attacker =
        target.machine.spawn(&format!("setpriv --reuid=ladylinux --regid=ladylinux --init-groups {attack}"));
    until("the attacker", || target.loot().contains("prepared").then_some(()));
    target.tool("init");
    target.tool("run");
    let _ = attacker.kill();
    let _ = attacker.wait();
    target.expect_nothing_of_roots_done();
}

#[test]
fn a_state_directory_of_the_first_version_that_the_service_user_made_is_not_used() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::prepared(&lab, &[]);
    target
        .machine
        .exec_as("ladylinux", &format!("python3 /srv/attacks/plant_state.py now 5 {REMOTE}"))
        .expect(0);
    assert!(target.loot().contains("planted /var/lib/ladylinux/refresh"), "{}", target.loot());
    target.machine.exec("touch /root/lock; chmod 644 /root/lock").expect(0);
    target.tool("init");
    target.tool("run");
    target.expect_nothing_of_roots_done();
    let mode = target.machine.exec("stat -c %a /root/lock").expect(0).out;
    assert_eq!(mode.trim(), "644", "a link of the service user's was followed");
}

#[test]
fn state_that_a_set_up_script_gave_to_the_service_user_makes_nothing_run_as_root() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let machine = &target.machine;
    let stores = "/var/lib/ladylinux/refresh /opt/ladylinux-refresh /var/lib/ladylinux-refresh";
    machine
        .exec(&format!("chown -R ladylinux:ladylinux /opt/ladylinux /var/lib/ladylinux {stores}; true"))
        .expect(0);
    // Root runs the printed commands until the run is no longer refused.
    for _ in 0..4 {
        let refused = target.tool("run");
        if refused.code == Some(0) {
            break;
        }
        for line in refused.all().lines() {
            if let Some(command) = line.trim().strip_prefix("hint ").map(str::trim)
                && command.starts_with("chown")
            {
                machine.exec(command);
            }
        }
    }
    let poison = format!(
        "for config in /var/lib/ladylinux/refresh/mirror.git/config /opt/ladylinux-refresh/mirror.git/config; do
            printf '[protocol]\\n\\tallow = always\\n[protocol \"ext\"]\\n\\tallow = always\\n\
            [url \"ext::/var/lib/ladylinux/data/x.sh \"]\\n\\tinsteadOf = {REMOTE}\\n' >>$config
        done
        printf '#!/bin/sh\\nid >/root/PWNED-BY-RUN\\n' >/var/lib/ladylinux/data/x.sh
        chmod 755 /var/lib/ladylinux/data/x.sh"
    );
    machine.exec_as("ladylinux", &poison);
    target.push(&[("more.txt", "more\n")]);
    target.tool("run");
    target.expect_nothing_of_roots_done();
}

#[test]
fn a_link_in_place_of_the_application_leads_root_nowhere() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let machine = &target.machine;
    machine
        .exec("mkdir -p /srv/precious/sub; echo kept >/srv/precious/file; echo kept >/srv/precious/sub/file")
        .expect(0);
    let list = "find /srv/precious -printf '%p %y %m %u:%g %T@ %s %l\\n' | sort";
    let before = machine.exec(list).expect(0).out;
    // During a run, and then at rest.
    target.attack("exchange_app.py 8 /srv/precious; echo >>/var/lib/ladylinux/data/loot", "");
    for round in 0..4 {
        target.push(&[("round.txt", &format!("{round}\n"))]);
        target.tool("run");
        assert_eq!(machine.exec(list).expect(0).out, before, "root followed a link of the service user's");
        if target.answer().is_some() {
            target.through_the_hole("exec python3 /srv/attacks/exchange_app.py 4 /srv/precious");
        }
    }
    let line = "cd /opt/ladylinux && { test ! -e app || test ! -L app || mv -T .link app || true; } && \
                { test -L app || mv -T app .app; } && ln -sfn /srv/precious app";
    machine.exec(&format!("pkill -f '[e]xchange_app'; while pgrep -f '[e]xchange_app' >/dev/null; do sleep 0.02; done; {line}")).expect(0);
    target.tool("run");
    assert_eq!(machine.exec(list).expect(0).out, before, "root followed a link of the service user's");
    target.expect_nothing_of_roots_done();
}
