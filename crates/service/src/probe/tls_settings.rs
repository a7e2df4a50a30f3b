//! The TLS settings of a probe. It reads `probe.ca_file`, which belongs to root, and does not parse it.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;

use super::tls::Tls;
use refresh_settings as settings;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

/// Returns the TLS settings if a URL requires TLS. Without `probe.ca_file` the certificate is not checked. For an
/// address of this machine a check would add nothing, because the connection never leaves the machine. Other addresses
/// are refused.
pub(super) fn tls_of(url: &str, probe: &settings::Probe) -> Outcome<Option<Tls>> {
    if !url.starts_with(HTTPS) {
        return match &probe.ca_file {
            None => Ok(None),
            Some(_) => Err(Failure::new(format!("probe.ca_file is set, and {url} does not use TLS"))
                .hint("set probe.url to an address that begins with https://, or remove probe.ca_file")),
        };
    }
    let host = host_of(url);
    let authorities = probe.ca_file.as_deref().map(read_authorities).transpose()?;
    if authorities.is_none() && !is_on_this_machine(&host) {
        return Err(Failure::new(format!("the health check does not check the certificate of {url}"))
            .because(Failure::new(format!("{host} is not an address of this machine, and probe.ca_file is not set")))
            .hint("set probe.ca_file, for instance /etc/ssl/certs/ca-certificates.crt, or an address of this machine"));
    }
    let named = probe.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let name = named.map_or(host, |(_, value)| host_of(&format!("{HTTPS}{value}")));
    Ok(Some(Tls { name, authorities }))
}

/// The beginning of a URL with TLS.
pub(super) const HTTPS: &str = "https://";
/// The largest size of the file of authorities, in bytes.
const AUTHORITIES: u64 = 8 << 20;

fn read_authorities(file: &Path) -> Outcome<String> {
    let is_root = rustix::process::geteuid().is_root();
    // Many systems have a link there; it is followed, because the file counts.
    let path = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
    let bytes = if is_root {
        disk::read_if_roots(&path, AUTHORITIES)?
    } else {
        disk::read_at_most(&path, AUTHORITIES)?
    };
    let bytes = bytes.ok_or_else(|| {
        let what = if is_root { "does not belong to root" } else { "does not exist" };
        Failure::new(format!("probe.ca_file: {} {what}", file.display()))
            .hint("write the certificates that count to it (PEM), as root")
    })?;
    String::from_utf8(bytes).context(|| format!("probe.ca_file: {} is not text (PEM)", file.display()))
}

/// Returns the host of a URL, an IPv6 address without its brackets.
fn host_of(url: &str) -> String {
    let uri: Option<ureq::http::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(ureq::http::Uri::host).unwrap_or_default();
    host.trim_matches(['[', ']']).to_owned()
}

/// Returns whether all addresses of a host belong to this machine.
fn is_on_this_machine(host: &str) -> bool {
    let addresses: Vec<SocketAddr> = (host, 0).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    // The kernel lets a process bind to the machine's own addresses only.
    let is_own = |address: &SocketAddr| address.ip().is_loopback() || TcpListener::bind(address).is_ok();
    !addresses.is_empty() && addresses.iter().all(is_own)
}
