//! A remote, an installation and a working tree in a temporary directory, on real git.
#![expect(clippy::disallowed_methods, reason = "tests create the input of the program")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "each test file uses its part")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use refresh_events::event::Events;
use refresh_git::Git;
use refresh_git::mirror::Mirror;
use refresh_programs::process::Runner;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, RunId};
use refresh_settings::{Remote, Transport};
use refresh_system::disk::Owner;
use refresh_system::error::Failure;

/// A remote with history and an installation that follows it.
pub struct World {
    pub directory: tempfile::TempDir,
    pub layout: Layout,
    pub git: Git,
    pub owner: Owner,
    pub preserve: Vec<String>,
    pub deployed: Vec<CommitId>,
}

pub fn branch(name: &str) -> BranchName {
    BranchName::parse(name).unwrap()
}

pub fn run(name: &str) -> RunId {
    RunId::parse(name).unwrap()
}

/// Runs a plain git with an isolated configuration, as a person does.
pub fn plain_git(directory: &Path, owner: Owner, arguments: &[&str]) -> String {
    let mut command = git_command(directory, owner);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

pub fn git_command(directory: &Path, owner: Owner) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("git");
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for (name, value) in [("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", "2026-01-02T03:04:05Z")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    command.args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"]);
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

impl World {
    pub fn new() -> Self {
        Self::owned_by(Owner::own())
    }

    /// A world whose remote has one commit and whose installation is empty.
    pub fn owned_by(owner: Owner) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let layout = Layout::below(directory.path().join("root"));
        std::fs::create_dir_all(layout.state()).unwrap();
        std::fs::create_dir_all(layout.home()).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(layout.home(), Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let worker = PathBuf::from(env!("CARGO_BIN_EXE_ladylinux-refresh"));
        let runner = Runner::new(Arc::new(Events::silent())).with_worker(worker);
        let git = Git::new(&runner, &layout).unwrap();
        let world = Self { directory, layout, git, owner, preserve: Vec::new(), deployed: Vec::new() };
        std::fs::create_dir(world.upstream()).unwrap();
        world.remote_git(&["init", "--quiet"]);
        world.commit(&[
            ("README.md", "hello\n"),
            ("src/app.py", "print('one')\n"),
            ("src/util.py", "x = 1\n"),
        ]);
        world
    }

    pub fn upstream(&self) -> PathBuf {
        self.directory.path().join("upstream")
    }

    pub fn app(&self) -> PathBuf {
        self.layout.app()
    }

    pub fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        self.app().join(path)
    }

    pub fn remote_git(&self, arguments: &[&str]) -> String {
        plain_git(&self.upstream(), Owner::own(), arguments)
    }

    pub fn app_git(&self, arguments: &[&str]) -> String {
        plain_git(&self.app(), self.owner, arguments)
    }

    /// Commits files to the remote's current branch.
    pub fn commit(&self, files: &[(&str, &str)]) -> CommitId {
        for (path, content) in files {
            let path = self.upstream().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        self.commit_all()
    }

    pub fn commit_all(&self) -> CommitId {
        self.remote_git(&["add", "-A"]);
        self.remote_git(&["commit", "--quiet", "--allow-empty", "-m", "a change"]);
        self.tip()
    }

    pub fn tip(&self) -> CommitId {
        CommitId::parse(&self.remote_git(&["rev-parse", "HEAD"])).unwrap()
    }

    pub fn remote(&self) -> Remote {
        remote(&format!("file://{}", self.upstream().display()))
    }

    pub fn mirror(&self) -> Mirror {
        Mirror::new(&self.git, &self.layout, &self.remote())
    }

    /// Writes a file in the working tree as its owner.
    pub fn write(&self, path: impl AsRef<OsStr>, content: &[u8]) {
        let place = self.app().join(path.as_ref() as &OsStr);
        let mut missing: Vec<&Path> =
            place.ancestors().skip(1).take_while(|directory| !directory.exists()).collect();
        while let Some(directory) = missing.pop() {
            std::fs::create_dir(directory).unwrap();
            self.give(directory);
        }
        std::fs::write(&place, content).unwrap();
        self.give(&place);
    }

    fn give(&self, path: &Path) {
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(path, Some(self.owner.uid), Some(self.owner.gid)).unwrap();
        }
    }

    pub fn read(&self, path: &str) -> String {
        String::from_utf8(std::fs::read(self.file(path)).unwrap()).unwrap()
    }
}

pub fn remote(url: &str) -> Remote {
    let allow = vec![Transport::Http, Transport::Git, Transport::File];
    Remote { url: Some(url.to_owned()), allow, ..Remote::default() }
}

/// The complete text of a failure, for assertions.
pub fn message(failure: &Failure) -> String {
    format!("{}\nhints: {}", failure.chain().join("\n"), failure.hint_texts().join("\n"))
}

/// Returns the paths below `directory` that do not belong to `owner`.
pub fn foreign(directory: &Path, owner: Owner) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.metadata().unwrap().uid() != owner.uid {
            found.push(entry.path());
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(foreign(&entry.path(), owner));
        }
    }
    found
}

/// The behavior of the small web server.
#[derive(Clone)]
pub enum Web {
    /// Serves the directory by `git http-backend` to clients with this user and password (in base 64).
    Protected { base: PathBuf, credentials: &'static str },
    /// Serves the directory to everyone.
    Public { base: PathBuf },
    /// Redirects every request for good to the same path at this URL.
    Moved { to: String },
    /// Accepts and sends nothing.
    Silent,
}

/// Serves one connection per request on loopback; the threads end with the test.
pub fn serve_web(web: Web) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let web = web.clone();
            std::thread::spawn(move || match web {
                Web::Silent => {
                    let mut rest = Vec::new();
                    let _ = (&stream).read_to_end(&mut rest);
                }
                Web::Protected { base, credentials } => answer(stream, &base, Some(credentials)),
                Web::Public { base } => answer(stream, &base, None),
                Web::Moved { to } => redirect(stream, &to),
            });
        }
    });
    port
}

fn head(reader: &mut impl std::io::BufRead) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            return lines;
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn redirect(mut stream: TcpStream, to: &str) {
    let lines = head(&mut BufReader::new(stream.try_clone().unwrap()));
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("/");
    let answer = format!(
        "HTTP/1.1 301 Moved Permanently\r\nLocation: {to}{target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let _ = stream.write_all(answer.as_bytes());
}

fn answer(mut stream: TcpStream, base: &Path, credentials: Option<&str>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let lines = head(&mut reader);
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let Some(first) = lines.first() else { return };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let expected = credentials.map(|credentials| format!("Basic {credentials}"));
    if expected.is_some() && header("authorization") != expected {
        let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    }
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).unwrap();
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else if let Some(length) = header("content-length") {
        body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut backend = git_command(base, Owner::own());
    backend.arg("-c").arg("safe.directory=*").arg("http-backend");
    backend.env("GIT_PROJECT_ROOT", base).env("GIT_HTTP_EXPORT_ALL", "1").env("REMOTE_USER", "u");
    backend.env("REQUEST_METHOD", method).env("PATH_INFO", path).env("QUERY_STRING", query);
    backend.env("CONTENT_TYPE", header("content-type").unwrap_or_default());
    if let Some(encoding) = header("content-encoding") {
        backend.env("HTTP_CONTENT_ENCODING", encoding);
    }
    if let Some(protocol) = header("git-protocol") {
        backend.env("GIT_PROTOCOL", protocol);
    }
    backend.env("CONTENT_LENGTH", body.len().to_string());
    let mut child =
        backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&body).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let text = String::from_utf8_lossy(&output);
    let status =
        text.lines().next().and_then(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nConnection: close\r\n").as_bytes());
    let _ = stream.write_all(&output);
}
