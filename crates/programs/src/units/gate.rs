//! The gate of the service's listening sockets: while it is closed, a client can connect, but no process accepts its
//! connection until the gate is open again. It closes for the moment of the stop: then the service has read the
//! requests of all accepted connections.
//!
//! This is the inside of the unit that has the sockets. It changes options of those sockets, which outlive it, so it
//! opens the gate at every end except SIGKILL. After SIGKILL, the next unit that gets the sockets opens it first.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::process::inherited;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::{checkpoint, clock, interrupt};

use super::listener::Listener;

/// The operation of a unit that has the sockets.
pub const OPERATION: &str = "hold";

/// How long the gate is closed at most, independent of the run. A service that gets the signal to stop accepts no
/// connections after a moment, although it may take long to end.
const LIMIT: Duration = Duration::from_secs(8);

/// How often the limit and signals are checked, and the precision of the longest wait.
const TICK: Duration = Duration::from_millis(10);

/// A request to the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateRequest {
    /// To have connections accepted only with their first data.
    Prepare,
    /// To close the gate.
    Close,
    /// To open it, and to watch for waiting connections from then on.
    Open,
    /// To count the connections that waited.
    Count,
}

/// The state of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateState {
    /// How many sockets have a gate. A socket that is not TCP has none.
    pub gates: usize,
    /// The largest number of connections that waited at the same time.
    pub waited: u32,
    /// Milliseconds from the beginning of the first wait until no connection waited.
    pub longest_ms: Option<u64>,
}

/// The knowledge of this process about the gate of its sockets.
#[derive(Debug)]
struct Watch {
    closed_at: Option<Instant>,
    /// The largest number of connections that waited at the same time, from the opening of the gate until none waited.
    most: u32,
    /// When the first of them was seen.
    first_at: Option<Instant>,
    /// When none was seen any longer.
    last_at: Option<Instant>,
    is_watching: bool,
}

/// The sockets that this process was started with. They stay open while it lives.
static SOCKETS: LazyLock<Vec<OwnedFd>> = LazyLock::new(|| inherited::listeners().unwrap_or_default());

static WATCH: Mutex<Watch> = Mutex::new(Watch::new());

/// Carries out a request about the sockets of this process.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn handle(request: GateRequest) -> Outcome<GateState> {
    let state = act(request);
    match request {
        GateRequest::Close => checkpoint::reach("gate:closed"),
        GateRequest::Open => checkpoint::reach("gate:opened"),
        GateRequest::Prepare | GateRequest::Count => {}
    }
    state
}

fn act(request: GateRequest) -> Outcome<GateState> {
    let listeners = listeners();
    let mut watch = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    match request {
        GateRequest::Prepare => {
            for listener in &listeners {
                listener.defer().context(|| "cannot defer the connections of a socket".to_owned())?;
            }
        }
        GateRequest::Close => {
            watch.closed_at = Some(clock::monotonic());
            for listener in &listeners {
                listener.filter().context(|| "cannot attach a filter to a socket".to_owned())?;
            }
        }
        GateRequest::Open => {
            open(&listeners)?;
            *watch = Watch { is_watching: true, ..Watch::new() };
        }
        GateRequest::Count => {}
    }
    Ok(GateState { gates: listeners.len(), waited: watch.most, longest_ms: watch.longest_ms() })
}

/// Restores the options that the sockets had before this program had them. Does nothing in a process without sockets.
pub(crate) fn leave() {
    leave_all(&listeners());
}

/// Restores the options of the sockets and ends this process, also during other work.
pub(crate) fn leave_and_end() {
    // Held until the end: then no request closes the gate again.
    let _watch = WATCH.lock();
    leave();
    let _ = kill_process(getpid(), Signal::KILL);
}

fn listeners() -> Vec<Listener<'static>> {
    SOCKETS.iter().filter_map(|socket| Listener::of(socket.as_fd())).collect()
}

/// Restores the options that sockets had before another unit had them, which may have been killed while the gate was
/// closed.
pub fn open_left(sockets: &[OwnedFd]) {
    leave_all(&sockets.iter().filter_map(|socket| Listener::of(socket.as_fd())).collect::<Vec<_>>());
}

fn leave_all(listeners: &[Listener<'_>]) {
    // A socket that refuses this has refused the filter as well.
    let _ = open(listeners);
    for listener in listeners {
        let _ = listener.defer_no_more();
    }
}

fn open(listeners: &[Listener<'_>]) -> Outcome<()> {
    for listener in listeners {
        listener.unfilter().context(|| "cannot remove the filter of a socket".to_owned())?;
    }
    Ok(())
}

/// Keeps watch in a process that has sockets, while it lives: opens the gate when its time is over, ends the process
/// after a signal to end, and records when the first connection waited.
pub(crate) fn keep_watch() {
    if listeners().is_empty() {
        return;
    }
    std::thread::spawn(|| {
        loop {
            if interrupt::arrived().is_some() {
                leave_and_end();
            }
            check(&mut WATCH.lock().unwrap_or_else(PoisonError::into_inner), &listeners());
            clock::sleep_uninterrupted(TICK);
        }
    });
}

fn check(watch: &mut Watch, listeners: &[Listener<'_>]) {
    let now = clock::monotonic();
    if watch.closed_at.is_some_and(|at| now.duration_since(at) > LIMIT) && open(listeners).is_ok() {
        watch.closed_at = None;
    }
    if watch.is_watching {
        watch.note(now, listeners.iter().map(|listener| listener.waiting().unwrap_or(0)).sum());
    }
}

impl Watch {
    const fn new() -> Self {
        Self { closed_at: None, most: 0, first_at: None, last_at: None, is_watching: false }
    }

    /// Records how many connections wait now. When none waits any longer, the service has accepted them, and the watch
    /// is over.
    fn note(&mut self, now: Instant, count: u32) {
        if count > 0 {
            self.first_at.get_or_insert(now);
            self.most = self.most.max(count);
        } else if self.first_at.is_some() {
            self.last_at = Some(now);
            self.is_watching = false;
        }
    }

    fn longest_ms(&self) -> Option<u64> {
        u64::try_from(self.last_at?.duration_since(self.first_at?).as_millis()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simultaneous_waiters_are_counted_and_the_longest_wait_ends_with_the_last() {
        let mut watch = Watch { is_watching: true, ..Watch::new() };
        let began = clock::monotonic();
        let at = |ms| began + Duration::from_millis(ms);
        watch.note(at(0), 0);
        assert!(watch.is_watching, "none has waited yet");
        for (ms, count) in [(10, 1), (20, 1), (30, 8), (40, 9), (50, 3)] {
            watch.note(at(ms), count);
        }
        assert_eq!((watch.most, watch.longest_ms()), (9, None), "some still wait");
        watch.note(at(60), 0);
        assert!(!watch.is_watching);
        assert_eq!((watch.most, watch.longest_ms()), (9, Some(50)));
    }
}
