//! Units of other people that start the service, or that end with it.

use crate::awkward_units::{set_up, start};
use crate::lab;

use lab::{Lab, Machine, until};

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
