//! The reasons to refuse a run before the stop, while no request of a client fails; and the other units of the
//! application. On machines with systemd, with a service that needs only Python.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::lab;

use std::time::Duration;

use lab::{LOCAL_INDEX, Lab, Machine, Ran, UNIT, until};
use refresh_system::clock;
use serde_json::Value;

/// A service that answers with its version. It overwrites its environment, as programs with setproctitle do.
const SERVER: &str = "import ctypes, http.server, pathlib\n\
    fields = open('/proc/self/stat').read().rsplit(')', 1)[1].split()\n\
    ctypes.memset(int(fields[47]), 0, int(fields[48]) - int(fields[47]))\n\
    class Handler(http.server.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       body = pathlib.Path('version.txt').read_bytes()\n\
    \x20       self.send_response(200)\n\
    \x20       self.send_header('Content-Length', str(len(body)))\n\
    \x20       self.end_headers()\n\
    \x20       self.wfile.write(body)\n\
    \x20   def log_message(self, *arguments):\n\
    \x20       pass\n\
    http.server.ThreadingHTTPServer(('', 8000), Handler).serve_forever()\n";

/// Sends a request every 10 ms, and records each failure and the number of requests.
const CLIENT: &str = "import http.client, os, time\n\
    asked = 0\n\
    while not os.path.exists('/run/client.end'):\n\
    \x20   asked += 1\n\
    \x20   try:\n\
    \x20       connection = http.client.HTTPConnection('127.0.0.1', 8000, timeout=10)\n\
    \x20       connection.request('GET', '/')\n\
    \x20       if connection.getresponse().status != 200: raise OSError('status')\n\
    \x20       connection.close()\n\
    \x20   except Exception as error:\n\
    \x20       print('REFUSED', error, flush=True)\n\
    \x20   time.sleep(0.01)\n\
    print('ASKED', asked, flush=True)\n";

pub(crate) const API: &str = "ladylinux-api.service";

/// A host that has refreshed once, with version `one`.
pub(crate) struct Host {
    pub(crate) machine: Machine,
}

impl Host {
    pub(crate) fn running(lab: &Lab) -> Self {
        let host = Self { machine: Machine::copy_of(lab, "before-stop", Self::set_up) };
        assert_eq!(until("the service", || host.version()), "one");
        host
    }

    fn set_up(machine: &Machine) {
        machine.prepare_small_host(&[("server.py", SERVER), ("requirements.txt", "")], UNIT);
        configure(machine, "http://127.0.0.1:8000/", "");
        machine.refresh("init").expect(0);
        machine.refresh("run").expect(0).prints("Refreshed");
        assert_eq!(machine.version().as_deref(), Some("one"));
    }

    pub(crate) fn configure(&self, probe: &str, tables: &str) {
        configure(&self.machine, probe, tables);
    }

    /// Pushes another version.
    pub(crate) fn push(&self, version: &str) {
        self.machine.push_version(version);
    }

    pub(crate) fn tool(&self, arguments: &str) -> Ran {
        self.machine.refresh(arguments)
    }

    pub(crate) fn version(&self) -> Option<String> {
        self.machine.version()
    }

    fn last_run(&self) -> Value {
        self.machine.json("/var/lib/ladylinux-refresh/status.json")["last_run"].clone()
    }

    /// Writes a unit, or a drop-in, and has systemd read it.
    pub(crate) fn unit(&self, path: &str, text: &str) {
        self.machine.write(&format!("/etc/systemd/system/{path}"), text);
        self.machine.exec("systemctl daemon-reload").expect(0);
    }

    pub(crate) fn invocation(&self, unit: &str) -> String {
        self.machine.exec(&format!("systemctl show --value --property InvocationID {unit}")).expect(0).out
    }

    fn is_active(&self, unit: &str) -> bool {
        self.machine.exec(&format!("systemctl is-active {unit}")).out.trim() == "active"
    }

    /// Asserts that a run is refused with these texts, and that nothing was changed.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        self.refused_at("one", words);
    }

    /// Does the same while `version` is deployed.
    #[track_caller]
    fn refused_at(&self, version: &str, words: &[&str]) {
        let before = self.invocation(API);
        let mut ran = self.tool("run").expect(3).prints("nothing was changed").prints("next ");
        for word in words {
            ran = ran.prints(word);
        }
        assert_eq!(self.invocation(API), before, "{}", ran.all());
        assert_eq!(self.machine.read("/var/lib/ladylinux-refresh/fence"), None);
        assert_eq!(self.version().as_deref(), Some(version));
    }
}

/// Writes the host's settings: the address of the health check, and further tables.
fn configure(machine: &Machine, probe: &str, tables: &str) {
    let text = format!(
        "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n{tables}\n\
         [probe]\nurl = \"{probe}\"\ndeadline = \"60s\"\nsettle = \"300ms\"\n"
    );
    machine.write("/etc/ladylinux/refresh.toml", &text);
}

#[test]
fn rw_7_1a_rw_7_1b_a_service_that_would_not_start_again_is_refused_while_it_serves_all_requests() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    machine.write("/srv/client.py", CLIENT);
    let client = machine.spawn("exec python3 /srv/client.py");
    host.push("two");

    // The second unit is missing, or masked, also behind another one.
    host.unit("ladylinux-api.service.d/llm.conf", "[Unit]\nRequires=ladylinux-llm.service\n");
    host.refused(&[
        "ladylinux-api.service requires ladylinux-llm.service, and that unit does not exist",
        "systemctl edit --full ladylinux-api.service",
    ]);
    host.unit(
        "ladylinux-llm.service",
        "[Unit]\nBindsTo=gpu.service\n[Service]\nExecStart=/bin/sleep 1000000\n",
    );
    machine.exec("systemctl mask gpu.service").expect(0);
    host.refused(&[
        "ladylinux-llm.service requires gpu.service, and that unit is masked",
        "systemctl unmask gpu.service",
    ]);
    machine
        .exec("rm /etc/systemd/system/ladylinux-api.service.d/llm.conf && systemctl daemon-reload")
        .expect(0);
    host.unit("ladylinux-api.service.d/manual.conf", "[Unit]\nRefuseManualStart=yes\n");
    host.refused(&["RefuseManualStart=yes"]);
    machine
        .exec("rm /etc/systemd/system/ladylinux-api.service.d/manual.conf && systemctl daemon-reload")
        .expect(0);

    // The health check uses another port.
    host.configure("http://127.0.0.1:8111/status", "");
    host.refused(&["listens on 0.0.0.0:8000", "url = \"http://127.0.0.1:8000/status\""]);
    host.configure("http://127.0.0.1:8000/", "");

    // A program before the service has the port that the file of variables names.
    machine.write("/srv/proxy.py", &SERVER.replace("8000", "8080").replace("version.txt", "/srv/proxy.py"));
    let proxy =
        format!("systemd-run --quiet --unit=proxy --property=PartOf={API} /usr/bin/python3 /srv/proxy.py");
    machine.exec(&proxy).expect(0);
    until("the proxy", || machine.http("http://127.0.0.1:8080/"));
    host.configure("http://127.0.0.1:8080/", "");
    host.refused(&["where proxy.service answers", "url = \"http://127.0.0.1:8000/\""]);
    host.configure("http://127.0.0.1:8000/", "");
    machine.write("/etc/ladylinux/ladylinux.env", "LADYLINUX_PORT=8080\n");
    host.refused(&[
        "port 8080 is held by process",
        "the running service listens on port 8000: correct LADYLINUX_PORT in /etc/ladylinux/ladylinux.env",
    ]);
    machine.exec("systemctl stop proxy; rm /etc/ladylinux/ladylinux.env").expect(0);

    // The link to the environment cannot be replaced.
    for (flag, state) in [("i", "immutable"), ("a", "append-only")] {
        machine.exec(&format!("chattr +{flag} /opt/ladylinux")).expect(0);
        host.refused(&[
            &format!("/opt/ladylinux: it is marked {state}"),
            &format!("chattr -{flag} /opt/ladylinux"),
        ]);
        machine.exec(&format!("chattr -{flag} /opt/ladylinux")).expect(0);
    }

    // The entry module does not compile, or is gone.
    machine.write("/srv/work/server.py", "def broken(:\n    pass\n");
    host.push("two");
    host.refused(&["server.py does not compile: SyntaxError", "(line 1)"]);
    machine.exec("rm /srv/work/server.py").expect(0);
    host.push("two");
    host.refused(&[
        "server.py, which the commit does not contain",
        "systemctl edit --full ladylinux-api.service",
    ]);
    // It compiles, and cannot be imported.
    host.configure("http://127.0.0.1:8000/", "[python]\nimport_check = \"import\"");
    machine.write("/srv/work/server.py", "import a_module_that_is_missing\n");
    host.push("two");
    host.refused(&["ModuleNotFoundError: No module named 'a_module_that_is_missing'"]);
    host.configure("http://127.0.0.1:8000/", "");
    machine.write("/srv/work/server.py", SERVER);
    host.push("two");

    // The file system of the tool's state is nearly full.
    let state = "/var/lib/ladylinux-refresh";
    let small = format!(
        "mkdir /srv/small && size=$(du --summarize --block-size=1M {state} | cut --fields=1) && \
         mount -t tmpfs -o size=$((size + 20))m,mode=755 none /srv/small && cp -a {state}/. /srv/small/ && mount --bind /srv/small {state}"
    );
    machine.exec(&small).expect(0);
    host.refused(&["/var/lib/ladylinux-refresh has only", "MiB free", "df -h"]);
    machine.exec(&format!("umount {state} && umount /srv/small")).expect(0);

    machine.write("/run/client.end", "");
    let printed = client.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let asked: usize = printed.lines().find_map(|line| line.strip_prefix("ASKED ")?.parse().ok()).unwrap();
    assert!(asked > 100 && !printed.contains("REFUSED"), "{printed}");
    host.tool("run").expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));

    // A socket unit on another port would start the service during a refresh; it is named.
    host.unit("ladylinux-api.socket", "[Socket]\nListenStream=8001\n");
    machine.exec("systemctl stop ladylinux-api && systemctl start ladylinux-api.socket").expect(0);
    host.tool("run")
        .expect(3)
        .prints("ladylinux-api.socket starts ladylinux-api.service for each connection")
        .prints("listens on [::]:8001, while the port of the service is 8000")
        .prints("systemctl disable --now ladylinux-api.socket");
}

/// A worker that runs from the tree.
pub(crate) fn worker(lines: &str) -> String {
    format!(
        "[Unit]\nDescription=worker\n{lines}\n[Service]\nUser=ladylinux\nWorkingDirectory=/opt/ladylinux/app\n\
         ExecStart=/bin/sleep 1000000\n[Install]\nWantedBy=multi-user.target\n"
    )
}

/// Units and programs that use the application in other ways: the evidence, and a unit with the lines of its service.
const USERS: [(&str, &str, &str); 4] = [
    (
        "its EnvironmentFile= is /opt/ladylinux/app/requirements.txt",
        "reads.service",
        "EnvironmentFile=/opt/ladylinux/app/requirements.txt\nExecStart=/bin/sleep 1000000",
    ),
    (
        "its ExecStart= names /srv/lady/server.py",
        "linked.service",
        "ExecStart=/bin/sh -c 'sleep 1000000' /srv/lady/server.py",
    ),
    (
        "mounted at /srv/inside",
        "mounted.service",
        "BindPaths=/opt/ladylinux/app:/srv/inside\nExecStart=/bin/sleep 1000000",
    ),
    ("runs /opt/ladylinux/venv/bin/python", "worker@2.service", "ExecStart=/usr/local/bin/worker %i"),
];

/// A job that a timer starts each second, for a worker that a person has written.
const JOB: &str =
    "Type=oneshot\nUser=ladylinux\nWorkingDirectory=/opt/ladylinux/app\nExecStart=/bin/cat version.txt";

/// Starts the units of [`USERS`], a session with a program of the environment, and one with a shell in `app/` alone.
fn start_users(host: &Host) {
    let machine = &host.machine;
    machine.exec("ln -s /opt/ladylinux/app /srv/lady && mkdir /srv/inside").expect(0);
    let sleeps = "exec /opt/ladylinux/venv/bin/python -c 'import time; time.sleep(1000000)'";
    machine.write_mode("/usr/local/bin/worker", &format!("#!/bin/sh\n{sleeps}\n"), 0o755);
    for (_, unit, lines) in USERS {
        host.unit(&unit.replace("@2", "@"), &format!("[Service]\n{lines}\n"));
        machine.exec(&format!("systemctl start {unit}")).expect(0);
    }
    for (session, command) in [("session-7", sleeps), ("session-8", "sleep 1000000; true")] {
        let begin = format!("cd /opt/ladylinux/app && ({command}) >/dev/null 2>&1 &");
        let scope = format!("systemd-run --quiet --scope --slice=user-0.slice --unit={session}");
        machine.exec(&format!("{scope} sh -c {}", quoted(&begin))).expect(0);
    }
    machine.write("/etc/cron.d/lady", "@daily ladylinux /opt/ladylinux/venv/bin/python -V\n");
    host.unit("job.service", &format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\n{JOB}\n"));
    host.unit("job.timer", "[Timer]\nOnCalendar=*:*:*\nAccuracySec=10ms\n");
    machine.exec("systemctl start job.timer").expect(0);
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The part of the report about a unit: its tie and its state.
fn effects_on(report: &Value, unit: &str) -> (String, String) {
    let others = report["service"]["others"].as_array().unwrap();
    let found = others.iter().find(|other| other["unit"] == unit).unwrap_or_else(|| panic!("{report:#}"));
    (found["tie"].as_str().unwrap().to_owned(), found["state"].as_str().unwrap().to_owned())
}

#[test]
fn rw_5_5_rw_7_1a_units_of_the_application_are_stopped_and_started_with_it_or_named() {
    let Some(lab) = Lab::open() else { return };
    let mut host = Host::running(&lab);
    host.unit("tied.service", &worker("PartOf=ladylinux-api.service"));
    host.unit("chain.service", &worker("BindsTo=tied.service\nAfter=tied.service"));
    host.unit("also.service", &worker(""));
    host.unit("loose.service", &worker(""));
    // A worker with a timer is no job: it is started again, also by a run after a halted one.
    host.unit("also.timer", "[Timer]\nOnCalendar=2190-01-01\n[Install]\nWantedBy=timers.target\n");
    host.machine
        .exec("systemctl enable also also.timer && systemctl start tied chain also loose also.timer")
        .expect(0);

    // Without its drop-in a unit of `also` is not fenced; init installs the drop-in.
    host.configure("http://127.0.0.1:8000/", "[service]\nalso = [\"also.service\"]");
    host.refused(&["also.service has no fence", "ladylinux-refresh init"]);
    host.tool("init").expect(0);
    host.tool("doctor").prints("loose.service").prints("old version");
    start_users(&host);
    let mut doctor = host.tool("doctor").prints("job.timer starts job.service, which runs the application");
    let mut run_names = Vec::new();
    for (evidence, unit, _) in USERS {
        doctor = doctor.prints(&format!("{unit} runs the application (")).prints(evidence);
        run_names.push(format!("{unit} still runs the old version ("));
    }
    doctor
        .prints("session-7.scope has started a program of the application (")
        .prints("/etc/cron.d/lady starts a program of the application (/opt/ladylinux/venv/bin/python)")
        .prints("begin its command with: test -e /var/lib/ladylinux-refresh/fence && exit 0;");
    run_names.push("a program that session-7.scope has started still runs the old version (".to_owned());
    // Longer than the interval of the timer.
    let slow = "[[hook]]\nname = \"slow\"\nkind = \"check\"\ncommand = [\"sleep\", \"3\"]\n";
    host.machine.write("/srv/work/refresh.toml", slow);

    host.push("two");
    let before =
        ["tied.service", "chain.service", "also.service", "loose.service"].map(|unit| host.invocation(unit));
    let mut ran = host
        .tool("run")
        .expect(0)
        .prints("loose.service still runs the old version")
        .prints("systemctl restart loose.service")
        .prints("job.timer has started job.service during this refresh, while its files changed (");
    for name in run_names {
        ran = ran.prints(&name);
    }
    assert!(!ran.all().contains("session-8"), "a shell in app/ runs nothing of it\n{}", ran.all());
    let after =
        ["tied.service", "chain.service", "also.service", "loose.service"].map(|unit| host.invocation(unit));
    for (number, unit) in ["tied.service", "chain.service", "also.service"].into_iter().enumerate() {
        assert!(host.is_active(unit), "{unit}");
        assert_ne!(before[number], after[number], "{unit} was restarted");
    }
    assert_eq!(before[3], after[3], "it was not touched");
    let report = host.last_run();
    let pair = |tie: &str, state: &str| (tie.to_owned(), state.to_owned());
    assert_eq!(effects_on(&report, "tied.service"), pair("stopped_with_it", "started"));
    assert_eq!(effects_on(&report, "chain.service"), pair("stopped_with_it", "started"));
    assert_eq!(effects_on(&report, "also.service"), pair("also", "started"));
    assert_eq!(effects_on(&report, "loose.service"), pair("none", "runs_old_version"));

    // A job in `also` stays down until its timer starts it, and the fence holds for both.
    host.machine.exec("rm /srv/work/refresh.toml; systemctl stop job.timer job.service").expect(0);
    host.unit("job.timer", "[Timer]\nOnCalendar=2190-01-01\n");
    host.machine.exec("systemctl start job.timer").expect(0);
    host.unit("bad.service", "[Service]\nExecStartPre=/bin/false\nExecStart=/bin/sleep 1000000\n");
    host.unit("loop.service", "[Service]\nExecStartPre=/bin/false\nExecStart=/bin/sleep 1000000\nRestart=on-failure\nRestartSec=1000\n");
    host.unit("second.service", &worker(""));
    let also = "[service]\nalso = [\"bad.service\", \"loop.service\", \"also.service\", \"job.service\", \"second.service\"]";
    host.configure("http://127.0.0.1:8000/", also);
    host.tool("init").expect(0);
    let doctor = host.tool("doctor");
    assert!(!doctor.all().contains("job."), "{}", doctor.all());
    host.push("two again");
    let before = host.machine.journal("job.service");
    // A worker that a person has stopped stays down, and one that was down before is no reason to halt.
    host.machine.exec("systemctl start second; systemctl stop also; systemctl start bad loop").expect(1);
    host.tool("run")
        .expect(0)
        .prints("also.service was stopped on request and stays down: systemctl start also.service")
        .prints("bad.service, which was down before, does not start: ")
        .prints("loop.service, which was down before, does not start: ");
    assert!(!host.is_active("also.service"));
    assert_eq!(effects_on(&host.last_run(), "also.service"), pair("also", "down"));
    assert_eq!(effects_on(&host.last_run(), "bad.service"), pair("also", "down"));
    assert_eq!(effects_on(&host.last_run(), "loop.service"), pair("also", "down"));
    host.machine.exec("systemctl start also").expect(0);
    assert_eq!(host.machine.journal("job.service"), before, "it was not started");
    assert_eq!(effects_on(&host.last_run(), "job.service"), pair("also", "down"));

    // What would prevent the start of such a unit, or end the machine, is known before the stop.
    host.unit("also.service.d/more.conf", "[Service]\nEnvironmentFile=/srv/none\n");
    host.refused_at("two again", &["EnvironmentFile= of it", "/srv/none does not exist"]);
    host.unit("also.service.d/more.conf", "[Unit]\nFailureAction=reboot\n");
    host.refused_at("two again", &["also.service has FailureAction=reboot"]);
    host.machine
        .exec("rm -r /etc/systemd/system/also.service.d/more.conf; systemctl daemon-reload")
        .expect(0);

    // A halted run: the units that stop with the service are down, and neither a person nor a boot starts a fenced
    // unit.
    host.machine.write("/srv/work/server.py", "raise SystemExit('no model was named')\n");
    host.push("three");
    host.tool("run").expect(1).prints("no model was named").prints("stopped and fenced");
    for unit in [API, "tied.service", "chain.service", "also.service"] {
        assert!(!host.is_active(unit), "{unit}");
    }
    assert_eq!(effects_on(&host.last_run(), "tied.service"), pair("stopped_with_it", "down"));
    host.machine.exec("systemctl start also.service").expect(1).prints("Assertion failed");
    host.machine.reboot();
    assert!(!host.is_active("also.service"));
    host.machine.exec("systemctl start loose.service").expect(0);

    // The next successful run starts the units that that run stopped, also after a boot.
    host.machine.write("/srv/work/server.py", SERVER);
    host.push("four");
    host.tool("run").expect(0);
    assert_eq!(host.version().as_deref(), Some("four"));
    for unit in ["tied.service", "chain.service", "also.service"] {
        until(unit, || host.is_active(unit).then_some(()));
    }
    assert_eq!(host.machine.read("/var/lib/ladylinux-refresh/stopped-units.json"), None);

    // A worker that a person has stopped stays down in a restart, and in a run after a halted one. One that this program
    // has stopped is started again, also if the service was started without it.
    host.machine.exec("systemctl start second && systemctl stop also").expect(0);
    host.tool("service restart").expect(0);
    assert!(!host.is_active("also.service") && host.is_active("second.service"));
    host.tool("service stop").expect(0);
    host.machine.exec("systemctl start ladylinux-api").expect(0);
    until("the service", || host.version());
    assert!(!host.is_active("second.service"));
    let stays = "also.service was stopped on request and stays down: systemctl start also.service";
    let broken = "[[hook]]\nname = \"broken\"\nkind = \"check\"\ncommand = [\"false\"]\n";
    for (hooks, version, code) in [(broken, "five", 1), ("", "six", 0)] {
        host.machine.write("/srv/work/refresh.toml", hooks);
        host.push(version);
        let ran = host.tool("run").expect(code).prints(stays);
        assert_eq!(ran.all().matches("was stopped on request").count(), 1, "{}", ran.all());
    }
    assert!(!host.is_active("also.service") && host.is_active("second.service"));
}

#[test]
fn rw_5_1_rw_7_1a_a_stop_without_a_limit_can_be_cancelled_and_a_start_without_one_has_that_of_the_probe() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let stubborn = format!("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVER}");
    host.machine.write("/srv/work/server.py", &stubborn);
    host.push("two");
    host.tool("run").expect(0);
    let limits = "[Service]\nTimeoutStopSec=infinity\nTimeoutStartSec=infinity\n";
    host.unit("ladylinux-api.service.d/limits.conf", limits);
    host.machine.write("/srv/work/server.py", SERVER);
    host.push("three");
    let run = host.machine.spawn(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"));
    let is_stopping =
        || host.machine.exec(&format!("systemctl is-active {API}")).out.trim() == "deactivating";
    until("the stop", || is_stopping().then_some(()));
    let began = clock::monotonic();
    host.tool("cancel").expect(0).prints("halted").prints("fenced");
    let took = clock::monotonic().duration_since(began);
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(130));
    assert!(!host.is_active(API));

    // It never reports that it is ready.
    host.unit("ladylinux-api.service.d/limits.conf", &format!("{limits}Type=notify\n"));
    let settings = host.machine.read("/etc/ladylinux/refresh.toml").unwrap();
    let short = settings.replace("deadline = \"60s\"", "deadline = \"5s\"");
    host.machine.write("/etc/ladylinux/refresh.toml", &short);
    host.tool("run").expect(1).prints("systemd has not started ladylinux-api.service in 5s").prints("fenced");
    assert!(!host.is_active(API));
    host.machine.write("/etc/ladylinux/refresh.toml", &settings);
    host.unit("ladylinux-api.service.d/limits.conf", limits);
    host.tool("run").expect(0);
    assert_eq!(host.version().as_deref(), Some("three"));
}
