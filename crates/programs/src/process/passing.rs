//! Passes a socket from one process of this program to another (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Sends `socket`. Returns the sender's end and the receiver's end; both transfer bytes in either direction.
///
/// # Errors
/// The kernel refuses.
pub(super) fn send(socket: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    let descriptors = [socket.as_fd()];
    passed.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&ours, &[IoSlice::new(b"s")], &mut passed, SendFlags::empty())?;
    Ok((ours.into(), theirs.into()))
}

/// Receives the socket that has been sent; children do not inherit it.
///
/// # Errors
/// No socket has been sent.
pub fn receive(end: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut passed = RecvAncillaryBuffer::new(&mut space);
    recvmsg(end, &mut [IoSliceMut::new(&mut [0])], &mut passed, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = passed.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let first = descriptors.next().and_then(|mut descriptors| descriptors.next());
    first.ok_or_else(|| io::Error::other("no socket has been passed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_passed_socket_is_the_same_one_and_transfers_bytes_in_both_directions() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = send(&listener.into()).unwrap();
        let passed = TcpListener::from(receive(&theirs).unwrap());
        assert_eq!(passed.local_addr().unwrap(), address);
        rustix::io::write(&theirs, b"answer").unwrap();
        let mut answer = [0; 8];
        assert_eq!(rustix::io::read(&ours, &mut answer).unwrap(), 6);
        let (_ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        assert!(receive(&theirs).is_err(), "nothing has been sent");
    }
}
