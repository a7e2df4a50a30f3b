//! The health check against small servers that answer correctly, incorrectly, late or not at all; and real services
//! that die.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests create installations and start programs"
)]

use crate::host;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use refresh_programs::process::ExitKind;
use refresh_programs::process::{ProcessId, Runner};
use refresh_programs::units::Units;
use refresh_service::health::await_healthy;
use refresh_service::probe::{ProbeResult, Reach, ResolvedProbe, probe_once, reach};
use refresh_service::{
    Admission, Exit, LogPlace, Running, ServiceManager, ServiceProgram, ServiceState, Started, Stopped,
};
use refresh_settings::layout::Layout;
use refresh_system::clock;
use refresh_system::disk::Owner;
use refresh_system::error::{Failure, Outcome};
use rustix::process::{Pid, Signal, kill_process};

/// A server that answers request number n with `answers[n]`, and with the last one from then on; `None` is no answer.
struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn new(answers: Vec<Option<String>>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answers)
    }

    fn on(listener: TcpListener, answers: Vec<Option<String>>) -> Self {
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            let mut unanswered = Vec::new();
            for stream in listener.incoming().flatten() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                match &answers[number.min(answers.len() - 1)] {
                    Some(answer) => reply(stream, answer),
                    None => unanswered.push(stream),
                }
            }
        });
        Self { url, requests }
    }

    fn probe(&self) -> ResolvedProbe {
        probe_of(self.url.clone(), Duration::from_millis(400))
    }
}

fn reply(mut stream: TcpStream, answer: &str) {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(count) if count > 0 => request.extend_from_slice(&part[..count]),
            _ => return,
        }
    }
    let _ = stream.write_all(answer.as_bytes());
}

#[expect(clippy::unnecessary_wraps, reason = "no answer is an answer of a server under test, too")]
fn http(status: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()))
}

/// The units, for the health checks over TLS.
fn units() -> Units {
    let runner = Runner::silent().with_worker(PathBuf::from(host::program()));
    let layout = Layout::below(std::env::temp_dir().join("no-installation"));
    Units::new(&layout, &runner, Owner::own())
}

/// A process in place of the service, and a manager that reports its state.
struct Service {
    child: std::sync::Mutex<Child>,
    main: ProcessId,
    observed: AtomicUsize,
    restarts: AtomicUsize,
    /// The signal that ends it.
    ends_by: Signal,
}

impl Service {
    fn new() -> Self {
        let child = Command::new("/bin/sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let main = ProcessId::of_child(child.id().try_into().unwrap()).unwrap();
        Self {
            child: std::sync::Mutex::new(child),
            main,
            observed: AtomicUsize::new(0),
            restarts: AtomicUsize::new(0),
            ends_by: Signal::KILL,
        }
    }

    fn kill(&self) {
        let pid = Pid::from_raw(self.main.pid).unwrap();
        kill_process(pid, self.ends_by).unwrap();
        self.child.lock().unwrap().wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl ServiceManager for Service {
    fn observe(&self) -> Outcome<ServiceState> {
        if self.main.is_alive() {
            let first = self.observed.fetch_add(1, Ordering::SeqCst) == 0;
            let restarts = if first { 0 } else { self.restarts.load(Ordering::SeqCst) };
            let restarts = u32::try_from(restarts).unwrap();
            let (since, invocation) = (jiff::Timestamp::UNIX_EPOCH, "one".to_owned());
            return Ok(ServiceState::Running(Running { main: self.main, since, restarts, invocation }));
        }
        Ok(ServiceState::Stopped {
            last: Some(Exit { how: ExitKind::Signal(self.ends_by.as_raw()), at: clock::now() }),
        })
    }
    fn stop(&self) -> Outcome<Stopped> {
        Err(Failure::new("not here"))
    }
    fn start(&self, _admission: Admission) -> Outcome<Started> {
        Err(Failure::new("not here"))
    }
    fn log_tail(&self, _lines: usize) -> Outcome<Vec<String>> {
        Ok(Vec::new())
    }
    fn log_after(&self, _: Option<&LogPlace>, _: usize) -> Outcome<(Vec<String>, Option<LogPlace>)> {
        Ok((Vec::new(), None))
    }

    fn owns(&self, process: ProcessId) -> Outcome<bool> {
        Ok(process == self.main)
    }
    fn check(&self) -> Outcome<()> {
        Ok(())
    }
    fn program(&self) -> Outcome<Option<ServiceProgram>> {
        Ok(None)
    }
    fn describe(&self) -> String {
        "a process".to_owned()
    }
}

fn problem(probe: &ResolvedProbe) -> String {
    match probe_once(probe, &units()).unwrap() {
        ProbeResult::Bad { problem } => problem,
        ProbeResult::Good { status } => panic!("good with status {status}"),
    }
}

fn failure(probe: &ResolvedProbe, service: &Service) -> String {
    await_healthy(probe, &units(), service, service.main).unwrap_err().chain().join(": ")
}

/// Returns a probe that accepts every answer below 500.
fn probe_of(url: String, settle: Duration) -> ResolvedProbe {
    ResolvedProbe {
        url,
        credentials: None,
        socket: None,
        tls: None,
        headers: BTreeMap::new(),
        status: None,
        json: None,
        body: None,
        deadline: Duration::from_secs(60),
        settle,
    }
}

#[test]
fn rw_5_5_any_status_below_500_passes_unless_one_is_expected() {
    for status in ["200 OK", "404 Not Found", "302 Found\r\nLocation: http://127.0.0.1:1/"] {
        let server = Server::new(vec![http(status, "")]);
        assert!(
            matches!(probe_once(&server.probe(), &units()).unwrap(), ProbeResult::Good { .. }),
            "{status}"
        );
        assert_eq!(server.requests.load(Ordering::SeqCst), 1, "no redirect is followed");
    }
    let server = Server::new(vec![http("500 Oh", "")]);
    assert_eq!(problem(&server.probe()), "status 500");
    let server = Server::new(vec![http("404 Not Found", "")]);
    let expects = ResolvedProbe { status: Some(200), ..server.probe() };
    assert_eq!(problem(&expects), "status 404 instead of 200");
}

#[test]
fn rw_7_1b_no_listener_a_bad_answer_and_tls_are_distinguished_before_anything_is_stopped() {
    let server = Server::new(vec![http("200 OK", "")]);
    assert_eq!(reach(&server.probe(), &units()).unwrap(), Reach::Good);
    let server = Server::new(vec![http("503 Not yet", "")]);
    assert_eq!(reach(&server.probe(), &units()).unwrap(), Reach::Unwell { problem: "status 503".to_owned() });
    let server = Server::new(vec![http("400 Bad Host", "")]);
    assert_eq!(reach(&server.probe(), &units()).unwrap(), Reach::Good, "any status below 500 is");
    let expects = ResolvedProbe { status: Some(200), ..server.probe() };
    assert_eq!(
        reach(&expects, &units()).unwrap(),
        Reach::Unexpected { problem: "status 400 instead of 200".to_owned() }
    );
    // A new version can repair such a header, and no new version repairs another protocol.
    let server = Server::new(vec![http("200 OK\r\nBad Header: x", "")]);
    assert!(matches!(reach(&server.probe(), &units()).unwrap(), Reach::Unwell { .. }));
    let server = Server::new(vec![Some("SSH-2.0-Server\r\n".to_owned())]);
    let problem_of = "the answer is not HTTP/1.1".to_owned();
    assert_eq!(reach(&server.probe(), &units()).unwrap(), Reach::Unexpected { problem: problem_of });
    // The answer of a TLS server to a request without TLS: an alert.
    let server = Server::new(vec![Some("\u{15}\u{3}\u{1}\0\u{2}\u{2}F".to_owned())]);
    assert_eq!(reach(&server.probe(), &units()).unwrap(), Reach::Tls);
    let free = crate::port::free();
    let silent = ResolvedProbe { url: format!("http://127.0.0.1:{free}/"), ..server.probe() };
    assert_eq!(
        reach(&silent, &units()).unwrap(),
        Reach::NoListener { problem: "connection refused".to_owned() }
    );
}

#[test]
fn rw_5_5_the_content_of_an_answer_can_be_expected() {
    let server = Server::new(vec![http("200 OK", r#"{"version":{"commit":"old"},"ok":true}"#)]);
    let json = |path: &str, value: &str| ResolvedProbe {
        json: Some((path.to_owned(), value.to_owned())),
        ..server.probe()
    };
    assert!(matches!(probe_once(&json("ok", "true"), &units()).unwrap(), ProbeResult::Good { .. }));
    assert_eq!(
        problem(&json("version.commit", "new")),
        r#"the field version.commit is "old" instead of "new""#
    );
    let body = |text: &str| ResolvedProbe { body: Some(text.to_owned()), ..server.probe() };
    assert!(matches!(probe_once(&body("version"), &units()).unwrap(), ProbeResult::Good { .. }));
    assert!(problem(&body("fitness")).contains("does not contain"));
}

#[test]
fn rw_5_5_a_service_that_is_slow_to_listen_is_waited_for() {
    // On a busy machine the server may listen before the first request: then another server is tried.
    let is_waited_for = (0..20).any(|_| {
        let port = crate::port::free();
        let probe = probe_of(format!("http://127.0.0.1:{port}/"), Duration::ZERO);
        assert_eq!(problem(&probe), "connection refused");
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            Server::on(TcpListener::bind(("127.0.0.1", port)).unwrap(), vec![http("200 OK", "")])
        });
        let service = Service::new();
        let healthy = await_healthy(&probe, &units(), &service, service.main).unwrap();
        drop(late.join().unwrap());
        healthy.attempts > 1 && healthy.took >= Duration::from_millis(50)
    });
    assert!(is_waited_for);
}

#[test]
fn rw_5_5_an_error_at_first_and_a_good_answer_later_passes() {
    let server = Server::new(vec![http("503 Not yet", ""), http("503 Not yet", ""), http("200 OK", "")]);
    let service = Service::new();
    let healthy = await_healthy(&server.probe(), &units(), &service, service.main).unwrap();
    assert_eq!((healthy.attempts, healthy.status), (3, 200));
    assert!(server.requests.load(Ordering::SeqCst) > 3, "it is asked again while it settles");
}

#[test]
fn rw_7_1b_a_probe_that_never_passes_reports_the_last_answer() {
    let server = Server::new(vec![http("503 Not yet", "")]);
    let probe = ResolvedProbe { deadline: Duration::from_secs(2), ..server.probe() };
    let service = Service::new();
    let error = failure(&probe, &service);
    assert!(error.contains("within 2s") && error.contains("status 503"), "{error}");
}

#[test]
fn rw_7_1b_an_answer_is_reported_even_if_the_deadline_cuts_the_next_request_short() {
    let server = Server::new(vec![http("503 Not yet", ""), None]);
    let probe = ResolvedProbe { deadline: Duration::from_secs(2), ..server.probe() };
    let error = failure(&probe, &Service::new());
    assert!(error.contains("status 503, then no answer within"), "{error}");
}

#[test]
fn rw_7_1b_a_server_that_takes_the_request_and_never_answers_fails_at_the_deadline() {
    let server = Server::new(vec![None]);
    let probe = ResolvedProbe { deadline: Duration::from_millis(200), ..server.probe() };
    let service = Service::new();
    let error = failure(&probe, &service);
    assert!(error.contains("no answer within"), "{error}");
}

#[test]
fn rw_5_5_a_service_that_dies_while_its_answer_is_awaited_fails_at_once() {
    let server = Server::new(vec![None]);
    let service = Service::new();
    let probe = ResolvedProbe { deadline: Duration::from_secs(3600), ..server.probe() };
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| failure(&probe, &service));
        while server.requests.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        service.kill();
        waiting.join().unwrap()
    });
    assert!(error.contains("died") && error.contains("SIGKILL"), "{error}");
}

#[test]
fn rw_5_5_a_service_that_dies_while_it_settles_is_not_good() {
    let server = Server::new(vec![http("200 OK", "")]);
    let mut service = Service::new();
    service.ends_by = Signal::TERM;
    let probe = ResolvedProbe { settle: Duration::from_secs(3600), ..server.probe() };
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| failure(&probe, &service));
        while server.requests.load(Ordering::SeqCst) < 2 {
            std::thread::sleep(Duration::from_millis(2));
        }
        service.kill();
        waiting.join().unwrap()
    });
    let another = "ended by SIGTERM, which this run did not send: another command stopped it";
    assert!(error.contains("died") && error.contains(another), "{error}");
}

#[test]
fn rw_5_5_a_service_that_stops_answering_well_while_it_settles_is_not_good() {
    let server = Server::new(vec![http("200 OK", ""), http("500 Oh", "")]);
    let service = Service::new();
    let error = failure(&server.probe(), &service);
    assert!(error.contains("no more") && error.contains("status 500"), "{error}");
}

#[test]
fn rw_5_5_a_service_that_was_restarted_while_it_settled_is_not_good() {
    let server = Server::new(vec![http("200 OK", "")]);
    let service = Service::new();
    service.restarts.store(1, Ordering::SeqCst);
    let error = failure(&server.probe(), &service);
    assert!(error.contains("restarted"), "{error}");
}

#[test]
fn a_server_of_another_protocol_or_one_that_hangs_up_is_a_problem_and_not_a_failure() {
    let garbage = Server::new(vec![Some("SSH-2.0-x\r\n\r\n".to_owned())]);
    assert!(!problem(&garbage.probe()).is_empty());
    let silent = Server::new(vec![Some(String::new())]);
    assert!(!problem(&silent.probe()).is_empty());
}

#[test]
fn rw_5_5_a_text_in_a_large_or_endless_answer_is_found_and_a_large_object_is_read() {
    let large = format!("{}the end", "x".repeat(5 << 20));
    let answer = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", large.len());
    let server = Server::new(vec![Some(answer(&large))]);
    let body = |server: &Server, text: &str| ResolvedProbe { body: Some(text.to_owned()), ..server.probe() };
    let is_good = |probe: &ResolvedProbe| {
        let result = probe_once(probe, &units()).unwrap();
        assert!(matches!(result, ProbeResult::Good { .. }), "{result}");
    };
    is_good(&body(&server, "the end"));
    is_good(&body(&server, "xthe"));
    assert!(problem(&body(&server, "no such text")).contains("does not contain"));
    // It announces more bytes than it sends.
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\ndata: ready\n\n";
    let endless = Open::new(endless);
    is_good(&ResolvedProbe { url: endless.url.clone(), ..body(&server, "ready") });
    let object = format!("{{\"fill\":\"{}\",\"ok\":true}}", "x".repeat(3 << 20));
    let server = Server::new(vec![http("200 OK", &object)]);
    is_good(&ResolvedProbe { json: Some(("ok".to_owned(), "true".to_owned())), ..server.probe() });
}

/// A server that answers and leaves each connection open.
struct Open {
    url: String,
}

impl Open {
    fn new(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming().flatten() {
                let kept = stream.try_clone().unwrap();
                reply(stream, answer);
                open.push(kept);
            }
        });
        Self { url }
    }
}

#[test]
fn rw_5_5_answers_of_real_servers_are_read() {
    let chunks: String = "the body".chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    for (what, answer) in [
        ("HTTP/1.0 without a length", "HTTP/1.0 200 OK\r\n\r\nthe body".to_owned()),
        ("chunks of one byte", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\nX-End: 1\r\n\r\n")),
        ("an early hint", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe body".to_owned()),
        ("a continuation", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe body".to_owned()),
        ("no reason", "HTTP/1.1 200\r\nContent-Length: 8\r\n\r\nthe body".to_owned()),
        ("the length twice", "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nContent-Length: 8\r\n\r\nthe body".to_owned()),
        ("a kept connection", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 8\r\n\r\nthe body".to_owned()),
    ] {
        let server = Server::new(vec![Some(answer)]);
        let probe = ResolvedProbe { body: Some("the body".to_owned()), ..server.probe() };
        let result = probe_once(&probe, &units()).unwrap();
        assert!(matches!(result, ProbeResult::Good { status: 200 }), "{what}: {result}");
    }
    let empty = Server::new(vec![Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned())]);
    assert!(matches!(probe_once(&empty.probe(), &units()).unwrap(), ProbeResult::Good { status: 204 }));
}
