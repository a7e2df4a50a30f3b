//! The connection to the system bus: calls that wait for their replies, and the ends of jobs that arrive meanwhile.
//!
//! Source: the D-Bus Specification (messages, the mechanism EXTERNAL, descriptors). One socket serves the process. A
//! call sends its message and reads until the reply arrives, on the calling thread. No other thread and no timer is
//! needed, which costs a fraction of a connection with an asynchronous runtime. Simultaneous calls of several threads
//! take turns.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zvariant::serialized::Context;
use zvariant::{DynamicType, NATIVE_ENDIAN, OwnedObjectPath, Type};

use super::message::{self, Call, Kind, Message};
use refresh_system::clock;
use refresh_system::error::{Context as _, Failure, Outcome};

/// The socket of the system bus.
const SOCKET: &str = "/run/dbus/system_bus_socket";
/// The bus itself: its name, which is also that of its interface.
const BUS: &str = "org.freedesktop.DBus";
const BUS_OBJECT: &str = "/org/freedesktop/DBus";
/// How long one call may take. Jobs are awaited by their signals, not by calls.
const CALL: Duration = Duration::from_secs(30);
/// How many descriptors one message can have at most.
const DESCRIPTORS: usize = 8;
/// How many bytes are read at once. The properties of a unit have some 15,000.
const READ: usize = 32 << 10;
/// The signal with which systemd reports the end of a job.
pub(super) const JOB_REMOVED: &str = "JobRemoved";

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum CallError {
    /// It was refused: the name of the error, and its text.
    Refused { name: String, text: Option<String> },
    /// It could not be sent, or its reply could not be read.
    Failed(Failure),
}

/// How many ends of jobs are kept from connections other than systemd's last known one.
const FROM_OTHERS: usize = 64;

/// The end of a job.
#[derive(Debug)]
struct JobEnd {
    /// The connection that reports it. systemd has another one after `daemon-reexec`, and others may send the same
    /// signal.
    sender: String,
    job: OwnedObjectPath,
    /// How it ended, as systemd names it.
    result: String,
}

/// A connection to the system bus.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    /// The name on the bus whose owner's signals count.
    peer: &'static str,
    is_lost: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    serial: u32,
    /// Bytes that were read and are not a complete message yet.
    rest: Vec<u8>,
    /// The connection that owned the name of the peer at the last call.
    peer: String,
    /// How many callers wait for the ends of jobs.
    listeners: usize,
    /// The ends that no caller has taken yet.
    ended: Vec<JobEnd>,
}

impl Connection {
    /// Connects to the system bus as the effective user of this process. Only signals from `peer` count.
    ///
    /// # Errors
    /// The bus does not exist, or it refuses the user.
    pub(super) fn open(peer: &'static str) -> Outcome<Self> {
        let stream = UnixStream::connect(SOCKET).context(|| format!("cannot connect to {SOCKET}"))?;
        Self::begin(stream, peer)
    }

    fn begin(mut stream: UnixStream, peer: &'static str) -> Outcome<Self> {
        let context = || "the system bus does not accept this process".to_owned();
        stream.set_read_timeout(Some(CALL)).context(context)?;
        stream.set_write_timeout(Some(CALL)).context(context)?;
        let uid = hex::encode(rustix::process::geteuid().as_raw().to_string());
        let words = format!("\0AUTH EXTERNAL {uid}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n");
        stream.write_all(words.as_bytes()).context(context)?;
        let connection =
            Self { stream, peer, is_lost: AtomicBool::new(false), state: Mutex::new(State::default()) };
        let mut state = connection.state();
        for expected in ["OK ", "AGREE_UNIX_FD"] {
            let line = connection.line(&mut state).context(context)?;
            if !line.starts_with(expected) {
                return Err(Failure::new(context()).because(Failure::new(format!("it answers {line:?}"))));
            }
        }
        drop(state);
        match connection.call::<_, String>(&Call::new(BUS, BUS_OBJECT, BUS, "Hello"), &()) {
            Ok(_) => Ok(connection),
            Err(CallError::Failed(failure)) => Err(Failure::new(context()).because(failure)),
            Err(CallError::Refused { name, text }) => {
                Err(Failure::new(context()).because(Failure::new(text.unwrap_or(name))))
            }
        }
    }

    /// Returns whether the connection was lost; it is not restored automatically.
    pub(super) fn is_lost(&self) -> bool {
        let mut watched = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let is_closed = matches!(poll(&mut watched, Some(&Timespec::default())), Ok(1..));
        is_closed || self.is_lost.load(Ordering::Relaxed)
    }

    /// Calls a method and returns its result.
    pub(super) fn call<B, R>(&self, call: &Call<'_>, body: &B) -> Result<R, CallError>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        let mut state = self.state();
        let end = clock::monotonic() + CALL;
        // The bus drops replies to a connection whose queue is full, and every user can send messages to it.
        self.read_all(&mut state, end).map_err(CallError::Failed)?;
        let serial = self.send(&mut state, call, body, true).map_err(CallError::Failed)?;
        loop {
            let message = self.receive(&mut state).map_err(CallError::Failed)?;
            if !message.is_reply_to(serial) {
                state.file(&message);
                if clock::monotonic() > end {
                    return Err(CallError::Failed(no_answer()));
                }
                continue;
            }
            if call.destination == self.peer {
                state.peer.clone_from(&message.sender);
            }
            if message.kind == Kind::Error {
                let text = message.body::<String>().ok();
                return Err(CallError::Refused { name: message.error_name, text });
            }
            return message.body().map_err(CallError::Failed);
        }
    }

    /// Calls a method and does not wait for its result.
    pub(super) fn order<B: Serialize + DynamicType>(&self, call: &Call<'_>, body: &B) -> Outcome<()> {
        self.send(&mut self.state(), call, body, false).map(drop)
    }

    /// Subscribes to the signals that match `rule`, which are ends of jobs.
    pub(super) fn listen(&self, rule: &str) -> Result<(), CallError> {
        self.state().listeners += 1;
        let added = self.call(&Call::new(BUS, BUS_OBJECT, BUS, "AddMatch"), &(rule,));
        if added.is_err() {
            self.state().forget_listener();
        }
        added
    }

    /// Undoes [`Self::listen`].
    pub(super) fn ignore(&self, rule: &str) {
        self.state().forget_listener();
        let _ = self.order(&Call::new(BUS, BUS_OBJECT, BUS, "RemoveMatch"), &(rule,));
    }

    /// Waits until the job at `path` has ended, until `end` at most; returns systemd's name for how it ended.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) fn await_job(&self, path: &OwnedObjectPath, end: Instant) -> Outcome<Option<String>> {
        loop {
            let left = end.saturating_duration_since(clock::monotonic());
            let mut state = self.state();
            self.read_all(&mut state, end)?;
            let place = state.ended.iter().position(|end| end.job == *path && end.sender == state.peer);
            if let Some(place) = place {
                return Ok(Some(state.ended.swap_remove(place).result));
            }
            drop(state);
            if left.is_zero() {
                return Ok(None);
            }
            // Another thread with a call may read the signal meanwhile.
            self.has_input(left.min(Duration::from_millis(50)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_input(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap_or_default();
        matches!(poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&limit)), Ok(1..))
    }

    /// Reads the messages that have arrived, until `end` at most.
    fn read_all(&self, state: &mut State, end: Instant) -> Outcome<()> {
        while state.has_message() || self.has_input(Duration::ZERO) {
            let message = self.receive(state)?;
            state.file(&message);
            if clock::monotonic() > end {
                break;
            }
        }
        Ok(())
    }

    /// Sends a message and returns its number.
    fn send<B: Serialize + DynamicType>(
        &self,
        state: &mut State,
        call: &Call<'_>,
        body: &B,
        wants_reply: bool,
    ) -> Outcome<u32> {
        let context = || format!("cannot call {} over D-Bus", call.member);
        let data = zvariant::to_bytes(Context::new_dbus(NATIVE_ENDIAN, 0), body).context(context)?;
        let signature = body.signature().to_string_no_parens();
        state.serial = state.serial.checked_add(1).unwrap_or(1);
        let bytes = message::encode(call, state.serial, wants_reply, &signature, &data).context(context)?;
        let descriptors: Vec<BorrowedFd<'_>> = data.fds().iter().map(AsFd::as_fd).collect();
        let sent = send_all(&self.stream, &bytes, &descriptors);
        if sent.is_err() {
            self.is_lost.store(true, Ordering::Relaxed);
        }
        sent.context(context).map(|()| state.serial)
    }

    /// Reads the next message. A message with unknown fields is ignored: the expected messages do not have them, and
    /// other senders may.
    fn receive(&self, state: &mut State) -> Outcome<Message> {
        loop {
            match message::length(&state.rest) {
                Ok(Some(length)) if state.rest.len() >= length => {
                    let rest = state.rest.split_off(length);
                    if let Ok(message) = Message::decode(std::mem::replace(&mut state.rest, rest)) {
                        return Ok(message);
                    }
                }
                Ok(_) => self.fill(state)?,
                Err(failure) => {
                    self.is_lost.store(true, Ordering::Relaxed);
                    return Err(failure);
                }
            }
        }
    }

    /// Reads a line of the conversation before the first message.
    fn line(&self, state: &mut State) -> Outcome<String> {
        loop {
            if let Some(end) = state.rest.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = state.rest.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill(state)?;
        }
    }

    /// Waits for bytes and reads them.
    fn fill(&self, state: &mut State) -> Outcome<()> {
        let start = state.rest.len();
        state.rest.resize(start + READ, 0);
        let read = loop {
            match (&self.stream).read(&mut state.rest[start..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        state.rest.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(1..) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(no_answer()),
            Ok(_) => {
                self.is_lost.store(true, Ordering::Relaxed);
                Err(Failure::new("the connection to systemd was lost"))
            }
            Err(error) => {
                self.is_lost.store(true, Ordering::Relaxed);
                Err(Failure::new("the connection to systemd was lost").because(error))
            }
        }
    }
}

impl State {
    fn has_message(&self) -> bool {
        matches!(message::length(&self.rest), Ok(Some(length)) if self.rest.len() >= length)
    }

    /// Keeps the end of a job while a caller waits for one. Any other message is a late reply.
    fn file(&mut self, message: &Message) {
        if self.listeners == 0 || message.kind != Kind::Signal || message.member != JOB_REMOVED {
            return;
        }
        let from_others = self.ended.iter().filter(|end| end.sender != self.peer).count();
        if message.sender != self.peer && from_others >= FROM_OTHERS {
            return;
        }
        // A signal of that name with another body is not the end of a job.
        if let Ok((_, job, _, result)) = message.body::<(u32, OwnedObjectPath, String, String)>() {
            self.ended.push(JobEnd { sender: message.sender.clone(), job, result });
        }
    }

    fn forget_listener(&mut self) {
        self.listeners = self.listeners.saturating_sub(1);
        if self.listeners == 0 {
            self.ended.clear();
        }
    }
}

fn no_answer() -> Failure {
    Failure::new(format!("no answer within {} s", CALL.as_secs()))
}

/// Sends all bytes, with the descriptors attached to the first of them.
fn send_all(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(std::io::Error::other("a message has too many descriptors"));
    }
    let sent = loop {
        match sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => break sent?,
        }
    };
    let mut stream = stream;
    stream.write_all(&bytes[sent..])
}

#[cfg(test)]
mod tests;
