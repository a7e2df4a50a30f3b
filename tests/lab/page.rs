//! A machine whose service is fenced answers with a page on the sockets of the service, and with the application as
//! soon as that is back; no request fails in between. On machines with systemd, with a service that needs only Python.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "counts are printed")]
#![allow(clippy::disallowed_methods, reason = "a browser is started")]

mod host;
use crate::lab;

use std::path::PathBuf;
use std::process::Command;

use host::{FAIL, FENCE, Host, PAGE, URL};
use lab::{LOCAL_INDEX, Lab, until};

#[test]
fn rw_7_1b_a_halted_run_shows_the_page_and_the_next_one_replaces_it_without_a_failed_request() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_socket(&lab);
    let machine = &host.machine;
    host.tool("init --page --dry-run").expect(0).prints("would set up ladylinux-refresh-page.service");
    assert_eq!(host.property(PAGE, "LoadState"), "not-found");
    host.tool("init --page").expect(0);
    host.tool("init").expect(0).prints("left ladylinux-refresh-page.service as it is");
    assert_eq!(host.property("ladylinux-api.service", "NRestarts"), "0");
    let clients = host.clients();
    let halted = host.halt("two");
    let halted = halted.prints("visitors get a page until the service is back");

    // The page names the step and contains no output of the hook, which the report contains.
    assert!(halted.all().contains("hunter2"), "{}", halted.all());
    let page = machine.exec(&format!("curl -si {URL}a/b")).expect(0).out;
    let commit = machine.exec("git -C /srv/app.git rev-parse main").expect(0).out;
    for part in [
        "HTTP/1.1 503 ",
        "Retry-After: ",
        "text/html",
        "4 of 6: prepare",
        "ladylinux-refresh run",
        &commit[..7],
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("hunter2"), "{page}");
    let json = machine.exec(&format!("curl -s -H 'Accept: application/json' {URL}")).expect(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["state"], &json["step"]), (&"halted".into(), &"prepare".into()));
    assert_eq!(json["commit"], commit.trim());
    assert!(!json.to_string().contains("hunter2"));

    // It is confined: a user that exists only as long as the unit, no network, no writable directory.
    let table = machine.exec(&format!("systemd-analyze security --no-pager {PAGE}")).expect(0).out;
    let line = table.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    let exposure: f64 = line.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    eprintln!("exposure of the page: {exposure}");
    assert!(exposure <= 1.5, "{table}");
    let complaints = machine.exec(&format!("systemd-analyze verify {PAGE} 2>&1 | grep {PAGE}")).out;
    assert_eq!(complaints, "");
    assert_eq!(host.property("ladylinux-api.socket", "Result"), "success");

    // A request to the service gets the page and does not start the service.
    machine.exec("systemctl start ladylinux-api.service");
    assert!(!host.is_active("ladylinux-api.service") && host.is_active(PAGE));
    host.tool("init --undo").expect(3).prints("fenced");

    host.push("three");
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("three"));
    assert!(!host.is_active(PAGE));
    assert_eq!(host.seen(clients), ["one", "503", "three"]);

    host.tool("init --undo").expect(0).prints("stop and disable ladylinux-refresh-page.service");
    assert_eq!(host.property(PAGE, "LoadState"), "not-found");
    assert_eq!(machine.exec("ls /etc/systemd/system/*.wants | grep -c refresh-page").out.trim(), "0");
}

#[test]
fn rw_7_1a_a_machine_that_boots_shows_the_page_as_long_as_the_fence_stands() {
    let Some(lab) = Lab::open() else { return };
    let mut host = Host::running(&lab);
    host.halt("two");
    host.ask_from_boot_on();
    host.machine.reboot();
    until("the page", || (host.status() == 503).then_some(()));
    assert!(host.is_active(PAGE) && !host.is_active("ladylinux-api.service"));
    assert_eq!(host.property("ladylinux-api.socket", "Result"), "success");
    assert_eq!(host.seen_since_boot(), ["503"]);
    host.machine.kill();
    host.machine.start();
    until("the page", || (host.status() == 503).then_some(()));
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.seen_since_boot(), ["503", "two"]);
    host.machine.reboot();
    let answer = until("the application", || host.version());
    assert_eq!(answer, "two");
    assert_eq!(host.seen_since_boot(), ["two"]);
    assert!(!host.is_active(PAGE));
    assert!(!host.machine.journal(PAGE).contains("Main process exited"), "{}", host.machine.journal(PAGE));

    // When the fence is lowered manually, the next request gets the application.
    host.halt("three");
    let clients = host.clients();
    until("the page", || (host.status() == 503).then_some(()));
    host.tool("unfence").expect(0);
    until("the application", || host.version());
    assert!(!host.is_active(PAGE));
    assert_eq!(host.seen(clients), ["503", "three"]);
    host.halt("four");
    host.machine.exec(&format!("rm {FENCE}")).expect(0);
    until("the application", || host.version());
    until("the end of the page", || (!host.is_active(PAGE)).then_some(()));
}

/// Drop-ins that prevent the start of the page, or change it.
const BROKEN: [(&str, &str); 4] = [
    ("ends before it is ready", "[Service]\nExecStart=\nExecStart=/bin/false\n"),
    ("ends as soon as it is ready", "[Service]\nType=oneshot\nExecStart=\nExecStart=/bin/true\n"),
    ("never gets ready", "[Service]\nTimeoutStartSec=1\nExecStart=\nExecStart=/bin/sleep 60\n"),
    ("is never to run", "[Unit]\nConditionPathExists=/nowhere\n"),
];

#[test]
fn rw_7_1a_a_run_halts_as_usual_if_the_page_cannot_be_shown() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    let drop_in = format!("/etc/systemd/system/{PAGE}.d/broken.conf");
    for (number, (what, text)) in BROKEN.into_iter().enumerate() {
        machine.write(&drop_in, text);
        machine.exec("systemctl daemon-reload").expect(0);
        let halted = host.halt(&format!("bad-{number}"));
        assert!(halted.all().contains("the page for visitors cannot be shown"), "{what}: {}", halted.all());
        assert!(halted.all().contains("hunter2"), "{what}: {}", halted.all());
        assert!(machine.read(FENCE).is_some() && !host.is_active("ladylinux-api.service"), "{what}");
        assert_ne!(host.status(), 200, "{what}");
        machine.exec(&format!("rm {drop_in} && systemctl daemon-reload")).expect(0);
        host.push(&format!("good-{number}"));
        host.tool("run").expect(0).prints("Refreshed");
        assert_eq!(host.version(), Some(format!("good-{number}")), "{what}");
    }
    machine.exec(&format!("systemctl mask {PAGE}")).expect(0);
    host.tool("init").expect(0).prints("left ladylinux-refresh-page.service masked");
    assert!(host.halt("masked").all().contains("ladylinux-refresh-page.service is masked"));
    assert_ne!(host.status(), 200);
    machine.exec(&format!("systemctl unmask {PAGE}")).expect(0);
    host.tool("run").expect(0).prints("Refreshed");
}

#[test]
fn init_gives_uvicorn_a_socket_unit_and_a_page_at_once() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_uvicorn(&lab);
    host.tool("init --socket --page --dry-run")
        .expect(0)
        .prints("would set up ladylinux-api.socket")
        .prints("would set up ladylinux-refresh-page.service");
    host.tool("init --socket --page").expect(0).prints("set up ladylinux-refresh-page.service");
    assert_eq!(host.version().as_deref(), Some("one"), "nothing was restarted");
    // The service has its own socket until it is stopped: the page is the first to use the one of systemd.
    host.halt("two").prints("visitors get a page");
    assert_eq!(host.status(), 503);
    let clients = host.clients();
    host.push("three");
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("three"));
    assert_eq!(host.seen(clients), ["503", "three"]);
    host.tool("init --undo").expect(0);
    assert_eq!(host.property(PAGE, "LoadState"), "not-found");
    assert_eq!(until("the application", || host.version()), "three");
}

#[test]
fn rw_7_1a_another_program_on_the_port_prevents_the_page_and_nothing_else() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    host.push("two");
    machine.write(FAIL, "");
    let client = host.held_run();
    machine
        .exec("systemctl kill --signal=KILL 'ladylinux-refresh-hold-*'; systemctl stop ladylinux-api.socket")
        .expect(0);
    let stranger = "import socket, time; s = socket.socket(); \
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 8000)); s.listen(); time.sleep(999)";
    machine.exec(&format!("systemd-run --unit=stranger python3 -c \"{stranger}\"")).expect(0);
    until("the stranger", || machine.exec("ss -ltn 'sport = :8000'").out.contains(":8000").then_some(()));
    machine.exec("rm /srv/hold").expect(0);
    let halted = client.wait_with_output().unwrap();
    let printed =
        String::from_utf8_lossy(&halted.stderr).into_owned() + &String::from_utf8_lossy(&halted.stdout);
    assert_eq!(halted.status.code(), Some(1), "{printed}");
    assert!(printed.contains("the page for visitors cannot be shown"), "{printed}");
    assert!(machine.read(FENCE).is_some() && !host.is_active(PAGE));
    machine.exec(&format!("rm {FAIL}")).expect(0);
    host.tool("run").expect(3).prints("stranger.service");
    machine.exec("systemctl stop stranger.service && systemctl start ladylinux-api.socket").expect(0);
    assert_eq!(host.status(), 503, "whatever asks for the service gets the page");
    host.leads_out("a stranger", "three");
}

#[test]
fn rw_7_1a_a_page_that_is_installed_behind_the_fence_is_shown_at_once() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_socket(&lab);
    let machine = &host.machine;
    host.halt("two");
    until("the closed socket", || {
        assert_eq!(host.status(), 0);
        (host.property("ladylinux-api.socket", "ActiveState") == "failed").then_some(())
    });
    host.tool("init --page").expect(0);
    assert_eq!(host.status(), 503);
    assert!(host.is_active("ladylinux-api.socket"));
    // After any number of requests.
    for _ in 0..8 {
        machine.exec("systemctl start ladylinux-api.service");
    }
    assert_eq!(host.status(), 503);
    host.leads_out("a page that came later", "three");
}

#[test]
fn init_refuses_a_page_for_a_service_without_a_socket_unit() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_socket(&lab);
    host.machine
        .exec("systemctl disable --now ladylinux-api.socket; rm /etc/systemd/system/ladylinux-api.socket; systemctl daemon-reload")
        .expect(0);
    host.tool("init --page").expect(3).prints("has no socket unit").prints("init --socket --page");
    assert_eq!(host.property(PAGE, "LoadState"), "not-found");
}

/// The attempts of the service user, with `$page` as the process of the page; each line fails, or changes nothing.
const ATTACKS: [&str; 11] = [
    "echo '{}' >/var/lib/ladylinux-refresh/fence",
    "rm -f /var/lib/ladylinux-refresh/fence",
    "mv /var/lib/ladylinux-refresh /var/lib/other",
    "mkdir -p /run/ladylinux-refresh && touch /run/ladylinux-refresh/admit",
    "echo x >>/usr/lib/systemd/system/ladylinux-refresh-page.service",
    "kill -KILL $page",
    "echo x >/proc/$page/mem",
    "systemctl --no-ask-password stop ladylinux-refresh-page.service",
    "systemctl --no-ask-password start ladylinux-api.service",
    "python3 -c 'import socket as s; o = s.socket(); o.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, 1); \
     o.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1); o.bind((\"127.0.0.1\", 8000)); o.listen()'",
    "for n in 1 2 3 4 5 6 7 8 9; do curl -s -H 'Accept: <script>' -H 'X-Commit: forged' \
     'http://127.0.0.1:8000/<script>forged' | grep -q forged && echo forged; done",
];

#[test]
fn the_service_user_cannot_change_what_the_page_shows() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    host.halt("</dd><script>forged</script>");
    let page = || machine.exec(&format!("curl -s {URL}")).expect(0).out;
    let (before, process) = (page(), host.property(PAGE, "MainPID"));
    assert!(before.contains("4 of 6: prepare") && !before.contains("forged"), "{before}");
    for attack in ATTACKS {
        let ran = machine.exec_as("ladylinux", &format!("page={process}; {attack}"));
        assert!(!ran.out.contains("forged"), "{attack}");
        assert_eq!(page(), before, "{attack}");
        assert_eq!(host.property(PAGE, "MainPID"), process, "{attack}");
    }
    // The page itself has no permissions.
    let status = machine.read(&format!("/proc/{process}/status")).unwrap();
    for part in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Seccomp:\t2"] {
        assert!(status.contains(part), "{part} is not in {status}");
    }
    let user = machine.exec(&format!("stat -c %u /proc/{process}")).expect(0).out;
    let uid: u32 = user.trim().parse().unwrap();
    assert!((61184..=65519).contains(&uid), "{uid} is no dynamic user");
    let networks = machine.exec(&format!("readlink /proc/1/ns/net /proc/{process}/ns/net")).expect(0).out;
    let networks: Vec<&str> = networks.lines().collect();
    assert_ne!(networks[0], networks[1]);
}

/// The points of the page's start and stop at which a run is killed.
const POINTS: [&str; 4] = ["page:starting", "page:started", "page:stopping", "page:stopped"];

/// Points of a run behind a page at which it is killed as well; the first two always, the others with
/// `LADYLINUX_REFRESH_LONG`.
const LATER: [&str; 12] = [
    "fence:admitted",
    "restart:settled",
    "fence:raised",
    "systemd:stopped",
    "stop:stopped",
    "prepare:before-hook",
    "restart:deployed",
    "systemd:start-enqueued",
    "fence:started",
    "restart:started",
    "restart:status",
    "fence:before-lowering",
];

/// Faults of the page while it is shown, with `$page` as its process.
const FAULTS: [(&str, &str); 4] = [
    ("it is killed", "kill -KILL $page"),
    ("it hangs", "kill -STOP $page"),
    ("the fence is torn", "echo '{' >/var/lib/ladylinux-refresh/fence"),
    ("its sockets are closed", "systemctl stop ladylinux-api.socket"),
];

impl Host {
    /// A run that is killed when it reaches a point.
    #[track_caller]
    fn killed_at(&self, point: &str) {
        let trace = "/run/ladylinux-refresh/trace";
        self.machine.exec(&format!("rm -f {trace}"));
        let variables = format!("LADYLINUX_REFRESH_TRACE={trace} LADYLINUX_REFRESH_KILL_AT={point}#1");
        let line = format!("{variables} PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run");
        let ran = self.machine.exec(&line);
        assert_ne!(ran.code, Some(0), "{point}: {}", ran.all());
        assert!(
            self.machine.read(trace).is_some_and(|trace| trace.contains(point)),
            "{point} was not reached"
        );
    }

    /// Asserts that the fence stands, that the next run succeeds, and that the socket answers with the application
    /// then.
    #[track_caller]
    fn leads_out(&self, what: &str, version: &str) {
        assert!(self.machine.read(FENCE).is_some(), "{what}: the fence is gone");
        assert!(!self.is_active("ladylinux-api.service"), "{what}: the service runs");
        self.push(version);
        let ran = self.tool("run");
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.all());
        assert_eq!(self.version().as_deref(), Some(version), "{what}");
        assert!(!self.is_active(PAGE), "{what}");
        assert!(self.is_active("ladylinux-api.socket"), "{what}");
    }
}

#[test]
fn rw_7_1a_kills_and_faults_in_the_start_and_the_stop_of_the_page_leave_a_fence_that_the_next_run_lowers() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    machine.write(
        "/etc/systemd/system/ladylinux-api.service.d/sockets.conf",
        "[Service]\nSockets=ladylinux-api.socket\n",
    );
    machine.exec("systemctl daemon-reload").expect(0);
    let mut count = 0;
    let clients = host.clients();
    let later = if std::env::var_os("LADYLINUX_REFRESH_LONG").is_some() { LATER.len() } else { 2 };
    let points = POINTS.into_iter().chain(LATER.into_iter().take(later));
    for (number, point) in points.enumerate() {
        if point.starts_with("page:start") {
            machine.write(FAIL, "");
            host.push(&format!("killed-{number}"));
        } else {
            host.halt(&format!("halted-{number}"));
        }
        host.killed_at(point);
        machine.exec(&format!("rm -f {FAIL}")).expect(0);
        // The page is shown again after a killed run.
        until("the page", || (host.status() == 503).then_some(()));
        host.leads_out(point, &format!("good-{number}"));
        count += 1;
    }
    host.seen(clients);
    for (number, (what, fault)) in FAULTS.into_iter().enumerate() {
        host.halt(&format!("faulty-{number}"));
        let process = host.property(PAGE, "MainPID");
        machine.exec(&format!("page={process}; {fault}"));
        if what == "it is killed" || what == "the fence is torn" {
            assert_eq!(host.status(), 503, "{what}");
        }
        host.leads_out(what, &format!("repaired-{number}"));
        count += 1;
    }
    // A page that cannot be ended prevents the start of the service: otherwise both would answer on one socket.
    host.halt("kept");
    let drop_in = format!("/etc/systemd/system/{PAGE}.d/kept.conf");
    machine.write(&drop_in, "[Unit]\nRefuseManualStop=yes\n");
    machine.exec("systemctl daemon-reload").expect(0);
    host.push("kept-again");
    host.tool("run").expect(1).prints("ladylinux-refresh-page.service").prints("stopped and fenced");
    assert_eq!(host.status(), 503);
    machine.exec(&format!("rm {drop_in} && systemctl daemon-reload")).expect(0);
    host.leads_out("it cannot be stopped", "ended");
    count += 1;
    eprintln!("{count} kills and faults, 0 violations");
}

/// The directory for the pictures of the page.
const PICTURES: &str = "LADYLINUX_REFRESH_PICTURES";

impl Host {
    /// Loads the page in a browser of this host, in the network of the machine. Returns the output of the browser.
    #[track_caller]
    fn browse(&self, options: &[&str]) -> String {
        let profile = self.machine.beside("profile");
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.machine.leader()))
            .args(["timeout", "60", "chromium", "--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(options)
            .arg(URL)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
#[ignore = "needs a browser: scripts/page_picture.sh"]
fn a_browser_shows_the_page_of_a_fenced_machine_and_then_the_application() {
    let Some(lab) = Lab::open() else { return };
    let mut host = Host::running(&lab);
    host.halt("two");
    host.machine.reboot();
    until("the page", || (host.status() == 503).then_some(()));
    let page = host.browse(&["--dump-dom"]);
    for part in ["<h1>Out of service</h1>", "4 of 6: prepare", "ladylinux-refresh run"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let pictures = std::env::var_os(PICTURES).map_or_else(|| host.machine.beside("pictures"), PathBuf::from);
    std::fs::create_dir_all(&pictures).unwrap();
    for (name, size, scheme) in [("page.png", "820,640", "1"), ("page-phone-dark.png", "500,760", "0")] {
        let picture = pictures.join(name);
        host.browse(&[
            &format!("--screenshot={}", picture.display()),
            &format!("--window-size={size}"),
            &format!("--blink-settings=preferredColorScheme={scheme}"),
        ]);
        let bytes = std::fs::read(&picture).unwrap();
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5_000, "{} bytes", bytes.len());
        assert!(bytes.len() < 100_000, "{} bytes are too many for the documents", bytes.len());
    }
    host.tool("run").expect(0).prints("Refreshed");
    assert!(host.browse(&["--dump-dom"]).contains("two"));
    host.machine.reboot();
    until("the application", || host.version());
    assert!(host.browse(&["--dump-dom"]).contains("two"));
}
