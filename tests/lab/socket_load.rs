//! Refreshes of a `FastAPI` application under uvicorn with a socket unit, while clients send requests all the time: no
//! request fails. On a machine with systemd. `LADYLINUX_REFRESH_LONG=1` refreshes ten times.
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "the longest wait is printed")]

use crate::dice;
use crate::lab;
use crate::socket_host as host;

use host::{Host, UNIT};
use lab::{Lab, until};

const APPLICATION: &str = "import pathlib
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

version = pathlib.Path('version.txt').read_text().strip()
app = FastAPI()


@app.get('/', response_class=PlainTextResponse)
async def root() -> str:
    return version
";

/// Three connections that have sent one request and stay open until the server closes them.
const IDLE: &str = "import socket
idle = [socket.create_connection(('127.0.0.1', 8000)) for _ in range(3)]
for one in idle: one.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
for one in idle:
    answer = b''
    # Headers and body may come apart.
    while not answer.endswith(b'\\r\\n\\r\\n1'): answer += one.recv(4096)
open('/run/idle', 'w').close()
for one in idle: assert one.recv(4096) == b''
";

const REQUIREMENTS: &str = include_str!("../../demo/app/requirements.txt");

#[test]
fn rw_5_1_rw_5_5_no_request_fails_during_refreshes_of_an_application_under_uvicorn() {
    let Some(lab) = Lab::open() else { return };
    let unit =
        UNIT.replace("bin/python server.py", "bin/uvicorn server:app --port 8000 --timeout-keep-alive 600");
    let host = Host::with(&lab, &[("server.py", APPLICATION), ("requirements.txt", REQUIREMENTS)], &unit);
    host.tool("run").expect(0).prints("Refreshed");
    host.tool("init --socket").expect(0).prints("set up ladylinux-api.socket");
    host.push("1");
    host.tool("run").expect(0).prints("Refreshed");
    assert_eq!(host.version().as_deref(), Some("1"));

    host.machine.write("/srv/idle.py", IDLE);
    let idle = host.machine.spawn("exec python3 /srv/idle.py");
    until("three connections are idle", || host.machine.read("/run/idle"));
    let clients = host.clients();
    // Without the first refresh and the rollback.
    let last = if dice::long() { 10 } else { 4 };
    for number in 2..=last {
        if number == last / 2 + 1 {
            host.machine.write("/srv/work/requirements.txt", &format!("{REQUIREMENTS}six==1.16.0\n"));
        }
        host.push(&number.to_string());
        let ran =
            host.tool("run").expect(0).prints("stays open").prints("waited, at most").prints("Refreshed");
        let run = &host.machine.json("/var/lib/ladylinux-refresh/status.json")["last_run"];
        let seen = &run["connections"];
        // The idle ones, and at most one of each slow client.
        let ended = if number == 2 { 3..=11 } else { 0..=8 };
        assert!(seen["ended"].as_u64().is_some_and(|count| ended.contains(&count)), "{seen}: {}", ran.all());
        assert!(seen["waited"].as_u64().is_some_and(|waited| (1..=8).contains(&waited)), "{seen}");
        let (wait, down) = (seen["longest_wait_ms"].as_u64(), run["downtime_ms"].as_u64());
        assert!(wait.is_some() && wait <= down.map(|down| down + 300), "{wait:?} in {down:?}");
    }
    host.tool("rollback").expect(0).prints("stays open");
    assert!(
        idle.wait_with_output().is_ok_and(|output| output.status.success()),
        "idle until they were closed"
    );
    let (failed, printed) = host.failed(clients);
    assert_eq!(failed, 0, "{printed}");
    for number in 1..=last {
        assert!(printed.contains(&format!(" {number}")), "version {number} has answered: {printed}");
    }
    assert_eq!(host.version().as_deref(), Some(&*(last - 1).to_string()), "the rollback");
}

#[test]
fn rw_5_5_a_service_with_tls_is_recognized_by_init_and_refreshed_with_and_without_a_socket_unit() {
    let Some(lab) = Lab::open() else { return };
    let options =
        "bin/uvicorn server:app --port 8000 --ssl-keyfile /srv/tls/key.pem --ssl-certfile /srv/tls/cert.pem";
    let unit = UNIT.replace("bin/python server.py", options);
    let host = Host::with(&lab, &[("server.py", APPLICATION), ("requirements.txt", REQUIREMENTS)], &unit);
    let make = "mkdir /srv/tls && cd /srv/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
                -nodes -days 2 -subj /CN=lady.example -addext subjectAltName=DNS:lady.example -keyout key.pem \
                -out cert.pem && cp cert.pem /etc/authority.pem && chown -R ladylinux /srv/tls && \
                rm /etc/ladylinux/refresh.toml";
    host.machine.exec(make).expect(0);
    host.tool("init --repo file:///srv/app.git --allow file --branch main").expect(0);
    let settings = host.machine.read("/etc/ladylinux/refresh.toml").unwrap_or_default();
    assert!(settings.contains("\nurl = \"https://127.0.0.1:8000/\""), "{settings}");
    host.tool("run").expect(0).prints("Refreshed").prints("HTTP 200");
    host.tool("init --socket").expect(0).prints("set up ladylinux-api.socket");
    for version in ["1", "2"] {
        host.push(version);
        host.tool("run").expect(0).prints("Refreshed");
    }
    host.tool("run").expect(0).prints("stays open");
    host.tool("run --if-changed").expect(0).prints("Already current");
    let checked = |file: &str| {
        let lines = format!("[probe]\nca_file = \"{file}\"\nheaders = {{ Host = \"lady.example\" }}\n");
        host.machine.write("/etc/ladylinux/refresh.toml", &settings.replace("[probe]\n", &lines));
    };
    checked("/etc/authority.pem");
    host.tool("run").expect(0).prints("HTTP 200");
    // The service user could replace this file.
    checked("/srv/tls/cert.pem");
    let refused = host.tool("run").expect(3).prints("does not belong to root").all();
    assert_eq!(refused.matches("does not belong to root").count(), 1, "{refused}");
    assert_eq!(host.state("ladylinux-api.service"), "active running success");
    let left = "systemctl list-units --all --plain --no-legend 'ladylinux-refresh-probe-*'";
    until("no unit of the health check is left", || {
        host.machine.exec(left).expect(0).out.trim().is_empty().then_some(())
    });
}
