//! A separate package index with the releases that a test needs: served over http, with or without upload times. It
//! records its requests.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(clippy::disallowed_methods, reason = "tests lay out files and start programs")]
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::host::pool;

/// Writes one wheel: name, version, tag, requirements, requires-python, directory.
const MAKE: &str = r#"
import base64, hashlib, sys, zipfile
name, version, tag, needs, python, directory, shared = sys.argv[1:8]
info = f"{name}-{version}.dist-info"
metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
metadata += "".join(f"Requires-Dist: {need}\n" for need in needs.split("|") if need)
metadata += f"Requires-Python: {python}\n" if python else ""
files = {
    f"{name}.py": f"__version__ = {version!r}\n",
    **({shared: f"owner = {name!r}\n"} if shared else {}),
    f"{info}/METADATA": metadata + "\n",
    f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
}
record = ""
for path, text in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record += f"{path},sha256={digest},{len(text)}\n"
files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
with zipfile.ZipFile(f"{directory}/{name}-{version}-{tag}.whl", "w") as wheel:
    for path, text in files.items():
        wheel.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), text)
"#;

/// A release that the index has.
#[derive(Clone, Copy)]
pub struct Release {
    pub name: &'static str,
    pub version: &'static str,
    /// Its requirements, separated by `|`.
    pub needs: &'static str,
    /// The wheel's tag, or `sdist`.
    pub tag: &'static str,
    pub python: &'static str,
    /// A file besides its own, with its own name in it.
    pub shared: &'static str,
    pub yanked: bool,
    /// The year of its upload, at the beginning of that year.
    pub year: u16,
}

/// A pure wheel of 2024.
pub const fn release(name: &'static str, version: &'static str) -> Release {
    Release {
        name,
        version,
        needs: "",
        tag: "py3-none-any",
        python: "",
        shared: "",
        yanked: false,
        year: 2024,
    }
}

/// Whether an index reports upload times.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Told,
    Untold,
}

/// The index.
pub struct Index {
    directory: tempfile::TempDir,
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    away: Arc<AtomicBool>,
    releases: Vec<Release>,
    files: BTreeMap<String, String>,
    digests: BTreeMap<String, String>,
}

impl Index {
    pub fn new(releases: &[Release]) -> Self {
        Self::with(releases, Times::Told)
    }

    pub fn with(releases: &[Release], times: Times) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut projects: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let (mut digests, mut names) = (BTreeMap::new(), BTreeMap::new());
        for release in releases {
            let file = make(directory.path(), release);
            let digest = sha256(&fs::read(directory.path().join(&file)).unwrap());
            let pinned = format!("{}=={}", release.name, release.version);
            digests.insert(pinned.clone(), digest.clone());
            names.insert(pinned, file.clone());
            let mut entry = json!({
                "filename": file, "url": format!("/files/{file}"), "hashes": {"sha256": digest},
                "yanked": release.yanked,
            });
            if !release.python.is_empty() {
                entry["requires-python"] = json!(release.python);
            }
            if times == Times::Told {
                entry["upload-time"] = json!(format!("{}-01-01T00:00:00Z", release.year));
            }
            projects.entry(release.name.to_owned()).or_default().push(entry);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let away = Arc::new(AtomicBool::new(false));
        let is_away = Arc::clone(&away);
        let (log, files) = (Arc::clone(&asked), directory.path().to_path_buf());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_away.load(Ordering::SeqCst) {
                    // The listener ends with this thread.
                    return;
                }
                let (log, files, projects) = (Arc::clone(&log), files.clone(), projects.clone());
                std::thread::spawn(move || answer(&stream, &log, &files, &projects));
            }
        });
        Self { directory, port, asked, away, releases: releases.to_vec(), files: names, digests }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/simple", self.port)
    }

    /// The same with credentials in it.
    pub fn url_with(&self, credentials: &str) -> String {
        format!("http://{credentials}@127.0.0.1:{}/simple", self.port)
    }

    /// The sha256 of a release's file, by `name==version`.
    pub fn sha256(&self, release: &str) -> &str {
        &self.digests[release]
    }

    /// The releases that it has.
    pub fn releases(&self) -> &[Release] {
        &self.releases
    }

    /// The path of a release's file.
    pub fn url_of(&self, release: &str) -> String {
        format!("http://127.0.0.1:{}/files/{}", self.port, self.files[release])
    }

    /// The content of a release's file.
    pub fn file(&self, release: &str) -> Vec<u8> {
        fs::read(self.directory.path().join(&self.files[release])).unwrap()
    }

    /// Stops it: from now on no process listens there.
    pub fn away(&self) {
        self.away.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// The requests: request lines and authorization headers.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn make(directory: &std::path::Path, release: &Release) -> String {
    if release.tag == "sdist" {
        let file = format!("{}-{}.tar.gz", release.name, release.version);
        fs::write(directory.join(&file), "no archive at all").unwrap();
        return file;
    }
    let made = Command::new(pool::interpreter())
        .args(["-IS", "-c", MAKE, release.name, release.version, release.tag, release.needs, release.python])
        .arg(directory)
        .arg(release.shared)
        .status();
    assert!(made.unwrap().success());
    format!("{}-{}-{}.whl", release.name, release.version, release.tag)
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(
    stream: &TcpStream,
    log: &Mutex<Vec<String>>,
    files: &std::path::Path,
    projects: &BTreeMap<String, Vec<Value>>,
) {
    let mut lines = BufReader::new(stream).lines();
    let Some(Ok(request)) = lines.next() else { return };
    log.lock().unwrap().push(request.clone());
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if line.to_ascii_lowercase().starts_with("authorization:") {
            log.lock().unwrap().push(line);
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let (status, kind, body) = if path.starts_with("/files/") {
        match fs::read(files.join(name)) {
            Ok(bytes) => ("200 OK", "application/octet-stream", bytes),
            Err(_) => ("404 Not Found", "text/plain", Vec::new()),
        }
    } else {
        match projects.get(name) {
            Some(files) => {
                let page =
                    json!({"meta": {"api-version": "1.1"}, "name": name, "files": files, "versions": []});
                ("200 OK", "application/vnd.pypi.simple.v1+json", page.to_string().into_bytes())
            }
            None => ("404 Not Found", "text/plain", Vec::new()),
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    let body = if request.starts_with("HEAD") { Vec::new() } else { body };
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}
