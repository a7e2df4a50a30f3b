//! The user that sends the health request: never root, which would parse the answer of the service.

use crate::lab;

use lab::{Lab, Machine};

/// A service on port 8000 and on a socket in the file system. It records the user of each client.
const SERVER: &str = r"
import http.server, os, pathlib, socket, socketserver, struct, threading

def note(uid):
    with open('/var/lib/ladylinux/clients', 'a') as clients:
        clients.write(f'{uid}\n')

def user_of(port):
    for line in pathlib.Path('/proc/net/tcp').read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f':{port:04X}') and fields[2].endswith(':1F40'):
            return fields[7]
    return 'unknown'

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.client_address:
            note(user_of(self.client_address[1]))
        else:
            credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            note(struct.unpack('3i', credentials)[1])
        body = pathlib.Path('version.txt').read_bytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

class InFileSystem(socketserver.ThreadingUnixStreamServer):
    pass

socket_file = '/run/ladylinux-api/socket'
in_file_system = InFileSystem(socket_file, Handler)
os.chmod(socket_file, 0o600)
threading.Thread(target=in_file_system.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(('', 8000), Handler).serve_forever()
";

const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nUser=ladylinux\nRuntimeDirectory=ladylinux-api\n\
    WorkingDirectory=/opt/ladylinux/app\nExecStart=/opt/ladylinux/venv/bin/python server.py\n\
    [Install]\nWantedBy=multi-user.target\n";

/// Runs once for a new version. Returns the users that sent requests to the service meanwhile.
fn clients_of_a_run(machine: &Machine, version: &str) -> Vec<String> {
    machine.push_version(version);
    machine.exec("rm -f /var/lib/ladylinux/clients").expect(0);
    machine.refresh("run").expect(0);
    let clients = machine.read("/var/lib/ladylinux/clients").unwrap_or_default();
    let mut users: Vec<String> = clients.lines().map(str::to_owned).collect();
    users.sort();
    users.dedup();
    users
}

#[test]
fn rw_5_5_root_sends_the_service_no_request_before_the_stop_and_after_the_start() {
    let Some(lab) = Lab::open() else { return };
    let machine = Machine::boot(&lab, "web");
    machine.add_service_user();
    machine.exec("install -d -o ladylinux /var/lib/ladylinux && install -d /etc/ladylinux").expect(0);
    machine.prepare_small_host(&[("server.py", SERVER), ("requirements.txt", "")], UNIT);
    let settings = |url: &str| {
        let remote = "[remote]\nurl = \"file:///srv/app.git\"\nallow = [\"file\"]\n";
        machine.write(
            "/etc/ladylinux/refresh.toml",
            &format!("{remote}[probe]\nurl = \"{url}\"\nsettle = \"300ms\"\n"),
        );
    };
    settings("http://127.0.0.1:8000/");
    machine.refresh("init").expect(0);
    machine.refresh("run").expect(0);
    let user = |name: &str| machine.exec(&format!("id -u {name}")).expect(0).out.trim().to_owned();

    assert_eq!(clients_of_a_run(&machine, "two"), [user("ladylinux-staging")]);
    settings("unix:/run/ladylinux-api/socket");
    assert_eq!(clients_of_a_run(&machine, "three"), [user("ladylinux")]);
}
