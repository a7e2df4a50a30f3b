//! Changes of hooks and other programs in `app/` during a run, on machines with systemd.

use crate::lab;

use lab::{Lab, Machine, SERVER, until};

const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nExecStart=/usr/bin/python3 server.py\n\
    [Install]\nWantedBy=multi-user.target\n";

/// Removes files of the tree again and again.
const REMOVER: &str = "import os\n\
    while True:\n\
    \x20   for number in range(1, 21):\n\
    \x20       try:\n\
    \x20           os.unlink(f'/opt/ladylinux/app/file-{number}')\n\
    \x20       except OSError:\n\
    \x20           pass\n";

/// The number of runs that may escape it.
const TRIES: usize = 30;

fn set_up(machine: &Machine) {
    machine.prepare_small_host(&[("server.py", SERVER), ("requirements.txt", "")], UNIT);
    machine.write(
        "/etc/ladylinux/refresh.toml",
        "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n\
         [probe]\nurl = \"http://127.0.0.1:8000/\"\ndeadline = \"30s\"\nsettle = \"300ms\"\n",
    );
    machine.refresh("init").expect(0);
    machine.refresh("run").expect(0);
}

#[test]
fn rw_7_1b_a_program_that_writes_into_the_tree_in_step_2_is_named_with_its_unit() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "in-the-way", set_up);
    until("the service", || machine.version());
    machine.write(
        "/etc/systemd/system/llm.service",
        "[Service]\nUser=ladylinux\nExecStart=/usr/bin/python3 /srv/llm.py\n",
    );
    machine.write("/srv/llm.py", REMOVER);
    machine.exec("systemctl daemon-reload && systemctl start llm").expect(0);
    // A tree with many entries, so the moves take time.
    machine.exec("cd /srv/work && for number in $(seq 400); do : >file-$number; done").expect(0);
    machine.push_version("two");
    let words = "another program has removed /opt/ladylinux/app/file-";
    let caught = (0..TRIES).map(|_| machine.refresh("run")).find(|ran| ran.all().contains(words));
    let Some(caught) = caught else { panic!("no run was disturbed") };
    caught
        .expect(1)
        .prints("(/usr/bin/python3 /srv/llm.py) of llm.service")
        .prints("systemctl stop llm.service")
        .prints("add \"llm.service\" to `also`");
    machine.exec("systemctl stop llm").expect(0);
    machine.refresh("run").expect(0);
    assert_eq!(machine.version().as_deref(), Some("two"));
}

#[test]
fn rw_7_1a_a_tree_that_a_hook_has_closed_or_emptied_is_repaired_by_a_rollback_and_by_a_run() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "in-the-way", set_up);
    for (number, command) in
        ["chmod 000 .", "chmod 000 server.py .git", "rm -rf ./* .git"].into_iter().enumerate()
    {
        let hook = format!(
            "[[hook]]\nname = \"harm\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \"{command}\"]\n"
        );
        machine.write("/srv/work/refresh.toml", &hook);
        let before = until("the service", || machine.version());
        machine.push_version(&format!("harmed-{number}"));
        machine.refresh("run").expect(1).prints("stopped and fenced");
        machine.refresh("rollback").expect(0);
        assert_eq!(machine.version(), Some(before), "{command}");
        machine.refresh("run").expect(1);
        machine.exec("rm /srv/work/refresh.toml").expect(0);
        let repaired = format!("repaired-{number}");
        machine.push_version(&repaired);
        machine.refresh("run").expect(0);
        assert_eq!(machine.version(), Some(repaired), "{command}");
    }
}

#[test]
fn rw_7_1a_a_rollback_works_on_a_full_disk_that_refuses_a_run() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "in-the-way", set_up);
    let before = until("the service", || machine.version());
    machine.write("/srv/work/server.py", "raise SystemExit('no')\n");
    machine.push_version("two");
    machine.refresh("run").expect(1);
    let state = "/var/lib/ladylinux-refresh";
    let line = format!(
        "mkdir /srv/small && size=$(du --summarize --block-size=1M {state} | cut --fields=1) && \
         mount -t tmpfs -o size=$((size + 60))m,mode=755 none /srv/small && cp -a {state}/. /srv/small/ && \
         mount --bind /srv/small {state}"
    );
    machine.exec(&line).expect(0);
    machine.refresh("run").expect(3).prints("MiB free; 256 are needed");
    machine.refresh("rollback").expect(0);
    assert_eq!(machine.version(), Some(before));
}

#[test]
fn rw_5_4_processes_that_a_hook_leaves_end_with_it_and_processes_of_the_run_do_not() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "in-the-way", set_up);
    let hook = "[[hook]]\nname = \"leaves\"\nkind = \"check\"\n\
                command = [\"sh\", \"-c\", \"setsid sleep 12345 & sleep 0.2\"]\n";
    machine.write("/srv/work/refresh.toml", hook);
    for version in ["two", "three"] {
        machine.push_version(version);
        machine.refresh("run").expect(0);
    }
    let ran = machine.refresh("rollback").expect(0);
    assert!(!ran.all().contains("left running"), "{}", ran.all());
    machine.exec("pgrep --full [s]leep.12345").expect(1);
    assert_eq!(machine.version().as_deref(), Some("two"));
}
