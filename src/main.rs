//! `ladylinux-refresh`: arguments in, exit code out.
use std::io::{Read as _, Write as _};

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let _ = ladylinux_refresh::process::interrupt::install();
    match arguments.get(1).map(String::as_str) {
        Some("as-owner") => {
            let mut request = Vec::new();
            let _ = std::io::stdin().read_to_end(&mut request);
            let operation = arguments.get(2).map_or("", String::as_str);
            let answer = ladylinux_refresh::git::worktree::answer(operation, &request).unwrap_or_default();
            let _ = std::io::stdout().write_all(&answer);
        }
        Some("git-credential") => {
            let mut request = String::new();
            let _ = std::io::stdin().read_to_string(&mut request);
            if let [_, _, file, user, operation] = &arguments[..] {
                let answer = ladylinux_refresh::git::remote::answer_credential(
                    operation,
                    &request,
                    file.as_ref(),
                    user,
                );
                let _ = std::io::stdout().write_all(answer.unwrap_or_default().as_bytes());
            }
        }
        _ => {}
    }
    std::process::ExitCode::SUCCESS
}
