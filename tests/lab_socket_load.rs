//! Ten refreshes of a `FastAPI` application under uvicorn with a socket unit, while clients ask without a pause: no request
//! fails. On a machine with systemd.
#![allow(clippy::print_stderr, clippy::disallowed_macros, reason = "the longest wait is printed")]

#[path = "lab_socket/host.rs"]
mod host;
#[path = "common/lab/mod.rs"]
mod lab;

use host::{Host, UNIT};
use lab::Lab;

const APPLICATION: &str = "import pathlib
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

version = pathlib.Path('version.txt').read_text().strip()
app = FastAPI()


@app.get('/', response_class=PlainTextResponse)
async def root() -> str:
    return version
";

const REQUIREMENTS: &str = include_str!("../demo/app/requirements.txt");

#[test]
fn rw_5_1_rw_5_5_no_request_fails_through_ten_refreshes_of_an_application_under_uvicorn() {
    let Some(lab) = Lab::open() else { return };
    let unit = UNIT.replace("bin/python server.py", "bin/uvicorn server:app --host 127.0.0.1 --port 8000");
    let host = Host::with(&lab, &[("server.py", APPLICATION), ("requirements.txt", REQUIREMENTS)], &unit);
    host.tool("run").expect(0).says("Refreshed");
    host.tool("init --socket").expect(0).says("set up ladylinux-api.socket");
    host.push("1");
    host.tool("run").expect(0).says("Refreshed");
    assert_eq!(host.version().as_deref(), Some("1"));

    let clients = host.clients();
    for number in 2..=10 {
        if number == 6 {
            host.machine.write("/srv/work/requirements.txt", &format!("{REQUIREMENTS}six==1.16.0\n"));
        }
        host.push(&number.to_string());
        host.tool("run").expect(0).says("stays open").says("Refreshed");
    }
    host.tool("rollback").expect(0).says("stays open");
    let (failed, printed) = host.failed(clients);
    assert_eq!(failed, 0, "{printed}");
    for number in 1..=10 {
        assert!(printed.contains(&format!(" {number}")), "version {number} has answered: {printed}");
    }
    assert_eq!(host.version().as_deref(), Some("9"), "the rollback");
}
