//! A token is read from its file at its use, and is shown nowhere: no command line, no log, no event, no report. Output
//! of hooks and of the service is visible only to the followers of the run and in its log.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::git as remotes;

use crate::host;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use host::{Host, ran};
use remotes::{Web, serve_web};

const TOKEN: &str = "s3cret";
/// "x-access-token:s3cret", as the header of a request carries it.
const CREDENTIALS: &str = "eC1hY2Nlc3MtdG9rZW46czNjcmV0";

/// Returns the command lines of all running processes.
fn command_lines() -> String {
    let mut all = String::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        all.push_str(&String::from_utf8_lossy(&line).replace('\0', " "));
        all.push('\n');
    }
    all
}

/// Listens in front of a server and reads all command lines at each connection: then a fetch is in progress.
fn watched(port: u16, seen: &Arc<Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            seen.lock().unwrap().push(command_lines());
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in [
                (caller.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), caller.try_clone().unwrap()),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    own
}

/// Returns the files below a directory that contain one of the texts.
fn holding(directory: &Path, texts: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&entry.path(), texts));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            if texts.iter().any(|text| holds(text)) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_token_opens_the_remote_and_is_shown_nowhere() {
    let host = Host::running();
    let server = serve_web(Web::Protected { base: host.beside("srv"), credentials: CREDENTIALS });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let port = watched(server, &seen);
    let token = host.beside("token");
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = host.settings("").replace("allow = [\"git\"]", "allow = [\"http\"]");
    let remote = format!("http://127.0.0.1:{port}/app.git\"\ntoken_file = \"{}", token.display());
    fs::write(host.layout.host_file(), settings.replace(&host.url(), &remote)).unwrap();
    let secrets = [TOKEN, CREDENTIALS];

    let mut printed = String::new();
    for (version, way) in
        [("two", &["--verbose"][..]), ("three", &["--format", "json"]), ("four", &["--no-stage"])]
    {
        host.push(&[("version.txt", version)]);
        let mut command = host.command(["run"]);
        printed += &ran(command.args(way).output().unwrap()).expect(0).all();
        assert_eq!(host.version().as_deref(), Some(version));
    }
    for arguments in [&["plan"][..], &["status", "--json"], &["history", "--json"], &["stash", "list"]] {
        printed += &host.tool(arguments).expect(0).all();
    }
    // A server that refuses the token makes git print messages about credentials.
    let stranger = serve_web(Web::Protected { base: host.beside("srv"), credentials: "bm90aGluZw==" });
    let refusing = watched(stranger, &seen);
    let text = fs::read_to_string(host.layout.host_file()).unwrap();
    fs::write(host.layout.host_file(), text.replace(&format!(":{port}/"), &format!(":{refusing}/"))).unwrap();
    printed += &host.tool(["run", "--verbose"]).expect(3).prints("refused the credentials").all();

    assert!(secrets.iter().all(|secret| !printed.contains(secret)), "{printed}");
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 8, "{}", seen.len());
    assert!(seen.iter().all(|lines| lines.contains("remote-http")), "no fetch was seen");
    assert!(seen.iter().all(|lines| secrets.iter().all(|secret| !lines.contains(secret))));
    assert_eq!(holding(host.layout.root(), &secrets), Vec::<PathBuf>::new());
    let found = holding(token.parent().unwrap(), &secrets);
    assert_eq!(found, [token], "the search finds the token");
}

/// A proxy that requires credentials: it records the received credentials and the command lines of that moment, and
/// answers with an error.
fn serve_proxy(seen: &Arc<Mutex<Vec<(String, String)>>>) -> u16 {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let lines = BufReader::new(caller.try_clone().unwrap()).lines();
            let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let brought = head.iter().find_map(|line| line.strip_prefix("Proxy-Authorization: Basic "));
            let answer = if let Some(credentials) = brought {
                seen.lock().unwrap().push((credentials.to_owned(), command_lines()));
                "502 Bad Gateway"
            } else {
                "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"p\""
            };
            let _ = write!(caller, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    own
}

#[test]
fn the_password_of_a_proxy_is_on_no_command_line() {
    const PASSWORD: &str = "pr0xypass";
    let host = Host::running();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let port = serve_proxy(&seen);
    let settings = host.settings("").replace("allow = [\"git\"]", "allow = [\"http\"]");
    let remote = format!("http://remote.invalid/app.git\"\nproxy = \"http://ada:{PASSWORD}@127.0.0.1:{port}");
    fs::write(host.layout.host_file(), settings.replace(&host.url(), &remote)).unwrap();
    for arguments in [&["run"][..], &["plan"]] {
        let mut command = host.command(arguments);
        // The proxy of the settings takes precedence over that of the caller.
        for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:1");
        }
        let printed = ran(command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap());
        assert!(!printed.all().contains(PASSWORD), "{}", printed.all());
    }
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 2, "the proxy was not asked with credentials");
    for (credentials, lines) in seen.iter() {
        assert_eq!(credentials, "YWRhOnByMHh5cGFzcw==", "ada:{PASSWORD}");
        assert!(lines.contains("remote-http"), "no fetch was seen");
        let with_password: Vec<&str> = lines.lines().filter(|line| line.contains(PASSWORD)).collect();
        assert!(with_password.is_empty(), "{with_password:#?}");
    }
}

#[test]
fn output_of_a_hook_or_the_service_is_in_no_world_readable_file() {
    const SECRET: &str = "DATABASE_URL=postgres://u:hunter2@h/db";
    let host = Host::running();
    let hook = format!(
        "[[hook]]\nname = \"m\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \"echo {SECRET}; exit 1\"]\n"
    );
    let server = format!("print('{SECRET}', flush=True)\nraise SystemExit(1)\n");
    for files in [("refresh.toml", hook.as_str()), ("server.py", &server)] {
        host.push(&[("refresh.toml", ""), files]);
        // A client that follows reads all of it.
        host.tool(["run"]).expect(1).prints(SECRET);
        assert!(host.fenced());
        let chain = host.report()["error"]["chain"].to_string();
        assert!(chain.contains("in the log of the run") && chain.contains("exit"), "{chain}");
        let found = holding(host.layout.root(), &["hunter2"]);
        assert!(found.iter().any(|path| path.ends_with("log")), "the search finds the token: {found:?}");
        for path in found {
            let in_app = path.starts_with(host.layout.app()) || path.starts_with(host.layout.mirror());
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
            // A previous tree is protected by its directory, and its files keep their modes.
            let directories =
                path.ancestors().skip(1).take_while(|above| above.starts_with(host.layout.root()));
            let is_closed = directories.into_iter().any(|above| mode(above) & 0o001 == 0);
            assert!(
                in_app || is_closed || mode(&path).is_multiple_of(8),
                "{} has mode {:o}",
                path.display(),
                mode(&path)
            );
        }
    }
}

#[test]
fn a_request_that_fails_does_not_repeat_the_output_of_a_hook() {
    let host = Host::running();
    host.configure("allowed_branches = [\"main\"]", "");
    let hook =
        "[[hook]]\nname = \"m\"\nkind = \"check\"\ncommand = [\"sh\", \"-c\", \"echo hunter2; exit 1\"]\n";
    host.push(&[("refresh.toml", hook)]);
    fs::create_dir_all(host.layout.requests()).unwrap();
    fs::write(host.layout.requests().join("request"), "").unwrap();
    host.tool(["answer-requests"]).expect(0);
    let status = fs::read_to_string(host.layout.status_file()).unwrap();
    let found: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(found["last_request"]["why"].as_str().unwrap().contains("the check hook m failed"), "{status}");
    assert!(!status.contains("hunter2"), "{status}");
}
