//! The server: one thread, which waits for all connections at the same time. A slow client does not delay others. If
//! there are too many connections, the oldest gets its answer before its request is complete, since every answer is the
//! same.
//!
//! It reads from connections and writes to them, with limits on size, time and number; it changes nothing else.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown};

use super::notice::{Notice, refusal};
use super::request::{self, Received, Request};
use refresh_system::clock;
use refresh_system::error::{Context as _, Outcome};

/// The largest size of the header of a request, in bytes.
const HEADER: usize = 8 * 1024;
/// The largest number of open connections.
const CONNECTIONS: usize = 256;
/// The number of connections that are accepted before the open ones continue.
const ACCEPTED: usize = 64;
/// The time limit of a client for its request, and then for receiving the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time limit for both after the request to end the server.
const LAST: Duration = Duration::from_secs(1);
/// The longest interval between services of the connections after that.
const LAST_TICK: Duration = Duration::from_millis(10);
/// The interval of checks of the fence.
const TICK: Duration = Duration::from_millis(500);
/// The number of bytes that are read at once.
const CHUNK: usize = 4096;

/// The server on some listening sockets.
#[derive(Debug)]
pub(super) struct Server {
    listeners: Vec<OwnedFd>,
    fence: PathBuf,
    /// Becomes readable when the server must end.
    wake_up: OwnedFd,
    /// The time limit of a client for its request, and then for receiving the answer.
    patience: Duration,
    /// The open connections, the oldest first.
    open: Vec<Connection>,
}

impl Server {
    /// Returns a server that does not answer yet.
    pub(super) fn new(listeners: Vec<OwnedFd>, fence: &Path, wake_up: OwnedFd) -> Self {
        Self { listeners, fence: fence.to_path_buf(), wake_up, patience: PATIENCE, open: Vec::new() }
    }

    /// Answers until the request to end, or until the fence is down. Accepted connections get their answer; the others
    /// stay in the backlog.
    ///
    /// # Errors
    /// The kernel refuses to wait for connections, or to accept them.
    pub(super) fn run(mut self) -> Outcome<()> {
        for listener in &self.listeners {
            // A program that used it before may have set it to blocking mode.
            rustix::io::ioctl_fionbio(listener, true).context(|| "cannot use a socket".to_owned())?;
        }
        loop {
            let is_asked_to_end = self.wait()?;
            // A fence that cannot be examined counts as standing: see `fence::read`.
            if is_asked_to_end || matches!(self.fence.try_exists(), Ok(false)) {
                break;
            }
            self.accept()?;
            self.serve();
        }
        self.finish()
    }

    /// Waits until a connection can continue, a deadline passes, or it is time to check the fence. Returns `true` on a
    /// request to end the server.
    fn wait(&self) -> Outcome<bool> {
        let now = clock::monotonic();
        let next = self.open.iter().map(|one| one.deadline.saturating_duration_since(now)).min();
        self.poll(&[&self.wake_up], next.map_or(TICK, |next| next.min(TICK)))
    }

    /// Waits at most for `limit`; returns whether `wake_up` is readable.
    fn poll(&self, wake_up: &[&OwnedFd], limit: Duration) -> Outcome<bool> {
        let limit = Timespec::try_from(limit).context(|| "a deadline is too far away".to_owned())?;
        let listeners = wake_up.iter().copied().chain(&self.listeners);
        let mut fds: Vec<PollFd<'_>> = listeners.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        fds.extend(self.open.iter().map(|one| PollFd::new(&one.socket, one.waits_for())));
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(fds.iter().take(wake_up.len()).any(|fd| !fd.revents().is_empty())),
            Err(error) => Err(error).context(|| "cannot wait for connections".to_owned()),
        }
    }

    fn accept(&mut self) -> Outcome<()> {
        for listener in &self.listeners {
            for _ in 0..ACCEPTED {
                match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Ok(socket) => {
                        if self.open.len() >= CONNECTIONS {
                            self.open.remove(0).answer_at_once(&self.fence);
                        }
                        self.open.push(Connection::new(socket, self.patience));
                    }
                    // The client has closed the connection again (accept(2) lists other causes).
                    Err(
                        Errno::CONNABORTED | Errno::INTR | Errno::PROTO | Errno::NETDOWN | Errno::HOSTUNREACH,
                    ) => {}
                    // No connection waits, or a lack of descriptors or memory will end when connections end.
                    Err(Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => break,
                    Err(error) => return Err(error).context(|| "cannot accept connections".to_owned()),
                }
            }
        }
        Ok(())
    }

    /// Lets every connection continue as far as possible.
    fn serve(&mut self) {
        let fence = &self.fence;
        self.open.retain_mut(|one| one.go_on(fence));
    }

    /// Answers the accepted connections, without accepting more.
    fn finish(mut self) -> Outcome<()> {
        let end = clock::monotonic() + LAST;
        self.listeners.clear();
        while !self.open.is_empty() {
            self.serve();
            let is_over = clock::monotonic() >= end;
            for one in self.open.extract_if(.., |_| is_over) {
                one.answer_at_once(&self.fence);
            }
            self.poll(&[], LAST_TICK)?;
        }
        Ok(())
    }
}

/// The progress of a connection.
#[derive(Debug)]
enum State {
    /// The client sends its request: the bytes so far.
    Asking(Vec<u8>),
    /// The client receives the answer: the remaining bytes.
    Taking(Vec<u8>),
    /// The client has its answer, and further data of the client is dropped: closing the connection now could destroy
    /// the answer.
    Leaving,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    state: State,
    patience: Duration,
    deadline: Instant,
}

impl Connection {
    fn new(socket: OwnedFd, patience: Duration) -> Self {
        Self { socket, state: State::Asking(Vec::new()), patience, deadline: clock::monotonic() + patience }
    }

    fn waits_for(&self) -> PollFlags {
        match self.state {
            State::Asking(_) | State::Leaving => PollFlags::IN,
            State::Taking(_) => PollFlags::OUT,
        }
    }

    /// Continues as far as possible without waiting; returns `false` if the connection must be closed.
    fn go_on(&mut self, fence: &Path) -> bool {
        if clock::monotonic() >= self.deadline {
            return self.time_out();
        }
        loop {
            let before = std::mem::discriminant(&self.state);
            let goes_on = match &mut self.state {
                State::Asking(bytes) => match receive(&self.socket, bytes) {
                    Ok(is_over) => {
                        let answer = answer(bytes, is_over, fence);
                        let is_silent = is_over && bytes.is_empty();
                        self.give(answer);
                        !is_silent
                    }
                    Err(Errno::AGAIN | Errno::INTR) => return true,
                    Err(_) => false,
                },
                State::Taking(left) => match send(&self.socket, left, SendFlags::NOSIGNAL) {
                    Ok(count) => {
                        left.drain(..count);
                        if left.is_empty() {
                            let _ = shutdown(&self.socket, Shutdown::Write);
                            self.state = State::Leaving;
                        }
                        true
                    }
                    Err(Errno::AGAIN | Errno::INTR) => return true,
                    Err(_) => false,
                },
                State::Leaving => match receive(&self.socket, &mut Vec::new()) {
                    Ok(is_over) => !is_over,
                    Err(Errno::AGAIN | Errno::INTR) => return true,
                    Err(_) => false,
                },
            };
            // One chunk for each connection in turn.
            if !goes_on || before == std::mem::discriminant(&self.state) {
                return goes_on;
            }
        }
    }

    /// Begins to send an answer, if there is one.
    fn give(&mut self, answer: Option<Vec<u8>>) {
        if let Some(answer) = answer {
            self.state = State::Taking(answer);
            self.deadline = clock::monotonic() + self.patience;
        }
    }

    /// Ends a connection after its time limit, with an answer if the client has begun its request.
    fn time_out(&mut self) -> bool {
        match &self.state {
            State::Asking(bytes) if !bytes.is_empty() => {
                self.give(Some(refusal("408 Request Timeout")));
                true
            }
            _ => false,
        }
    }

    /// Closes the connection. If the client has no answer yet, sends as much of it as the kernel accepts immediately.
    fn answer_at_once(self, fence: &Path) {
        let bytes = match self.state {
            State::Asking(_) => Notice::read(fence).response(Request::UNKNOWN),
            State::Taking(left) => left,
            State::Leaving => return,
        };
        let _ = send(&self.socket, &bytes, SendFlags::NOSIGNAL);
        let _ = shutdown(&self.socket, Shutdown::Write);
    }
}

/// Receives a chunk; returns `true` if the client has ended its data.
fn receive(socket: &OwnedFd, bytes: &mut Vec<u8>) -> Result<bool, Errno> {
    let mut chunk = [0; CHUNK];
    let (count, _) = recv(socket, &mut chunk, RecvFlags::empty())?;
    bytes.extend_from_slice(&chunk[..count]);
    Ok(count == 0)
}

/// Returns the answer to the data of a client; `None` while its request is incomplete.
fn answer(bytes: &[u8], is_over: bool, fence: &Path) -> Option<Vec<u8>> {
    match request::read(bytes) {
        Received::Complete(request) => Some(Notice::read(fence).response(request)),
        Received::Malformed => Some(refusal("400 Bad Request")),
        Received::Part if bytes.len() >= HEADER => Some(refusal("431 Request Header Fields Too Large")),
        Received::Part if is_over => Some(refusal("400 Bad Request")),
        Received::Part => None,
    }
}

#[cfg(test)]
mod tests;
