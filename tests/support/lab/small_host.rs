//! The content of a machine as a host: the service user, uv, and a small application. That is a bare repository and a
//! clone of it on the machine itself, and a service that answers with the content of `version.txt`.

use super::{LOCAL_INDEX, Machine, Ran};

/// A service that needs only Python and answers with its version. It does without `http.server`: to import that takes
/// longer than all its other work.
pub const SERVER: &str = "import socket, threading\n\
    def answer(connection):\n\
    \x20   with connection, open('version.txt', 'rb') as file:\n\
    \x20       request, body = b'', file.read()\n\
    \x20       while b'\\r\\n\\r\\n' not in request:\n\
    \x20           part = connection.recv(4096)\n\
    \x20           if not part: return\n\
    \x20           request += part\n\
    \x20       connection.sendall(b'HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(body) + body)\n\
    listener = socket.create_server(('', 8000))\n\
    while True:\n\
    \x20   threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()\n";

/// The unit of the service: a `server.py` with the Python of its environment.
pub const UNIT: &str = "[Unit]\nDescription=LadyLinux API\n[Service]\nType=simple\nUser=ladylinux\n\
    WorkingDirectory=/opt/ladylinux/app\nEnvironmentFile=-/etc/ladylinux/ladylinux.env\n\
    ExecStart=/opt/ladylinux/venv/bin/python server.py\nRestart=on-failure\n\
    [Install]\nWantedBy=multi-user.target\n";

impl Machine {
    /// Puts the pinned uv into its place, which saves a test with another subject some seconds.
    #[track_caller]
    pub fn lend_uv(&self) {
        let directory = "/opt/ladylinux-refresh/uv";
        self.exec(&format!(
            "install -d {directory} && cp -r --no-preserve=ownership /srv/wheels/tools/uv-* {directory}"
        ))
        .expect(0);
    }

    /// Adds the user that owns the application of a real machine.
    #[track_caller]
    pub fn add_service_user(&self) {
        let options =
            "--system --user-group --home-dir /opt/ladylinux --no-create-home --shell /usr/sbin/nologin";
        self.exec(&format!("useradd {options} ladylinux")).expect(0);
    }

    /// Installs the tool, writes the unit of the service, and pushes the first commit of the application: `files`, with
    /// version `one`.
    #[track_caller]
    pub fn prepare_small_host(&self, files: &[(&str, &str)], unit: &str) {
        self.install_tool();
        self.lend_uv();
        self.exec(
            "git init --quiet --bare --initial-branch=main /srv/app.git && \
             git clone --quiet /srv/app.git /srv/work && cd /srv/work && git switch --quiet --orphan main",
        )
        .expect(0);
        for (path, text) in files {
            self.write(&format!("/srv/work/{path}"), text);
        }
        self.write("/etc/systemd/system/ladylinux-api.service", unit);
        self.push_version("one");
    }

    /// Commits everything in `/srv/work` as another version of the application, and pushes it.
    #[track_caller]
    pub fn push_version(&self, version: &str) {
        self.write("/srv/work/version.txt", version);
        let commit = "git -c user.name=x -c user.email=x@x commit --quiet --allow-empty --message change";
        let line = format!("cd /srv/work && git add -A && {commit} && git push --quiet origin main");
        self.exec(&line).expect(0);
    }

    /// Runs the tool as root with the package index of the lab.
    #[track_caller]
    pub fn refresh(&self, arguments: &str) -> Ran {
        self.exec(&format!("PIP_INDEX_URL={LOCAL_INDEX} exec ladylinux-refresh {arguments}"))
    }

    /// Returns the version that the service answers with; `None` if it does not answer.
    pub fn version(&self) -> Option<String> {
        self.http("http://127.0.0.1:8000/")
    }
}
