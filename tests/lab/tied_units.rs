//! Units of other people that start the service, or that end with it.

use crate::awkward_units::{set_up, start};
use crate::before_stop::{API, Host, worker};
use crate::lab;

use lab::{LOCAL_INDEX, Lab, Machine, until};

#[test]
fn rw_5_1_rw_7_1a_a_unit_that_upholds_the_service_starts_nothing_behind_the_fence() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    let sleeps = "[Service]\nExecStart=/bin/sleep infinity\n";
    let keeper = format!("[Unit]\nUpholds=ladylinux-api.service\n{sleeps}");
    let bound = format!("[Unit]\nBindsTo=ladylinux-api.service\nAfter=ladylinux-api.service\n{sleeps}");
    machine.write("/etc/systemd/system/keeper.service", &keeper);
    machine.write("/etc/systemd/system/bound.service", &bound);
    start(&machine);
    machine.exec("systemctl start keeper bound").expect(0);
    let are_up = || machine.exec("systemctl is-active keeper bound").expect(0);

    machine.push_version("two");
    machine.refresh("run").expect(0);
    assert_eq!(machine.version().as_deref(), Some("two"));
    are_up();

    // systemd tries to uphold the service all the time that a hook takes, and after the halt.
    let broken =
        "[[hook]]\nname = \"slow\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \"sleep 3; false\"]\n";
    machine.write("/srv/work/refresh.toml", broken);
    machine.push_version("three");
    machine.refresh("run").expect(1).prints("stopped and fenced");
    machine.exec("systemctl restart keeper").expect(0);
    until("an attempt that the fence refuses", || {
        let log = machine.exec("journalctl --no-pager --output=cat --unit=ladylinux-api").out;
        log.contains("Assertion failed").then_some(())
    });
    assert_ne!(machine.exec("systemctl is-active ladylinux-api").code, Some(0));
    assert_eq!(machine.version(), None);
    machine.refresh("rollback").expect(0);
    assert_eq!(machine.version().as_deref(), Some("two"));
    machine.exec("systemctl start bound").expect(0);
    are_up();
}

#[test]
fn rw_7_1a_a_stop_that_fails_before_the_service_leaves_everything_running_and_is_a_refusal() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    host.unit("also.service", &worker(""));
    host.configure("http://127.0.0.1:8000/", "[service]\nalso = [\"also.service\"]");
    host.tool("init").expect(0);
    host.machine.exec("systemctl start also").expect(0);
    let before = [API, "also.service"].map(|unit| host.invocation(unit));
    // A staged check holds the run while the unit becomes one that systemd does not stop by name.
    let hold = "[[hook]]\nname = \"hold\"\nkind = \"check\"\nstage = true\n\
                command = [\"sh\", \"-c\", \"while [ -e /srv/hold ]; do sleep 0.02; done\"]\n";
    host.machine.write("/srv/work/refresh.toml", hold);
    host.machine.write("/srv/hold", "");
    host.push("two");
    let run = host.machine.spawn(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"));
    let is_held = || host.machine.exec("pgrep --uid ladylinux-staging --exact sh").code == Some(0);
    until("the staged check", || is_held().then_some(()));
    host.unit("also.service.d/stop.conf", "[Unit]\nRefuseManualStop=yes\n");
    host.machine.exec("rm /srv/hold").expect(0);
    let output = run.wait_with_output().unwrap();
    let printed =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{printed}");
    assert!(
        printed.contains("cannot stop also.service, which is stopped with ladylinux-api.service"),
        "{printed}"
    );
    assert_eq!([API, "also.service"].map(|unit| host.invocation(unit)), before, "{printed}");
    assert_eq!(host.machine.read("/var/lib/ladylinux-refresh/fence"), None);
    assert_eq!(host.version().as_deref(), Some("one"));
}
