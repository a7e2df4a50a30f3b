//! The only module that reads clocks and waits.
#![expect(clippy::disallowed_methods, reason = "this module reads the clocks")]

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::error::Outcome;
use crate::interrupt;

/// Returns the wall clock's time, for people and records; never used to measure.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Returns a time for people: to the second, in the time zone of this machine, with the name of the zone.
pub fn in_words(time: Timestamp) -> String {
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// Returns a time for people, to the minute, in the time zone of this machine.
pub fn to_the_minute(time: Timestamp) -> String {
    time.to_zoned_datetime(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// Returns the monotonic clock's time, for durations and deadlines.
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Returns a duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the milliseconds since an instant of the monotonic clock.
pub fn millis_since(start: Instant) -> u64 {
    millis(monotonic().duration_since(start))
}

/// Returns the time since boot in the clock ticks that the kernel dates the start of a process with.
pub fn boot_ticks() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * per_second + nanoseconds * per_second / 1_000_000_000
}

/// A time as file systems keep it: seconds and nanoseconds.
pub type FileTime = (i64, i64);

/// Returns the earliest time with which the kernel would date a change of a file from now on.
pub fn file_time() -> FileTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    (time.tv_sec, time.tv_nsec)
}

/// Returns the name of this boot (random(4)); empty if the kernel has none.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Returns a time between the changes of files that were made before and those that will be made after. The kernel
/// dates changes with a clock that advances every few milliseconds; this waits until it has advanced.
///
/// # Errors
/// The interruption.
pub fn await_clock_tick() -> Outcome<FileTime> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let between = (time.tv_sec, time.tv_nsec);
    // A limit, in case the clock is set back.
    for _ in 0..100 {
        if file_time() > between {
            break;
        }
        pause(Duration::from_millis(1))?;
    }
    Ok(between)
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

/// Waits for `duration`, also if an interrupt arrives: for clean-up that must not be cut short.
pub fn sleep_uninterrupted(duration: Duration) {
    std::thread::sleep(duration);
}
