//! Pseudorandom numbers (xorshift), so that a failure can be repeated.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the seed comes from clock and environment"
)]

use std::io::Write as _;
use std::time::Duration;

/// Returns whether a test tries everything, which takes long.
pub fn long() -> bool {
    std::env::var_os("LADYLINUX_REFRESH_LONG").is_some()
}

/// Prints a line past the test runner, which keeps the output of passing tests.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A source of numbers.
pub struct Dice(u64);

impl Dice {
    /// Begins with `LADYLINUX_REFRESH_SEED` if that is set; otherwise always with the same number, or in long tests
    /// with another one each time.
    pub fn from_environment() -> Self {
        let seed = std::env::var("LADYLINUX_REFRESH_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let other = if long() { u64::from(now.subsec_nanos()) | 1 } else { 0x1ad1_1e5e_ed00_0001 };
        let seed = seed.unwrap_or(other);
        print_line(&format!("random instants: LADYLINUX_REFRESH_SEED={seed}"));
        Self(seed.max(1))
    }

    /// Other dice, for a second thread.
    pub fn another(&mut self) -> Self {
        Self(self.below(u64::MAX).max(1))
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    /// A time shorter than `limit`.
    pub fn shorter_than(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).unwrap()))
    }
}
