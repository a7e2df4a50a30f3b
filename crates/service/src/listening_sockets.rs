//! The TCP sockets that listen on a port of our own network namespace, as the kernel reports them over netlink: it
//! searches only the listening sockets. Its table in `/proc/net` also has every connection of the machine. Reading the
//! table takes milliseconds if it is empty, and much longer on a busy server.
//!
//! Source: `sock_diag(7)`, `netlink(7)`.

use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListeningSocket {
    /// The user that owns it.
    pub(crate) uid: u32,
    /// Its inode.
    pub(crate) inode: u64,
}

/// `SOCK_DIAG_BY_FAMILY`: the kind of request, and of each answer to it.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`: a request for all that match.
const ALL: u16 = 0x301;
/// `NLMSG_DONE`: the kind of the last answer.
const DONE: u16 = 3;
/// The bytes of `struct nlmsghdr` and of `struct inet_diag_req_v2`.
const HEAD: usize = 16;
const REQUEST: usize = 56;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// The set with only the state "listening".
const LISTENING: u32 = 1 << 10;
/// The offsets of `idiag_uid` and `idiag_inode` in `struct inet_diag_msg`.
const UID: usize = 64;
const INODE: usize = 68;

/// Returns the sockets that listen on `port`, on any address; `None` if the kernel does not support such requests.
pub(crate) fn listening_sockets(port: u16) -> Option<Vec<ListeningSocket>> {
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        found.extend(of_family(family, port)?);
    }
    Some(found)
}

fn of_family(family: AddressFamily, port: u16) -> Option<Vec<ListeningSocket>> {
    let kernel =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(SOCK_DIAG)).ok()?;
    send(&kernel, &request(u8::try_from(family.as_raw()).ok()?, port), SendFlags::empty()).ok()?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = recv(&kernel, &mut buffer[..], RecvFlags::empty()).ok()?;
        if read_answers(&buffer[..length], &mut found)? {
            return Some(found);
        }
    }
}

/// Returns a request for the listening sockets of a family with the local port `port`.
fn request(family: u8, port: u16) -> Vec<u8> {
    let length = u32::try_from(HEAD + REQUEST).unwrap_or_default();
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(ALL.to_ne_bytes());
    // Sequence number and port of netlink: zero.
    request.extend([0; 8]);
    request.extend([family, TCP, 0, 0]);
    request.extend(LISTENING.to_ne_bytes());
    request.extend(port.to_be_bytes());
    request.resize(HEAD + REQUEST, 0);
    request
}

/// Adds the sockets of a datagram of answers to `found`; returns whether the last one was among them, or `None` if the
/// datagram is not such an answer.
fn read_answers(mut datagram: &[u8], found: &mut Vec<ListeningSocket>) -> Option<bool> {
    while !datagram.is_empty() {
        let length = usize::try_from(word(datagram, 0)?).ok()?;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let answer = datagram.get(HEAD..length)?;
        match kind {
            DONE => return Some(true),
            BY_FAMILY => {
                found.push(ListeningSocket { uid: word(answer, UID)?, inode: word(answer, INODE)?.into() });
            }
            _ => return None,
        }
        // Each begins at a multiple of four bytes.
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(false)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn the_kernel_answers_with_the_listening_sockets_of_a_port_and_no_connection() {
        for address in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((address, 0)) else { continue };
            let local = listener.local_addr().unwrap();
            let _client = TcpStream::connect(local).unwrap();
            let _taken = listener.accept().unwrap();
            let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
            let uid = rustix::process::geteuid().as_raw();
            let found = listening_sockets(local.port()).expect("this kernel answers over netlink");
            let names: Vec<String> =
                found.iter().map(|it| format!("socket:[{}] {}", it.inode, it.uid)).collect();
            assert_eq!(names, [format!("{} {uid}", link.display())], "{address}");
            drop(listener);
            assert_eq!(listening_sockets(local.port()), Some(Vec::new()));
        }
    }

    #[test]
    fn a_foreign_message_is_not_read_as_an_answer() {
        let mut found = Vec::new();
        let refused = [&20_u32.to_ne_bytes()[..], &2_u16.to_ne_bytes(), &[0; 14]].concat();
        assert_eq!(read_answers(&refused, &mut found), None);
        let torn = [&88_u32.to_ne_bytes()[..], &BY_FAMILY.to_ne_bytes(), &[0; 14]].concat();
        assert_eq!(read_answers(&torn, &mut found), None);
        let no_length = [0; 16];
        assert_eq!(read_answers(&no_length, &mut found), None);
        assert_eq!(found, []);
    }
}
