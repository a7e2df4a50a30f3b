//! A refresh continues whatever happens to its client, and the effects of a kill are repaired at once: on machines with
//! systemd, with the program as people install it.
//!
//! A hook that waits as long as a file exists holds a run at the point that a test needs.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::lab;

use std::process::Child;

use lab::{LOCAL_INDEX, Lab, Machine, Ran, SERVER, UNIT, signal, until};
use rustix::process::Signal;

/// Records that it runs, and waits as long as it is held.
const HOOK: &str = "[[hook]]\nname = \"hold\"\nkind = \"check\"\n\
    command = [\"sh\", \"-c\", \"echo here; while [ -e /srv/hold ]; do sleep 0.02; done\"]\n";

/// A host that has refreshed once, with version `one`.
struct Host {
    machine: Machine,
}

impl Host {
    fn running(lab: &Lab) -> Self {
        let machine = Machine::copy_of(lab, "survivor", Self::set_up);
        let host = Self { machine };
        until("the service", || host.machine.version());
        assert_eq!(host.machine.version().as_deref(), Some("one"));
        host
    }

    fn set_up(machine: &Machine) {
        let files = [("server.py", SERVER), ("requirements.txt", ""), ("refresh.toml", HOOK)];
        machine.prepare_small_host(&files, UNIT);
        machine.refresh("init --repo file:///srv/app.git --allow file --branch main").expect(0);
        configure(machine, "300ms", "");
        machine.refresh("run").expect(0).prints("Refreshed");
    }

    /// Pushes another version.
    /// Starts the program as a client that the test can send signals to.
    fn client(&self, arguments: &str) -> Child {
        let own = "echo $$ >/run/client.pid";
        self.machine.spawn(&format!("{own}; PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh {arguments}"))
    }

    fn signal_client(&self, name: &str) {
        self.machine.exec(&format!("kill -{name} $(cat /run/client.pid)")).expect(0);
    }

    fn hold(&self) {
        self.machine.write("/srv/hold", "");
    }

    fn release(&self) {
        self.machine.exec("rm /srv/hold").expect(0);
    }

    /// The run in progress, as in `status.json`.
    fn current(&self) -> Option<serde_json::Value> {
        let current = self.machine.json("/var/lib/ladylinux-refresh/status.json")["current"].clone();
        (!current.is_null()).then_some(current)
    }

    fn last_run(&self) -> serde_json::Value {
        self.machine.json("/var/lib/ladylinux-refresh/status.json")["last_run"].clone()
    }

    fn last_request(&self) -> serde_json::Value {
        self.machine.json("/var/lib/ladylinux-refresh/status.json")["last_request"].clone()
    }

    /// Waits until the hook holds a run. Returns the ID of the run.
    #[track_caller]
    fn held(&self) -> String {
        until("a run that is held", || {
            let run = self.current()?["run"].as_str()?.to_owned();
            let events = self.machine.read(&format!("/run/ladylinux-refresh/runs/{run}/events.jsonl"))?;
            events.contains("\"line\":\"here\"").then_some(run)
        })
    }

    fn state(&self) -> String {
        self.machine.exec("systemctl is-active ladylinux-api").out.trim().to_owned()
    }

    fn fenced(&self) -> bool {
        self.machine.read("/var/lib/ladylinux-refresh/fence").is_some()
    }
}

/// Waits for the end of a spawned command.
fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Puts the host's settings in place.
fn configure(machine: &Machine, settle: &str, top: &str) {
    let text = format!(
        "{top}\n[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n\
         [service]\ncommand = [\"{{venv}}/bin/python\", \"server.py\"]\n\
         [probe]\ndeadline = \"60s\"\nsettle = \"{settle}\"\n"
    );
    machine.write("/etc/ladylinux/refresh.toml", &text);
}

#[test]
fn a_refresh_continues_when_its_client_is_killed_disconnected_cancelled_or_stopped() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    for (signal, version, code) in
        [("KILL", "two", 137), ("HUP", "three", 129), ("TERM", "four", 143), ("INT", "five", 130)]
    {
        host.machine.push_version(version);
        host.hold();
        let client = host.client("run");
        let run = host.held();
        assert_eq!(host.current().unwrap()["phase"], "stop", "all that happens while the service is down");
        host.machine
            .exec("systemctl list-units --plain --no-legend 'ladylinux-refresh-2*'")
            .prints(&format!("ladylinux-refresh-{run}.service"));
        host.signal_client(signal);
        let left = ended(client);
        if signal != "KILL" {
            assert_eq!(left.code, Some(code), "{signal}: {}", left.all());
            assert!(left.err.contains(&format!("ladylinux-refresh wait {run}")), "{}", left.all());
        }
        host.release();
        host.machine.refresh(&format!("wait {run}")).expect(0).prints("5 restart").prints("Refreshed");
        assert_eq!(host.machine.version().as_deref(), Some(version), "{signal}");
        assert_eq!(host.current(), None);
    }

    // A client that is stopped (^Z) delays nothing, and receives all events when it continues.
    host.machine.push_version("six");
    host.hold();
    let client = host.client("run");
    let run = host.held();
    host.signal_client("STOP");
    host.release();
    host.machine.refresh(&format!("wait {run}")).expect(0);
    assert_eq!(host.machine.version().as_deref(), Some("six"));
    // All of its group: the command that leads into the machine stops and continues with it.
    signal(&client, Signal::CONT);
    ended(client).expect(0).prints("Refreshed");

    // A closed output changes nothing, and the exit code is still that of the run.
    host.machine.push_version("seven");
    host.machine.refresh("run >/dev/full 2>&1").expect(0);
    assert_eq!(host.machine.version().as_deref(), Some("seven"));
}

#[test]
fn a_detached_run_is_waited_for_and_cancelled_by_its_id_and_a_second_one_ends_with_4() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    host.machine.push_version("two");
    host.hold();
    let run = host.machine.refresh("run --detach").expect(0).out.trim_end().to_owned();
    assert_eq!(host.held(), run);
    host.machine.refresh("run").expect(4).prints(&run).prints("is in progress since");
    let under_way = format!("run {run} of main is in progress since ");
    host.machine.refresh("status").expect(0).prints(&under_way).prints(" UTC: prepare");
    let waiting = host.client(&format!("wait {run} --format json"));
    host.release();
    let printed = ended(waiting).expect(0);
    assert!(printed.out.starts_with("{\"event\":\"run_started\""), "{}", printed.out);
    assert!(printed.out.trim_end().lines().last().unwrap().starts_with("{\"event\":\"run_finished\""));
    assert_eq!(host.machine.version().as_deref(), Some("two"));
    // `wait` works again after the end of a run, even if only the report is left of it.
    assert_eq!(host.machine.refresh(&format!("wait {run} --format json")).expect(0).out, printed.out);
    host.machine.exec(&format!("rm -r /run/ladylinux-refresh/runs/{run}")).expect(0);
    host.machine.refresh(&format!("wait {run}")).expect(0).prints("Refreshed");
    host.machine.refresh("wait 20260101T000000000Z-1").expect(3).prints("does not exist");

    // A user who can read the state can wait; only root can cancel.
    host.hold();
    let run = host.machine.refresh("run --detach").expect(0).out.trim_end().to_owned();
    host.held();
    host.machine.exec_as("ladylinux", &format!("ladylinux-refresh cancel {run}")).expect(3);
    host.machine.refresh(&format!("cancel {run}")).expect(0).prints("halted").prints("fenced");
    assert!(host.fenced());
    assert_eq!(host.state(), "inactive");
    host.machine.exec_as("ladylinux", &format!("ladylinux-refresh wait {run}")).expect(130).prints("SIGINT");
    host.machine.refresh(&format!("cancel {run}")).expect(0).prints("is not in progress");
    host.release();

    // Two at the same instant.
    let both = [host.client("run"), host.client("run")].map(ended);
    let mut codes = both.each_ref().map(|ran| ran.code.unwrap());
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "{both:?}");
    assert_eq!(host.state(), "active");
    // The client itself reports an error in the command line; no unit is started for it.
    host.machine.refresh("run --no-such-option").expect(2);
    host.machine.refresh("run 'bad..branch'").expect(2).prints("not touched");
    host.machine.refresh("run no-such-branch").expect(3).prints("no-such-branch");
}

#[test]
fn ctrl_c_on_a_terminal_halts_the_run_and_the_client_stays_to_see_it() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    host.machine.push_version("two");
    host.hold();
    let own = "echo $$ >/run/client.pid; exec ladylinux-refresh run";
    let client = host.machine.spawn(&format!("exec script --quiet --return --command '{own}' /dev/null"));
    let run = host.held();
    host.signal_client("INT");
    ended(client).expect(130).prints("Halted").prints("interrupted by SIGINT");
    assert_eq!(host.last_run()["run"], run.as_str());
    assert!(host.fenced());
    assert_eq!(host.state(), "inactive");
}

#[test]
fn rw_7_1a_a_run_that_is_killed_while_the_service_settles_leaves_it_stopped_and_fenced() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    host.machine.push_version("two");
    configure(&host.machine, "120s", "");
    let client = host.client("run");
    until("the new version behind the fence", || {
        (host.fenced() && host.machine.version().as_deref() == Some("two")).then_some(())
    });
    let run = host.current().unwrap()["run"].as_str().unwrap().to_owned();
    // The repair after a killed run needs no settings.
    configure(&host.machine, "300ms", "no_such_key = 1");
    host.machine.exec(&format!("systemctl kill --signal=KILL ladylinux-refresh-{run}")).expect(0);
    // The client stays until the repair is complete, and prints its result.
    ended(client).expect(137).prints("Interrupted").prints("was killed in restart").prints("SIGKILL");
    assert_eq!(host.state(), "inactive");
    assert!(host.fenced());
    assert_eq!(host.machine.read("/run/ladylinux-refresh/admit"), None);
    assert_eq!(host.current(), None);
    let printed = host.last_run();
    assert_eq!((&printed["result"], &printed["run"]), (&"interrupted".into(), &run.as_str().into()));
    assert_eq!(
        (&printed["service"]["state"], &printed["service"]["fenced"]),
        (&"stopped".into(), &true.into())
    );
    host.machine.exec("systemctl start ladylinux-api").expect(1);
    configure(&host.machine, "300ms", "");
    host.machine.refresh("status").expect(0).prints("was killed in restart");
    host.machine.refresh("history").expect(0).prints("interrupted");
    host.machine.refresh("run").expect(0).prints(&format!("run {run} was interrupted"));
    assert_eq!(host.machine.version().as_deref(), Some("two"));
}

#[test]
fn rw_7_1a_a_machine_that_is_switched_off_during_a_run_boots_with_the_service_fenced_and_reports_it() {
    let Some(lab) = Lab::open() else { return };
    let mut host = Host::running(&lab);
    host.machine.push_version("two");
    host.hold();
    let run = host.machine.refresh("run --detach").expect(0).out.trim_end().to_owned();
    host.held();
    host.machine.reboot();
    assert!(host.fenced());
    assert_eq!(host.state(), "inactive");
    let printed = host.last_run();
    assert_eq!((&printed["run"], &printed["result"]), (&run.as_str().into(), &"halted".into()), "{printed}");
    assert_eq!(host.current(), None);
    host.machine.refresh(&format!("wait {run}")).expect(143).prints("SIGTERM");
    host.release();
    host.machine.refresh("run").expect(0);
    assert_eq!(host.machine.version().as_deref(), Some("two"));
}

#[test]
fn rw_5_1_a_refresh_that_is_started_from_inside_the_service_completes() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);

    // Root in the service's own control group: the way of a button with a sudo rule.
    host.machine.push_version("two");
    let inside = "for f in /sys/fs/cgroup/*/system.slice/ladylinux-api.service/cgroup.procs \
                  /sys/fs/cgroup/system.slice/ladylinux-api.service/cgroup.procs; do \
                  [ -e $f ] && echo $$ >$f; done; grep -q ladylinux-api.service /proc/self/cgroup || exit 99";
    let client = host
        .machine
        .spawn(&format!("{inside}; PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run >/srv/said 2>&1"));
    let ran = ended(client);
    assert_ne!(ran.code, Some(99), "the client was not inside");
    until("the new version, settled", || {
        (host.machine.version().as_deref() == Some("two") && !host.fenced()).then_some(())
    });
    until("the end of the run", || host.current().is_none().then_some(()));
    assert_eq!(host.last_run()["result"], "refreshed");
    let printed = host.machine.read("/srv/said").unwrap();
    assert!(printed.contains("this was started from inside the service"), "{printed}");

    // The request file, created by the service user in the same control group: the way of a button without any rights.
    let request = || {
        let line = "touch /run/ladylinux-refresh/request/refresh";
        let user = "setpriv --reuid=ladylinux --regid=ladylinux --init-groups --reset-env";
        host.machine.exec(&format!("{inside}; exec {user} {line}")).expect(0);
    };
    let answered = |outcome: &str, why: &str| {
        until("an answer to the request", || {
            let last = host.last_request();
            let has_why = last["why"].as_str().unwrap_or_default().contains(why);
            (last["outcome"] == outcome && has_why).then_some(last)
        })
    };
    host.machine.push_version("three");
    request();
    assert_eq!(answered("refused", "allowed_branches does not contain main")["branch"], "main");
    assert_eq!(host.machine.version().as_deref(), Some("two"));
    host.machine.refresh("status").expect(0).prints("last request main");
    configure(&host.machine, "300ms", "allowed_branches = [\"main\"]");
    request();
    let last = answered("done", "");
    assert_eq!(host.machine.version().as_deref(), Some("three"));
    assert_eq!(last["run"], host.last_run()["run"]);
    // Unusable settings make this one request fail, and no later one.
    host.machine.push_version("four");
    configure(&host.machine, "300ms", "no_such_key = 1");
    request();
    answered("refused", "the settings of this host cannot be used");
    configure(&host.machine, "300ms", "allowed_branches = [\"main\"]");
    request();
    answered("done", "");
    assert_eq!(host.machine.version().as_deref(), Some("four"));
    // The watch continues, and does not loop.
    host.machine.exec("systemctl is-active ladylinux-refresh-request.path").expect(0);
    until("the end of the answer", || {
        host.machine
            .exec("systemctl is-active ladylinux-refresh-request.service")
            .out
            .contains("inactive")
            .then_some(())
    });
    let left = host.machine.exec("ls -A /run/ladylinux-refresh/request").out;
    assert_eq!(left, "");
}

#[test]
fn rw_7_1a_a_killed_run_leaves_the_service_down_even_if_another_process_has_the_lock_by_then() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let lock = "/var/lib/ladylinux-refresh/lock";
    let settling = |version: &str| {
        host.machine.push_version(version);
        configure(&host.machine, "120s", "");
        let client = host.client("run");
        until("the new version behind the fence", || {
            (host.fenced() && host.machine.version().as_deref() == Some(version)).then_some(())
        });
        (client, host.current().unwrap()["run"].as_str().unwrap().to_owned())
    };
    let down = || {
        until("the service is stopped", || (host.state() == "inactive").then_some(()));
        assert!(host.fenced());
        assert_eq!(host.machine.read("/run/ladylinux-refresh/admit"), None);
    };

    // Another process holds the lock for a long time.
    let (client, run) = settling("two");
    let mut other =
        host.machine.spawn(&format!("echo $$ >/run/holder.pid; exec flock --no-fork {lock} sleep 1000"));
    let waits = "ls -l /proc/$(cat /run/holder.pid)/fd | grep --quiet refresh/lock";
    until("a process that waits for the lock", || (host.machine.exec(waits).code == Some(0)).then_some(()));
    host.machine.exec(&format!("systemctl kill --signal=KILL ladylinux-refresh-{run}")).expect(0);
    ended(client).expect(137);
    down();
    host.machine.exec("kill $(cat /run/holder.pid)").expect(0);
    other.wait().unwrap();

    // Another run, which is refused.
    configure(&host.machine, "300ms", "");
    host.machine.refresh("run").expect(0);
    let (client, run) = settling("three");
    let workers = || host.machine.exec("ls /run/ladylinux-refresh/runs/*/worker.json | wc -l").out;
    let workers = || workers().trim().parse::<u32>().unwrap();
    let before = workers();
    let next = host.client("run --lock-timeout 60");
    host.machine.exec("mv /srv/app.git /srv/away.git").expect(0);
    until("the next run waits for the lock", || (workers() > before).then_some(()));
    host.machine.exec(&format!("systemctl kill --signal=KILL ladylinux-refresh-{run}")).expect(0);
    ended(client);
    ended(next).expect(3);
    down();
    host.machine.exec("mv /srv/away.git /srv/app.git").expect(0);
    configure(&host.machine, "300ms", "");
    host.machine.refresh("run").expect(0);
    assert_eq!(host.machine.version().as_deref(), Some("three"));
}

#[test]
fn the_service_user_can_neither_delay_nor_block_a_run() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    host.machine.push_version("two");
    for lock in ["lock", "status.lock"] {
        let line = format!("flock --nonblock /var/lib/ladylinux-refresh/{lock} true");
        let ran = host.machine.exec_as("ladylinux", &line);
        assert_ne!(ran.code, Some(0), "{lock} was locked: {}", ran.all());
    }
    host.machine.exec_as("ladylinux", "ladylinux-refresh status").expect(0);
    // The directory belongs to it, so the entry may be of any kind.
    host.machine
        .exec("cd /etc/ladylinux && chown ladylinux . && mv ladylinux.env old && mkfifo ladylinux.env && chown root .")
        .expect(0);
    host.machine.refresh("run").expect(3).prints("not a regular file");
    host.machine.exec("cd /etc/ladylinux && mv old ladylinux.env").expect(0);
    host.machine.exec("truncate --size 10G /etc/ladylinux/ladylinux.env").expect(0);
    host.machine.refresh("run").expect(3).prints("has more than");
    host.machine.exec("truncate --size 0 /etc/ladylinux/ladylinux.env").expect(0);
    host.machine.refresh("run").expect(0);
    assert_eq!(host.machine.version().as_deref(), Some("two"));
}

#[test]
fn the_options_and_variables_of_a_run_arrive_and_are_not_public() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    host.machine.push_version("two");
    host.hold();
    let secret = r"http://me:open\$sesame@proxy.invalid:1";
    let line = format!("HTTPS_PROXY='{secret}' PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run");
    let client = host.machine.spawn(&line);
    let run = host.held();
    let unit = format!("ladylinux-refresh-{run}.service");
    let look = format!(
        "systemctl show {unit}; cat /run/systemd/transient/{unit}; grep -r sesame /run/ladylinux-refresh"
    );
    let seen = host.machine.exec_as("ladylinux", &look);
    assert!(seen.out.contains("EnvironmentFile") && !seen.out.contains("sesame"), "{}", seen.all());
    let own = format!("tr '\\0' '\\n' </proc/$(systemctl show -P MainPID {unit})/environ");
    host.machine.exec(&own).expect(0).prints(&format!("HTTPS_PROXY={secret}"));
    host.release();
    ended(client).expect(0);
}

#[test]
fn rw_7_1a_the_fence_holds_after_any_change_of_the_unit_and_a_way_around_it_is_refused() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let unit = "ladylinux-api.service";
    host.machine.write("/var/lib/ladylinux-refresh/fence", "{}");
    host.machine.exec(&format!("systemctl stop {unit}")).expect(0);
    let installed = format!("/usr/lib/systemd/system/{unit}");
    for line in [
        format!("cp {installed} /etc/systemd/system/ && systemctl daemon-reload && systemctl start {unit}"),
        format!("systemctl try-restart {unit}; systemctl restart {unit}"),
        format!("systemctl revert {unit}; systemctl start {unit}"),
        format!("systemctl mask {unit}; systemctl unmask {unit}; systemctl start {unit}"),
        format!("systemctl reenable --now {unit}"),
        format!(
            "ln -s {installed} /etc/systemd/system/other.service && systemctl daemon-reload && systemctl start other"
        ),
    ] {
        let ran = host.machine.exec(&line);
        assert_eq!(host.state(), "inactive", "{line}: {}", ran.all());
    }
    host.machine.exec("systemctl isolate multi-user.target");
    assert_eq!(host.state(), "inactive");
    host.machine.exec("rm /etc/systemd/system/other.service && systemctl daemon-reload").expect(0);

    for (directory, name, text, printed) in [
        ("/etc", "zz.conf", "AssertPathExists=", "takes the assertion"),
        ("/run", "zz.conf", "AssertPathExists=|/etc", "leads around it"),
        ("/etc", "zz.conf", "AssertPathExists=|/var/lib/ladylinux-refresh/fence", "leads around it"),
        ("/run", "50-ladylinux-refresh.conf", "Description=x", "systemd has not read"),
    ] {
        let directory = format!("{directory}/systemd/system/{unit}.d");
        host.machine.exec(&format!("mkdir -p {directory}")).expect(0);
        host.machine.write(&format!("{directory}/{name}"), &format!("[Unit]\n{text}\n"));
        host.machine.exec("systemctl daemon-reload").expect(0);
        host.machine.refresh("run").expect(3).prints(printed);
        host.machine.exec(&format!("rm -r {directory} && systemctl daemon-reload")).expect(0);
    }
    host.machine.refresh("run").expect(0);
    assert_eq!(host.machine.version().as_deref(), Some("one"));
}
