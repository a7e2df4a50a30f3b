//! Proof that a started service works: asked over HTTP until it answers well, watched while it settles, and shown to be
//! the new one (RW-5.5).
//!
//! The probe talks to the service itself: no proxy is used and no redirect is followed.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::deployed::Deployed;
use super::envfile::EnvFile;
use super::{Running, ServiceManager, ServiceState, Started};
use crate::clock;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Handle, ProcessId, interrupt};
use crate::settings;

/// The variable of the environment file that names the service's port.
pub const PORT: &str = "LADYLINUX_PORT";
/// The port where the environment file names none.
pub const DEFAULT_PORT: u16 = 8000;
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long to wait between two requests while the service is not good yet.
const TICK: Duration = Duration::from_millis(20);
/// How long to wait between two requests while the service settles.
const SETTLE_TICK: Duration = Duration::from_millis(200);
/// How long the manager may take to tell how a dead service ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How much of an answer is read where its content counts.
const BODY_LIMIT: u64 = 1 << 20;

/// A probe with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedProbe {
    /// The whole URL.
    pub url: String,
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

/// A service that answered well and stayed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healthy {
    /// When it answered well for the first time: the downtime ends here.
    pub first_good: Instant,
    /// How long that took.
    pub took: Duration,
    /// The status of that answer.
    pub status: u16,
    /// How many requests were made until then.
    pub attempts: u32,
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
    deployed: Option<&Deployed>,
) -> Outcome<ResolvedProbe> {
    let url = if let Some(url) = &probe.url {
        url.clone()
    } else {
        let slash = if probe.path.starts_with('/') { "" } else { "/" };
        format!("http://127.0.0.1:{}{slash}{}", service_port(file)?, probe.path)
    };
    check_url(&url)?;
    let json = probe.json.as_ref().map(|(field, value)| (field.clone(), fill_in(value, deployed)));
    Ok(ResolvedProbe {
        url,
        status: probe.status,
        json,
        body: probe.body.clone(),
        deadline: probe.deadline,
        settle: probe.settle,
    })
}

fn check_url(url: &str) -> Outcome<()> {
    let refuse = |why: &str| {
        Failure::new(format!("the probe cannot ask {url:?}: {why}"))
            .hint("set probe.url, for instance http://127.0.0.1:8000/")
    };
    let uri: ureq::http::Uri = url.parse().map_err(|error| refuse("it is not a URL").because(error))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(refuse("the probe speaks plain http, to this machine only")),
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
    /// Somebody takes the connection, and the answer is not as it should be.
    Unwell {
        /// What is wrong.
        problem: String,
    },
    /// What listens there speaks TLS, which the probe does not.
    Tls,
    /// Nobody takes connections there.
    Nobody {
        /// What the kernel answers.
        problem: String,
    },
}

/// Asks once and separates an address where nobody listens from one where the answer is bad.
pub fn reach(probe: &ResolvedProbe) -> Reach {
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
    let Some(address) = connected else { return Reach::Nobody { problem } };
    match ask(probe, REQUEST) {
        ProbeResult::Good { .. } => Reach::Good,
        ProbeResult::Bad { .. } if speaks_tls(address) => Reach::Tls,
        ProbeResult::Bad { problem } => Reach::Unwell { problem },
    }
}

/// The addresses that a probe's URL stands for.
pub fn addresses(probe: &ResolvedProbe) -> Vec<SocketAddr> {
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

fn fill_in(value: &str, deployed: Option<&Deployed>) -> String {
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
fn agent(probe: &ResolvedProbe) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("ladylinux-refresh/", env!("CARGO_PKG_VERSION")))
        .build();
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

fn ask_as(agent: &ureq::Agent, probe: &ResolvedProbe, limit: Duration) -> ProbeResult {
    let bad = |problem: String| ProbeResult::Bad { problem };
    let request = agent.get(&probe.url).config().timeout_global(Some(limit)).build();
    let mut response = match request.header("connection", "close").call() {
        Ok(response) => response,
        Err(error) => return bad(told(&error, limit)),
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
        Err(error) => return bad(format!("status {status}, but {}", told(&error, limit))),
    };
    match content_problem(probe, &bytes) {
        Some(problem) => bad(problem),
        None => ProbeResult::Good { status },
    }
}

fn told(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {limit:.1?}"),
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

/// Asks a service that was just started until it answers well, then watches it for the settle time: it has to stay good,
/// to stay the same process, and not to be restarted.
///
/// # Errors
/// The service died, was restarted, did not answer well within the deadline, or did not stay good; or an interruption.
pub fn await_healthy(
    probe: &ResolvedProbe,
    service: &dyn ServiceManager,
    main: ProcessId,
) -> Outcome<Healthy> {
    let asking = Asking::begin(probe)?;
    let watch = Watch { probe, service, main, asking, began: clock::monotonic() };
    let healthy = watch.until_good()?;
    watch.while_it_settles(healthy.first_good)?;
    Ok(healthy)
}

struct Watch<'a> {
    probe: &'a ResolvedProbe,
    service: &'a dyn ServiceManager,
    main: ProcessId,
    asking: Asking,
    began: Instant,
}

/// The thread that asks, so that the death of the service and an interruption are seen at once. A request that it is in
/// the middle of when this is dropped ends with its limit.
struct Asking {
    limits: mpsc::Sender<Duration>,
    results: mpsc::Receiver<ProbeResult>,
}

impl Asking {
    fn begin(probe: &ResolvedProbe) -> Outcome<Self> {
        let (limits, asked) = mpsc::channel();
        let (answers, results) = mpsc::channel();
        let probe = probe.clone();
        let work = move || {
            let agent = agent(&probe);
            while let Ok(limit) = asked.recv() {
                if answers.send(ask_as(&agent, &probe, limit)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("probe".to_owned())
            .spawn(work)
            .context(|| "cannot start a thread for the probe".to_owned())?;
        Ok(Self { limits, results })
    }
}

impl Watch<'_> {
    fn until_good(&self) -> Outcome<Healthy> {
        let handle = Handle::open(self.main).ok_or_else(|| self.died())?;
        let deadline = self.began + self.probe.deadline;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let left = deadline.saturating_duration_since(clock::monotonic());
            let problem = match self.ask(&handle, REQUEST.min(left.max(TICK)))? {
                ProbeResult::Good { status } => {
                    let first_good = clock::monotonic();
                    let took = first_good.duration_since(self.began);
                    return Ok(Healthy { first_good, took, status, attempts });
                }
                ProbeResult::Bad { problem } => problem,
            };
            if clock::monotonic() >= deadline {
                return Err(Failure::new(format!(
                    "the service did not answer well within {:.0?}",
                    self.probe.deadline
                ))
                .because(Failure::new(format!("{} said last: {problem}", self.probe.url))));
            }
            if handle.wait(TICK) {
                return Err(self.died());
            }
        }
    }

    fn while_it_settles(&self, since: Instant) -> Outcome<()> {
        let until = since + self.probe.settle;
        let first = self.the_same(None)?;
        let handle = Handle::open(self.main).ok_or_else(|| self.died())?;
        loop {
            let left = until.saturating_duration_since(clock::monotonic());
            if handle.wait(left.min(SETTLE_TICK)) {
                return Err(self.died());
            }
            let last = left <= SETTLE_TICK;
            if let ProbeResult::Bad { problem } = self.ask(&handle, REQUEST)? {
                return Err(Failure::new(format!(
                    "the service answered well and then, {:.1?} later, no more",
                    clock::monotonic().duration_since(since)
                ))
                .because(Failure::new(format!("{} said last: {problem}", self.probe.url))));
            }
            if last {
                return self.the_same(Some(&first)).map(|_| ());
            }
        }
    }

    /// Asks once; each request has its own connection.
    fn ask(&self, handle: &Handle, limit: Duration) -> Outcome<ProbeResult> {
        // Where the thread is gone there are no results either.
        let _ = self.asking.limits.send(limit);
        loop {
            interrupt::check()?;
            match self.asking.results.recv_timeout(TICK) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) if handle.wait(Duration::ZERO) => {
                    return Err(self.died());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Ok(ProbeResult::Bad {
                        problem: "the request failed within the probe".to_owned(),
                    });
                }
            }
        }
    }

    /// Checks that the manager knows the service as the process that was started, and as it was when first looked at.
    fn the_same(&self, first: Option<&Running>) -> Outcome<Running> {
        match self.service.observe()? {
            ServiceState::Running(running)
                if running.main == self.main && first.is_none_or(|first| *first == running) =>
            {
                Ok(running)
            }
            ServiceState::Running(running) => Err(Failure::new(format!(
                "the service was restarted: process {} instead of {}",
                running.main.pid, self.main.pid
            ))),
            _ => Err(self.died()),
        }
    }

    /// Tells the end of the main process, with how it ended as soon as the manager knows.
    fn died(&self) -> Failure {
        let after = clock::monotonic().duration_since(self.began);
        let until = clock::monotonic() + LAST_WORDS;
        let how = loop {
            match self.service.observe() {
                Ok(ServiceState::Stopped { last: Some(exit) }) => break exit.how.to_string(),
                Ok(ServiceState::Running(running)) if running.main != self.main => {
                    break format!("restarted as process {}", running.main.pid);
                }
                Ok(ServiceState::Changing { doing }) if clock::monotonic() > until => break doing,
                _ if clock::monotonic() > until => break "how is not known".to_owned(),
                _ => clock::pause_regardless(Duration::from_millis(2)),
            }
        };
        Failure::new(format!("the service died {after:.1?} after its start ({how})"))
    }
}

/// Proves that what runs is what `started` tells of: the manager knows it as that invocation and that main process, the
/// main process belongs to the service and began no earlier than `not_before` (of [`clock::boot_ticks`], taken before the
/// start). The environment of a process proves nothing: a program may overwrite it.
///
/// # Errors
/// Something else runs, or the manager cannot be asked.
pub fn prove_new(service: &dyn ServiceManager, started: &Started, not_before: u64) -> Outcome<()> {
    let main = started.main;
    let told = |why: String| {
        Failure::new(format!("process {} is not the refreshed service", main.pid)).because(Failure::new(why))
    };
    match service.observe()? {
        ServiceState::Running(running) if running.main != main => {
            return Err(told(format!("the service is process {} now", running.main.pid)));
        }
        ServiceState::Running(running) if running.invocation != started.invocation => {
            return Err(told(format!(
                "the service is invocation {} now instead of {}",
                running.invocation, started.invocation
            )));
        }
        ServiceState::Running(_) => {}
        other => return Err(told(format!("the service is {other}"))),
    }
    prove_part(service, main, not_before).map_err(|why| {
        Failure::new(format!("process {} is not the refreshed service", main.pid)).because(why)
    })
}

/// Proves that a process is of the new service: it belongs to the service, and it is no older than the start.
///
/// # Errors
/// It is not, or the manager cannot be asked.
pub fn prove_part(service: &dyn ServiceManager, process: ProcessId, not_before: u64) -> Outcome<()> {
    if process.started < not_before {
        return Err(Failure::new("it was started before this refresh started the service"));
    }
    if !service.owns(process)? {
        return Err(Failure::new(format!("it does not belong to {}", service.describe())));
    }
    Ok(())
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { status } => write!(f, "good (status {status})"),
            Self::Bad { problem } => f.write_str(problem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::names::{BranchName, CommitId, GenerationName};

    fn settings() -> settings::Probe {
        settings::Probe {
            url: None,
            path: "/".into(),
            status: None,
            json: None,
            body: None,
            deadline: Duration::from_secs(60),
            settle: Duration::from_secs(3),
        }
    }

    fn deployed() -> Deployed {
        Deployed {
            commit: CommitId::parse(&"a1".repeat(20)).unwrap(),
            branch: BranchName::parse("main").unwrap(),
            refreshed_at: jiff::Timestamp::UNIX_EPOCH,
            generation: GenerationName::parse("abc-1").unwrap(),
        }
    }

    #[test]
    fn without_settings_the_root_of_the_env_files_port_is_asked() {
        let url =
            |text: &str| resolve(&settings(), &EnvFile::parse(text.as_bytes()), None).map(|probe| probe.url);
        assert_eq!(url("").unwrap(), "http://127.0.0.1:8000/");
        assert_eq!(url("LADYLINUX_PORT=81").unwrap(), "http://127.0.0.1:81/");
        assert_eq!(url("LADYLINUX_PORT=").unwrap(), "http://127.0.0.1:8000/");
        for bad in ["0", "x", "70000", "-1"] {
            assert!(url(&format!("LADYLINUX_PORT={bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_asked_is_refused_before_anything_happens() {
        for bad in ["", "x", "https://127.0.0.1/", "ftp://h/", "http:///x", "http://h:99999/", "/path"] {
            let probe = settings::Probe { url: Some(bad.into()), ..settings() };
            assert!(resolve(&probe, &EnvFile::default(), None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn placeholders_stand_for_what_is_deployed() {
        let probe = settings::Probe { json: Some(("v.commit".into(), "{commit}".into())), ..settings() };
        let unfilled = resolve(&probe, &EnvFile::default(), None).unwrap();
        assert!(unfilled.json.is_some_and(|(_, value)| value.contains('{')));
        let resolved = resolve(&probe, &EnvFile::default(), Some(&deployed())).unwrap();
        assert_eq!(resolved.json.unwrap().1, "a1".repeat(20));
    }

    #[test]
    fn fields_are_found_by_path_and_compared_as_text() {
        let base = resolve(&settings(), &EnvFile::default(), None).unwrap();
        let problem = |path: &str, value: &str, answer: &str| {
            let probe = ResolvedProbe { json: Some((path.into(), value.into())), ..base.clone() };
            content_problem(&probe, answer.as_bytes())
        };
        assert_eq!(problem("a.b", "x", r#"{"a":{"b":"x"}}"#), None);
        assert_eq!(problem("a.1", "2", r#"{"a":[1,2]}"#), None);
        assert_eq!(problem("ok", "true", r#"{"ok":true}"#), None);
        assert!(problem("ok", "true", r#"{"ok":false}"#).unwrap().contains("false"));
        assert!(problem("no", "true", r#"{"ok":false}"#).unwrap().contains("no field"));
        assert!(problem("ok", "true", "<html>").unwrap().contains("not JSON"));
    }
}
