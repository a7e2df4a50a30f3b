//! The running service gets the same health request before the stop as the new one after it: by its socket, and with
//! the header fields that it requires. A health check that can never pass is refused while the service runs.

use std::fs;
use std::time::Duration;

use crate::host::Host;
use crate::refresh::help::{listens, probe};

/// A service whose status depends on the request.
const PARTICULAR: &str = r#"
import base64, http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;
const OF_ONE_HOST: &str = r#"204 if self.headers["Host"] == "lady.example" else 400"#;
const WITH_PASSWORD: &str = r#"200 if self.headers["Authorization"] == "Basic " + base64.b64encode(b"probe:s3cret").decode() else 401"#;

/// A service that speaks only HTTP/2: it begins with its settings, and refuses the request (RFC 9113, 3.4 and 6.8).
const OF_HTTP_2: &str = r#"
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection = listener.accept()[0]
    connection.recv(4096)
    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + bytes([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]))
    connection.close()
"#;

/// A service on a socket in the file system.
const ON_A_SOCKET: &str = r#"
import http.server, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
if os.path.exists("PATH"):
    os.unlink("PATH")
socketserver.ThreadingUnixStreamServer("PATH", Handler).serve_forever()
"#;

#[test]
fn rw_7_1b_a_health_request_that_the_service_refuses_is_refused_before_the_stop_and_headers_can_be_set() {
    let host = Host::running();
    host.push(&[("server.py", &PARTICULAR.replace("STATUS", OF_ONE_HOST))]);
    host.tool(["run"]).expect(0);
    host.configure("", "status = 204\n");
    // A copied file can be older than the last run.
    let file = fs::File::options().append(true).open(host.layout.host_file()).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let refused = host.tool(["run"]).expect(3).prints("status 400 instead of 204").prints("`headers`");
    refused.prints(&host.layout.host_file().display().to_string());
    assert!(listens(&host) && !host.fenced());
    host.configure("", "status = 204\nheaders = { Host = \"lady.example\" }\n");
    host.tool(["run"]).expect(0).prints("HTTP 204");
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    // The version before answers with another status, and has never passed this check; the later one has.
    host.tool(["rollback"]).expect(0).prints("HTTP 200").prints("any status below 500 is accepted");
    host.tool(["run"]).expect(0).prints("HTTP 204").prints("status 200 instead of 204");
    // A check that no version has ever passed is no reason to stop a service that answers.
    host.configure("", "body = \"never\"\nheaders = { Host = \"lady.example\" }\n");
    host.tool(["run"]).expect(3).prints("does not contain \"never\"").prints("service stop");
    assert!(listens(&host) && !host.fenced());
    host.configure("", "headers = { \"A B\" = \"x\" }\n");
    host.tool(["run"]).expect(2).prints("probe.headers");
}

#[test]
fn rw_7_1b_a_running_service_of_another_protocol_is_refused_before_the_stop() {
    let host = Host::new();
    fs::write(host.layout.app().join("server.py"), OF_HTTP_2).unwrap();
    probe(&host, "deadline = \"2s\"\nsettle = \"150ms\"");
    host.tool(["service", "start"]).expect(5).prints("the answer is not HTTP/1.1");
    while !listens(&host) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = host.tool(["run"]).expect(3).prints("the answer is not HTTP/1.1").prints("`url`");
    refused.prints("service stop");
    assert!(listens(&host) && !host.fenced());
    host.tool(["service", "stop"]).expect(0);
    probe(&host, "deadline = \"60s\"\nsettle = \"150ms\"");
    host.tool(["run"]).expect(0);
}

#[test]
fn rw_5_5_a_service_on_a_socket_in_the_file_system_is_checked_there() {
    let host = Host::running();
    let socket = host.beside("api.sock").display().to_string();
    host.push(&[("server.py", &ON_A_SOCKET.replace("PATH", &socket))]);
    host.tool(["service", "stop"]).expect(0);
    let url = format!("unix:{socket}");
    host.configure("", &format!("url = \"{url}\"\npath = \"/health?x\"\nbody = \"/health?x\"\n"));
    host.tool(["run"]).expect(0).prints("HTTP 200").prints(&url);
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    host.tool(["run"]).expect(0);
    // A health check with the bare port is refused, and the required setting is named.
    host.configure("", "");
    host.tool(["run"]).expect(3).prints(&format!("set `url = \"{url}\"`"));
    assert!(!host.fenced());
    host.configure("", &format!("url = \"unix:{socket}.other\"\n"));
    host.tool(["run"]).expect(3).prints(&format!("set `url = \"{url}\"`"));
    host.configure("", "url = \"unix:api.sock\"\n");
    host.tool(["run"]).expect(3).prints("no absolute path");
}

#[test]
fn rw_7_1b_credentials_in_the_url_of_the_health_check_are_used_and_shown_nowhere() {
    let host = Host::running();
    host.push(&[("server.py", &PARTICULAR.replace("STATUS", WITH_PASSWORD))]);
    host.tool(["service", "stop"]).expect(0);
    let url = |user: &str| format!("url = \"http://{user}127.0.0.1:{}/\"\nstatus = 200\n", host.port);
    host.configure("", &url("probe:s3cret@"));
    let mut seen = vec![host.tool(["run"]).expect(0)];
    seen.push(host.tool(["status"]).expect(0).prints("http://127.0.0.1:"));
    seen.push(host.tool(["status", "--json"]).expect(0));
    seen.push(host.tool(["plan"]).expect(0));
    host.configure("", &url("probe:wr0ng@"));
    seen.push(host.tool(["run"]).expect(3).prints("status 401 instead of 200"));
    for ran in seen {
        assert!(!ran.all().contains("s3cret") && !ran.all().contains("wr0ng"), "{}", ran.all());
    }
    let report = host.report().to_string();
    assert!(!report.contains("s3cret"), "{report}");
}

#[test]
fn rw_7_1b_a_host_without_an_address_is_refused_even_if_the_service_is_stopped() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n")]);
    host.tool(["service", "stop"]).expect(0);
    host.configure("", &format!("url = \"http://no-such-host.invalid:{}/\"\n", host.port));
    host.tool(["run"]).expect(3).prints("its host has no address").prints("probe.url");
    assert!(!host.fenced());
    host.configure("", "");
    host.tool(["run"]).expect(0);
}
