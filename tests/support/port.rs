//! Ports for servers of the tests.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// The next port to try, counted from [`FIRST`]. Each program of tests starts somewhere else.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
    let random = RandomState::new().build_hasher().finish();
    AtomicU16::new(u16::try_from(random % u64::from(COUNT)).unwrap_or_default())
});

/// A port without a listener. It is not one of those that the kernel uses for outgoing connections (ip(7): from 32768
/// on): a connection of another test could take it before its server is up. No other test of the program gets it, also
/// while its server is down.
pub fn free() -> u16 {
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
