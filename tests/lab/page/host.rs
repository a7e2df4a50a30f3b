//! A host whose service has a socket unit and a page, and the clients that send requests to it.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]

use std::process::Child;

use crate::lab::{LOCAL_INDEX, Lab, Machine, Ran, UNIT, until};
use crate::socket_host;
pub use crate::socket_host::FENCE;

/// An application without a framework, for uvicorn.
const APPLICATION: &str = r"import pathlib
version = pathlib.Path('version.txt').read_bytes().strip()

async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'connection', b'close')]})
        await send({'type': 'http.response.body', 'body': version})
";

/// A hook that waits as long as it is held, fails as long as a file exists, and prints text that no visitor may read.
const HOOK: &str = "[[hook]]\nname = \"migrate\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \
    \"echo '<b>password=hunter2</b>'; while [ -e /srv/hold ]; do sleep 0.02; done; test ! -e /srv/fail\"]\n";

/// Four clients that send a request every 10 ms until a file exists, and one more after that. Then they print their
/// answers: in the order in which each client received them.
const CLIENTS: &str = r"import http.client, os, threading, time
failed, seen, longest, asked = [], [[] for _ in range(4)], 0.0, 0
lock = threading.Lock()

def ask(own):
    global longest, asked
    is_last = False
    while not is_last:
        is_last = os.path.exists('/run/clients.end')
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection('127.0.0.1', 8000, timeout=60)
            connection.request('GET', '/')
            response = connection.getresponse()
            body = response.read().decode()
            connection.close()
            what = body if response.status == 200 else str(response.status)
            if not own or own[-1] != what: own.append(what)
            open('/run/clients.begun', 'w').close()
        except Exception as error:
            with lock: failed.append(repr(error))
        with lock:
            asked += 1
            longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)

def merged(lists):
    while lists := [one for one in lists if one]:
        # The next is an answer that no client has had after another one.
        free = [one[0] for one in lists if not any(one[0] in other[1:] for other in lists)]
        if not free:
            yield 'MIXED'
            return
        yield free[0]
        lists = [one[1:] if one[0] == free[0] else one for one in lists]

threads = [threading.Thread(target=ask, args=(own,)) for own in seen]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('ASKED', asked, 'FAILED', len(failed), 'LONGEST %.2f' % longest, 'SEEN', *merged(seen), 'END', *failed[:5])
";

pub const PAGE: &str = "ladylinux-refresh-page.service";
pub const URL: &str = "http://127.0.0.1:8000/";
pub const FAIL: &str = "/srv/fail";

/// A host whose service has a socket unit and a page, and that has refreshed once with version `one`.
pub struct Host {
    pub machine: Machine,
}

impl Host {
    pub fn running(lab: &Lab) -> Self {
        Self::copy(lab, "page", |machine| {
            Self::set_up_socket(machine);
            machine.refresh("init --page").expect(0).prints("set up ladylinux-refresh-page.service");
        })
    }

    /// One without a page.
    pub fn with_socket(lab: &Lab) -> Self {
        Self::copy(lab, "socket-without-page", Self::set_up_socket)
    }

    fn copy(lab: &Lab, name: &'static str, set_up: impl FnOnce(&Machine)) -> Self {
        let host = Self { machine: Machine::copy_of(lab, name, set_up) };
        until("the service", || host.version());
        host
    }

    fn set_up_socket(machine: &Machine) {
        socket_host::Host::set_up_running(machine, HOOK);
    }

    /// One with uvicorn, whose unit names an address, and that has refreshed once.
    pub fn with_uvicorn(lab: &Lab) -> Self {
        let unit =
            UNIT.replace("bin/python server.py", "bin/uvicorn server:app --host 127.0.0.1 --port 8000");
        let machine = Machine::boot(lab, "host");
        let files = [("server.py", APPLICATION), ("requirements.txt", "uvicorn==0.38.0\n")];
        Self::set_up(&machine, &files, &unit);
        machine.refresh("run").expect(0).prints("Refreshed");
        Self { machine }
    }

    /// Makes a machine ready for its first run.
    fn set_up(machine: &Machine, files: &[(&str, &str)], unit: &str) {
        socket_host::Host::set_up(machine, &[files, &[("refresh.toml", HOOK)]].concat(), unit);
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

    /// A run whose hook fails.
    #[track_caller]
    pub fn halt(&self, version: &str) -> Ran {
        self.machine.write(FAIL, "");
        self.push(version);
        let ran = self.tool("run").expect(1).prints("stopped and fenced");
        self.machine.exec(&format!("rm {FAIL}")).expect(0);
        ran
    }

    /// Starts a run that waits in step 4. Returns when the run has reached it.
    #[track_caller]
    pub fn held_run(&self) -> Child {
        self.machine.write("/srv/hold", "");
        let client = self.machine.spawn(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh run"));
        until("a run that is held", || {
            let status = self.machine.json("/var/lib/ladylinux-refresh/status.json");
            let run = status["current"]["run"].as_str()?.to_owned();
            let events = self.machine.read(&format!("/run/ladylinux-refresh/runs/{run}/events.jsonl"))?;
            events.contains("hunter2").then_some(())
        });
        client
    }

    /// The status of the answer, 0 without an answer.
    pub fn status(&self) -> u16 {
        let ran = self.machine.exec(&format!("curl -s -o /dev/null -w '%{{http_code}}' --max-time 60 {URL}"));
        ran.out.trim().parse().unwrap_or(0)
    }

    pub fn property(&self, unit: &str, name: &str) -> String {
        let line = format!("systemctl show --value --property {name} {unit}");
        self.machine.exec(&line).expect(0).out.trim().to_owned()
    }

    pub fn is_active(&self, unit: &str) -> bool {
        self.property(unit, "ActiveState") == "active"
    }

    pub fn clients(&self) -> Child {
        self.machine.write("/srv/clients.py", CLIENTS);
        self.machine.exec("rm -f /run/clients.*").expect(0);
        let clients = self.machine.spawn("exec python3 /srv/clients.py");
        until("the first answer", || self.machine.read("/run/clients.begun"));
        clients
    }

    /// Starts the clients as soon as a boot has opened the socket.
    pub fn ask_from_boot_on(&self) {
        self.machine.write("/srv/clients.py", CLIENTS);
        let unit = "[Unit]\nDefaultDependencies=no\nAfter=ladylinux-api.socket\n\
            [Service]\nExecStart=/usr/bin/python3 /srv/clients.py\nStandardOutput=file:/run/clients.out\n\
            [Install]\nWantedBy=sockets.target\n";
        self.machine.write("/etc/systemd/system/clients.service", unit);
        self.machine.exec("systemctl daemon-reload && systemctl enable clients.service").expect(0);
    }

    /// Like [`Self::seen`], for the clients that a boot has started.
    #[track_caller]
    pub fn seen_since_boot(&self) -> Vec<String> {
        until("the first answer", || self.machine.read("/run/clients.begun"));
        self.machine.write("/run/clients.end", "");
        seen(&until("the end of the clients", || {
            self.machine.read("/run/clients.out").filter(|printed| printed.contains(" END"))
        }))
    }

    /// Ends the clients. Returns their answers in order, and asserts that none is missing.
    #[track_caller]
    pub fn seen(&self, clients: Child) -> Vec<String> {
        self.machine.write("/run/clients.end", "");
        let output = clients.wait_with_output().unwrap();
        seen(&String::from_utf8_lossy(&output.stdout))
    }
}

/// Reads the output of the clients.
#[track_caller]
fn seen(printed: &str) -> Vec<String> {
    eprintln!("{printed}");
    assert!(printed.contains(" FAILED 0 "), "{printed}");
    let (_, seen) = printed.split_once("SEEN ").unwrap();
    seen.split_once(" END").unwrap().0.split(' ').map(str::to_owned).collect()
}
