//! The contract of a service manager, fulfilled by systemd, and further promises of that manager.
//!
//! One machine of the lab is booted, this test program is copied into it, and the tests that are marked as ignored run
//! there, against its systemd. The others inspect that machine from outside.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests create installations and start programs"
)]

use crate::lab;
use crate::service;
mod world;

mod fence;
mod start;
mod stop;

use lab::{Groups, Lab, Machine};
use refresh_service::systemd::dropin;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use world::bench;

macro_rules! keeps {
    ($($name:ident: $clause:ident;)*) => {
        $(#[test] #[ignore = "runs on a machine of the lab"] fn $name() { service::$clause(bench); })*
    };
}

keeps! {
    rw_5_1_a_started_unit_is_running_and_a_stopped_one_is_stopped: a_started_service_is_observed_as_running_and_a_stopped_one_as_stopped;
    rw_5_1_a_stop_ends_every_process_of_the_cgroup_and_frees_the_port: a_stop_ends_every_process_of_the_tree_and_frees_the_port;
    rw_5_1_stopping_a_stopped_unit_succeeds: stopping_a_stopped_service_succeeds;
    rw_5_1_a_unit_that_ignores_the_request_to_end_is_killed_and_that_is_reported: a_service_that_ignores_the_request_to_end_is_killed_and_the_stop_reports_it;
    rw_7_1a_while_the_fence_stands_an_ordinary_start_of_the_unit_is_refused: while_the_fence_stands_an_ordinary_start_is_refused;
    rw_7_1a_a_fence_that_cannot_be_read_keeps_the_unit_down_nevertheless: a_fence_that_cannot_be_read_refuses_nevertheless;
    rw_5_5_the_refresh_that_fenced_the_unit_starts_it_through_the_fence: the_refresh_that_fenced_the_service_starts_it_through_the_fence;
    a_unit_that_runs_is_not_started_twice: a_service_that_runs_is_not_started_twice;
    two_starts_of_a_unit_at_the_same_instant_make_one_service: two_starts_at_the_same_instant_make_one_service;
    rw_7_1b_the_journals_tail_holds_the_lines_of_exactly_this_invocation: the_log_tail_holds_the_lines_of_exactly_this_invocation;
    rw_5_5_the_unit_finds_its_environment_file_its_version_and_its_directory: the_service_finds_its_environment_file_its_version_and_its_directory;
    rw_5_5_a_unit_is_identified_by_its_invocation_even_if_it_has_emptied_its_environment: a_service_is_identified_by_its_invocation_even_if_it_has_emptied_its_environment;
}

/// The path of this program on the machine.
const ON_THE_MACHINE: &str = "/usr/local/bin/service-tests";

/// Runs the tests that are marked as ignored on a machine.
fn run_on(machine: &Machine) {
    machine.copy_in(&std::env::current_exe().unwrap(), ON_THE_MACHINE, 0o755);
    // A test that stops systemd itself for a moment disturbs all others. A count of starts is disturbed by the others,
    // because systemd forgets it when it reloads its units.
    let alone = ["is_executed_anew", "that_systemd_gave_up"];
    let most = format!("service_systemd:: --skip=a_caller_without_rights --skip={}", alone.join(" --skip="));
    for which in std::iter::once(most.as_str()).chain(alone) {
        let program = format!("{}=1 {ON_THE_MACHINE}", world::ON_A_MACHINE);
        let ran = machine.exec(&format!("{program} --ignored --test-threads=8 {which}"));
        assert_eq!(ran.code, Some(0), "{}", ran.all());
        assert!(!ran.out.contains("running 0 tests"), "{}", ran.out);
    }
}

#[test]
fn rw_5_1_rw_5_5_rw_7_1a_systemd_keeps_the_contract_on_a_machine_that_boots() {
    let Some(lab) = Lab::open() else { return };
    let mut machine = Machine::boot(&lab, "host");
    run_on(&machine);
    the_unit_of_an_installation(&machine);
    the_tool_refuses_what_systemd_cannot_keep(&machine);
    the_tool_speaks_with_systemd(&machine);
    a_process_that_cannot_be_ended_is_reported_as_such(&machine);
    the_fence_outlives_a_reboot(&mut machine);
}

#[test]
fn rw_5_1_rw_5_5_rw_7_1a_systemd_keeps_the_contract_on_hosts_with_cgroup_v1_and_with_v2() {
    let Some(lab) = Lab::open() else { return };
    for (groups, kind) in [(Groups::V1, "tmpfs"), (Groups::V2, "cgroup2fs")] {
        let machine = Machine::named(&lab, "host").groups(groups).boot();
        machine.exec("stat --file-system --format=%T /sys/fs/cgroup").expect(0).prints(kind);
        let unified = machine.exec("grep -c cgroup2 /proc/self/mountinfo").out;
        assert_eq!(unified.trim() == "0", groups == Groups::V1, "{unified}");
        run_on(&machine);
    }
}

/// A unit as on real machines, with a small service behind it.
fn the_unit_of_an_installation(machine: &Machine) {
    machine.add_service_user();
    machine.install_tool();
    let directories = "/opt/ladylinux/app /opt/ladylinux/models /etc/ladylinux /var/lib/ladylinux-refresh";
    machine
        .exec(&format!("mkdir -p {directories} && chown ladylinux: /opt/ladylinux /opt/ladylinux/app"))
        .expect(0);
    machine.write("/etc/ladylinux/ladylinux.env", "LADYLINUX_PORT=8000\n");
    // The service answers no request, so each start ends with a failed health check.
    machine.write("/etc/ladylinux/refresh.toml", "[probe]\ndeadline = \"1s\"\n");
    machine.write(
        "/etc/systemd/system/ladylinux-api.service",
        "[Unit]\nDescription=LadyLinux API\n[Service]\nUser=ladylinux\nWorkingDirectory=/opt/ladylinux/app\n\
         EnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
         ExecStart=/usr/bin/python3 -u -c 'import time; print(\"up\"); time.sleep(1e6)'\n\
         Restart=always\nRestartSec=100ms\n[Install]\nWantedBy=multi-user.target\n",
    );
    machine.exec("systemctl daemon-reload && systemctl enable ladylinux-api").expect(0);
}

fn install_drop_in(machine: &Machine) {
    let (layout, unit) = (Layout::below("/"), UnitName::usual());
    machine.write(layout.drop_in(&unit).to_str().unwrap(), &dropin::text(&layout, &unit));
}

fn the_tool_refuses_what_systemd_cannot_keep(machine: &Machine) {
    // Other faults of this host are printed beside it.
    let refused = |words: &str, repair: &str| machine.tool("plan").expect(3).prints(words).prints(repair);
    refused("ladylinux-api.service has no fence", "ladylinux-refresh init");
    install_drop_in(machine);
    refused("systemd still uses the old one", "systemctl daemon-reload");
    machine.exec("systemctl daemon-reload").expect(0);
    let unit = "/etc/systemd/system/ladylinux-api.service";
    machine.exec(&format!("touch --date=tomorrow {unit}")).expect(0);
    refused("systemd still uses the old one", "systemctl daemon-reload");
    machine.exec("systemctl daemon-reload").expect(0);
    let plan = machine.tool("plan");
    assert!(!plan.all().contains("ladylinux-api.service"), "{}", plan.all());

    // A later file with an empty assignment removes the assertions.
    let later = "/etc/systemd/system/ladylinux-api.service.d/zz.conf";
    for (text, words) in [
        ("[Unit]\nAssertPathExists=\n", "has no fence"),
        ("[Unit]\nAssertPathExists=|/etc\n", "leads around it"),
        ("[Service]\nEnvironmentFile=\n", "environment file"),
        ("[Service]\nType=oneshot\nRestart=no\n", "Type=oneshot"),
    ] {
        machine.write(later, text);
        machine.exec("systemctl daemon-reload").expect(0);
        machine.tool("plan").expect(3).prints(words);
    }
    machine.exec(&format!("rm {later} && systemctl daemon-reload")).expect(0);
    // The unit is in the directory of manually written units, so it must be moved for the mask.
    machine.exec("mv /etc/systemd/system/ladylinux-api.service /usr/lib/systemd/system/").expect(0);
    machine.exec("systemctl mask ladylinux-api").expect(0);
    refused("ladylinux-api.service is masked", "systemctl unmask ladylinux-api.service");
    machine.exec("systemctl unmask ladylinux-api && systemctl enable ladylinux-api").expect(0);

    let socket = "/run/dbus/system_bus_socket";
    machine.exec(&format!("mv {socket} {socket}.away")).expect(0);
    machine
        .tool("plan")
        .expect(3)
        .prints("cannot reach systemd over D-Bus")
        .prints("systemctl status dbus.socket");
    machine.exec(&format!("mv {socket}.away {socket}")).expect(0);
}

/// A service whose worker outlives it and then, frozen, receives no signal.
fn a_process_that_cannot_be_ended_is_reported_as_such(machine: &Machine) {
    let freezer = "/sys/fs/cgroup/freezer";
    // Only the freezer of cgroup v1 delays SIGKILL.
    if machine.exec(&format!("mount -o remount,rw,bind {freezer} && mkdir {freezer}/held")).code != Some(0) {
        let line = b"LEFT OUT: a process that cannot be ended: this kernel has no freezer of cgroup v1\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
        return;
    }
    machine.write(
        "/etc/systemd/system/ladylinux-api.service.d/worker.conf",
        "[Service]\nKillMode=process\nExecStart=\nExecStart=/bin/sh -c 'sleep 1000000 & echo $! >/tmp/worker; wait'\n",
    );
    machine.exec("systemctl daemon-reload").expect(0);
    machine.tool("service start").expect(5);
    let worker = lab::until("the worker", || machine.read("/tmp/worker").filter(|pid| pid.ends_with('\n')));
    let worker = worker.trim();
    machine.exec(&format!("echo {worker} >{freezer}/held/cgroup.procs")).expect(0);
    machine.exec(&format!("echo FROZEN >{freezer}/held/freezer.state")).expect(0);
    let ran = machine.tool("service stop").expect(3).prints("cannot be ended").prints("hangs in the kernel");
    assert!(ran.all().contains(&format!("{worker} (sleep 1000000)")), "{}", ran.all());
    machine.tool("service status").expect(5).prints("left behind").prints(worker);
    machine.exec(&format!("echo THAWED >{freezer}/held/freezer.state")).expect(0);
    lab::until("the worker's end", || {
        (machine.exec(&format!("kill -0 {worker}")).code != Some(0)).then_some(())
    });
    machine.tool("service stop").expect(0).prints("was stopped already");
    machine.exec("rm -r /etc/systemd/system/ladylinux-api.service.d; systemctl daemon-reload").expect(0);
}

fn the_tool_speaks_with_systemd(machine: &Machine) {
    machine.tool("service status").expect(5).prints("ladylinux-api.service: stopped");
    let started = machine.tool("service start").expect(5);
    started.prints("ladylinux-api.service started (pid ").prints("fails its health check");
    machine.tool("service start").expect(0).prints("runs already");
    machine.tool("service status").expect(0).prints("running (pid ");
    lab::until("the service's line", || {
        machine.tool("service logs").expect(0).out.lines().any(|line| line == "up").then_some(())
    });
    machine.exec("systemctl is-active ladylinux-api").expect(0);
    machine.tool("service stop").expect(0).prints("stopped in");
    machine.exec("systemctl is-active ladylinux-api").expect(3).prints("inactive");
}

fn the_fence_outlives_a_reboot(machine: &mut Machine) {
    machine.tool("service start").expect(5);
    machine.write("/var/lib/ladylinux-refresh/fence", "{}");
    machine.reboot();
    machine.exec("systemctl is-system-running --wait").expect(0).prints("running");
    machine.exec("systemctl is-enabled ladylinux-api").expect(0);
    machine.exec("systemctl is-active ladylinux-api").expect(3).prints("inactive");
    machine.exec("systemctl start ladylinux-api").expect(1).prints("Assertion failed");
    machine.tool("service start").expect(3).prints("fenced");
    machine.exec("rm /var/lib/ladylinux-refresh/fence").expect(0);
    machine.reboot();
    machine.exec("systemctl is-system-running --wait").expect(0);
    machine.exec("systemctl is-active ladylinux-api").expect(0);
}
