//! Files that the service user creates to prevent refreshes: each refresh happens nevertheless.

use std::time::{Duration, Instant};

use super::target::Target;
use crate::lab::Lab;

/// The names of the attacks in `lab/attacks/hold_up.sh`.
const PLANTS: [&str; 7] = ["include", "alternates", "shallow", "pipes", "deep", "unreadable", "hooks"];

/// The longest time of a run under attack; a run without one takes some seconds.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn nothing_in_the_old_tree_or_its_repository_prevents_a_refresh() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let mut failures = Vec::new();
    for name in PLANTS {
        target.await_answer();
        target.machine.exec_as("ladylinux", &format!("sh /srv/attacks/hold_up.sh {name}")).expect(0);
        let commit = target.push(&[("round.txt", name)]);
        let began = Instant::now();
        // The test sets a limit, since a run that hangs continues without its client.
        let line = format!("timeout {} ladylinux-refresh run; echo exit $?", LIMIT.as_secs());
        let ran = target.machine.exec(&line).expect(0);
        let took = began.elapsed();
        let answer = target.answer().unwrap_or_default();
        if ran.out.contains("exit 0\n") && answer.contains(&commit) {
            continue;
        }
        failures.push(format!("{name}: after {took:.1?}, answers {answer:?}\n{}", ran.all()));
        recover(&target);
    }
    assert!(failures.is_empty(), "{} of {}\n{}", failures.len(), PLANTS.len(), failures.join("\n"));
    // The created files are kept or removed, and no reader of them fails.
    for command in ["status", "plan", "doctor"] {
        let ran = target.tool(command);
        assert!(matches!(ran.code, Some(0 | 5)), "{command}: {:?}\n{}", ran.code, ran.all());
    }
    target.tool("run").expect(0);
}

/// Restores the machine manually, for the next attack.
fn recover(target: &Target) {
    let line = "systemctl kill --signal=KILL 'ladylinux-refresh-2*' 2>/dev/null; sleep 1
        ladylinux-refresh unfence >/dev/null 2>&1
        systemctl stop ladylinux-api
        cd /opt/ladylinux && chmod -R u+rwX app 2>/dev/null; rm -rf app
        git clone --quiet /srv/app.git app && chown -R ladylinux:ladylinux app
        systemctl reset-failed; systemctl start ladylinux-api";
    target.machine.exec(line);
}

#[test]
fn a_port_that_belongs_to_others_is_found_before_the_stop() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let listener = "systemd-run --quiet --unit=stranger python3 -m http.server 2222";
    target.machine.exec(listener).expect(0);
    target.machine.exec("sed -i s/8000/2222/ /etc/ladylinux/ladylinux.env").expect(0);
    let answer = target.await_answer();
    target.push(&[("more.txt", "more\n")]);
    target.tool("run").expect(3).prints("2222");
    assert_eq!(target.answer().as_deref(), Some(&*answer), "the service was touched");
}
