//! The sockets that systemd passes to a unit, and the report that the unit is ready (`sd_listen_fds(3)`,
//! `sd_notify(3)`).

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};

/// The number of the first passed descriptor.
const FIRST: i32 = 3;

/// Takes the sockets that were passed to this process; an empty list if there are none, or if they were taken before.
///
/// # Errors
/// The number of passed sockets cannot be read.
pub fn listeners() -> Outcome<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let own = std::process::id().to_string();
    if environment::variable("LISTEN_PID").as_deref() != Some(own.as_str())
        || TAKEN.swap(true, Ordering::SeqCst)
    {
        return Ok(Vec::new());
    }
    let count = environment::variable("LISTEN_FDS").unwrap_or_default();
    let count: i32 = count.parse().context(|| format!("LISTEN_FDS={count:?} is no number"))?;
    let mut sockets = Vec::new();
    for number in FIRST..FIRST.saturating_add(count) {
        let link = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
        if !link.to_string_lossy().starts_with("socket:") {
            return Err(Failure::new(format!("descriptor {number} is no socket, while LISTEN_FDS={count}")));
        }
        #[expect(
            unsafe_code,
            reason = "the standard library offers no other way to take a passed descriptor"
        )]
        // SAFETY: the descriptor is open. systemd passes it to this process (LISTEN_PID) to own, it is taken once, and
        // nothing else in this program takes descriptors by number.
        sockets.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(sockets)
}

/// Reports to systemd that this unit is ready, if systemd waits for that.
///
/// # Errors
/// The report cannot be sent.
pub fn report_ready() -> std::io::Result<()> {
    match environment::variable("NOTIFY_SOCKET").filter(|path| path.starts_with('/')) {
        Some(path) => UnixDatagram::unbound()?.send_to(b"READY=1", path).map(drop),
        None => Ok(()),
    }
}
