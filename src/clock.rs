//! The one door to clocks and to waiting.
#![expect(clippy::disallowed_methods, reason = "this is the room of the clocks")]

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::error::Outcome;
use crate::process::interrupt;

/// Returns the wall clock's time, for people and records; never used to measure.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Returns the monotonic clock's time, for durations and deadlines.
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Waits for `duration`, or until an interrupt arrives.
///
/// # Errors
/// The interruption.
pub fn pause(duration: Duration) -> Outcome<()> {
    let end = monotonic() + duration;
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(monotonic());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Waits for `duration` whatever happens: for clean-up that must not be cut short.
pub fn pause_regardless(duration: Duration) {
    std::thread::sleep(duration);
}
