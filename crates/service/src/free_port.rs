//! Checks whether a TCP port of our own network namespace is free: a socket can be bound to it on all addresses at
//! once. That takes microseconds. The kernel's table of sockets takes milliseconds to read, even if it is almost empty.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// Returns whether no process listens on `port`, on any address. `false` also if that cannot be determined: a port
/// below 1024 requires `CAP_NET_BIND_SERVICE`.
pub(crate) fn is_free(port: u16) -> bool {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match open(AddressFamily::INET6) {
        // One socket for both families.
        Ok(socket) => sockopt::set_ipv6_v6only(&socket, false).and_then(|()| bind(&socket, &v6)).is_ok(),
        Err(_) => open(AddressFamily::INET).and_then(|socket| bind(&socket, &v4)).is_ok(),
    }
}

/// Opens a socket whose bind fails only because of a listening socket, not because of closing connections.
fn open(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_port_is_free_unless_a_process_listens_on_any_of_its_addresses() {
        for address in ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"] {
            let Ok(listener) = TcpListener::bind((address, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(!is_free(port), "{address}");
            drop(listener);
            assert!(is_free(port), "{address}");
        }
    }

    #[test]
    fn connections_of_a_listener_that_is_gone_do_not_keep_its_port() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"x").unwrap();
        drop(listener);
        client.read_exact(&mut [0]).unwrap();
        assert!(is_free(port), "an established connection");
        // The side that closes first keeps the port in TIME_WAIT.
        drop(server);
        drop(client);
        assert!(is_free(port), "a closed connection");
    }
}
