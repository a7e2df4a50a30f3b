//! Kills and injected errors at every operation of the transfer of a service's socket. On machines with systemd.
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "the count of kills is printed")]

use crate::dice::long;
use crate::lab;
use crate::socket_host as host;

use std::process::Child;

use host::{FENCE, HOOK, Host, SERVER};
use lab::{LOCAL_INDEX, Lab, Machine, Ran, until};

const TRACE: &str = "/run/trace";
const SOCKET: &str = "ladylinux-api.socket";

/// The file that must be gone before the service completes its own stop.
const SLOW: &str = "/srv/slow";

/// The line that starts a run whose points are recorded.
fn traced(variables: &str) -> String {
    format!(
        "LADYLINUX_REFRESH_TRACE={TRACE} {variables} PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"
    )
}

impl Host {
    /// One whose service can be made to end slowly.
    fn with_trace(lab: &Lab) -> Self {
        let slow = format!(
            "    server.close()\n    while pathlib.Path('{SLOW}').exists():\n        await asyncio.sleep(0.01)\n"
        );
        let machine = Machine::copy_of(lab, "slow-socket", |machine| {
            Self::set_up_running(machine, HOOK);
            machine.write("/srv/work/server.py", &SERVER.replace("    server.close()\n", &slow));
            machine.push_version("slow");
            machine.refresh("run").expect(0).prints("Refreshed");
        });
        until("the service", || machine.version());
        Self { machine }
    }

    /// Empties the trace. The unit that holds the socket writes to it as well.
    fn empty_trace(&self) {
        self.machine.exec(&format!("echo -n > {TRACE}; chmod 666 {TRACE}")).expect(0);
    }

    /// Starts a run, and kills `whom` at a point.
    fn killed(&self, point: &str, whom: &str) -> Ran {
        self.empty_trace();
        let variables = format!("LADYLINUX_REFRESH_KILL_AT={point}#1 LADYLINUX_REFRESH_KILL={whom}");
        let ran = self.machine.exec(&traced(&variables));
        let trace = self.machine.read(TRACE).unwrap_or_default();
        assert!(trace.lines().any(|line| line == point), "{point} was not reached: {}", ran.all());
        ran
    }

    /// Sends one request. Returns the answer, or the exit code of curl: 7 if the connection is refused, 28 if there is
    /// no answer.
    fn ask(&self) -> Result<String, i32> {
        self.ask_for(60)
    }

    /// Sends one request, and waits for this number of seconds.
    fn ask_for(&self, seconds: u32) -> Result<String, i32> {
        let line = format!("curl --silent --fail --max-time {seconds} http://127.0.0.1:8000/");
        let ran = self.machine.exec(&line);
        if ran.code == Some(0) { Ok(ran.out) } else { Err(ran.code.unwrap_or(-1)) }
    }

    /// Asserts that nothing of a transfer remains. Units that are about to end are waited for.
    #[track_caller]
    fn nothing_is_left(&self, what: &str) {
        until(&format!("the end of the hand-over after {what}"), || {
            let drop_ins = self.machine.exec("ls /run/systemd/system | grep hold").out;
            (self.holders() + &drop_ins).is_empty().then_some(())
        });
        let state = self.state(SOCKET);
        assert!(state.starts_with("active "), "{what}: {state}");
    }

    /// Asserts that the next run works, and that the socket answers again at once.
    #[track_caller]
    fn converges(&self, version: &str, what: &str) {
        let ran = self.tool("run");
        assert_eq!(ran.code, Some(0), "{what}: {}", ran.all());
        assert_eq!(self.ask().as_deref(), Ok(version), "{what}");
        assert_eq!(self.machine.read(FENCE), None, "{what}");
        self.nothing_is_left(what);
    }

    /// The points of a run between two of them, both included, without those at which other programs run.
    fn points(&self) -> Vec<String> {
        self.empty_trace();
        self.push("traced");
        self.machine.exec(&traced("")).expect(0);
        let trace = self.machine.read(TRACE).unwrap_or_default();
        trace.lines().filter(|line| !line.contains("child:")).map(str::to_owned).collect()
    }
}

/// The points from one to another, both included.
#[track_caller]
fn between<'a>(points: &'a [String], first: &str, last: &str) -> &'a [String] {
    let at = |name: &str| points.iter().position(|point| point == name);
    match (at(first), at(last)) {
        (Some(first), Some(last)) => &points[first..=last],
        _ => panic!("{first} or {last} is missing: {points:?}"),
    }
}

/// Words in the names of points between which the socket, its unit, the service or the fence change.
const OWN: [&str; 5] = ["socket", "gate", "systemd", "fence", "service"];

/// The points at which a run is killed: all with a change that concerns the socket, and every twentieth of the others, at
/// which the state is that of their neighbors; all with `LADYLINUX_REFRESH_LONG`.
fn chosen(points: &[String]) -> Vec<&String> {
    let mut others = 0;
    let is_chosen = |point: &&String| {
        let is_own = OWN.iter().any(|word| point.contains(word));
        others += usize::from(!is_own);
        long() || is_own || others % 20 == 1
    };
    points.iter().filter(is_chosen).collect()
}

/// Kills a run at each chosen point, one after the other, and lets the next converge.
fn kill_at_each(host: &Host, points: &[String]) {
    let mut counts = (0, 0, 0);
    let points = chosen(points);
    for (number, point) in points.iter().enumerate() {
        let (old, new) = (host.version(), number.to_string());
        host.push(&new);
        let is_holder = point.starts_with("worker:gate");
        let ran = host.killed(point, if is_holder { "worker" } else { "everything" });
        if is_holder {
            // The run continues without the unit that it has lost.
            assert_eq!(ran.code, Some(0), "{point}: {}", ran.all());
            counts.0 += 1;
        } else {
            assert_ne!(ran.code, Some(0), "{point}: {}", ran.all());
        }
        until("the unit that holds the socket is gone", || host.holders().is_empty().then_some(()));
        match host.ask() {
            Ok(version) => {
                assert!(Some(&version) == old.as_ref() || version == new, "{point}: {version}");
                counts.1 += 1;
            }
            // Refused, or closed by systemd behind the fence; never a connection that hangs.
            Err(code) => {
                assert!([7, 52, 56].contains(&code), "{point}: {code}");
                assert!(host.machine.read(FENCE).is_some(), "{point}: nothing answers, and no fence");
                counts.2 += 1;
            }
        }
        host.converges(&new, point);
    }
    let (holder, answered, silent) = counts;
    eprintln!(
        "KILLS {}: {holder} of the holder alone; {answered} left a version that answered, {silent} none; 0 violations",
        points.len()
    );
}

#[test]
fn rw_7_1a_a_run_that_is_killed_while_it_takes_the_socket_over_leaves_it_open_or_fenced() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_trace(&lab);
    let points = host.points();
    kill_at_each(&host, between(&points, "socket:drop-in-directory", "stop:stopped"));
}

#[test]
fn rw_7_1a_a_run_that_is_killed_while_it_returns_the_socket_leaves_it_open_or_fenced() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_trace(&lab);
    let points = host.points();
    kill_at_each(&host, between(&points, "restart:deployed", "socket:released"));
}

/// Starts a run. Returns when the run waits for the end of the service, behind a closed gate.
#[track_caller]
fn run_behind_the_gate(host: &Host) -> Child {
    host.machine.write(SLOW, "");
    host.empty_trace();
    let client = host.machine.spawn(&traced(""));
    until("the gate is closed", || host.machine.read(TRACE)?.contains("systemd:stop-enqueued").then_some(()));
    client
}

/// Attaches a filter that drops everything, and leaves it: the state after everything was killed, including the unit
/// that cleans up after a killed run.
const LEAVE_A_FILTER: &str = r"import ctypes, socket, struct
program = struct.pack('HBBI', 0x06, 0, 0, 0)
text = ctypes.create_string_buffer(program)
listener = socket.socket(fileno=3)
listener.setsockopt(socket.SOL_SOCKET, 26, struct.pack('HL', 1, ctypes.addressof(text)))
";

#[track_caller]
fn leave_a_filter(host: &Host) {
    let drop_in = "/run/systemd/system/ladylinux-refresh-hold-left.service.d/sockets.conf";
    host.machine.write(drop_in, "[Service]\nSockets=ladylinux-api.socket\nNonBlocking=yes\n");
    host.machine.write("/srv/leave.py", LEAVE_A_FILTER);
    let start =
        "systemctl stop ladylinux-api.socket; systemctl reset-failed; systemctl start ladylinux-api.socket";
    let leave = "systemd-run --wait --collect --unit ladylinux-refresh-hold-left python3 /srv/leave.py";
    host.machine.exec(&format!("{start} && {leave}")).expect(0);
    // A SYN is dropped as well.
    assert_eq!(host.ask_for(2), Err(28), "nothing comes");
}

#[test]
fn rw_7_1a_a_gate_that_was_closed_when_the_run_was_killed_is_opened_with_the_fence() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::with_trace(&lab);
    let machine = &host.machine;

    // The run and the unit that holds the socket at once: the unit that cleans up after a killed run opens the gate.
    host.push("two");
    let client = run_behind_the_gate(&host);
    let both = "'ladylinux-refresh-hold-*' 'ladylinux-refresh-2*'";
    machine.exec(&format!("systemctl kill --signal=KILL {both}; rm {SLOW}")).expect(0);
    assert_ne!(client.wait_with_output().ok().and_then(|output| output.status.code()), Some(0));
    assert!(machine.read(FENCE).is_some());
    host.nothing_is_left("both killed");
    assert!(matches!(host.ask(), Err(7 | 52 | 56)), "closed by systemd, since the fence stands");

    // The next run opens the gate after that as well.
    leave_a_filter(&host);
    host.converges("two", "the next run");

    // A person who lowers the fence opens it too.
    host.push("three");
    host.killed("socket:read", "everything");
    assert!(machine.read(FENCE).is_some());
    leave_a_filter(&host);
    host.tool("unfence").expect(0);
    host.nothing_is_left("unfence");
    host.tool("service start").expect(0);
    assert_eq!(host.ask().as_deref(), Ok("two"));
    host.converges("three", "the run after that");

    // A unit that another process requests to end opens the gate itself.
    host.push("four");
    let client = run_behind_the_gate(&host);
    machine.exec("systemctl kill --signal=TERM 'ladylinux-refresh-hold-*'").expect(0);
    until("the unit that held the socket has ended", || host.holders().contains(" failed ").then_some(()));
    machine.exec(&format!("rm {SLOW}")).expect(0);
    assert_eq!(client.wait_with_output().ok().and_then(|output| output.status.code()), Some(0));
    assert_eq!(host.ask().as_deref(), Ok("four"));
    host.nothing_is_left("SIGTERM");
}

#[test]
fn rw_7_1a_a_fault_of_the_unit_that_holds_the_socket_is_a_refusal_and_nothing_is_touched() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    let every_holder = "/etc/systemd/system/ladylinux-refresh-hold-.service.d/every.conf";
    let before = host.property("ladylinux-api.service", "InvocationID");
    let refused = |what: &str, words: &[&str]| {
        let mut ran = host.tool("run").expect(3).prints("nothing was changed");
        for word in words {
            ran = ran.prints(word);
        }
        assert_eq!(host.property("ladylinux-api.service", "InvocationID"), before, "{what}");
        assert_eq!(host.ask().as_deref(), Ok("one"), "{what}");
        assert_eq!(machine.read(FENCE), None, "{what}");
        host.nothing_is_left(what);
    };
    host.push("two");

    // It cannot be started.
    machine.write(every_holder, "[Service]\nExecStartPre=/bin/false\n");
    machine.exec("systemctl daemon-reload").expect(0);
    refused("it cannot be started", &["hold"]);
    machine.write(every_holder, "[Service]\nUser=nobody-at-all\n");
    machine.exec("systemctl daemon-reload").expect(0);
    refused("its user does not exist", &["hold"]);
    machine.exec(&format!("rm {every_holder} && systemctl daemon-reload")).expect(0);

    // The drop-in cannot be written.
    machine
        .exec("mount --bind /run/systemd/system /run/systemd/system && mount -o remount,bind,ro /run/systemd/system")
        .expect(0);
    refused("the drop-in cannot be written", &["/run/systemd/system"]);
    machine.exec("umount /run/systemd/system").expect(0);

    // The kernel does not accept the filter: the refresh continues as without one.
    machine.write(every_holder, "[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n");
    machine.exec("systemctl daemon-reload").expect(0);
    host.converges("two", "no filter");
    eprintln!("ERRORS 3 refused, 1 went on; 0 violations");
}
