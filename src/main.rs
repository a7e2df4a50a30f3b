//! `ladylinux-refresh`: arguments in, exit code out.
fn main() {}
