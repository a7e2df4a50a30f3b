//! A service that the embedded supervisor starts with its listening socket: connections wait for the next start.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::clients::Clients;
use crate::host::Host;
use crate::refresh::help::hook;

/// A host whose service runs, started with its socket.
fn running() -> Host {
    let host = Host::new();
    host.give_socket();
    host.tool(["run"]).expect(0);
    host
}

#[test]
fn rw_5_1_rw_5_5_no_request_fails_during_refreshes_of_a_service_started_with_its_socket() {
    let host = running();
    let clients = Clients::start(4, host.port, "/");
    let start = Instant::now();
    let mut longest_down = 0;
    let mut refresh = |command: &[&str]| {
        host.tool(command).expect(0);
        longest_down = longest_down.max(host.report()["downtime_ms"].as_u64().unwrap());
    };
    for (round, package) in ["1.16.0", "1.17.0", "1.17.0"].into_iter().enumerate() {
        let (version, requirements) = (format!("{round}\n"), format!("six=={package}\n"));
        host.push(&[("version.txt", &version), ("requirements.txt", &requirements)]);
        refresh(&["run"]);
        assert_eq!(host.version(), Some(round.to_string()));
    }
    refresh(&["rollback"]);
    refresh(&["run", "--no-stage"]);
    let seen = clients.end();
    println!(
        "5 refreshes in {:.1?} with 4 clients that ask every 5 ms: {} requests, {} failed, the longest took {:.1?}, \
         the longest downtime was {longest_down} ms",
        start.elapsed(),
        seen.requests,
        seen.failed.len(),
        seen.longest
    );
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
    assert!(seen.requests > 100, "{seen:?}");
    let report = host.report();
    assert!(report["warnings"].as_array().unwrap().is_empty(), "{report}");
}

#[test]
fn rw_7_1a_a_halted_run_closes_the_socket_and_the_next_one_opens_it_again() {
    let host = running();
    let refused = || {
        let error = TcpStream::connect(("127.0.0.1", host.port)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    };
    let at_work = host.layout.data()[1].join("hook-at-work");
    let go = host.layout.data()[1].join("go");
    let script =
        format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done; exit 1", at_work.display(), go.display());
    let failing = hook("fail", "migration", &["sh", "-c", &script], "");
    host.push(&[("refresh.toml", &failing)]);
    let run =
        host.command(["run"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut run = run.unwrap();
    while !at_work.exists() {
        assert!(run.try_wait().unwrap().is_none(), "the run ended before its hook");
        std::thread::sleep(Duration::from_millis(2));
    }
    // A request between the stop and the halt waits, and then it is refused rather than kept waiting.
    let mut waits = TcpStream::connect(("127.0.0.1", host.port)).unwrap();
    waits.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    fs::write(&go, "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let ended = waits.read(&mut [0; 1]);
    assert!(
        ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset),
        "{ended:?}"
    );
    refused();
    host.tool(["service", "start"]).expect(3);
    refused();

    host.push(&[("refresh.toml", ""), ("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    host.tool(["service", "stop"]).expect(0);
    refused();
    host.tool(["service", "start"]).expect(0);
    let limit = Instant::now() + Duration::from_secs(60);
    while host.version().as_deref() != Some("two") {
        assert!(Instant::now() < limit, "the service does not answer");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn rw_5_1_a_service_that_opened_its_port_itself_gets_a_socket_from_the_next_start_on() {
    let host = Host::running();
    host.give_socket();
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0).prints("new connections do not wait for the service, but are refused");
    assert_eq!(host.version().as_deref(), Some("two"));
    let clients = Clients::start(1, host.port, "/");
    host.push(&[("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);
    let seen = clients.end();
    assert!(seen.failed.is_empty(), "{:#?}", seen.failed);
}

#[test]
fn rw_5_1_on_a_port_of_a_foreign_process_the_service_gets_no_socket() {
    let host = Host::new();
    host.give_socket();
    host.tool(["run"]).expect(0);
    host.tool(["service", "stop"]).expect(0);
    let stranger = TcpListener::bind(("127.0.0.1", host.port)).unwrap();
    let named = format!("port {} is held by process {}", host.port, std::process::id());
    let start = host.tool(["service", "start"]);
    assert_ne!(start.code, Some(0));
    start.prints(&named);
    let run = host.tool(["run"]);
    assert_eq!(run.code, Some(3), "{}", run.all());
    run.prints(&named);
    assert!(!host.fenced());
    drop(stranger);
    host.tool(["run"]).expect(0);
}
