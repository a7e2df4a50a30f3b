//! The health check: its settings, and the state of its address (RW-5.5).
//!
//! The request goes to the service itself: no proxy is used and no redirect is followed.

pub mod asker;
pub(crate) mod question;
mod tls;
mod tls_settings;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use super::deployed::Deployment;
use super::envfile::EnvFile;
use super::unix_http;
use asker::Asker;
use question::{NOT_HTTP, REQUEST, UNIX};
use refresh_programs::units::Units;
use refresh_settings as settings;
use refresh_system::error::{Failure, Outcome};
use tls_settings::tls_of;

pub use asker::role;
pub use question::{AtSocket, ProbeResult, ResolvedProbe, addresses};
pub use tls::Tls;

/// The problem of an address without a listener.
pub const REFUSED: &str = "connection refused";
/// The variable of the environment file that names the service's port.
pub const PORT: &str = "LADYLINUX_PORT";
/// The port if the environment file names none.
pub const DEFAULT_PORT: u16 = 8000;

/// Returns the port of the service: `LADYLINUX_PORT` of its environment file, else 8000.
///
/// # Errors
/// The value of the variable is not a port.
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

/// Fills in the values that the settings of a probe leave to the installation, and checks that the probe can be sent at
/// all. Without `deployed`, the placeholders of the deployed version stay: that is enough to check the rest.
///
/// # Errors
/// The URL cannot be used.
pub fn resolve(
    probe: &settings::Probe,
    file: &EnvFile,
    deployed: Option<&Deployment>,
) -> Outcome<ResolvedProbe> {
    let url = if let Some(url) = &probe.url {
        url.clone()
    } else {
        format!("http://127.0.0.1:{}{}", service_port(file)?, probe.path())
    };
    let socket =
        url.strip_prefix(UNIX).map(|file| AtSocket { file: file.into(), path: probe.path().to_owned() });
    match &socket {
        Some(socket) => check_socket(&url, &socket.file)?,
        None => check_url(&url)?,
    }
    let (url, credentials) = without_credentials(url);
    let tls = tls_of(&url, probe)?;
    let value = probe.json_value.as_deref().map(|value| fill_in(value, deployed));
    Ok(ResolvedProbe {
        url,
        credentials,
        socket,
        tls,
        headers: probe.headers.clone(),
        status: probe.status,
        json: probe.json_field.clone().zip(value),
        body: probe.body.clone(),
        deadline: probe.deadline,
        settle: probe.settle,
    })
}

/// Returns the request of a probe and the expected answer in words: two probes with the same words differ at most in the
/// address, the values of header fields, and the time limits. Those values and credentials can be secrets; a report
/// shows the path with its query anyway.
pub fn in_words(probe: &settings::Probe) -> String {
    let path = match probe.url.as_deref().filter(|url| !url.starts_with(UNIX)) {
        Some(url) => format!("/{}", url.splitn(4, '/').nth(3).unwrap_or_default()),
        None => probe.path().to_owned(),
    };
    let mut words = vec![format!("GET {path}")];
    let has_credentials = probe.url.as_ref().is_some_and(|url| without_credentials(url.clone()).1.is_some());
    words.extend(has_credentials.then(|| "with credentials".to_owned()));
    words.extend(probe.headers.keys().map(|name| format!("with {name}")));
    words.extend(probe.status.map(|status| format!("status {status}")));
    words.extend(
        probe.json_field.iter().zip(&probe.json_value).map(|(field, value)| format!("{field} = {value:?}")),
    );
    words.extend(probe.body.iter().map(|body| format!("a body with {body:?}")));
    words.join(", ")
}

/// Removes the credentials from a URL.
fn without_credentials(url: String) -> (String, Option<String>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url, None) };
    let host = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    let Some((credentials, _)) = host.rsplit_once('@') else { return (url, None) };
    (format!("{scheme}://{}", &rest[credentials.len() + 1..]), Some(credentials.to_owned()))
}

/// Checks that the host of a probe has an address. A missing one is thus noticed before the stop.
///
/// # Errors
/// The host has no address.
pub fn check_host(probe: &ResolvedProbe) -> Outcome<()> {
    if probe.socket.is_some() || !addresses(probe).is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("the health check cannot ask {}: its host has no address", probe.url))
        .hint("set probe.url, for instance http://127.0.0.1:8000/, or write the name to /etc/hosts"))
}

fn check_socket(url: &str, file: &Path) -> Outcome<()> {
    // The kernel accepts paths of at most 107 bytes (unix(7)).
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
        Some("http" | "https") => {}
        _ => return Err(refuse("it does not start with http:// or https://")),
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

/// The state of the address of a probe, before anything is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// The answer meets the expectations.
    Good,
    /// A process accepts the connection, and gives no answer, or one that reports an error of the service itself.
    Unwell {
        /// The problem.
        problem: String,
    },
    /// A service answers, but not as the probe expects. It may refuse the host of the request, its rights, or http.
    Unexpected {
        /// The problem.
        problem: String,
    },
    /// The listener uses TLS, and the probe does not.
    Tls,
    /// The listener answers without TLS, and the probe uses TLS.
    Plain,
    /// The probe does not accept the certificate.
    Untrusted {
        /// The problem.
        problem: String,
    },
    /// No process accepts connections there.
    NoListener {
        /// The error of the kernel.
        problem: String,
    },
}

/// Connects to the address of the probe and sends nothing. Returns the address that accepts connections; `None` for a
/// socket in the file system.
///
/// # Errors
/// No process accepts connections there; the error of the kernel.
pub fn connect(probe: &ResolvedProbe) -> Result<Option<SocketAddr>, String> {
    if let Some(socket) = &probe.socket {
        return unix_http::open(&socket.file, REQUEST).map(|_| None).map_err(|error| error.to_string());
    }
    let mut problem = "its host has no address".to_owned();
    for address in addresses(probe) {
        match TcpStream::connect_timeout(&address, REQUEST) {
            Ok(_) => return Ok(Some(address)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                REFUSED.clone_into(&mut problem);
            }
            Err(error) => problem = error.to_string(),
        }
    }
    Err(problem)
}

/// Sends one request, and distinguishes an address without a listener from one with a bad answer.
///
/// # Errors
/// The probe cannot be sent at all.
pub fn reach(probe: &ResolvedProbe, units: &Units) -> Outcome<Reach> {
    let address = match connect(probe) {
        Ok(Some(address)) => address,
        Ok(None) => return answer(probe, units),
        Err(problem) => return Ok(Reach::NoListener { problem }),
    };
    match answer(probe, units)? {
        Reach::Unwell { .. } | Reach::Unexpected { .. } if probe.tls.is_none() && speaks_tls(address) => {
            Ok(Reach::Tls)
        }
        other => Ok(other),
    }
}

fn answer(probe: &ResolvedProbe, units: &Units) -> Outcome<Reach> {
    let problem = match Asker::new(probe, units)?.ask(REQUEST) {
        ProbeResult::Good { .. } => return Ok(Reach::Good),
        ProbeResult::Bad { problem } => problem,
    };
    if probe.tls.is_some() {
        if problem == tls::PLAIN {
            return Ok(Reach::Plain);
        }
        if problem.starts_with(tls::CERTIFICATE) || problem.starts_with(asker::SETTINGS) {
            return Ok(Reach::Untrusted { problem });
        }
    }
    // A broken service gives no answer, or one with an error. Another protocol stays the same in each version.
    if problem.starts_with(NOT_HTTP) {
        return Ok(Reach::Unexpected { problem });
    }
    let any = ResolvedProbe { status: None, json: None, body: None, ..probe.clone() };
    Ok(match Asker::new(&any, units)?.ask(REQUEST) {
        ProbeResult::Good { .. } => Reach::Unexpected { problem },
        ProbeResult::Bad { .. } => Reach::Unwell { problem },
    })
}

/// Returns whether a server uses TLS: it answers plain text, or the beginning of a handshake, with a TLS record (RFC
/// 8446, 5.1: an alert or a handshake, of a version 3.x). Some servers close the connection on plain text.
pub fn speaks_tls(address: SocketAddr) -> bool {
    let ask = |words: &[u8]| -> std::io::Result<[u8; 2]> {
        let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        stream.write_all(words)?;
        let mut head = [0; 2];
        stream.read_exact(&mut head)?;
        Ok(head)
    };
    matches!(ask(b"GET / HTTP/1.0\r\n\r\n"), Ok([0x15, 3]))
        || matches!(ask(&client_hello()), Ok([0x15 | 0x16, 3]))
}

/// Returns the first message of a TLS 1.2 handshake in its shortest form (RFC 5246, 7.4.1.2). A server that accepts
/// only later versions answers with an alert.
fn client_hello() -> Vec<u8> {
    let (version, random, no_session) = ([3, 3], [0x5a; 32], [0]);
    // ECDHE with RSA and ECDSA, RSA alone; no compression.
    let suites = [0, 6, 0xc0, 0x2f, 0xc0, 0x2b, 0, 0x2f, 1, 0];
    let body = [&version[..], &random, &no_session, &suites].concat();
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or_default();
    let message = [&[1, 0, 0, length(&body)][..], &body].concat();
    [&[0x16, 3, 1, 0, length(&message)][..], &message].concat()
}

fn fill_in(value: &str, deployed: Option<&Deployment>) -> String {
    let Some(deployed) = deployed else { return value.to_owned() };
    value
        .replace("{commit}", deployed.commit.as_str())
        .replace("{branch}", deployed.branch.as_str())
        .replace("{environment}", deployed.environment.as_str())
        // The same in settings of version 0.1.
        .replace("{generation}", deployed.environment.as_str())
}

/// Sends one request.
///
/// # Errors
/// The probe cannot be sent at all.
pub fn probe_once(probe: &ResolvedProbe, units: &Units) -> Outcome<ProbeResult> {
    Ok(Asker::new(probe, units)?.ask(REQUEST))
}

#[cfg(test)]
mod tests;
