//! A request of the health check over HTTP, and the verdict on its answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector as _, DefaultConnector, NextTimeout, TcpConnector};

use super::tls;
use super::tls::{Tls, TlsConnector};
use super::tls_settings::HTTPS;
use crate::unix_http::UnixConnector;
use refresh_system::error::Outcome;

/// The limit of one request.
pub(crate) const REQUEST: Duration = Duration::from_secs(5);
/// The prefix of the URL of a socket in the file system.
pub(super) const UNIX: &str = "unix:";
/// The largest number of bytes of an answer that are read if its content counts.
const CONTENT: usize = 8 << 20;

/// A probe with all values filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedProbe {
    /// The full URL, without credentials; for a socket in the file system, `unix:PATH`.
    pub url: String,
    /// The credentials of the URL. They are in no message and in no report.
    pub credentials: Option<String>,
    /// The socket in the file system that is used instead of an address.
    pub socket: Option<AtSocket>,
    /// The TLS settings; `None` for plain http.
    pub tls: Option<Tls>,
    /// Header fields of the request.
    pub headers: BTreeMap<String, String>,
    /// The expected status; `None`: any below 500.
    pub status: Option<u16>,
    /// A field of a JSON answer and the value it must have.
    pub json: Option<(String, String)>,
    /// A text that the answer must contain.
    pub body: Option<String>,
    /// The time limit until the first good answer.
    pub deadline: Duration,
    /// How long the service must stay healthy.
    pub settle: Duration,
}

/// A socket in the file system, and the path of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtSocket {
    /// The file of the socket.
    pub file: PathBuf,
    /// The path of the request.
    pub path: String,
}

/// The result of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeResult {
    /// The answer meets the expectations.
    Good {
        /// Its status.
        status: u16,
    },
    /// It does not, or there was no answer.
    Bad {
        /// The problem.
        problem: String,
    },
}

/// Returns the addresses of a probe's URL; an empty list for a socket in the file system.
pub fn addresses(probe: &ResolvedProbe) -> Vec<SocketAddr> {
    if probe.socket.is_some() {
        return Vec::new();
    }
    let Ok(uri) = probe.url.parse::<ureq::http::Uri>() else { return Vec::new() };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if probe.tls.is_some() { 443 } else { 80 });
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// Returns the HTTP client of the probe.
///
/// # Errors
/// The settings of TLS cannot be used.
pub(super) fn agent(probe: &ResolvedProbe) -> Outcome<ureq::Agent> {
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("ladylinux-refresh/", env!("CARGO_PKG_VERSION")))
        .build();
    if let Some(socket) = &probe.socket {
        let connector = UnixConnector { path: socket.file.clone(), limit: REQUEST };
        return Ok(ureq::Agent::with_parts(config, connector, nowhere()));
    }
    if let Some(tls) = &probe.tls {
        let connector = TcpConnector::default().chain(TlsConnector::new(tls)?);
        return Ok(ureq::Agent::with_parts(config, connector, KnownAddresses(addresses(probe))));
    }
    Ok(match literal_address(&probe.url) {
        Some(address) => {
            ureq::Agent::with_parts(config, DefaultConnector::default(), KnownAddresses(vec![address]))
        }
        None => config.into(),
    })
}

/// Returns an unused address: the library resolves one for each request.
fn nowhere() -> KnownAddresses {
    KnownAddresses(vec![SocketAddr::from(([127, 0, 0, 1], 80))])
}

/// Returns the address of a URL whose host is an IP address.
fn literal_address(url: &str) -> Option<SocketAddr> {
    let uri: ureq::http::Uri = url.parse().ok()?;
    let host: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
    Some(SocketAddr::new(host, uri.port_u16().unwrap_or(80)))
}

/// Resolves to known addresses. The library starts a thread for each name that it resolves itself.
#[derive(Debug)]
struct KnownAddresses(Vec<SocketAddr>);

impl Resolver for KnownAddresses {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        // The library has room for so many.
        self.0.iter().take(16).for_each(|address| addresses.push(*address));
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}

/// Returns the URL of the request: the connector handles TLS, which the library would refuse.
fn url_to_ask(probe: &ResolvedProbe) -> String {
    if let Some(socket) = &probe.socket {
        return format!("http://localhost{}", socket.path);
    }
    let url = probe.url.replacen(HTTPS, "http://", 1);
    match &probe.credentials {
        Some(credentials) => url.replacen("://", &format!("://{credentials}@"), 1),
        None => url,
    }
}

pub(super) fn ask_as(agent: &ureq::Agent, probe: &ResolvedProbe, limit: Duration) -> ProbeResult {
    let bad = |problem: String| ProbeResult::Bad { problem };
    let url = url_to_ask(probe);
    let request = agent.get(&url).config().timeout_global(Some(limit)).build();
    let request = probe.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    let response = match request.header("connection", "close").call() {
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
    match content(probe, response.into_body().into_reader()) {
        Err(error) => bad(format!("status {status}, but {}", describe(&error.into(), limit))),
        Ok(bytes) => match content_problem(probe, &bytes) {
            Some(problem) => bad(problem),
            None => ProbeResult::Good { status },
        },
    }
}

/// Reads an answer: all of it for a field of JSON; for a text only up to that text, since an answer may have no end.
fn content(probe: &ResolvedProbe, mut answer: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let text = probe.body.as_ref().filter(|_| probe.json.is_none()).map(String::as_bytes);
    let (mut bytes, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = answer.read(&mut part)?;
        let known = bytes.len();
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
        // The text may begin in the previous part.
        let new = &bytes[known.saturating_sub(text.map_or(0, <[u8]>::len))..];
        let has_come =
            text.is_some_and(|text| text.is_empty() || new.windows(text.len()).any(|it| it == text));
        if count == 0 || has_come {
            return Ok(bytes);
        }
        if bytes.len() > CONTENT {
            let what = if text.is_some() {
                "the first 8 MiB of it do not contain the text"
            } else {
                "it has more than 8 MiB"
            };
            return Err(std::io::Error::other(what));
        }
    }
}

/// The beginning of the problem if there was no answer in time.
pub(crate) const NO_ANSWER: &str = "no answer within";

/// The beginning of the problem if the answer is of another protocol, for instance HTTP/2.
pub(super) const NOT_HTTP: &str = "the answer is not HTTP/1.1";

/// The message of the library for an answer that does not begin with a version of HTTP/1.
const OTHER_VERSION: &str = "http parse fail: invalid HTTP version";

fn describe(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("{NO_ANSWER} {limit:.1?}"),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        // Other faults of an answer, for instance an invalid header, are faults of the application.
        ureq::Error::Protocol(error) if error.to_string() == OTHER_VERSION => NOT_HTTP.to_owned(),
        ureq::Error::Io(error) => tls::in_words(error).unwrap_or_else(|| format!("io: {error}")),
        other => other.to_string(),
    }
}

/// Compares the content of an answer with the expectations of the probe.
pub(super) fn content_problem(probe: &ResolvedProbe, bytes: &[u8]) -> Option<String> {
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
