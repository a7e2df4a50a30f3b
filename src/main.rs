//! `ladylinux-refresh`: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    ladylinux_refresh::main()
}
