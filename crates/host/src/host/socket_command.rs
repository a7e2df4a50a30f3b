//! The command of a service that gets its listening socket as a descriptor instead of opening a port, for servers with
//! a known option for that. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use refresh_service::probe::{DEFAULT_PORT, PORT};
use refresh_system::error::{Failure, Outcome};

/// The first descriptor that systemd passes (`sd_listen_fds(3)`).
const FIRST: u32 = 3;

/// A server whose options are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Uvicorn,
    Gunicorn,
    Hypercorn,
}

/// A command that gets its listening socket as a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FdForm {
    /// Its words, before systemd expands variables.
    pub(super) words: Vec<String>,
    /// The address of the original command.
    pub(super) address: SocketAddr,
}

/// Returns the form of a command that gets its listening socket as a descriptor. `port` is the port of the service.
///
/// # Errors
/// The command is not that of a known server, or its address cannot be read from it.
pub(super) fn fd_form(words: &[String], port: u16) -> Outcome<FdForm> {
    let Some((server, first)) = server_of(words) else {
        return Err(Failure::new(format!(
            "the command of the service is not uvicorn, gunicorn or hypercorn: {}",
            words.join(" ")
        ))
        .hint("write a socket unit for it yourself, and have the program take descriptor 3"));
    };
    let (mut kept, mut host, mut listens_on) = (words[..first].to_vec(), None, None);
    let mut rest = words[first..].iter();
    while let Some(word) = rest.next() {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = || {
            attached
                .clone()
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| Failure::new(format!("{name} has no value in the command of the service")))
        };
        match (server, name) {
            (Server::Uvicorn, "--host") => host = Some(filled(&value()?, port)?),
            (Server::Uvicorn, "--port") => set(&mut listens_on, filled(&value()?, port)?)?,
            (Server::Gunicorn | Server::Hypercorn, "-b" | "--bind") => {
                set(&mut listens_on, filled(&value()?, port)?)?;
            }
            (Server::Uvicorn, "--fd" | "--uds")
            | (Server::Gunicorn | Server::Hypercorn, "-c" | "--config") => {
                return Err(Failure::new(format!(
                    "the command of the service has {name}, so its address cannot be read from it"
                ))
                .hint("write a socket unit for it yourself"));
            }
            _ => kept.push(word.clone()),
        }
    }
    let address = match server {
        Server::Uvicorn => {
            let host = ip(&host.unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string()))?;
            SocketAddr::new(host, number(&listens_on.unwrap_or_else(|| DEFAULT_PORT.to_string()))?)
        }
        Server::Gunicorn | Server::Hypercorn => {
            bound(&listens_on.unwrap_or_else(|| format!("{}:{DEFAULT_PORT}", Ipv4Addr::LOCALHOST)))?
        }
    };
    let option = if server == Server::Uvicorn {
        ["--fd".to_owned(), FIRST.to_string()]
    } else {
        ["--bind".to_owned(), format!("fd://{FIRST}")]
    };
    kept.extend(option);
    Ok(FdForm { words: kept, address })
}

/// Returns the address on which a command of a known server accepts TLS connections; `None` if it does not use TLS. A
/// wildcard address becomes the loopback address. `port` is the port of the service.
pub(super) fn tls_address(words: &[String], port: u16) -> Option<SocketAddr> {
    let (server, first) = server_of(words)?;
    let options = match server {
        Server::Uvicorn => ["--ssl-certfile", "--ssl-keyfile"],
        Server::Gunicorn | Server::Hypercorn => ["--certfile", "--keyfile"],
    };
    let name = |word: &String| word.split('=').next().unwrap_or_default().to_owned();
    if !words[first..].iter().any(|word| options.contains(&name(word).as_str())) {
        return None;
    }
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    // A command that gets a descriptor names no address.
    let mut address = fd_form(words, port).map_or(local, |form| form.address);
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    Some(address)
}

/// Returns the server of a command, and the number of words before its arguments.
fn server_of(words: &[String]) -> Option<(Server, usize)> {
    let named = |name: &str| match name {
        "uvicorn" => Some(Server::Uvicorn),
        "gunicorn" => Some(Server::Gunicorn),
        "hypercorn" => Some(Server::Hypercorn),
        _ => None,
    };
    let program = Path::new(words.first()?).file_name()?.to_str()?;
    if let Some(server) = named(program) {
        return Some((server, 1));
    }
    if !program.starts_with("python") {
        return None;
    }
    let at = words.iter().skip(1).position(|word| !word.starts_with('-') || word == "-m")? + 1;
    (words[at] == "-m").then(|| named(words.get(at + 1)?).map(|server| (server, at + 2)))?
}

fn set(place: &mut Option<String>, value: String) -> Outcome<()> {
    if place.replace(value).is_some() {
        return Err(Failure::new("the command of the service listens at more than one address")
            .hint("write a socket unit for it yourself"));
    }
    Ok(())
}

/// Fills in the port of the service, the only known variable.
fn filled(value: &str, port: u16) -> Outcome<String> {
    let number = port.to_string();
    let value = value.replace(&format!("${{{PORT}}}"), &number).replace(&format!("${PORT}"), &number);
    if value.contains('$') {
        return Err(Failure::new(format!("{value} in the command of the service names an unknown variable"))
            .hint(format!("write the address itself, with ${{{PORT}}} for the port")));
    }
    Ok(value)
}

fn bound(text: &str) -> Outcome<SocketAddr> {
    let Some((host, port)) = text.rsplit_once(':') else { return Err(no_address(text)) };
    Ok(SocketAddr::new(ip(host)?, number(port)?))
}

fn ip(host: &str) -> Outcome<IpAddr> {
    if host == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    host.trim_matches(['[', ']']).parse().map_err(|_| no_address(host))
}

fn number(text: &str) -> Outcome<u16> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| no_address(text))
}

fn no_address(text: &str) -> Failure {
    Failure::new(format!("{text:?} in the command of the service is no address of this machine with a port"))
        .hint("write the address as numbers, for instance 127.0.0.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(command: &str) -> Outcome<(String, String)> {
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        fd_form(&words, 8011).map(|form| (form.words.join(" "), form.address.to_string()))
    }

    #[test]
    fn each_server_gets_its_own_option_and_keeps_the_others() {
        for (command, expected, address) in [
            ("/v/bin/uvicorn api:app", "/v/bin/uvicorn api:app --fd 3", "127.0.0.1:8000"),
            (
                "/v/bin/uvicorn api:app --host 0.0.0.0 --port ${LADYLINUX_PORT} --proxy-headers",
                "/v/bin/uvicorn api:app --proxy-headers --fd 3",
                "0.0.0.0:8011",
            ),
            ("/v/bin/uvicorn --port=8011 --host=:: api:app", "/v/bin/uvicorn api:app --fd 3", "[::]:8011"),
            (
                "/v/bin/python3 -u -m uvicorn api:app --port 8011",
                "/v/bin/python3 -u -m uvicorn api:app --fd 3",
                "127.0.0.1:8011",
            ),
            (
                "/v/bin/gunicorn -b localhost:8011 -w 4 api:app",
                "/v/bin/gunicorn -w 4 api:app --bind fd://3",
                "127.0.0.1:8011",
            ),
            (
                "/v/bin/hypercorn api:app --bind [::1]:8011",
                "/v/bin/hypercorn api:app --bind fd://3",
                "[::1]:8011",
            ),
        ] {
            assert_eq!(form(command).unwrap(), (expected.to_owned(), address.to_owned()), "{command}");
        }
    }

    #[test]
    fn the_options_of_tls_are_those_of_each_server() {
        for (command, expected) in [
            ("/v/bin/uvicorn api:app --port 8443 --ssl-keyfile k --ssl-certfile c", Some("127.0.0.1:8443")),
            (
                "/v/bin/uvicorn api:app --host=:: --port ${LADYLINUX_PORT} --ssl-certfile=c",
                Some("[::1]:8011"),
            ),
            ("/v/bin/uvicorn api:app --fd 3 --ssl-keyfile k", Some("127.0.0.1:8011")),
            ("/v/bin/gunicorn -b 0.0.0.0:443 --certfile c --keyfile k api:app", Some("127.0.0.1:443")),
            ("/v/bin/python3 -m hypercorn api:app --certfile c -b 192.0.2.7:443", Some("192.0.2.7:443")),
            ("/v/bin/gunicorn --ssl-certfile c api:app", None),
            ("/v/bin/uvicorn api:app --port 8443", None),
            ("/v/bin/python server.py --ssl-certfile c", None),
        ] {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            let found = tls_address(&words, 8011).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn a_command_whose_address_cannot_be_read_is_refused() {
        for (command, word) in [
            ("/v/bin/python server.py", "is not uvicorn, gunicorn or hypercorn"),
            ("/v/bin/python -m api uvicorn", "is not uvicorn, gunicorn or hypercorn"),
            ("/usr/bin/env uvicorn api:app", "is not uvicorn, gunicorn or hypercorn"),
            ("/v/bin/uvicorn api:app --uds /run/x", "--uds"),
            ("/v/bin/uvicorn api:app --fd 3", "--fd"),
            ("/v/bin/uvicorn api:app --port $OTHER", "unknown variable"),
            ("/v/bin/uvicorn api:app --host example.org", "no address"),
            ("/v/bin/uvicorn api:app --port", "has no value"),
            ("/v/bin/gunicorn -b 127.0.0.1:1 -b 127.0.0.1:2 api:app", "more than one address"),
            ("/v/bin/gunicorn -b unix:/run/x api:app", "no address"),
            ("/v/bin/gunicorn -c conf.py api:app", "-c"),
        ] {
            let failure = form(command).unwrap_err();
            assert!(failure.summary().contains(word), "{command}: {failure}");
        }
    }
}
