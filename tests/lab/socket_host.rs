//! A host of the lab whose service has a socket unit, and clients that send requests all the time.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "the results of the clients are printed")]
#![allow(dead_code, reason = "not every test uses everything")]

use std::process::Child;

pub use crate::lab::UNIT;
use crate::lab::{LOCAL_INDEX, Lab, Machine, Ran, until};

/// A service that takes its connections from descriptor 3, answers with its version, and completes its current answers
/// when it is stopped. Its socket does not block, as with every event loop.
pub const SERVER: &str = r"import asyncio, pathlib, signal, socket, time
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
    listener = socket.socket(fileno=3)
    server = await asyncio.start_server(answer, sock=listener, backlog=4096)
    await ended.wait()
    # A server that is closed at once resets connections that it has accepted and not begun to answer.
    asyncio.get_running_loop().remove_reader(listener.fileno())
    await asyncio.sleep(0.1)
    while active:
        await asyncio.sleep(0.01)
    server.close()

asyncio.run(main())
";

pub const SOCKET_UNIT: &str =
    "[Socket]\nListenStream=127.0.0.1:8000\nBacklog=4096\n[Install]\nWantedBy=sockets.target\n";

/// Eight clients that send a request every 10 ms until a file exists, and then print their results. The interval is far
/// shorter than any downtime of the service.
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
            open('/run/clients.begun', 'w').close()
        except Exception as error:
            with lock: failed.append('%.3f ' % time.time() + type(error).__name__ + (' connected' if connection.sock else ' outside'))
        with lock:
            asked += 1
            longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('ASKED', asked, 'FAILED', len(failed), 'LONGEST %.2f' % longest, 'VERSIONS', *sorted(versions), *failed[:30])
";

/// Waits in step 4 as long as it is held.
pub const HOOK: &str = "[[hook]]\nname = \"hold\"\nkind = \"check\"\n\
    command = [\"sh\", \"-c\", \"echo here; while [ -e /srv/hold ]; do sleep 0.02; done\"]\n";

pub const FENCE: &str = "/var/lib/ladylinux-refresh/fence";

/// A host whose service has a socket unit, and that has refreshed once with version `one`.
pub struct Host {
    pub machine: Machine,
}

impl Host {
    /// One with the small server, and a manually written socket unit.
    pub fn running(lab: &Lab) -> Self {
        let machine = Machine::copy_of(lab, "socket", |machine| Self::set_up_running(machine, HOOK));
        until("the service", || machine.version());
        Self { machine }
    }

    /// Makes a machine one with a socket unit that has refreshed once; `hook` is its `refresh.toml`.
    pub fn set_up_running(machine: &Machine, hook: &str) {
        let files = [("server.py", SERVER), ("requirements.txt", ""), ("refresh.toml", hook)];
        Self::set_up(machine, &files, UNIT);
        machine.write("/etc/systemd/system/ladylinux-api.socket", SOCKET_UNIT);
        machine.exec("systemctl daemon-reload && systemctl enable --now ladylinux-api.socket").expect(0);
        machine.refresh("run").expect(0).prints("Refreshed");
        assert_eq!(machine.version().as_deref(), Some("one"));
    }

    /// One that is ready for its first run.
    pub fn with(lab: &Lab, files: &[(&str, &str)], unit: &str) -> Self {
        let machine = Machine::boot(lab, "host");
        Self::set_up(&machine, files, unit);
        Self { machine }
    }

    pub fn set_up(machine: &Machine, files: &[(&str, &str)], unit: &str) {
        machine.prepare_small_host(files, unit);
        machine.write(
            "/etc/ladylinux/refresh.toml",
            "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n\
             [probe]\nurl = \"http://127.0.0.1:8000/\"\ndeadline = \"60s\"\nsettle = \"300ms\"\n",
        );
        machine.refresh("init").expect(0);
    }

    /// Starts the clients of a service that answers. Returns when one has received an answer.
    #[track_caller]
    pub fn clients(&self) -> Child {
        self.machine.write("/srv/clients.py", CLIENTS);
        self.machine.exec("rm -f /run/clients.*").expect(0);
        let clients = self.machine.spawn("exec python3 /srv/clients.py");
        until("the first answer", || self.machine.read("/run/clients.begun"));
        clients
    }

    /// Ends the clients. Returns the number of failed requests, and the output of the clients.
    #[track_caller]
    pub fn failed(&self, clients: Child) -> (usize, String) {
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

    pub fn push(&self, version: &str) {
        self.machine.push_version(version);
    }

    pub fn tool(&self, arguments: &str) -> Ran {
        self.machine.refresh(arguments)
    }

    pub fn version(&self) -> Option<String> {
        self.machine.version()
    }

    pub fn property(&self, unit: &str, name: &str) -> String {
        let line = format!("systemctl show --value --property {name} {unit}");
        self.machine.exec(&line).expect(0).out.trim().to_owned()
    }

    pub fn state(&self, unit: &str) -> String {
        let states = ["ActiveState", "SubState", "Result"].map(|name| self.property(unit, name));
        states.join(" ")
    }

    /// The units that hold the socket.
    pub fn holders(&self) -> String {
        let line = "systemctl list-units --all --plain --no-legend 'ladylinux-refresh-hold-*'";
        self.machine.exec(line).expect(0).out
    }

    /// Starts a run that waits in step 4. Returns its ID when the run has reached it.
    #[track_caller]
    pub fn held_run(&self) -> (Child, String) {
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
