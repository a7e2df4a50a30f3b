//! A client that sends requests to a service all the time, and measures the time without an answer.
#![expect(unreachable_pub, reason = "a module of a benchmark is private, although its items are `pub`")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "reads the clock itself")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The interval between requests.
const TICK: Duration = Duration::from_millis(2);

/// A client that sends requests all the time.
pub struct Client {
    state: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The answers since the client was started.
#[derive(Default)]
struct Seen {
    last_good: Option<Instant>,
    away_since: Option<Instant>,
    longest: Option<Duration>,
    good_since_away: bool,
}

impl Client {
    /// A client of the service that listens on `port` of the network namespace at `namespace`, or of the namespace of
    /// this process.
    pub fn of(port: u16, namespace: Option<PathBuf>) -> Self {
        let (state, over) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (shared, done) = (Arc::clone(&state), Arc::clone(&over));
        let thread = thread::spawn(move || {
            if let Some(path) = namespace {
                enter(&path);
            }
            while !done.load(Ordering::Relaxed) {
                let good = answers(port);
                let now = Instant::now();
                let mut seen = shared.lock().unwrap();
                if !good {
                    seen.away_since = seen.away_since.or(seen.last_good);
                } else if let Some(since) = seen.away_since.take() {
                    let away = now.duration_since(since);
                    seen.longest = seen.longest.max(Some(away));
                    seen.good_since_away = true;
                }
                if good {
                    seen.last_good = Some(now);
                }
                drop(seen);
                thread::sleep(TICK);
            }
        });
        Self { state, over, thread: Some(thread) }
    }

    /// Waits for a successful answer and forgets the earlier ones.
    pub fn begin(&self) {
        *self.state.lock().unwrap() = Seen::default();
        while self.state.lock().unwrap().last_good.is_none() {
            thread::yield_now();
        }
    }

    /// Waits until the service answers again. Returns the time without an answer, in milliseconds.
    pub fn end(&self) -> f64 {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let seen = self.state.lock().unwrap();
            if let (true, Some(longest)) = (seen.good_since_away, seen.longest) {
                return longest.as_secs_f64() * 1000.0;
            }
            drop(seen);
            assert!(Instant::now() < limit, "the service has not been away, or has not come back");
            thread::sleep(TICK);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Moves this thread, and no other, into a network namespace.
fn enter(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    if stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").is_err() {
        return false;
    }
    let mut start = [0; 12];
    stream.read_exact(&mut start).is_ok() && start.ends_with(b" 200")
}

/// Returns the median of some values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}
