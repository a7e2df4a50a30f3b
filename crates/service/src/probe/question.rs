//! A question of the health check and its answer: the request over HTTP, and the verdict on what comes back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::tls;
use super::tls::{Tls, TlsConnector};
use super::tls_settings::HTTPS;
use crate::unix_http::UnixConnector;
use refresh_system::error::Outcome;

/// How long one request may take.
pub(crate) const REQUEST: Duration = Duration::from_secs(5);
/// How much of an answer is read where its content counts.
const BODY_LIMIT: u64 = 1 << 20;

/// A probe with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedProbe {
    /// The whole URL; of a socket in the file system `unix:PATH`.
    pub url: String,
    /// The socket in the file system that is asked instead of an address.
    pub socket: Option<AtSocket>,
    /// How TLS is spoken; `None` for plain http.
    pub tls: Option<Tls>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtSocket {
    /// Where it is.
    pub file: PathBuf,
    /// The path of the request.
    pub path: String,
}

/// What one request showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// The addresses that a probe's URL stands for; none for a socket in the file system.
pub fn addresses(probe: &ResolvedProbe) -> Vec<SocketAddr> {
    if probe.socket.is_some() {
        return Vec::new();
    }
    let Ok(uri) = probe.url.parse::<ureq::http::Uri>() else { return Vec::new() };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if probe.tls.is_some() { 443 } else { 80 });
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// Returns what speaks HTTP for the probe.
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
        let connector = TlsConnector::new(tls, addresses(probe), REQUEST)?;
        return Ok(ureq::Agent::with_parts(config, connector, nowhere()));
    }
    Ok(match literal_address(&probe.url) {
        Some(address) => ureq::Agent::with_parts(config, DefaultConnector::default(), KnownAddress(address)),
        None => config.into(),
    })
}

/// An address that is used by nothing: the library resolves one for each request.
fn nowhere() -> KnownAddress {
    KnownAddress(SocketAddr::from(([127, 0, 0, 1], 80)))
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
        // The connector speaks TLS; the library would refuse to.
        None => probe.url.replacen(HTTPS, "http://", 1),
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
pub(crate) const NO_ANSWER: &str = "no answer within";

fn describe(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("{NO_ANSWER} {limit:.1?}"),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            "connection refused".to_owned()
        }
        ureq::Error::Io(error) => tls::in_words(error).unwrap_or_else(|| format!("io: {error}")),
        other => other.to_string(),
    }
}

/// Compares an answer's content with what the probe expects.
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
