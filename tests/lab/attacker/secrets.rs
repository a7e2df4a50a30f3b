//! Secrets of root, and the permissions of the tool's units.

use super::target::{REMOTE, Target};
use crate::lab::Lab;

#[test]
fn no_password_of_proxy_or_index_is_readable_for_the_service_user() {
    let Some(lab) = Lab::open() else { return };
    let target = Target::running(&lab, &[]);
    let machine = &target.machine;
    target.attack("spy.py 300 PROXYPASS INDEXPASS", "spying");
    machine.write_mode(
        "/etc/pip.conf",
        "[global]\nindex-url = https://user:INDEXPASS@127.0.0.1:9/simple\n",
        0o600,
    );
    // Nothing listens there, so both ways end at once.
    let proxy = "proxy = \"http://user:PROXYPASS@127.0.0.1:9\"";
    let probe = "[probe]\nsettle = \"300ms\"\n";
    machine.write(
        "/etc/ladylinux/refresh.toml",
        &format!("[remote]\nurl = \"https://127.0.0.1:10/app.git\"\n{proxy}\n{probe}"),
    );
    target.tool("run main").expect(3);
    machine.write(
        "/etc/ladylinux/refresh.toml",
        &format!("branch = \"main\"\n[remote]\nurl = \"{REMOTE}\"\nallow = [\"git\"]\n{probe}"),
    );
    target.push(&[("requirements.txt", "six==1.16.0\n")]);
    target.tool("run").expect(3);
    assert!(!target.loot().contains("SPIED"), "{}", target.loot());
}
