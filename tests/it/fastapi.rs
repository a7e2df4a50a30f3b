//! Refreshes of the real `FastAPI` application of the demo, under uvicorn, with its real packages. The service has its
//! default command and the health check that the application names, as in most installations.
#![allow(clippy::disallowed_macros, reason = "a measurement is printed")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out files and start programs")]

use crate::clients;
use crate::dice;
use crate::host;
use crate::tls;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use clients::Clients;
use host::Host;
use serde_json::Value;

/// Returns the files of a directory of the demo, by their paths below it.
fn files(directory: &str) -> Vec<(String, String)> {
    fn gather(root: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != "__pycache__" {
                gather(root, &path, found);
            } else if path.is_file() {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(directory);
    let mut found = Vec::new();
    gather(&root, &root, &mut found);
    assert!(!found.is_empty(), "{} is empty", root.display());
    found
}

fn push(host: &Host, directory: &str) -> String {
    let files = files(directory);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    host.push(&files)
}

fn ask(host: &Host, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn json(host: &Host, path: &str) -> Value {
    let answer = ask(host, &format!("GET {path} HTTP/1.0\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn add_note(host: &Host, text: &str) {
    let body = serde_json::json!({ "text": text }).to_string();
    let head = "POST /api/notes HTTP/1.0\r\nContent-Type: application/json";
    let answer = ask(host, &format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

/// A host that runs the application of the demo. `service` contains more lines of its settings.
fn application(service: &str) -> Host {
    application_on(Host::bare(), service)
}

fn application_on(host: Host, service: &str) -> Host {
    let settings = format!(
        "[remote]\nurl = \"{}\"\nallow = [\"git\"]\n[probe]\ndeadline = \"60s\"\nsettle = \"300ms\"\n\
         json_field = \"commit\"\njson_value = \"{{commit}}\"\n{service}",
        host.url()
    );
    fs::write(host.layout.host_file(), settings).unwrap();
    let data = host.layout.persistent().join("data");
    let env = format!("LADYLINUX_PORT={}\nLADYLINUX_DATA={}\n", host.port, data.display());
    fs::write(host.layout.env_file(), env).unwrap();
    push(&host, "app");
    host.init();
    host.tool(["run"]).expect(0);
    host
}

#[test]
fn rw_5_1_rw_5_5_no_request_fails_during_refreshes_of_uvicorn_started_with_its_socket() {
    let host = application(
        "[service]\nsocket = true\n\
         command = [\"{venv}/bin/uvicorn\", \"api_layer:app\", \"--fd\", \"3\"]\n",
    );
    let clients = Clients::start(4, host.port, "/api/status");
    for step in ["steps/2-headline", "steps/3-friendly-times"] {
        push(&host, step);
        host.tool(["run"]).expect(0);
    }
    host.tool(["rollback"]).expect(0);
    let last = if dice::long() { 3 } else { 1 };
    for _ in 0..last {
        host.tool(["run"]).expect(0);
    }
    let seen = clients.end();
    println!(
        "uvicorn, {} refreshes, 4 clients that ask every 5 ms: {} requests, {} failed, the longest took {:.0?}",
        3 + last,
        seen.requests,
        seen.failed.len(),
        seen.longest
    );
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
    assert!(seen.requests > 100, "{seen:?}");
}

#[test]
fn rw_3_1_rw_5_3_rw_5_5_a_real_application_is_refreshed_with_its_packages_and_keeps_its_data() {
    let host = application("");
    let status = json(&host, "/api/status");
    assert_eq!(status["commit"], host.head().as_str());
    assert_eq!(status["environment"], host.report()["environment"]["name"]);
    add_note(&host, "written before the refresh");
    let before = host.report();

    // Other requirements: a package is added, and the pages use it.
    let commit = push(&host, "steps/3-friendly-times");
    host.tool(["run"]).expect(0);
    let report = host.report();
    assert_eq!(report["environment"]["built"], true);
    assert_eq!(
        report["environment"]["packages"].as_u64().unwrap(),
        before["environment"]["packages"].as_u64().unwrap() + 1
    );
    let status = json(&host, "/api/status");
    assert_eq!(status["commit"], commit.as_str());
    assert_eq!(status["environment"], report["environment"]["name"]);
    let notes = json(&host, "/api/notes?q=before");
    assert_eq!(notes[0]["text"], "written before the refresh");

    // The migration of the next version fails; the data and the rollback are unaffected.
    push(&host, "steps/4-pinned-notes");
    host.tool(["run"]).expect(1).prints("migrate");
    host.tool(["service", "start"]).expect(3);
    host.tool(["rollback"]).expect(0);
    assert_eq!(json(&host, "/api/status")["commit"], commit.as_str());
    let repaired = push(&host, "steps/5-pinned-notes-repaired");
    host.tool(["run"]).expect(0);
    assert_eq!(json(&host, "/api/status")["commit"], repaired.as_str());
    assert_eq!(json(&host, "/api/notes?q=before")[0]["text"], "written before the refresh");
}

#[test]
fn rw_5_5_uvicorn_with_its_own_certificate_is_refreshed_with_and_without_a_check_of_it() {
    let host = Host::bare();
    let own = tls::self_signed(&host.beside("own"), "lady.example");
    let (key, certificate) = (own.key.display(), own.certificate.display());
    let url = format!("https://127.0.0.1:{}/api/status", host.port);
    let lines = format!(
        "url = \"{url}\"\n[service]\nsocket = true\ncommand = [\"{{venv}}/bin/uvicorn\", \"api_layer:app\", \"--fd\", \
         \"3\", \"--ssl-keyfile\", \"{key}\", \"--ssl-certfile\", \"{certificate}\"]\n"
    );
    // The first refresh passes if the service answers with its commit.
    let host = application_on(host, &lines);
    assert_eq!(host.report()["service"]["url"], url.as_str());
    push(&host, "steps/2-headline");
    host.tool(["run"]).expect(0).prints("HTTP 200");
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    let settings = fs::read_to_string(host.layout.host_file()).unwrap();
    let checked =
        format!("ca_file = \"{certificate}\"\nheaders = {{ Host = \"lady.example\" }}\n[service]\n");
    fs::write(host.layout.host_file(), settings.replace("[service]\n", &checked)).unwrap();
    host.tool(["run"]).expect(0).prints("HTTP 200");
    host.tool(["service", "restart"]).expect(0).prints("healthy");
    host.tool(["rollback"]).expect(0);
}
