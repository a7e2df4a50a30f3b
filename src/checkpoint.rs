//! Named points at which the crash tests end the process, as SIGKILL would.
//!
//! Only builds with debug assertions have them; in a release build [`reach`] is empty. `LADYLINUX_REFRESH_KILL_AT=n`
//! kills the process at the `n`th point it reaches (counting from 1); `LADYLINUX_REFRESH_TRACE=FILE` appends the
//! name of each point reached to FILE, so that a test learns what there is to kill.

/// Marks a point at which the process may be killed by a crash test.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_name: &str) {}

/// Marks a point at which the process may be killed by a crash test.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "compiled for tests only; must not depend on settings")]
pub fn reach(name: &str) {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    static REACHED: AtomicU64 = AtomicU64::new(0);
    let count = REACHED.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(path) = std::env::var_os("LADYLINUX_REFRESH_TRACE")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{name}");
    }
    let fatal = std::env::var("LADYLINUX_REFRESH_KILL_AT").ok().and_then(|n| n.parse::<u64>().ok());
    if fatal == Some(count) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
