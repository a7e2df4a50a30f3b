//! One request of the health check: its settings, the request over HTTP, and the verdict on the answer (RW-5.5).
//!
//! The request goes to the service itself: no proxy is used and no redirect is followed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::deployed::Deployment;
use super::envfile::EnvFile;
use super::unix_http::{self, UnixConnector};
use refresh_settings as settings;
use refresh_system::error::{Failure, Outcome};

/// The variable of the environment file that names the service's port.
pub const PORT: &str = "LADYLINUX_PORT";
/// The port where the environment file names none.
pub const DEFAULT_PORT: u16 = 8000;
/// How long one request may take.
pub(super) const REQUEST: Duration = Duration::from_secs(5);
/// How much of an answer is read where its content counts.
const BODY_LIMIT: u64 = 1 << 20;

/// A probe with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedProbe {
    /// The whole URL; of a socket in the file system `unix:PATH`.
    pub url: String,
    /// The socket in the file system that is asked instead of an address.
    pub socket: Option<AtSocket>,
    /// Header fields of the request.
    pub headers: BTreeMap<String, String>,
    /// The status to expect; `None`: any below 500.
    pub status: Option<u16>,
    /// A field of a JSON answer and the value it must have.
    pub json: Option<(String, String)>,
    /// A text that the answer must contain.
    pub body: Option<String>,
    /// How long the service may take until it answers well.
    pub deadline: Duration,
    /// How long it must stay good.
    pub settle: Duration,
}

/// A socket in the file system, and what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtSocket {
    /// Where it is.
    pub file: PathBuf,
    /// The path of the request.
    pub path: String,
}

/// What the URL of a socket in the file system begins with.
const UNIX: &str = "unix:";

/// What one request showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeResult {
    /// The answer is as it should be.
    Good {
        /// Its status.
        status: u16,
    },
    /// It is not, or there was none.
    Bad {
        /// What is wrong.
        problem: String,
    },
}

/// Returns the port of the service: `LADYLINUX_PORT` of its environment file, else 8000.
///
/// # Errors
/// The variable does not hold a port.
pub fn service_port(file: &EnvFile) -> Outcome<u16> {
    match file.value(PORT).map(str::trim) {
        None | Some("") => Ok(DEFAULT_PORT),
        Some(text) => match text.parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(Failure::new(format!("{PORT} is {text:?}, which is not a port"))
                .hint("correct /etc/ladylinux/ladylinux.env")),
        },
    }
}

/// Fills in what a probe's settings leave to the installation, and checks that it can be asked at all. Without
/// `deployed` the names of what is going to be deployed stay as they are: enough to check the rest.
///
/// # Errors
/// The URL cannot be asked.
pub fn resolve(
    probe: &settings::Probe,
    file: &EnvFile,
    deployed: Option<&Deployment>,
) -> Outcome<ResolvedProbe> {
    let url = if let Some(url) = &probe.url {
        url.clone()
    } else {
        let slash = if probe.path.starts_with('/') { "" } else { "/" };
        format!("http://127.0.0.1:{}{slash}{}", service_port(file)?, probe.path)
    };
    let socket = url.strip_prefix(UNIX).map(|file| AtSocket { file: file.into(), path: probe.path.clone() });
    match &socket {
        Some(socket) => check_socket(&url, &socket.file)?,
        None => check_url(&url)?,
    }
    let json = probe.json.as_ref().map(|(field, value)| (field.clone(), fill_in(value, deployed)));
    Ok(ResolvedProbe {
        url,
        socket,
        headers: probe.headers.clone(),
        status: probe.status,
        json,
        body: probe.body.clone(),
        deadline: probe.deadline,
        settle: probe.settle,
    })
}

fn check_socket(url: &str, file: &Path) -> Outcome<()> {
    // The kernel takes paths of at most 107 bytes (unix(7)).
    if file.is_absolute() && file.as_os_str().len() <= 107 {
        return Ok(());
    }
    Err(Failure::new(format!("the probe cannot ask {url:?}: it names no absolute path of at most 107 bytes"))
        .hint("set probe.url, for instance unix:/run/ladylinux/api.sock"))
}

fn check_url(url: &str) -> Outcome<()> {
    let refuse = |why: &str| {
        Failure::new(format!("the probe cannot ask {url:?}: {why}"))
            .hint("set probe.url, for instance http://127.0.0.1:8000/")
    };
    let uri: ureq::http::Uri = url.parse().map_err(|error| refuse("it is not a URL").because(error))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(refuse("the health check uses plain http on this machine only")),
        _ => return Err(refuse("it does not start with http://")),
    }
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return Err(refuse("it names no host"));
    };
    let has_port = !authority.as_str().ends_with(authority.host());
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(refuse("its port is none"));
    }
    Ok(())
}

/// What is found where a probe asks, before anything is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// The answer is as it should be.
    Good,
    /// A process takes the connection, and the answer is not as it should be.
    Unwell {
        /// What is wrong.
        problem: String,
    },
    /// A service answers, and refuses the question itself: the host that it names, its rights, or http.
    Mistaken {
        /// What is wrong.
        problem: String,
    },
    /// What listens there speaks TLS, which the probe does not.
    Tls,
    /// No process takes connections there.
    NoListener {
        /// What the kernel answers.
        problem: String,
    },
}

/// Asks once and separates an address without a listener from one where the answer is bad.
pub fn reach(probe: &ResolvedProbe) -> Reach {
    if let Some(socket) = &probe.socket {
        return match unix_http::open(&socket.file, REQUEST) {
            Ok(_) => answer(probe),
            Err(error) => Reach::NoListener { problem: error.to_string() },
        };
    }
    let addresses = addresses(probe);
    let mut problem = "its host has no address".to_owned();
    let mut connected = None;
    for address in &addresses {
        match TcpStream::connect_timeout(address, REQUEST) {
            Ok(_) => connected = Some(*address),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                "connection refused".clone_into(&mut problem);
            }
            Err(error) => problem = error.to_string(),
        }
    }
    let Some(address) = connected else { return Reach::NoListener { problem } };
    match answer(probe) {
        Reach::Unwell { .. } if speaks_tls(address) => Reach::Tls,
        other => other,
    }
}

fn answer(probe: &ResolvedProbe) -> Reach {
    let problem = match ask(probe, REQUEST) {
        ProbeResult::Good { .. } => return Reach::Good,
        ProbeResult::Bad { problem } => problem,
    };
    let any = ResolvedProbe { status: None, json: None, body: None, ..probe.clone() };
    match ask(&any, REQUEST) {
        ProbeResult::Good { status } if MISTAKEN.contains(&status) => Reach::Mistaken { problem },
        _ => Reach::Unwell { problem },
    }
}

/// The answers to a question that is put in the wrong way, whatever the version of the service (RFC 9110, 15).
const MISTAKEN: [u16; 9] = [301, 302, 307, 308, 400, 401, 403, 421, 426];

/// The addresses that a probe's URL stands for; none for a socket in the file system.
pub fn addresses(probe: &ResolvedProbe) -> Vec<SocketAddr> {
    if probe.socket.is_some() {
        return Vec::new();
    }
    let Ok(uri) = probe.url.parse::<ureq::http::Uri>() else { return Vec::new() };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// Returns whether a server answers plain words with a record of TLS (RFC 8446, 5.1: an alert, of a version 3.x).
fn speaks_tls(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<[u8; 2]> {
        let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        Ok(head)
    };
    matches!(ask(), Ok([0x15, 3]))
}

fn fill_in(value: &str, deployed: Option<&Deployment>) -> String {
    let Some(deployed) = deployed else { return value.to_owned() };
    value
        .replace("{commit}", deployed.commit.as_str())
        .replace("{branch}", deployed.branch.as_str())
        .replace("{generation}", deployed.generation.as_str())
}

/// Asks once.
pub fn probe_once(probe: &ResolvedProbe) -> ProbeResult {
    ask(probe, REQUEST)
}

fn ask(probe: &ResolvedProbe, limit: Duration) -> ProbeResult {
    ask_as(&agent(probe), probe, limit)
}

/// Returns what speaks HTTP for the probe.
pub(super) fn agent(probe: &ResolvedProbe) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("ladylinux-refresh/", env!("CARGO_PKG_VERSION")))
        .build();
    if let Some(socket) = &probe.socket {
        let connector = UnixConnector { path: socket.file.clone(), limit: REQUEST };
        // The address is used by nothing: the library resolves one for each request.
        let nowhere = KnownAddress(SocketAddr::from(([127, 0, 0, 1], 80)));
        return ureq::Agent::with_parts(config, connector, nowhere);
    }
    match literal_address(&probe.url) {
        Some(address) => ureq::Agent::with_parts(config, DefaultConnector::default(), KnownAddress(address)),
        None => config.into(),
    }
}

/// Returns the address of a URL whose host is an IP address.
fn literal_address(url: &str) -> Option<SocketAddr> {
    let uri: ureq::http::Uri = url.parse().ok()?;
    let host: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(host, uri.port_u16().unwrap_or(80)))
}

/// Names an address that is known. The library starts a thread for each name that it resolves.
#[derive(Debug)]
struct KnownAddress(SocketAddr);

impl Resolver for KnownAddress {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

pub(super) fn ask_as(agent: &ureq::Agent, probe: &ResolvedProbe, limit: Duration) -> ProbeResult {
    let bad = |problem: String| ProbeResult::Bad { problem };
    let url = match &probe.socket {
        Some(socket) => format!("http://localhost{}", socket.path),
        None => probe.url.clone(),
    };
    let request = agent.get(&url).config().timeout_global(Some(limit)).build();
    let request = probe.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    let mut response = match request.header("connection", "close").call() {
        Ok(response) => response,
        Err(error) => return bad(describe(&error, limit)),
    };
    let status = response.status().as_u16();
    match probe.status {
        Some(expected) if status != expected => return bad(format!("status {status} instead of {expected}")),
        None if status >= 500 => return bad(format!("status {status}")),
        _ => {}
    }
    if probe.json.is_none() && probe.body.is_none() {
        return ProbeResult::Good { status };
    }
    let bytes = match response.body_mut().with_config().limit(BODY_LIMIT).read_to_vec() {
        Ok(bytes) => bytes,
        Err(error) => return bad(format!("status {status}, but {}", describe(&error, limit))),
    };
    match content_problem(probe, &bytes) {
        Some(problem) => bad(problem),
        None => ProbeResult::Good { status },
    }
}

/// What the problem begins with where nothing was answered in time.
pub(super) const NO_ANSWER: &str = "no answer within";

fn describe(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("{NO_ANSWER} {limit:.1?}"),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        other => other.to_string(),
    }
}

/// Compares an answer's content with what the probe expects.
fn content_problem(probe: &ResolvedProbe, bytes: &[u8]) -> Option<String> {
    if let Some(text) = &probe.body
        && !String::from_utf8_lossy(bytes).contains(text)
    {
        return Some(format!("the answer does not contain {text:?}"));
    }
    let (path, expected) = probe.json.as_ref()?;
    let Ok(answer) = serde_json::from_slice::<Value>(bytes) else {
        return Some(format!("the answer is not JSON, and its field {path} was to be {expected:?}"));
    };
    let Some(found) = field(&answer, path) else {
        return Some(format!("the answer has no field {path}"));
    };
    let text = match found {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (text != *expected).then(|| format!("the field {path} is {found} instead of {expected:?}"))
}

fn field<'a>(answer: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(answer, |value, key| match value {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        other => other.get(key),
    })
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { status } => write!(f, "healthy (status {status})"),
            Self::Bad { problem } => f.write_str(problem),
        }
    }
}

#[cfg(test)]
mod tests;
