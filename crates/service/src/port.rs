//! The processes that listen on a TCP port of our own network namespace.
//!
//! Source: `sock_diag(7)`; proc(5), `/proc/net/tcp` and `/proc/net/tcp6`. The holder is named for people; it is not
//! affected.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use std::{fmt, fs};

use rustix::fs::OFlags;

use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::all_pids;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::{clock, interrupt};

use super::free_port::is_free;
use super::listening_sockets::{ListeningSocket, listening_sockets};
use super::port_holder::{PortHolder, held};

/// The kernel's number of the state "listening".
const LISTEN: u8 = 0x0A;
/// The kernel's number of the state "established".
const ESTABLISHED: u8 = 0x01;
const TICK: Duration = Duration::from_millis(3);

/// Finds a process that listens on `port`, on any address; `None` if there is none.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn holder(port: u16) -> Outcome<Option<PortHolder>> {
    holder_but(port, |_| false)
}

/// Finds every process that listens on `port`, on any address, the oldest first: a child shares the sockets of its
/// parent until it executes its program. If sockets listen but no process that holds them can be read, the result is
/// one holder without a process.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn holders(port: u16) -> Outcome<Vec<PortHolder>> {
    if is_free(port) {
        return Ok(Vec::new());
    }
    let listening = listening(port)?;
    let Some(first) = listening.first() else { return Ok(Vec::new()) };
    let inodes: HashSet<u64> = listening.iter().map(|socket| socket.inode).collect();
    let with_socket = all_pids().into_iter().filter(|pid| has_socket(*pid, &inodes));
    let mut processes: Vec<ProcessId> = with_socket.filter_map(ProcessId::of).collect();
    processes.sort_by_key(|process| process.started);
    let found: Vec<PortHolder> =
        processes.into_iter().map(|process| PortHolder::of(process, first.uid)).collect();
    if found.is_empty() {
        let unknown = PortHolder { process: None, command: String::new(), uid: first.uid, unit: None };
        return Ok(vec![unknown]);
    }
    Ok(found)
}

/// Finds a process that listens on `port` and is not `ours`; `None` if there is none, or if it cannot be read.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn stranger(port: u16, ours: impl Fn(ProcessId) -> bool) -> Outcome<Option<PortHolder>> {
    holder_but(port, |holder| holder.process.is_none_or(&ours))
}

/// Finds a process that listens on `port` and is not `allowed`.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn holder_but(port: u16, allowed: impl Fn(&PortHolder) -> bool) -> Outcome<Option<PortHolder>> {
    Ok(holders(port)?.into_iter().find(|holder| !allowed(holder)))
}

/// Returns whether the sockets of `process` that listen on `port` are non-blocking. The flag is the same for all
/// processes that share a socket.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn is_non_blocking(port: u16, process: i32) -> Outcome<bool> {
    let inodes: HashSet<u64> = listening(port)?.iter().map(|socket| socket.inode).collect();
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { return Ok(false) };
    let is_one = |entry: &fs::DirEntry| {
        let link = fs::read_link(entry.path()).unwrap_or_default();
        socket_inode(&link).is_some_and(|inode| inodes.contains(&inode))
    };
    let flags = entries.flatten().filter(is_one).filter_map(|entry| {
        let info = format!("/proc/{process}/fdinfo/{}", entry.file_name().to_str()?);
        flags_in(&fs::read_to_string(info).ok()?)
    });
    Ok(flags.into_iter().any(|flags| flags.contains(OFlags::NONBLOCK)))
}

/// Reads the flags from `/proc/PID/fdinfo/FD` (proc(5)); they are octal.
fn flags_in(info: &str) -> Option<OFlags> {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(flags.trim(), 8).ok().map(OFlags::from_bits_retain)
}

/// Returns whether every connection to `port` has been accepted by a process that has read all its received data.
/// Connections that wait in the listening socket `but` do not count.
///
/// # Errors
/// The kernel's tables cannot be read.
pub(crate) fn is_taken(port: u16, but: u64) -> Outcome<bool> {
    let is_left = |socket: &Socket| match socket.state {
        LISTEN => socket.inode != but && socket.unread > 0,
        _ => socket.inode != 0 && socket.unread > 0,
    };
    Ok(!sockets_on(port)?.iter().any(is_left))
}

/// Waits until only `allowed` processes listen on `port`, at most for `limit`.
///
/// # Errors
/// Another process still listens, named with process and command; or the wait is interrupted.
pub fn await_free(port: u16, limit: Duration, allowed: impl Fn(&PortHolder) -> bool) -> Outcome<()> {
    let end = clock::monotonic() + limit;
    while let Some(holder) = holder_but(port, &allowed)? {
        if clock::monotonic() >= end {
            return Err(held(port, &holder));
        }
        interrupt::check()?;
        clock::pause(TICK)?;
    }
    Ok(())
}

/// An address on which a process accepts connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket in the file system, or an abstract one (its name begins with `@`).
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// Finds the addresses on which `processes` accept connections, in the network of the first process; sorted, each
/// address once.
///
/// # Errors
/// The kernel's tables, or the descriptors of the processes, cannot be read: that requires the rights of root or of
/// their user.
pub fn addresses_of(processes: &[ProcessId]) -> Outcome<Vec<Address>> {
    let Some(first) = processes.first() else { return Ok(Vec::new()) };
    let mut inodes = HashSet::new();
    for process in processes {
        match sockets_of(process.pid) {
            Ok(sockets) => inodes.extend(sockets),
            Err(_) if !process.is_alive() => {}
            Err(error) => {
                return Err(error).context(|| format!("cannot read the sockets of process {}", process.pid));
            }
        }
    }
    let net = format!("/proc/{}/net", first.pid);
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = table_text(&format!("{net}/{table}"))?;
        let ours =
            parse_table(&text).filter(|socket| socket.state == LISTEN && inodes.contains(&socket.inode));
        found.extend(ours.map(|socket| Address::Tcp(socket.local)));
    }
    let unix = table_text(&format!("{net}/unix"))?;
    found.extend(
        parse_unix(&unix).filter(|(inode, _)| inodes.contains(inode)).map(|(_, path)| Address::Unix(path)),
    );
    Ok(found.into_iter().collect())
}

/// Returns whether a process has a separate network namespace.
pub fn has_own_network(process: ProcessId) -> bool {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let theirs = network(&process.pid.to_string());
    theirs.is_some() && theirs != network("self")
}

/// A connection to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Its other end.
    pub from: SocketAddr,
    /// Whether a process has accepted it and has read all received data.
    pub is_read: bool,
}

/// Finds the established connections to `port`, on any address.
///
/// # Errors
/// The kernel's table cannot be read.
pub fn connections(port: u16) -> Outcome<Vec<Connection>> {
    let connection = |socket: Socket| {
        // A connection that no process has accepted yet has no inode.
        let is_read = socket.inode != 0 && socket.unread == 0;
        Some(Connection { from: socket.remote.filter(|_| socket.state == ESTABLISHED)?, is_read })
    };
    Ok(sockets_on(port)?.into_iter().filter_map(connection).collect())
}

fn listening(port: u16) -> Outcome<Vec<ListeningSocket>> {
    if let Some(found) = listening_sockets(port) {
        return Ok(found);
    }
    let listening = sockets_on(port)?.into_iter().filter(|socket| socket.state == LISTEN);
    Ok(listening.map(|socket| ListeningSocket { uid: socket.uid, inode: socket.inode }).collect())
}

/// Returns the TCP sockets with the local port `port`.
fn sockets_on(port: u16) -> Outcome<Vec<Socket>> {
    let mut found = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        found.extend(parse_table(&table_text(table)?).filter(|socket| socket.local.port() == port));
    }
    Ok(found)
}

/// Reads a table of the kernel. A kernel without IPv6 has no second table; a missing table counts as empty.
fn table_text(path: &str) -> Outcome<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.context(|| format!("cannot read {path}")),
    }
}

fn has_socket(pid: i32, inodes: &HashSet<u64>) -> bool {
    sockets_of(pid).is_ok_and(|sockets| sockets.iter().any(|inode| inodes.contains(inode)))
}

/// Returns the inodes of the sockets that a process has open.
fn sockets_of(pid: i32) -> std::io::Result<Vec<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(links.filter_map(|link| socket_inode(&link)).collect())
}

/// Reads the inode from the link text of a descriptor, `socket:[4711]`.
fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// A TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: Option<SocketAddr>,
    state: u8,
    /// The bytes that no process has read yet; for a listening socket, the connections that no process has accepted
    /// yet.
    unread: u64,
    uid: u32,
    inode: u64,
}

/// Reads the kernel's table of TCP sockets.
fn parse_table(table: &str) -> impl Iterator<Item = Socket> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(Socket {
            local: parse_address(fields.get(1)?)?,
            remote: parse_address(fields.get(2)?),
            state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
            unread: u64::from_str_radix(fields.get(4)?.split_once(':')?.1, 16).ok()?,
            uid: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    })
}

/// Reads an address in the notation of the kernel: words of 32 bits in the byte order of this machine, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Reads the listening sockets from the kernel's table of Unix sockets: inode and path.
fn parse_unix(table: &str) -> impl Iterator<Item = (u64, String)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Bit 16 of the flags: it accepts connections.
        let accepts = u64::from_str_radix(fields.get(3)?, 16).ok()? & 0x1_0000 != 0;
        accepts.then_some((fields.get(6)?.parse().ok()?, (*fields.get(7)?).to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F40 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
torn line
";

    #[test]
    fn only_listening_sockets_are_taken_from_the_table_with_their_addresses() {
        let of = |table: &str| -> Vec<(String, u32, u64)> {
            let listening = parse_table(table).filter(|it| it.state == LISTEN);
            listening.map(|it| (it.local.to_string(), it.uid, it.inode)).collect()
        };
        let expected = [("127.0.0.1:8000".to_owned(), 1000, 4711), ("0.0.0.0:80".to_owned(), 0, 4713)];
        assert_eq!(of(TABLE), expected);
        let six = "head\n 0: 00000000000000000000000001000000:1F40 0:0 0A 0:0 0:0 0 7 0 9 1";
        assert_eq!(of(six), [("[::1]:8000".to_owned(), 7, 9)]);
    }

    #[test]
    fn a_connection_is_read_when_a_process_has_taken_it_and_all_that_has_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let from = client.local_addr().unwrap();
        // Another program may use a port of the same number, and the kernel may print a row twice while others change.
        let is_read = || connections(port).unwrap().iter().rfind(|it| it.from == from).map(|it| it.is_read);
        assert_eq!(is_read(), Some(false), "not taken");
        let (mut server, taken_from) = listener.accept().unwrap();
        assert_eq!(taken_from, from);
        assert_eq!(is_read(), Some(true));
        client.write_all(b"x").unwrap();
        assert_eq!(is_read(), Some(false), "not read");
        server.read_exact(&mut [0]).unwrap();
        assert_eq!(is_read(), Some(true));
        drop((client, server));
        assert_eq!(is_read(), None);
    }

    #[test]
    fn the_addresses_of_a_process_are_those_of_its_listening_sockets() {
        let tcp = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let found = addresses_of(&[ProcessId::own()]).unwrap();
        assert!(found.contains(&Address::Tcp(tcp.local_addr().unwrap())), "{found:?}");
        assert!(found.contains(&Address::Unix(path.display().to_string())), "{found:?}");
        assert!(!has_own_network(ProcessId::own()));
    }

    #[test]
    fn whether_a_listening_socket_blocks_is_read_from_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, own) = (listener.local_addr().unwrap().port(), ProcessId::own().pid);
        assert!(!is_non_blocking(port, own).unwrap());
        listener.set_nonblocking(true).unwrap();
        assert!(is_non_blocking(port, own).unwrap());
    }

    #[test]
    fn a_foreign_process_on_the_port_is_named_with_its_pid_and_command() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = holder(port).unwrap().unwrap();
        assert_eq!(holder.process, Some(ProcessId::own()));
        assert!(!holder.command.is_empty());
        let failure = await_free(port, Duration::from_millis(1), |_| false).unwrap_err();
        assert!(failure.summary().contains(&format!("process {}", ProcessId::own().pid)), "{failure}");
        await_free(port, Duration::ZERO, |holder| holder.process == Some(ProcessId::own())).unwrap();
        drop(listener);
        await_free(port, Duration::from_secs(5), |_| false).unwrap();
    }
}
