//! Step 5: the service counts as restarted only when the new one has passed its health check (RW-5.5); otherwise it is
//! stopped again (RW-7.1).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::{Host, SERVER};
use crate::refresh::help::{down_and_fenced, hook, journaled, probe};

const GOOD: &str = "deadline = \"60s\"\nsettle = \"150ms\"";

#[test]
fn rw_5_5_rw_7_1a_rw_7_1c_a_service_that_fails_its_health_check_is_stopped_again() {
    // The behavior of the service, the required answer, and the expected error.
    let dies_late = SERVER.replace(
        "def serve(",
        "answer_well = answer\ndef answer(connection):\n    answer_well(connection)\n    \
         print('gone after one answer', flush=True)\n    os._exit(4)\ndef serve(",
    );
    let answers_500 = SERVER.replace("200 OK", "500 Internal Server Error");
    assert!(dies_late != SERVER && answers_500 != SERVER);
    let on_another_address = SERVER.replace("127.0.0.1", "127.0.0.2");
    assert!(on_another_address != SERVER);
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        (
            &on_another_address,
            "deadline = \"3s\"\nsettle = \"100ms\"",
            "listens on another address",
            &["the service listens on 127.0.0.2:"],
        ),
        (
            "print('no such table', flush=True)\nraise SystemExit(3)",
            GOOD,
            "dies at once",
            &["no such table", "exit code 3"],
        ),
        (
            &dies_late,
            "deadline = \"60s\"\nsettle = \"1s\"",
            "dies after it answered",
            &["gone after one answer", "exit code 4"],
        ),
        (
            "import time\nprint('thinking', flush=True)\ntime.sleep(1000)",
            "deadline = \"8s\"\nsettle = \"100ms\"",
            "never answers",
            &["did not answer well within 8s", "connection refused", "thinking", "listens on no address yet"],
        ),
        (
            &answers_500,
            "deadline = \"8s\"\nsettle = \"100ms\"",
            "answers 500",
            &["status 500", "serving two"],
        ),
        (
            SERVER,
            "deadline = \"8s\"\nsettle = \"100ms\"\njson_field = \"version\"\njson_value = \"another\"",
            "answers with another value",
            &["the field version", "serving two"],
        ),
    ];
    let host = Host::running();
    for (server, settings, case, expected) in &cases {
        host.push(&[("version.txt", "two\n"), ("server.py", server)]);
        probe(&host, settings);
        let ran = host.tool(["run"]).expect(1);
        let log = fs::read_to_string(host.runs().last().unwrap().join("log")).unwrap();
        for text in *expected {
            assert!(log.contains(text), "{case}: {text:?} is missing in {log}");
            assert!(ran.all().contains(text), "{case}: {text:?} was not shown");
        }
        let hint = match *case {
            "listens on another address" => "set `url = \"http://127.0.0.2:",
            "never answers" => "set `deadline` under [probe]",
            _ => "next",
        };
        assert!(ran.all().contains(hint), "{case}: {}", ran.all());
        assert_eq!(journaled(&host, "failed"), ["restart"], "{case}");
        assert_eq!(host.report()["service"]["state"], "stopped", "{case}");
        down_and_fenced(&host);
    }
    probe(&host, GOOD);
    let commit = host.push(&[("version.txt", "three\n"), ("server.py", SERVER)]);
    host.tool(["run"]).expect(0);
    let (answer, report) = (host.answer().unwrap(), host.report());
    assert_eq!(answer["version"], "three");
    assert_eq!(answer["commit"], commit.as_str());
    assert_eq!(answer["branch"], "main");
    assert_eq!(answer["environment"], report["environment"]["name"]);
    assert!(report["downtime_ms"].is_u64());
    assert!(!host.fenced());
}

#[test]
fn rw_5_5_the_health_check_can_require_the_commit() {
    let host = Host::new();
    probe(&host, &format!("{GOOD}\njson_field = \"commit\"\njson_value = \"{{commit}}\""));
    host.tool(["run"]).expect(0);
    assert_eq!(host.answer().unwrap()["commit"], host.head().as_str());
}

#[test]
fn rw_5_5_an_old_process_that_answers_on_the_port_is_not_taken_for_the_new_service() {
    let host = Host::running();
    let silent = "import time\nprint('not listening', flush=True)\ntime.sleep(1000)";
    let waiting = "import os, socket, time\nopen(os.environ['ASKED'], 'w').close()\nwhile True:\n    try:\n        \
                   socket.create_connection(('127.0.0.1', int(os.environ['LADYLINUX_PORT'])), 5).close()\n        \
                   break\n    except OSError:\n        time.sleep(0.01)\n";
    // A hook can write to the application's own directories only.
    let asked = host.layout.root().join("var/lib/ladylinux/data/asked");
    let env = format!("LADYLINUX_PORT={}\nASKED={}\n", host.port, asked.display());
    fs::write(host.layout.env_file(), env).unwrap();
    host.push(&[
        ("server.py", silent),
        ("wait.py", waiting),
        ("refresh.toml", &hook("wait", "check", &["python", "wait.py"], "")),
    ]);
    probe(&host, "deadline = \"10s\"\nsettle = \"100ms\"");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| answer_once_asked(host.port, &asked, &over));
        let ran = host.tool(["run"]);
        over.store(true, Ordering::Relaxed);
        ran.expect(1).prints(&format!("process {}", std::process::id()));
    });
    assert_eq!(journaled(&host, "failed"), ["restart"]);
    down_and_fenced(&host);
}

/// Takes the port as soon as the service is down, and answers on it as if it were the service.
fn answer_once_asked(port: u16, asked: &Path, over: &AtomicBool) {
    while !asked.exists() && !over.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    while !over.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(std::time::Duration::from_millis(2));
            continue;
        };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(1)));
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    }
}
