//! A visitor of the demo's application: asks it all the time while a command runs, and counts what fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::narrate::readable;
use super::story::fetch;
use crate::clock;

/// How long the visitor waits for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it waits between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(2);

/// A visitor at work.
pub(super) struct Visitor {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Visits>,
}

/// What a visitor has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Visits {
    requests: usize,
    failed: usize,
    longest: Duration,
}

impl Visitor {
    /// Starts to ask for `url`.
    pub(super) fn start(url: String) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut visits = Visits::default();
            while !is_ended.load(Ordering::SeqCst) {
                let start = clock::monotonic();
                visits.failed += usize::from(fetch(&url, PATIENCE).is_err());
                visits.requests += 1;
                visits.longest = visits.longest.max(clock::monotonic().duration_since(start));
                clock::pause_regardless(PAUSE);
            }
            visits
        });
        Self { ended, thread }
    }

    /// Ends the visitor with its last answer.
    pub(super) fn end(self) -> Visits {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_default()
    }
}

impl std::fmt::Display for Visits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { requests, failed, longest } = self;
        write!(f, "meanwhile a visitor made {requests} requests: {failed} failed, ")?;
        write!(f, "the longest took {}", readable(*longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_nothing_answers_are_counted_as_failed() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let visitor = Visitor::start(format!("http://{free}/"));
        clock::pause_regardless(Duration::from_millis(30));
        let visits = visitor.end();
        assert!(visits.requests > 0 && visits.failed == visits.requests, "{visits:?}");
        assert!(visits.to_string().contains(&format!("{0} requests: {0} failed", visits.requests)));
    }
}
