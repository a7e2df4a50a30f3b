//! The page server against real connections on the loopback interface and on Unix sockets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use super::*;
use refresh_system::disk;

const FENCE: &str = r#"{"run":"20261129T071000Z-1","since":"2026-11-29T07:10:00Z","reason":"x",
    "halt":{"phase":"prepare","commit":null}}"#;

/// A server on the loopback, behind a fence.
struct World {
    directory: tempfile::TempDir,
    address: SocketAddr,
    /// The socket that systemd would keep.
    listener: TcpListener,
    wake_up: UnixStream,
    server: Option<JoinHandle<Outcome<()>>>,
}

impl World {
    fn with_patience(patience: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fence = directory.path().join("fence");
        disk::write_atomic(&fence, FENCE.as_bytes(), 0o644).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (reader, wake_up) = UnixStream::pair().unwrap();
        let server = Server {
            patience,
            ..Server::new(vec![listener.try_clone().unwrap().into()], &fence, reader.into())
        };
        let address = listener.local_addr().unwrap();
        let server = Some(std::thread::spawn(move || server.run()));
        Self { directory, address, listener, wake_up, server }
    }

    fn new() -> Self {
        Self::with_patience(PATIENCE)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes, and returns everything that comes back.
    fn ask(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        rest(stream)
    }

    fn end(&mut self) {
        self.wake_up.write_all(b"x").unwrap();
        self.server.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.end();
        }
    }
}

fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn every_request_gets_503_as_a_page_or_as_json_and_a_head_without_a_body() {
    let world = World::new();
    let page = world.ask(b"GET /anything HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n");
    for part in [
        "HTTP/1.1 503 ",
        "\r\nRetry-After: 60\r\n",
        "\r\nCache-Control: no-store\r\n",
        "Connection: close\r\n",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(page.contains("Content-Type: text/html") && page.contains("4 of 6: prepare"), "{page}");
    assert!(page.ends_with("</html>\n"));
    let json = world.ask(b"DELETE /x HTTP/1.1\r\nAccept: application/json\r\n\r\n");
    let (head, body) = json.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Content-Type: application/json"), "{head}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["step"], "prepare");
    let head = world.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn a_malformed_request_is_refused_with_its_reason() {
    let world = World::new();
    assert!(world.ask(b"\x16\x03\x01\x02\x00\x01").starts_with("HTTP/1.1 400 "));
    assert!(world.ask(b"GET /\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let large = format!("GET / HTTP/1.1\r\nCookie: {}", "x".repeat(HEADER));
    assert!(world.ask(large.as_bytes()).starts_with("HTTP/1.1 431 "));
    let mut cut = world.connect();
    cut.write_all(b"GET / HT").unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(rest(cut).starts_with("HTTP/1.1 400 "));
    let silent = world.connect();
    silent.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(silent), "");
}

#[test]
fn an_upload_in_progress_gets_its_answer() {
    let world = World::new();
    let mut stream = world.connect();
    stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n").unwrap();
    for _ in 0..400 {
        stream.write_all(&[b'x'; 10_000]).unwrap();
    }
    assert!(rest(stream).starts_with("HTTP/1.1 503 "));
}

#[test]
fn any_number_of_slow_clients_delays_no_other_client() {
    let world = World::new();
    let mut slow: Vec<TcpStream> = (0..CONNECTIONS + 50).map(|_| world.connect()).collect();
    for stream in &mut slow {
        // The first ones have already got their answer.
        let _ = stream.write_all(b"GET / HTT");
    }
    let began = clock::monotonic();
    for _ in 0..20 {
        assert!(world.ask(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503 "));
    }
    assert!(clock::monotonic() - began < Duration::from_secs(2));
    // A connection that must make room gets an answer, whatever its request.
    let mut first = Vec::new();
    let _ = slow.remove(0).read_to_end(&mut first);
    assert!(first.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&first));
}

#[test]
fn a_client_that_does_not_finish_is_disconnected() {
    let world = World::with_patience(Duration::from_millis(200));
    let began = clock::monotonic();
    assert!(world.ask(b"GET / HTTP/1.1\r\nHost:").starts_with("HTTP/1.1 408 "));
    assert_eq!(world.ask(b""), "");
    // One client takes no answer, and one sends without end.
    let mut endless = world.connect();
    endless.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    while endless.write_all(&[b'x'; 10_000]).is_ok() {
        assert!(clock::monotonic() - began < Duration::from_secs(15), "it is never cut off");
    }
}

#[test]
fn a_server_that_ends_answers_accepted_requests_and_leaves_the_others_in_the_backlog() {
    let mut world = World::new();
    let mut half = world.connect();
    half.write_all(b"GET / HT").unwrap();
    // It is accepted when a later one is answered.
    world.ask(b"GET / HTTP/1.1\r\n\r\n");
    let began = clock::monotonic();
    world.end();
    assert!(clock::monotonic() - began < Duration::from_secs(2));
    assert!(rest(half).starts_with("HTTP/1.1 503 "));
    let mut later = world.connect();
    later.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    world.listener.set_nonblocking(false).unwrap();
    let (mut accepted, _) = world.listener.accept().unwrap();
    accepted.write_all(b"of the application").unwrap();
    drop(accepted);
    let mut answer = Vec::new();
    let _ = later.read_to_end(&mut answer);
    assert_eq!(answer, b"of the application");
}

#[test]
fn the_server_ends_by_itself_when_the_fence_is_down() {
    let mut world = World::new();
    disk::remove_file_if_there(&world.directory.path().join("fence")).unwrap();
    let began = clock::monotonic();
    world.server.take().unwrap().join().unwrap().unwrap();
    assert!(clock::monotonic() - began < Duration::from_secs(5));
}

#[test]
fn every_socket_that_is_passed_is_answered_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let fence = directory.path().join("fence");
    disk::write_atomic(&fence, FENCE.as_bytes(), 0o644).unwrap();
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let (reader, mut wake_up) = UnixStream::pair().unwrap();
    let server = Server::new(vec![tcp.into(), unix.into()], &fence, reader.into());
    let server = std::thread::spawn(move || server.run());
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 503 "));
    wake_up.write_all(b"x").unwrap();
    server.join().unwrap().unwrap();
}
