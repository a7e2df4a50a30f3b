//! A service with a socket unit is refreshed and no request fails: its socket stays open, and connections wait in the
//! backlog. On machines with systemd, with a service that needs nothing but Python.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "the longest wait is printed")]

#[path = "common/lab/mod.rs"]
mod lab;

use std::process::Child;

use lab::{LOCAL_INDEX, Lab, Machine, Ran, until};

/// A service that takes its connections from descriptor 3, answers with its version, and ends what it has begun when it is
/// stopped. Its socket does not block, as with every event loop.
const SERVER: &str = r"import asyncio, pathlib, signal, socket, time
version = pathlib.Path('version.txt').read_bytes().strip()
active = 0

async def answer(reader, writer):
    global active
    active += 1
    try:
        await reader.readuntil(b'\r\n\r\n')
        head = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n' % len(version)
        writer.write(head + version)
        await writer.drain()
        writer.close()
    except (OSError, EOFError):
        pass
    finally:
        active -= 1

async def main():
    time.sleep(0.3)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(answer, sock=socket.socket(fileno=3), backlog=4096)
    await ended.wait()
    server.close()
    await asyncio.sleep(0.1)
    while active:
        await asyncio.sleep(0.01)

asyncio.run(main())
";

const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nType=simple\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nEnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/python server.py\nRestart=on-failure\n\
    [Install]\nWantedBy=multi-user.target\n";

const SOCKET_UNIT: &str =
    "[Socket]\nListenStream=127.0.0.1:8000\nBacklog=4096\n[Install]\nWantedBy=sockets.target\n";

/// Eight clients that ask without a pause until a file is there, and then print what they saw.
const CLIENTS: &str = r"import http.client, os, threading, time
asked, failed, longest, versions = 0, [], 0.0, set()
lock = threading.Lock()

def ask():
    global asked, longest
    while not os.path.exists('/run/clients.end'):
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection('127.0.0.1', 8000, timeout=60)
            connection.request('GET', '/')
            response = connection.getresponse()
            body = response.read()
            if response.status != 200: raise OSError('status')
            connection.close()
            with lock: versions.add(body.decode())
        except Exception as error:
            with lock: failed.append(repr(error))
        with lock:
            asked += 1
            longest = max(longest, time.monotonic() - began)
        time.sleep(0.002)

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('ASKED', asked, 'FAILED', len(failed), 'LONGEST %.2f' % longest, 'VERSIONS', *sorted(versions), *failed[:5])
";

/// Waits in step 4 as long as it is held.
const HOOK: &str = "[[hook]]\nname = \"hold\"\nkind = \"check\"\n\
    command = [\"sh\", \"-c\", \"echo here; while [ -e /srv/hold ]; do sleep 0.02; done\"]\n";

const FENCE: &str = "/var/lib/ladylinux-refresh/fence";

/// A host whose service has a socket unit, and that has refreshed once with version `one`.
struct Host {
    machine: Machine,
}

impl Host {
    /// One with the small server, and a socket unit that a person wrote.
    fn running(lab: &Lab) -> Self {
        let host =
            Self::with(lab, &[("server.py", SERVER), ("requirements.txt", ""), ("refresh.toml", HOOK)], UNIT);
        host.machine.write("/etc/systemd/system/ladylinux-api.socket", SOCKET_UNIT);
        host.machine.exec("systemctl daemon-reload && systemctl enable --now ladylinux-api.socket").expect(0);
        host.tool("run").expect(0).says("Refreshed");
        assert_eq!(host.version().as_deref(), Some("one"));
        host
    }

    /// One that is ready for its first run.
    fn with(lab: &Lab, files: &[(&str, &str)], unit: &str) -> Self {
        let machine = Machine::boot(lab, "host");
        machine.install_tool();
        machine.lend_uv();
        machine
            .exec(
                "git init --quiet --bare --initial-branch=main /srv/app.git && \
                 git clone --quiet /srv/app.git /srv/work && cd /srv/work && git switch --quiet --orphan main",
            )
            .expect(0);
        let host = Self { machine };
        for (path, text) in files {
            host.machine.write(&format!("/srv/work/{path}"), text);
        }
        host.machine.write("/etc/systemd/system/ladylinux-api.service", unit);
        host.machine.write(
            "/etc/ladylinux/refresh.toml",
            "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n\
             [probe]\nurl = \"http://127.0.0.1:8000/\"\ndeadline = \"10s\"\nsettle = \"300ms\"\n",
        );
        host.push("one");
        host.tool("init").expect(0);
        host
    }

    /// Starts the clients.
    fn clients(&self) -> Child {
        self.machine.write("/srv/clients.py", CLIENTS);
        self.machine.spawn("rm -f /run/clients.end; exec python3 /srv/clients.py")
    }

    /// Ends the clients; returns how many requests failed, and what they printed.
    #[track_caller]
    fn failed(&self, clients: Child) -> (usize, String) {
        self.machine.write("/run/clients.end", "");
        let output = clients.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("{printed}");
        let count = |word: &str| -> Option<usize> {
            printed.split_once(word)?.1.split_whitespace().next()?.parse().ok()
        };
        assert!(count("ASKED").unwrap() > 100, "{printed}");
        (count("FAILED").unwrap(), printed)
    }

    fn push(&self, version: &str) {
        self.machine.write("/srv/work/version.txt", version);
        let commit = "git -c user.name=x -c user.email=x@x commit --quiet --message change";
        let line = format!("cd /srv/work && git add -A && {commit} && git push --quiet origin main");
        self.machine.exec(&line).expect(0);
    }

    fn tool(&self, arguments: &str) -> Ran {
        self.machine.exec(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh {arguments}"))
    }

    fn version(&self) -> Option<String> {
        self.machine.http("http://127.0.0.1:8000/")
    }

    fn property(&self, unit: &str, name: &str) -> String {
        let line = format!("systemctl show --value --property {name} {unit}");
        self.machine.exec(&line).expect(0).out.trim().to_owned()
    }

    fn state(&self, unit: &str) -> String {
        let states = ["ActiveState", "SubState", "Result"].map(|name| self.property(unit, name));
        states.join(" ")
    }

    /// The units that hold the socket.
    fn holders(&self) -> String {
        let line = "systemctl list-units --all --plain --no-legend 'ladylinux-refresh-hold-*'";
        self.machine.exec(line).expect(0).out
    }

    /// Starts a run that waits in step 4, and returns its name when it does.
    #[track_caller]
    fn held_run(&self) -> (Child, String) {
        self.machine.write("/srv/hold", "");
        let client = self.machine.spawn(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"));
        let run = until("a run that is held", || {
            let status = self.machine.json("/var/lib/ladylinux-refresh/status.json");
            let run = status["current"]["run"].as_str()?.to_owned();
            let events = self.machine.read(&format!("/run/ladylinux-refresh/runs/{run}/events.jsonl"))?;
            events.contains("\"line\":\"here\"").then_some(run)
        });
        (client, run)
    }
}

#[test]
fn rw_5_1_rw_5_5_a_service_with_a_socket_unit_is_refreshed_without_a_failed_request() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    let clients = host.clients();

    host.push("two");
    host.tool("run").expect(0).says("stays open").says("Refreshed");
    machine.write("/srv/work/requirements.txt", "six==1.16.0\n");
    host.push("three");
    host.tool("run").expect(0).says("Refreshed");
    host.tool("rollback").expect(0);

    // While the service is down the socket is busy with the unit that holds it, which only reads.
    host.push("four");
    let (client, _) = host.held_run();
    let state = host.state("ladylinux-api.socket");
    assert_eq!(state, "active running success");
    assert_eq!(host.property("ladylinux-api.service", "ActiveState"), "inactive");
    let holder = host.holders().split_whitespace().next().unwrap().to_owned();
    assert_eq!(host.property(&holder, "User"), machine.exec("id -u ladylinux-staging").out.trim());
    for (name, value) in
        [("PrivateNetwork", "yes"), ("ProtectSystem", "strict"), ("TasksMax", "4"), ("NonBlocking", "yes")]
    {
        assert_eq!(host.property(&holder, name), value, "{name}");
    }
    machine.exec("rm /srv/hold").expect(0);
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(0));

    let (failed, printed) = host.failed(clients);
    assert_eq!(failed, 0, "{printed}");
    assert_eq!(host.version().as_deref(), Some("four"));
    until("the unit that held the socket is gone", || host.holders().is_empty().then_some(()));
    assert!(host.state("ladylinux-api.socket").starts_with("active "));
    assert_eq!(machine.exec("ls /run/systemd/system | grep hold").out, "");
}

#[test]
fn rw_7_1a_no_way_leads_around_the_fence_of_a_killed_run_through_the_socket() {
    let Some(lab) = Lab::open() else { return };
    let host = Host::running(&lab);
    let machine = &host.machine;
    host.tool("init --socket").expect(3).says("ladylinux-api.socket is there already");
    host.push("two");
    let (client, run) = host.held_run();
    machine.exec(&format!("systemctl kill --signal=KILL ladylinux-refresh-{run}")).expect(0);
    client.wait_with_output().unwrap();
    assert!(machine.read(FENCE).is_some());
    until("the unit that holds the socket is gone", || host.holders().is_empty().then_some(()));
    for _ in 0..5 {
        assert_eq!(host.version(), None);
    }
    assert_ne!(host.property("ladylinux-api.service", "ActiveState"), "active");
    assert_eq!(host.state("ladylinux-api.socket"), "failed failed trigger-limit-hit");

    // The next run opens the socket again.
    machine.exec("rm /srv/hold").expect(0);
    host.tool("run").expect(0).says("Refreshed");
    assert_eq!(host.version().as_deref(), Some("two"));
    assert!(host.state("ladylinux-api.socket").starts_with("active "));

    // Whoever ends the unit that holds the socket makes requests fail, and nothing else: the run opens the socket again.
    host.push("held");
    let (client, _) = host.held_run();
    machine.exec("systemctl kill --signal=KILL 'ladylinux-refresh-hold-*'").expect(0);
    until("the socket is closed", || {
        assert_eq!(host.version(), None);
        host.state("ladylinux-api.socket").starts_with("failed").then_some(())
    });
    assert!(machine.read(FENCE).is_some());
    assert_ne!(host.property("ladylinux-api.service", "ActiveState"), "active");
    machine.exec("rm /srv/hold").expect(0);
    assert_eq!(client.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(host.version().as_deref(), Some("held"));

    // A run that halts leaves the same, and a person who lowers the fence gets the socket with the service.
    machine.write("/srv/work/server.py", "raise SystemExit('no model was named')\n");
    host.push("three");
    host.tool("run").expect(1).says("no model was named").says("stopped and fenced");
    for _ in 0..5 {
        assert_eq!(host.version(), None);
    }
    assert_eq!(host.state("ladylinux-api.socket"), "failed failed trigger-limit-hit");
    host.tool("service start").expect(3);
    machine.write("/srv/work/server.py", SERVER);
    host.push("four");
    host.tool("run").expect(0).says("Refreshed");
    assert_eq!(host.version().as_deref(), Some("four"));
}

/// An application without a framework, for uvicorn.
const APPLICATION: &str = r"import pathlib
version = pathlib.Path('version.txt').read_bytes().strip()

async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'connection', b'close')]})
        await send({'type': 'http.response.body', 'body': version})
";

#[test]
fn init_gives_uvicorn_a_socket_unit_and_takes_it_away_again() {
    let Some(lab) = Lab::open() else { return };
    let unit = UNIT.replace("bin/python server.py", "bin/uvicorn server:app --host 127.0.0.1 --port 8000");
    let host =
        Host::with(&lab, &[("server.py", APPLICATION), ("requirements.txt", "uvicorn==0.38.0\n")], &unit);
    let machine = &host.machine;
    host.tool("run").expect(0).says("Refreshed");
    let before = host.property("ladylinux-api.service", "InvocationID");
    let socket = "/usr/lib/systemd/system/ladylinux-api.socket";
    let drop_in = "/usr/lib/systemd/system/ladylinux-api.service.d/60-ladylinux-refresh-socket.conf";
    host.tool("init --socket --dry-run").expect(0).says("would set up ladylinux-api.socket");
    assert_eq!(machine.read(socket), None);
    host.tool("init --socket").expect(0).says("set up ladylinux-api.socket on 127.0.0.1:8000");
    assert!(machine.read(socket).unwrap().contains("ListenStream=127.0.0.1:8000\nBacklog=4096\n"));
    assert!(machine.read(drop_in).unwrap().contains("/opt/ladylinux/venv/bin/uvicorn server:app --fd 3\n"));
    host.tool("init --socket").expect(0).says("left ladylinux-api.socket as it is");
    assert_eq!(host.property("ladylinux-api.service", "InvocationID"), before, "nothing was restarted");

    // The first run starts the service from the socket; in the next, connections wait. uvicorn itself resets what it has
    // accepted and not read when it is stopped: at most one request of each client.
    host.push("two");
    host.tool("run").expect(0).says("Refreshed");
    assert!(host.state("ladylinux-api.socket").starts_with("active "));
    let clients = host.clients();
    host.push("three");
    host.tool("run").expect(0).says("stays open").says("Refreshed");
    let (failed, printed) = host.failed(clients);
    assert!(failed <= 8 && !printed.contains("refused"), "{printed}");
    assert_eq!(host.version().as_deref(), Some("three"));

    host.tool("init --undo").expect(0).says("stop and disable ladylinux-api.socket");
    assert_eq!((machine.read(socket), machine.read(drop_in)), (None, None));
    let answer = until("the service answers", || host.version());
    assert_eq!(answer, "three");
    assert!(!host.property("ladylinux-api.service", "TriggeredBy").contains("socket"));
}
