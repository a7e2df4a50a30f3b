//! Who listens on a TCP port of our own network namespace.
//!
//! Source: proc(5), `/proc/net/tcp` and `/proc/net/tcp6`. The holder is named for people; nothing is done to it.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::time::Duration;

use crate::clock;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::identity::all_pids;
use crate::process::{ProcessId, interrupt};

/// The kernel's number of the state "listening".
const LISTEN: u8 = 0x0A;
const TICK: Duration = Duration::from_millis(3);

/// Whoever listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The process; `None` where its descriptors may not be read (another user's).
    pub process: Option<ProcessId>,
    /// Its command line.
    pub command: String,
    /// The user that the socket belongs to.
    pub uid: u32,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some(process) => write!(f, "process {} ({}) of uid {}", process.pid, self.command, self.uid),
            None => write!(f, "a process of uid {}", self.uid),
        }
    }
}

/// Finds who listens on `port`, on whatever address; `None` where nobody does.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn holder(port: u16) -> Outcome<Option<PortHolder>> {
    let listening = listening(port)?;
    let Some(first) = listening.first() else { return Ok(None) };
    let inodes: HashSet<u64> = listening.iter().map(|socket| socket.inode).collect();
    let process = all_pids().into_iter().find(|pid| has_socket(*pid, &inodes)).and_then(ProcessId::of);
    Ok(Some(PortHolder {
        process,
        command: process.map(ProcessId::command).unwrap_or_default(),
        uid: first.uid,
    }))
}

/// Finds somebody who listens on `port` and is not `ours`; `None` where all who do are, or cannot be looked at.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn stranger(port: u16, ours: impl Fn(ProcessId) -> bool) -> Outcome<Option<PortHolder>> {
    let listening = listening(port)?;
    let Some(first) = listening.first() else { return Ok(None) };
    let inodes: HashSet<u64> = listening.iter().map(|socket| socket.inode).collect();
    let mut holders =
        all_pids().into_iter().filter(|pid| has_socket(*pid, &inodes)).filter_map(ProcessId::of);
    let stranger = holders.find(|process| !ours(*process));
    Ok(stranger.map(|process| PortHolder {
        process: Some(process),
        command: process.command(),
        uid: first.uid,
    }))
}

/// Waits until nobody listens on `port`, at most for `limit`.
///
/// # Errors
/// Somebody still does: named with process and command. Or the wait is interrupted.
pub fn await_free(port: u16, limit: Duration) -> Outcome<()> {
    let end = clock::monotonic() + limit;
    while !listening(port)?.is_empty() {
        if clock::monotonic() >= end {
            return holder(port)?.map_or(Ok(()), |holder| Err(held(port, &holder)));
        }
        interrupt::check()?;
        clock::pause(TICK)?;
    }
    Ok(())
}

/// Tells that somebody else holds the service's port.
pub fn held(port: u16, holder: &PortHolder) -> Failure {
    let failure = Failure::new(format!("port {port} is held by {holder}, which is not the service"));
    match holder.process {
        Some(process) => failure.hint(format!("end process {} if it may be ended", process.pid)),
        None => failure.hint(format!("sudo ss -ltnp 'sport = :{port}'")),
    }
}

fn listening(port: u16) -> Outcome<Vec<Socket>> {
    let mut found = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => found.extend(parse_listening(&text, port)),
            // A kernel without IPv6 has no second table.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(|| format!("cannot read {table}")),
        }
    }
    Ok(found)
}

fn has_socket(pid: i32, inodes: &HashSet<u64>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        socket_inode(&link.to_string_lossy()).is_some_and(|inode| inodes.contains(&inode))
    })
}

/// Reads the inode out of what a descriptor's link says, `socket:[4711]`.
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    uid: u32,
    inode: u64,
}

/// Reads the sockets that listen on `port` out of the kernel's table.
fn parse_listening(table: &str, port: u16) -> Vec<Socket> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local) = fields.get(1)?.rsplit_once(':')?;
            let listens = u8::from_str_radix(fields.get(3)?, 16).ok()? == LISTEN;
            let matches = u16::from_str_radix(local, 16).ok()? == port;
            (listens && matches)
                .then_some(Socket { uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F40 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
torn line
";

    #[test]
    fn only_listening_sockets_of_the_port_are_taken_from_the_table() {
        assert_eq!(parse_listening(TABLE, 8000), [Socket { uid: 1000, inode: 4711 }]);
        assert_eq!(parse_listening(TABLE, 81), []);
        let six = "head\n 0: 00000000000000000000000001000000:1F40 0:0 0A 0:0 0:0 0 7 0 9 1";
        assert_eq!(parse_listening(six, 8000), [Socket { uid: 7, inode: 9 }]);
    }

    #[test]
    fn a_stranger_on_the_port_is_named_with_process_and_command() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = holder(port).unwrap().unwrap();
        assert_eq!(holder.process, Some(ProcessId::own()));
        assert!(!holder.command.is_empty());
        let failure = await_free(port, Duration::from_millis(1)).unwrap_err();
        assert!(failure.summary().contains(&format!("process {}", ProcessId::own().pid)), "{failure}");
        drop(listener);
        await_free(port, Duration::from_secs(5)).unwrap();
    }
}
