//! An entire installation in a temporary directory, refreshed by the real binary: a Git repository behind a real
//! server, a small service that answers with its version, real environments.
//!
//! The service is a few lines of Python's standard library, so a start is fast; `tests/fastapi.rs` and the demo do the
//! same with `FastAPI` under uvicorn.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![expect(clippy::disallowed_methods, reason = "tests lay out files and start programs")]
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

#[path = "person.rs"]
mod person;
#[path = "pool.rs"]
pub mod pool;
#[path = "prepared.rs"]
mod prepared;
#[path = "ran.rs"]
mod ran;
pub use person::git;
pub use ran::Ran;

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use refresh_settings::layout::Layout;
use refresh_system::disk;

/// The service: answers every request with its version, as JSON. If it is started with its socket (`sd_listen_fds(3)`),
/// it uses that. On a request to end it first answers the accepted connections. It uses neither `http.server` nor
/// `json`: to import them takes longer than all its other work.
pub const SERVER: &str = r#"
import os, select, signal, socket, sys, threading
try:
    import six
    package = six.__version__
except ImportError:
    package = None
facts = {name.lower(): os.environ.get("LADYLINUX_" + name) for name in ("COMMIT", "BRANCH", "ENVIRONMENT")}
with open("version.txt") as file:
    facts["version"] = file.read().strip()
facts["package"] = package
def answer(connection):
    with connection:
        asked = b""
        while b"\r\n\r\n" not in asked and asked[:4] == b"GET "[:len(asked)]:
            part = connection.recv(4096)
            if not part:
                return
            asked += part
        values = ("null" if fact is None else f'"{fact}"' for fact in facts.values())
        body = "{" + ", ".join(f'"{name}": {value}' for name, value in zip(facts, values)) + "}"
        line = "200 OK" if asked.startswith(b"GET ") else "400 Bad Request"
        connection.sendall(f"HTTP/1.0 {line}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
def serve(listener, *end):
    while select.select([listener, *end], [], [])[0] == [listener]:
        threading.Thread(target=answer, args=listener.accept()[:1]).start()
print("serving", facts["version"], flush=True)
if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1":
    end, asked_to_end = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(asked_to_end, b"."))
    serve(socket.socket(fileno=3), end)
else:
    serve(socket.create_server(("127.0.0.1", int(sys.argv[1]))))
"#;

/// A host with its remote.
pub struct Host {
    directory: tempfile::TempDir,
    pub layout: Layout,
    pub port: u16,
    /// The server of the remote, until it is unplugged.
    server: Option<Daemon>,
    git_port: u16,
}

impl Host {
    /// A host that is initialized with version `one` of the application, its service not started yet.
    pub fn new() -> Self {
        prepared::initialized()
    }

    /// A host whose first refresh has succeeded, and whose service runs.
    pub fn running() -> Self {
        prepared::refreshed()
    }

    /// A host with an empty repository, and nothing installed.
    pub fn bare() -> Self {
        let host = Self::served();
        let (upstream, work) = (host.beside("srv/app.git"), host.work());
        fs::create_dir(&upstream).unwrap();
        git(&upstream, ["init", "--quiet", "--bare", "--initial-branch=main"]);
        git(&upstream, ["config", "uploadpack.allowAnySHA1InWant", "true"]);
        let clone = [OsStr::new("clone"), "--quiet".as_ref(), upstream.as_os_str(), work.as_os_str()];
        git(host.directory.path(), clone);
        git(&work, ["symbolic-ref", "HEAD", "refs/heads/main"]);
        fs::create_dir_all(host.layout.state()).unwrap();
        pool::lend(&host.layout);
        fs::create_dir_all(host.layout.etc()).unwrap();
        fs::write(host.layout.host_file(), host.settings("")).unwrap();
        fs::write(host.layout.env_file(), format!("LADYLINUX_PORT={}\nSECRET=kept\n", host.port)).unwrap();
        host
    }

    /// A host with a server of repositories, and without any repository.
    fn served() -> Self {
        let directory = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let (root, repositories) = (directory.path().join("root"), directory.path().join("srv"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&repositories).unwrap();
        let layout = Layout::below(root.canonicalize().unwrap());
        let server = Daemon::serve(&repositories);
        let (port, git_port) = (crate::port::free(), server.port);
        Self { directory, layout, port, server: Some(server), git_port }
    }

    /// The host's settings, with more lines at the top.
    pub fn settings(&self, more: &str) -> String {
        format!(
            "{more}\n[remote]\nurl = \"{}\"\nallow = [\"git\"]\n\
             [python]\n\
             [service]\ncommand = [\"{{venv}}/bin/python\", \"server.py\", \"{{port}}\"]\nstop_timeout = \"5s\"\n\
             [probe]\ndeadline = \"60s\"\nsettle = \"150ms\"\n",
            self.url()
        )
    }

    /// Adds settings of Python.
    pub fn configure_python(&self, lines: &str) {
        let settings = self.settings("").replace("[python]\n", &format!("[python]\n{lines}\n"));
        fs::write(self.layout.host_file(), settings).unwrap();
    }

    /// Writes other settings: lines for the top of the file, and entire tables for its end.
    pub fn configure(&self, top: &str, tables: &str) {
        fs::write(self.layout.host_file(), self.settings(top) + tables).unwrap();
    }

    /// Makes the supervisor start the service with its socket.
    pub fn give_socket(&self) {
        let settings = fs::read_to_string(self.layout.host_file()).unwrap();
        let settings = settings.replace("[service]\n", "[service]\nsocket = true\n");
        fs::write(self.layout.host_file(), settings).unwrap();
    }

    pub fn url(&self) -> String {
        format!("git://127.0.0.1:{}/app.git", self.git_port)
    }

    pub fn init(&self) {
        self.tool(["init"]).expect(0);
    }

    /// The directory that people push from.
    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// A directory beside the installation, for the files of a test.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Commits files (an empty text removes one) on the current branch and pushes. Returns the commit.
    pub fn push(&self, files: &[(&str, &str)]) -> String {
        let work = self.work();
        for (path, text) in files {
            let path = work.join(path);
            if text.is_empty() {
                let _ = fs::remove_file(&path);
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, text).unwrap();
            }
        }
        git(&work, ["add", "--all"]);
        git(&work, ["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        git(&work, ["push", "--quiet", "--force", "origin", "HEAD"]);
        git(&work, ["rev-parse", "HEAD"])
    }

    /// The command of the program on this host, in a clean environment.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.layout.root()).args(arguments).env_clear().stdin(Stdio::null());
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.directory.path());
        for name in refresh_system::environment::NETWORK {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Returns a command line of the program as it is printed for this host.
    pub fn as_typed(&self, arguments: &str) -> String {
        format!("ladylinux-refresh --root {} {arguments}", self.layout.root().display())
    }

    /// Runs the program to its end.
    pub fn tool<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    /// Returns the current answer of the service; `None` if no process listens.
    pub fn answer(&self) -> Option<serde_json::Value> {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// The version that the running service answers with.
    pub fn version(&self) -> Option<String> {
        self.answer()?.get("version")?.as_str().map(str::to_owned)
    }

    /// The main process of the service, from the record of its supervisor; `None` if it is gone.
    pub fn service_pid(&self) -> Option<i64> {
        let record = fs::read(self.layout.supervisor().join("state.json")).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let pid = record["main"]["pid"].as_i64()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// Returns whether the fence stands.
    pub fn fenced(&self) -> bool {
        self.layout.fence().exists()
    }

    /// The report of the last run.
    pub fn report(&self) -> serde_json::Value {
        let status: serde_json::Value =
            serde_json::from_slice(&fs::read(self.layout.status_file()).unwrap()).unwrap();
        status["last_run"].clone()
    }

    /// The commit that `app/` is at.
    pub fn head(&self) -> String {
        git(&self.layout.app(), ["rev-parse", "HEAD"])
    }

    /// Writes a file in `app/`, as its owner.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.layout.app().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.layout.app().join(path)).ok()
    }

    /// Stops the remote's server: the remote is unreachable from now on.
    pub fn unplug(&mut self) {
        self.server = None;
    }

    /// The past runs.
    pub fn runs(&self) -> Vec<PathBuf> {
        let mut runs: Vec<PathBuf> = fs::read_dir(self.layout.runs())
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        runs.sort();
        runs
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.layout.supervisor().exists() {
            // Bad settings of a test would keep its service running. A link is replaced and not followed.
            let _ = fs::remove_file(self.layout.host_file());
            let _ = fs::write(self.layout.host_file(), self.settings(""));
            let _ = self.command(["service", "stop"]).output();
        }
        self.unplug();
        let _ = disk::remove_tree(self.layout.root());
    }
}

pub fn ran(output: Output) -> Ran {
    Ran::of(output)
}

/// A `git daemon` on loopback, which ends when the value is dropped.
pub struct Daemon {
    child: Child,
    pub port: u16,
}

impl Daemon {
    /// Serves the repositories below a directory.
    pub fn serve(directory: &Path) -> Self {
        // Started without the `git` in front, which would not end the daemon when it is killed.
        let program = Path::new(&git(directory, ["--exec-path"])).join("git-daemon");
        for _ in 0..20 {
            let port = crate::port::free();
            let child = Command::new(&program)
                .args(["--listen=127.0.0.1", "--export-all", "--reuseaddr"])
                .arg(format!("--port={port}"))
                .arg(format!("--base-path={}", directory.display()))
                .arg(directory)
                .env_clear()
                .env("PATH", "/usr/local/bin:/usr/bin:/bin")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut daemon = Self { child, port };
            let limit = Instant::now() + Duration::from_secs(60);
            while daemon.is_running() && Instant::now() < limit {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() && daemon.is_running() {
                    return daemon;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        panic!("git daemon cannot be started");
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    /// Ends the daemon with its group, which contains its connections.
    fn drop(&mut self) {
        if let (true, Ok(group)) = (self.is_running(), i32::try_from(self.child.id()))
            && let Some(group) = rustix::process::Pid::from_raw(group)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// The program under test.
pub fn program() -> std::ffi::OsString {
    pool::program().into()
}
