//! `ladylinux-refresh`: arguments in, exit code out.
//!
//! Temporary: dispatches the hidden commands that the tests of one room need.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use ladylinux_refresh::service::supervisor;
use ladylinux_refresh::settings::layout::Layout;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [option, root, command] if option == "--root" && command == supervisor::COMMAND => {
            match supervisor::run_supervisor(&Layout::below(root.clone())) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    let _ = writeln!(std::io::stderr(), "{}", failure.chain().join(": "));
                    ExitCode::FAILURE
                }
            }
        }
        _ => ExitCode::from(2),
    }
}
