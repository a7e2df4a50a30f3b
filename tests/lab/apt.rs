//! apt reports a Python that it replaces, by the hook that `init` installs; nothing hinders apt.

use crate::awkward_units::set_up;
use crate::lab;

use lab::{Lab, Machine, Ran, until};

const HOOK: &str = "/etc/apt/apt.conf.d/99ladylinux-refresh";
const PROGRAM: &str = "/usr/local/bin/ladylinux-refresh";

/// Installs a package with one effect by the real apt, from a file, without a network.
#[track_caller]
fn install(machine: &Machine, version: u32, effect: &str) -> Ran {
    let control = format!(
        "Package: effect\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@localhost>\nDescription: an effect\n"
    );
    machine.exec("rm -rf /srv/package && mkdir -p /srv/package/DEBIAN").expect(0);
    machine.write("/srv/package/DEBIAN/control", &control);
    machine.write_mode("/srv/package/DEBIAN/postinst", &format!("#!/bin/sh\n{effect}\n"), 0o755);
    machine.exec("dpkg-deb --build /srv/package /srv/effect.deb").expect(0);
    machine.exec("DEBIAN_FRONTEND=noninteractive exec apt-get install --yes /srv/effect.deb").expect(0)
}

/// Returns the lines of the program in the output of apt.
fn reported(ran: &Ran) -> Vec<String> {
    let all = ran.all();
    all.lines().filter(|line| line.contains("ladylinux-refresh")).map(str::to_owned).collect()
}

#[test]
fn apt_reports_a_python_that_it_replaces_and_nothing_hinders_apt() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    machine
        .exec(
            "cp --dereference /usr/bin/python3 /usr/local/bin/python-one && \
             cp --dereference /usr/bin/python3 /usr/local/bin/python-two && \
             ln -s python-one /usr/local/bin/python-now",
        )
        .expect(0);
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    let python = "[python]\ninterpreter = \"/usr/local/bin/python-now\"\n";
    machine.write("/etc/ladylinux/refresh.toml", &format!("{settings}{python}"));
    machine.refresh("run").expect(0);
    let none = Vec::<String>::new();
    assert_eq!(reported(&install(&machine, 1, "true")), none);

    let replace = "ln -sf python-two /usr/local/bin/python-now && rm /usr/local/bin/python-one";
    let lines = reported(&install(&machine, 2, replace));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("python-one") && lines[0].contains("python-two"), "{lines:?}");
    assert!(lines[1].ends_with("next: ladylinux-refresh run"), "{lines:?}");

    // Neither a program that fails nor a missing one hinders apt.
    machine.exec(&format!("mv {PROGRAM} /srv/program && ln -s /bin/false {PROGRAM}")).expect(0);
    assert_eq!(reported(&install(&machine, 3, "true")), none);
    machine.exec(&format!("rm {PROGRAM}")).expect(0);
    assert_eq!(reported(&install(&machine, 4, "true")), none);
    machine.exec(&format!("mv /srv/program {PROGRAM}")).expect(0);
    machine.refresh("run").expect(0);
    assert_eq!(reported(&install(&machine, 5, "true")), none);
}

#[test]
fn the_hook_of_apt_is_installed_checked_and_removed_like_the_other_files() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    let text = machine.read(HOOK).unwrap();
    let notes = || machine.tool("doctor").all();
    assert!(!notes().contains(HOOK), "{}", notes());
    machine.write(HOOK, &text.replace(PROGRAM, "/usr/local/bin/gone"));
    assert!(notes().contains(&format!("{HOOK} starts no existing program")), "{}", notes());
    machine.refresh("init --dry-run").expect(0).prints(&format!("would bring {HOOK} up to date"));
    machine.exec(&format!("rm {HOOK}")).expect(0);
    assert!(notes().contains(&format!("{HOOK} is missing")), "{}", notes());
    machine.refresh("init").expect(0).prints(&format!("installed {HOOK}"));
    assert_eq!(machine.read(HOOK), Some(text));
    machine.tool("init --undo --dry-run").expect(0).prints(&format!("would remove {HOOK}"));
    machine.tool("init --undo").expect(0);
    assert_eq!(machine.read(HOOK), None);

    // Without apt there is no hook.
    machine.exec("mv /etc/apt/apt.conf.d /etc/apt/away").expect(0);
    machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    machine.exec("test ! -e /etc/apt/apt.conf.d").expect(0);
    assert!(!notes().contains(HOOK), "{}", notes());
}
