//! The gate of the service's listening sockets: while it is closed a client can connect, and its connection is not taken
//! until the gate is open again. It closes for the moment of the stop, so that the service has read what it has taken.
//!
//! This is the inside of the unit that has the sockets. It changes options of those sockets, which outlive it, so it opens the
//! gate whatever ends it, but SIGKILL: the next unit that gets the sockets opens it then, before anything else.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::clock;
use crate::error::{Context as _, Outcome};
use crate::process::interrupt;

use super::listener::Listener;

/// The operation of a unit that has the sockets.
pub const OPERATION: &str = "hold";

/// How long the gate is closed at most, whatever becomes of the run. A service that is asked to stop takes no connections
/// after a moment, though it may take long to end.
const LIMIT: Duration = Duration::from_secs(8);

/// How often the limit and signals are checked, and how exactly the longest wait is known.
const TICK: Duration = Duration::from_millis(10);

/// What the unit is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateRequest {
    /// To have connections taken only with their first data.
    Prepare,
    /// To close the gate.
    Close,
    /// To open it, and to watch from here on for connections that wait.
    Open,
    /// To count the connections that wait.
    Count,
}

/// How it is with the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateState {
    /// How many sockets have one. A socket that is not TCP has none.
    pub gates: usize,
    /// Connections that wait to be taken.
    pub waiting: u32,
    /// Milliseconds that the oldest of them has waited, where that was watched.
    pub oldest_ms: Option<u64>,
}

/// What this process knows of the gate of its sockets.
#[derive(Debug)]
struct Watch {
    closed_at: Option<Instant>,
    is_watching: bool,
    first_waited_at: Option<Instant>,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch { closed_at: None, is_watching: false, first_waited_at: None });

/// Does what is asked of the sockets of this process.
///
/// # Errors
/// The kernel refuses that.
pub fn handle(request: GateRequest) -> Outcome<GateState> {
    let state = act(request);
    match request {
        GateRequest::Close => checkpoint::reach("gate:closed"),
        GateRequest::Open => checkpoint::reach("gate:opened"),
        GateRequest::Prepare | GateRequest::Count => {}
    }
    state
}

fn act(request: GateRequest) -> Outcome<GateState> {
    let listeners = Listener::inherited();
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
            *watch = Watch { closed_at: None, is_watching: true, first_waited_at: None };
        }
        GateRequest::Count => {}
    }
    let waiting = listeners.iter().map(|listener| listener.waiting().unwrap_or(0)).sum();
    let oldest = watch.first_waited_at.filter(|_| waiting > 0);
    let since = |at: Instant| clock::monotonic().duration_since(at).as_millis();
    let oldest_ms = oldest.and_then(|at| u64::try_from(since(at)).ok());
    Ok(GateState { gates: listeners.len(), waiting, oldest_ms })
}

/// Leaves the sockets as they were before this program had them. Does nothing in a process without sockets.
pub fn leave() {
    let listeners = Listener::inherited();
    // A socket that refuses this has refused the filter as well.
    let _ = open(&listeners);
    for listener in &listeners {
        let _ = listener.defer_no_more();
    }
}

/// Leaves the sockets as they were and ends this process, whatever it is doing.
pub fn leave_and_end() {
    // Kept to the end, so that no request closes the gate again.
    let _watch = WATCH.lock();
    leave();
    let _ = kill_process(getpid(), Signal::KILL);
}

fn open(listeners: &[Listener]) -> Outcome<()> {
    for listener in listeners {
        listener.unfilter().context(|| "cannot remove the filter of a socket".to_owned())?;
    }
    Ok(())
}

/// Keeps watch in a process that has sockets, for as long as that lives: opens the gate when its time is over, ends the process
/// when a signal asks for that, and notes when the first connection waited.
pub fn keep_watch() {
    if Listener::inherited().is_empty() {
        return;
    }
    std::thread::spawn(|| {
        loop {
            if interrupt::arrived().is_some() {
                leave_and_end();
            }
            check(&mut WATCH.lock().unwrap_or_else(PoisonError::into_inner), &Listener::inherited());
            clock::pause_regardless(TICK);
        }
    });
}

fn check(watch: &mut Watch, listeners: &[Listener]) {
    let now = clock::monotonic();
    if watch.closed_at.is_some_and(|at| now.duration_since(at) > LIMIT) && open(listeners).is_ok() {
        watch.closed_at = None;
    }
    let waits = || listeners.iter().any(|listener| listener.waiting().is_ok_and(|count| count > 0));
    if watch.is_watching && watch.first_waited_at.is_none() && waits() {
        watch.first_waited_at = Some(now);
    }
}
