//! Units as people write them, rename, edit and start, and the result of a run with each of them.

use crate::lab;

use lab::{LOCAL_INDEX, Lab, Machine, Ran, until};

/// A service that answers with its version. On request it notifies systemd of its start, and that it is alive.
const SERVER: &str = r"
import http.server, os, pathlib, socket, threading, time

def notify(text):
    address = os.environ.get('NOTIFY_SOCKET')
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect('\0' + address[1:] if address.startswith('@') else address)
            connection.send(text)

def live():
    while True:
        notify(b'WATCHDOG=1')
        time.sleep(0.5)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = pathlib.Path('version.txt').read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(('', 8000), Handler)
notify(b'READY=1')
threading.Thread(target=live, daemon=True).start()
server.serve_forever()
";

const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nExecStart=/opt/ladylinux/venv/bin/python server.py\n\
    [Install]\nWantedBy=multi-user.target\n";

const OWN_UNIT: &str = "/etc/systemd/system/ladylinux-api.service";
const FENCE: &str = "/var/lib/ladylinux-refresh/fence";

const DROP_IN: &str = "/etc/systemd/system/ladylinux-api.service.d/50-case.conf";

/// The result of a run with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The new version is in service.
    Refreshed,
    /// The run was refused, with these texts; the old version still serves.
    Refused(&'static str),
    /// The run halted, with these texts; a rollback brings the old version back.
    Halted(&'static str),
}

/// A kind of unit: its name, the lines of its drop-in, and the result of a run with it.
type Case = (&'static str, &'static str, Outcome);

const CASES: [Case; 24] = [
    ("simple", "[Service]\nType=simple\n", Outcome::Refreshed),
    ("exec", "[Service]\nType=exec\n", Outcome::Refreshed),
    ("notify", "[Service]\nType=notify\n", Outcome::Refreshed),
    ("watchdog", "[Service]\nType=notify\nWatchdogSec=5\nRestart=on-watchdog\n", Outcome::Refreshed),
    (
        "forking without a PID file",
        "[Service]\nType=forking\nExecStart=\n\
         ExecStart=/bin/sh -c '/opt/ladylinux/venv/bin/python server.py & sleep 0.3'\n",
        Outcome::Refused("Type=forking without PIDFile="),
    ),
    (
        "forking with a PID file",
        "[Service]\nType=forking\nRuntimeDirectory=ladylinux-api\nPIDFile=/run/ladylinux-api/pid\nExecStart=\n\
         ExecStart=/bin/sh -c '/opt/ladylinux/venv/bin/python server.py & echo $! >/run/ladylinux-api/pid; sleep 0.3'\n",
        Outcome::Refreshed,
    ),
    (
        "oneshot that leaves a process",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=\n\
         ExecStart=/bin/sh -c '/opt/ladylinux/venv/bin/python server.py & sleep 0.3'\n",
        Outcome::Refused("Type=oneshot"),
    ),
    (
        "simple that leaves a process",
        "[Service]\nRemainAfterExit=yes\nExecStart=\n\
         ExecStart=/bin/sh -c '/opt/ladylinux/venv/bin/python server.py &'\n",
        Outcome::Refused("without a main process"),
    ),
    (
        "protect system",
        "[Service]\nProtectSystem=strict\nPrivateTmp=yes\nProtectHome=yes\n",
        Outcome::Refreshed,
    ),
    ("slow start", "[Service]\nExecStartPre=/bin/sleep 2\n", Outcome::Refreshed),
    (
        "start that fails for a version",
        "[Service]\nExecStartPre=/bin/sh -c '! grep -q next-start-that-fails version.txt'\n",
        Outcome::Halted("ExecStartPre"),
    ),
    ("stop that hangs", "[Service]\nExecStop=/bin/sleep 1000\nTimeoutStopSec=2\n", Outcome::Refreshed),
    ("kill mode process", "[Service]\nKillMode=process\n", Outcome::Refreshed),
    ("kill mode mixed", "[Service]\nKillMode=mixed\n", Outcome::Refreshed),
    ("kill mode none", "[Service]\nKillMode=none\n", Outcome::Refreshed),
    ("restart at once", "[Service]\nRestart=always\nRestartSec=0\n", Outcome::Refreshed),
    ("stop without a limit", "[Service]\nTimeoutStopSec=infinity\n", Outcome::Refreshed),
    ("start limit", "[Unit]\nStartLimitIntervalSec=3600\nStartLimitBurst=1\n", Outcome::Refreshed),
    ("no manual start", "[Unit]\nRefuseManualStart=yes\n", Outcome::Refused("RefuseManualStart")),
    ("no manual stop", "[Unit]\nRefuseManualStop=yes\n", Outcome::Refused("RefuseManualStop")),
    ("dynamic user", "[Service]\nDynamicUser=yes\n", Outcome::Refreshed),
    ("private network", "[Service]\nPrivateNetwork=yes\n", Outcome::Refused("PrivateNetwork")),
    ("slow end of the start", "[Service]\nExecStartPost=/bin/sleep 3\n", Outcome::Refreshed),
    // The last one: a unit that fails would end the machine.
    ("failure action", "[Unit]\nFailureAction=exit\n", Outcome::Refused("FailureAction=exit")),
];

pub(crate) fn set_up(machine: &Machine) {
    machine.prepare_small_host(&[("server.py", SERVER), ("requirements.txt", "")], UNIT);
    machine.write(
        "/etc/ladylinux/refresh.toml",
        "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n\
         [probe]\nurl = \"http://127.0.0.1:8000/\"\ndeadline = \"30s\"\nsettle = \"300ms\"\n",
    );
    machine.refresh("init").expect(0);
    machine.refresh("run").expect(0);
}

/// Puts a drop-in in place and starts the service with it.
pub(crate) fn start_with(machine: &Machine, lines: &str) {
    machine
        .exec("systemctl stop ladylinux-api; systemctl kill --signal=SIGKILL ladylinux-api; true")
        .expect(0);
    machine.write(DROP_IN, lines);
    machine.exec("systemctl daemon-reload && systemctl reset-failed ladylinux-api").expect(0);
    // A unit that refuses a manual start is started as a dependency is.
    machine.write(
        "/etc/systemd/system/start.target",
        "[Unit]\nRequires=ladylinux-api.service\nAfter=ladylinux-api.service\n",
    );
    machine
        .exec("systemctl daemon-reload && systemctl start start.target && systemctl stop start.target")
        .expect(0);
}

fn verdict(ran: &Ran) -> &'static str {
    match ran.code {
        Some(0) => "refreshed",
        Some(3) => "refused",
        Some(1) => "halted",
        _ => "other",
    }
}

/// Runs one case. Returns the differences from the expectation.
fn differs(machine: &Machine, (name, lines, expected): Case) -> Option<String> {
    start_with(machine, lines);
    if lines.contains("RemainAfterExit") {
        let main = || machine.exec("systemctl show --property=MainPID --value ladylinux-api").out;
        until("the end of its command", || (main().trim() == "0").then_some(()));
    }
    let private = lines.contains("PrivateNetwork");
    let before = if private {
        machine.read("/opt/ladylinux/app/version.txt")
    } else {
        Some(until(name, || machine.version()))
    };
    let next = format!("next-{}", name.replace(' ', "-"));
    machine.push_version(&next);
    let ran = machine.refresh("run");
    let (version, words) = match expected {
        Outcome::Refreshed => (Some(next), ""),
        Outcome::Refused(words) => (before, words),
        Outcome::Halted(words) => {
            machine.refresh("rollback").expect(0);
            (before, words)
        }
    };
    let verdict = verdict(&ran);
    let code = match expected {
        Outcome::Refreshed => 0,
        Outcome::Refused(_) => 3,
        Outcome::Halted(_) => 1,
    };
    let answer = if private { machine.read("/opt/ladylinux/app/version.txt") } else { machine.version() };
    let is_right = ran.code == Some(code) && answer == version && ran.all().contains(words);
    (!is_right).then(|| format!("{name}: {verdict}, answers {answer:?} and not {version:?}\n{}", ran.all()))
}

#[test]
fn rw_5_1_rw_5_5_units_of_every_kind_are_refreshed_or_refused_before_the_stop() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    let wrong: Vec<String> = CASES.into_iter().filter_map(|case| differs(&machine, case)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asserts that a run is refused before the stop with these texts, and that the service answers as before.
#[track_caller]
fn refused(machine: &Machine, words: &[&str]) {
    let before = machine.version();
    let mut ran = machine.refresh("run").expect(3).prints("nothing was changed");
    for word in words {
        ran = ran.prints(word);
    }
    assert_eq!((machine.version(), machine.read(FENCE)), (before, None));
}

/// Makes systemd read its units, starts the service and waits until it answers.
#[track_caller]
pub(crate) fn start(machine: &Machine) {
    machine.exec("systemctl daemon-reload && systemctl start ladylinux-api").expect(0);
    until("the service", || machine.version());
}

#[test]
fn rw_7_1b_a_unit_that_is_masked_edited_renamed_or_of_a_user_is_refused_with_the_repair() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    until("the service", || machine.version());
    machine.push_version("two");
    let put_back = || machine.write(OWN_UNIT, UNIT);

    machine.exec(&format!("ln -sf /dev/null {OWN_UNIT} && systemctl daemon-reload")).expect(0);
    refused(&machine, &["ladylinux-api.service is masked", "systemctl unmask ladylinux-api.service"]);
    machine.exec("systemctl unmask ladylinux-api.service").expect(0);

    put_back();
    start(&machine);
    machine.write(OWN_UNIT, &UNIT.replace("LadyLinux API", "another"));
    refused(
        &machine,
        &[OWN_UNIT, "was changed, and systemd still uses the old one", "systemctl daemon-reload"],
    );

    // Another name, while the service runs under the old one, and after a restart.
    machine
        .exec(&format!("mv {OWN_UNIT} /etc/systemd/system/lady.service && systemctl daemon-reload"))
        .expect(0);
    let renamed = [
        "systemd has no unit ladylinux-api.service",
        "lady.service runs the application",
        "set `unit = \"lady.service\"`",
    ];
    refused(&machine, &renamed);
    machine.exec("systemctl stop ladylinux-api && systemctl start lady").expect(0);
    until("the service", || machine.version());
    refused(&machine, &renamed);
    machine.tool("doctor").expect(5).prints("lady.service runs the application");
    // A second unit would start the application twice.
    for state in ["start", "stop"] {
        machine.exec(&format!("systemctl {state} lady")).expect(0);
        machine
            .refresh("init")
            .expect(3)
            .prints("lady.service runs the application")
            .prints("set `unit = \"lady.service\"`")
            .prints("add it to `also`");
        assert_eq!(machine.read("/usr/lib/systemd/system/ladylinux-api.service"), None);
    }
    machine.exec("systemctl start lady").expect(0);
    until("the service", || machine.version());
    // The hint works.
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    let named = format!("{settings}[service]\nunit = \"lady.service\"\n");
    machine.write("/etc/ladylinux/refresh.toml", &named);
    machine.refresh("init").expect(0);
    machine.refresh("run").expect(0);
    assert_eq!(machine.version().as_deref(), Some("two"));

    // In the systemd of a user.
    machine.write("/etc/ladylinux/refresh.toml", &settings);
    machine
        .exec("systemctl disable --now lady; rm /etc/systemd/system/lady.service; systemctl daemon-reload")
        .expect(0);
    let unit = UNIT.replace("User=ladylinux\n", "");
    machine.write("/etc/systemd/user/ladylinux-api.service", &unit);
    let as_user = "runuser -u dev -- env XDG_RUNTIME_DIR=/run/user/$(id -u dev) systemctl --user";
    machine
        .exec(&format!("useradd dev && systemctl start user@$(id -u dev) && {as_user} start ladylinux-api"))
        .expect(0);
    until("the service of the user", || machine.version());
    refused(
        &machine,
        &[
            "ladylinux-api.service of uid 1000 runs the application in the systemd of that user",
            "systemctl --user disable --now ladylinux-api.service",
            "ladylinux-refresh init",
        ],
    );
    machine.exec(&format!("{as_user} disable --now ladylinux-api")).expect(0);
    put_back();
    machine.exec("systemctl daemon-reload").expect(0);
    machine.refresh("init").expect(0);
    machine.push_version("three");
    machine.refresh("run").expect(0);
    assert_eq!(until("the service", || machine.version()), "three");
}

#[test]
fn rw_5_5_rw_7_1a_another_program_that_acts_during_a_run_starts_nothing_and_its_stop_is_named() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    let begin = || machine.spawn(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"));
    let state = || machine.exec("systemctl is-active ladylinux-api").out.trim().to_owned();
    let is_fenced = || machine.read(FENCE).is_some();

    // Between stop and start.
    let hold = "[[hook]]\nname = \"hold\"\nkind = \"check\"\n\
                command = [\"sh\", \"-c\", \"while [ -e /srv/hold ]; do sleep 0.02; done\"]\n";
    machine.write("/srv/work/refresh.toml", hold);
    machine.write("/srv/hold", "");
    machine.push_version("two");
    let run = begin();
    until("the hook", || (is_fenced() && machine.exec("pgrep -f [/]srv/hold").code == Some(0)).then_some(()));
    for verb in ["start", "restart"] {
        machine.exec(&format!("systemctl {verb} ladylinux-api")).expect(1).prints("Assertion failed");
    }
    machine.exec("systemctl stop ladylinux-api && rm /srv/hold").expect(0);
    let ended = Ran::of(run.wait_with_output().unwrap());
    ended.expect(0);
    assert_eq!(machine.version().as_deref(), Some("two"));

    // During the start: a restart is one more start, and a stop halts the run.
    start_with(&machine, "[Service]\nExecStartPre=/bin/sleep 3\n");
    for (verb, code, next) in [("restart", 0, "three"), ("stop", 1, "four")] {
        machine.push_version(next);
        let run = begin();
        until("the start", || (is_fenced() && state() == "activating").then_some(()));
        machine.exec(&format!("sudo systemctl {verb} ladylinux-api")).expect(0);
        let ended = Ran::of(run.wait_with_output().unwrap()).expect(code);
        if code == 1 {
            ended
                .prints("another request replaced this start of ladylinux-api.service")
                .prints("systemctl stop ladylinux-api")
                .prints("stopped and fenced")
                .prints("next         ladylinux-refresh run");
        }
    }
    machine.refresh("rollback").expect(0);
    assert_eq!(machine.version().as_deref(), Some("three"));
    machine.refresh("run").expect(0);
    assert_eq!(machine.version().as_deref(), Some("four"));
}

/// Commands of people, monitors and other units during the health check of the new service: the named program, and the
/// hint.
const HANDS: [(&str, &str, &[&str]); 4] = [
    ("systemctl stop ladylinux-api", "another request stopped ladylinux-api.service", &["next "]),
    (
        "systemctl restart --no-block ladylinux-api",
        "another request stopped ladylinux-api.service",
        // The command may have ended by then, or may still run.
        &["systemctl list-jobs", "wait until it has ended"],
    ),
    (
        "systemctl start old",
        "old.service was started, which conflicts with it",
        &["systemctl stop old.service"],
    ),
    ("systemctl kill --signal=SIGTERM ladylinux-api", "ended by SIGTERM", &["another command stopped it"]),
];

#[test]
fn rw_7_1b_a_program_that_stops_the_new_service_during_its_health_check_is_named_with_the_repair() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    let settings = machine.read("/etc/ladylinux/refresh.toml").unwrap();
    machine.write("/etc/ladylinux/refresh.toml", &settings.replace("300ms", "60s"));
    machine.write(
        "/etc/systemd/system/old.service",
        "[Unit]\nConflicts=ladylinux-api.service\n[Service]\nExecStart=/bin/sleep 1000\n",
    );
    machine.exec("systemctl daemon-reload").expect(0);
    for (number, (hand, words, advice)) in HANDS.into_iter().enumerate() {
        let next = format!("next-{number}");
        machine.push_version(&next);
        let run = machine.spawn(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"));
        until("the new version", || machine.version().filter(|version| *version == next));
        machine.exec(hand).expect(0);
        let ended = Ran::of(run.wait_with_output().unwrap()).expect(1).prints("stopped and fenced");
        let is_by_others = !hand.contains("kill");
        let command = if is_by_others { "ladylinux-refresh run" } else { "ladylinux-refresh rollback" };
        let all = ended.prints(words).all();
        assert!(advice.iter().any(|advice| all.contains(advice)), "{hand}: {advice:?} is missing in {all}");
        assert!(all.contains(&format!("next         {command}")), "{hand}: {all}");
        machine.exec("systemctl stop old").expect(0);
        machine.write("/etc/ladylinux/refresh.toml", &settings);
        machine.refresh(command.strip_prefix("ladylinux-refresh ").unwrap()).expect(0);
        machine.write("/etc/ladylinux/refresh.toml", &settings.replace("300ms", "60s"));
    }
}

#[test]
fn rw_7_1b_a_new_service_beyond_the_memory_limit_of_its_unit_is_named_and_a_rollback_works() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    for kind in ["simple", "notify"] {
        start_with(&machine, &format!("[Service]\nType={kind}\nMemoryMax=100M\nMemorySwapMax=0\n"));
        let before = until("the service", || machine.version());
        machine.write("/srv/work/server.py", &format!("held = b'x' * (400 << 20)\n{SERVER}"));
        machine.push_version(&format!("hungry-{kind}"));
        machine
            .refresh("run")
            .expect(1)
            .prints("for want of memory (OOM)")
            .prints("MemoryMax=100 MiB of ladylinux-api.service was not enough")
            .prints("systemctl edit ladylinux-api.service")
            .prints("next         ladylinux-refresh rollback");
        machine.refresh("rollback").expect(0);
        assert_eq!(machine.version(), Some(before), "{kind}");
        machine.write("/srv/work/server.py", SERVER);
        machine.push_version(&format!("modest-{kind}"));
        machine.refresh("run").expect(0);
    }
}

/// Files that the unit of a running service names and that are removed meanwhile. Each case has the lines, the command
/// that creates the file, the command that removes it, and the texts of the refusal.
const GONE: [(&str, &str, &str, &str); 11] = [
    (
        "[Service]\nStandardOutput=append:/srv/more/api.log",
        "mkdir /srv/more",
        "rm -r /srv/more",
        "StandardOutput= of it",
    ),
    ("[Service]\nEnvironmentFile=/srv/more", "touch /srv/more", "rm /srv/more", "EnvironmentFile= of it"),
    (
        "[Service]\nSupplementaryGroups=more",
        "groupadd more",
        "groupdel more",
        "the group more does not exist",
    ),
    ("[Service]\nExecStartPre=/srv/more", "cp /bin/true /srv/more", "rm /srv/more", "ExecStartPre= of it"),
    ("[Service]\nReadWritePaths=/srv/more", "mkdir /srv/more", "rmdir /srv/more", "ReadWritePaths= of it"),
    ("[Service]\nBindPaths=/srv/more:/opt/more", "mkdir /srv/more", "rmdir /srv/more", "BindPaths= of it"),
    ("[Service]\nBindPaths=/srv/more", "mkdir /srv/more", "rmdir /srv/more", "BindPaths= of it"),
    ("[Service]\nLoadCredential=x:/srv/more", "touch /srv/more", "rm /srv/more", "LoadCredential= of it"),
    (
        "[Unit]\nConditionPathExists=/srv/more",
        "touch /srv/more",
        "rm /srv/more",
        "ConditionPathExists= of it",
    ),
    ("[Unit]\nAssertPathExists=!/srv/more", "true", "touch /srv/more", "/srv/more exists"),
    ("[Unit]\nAfter=slow.service", "true", "systemctl start --no-block slow", "systemctl stop slow.service"),
];

#[test]
fn rw_7_1b_a_unit_that_would_not_start_again_is_refused_before_the_stop_with_the_missing_part() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::copy_of(&lab, "awkward-units", set_up);
    machine.write("/etc/systemd/system/slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n");
    machine.push_version("two");
    for (lines, make, take_away, words) in GONE {
        machine.exec(make).expect(0);
        // An optional file, or one that exists only while the service runs or only for it, is no reason.
        let harmless = "[Service]\nEnvironmentFile=-/srv/none\nReadWritePaths=-/srv/none /run/lady\nRuntimeDirectory=lady\n\
                        PrivateTmp=yes\nExecStartPre=/bin/cp /bin/true /tmp/mine\nExecStartPost=/tmp/mine\n";
        start_with(&machine, &format!("{lines}\n{harmless}"));
        start(&machine);
        machine.exec(take_away).expect(0);
        refused(&machine, &[words]);
        machine.exec("systemctl stop slow; rm -rf /srv/more").expect(0);
    }
    start_with(&machine, "[Unit]\nSuccessAction=exit\n");
    machine.exec("systemctl start ladylinux-api").expect(0);
    until("the service", || machine.version());
    refused(&machine, &["SuccessAction=exit", "systemctl edit --full ladylinux-api.service"]);
    // The drop-in must be gone before the next stop, which would end the machine.
    machine.exec(&format!("rm {DROP_IN} && systemctl daemon-reload")).expect(0);
    machine.refresh("run").expect(0);
    assert_eq!(machine.version().as_deref(), Some("two"));
}
