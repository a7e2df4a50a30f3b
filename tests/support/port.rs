//! Ports for servers of the tests.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::TcpListener;

/// A port without a listener. It is not one of those that the kernel uses for outgoing connections (ip(7): from 32768
/// on): a connection of another test could take it before its server is up.
pub fn free() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(random % 20_000).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
