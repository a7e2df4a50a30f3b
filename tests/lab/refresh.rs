//! Machines that are refreshed as people do it: the program installed, the demo's application (`FastAPI` under uvicorn)
//! as a service, source and packages from another machine.

use crate::lab;
use crate::site;

use lab::{Disk, How, LOCAL_INDEX, Lab, Machine, Server, until};
use site::{PROBE, Site};

/// The unit of some machines: its workers outlive a stop.
const OLD_UNIT: &str = "[Unit]\nDescription=LadyLinux API\nAfter=network.target\n\
    [Service]\nType=simple\nUser=ladylinux\nWorkingDirectory=/opt/ladylinux/app\n\
    EnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/uvicorn api_layer:app --host 0.0.0.0 --port 8000\n\
    KillMode=process\nRestart=on-failure\nRestartSec=5\n\
    [Install]\nWantedBy=multi-user.target\n";

/// The setup of such a machine, manually and by script.
const OLD_WAY: &str = "set -e
    install -d -o ladylinux -g ladylinux /opt/ladylinux /opt/ladylinux/models /var/lib/ladylinux/data
    export GIT_ASKPASS=/root/askpass
    printf '#!/bin/sh\\ncat /etc/ladylinux/token\\n' >/root/askpass
    chmod +x /root/askpass
    git clone -q URL /opt/ladylinux/app
    python3 -m venv /opt/ladylinux/venv
    /opt/ladylinux/venv/bin/pip install -q --index-url INDEX -r /opt/ladylinux/app/requirements.txt
    echo weights >/opt/ladylinux/models/lady.gguf
    chown -R ladylinux:ladylinux /opt/ladylinux
    systemctl daemon-reload
    systemctl enable --quiet --now ladylinux-api";

#[test]
fn rw_3_1_rw_5_5_rw_5_6a_a_machine_is_set_up_from_nothing_and_refreshed_over_https_and_over_ssh() {
    let Some(lab) = Lab::open() else { return };
    let mut site = Site::bare(&lab, Disk::Shared, How::Https, PROBE);
    let first = site.server.head();
    site.machine.tool("init").expect(0);
    site.machine.tool("run main").expect(0).prints(&first[..10]);
    site.expect_running(&first);
    site.add_note("written before the refresh");

    // A commit that needs another package.
    let second = site.server.push_demo(3);
    site.machine.tool("run").expect(0).prints(&second[..10]);
    site.expect_running(&second);
    assert_eq!(site.status()["last_run"]["result"], "refreshed");
    assert!(site.notes().contains(&"written before the refresh".to_owned()));
    site.machine.exec("find /opt/ladylinux/app ! -user ladylinux | grep .").expect(1);
    let asked = site.server.requests();
    assert!(asked.iter().any(|line| line.contains("git-upload-pack") && line.ends_with(" 200")), "{asked:?}");

    // After a boot the refreshed version runs.
    site.machine.reboot();
    site.await_answer();
    site.expect_running(&second);

    // By ssh, and in no other way.
    site.server.https("stop").expect(0);
    site.server.configure(&site.machine, How::Ssh, PROBE);
    let third = site.server.push(&[("templates/more.html", "more\n")]);
    site.machine.tool("run").expect(0);
    site.expect_running(&third);
}

#[test]
fn rw_3_2_rw_6_1_a_machine_that_was_set_up_manually_is_adopted_and_refreshed() {
    let Some(lab) = Lab::open() else { return };
    let site = Site::bare(&lab, Disk::Shared, How::Https, PROBE);
    let (server, machine) = (&site.server, &site.machine);
    machine.lend_uv();
    machine.add_service_user();
    machine.write("/etc/systemd/system/ladylinux-api.service", OLD_UNIT);
    machine.write_mode("/etc/ladylinux/ladylinux.env", "LADYLINUX_PORT=8000\nOAUTH_TOKEN=secret\n", 0o640);
    let url = Server::url(How::Https).replace("://", "://x@");
    machine.exec(&OLD_WAY.replace("URL", &url).replace("INDEX", LOCAL_INDEX)).expect(0);
    site.await_answer();
    // The application keeps preferences in its own tree, and a tracked file was edited manually.
    let edit =
        "cd /opt/ladylinux/app && mkdir config && echo '{}' >config/user_prefs.json && echo more >>README.md";
    machine.exec_as("ladylinux", edit).expect(0);
    let kept = "sha256sum /etc/systemd/system/ladylinux-api.service /etc/ladylinux/ladylinux.env /opt/ladylinux/models/*
                stat -c '%n %U:%G %a %Y' /etc/ladylinux/ladylinux.env /opt/ladylinux/models/*";
    let before = machine.exec(kept).expect(0).out;

    machine.tool("init").expect(0);
    machine.tool("run main").expect(0).prints("2 local changes");
    site.expect_running(&server.head());
    let second = server.push_demo(3);
    machine.tool("run").expect(0);
    site.expect_running(&second);
    assert_eq!(machine.exec(kept).expect(0).out, before);
    machine.exec("test -L /opt/ladylinux/venv").expect(0);
    machine.tool("stash list").expect(0).prints("2 local changes");
    let clean = "changes=$(git -C /opt/ladylinux/app status --porcelain) && test -z \"$changes\"";
    machine.exec_as("ladylinux", clean).expect(0);
}

#[test]
fn rw_7_2_a_machine_that_was_restored_from_its_snapshot_is_refreshed() {
    let Some(lab) = Lab::open() else { return };
    let mut site = Site::running(&lab, Disk::Shared, PROBE);
    let first = site.server.head();
    site.add_note("in the snapshot");
    let kept = site.notes();
    site.machine.power_off();
    site.machine.snapshot("baseline");
    site.machine.start();
    site.await_answer();

    // Several failures at once: a migration fails, and a person removes the environments' sources and the store of
    // commits.
    site.add_note("after the snapshot");
    site.server.push_demo(2);
    site.server.push_demo(3);
    site.server.push_demo(4);
    site.machine.tool("run").expect(1).prints("migrate");
    site.expect_fenced();
    let empty = "chmod -R u+w . && find . -name '*.py' -exec sh -c 'for file; do : >\"$file\"; done' sh {} +";
    site.machine.exec(&format!("cd /opt/ladylinux-refresh/environments && {empty}")).expect(0);
    site.machine.exec("rm -rf /opt/ladylinux-refresh/mirror.git/objects").expect(0);
    site.network.partition("web");
    site.machine.tool("rollback").expect(3).prints("is not in the mirror, and cannot be fetched");
    site.network.heal("web");
    site.expect_fenced();

    site.machine.power_off();
    site.machine.restore("baseline");
    site.machine.start();
    site.await_answer();
    site.expect_running(&first);
    assert_eq!(site.notes(), kept);
    let repaired = site.server.push_demo(5);
    site.machine.tool("run").expect(0);
    site.expect_running(&repaired);
    assert!(site.notes().contains(&"in the snapshot".to_owned()));
}

/// A hook that tries to change everything that no refresh may change, writes the results to the data, and waits as long
/// as it is held.
const MEDDLING: &str = "\n[[hook]]\nname = \"meddle\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \"\"\"
cd /var/lib/ladylinux/data
for file in /opt/ladylinux/models/planted /opt/ladylinux/containers/planted /etc/ladylinux/ladylinux.env; do
    echo '# planted' >>$file
done 2>refused
grep NoNewPrivs /proc/self/status >privileges
touch reached
while [ -e /srv/hold ]; do sleep 0.02; done
\"\"\"]\n";

/// A staged hook that writes into the tree, and records its directory and the paths that it can reach.
const BUNDLE: &str =
    "\n[[hook]]\nname = \"bundle\"\nkind = \"assets\"\nstage = true\ncommand = [\"sh\", \"-c\", \"\"\"
mkdir static
{ id -un; pwd; touch /var/lib/ladylinux/data/planted 2>/dev/null || echo no data; } >static/site.css
\"\"\"]\n";

/// The exposure that systemd reports for a unit, from 0 to 10.
#[track_caller]
fn exposure(machine: &Machine, unit: &str) -> f64 {
    let printed = machine.exec(&format!("systemd-analyze security --no-pager {unit}")).expect(0).out;
    let line = printed
        .lines()
        .find(|line| line.contains("Overall exposure level"))
        .unwrap_or_else(|| panic!("{printed}"));
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn rw_6_1_the_kernel_keeps_a_hook_from_models_containers_and_settings() {
    let Some(lab) = Lab::open() else { return };
    let site = Site::running(&lab, Disk::Shared, PROBE);
    let machine = &site.machine;
    let before = site.inventory();
    let demo = include_str!("../../demo/app/refresh.toml");
    let second = site.server.push(&[("refresh.toml", &format!("{demo}{BUNDLE}{MEDDLING}"))]);
    machine.write("/srv/hold", "");
    let run = machine.tool("run --detach").expect(0).out.trim_end().to_owned();
    let data = "/var/lib/ladylinux/data";
    until("the hook", || machine.read(&format!("{data}/reached")));
    let unit = format!("ladylinux-refresh-{run}.service");
    let exposed = [&unit, "ladylinux-refresh.service", "ladylinux-refresh-request.service"]
        .map(|unit| (unit.to_owned(), exposure(machine, unit)));
    machine.exec("rm /srv/hold").expect(0);
    machine.tool(&format!("wait {run}")).expect(0).prints("Refreshed");
    site.expect_running(&second);

    let refused = machine.read(&format!("{data}/refused")).unwrap();
    assert_eq!(refused.matches("Read-only file system").count(), 3, "{refused}");
    assert_eq!(site.inventory(), before);
    assert_eq!(machine.read(&format!("{data}/privileges")).unwrap().trim(), "NoNewPrivs:\t1");
    assert!(exposed.iter().all(|(_, level)| *level <= 3.0), "{exposed:?}");

    let built = machine.exec("cat /opt/ladylinux/app/static/site.css").expect(0).out;
    assert_eq!(built, "ladylinux-staging\n/opt/ladylinux/app\nno data\n");
    machine.exec("stat -c %U /opt/ladylinux/app/static/site.css").expect(0).prints("ladylinux\n");

    // The unit of the timer works with the same properties, even if its directory in /run does not exist yet.
    machine.exec("rm -r /run/ladylinux-refresh").expect(0);
    let third = site.server.push(&[("templates/more.html", "more\n")]);
    machine.exec("systemctl start ladylinux-refresh.service").expect(0);
    site.expect_running(&third);
    machine.tool("history -n 1").expect(0);
    machine.exec("test -d /run/ladylinux-refresh/runs").expect(0);
}
