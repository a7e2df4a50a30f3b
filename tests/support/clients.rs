//! Clients that send requests to a service on the loopback interface one after the other, each on its own connection.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests read the clock and may fail")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The pause of each client between two requests: far shorter than any downtime of the service.
const PAUSE: Duration = Duration::from_millis(5);

/// The answers of the clients.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: usize,
    pub failed: Vec<String>,
    pub longest: Duration,
}

/// Clients at work.
pub struct Clients {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Clients {
    /// Starts `count` clients that request `path`.
    pub fn start(count: usize, port: u16, path: &'static str) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let mut seen = Seen::default();
                while !ended.load(Ordering::SeqCst) {
                    let start = Instant::now();
                    if let Err(error) = ask(port, path) {
                        seen.failed.push(format!("after {:?}: {error}", start.elapsed()));
                    }
                    seen.requests += 1;
                    seen.longest = seen.longest.max(start.elapsed());
                    // Leaves the processors to the service and to the refresh.
                    std::thread::sleep(PAUSE);
                }
                seen
            })
        };
        let threads = (0..count).map(client).collect();
        Self { ended, threads }
    }

    /// Ends them.
    pub fn end(self) -> Seen {
        self.ended.store(true, Ordering::SeqCst);
        let mut all = Seen::default();
        for thread in self.threads {
            let seen = thread.join().unwrap();
            all.requests += seen.requests;
            all.failed.extend(seen.failed);
            all.longest = all.longest.max(seen.longest);
        }
        all
    }
}

fn ask(port: u16, path: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let is_good = answer.lines().next().is_some_and(|line| line.contains(" 200 "));
    if is_good { Ok(()) } else { Err(std::io::Error::other(format!("answered {answer:?}"))) }
}
