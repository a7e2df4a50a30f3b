//! Signals: SIGINT and SIGTERM request a proper halt, SIGHUP and SIGPIPE change nothing. A process that only follows a
//! run uses them differently, and checks [`arrived`] and [`hung_up`] itself.
//!
//! The handlers only store the signal's number; a process that waits reads it through [`check`]. A second SIGINT or
//! SIGTERM changes nothing: the halt in progress is the fastest that leaves a known state.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
pub use signal_hook::low_level::signal_name;

use crate::error::{Context as _, Failure, Outcome};

static ARRIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(|| Arc::new(AtomicUsize::new(0)));
static HUNG_UP: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));
static SHIELDED: AtomicBool = AtomicBool::new(false);

/// Installs the handlers; called once, at the start of the program.
///
/// # Errors
/// The kernel refuses a handler.
pub fn install() -> Outcome<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_usize(signal, Arc::clone(&ARRIVED), usize::try_from(signal).unwrap_or(0))
            .context(|| format!("cannot handle signal {signal}"))?;
    }
    // A terminal that goes away must not halt a run. A handler, unlike "ignore", is not inherited by children.
    signal_hook::flag::register(SIGHUP, Arc::clone(&HUNG_UP))
        .context(|| "cannot handle SIGHUP".to_owned())?;
    Ok(())
}

/// Returns the signal that requested a halt, if one has arrived.
pub fn arrived() -> Option<i32> {
    match ARRIVED.load(Ordering::SeqCst) {
        0 => None,
        signal => i32::try_from(signal).ok(),
    }
}

/// Returns a stream that becomes readable when a signal requests a halt: for a process that also waits for other
/// events.
///
/// # Errors
/// The kernel refuses a handler.
pub fn wake_up() -> Outcome<UnixStream> {
    let context = || "cannot wait for signals".to_owned();
    let (reader, mut writer) = UnixStream::pair().context(context)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone().context(context)?)
            .context(context)?;
    }
    if arrived().is_some() {
        writer.write_all(b"x").context(context)?;
    }
    Ok(reader)
}

/// Returns whether the terminal that this program was started on has gone away.
pub fn hung_up() -> bool {
    HUNG_UP.load(Ordering::SeqCst)
}

/// Fails if a halt was requested, which ends the current work.
///
/// # Errors
/// The interruption.
pub fn check() -> Outcome<()> {
    match arrived() {
        Some(signal) if !SHIELDED.load(Ordering::SeqCst) => Err(Failure::interrupted(signal)),
        _ => Ok(()),
    }
}

/// Does `work` without being interrupted: for the return to a known state after a failure.
pub fn shielded<T>(work: impl FnOnce() -> T) -> T {
    let before = SHIELDED.swap(true, Ordering::SeqCst);
    let result = work();
    SHIELDED.store(before, Ordering::SeqCst);
    result
}
