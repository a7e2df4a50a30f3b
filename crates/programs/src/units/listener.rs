//! Listening sockets, and those of their options that keep connections out for a moment. An option counts for every
//! process that has the socket, and until it is undone: it outlives this process.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// The calls of the C library, which every program of this kind has: no crate in use has these options.
#[expect(unsafe_code, reason = "a declaration of two calls")]
mod c {
    use std::os::raw::{c_int, c_void};

    unsafe extern "C" {
        pub(super) fn setsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *const c_void,
            size: u32,
        ) -> c_int;
        pub(super) fn getsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *mut c_void,
            size: *mut u32,
        ) -> c_int;
    }

    /// The level of options of every socket, and three of its options (socket(7)), on x86-64 and ARM.
    pub(super) const SOL_SOCKET: c_int = 1;
    pub(super) const SO_ATTACH_FILTER: c_int = 26;
    pub(super) const SO_DETACH_FILTER: c_int = 27;
    pub(super) const SO_ATTACH_REUSEPORT_CBPF: c_int = 51;
    /// The level of options of TCP, and two of them (tcp(7)).
    pub(super) const IPPROTO_TCP: c_int = 6;
    pub(super) const TCP_DEFER_ACCEPT: c_int = 9;
    pub(super) const TCP_INFO: c_int = 11;
}

/// An instruction of a filter (`struct sock_filter`).
#[repr(C)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

/// A filter (`struct sock_fprog`).
#[repr(C)]
struct Filter {
    length: u16,
    instructions: *const Instruction,
}

/// How long a connection without data is not accepted, in seconds: longer than any filter stays. The kernel rounds to
/// such numbers, and a person would not set this one.
const DEFERRED: i32 = 127;

/// The bit of SYN in the flags of a segment.
const SYN: u32 = 0x02;

/// A TCP socket that listens.
#[derive(Debug, Clone, Copy)]
pub struct Listener<'a>(BorrowedFd<'a>);

impl<'a> Listener<'a> {
    /// Returns a socket as a listener, if it is a TCP socket that listens.
    pub fn of(fd: BorrowedFd<'a>) -> Option<Self> {
        let is_tcp = matches!(sockopt::socket_domain(fd), Ok(AddressFamily::INET | AddressFamily::INET6))
            && sockopt::socket_type(fd) == Ok(SocketType::STREAM);
        (is_tcp && sockopt::socket_acceptconn(fd) == Ok(true)).then_some(Self(fd))
    }

    /// From here on, connections are accepted only with their first data: then none waits in a server that is about to
    /// stop.
    ///
    /// # Errors
    /// The kernel refuses the option.
    pub(crate) fn defer(self) -> io::Result<()> {
        self.set(c::IPPROTO_TCP, c::TCP_DEFER_ACCEPT, &DEFERRED)
    }

    /// Undoes [`Self::defer`]; a value that is not this program's stays.
    ///
    /// # Errors
    /// The kernel refuses the option.
    pub(crate) fn defer_no_more(self) -> io::Result<()> {
        let mut value = [0_i32; 1];
        self.get(c::IPPROTO_TCP, c::TCP_DEFER_ACCEPT, &mut value)?;
        if value[0] != DEFERRED {
            return Ok(());
        }
        self.set(c::IPPROTO_TCP, c::TCP_DEFER_ACCEPT, &0_i32)
    }

    /// Drops data that clients send on incomplete connections: these are not accepted, and the clients send the data
    /// again. Connections that are complete are not affected.
    ///
    /// The kernel applies the filter of a listening socket also to segments of connections that are being made. A
    /// connection that is made at the same instant would keep the filter, so segments without data pass: such a
    /// connection has its request, and can get its response.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub(crate) fn filter(self) -> io::Result<()> {
        let filter = Filter { length: 10, instructions: WITHOUT_DATA.as_ptr() };
        self.set(c::SOL_SOCKET, c::SO_ATTACH_FILTER, &filter)
    }

    /// Undoes [`Self::filter`].
    ///
    /// # Errors
    /// The kernel does not remove it.
    pub(crate) fn unfilter(self) -> io::Result<()> {
        match self.set(c::SOL_SOCKET, c::SO_DETACH_FILTER, &0_i32) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes the sockets that share this one's port (`SO_REUSEPORT`) give every new connection to the newest of them.
    ///
    /// The kernel numbers them in the order in which they began to listen. At most two exist, and the program selects
    /// the second; if that is missing, the kernel takes the first.
    ///
    /// # Errors
    /// The kernel refuses the program.
    pub fn prefer_newest(self) -> io::Result<()> {
        let program = Filter { length: 1, instructions: SECOND.as_ptr() };
        self.set(c::SOL_SOCKET, c::SO_ATTACH_REUSEPORT_CBPF, &program)
    }

    /// Returns how many connections wait to be accepted.
    ///
    /// # Errors
    /// The kernel refuses the option.
    pub(crate) fn waiting(self) -> io::Result<u32> {
        // `tcpi_unacked` of `struct tcp_info`, which has this number for a socket that listens (tcp(7),
        // `tcp_get_info`).
        let mut info = [0_u32; 8];
        self.get(c::IPPROTO_TCP, c::TCP_INFO, &mut info)?;
        Ok(info[6])
    }

    fn set<T>(self, level: i32, option: i32, value: &T) -> io::Result<()> {
        let length = u32::try_from(size_of_val(value)).map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "no crate in use has these options")]
        // SAFETY: the pointer and the length are those of `value`, which the kernel only reads; the instructions of a
        // filter live until the call has returned.
        let result = unsafe {
            c::setsockopt(self.0.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn get<T: Copy, const N: usize>(self, level: i32, option: i32, into: &mut [T; N]) -> io::Result<()> {
        let mut length = u32::try_from(size_of_val(into)).map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "no crate in use has these options")]
        // SAFETY: the kernel writes at most `length` bytes to the array, whose elements are integers: every value of
        // them is valid.
        let result = unsafe {
            c::getsockopt(self.0.as_raw_fd(), level, option, into.as_mut_ptr().cast(), &raw mut length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// The program that selects the second socket of a group.
const SECOND: [Instruction; 1] = [step(RETURN, 0, 0, 1)];

/// The filter that passes segments with SYN and those without data (the classic form of bpf(4)). It gets a segment from
/// its TCP header on.
const WITHOUT_DATA: [Instruction; 10] = [
    step(LOAD_BYTE, 0, 0, 13),
    step(JUMP_IF_ANY_BIT, 6, 0, SYN),
    // The upper half of this byte is the length of the header in words of four bytes.
    step(LOAD_BYTE, 0, 0, 12),
    step(SHIFT_RIGHT, 0, 0, 2),
    step(AND, 0, 0, 0x3c),
    step(TO_INDEX, 0, 0, 0),
    step(LOAD_LENGTH, 0, 0, 0),
    step(JUMP_IF_ABOVE_INDEX, 1, 0, 0),
    step(RETURN, 0, 0, u32::MAX),
    step(RETURN, 0, 0, 0),
];

/// `BPF_LD | BPF_B | BPF_ABS`.
const LOAD_BYTE: u16 = 0x30;
/// `BPF_LD | BPF_W | BPF_LEN`.
const LOAD_LENGTH: u16 = 0x80;
/// `BPF_JMP | BPF_JSET | BPF_K`.
const JUMP_IF_ANY_BIT: u16 = 0x45;
/// `BPF_JMP | BPF_JGT | BPF_X`.
const JUMP_IF_ABOVE_INDEX: u16 = 0x2d;
/// `BPF_ALU | BPF_RSH | BPF_K`.
const SHIFT_RIGHT: u16 = 0x74;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_MISC | BPF_TAX`.
const TO_INDEX: u16 = 0x07;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

const fn step(code: u16, if_true: u8, if_false: u8, operand: u32) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::clock;
    use rustix::process::geteuid;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    fn listening() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn client(server: &TcpListener) -> TcpStream {
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"request").unwrap();
        client
    }

    #[test]
    fn a_connection_waits_while_the_filter_is_attached_and_arrives_with_its_data_afterwards() {
        let server = listening();
        let listener = Listener::of(server.as_fd()).unwrap();
        listener.defer().unwrap();
        let mut before = client(&server);
        while listener.waiting().unwrap() == 0 {}
        match listener.filter() {
            // Some kernels allow filters only for root, others for every process.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !geteuid().is_root() => return,
            attached => attached.unwrap(),
        }
        let mut during = client(&server);
        clock::sleep_uninterrupted(Duration::from_millis(100));
        assert_eq!(listener.waiting().unwrap(), 1, "the first has come in, the second has not");
        // A complete connection is not affected, with any amount of data.
        let (mut accepted, _) = server.accept().unwrap();
        before.write_all(&vec![b'x'; 100_000]).unwrap();
        let mut taken = vec![0; 100_007];
        accepted.read_exact(&mut taken).unwrap();
        accepted.write_all(b"response").unwrap();
        let mut answer = [0; 8];
        before.read_exact(&mut answer).unwrap();

        listener.unfilter().unwrap();
        listener.unfilter().unwrap();
        listener.defer_no_more().unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        let mut taken = [0; 7];
        accepted.read_exact(&mut taken).unwrap();
        assert_eq!(&taken, b"request");
        // It has not kept the filter: more data arrives.
        during.write_all(&vec![b'x'; 100_000]).unwrap();
        accepted.read_exact(&mut vec![0; 100_000]).unwrap();
    }

    #[test]
    fn a_connection_without_data_is_not_accepted_until_the_option_is_cleared() {
        let server = listening();
        let listener = Listener::of(server.as_fd()).unwrap();
        listener.defer().unwrap();
        let silent = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        clock::sleep_uninterrupted(Duration::from_millis(50));
        assert_eq!(listener.waiting().unwrap(), 0);
        listener.defer_no_more().unwrap();
        // The kernel sends its segment to the client again after a second.
        let (_accepted, from) = server.accept().unwrap();
        assert_eq!(from, silent.local_addr().unwrap());
        let value = [0_i32; 1];
        let mut read = value;
        listener.get(c::IPPROTO_TCP, c::TCP_DEFER_ACCEPT, &mut read).unwrap();
        assert_eq!(read, value);
        listener.set(c::IPPROTO_TCP, c::TCP_DEFER_ACCEPT, &3_i32).unwrap();
        listener.defer_no_more().unwrap();
        listener.get(c::IPPROTO_TCP, c::TCP_DEFER_ACCEPT, &mut read).unwrap();
        assert_eq!(read, [3], "what a person has set stays");
    }

    #[test]
    fn only_a_tcp_socket_that_listens_is_one() {
        let server = listening();
        let stream = client(&server);
        assert!(Listener::of(stream.as_fd()).is_none());
        let directory = tempfile::tempdir().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        assert!(Listener::of(unix.as_fd()).is_none());
        assert!(Listener::of(server.as_fd()).is_some());
    }
}
