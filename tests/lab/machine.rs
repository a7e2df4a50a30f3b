//! The lab itself: machines that boot, communicate, lose their power and come back.

use crate::lab;

use std::path::Path;

use lab::{Disk, Lab, Machine, Network};

#[test]
fn a_machine_boots_runs_commands_and_keeps_its_files_over_a_reboot() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = Machine::boot(&lab, "web");
    machine.exec("systemctl is-system-running --wait").expect(0).prints("running");
    machine.exec("cat /proc/1/comm; hostname").expect(0).prints("systemd\nweb\n");
    let ran = machine.exec("echo out; echo err >&2; exit 7").expect(7);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    machine.exec("useradd --system ladylinux").expect(0);
    machine.exec_as("ladylinux", "id -un").expect(0).prints("ladylinux");
    machine
        .exec_unit(&["User=ladylinux"], "id -un; cat /proc/self/cgroup; exit 3")
        .expect(3)
        .prints(".service");
    machine.exec_unit(&[], "echo heard").expect(0);

    machine.write("/opt/ladylinux/note", "kept\n");
    machine.exec("ln -s /run/here /opt/ladylinux/link; echo up >/run/here").expect(0);
    assert_eq!(
        machine.read("/opt/ladylinux/link").as_deref(),
        Some("up\n"),
        "links lead through the machine"
    );
    let place = machine.install_tool();
    machine.exec(&format!("stat -c %U:%a {place}")).expect(0).prints("root:755");
    machine.tool("--version").expect(0).prints("ladylinux-refresh ");

    let boot = machine.exec("cat /proc/sys/kernel/random/boot_id /proc/1/stat").out;
    machine.reboot();
    assert_ne!(machine.exec("cat /proc/sys/kernel/random/boot_id /proc/1/stat").out, boot);
    assert_eq!(machine.read("/opt/ladylinux/note").as_deref(), Some("kept\n"));
    assert_eq!(machine.read("/run/here"), None);
    assert!(machine.exec("journalctl --list-boots --no-pager").out.lines().count() >= 2);
}

#[test]
fn the_resources_of_a_service_are_limited_and_its_control_group_is_separate() {
    let Some(lab) = Lab::open() else { return };
    let machines = [Machine::boot(&lab, "one"), Machine::boot(&lab, "two")];
    for machine in &machines {
        machine.write("/etc/systemd/system/same.service", "[Service]\nExecStart=sleep 1000\n");
        machine.exec("systemctl daemon-reload; systemctl start same").expect(0);
    }
    let tasks = "systemctl show same --property=TasksCurrent --value";
    assert_eq!(machines.each_ref().map(|machine| machine.exec(tasks).out), ["1\n", "1\n"]);
    machines[0].exec("systemctl stop same; systemctl is-active same").prints("inactive");
    machines[1].exec("systemctl is-active same").expect(0);
    let fat = "python3 -c 'x = bytearray(200 << 20)'";
    machines[0].exec_unit(&["MemoryMax=50M", "MemorySwapMax=0"], fat).expect(137);
    machines[0].exec_unit(&["MemoryMax=500M"], fat).expect(0);
}

#[test]
fn machines_on_a_network_see_each_other_until_one_is_cut_off() {
    let Some(lab) = Lab::open() else { return };
    let network = Network::new(&lab);
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| Machine::boot_on(&network, "one"));
        (one.join().unwrap(), Machine::boot_on(&network, "two"))
    });
    one.exec("mkdir /srv/www; echo hello >/srv/www/index.html").expect(0);
    one.exec("systemd-run --quiet python3 -m http.server --directory /srv/www 80").expect(0);
    lab::until("the web server", || two.http("http://one/"));
    network.partition("one");
    two.exec("curl --silent --max-time 1 http://one/").expect(28);
    network.heal("one");
    lab::until("the network is whole again", || two.http("http://one/"));
    network.slow_down("two", 20_000);
    one.exec("head -c 1000000 /dev/zero >/srv/www/large").expect(0);
    two.exec("curl --silent --output /dev/null --max-time 2 http://one/large").expect(28);
    network.full_speed("two");
    two.exec("curl --silent --output /dev/null --max-time 60 http://one/large").expect(0);
}

#[test]
fn a_power_cut_loses_unsynced_data_and_keeps_synced_data() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = Machine::named(&lab, "cut").disk(Disk::Ext4).boot();
    let synced = "for n in $(seq 50); do echo $n >/opt/s$n; sync /opt/s$n; done; sync -f /opt";
    machine.exec(synced).expect(0);
    machine.exec("for n in $(seq 50); do echo $n >/opt/u$n; done").expect(0);
    machine.power_cut();
    let there =
        |letter: char| (1..=50).filter(|n| machine.path(&format!("/opt/{letter}{n}")).exists()).count();
    assert_eq!(there('s'), 50);
    // The journal may have been written in between; it is written completely.
    let kept = there('u');
    assert!(kept < 50, "{kept} of 50 files survived that were not synced");
    machine.start();
    machine.exec("systemctl is-system-running --wait").expect(0);
    assert_eq!(machine.read("/opt/s50").as_deref(), Some("50\n"));
}

#[test]
fn a_snapshot_restores_everything_any_number_of_times() {
    let Some(lab) = Lab::open() else { return };
    for disk in [Disk::Shared, Disk::Ext4] {
        let mut machine = Machine::named(&lab, "vm").disk(disk).boot();
        machine.exec("useradd --system ladylinux; install -d -o ladylinux -m 700 /opt/data").expect(0);
        machine.exec("echo good >/opt/data/state; rm /etc/issue").expect(0);
        machine.power_off();
        machine.snapshot("base");
        for _ in 0..2 {
            machine.start();
            machine
                .exec("echo bad >/opt/data/state; echo more >/opt/more; chown root /opt/data; rm /etc/motd")
                .expect(0);
            machine.power_off();
            machine.restore("base");
            assert!(!machine.path("/opt/more").exists() && machine.path("/etc/motd").exists());
            assert!(!machine.path("/etc/issue").exists());
        }
        machine.start();
        assert_eq!(machine.read("/opt/data/state").as_deref(), Some("good\n"));
        machine.exec("stat -c %U:%a /opt/data").expect(0).prints("ladylinux:700");
    }
}

#[test]
fn nothing_is_left_of_a_machine_that_is_dropped_or_whose_test_panics() {
    let Some(lab) = Lab::open() else { return };
    let network = Network::new(&lab);
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let machine = Machine::named(&lab, "doomed").network(&network).disk(Disk::Ext4).boot();
            sender.send((machine.leader(), machine.path("/"))).unwrap();
            panic!("as a test does that fails");
        });
        thread.join()
    });
    assert!(panicked.is_err());
    let (leader, root) = receiver.recv().unwrap();
    assert!(!Path::new(&format!("/proc/{leader}")).exists());
    let directory = root.parent().unwrap();
    let id = directory.file_name().unwrap().to_str().unwrap();
    assert!(!directory.exists());
    assert!(!Path::new("/run/netns").join(id).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(id), "{mounts}");
    let groups =
        ["systemd", "unified", "memory", "."].map(|part| Path::new("/sys/fs/cgroup").join(part).join(id));
    assert!(groups.iter().all(|group| !group.exists()));
}
