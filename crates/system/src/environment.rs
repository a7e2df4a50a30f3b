//! The only module that reads the environment variables of this process.
#![expect(clippy::disallowed_methods, reason = "this module reads the environment")]

use std::path::PathBuf;

use crate::disk::Owner;

/// The directories in which children of the tool find programs, independent of the caller's PATH.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that configure proxies, certificates and package indexes for network tools. uv and git receive them;
/// nothing else of the caller's environment reaches a child.
pub const NETWORK: [&str; 16] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CERT",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_HTTP_TIMEOUT",
];

/// Returns a variable, if it is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable that passes the name of the caller to a run in another process.
const CALLER: &str = "LADYLINUX_REFRESH_CALLER";

/// Returns the name of the user who typed the command of this process, through sudo or not; `None` if no person did (a
/// timer, a request), or if the name is not known. For reports only: a user can set it.
pub fn caller() -> Option<String> {
    let of_session = || {
        let uid = std::fs::read_to_string("/proc/self/loginuid").ok()?.trim().parse().ok()?;
        Owner { uid, gid: 0 }.name()
    };
    variable(CALLER).or_else(|| variable("SUDO_USER")).or_else(of_session)
}

/// Returns the part of the caller's environment that a run in another process needs.
pub fn for_run() -> Vec<(String, String)> {
    let mut known = network();
    known.extend(caller().map(|user| (CALLER.to_owned(), user)));
    if !rustix::process::geteuid().is_root() {
        // Whe caller's PATH must not choose the programs that root runs ([`find_program`]).
        known.extend(variable("PATH").map(|path| ("PATH".to_owned(), path)));
    }
    known
}

/// Returns those of [`NETWORK`] that are set.
pub fn network() -> Vec<(String, String)> {
    NETWORK.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect()
}

/// Finds a program by name: on the caller's PATH first (to find a developer's Python), then on [`SEARCH_PATH`]. Root
/// searches [`SEARCH_PATH`] only: whe caller's PATH must not choose the programs that root runs.
pub fn find_program(name: &str, for_root: bool) -> Option<PathBuf> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return path.is_file().then_some(path);
    }
    let caller = if for_root { String::new() } else { variable("PATH").unwrap_or_default() };
    caller
        .split(':')
        .chain(SEARCH_PATH.split(':'))
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|path| path.is_file())
}
