//! The listening socket that the service gets with its start (`[service] socket`), and the next one, which a refresh
//! opens beside it before the stop. Both are in one `SO_REUSEPORT` group of the kernel. The newest socket of the group
//! gets every new connection; connections wait there until the next start of the service takes it.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde::{Deserialize, Serialize};

use crate::{port, port_holder};
use refresh_programs::units::listener::Listener;
use refresh_system::clock;
use refresh_system::error::{Context as _, Failure, Outcome};

/// The largest number of waiting connections, as far as the kernel allows it.
const BACKLOG: i32 = 4096;

/// How long the running service must have no unread data before it is stopped. A client that has connected but not sent
/// its request yet does so in this time.
const QUIET: Duration = Duration::from_millis(20);

/// The limit of that wait. The service answers meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// The interval of that check.
const TICK: Duration = Duration::from_millis(2);

/// The socket that a start of the service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SocketRequest {
    /// The supervisor opens it.
    Open(SocketAddr),
    /// It is passed to the supervisor.
    Passed,
}

/// Opens a listening socket of the service.
///
/// # Errors
/// The address cannot be listened on: it does not belong to this machine, or another process than the service uses it.
pub(super) fn open(address: SocketAddr) -> Outcome<OwnedFd> {
    let context = || format!("cannot listen on {address} for the service");
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).context(context)?;
    sockopt::set_socket_reuseaddr(&socket, true).context(context)?;
    sockopt::set_socket_reuseport(&socket, true).context(context)?;
    match bind(&socket, &address).and_then(|()| listen(&socket, BACKLOG)) {
        Ok(()) => {}
        Err(error) => {
            let holder = port::holder(address.port())?;
            return Err(holder.map_or_else(
                || Failure::new(context()).because(error),
                |holder| port_holder::held(address.port(), &holder),
            ));
        }
    }
    // A kernel without this feature distributes new connections over the group, and those of the older socket may be
    // reset.
    if let Some(listener) = Listener::of(socket.as_fd()) {
        let _ = listener.prefer_newest();
    }
    Ok(socket)
}

/// Opens the service's first socket: no other process may have its port.
///
/// # Errors
/// Another process has the port; or the errors of [`open`].
pub(super) fn open_first(address: SocketAddr) -> Outcome<OwnedFd> {
    match port::holder(address.port())? {
        Some(holder) => Err(port_holder::held(address.port(), &holder)),
        None => open(address),
    }
}

/// Waits until the running service has accepted all its connections and read their data, at most for [`PATIENCE`]: a
/// stopped server resets connections with unread data. Connections to `next` no longer belong to it.
pub(super) fn await_taken(number: u16, next: &OwnedFd) {
    let Ok(inode) = rustix::fs::fstat(next).map(|stat| stat.st_ino) else { return };
    let start = clock::monotonic();
    let mut quiet_since = start;
    let has_passed = |since: Instant, span: Duration| clock::monotonic().duration_since(since) >= span;
    while !has_passed(quiet_since, QUIET) && !has_passed(start, PATIENCE) {
        clock::sleep_uninterrupted(TICK);
        match port::is_taken(number, inode) {
            Ok(true) => {}
            Ok(false) => quiet_since = clock::monotonic(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn first() -> (TcpListener, SocketAddr) {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        (TcpListener::from(open_first(free).unwrap()), free)
    }

    fn count(listener: &TcpListener) -> usize {
        listener.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[test]
    fn every_new_connection_waits_in_the_newest_socket_and_survives_the_older_one() {
        let (mut running, address) = first();
        for _ in 0..4 {
            let old: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
            let next = TcpListener::from(open(address).unwrap());
            let new: Vec<_> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
            assert_eq!(count(&running), old.len());
            drop(running);
            let later = TcpStream::connect(address).unwrap();
            assert_eq!(count(&next), new.len() + 1, "{later:?}");
            running = next;
        }
        let next = open(address).unwrap();
        drop(next);
        let _back = TcpStream::connect(address).unwrap();
        assert_eq!(count(&running), 1, "a run that ends before the stop leaves the service its connections");
    }

    #[test]
    fn connections_of_the_running_service_are_awaited_and_those_of_the_next_socket_are_not() {
        let (running, address) = first();
        let untaken = TcpStream::connect(address).unwrap();
        let next = open(address).unwrap();
        let beside = TcpStream::connect(address).unwrap();
        let start = clock::monotonic();
        await_taken(address.port(), &next);
        assert!(start.elapsed() >= PATIENCE, "{untaken:?} is not taken");
        let taken = running.accept().unwrap();
        let start = clock::monotonic();
        await_taken(address.port(), &next);
        assert!(
            (QUIET..PATIENCE).contains(&start.elapsed()),
            "{beside:?} waits for the next start, {taken:?}"
        );
    }

    #[test]
    fn a_port_of_another_process_is_not_shared_with_it() {
        let (_held, address) = first();
        let failure = open_first(address).unwrap_err();
        assert!(
            failure.summary().contains(&format!("port {} is held by process", address.port())),
            "{failure}"
        );
        // A socket that does not share its port refuses the group of the kernel as well.
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = stranger.local_addr().unwrap();
        assert!(open(address).unwrap_err().summary().contains("is held by process"));
    }
}
