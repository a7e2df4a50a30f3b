//! Checks whether the running service accepts connections at the address that the probe will use after the restart.
//!
//! It runs before the stop (RW-7): a probe that gets no answer now gets none after the restart. The run would then end
//! with a working service that is stopped and fenced. Reads the sockets of the service's processes; changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use refresh_events::run_report::{Report, RunResult};
use refresh_installation::installation::Installation;
use refresh_installation::{history, status_file};
use refresh_programs::process::ProcessId;
use refresh_service::deployed::Deployment;
use refresh_service::port;
use refresh_service::port::Address;
use refresh_service::port_holder::PortHolder;
use refresh_service::probe;
use refresh_service::probe::{REFUSED, Reach, ResolvedProbe};
use refresh_service::{Running, ServiceState};
use refresh_settings as settings;
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;
use refresh_system::text::quoted_path;

/// The time limit for a newly started service to listen.
const PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(200);

/// Sends the request of the probe to the running service; returns warnings for a person. A service that gives a bad
/// answer, or does not listen, is no reason to refuse: the refresh may be the repair.
///
/// # Errors
/// The service listens, but not at the address of the probe; or the probe cannot be resolved.
pub fn check(on: &Installation, service: &ServiceState) -> Outcome<Vec<String>> {
    let Some(running) = service.running().filter(|_| !on.is_fenced()) else { return Ok(Vec::new()) };
    let deployed = Deployment::read(&on.layout).ok().flatten();
    let env_file = on.env_file()?;
    let in_use = probe_in_use(on);
    let probe = probe::resolve(&in_use, &env_file, deployed.as_ref())?;
    let reach = patiently(on, &probe, running)?;
    if !matches!(reach, Reach::NoListener { .. }) {
        no_front_end(on, &probe)?;
    }
    match reach {
        Reach::Good => Ok(Vec::new()),
        Reach::Unexpected { problem } if !has_passed(on, &probe, &probe::in_words(&in_use)) => Err(Failure::new(format!(
            "the running service answers at {}, and not as the health check expects: {problem}",
            probe.url
        ))
        .hint(format!(
            "set `headers`, `url`, `path`, `status`, `json` or `body` under [probe] in {} so that the running service passes",
            quoted_path(&on.layout.host_file())
        ))
        .hint(on.typed(
            Hint::command("ladylinux-refresh service stop", &[])
                .with_purpose("where the running version is what is wrong, stop it first"),
        ))),
        Reach::Unwell { problem } | Reach::Unexpected { problem } => {
            Ok(vec![format!("the running service does not answer {} well: {problem}", probe.url)])
        }
        Reach::Tls => Err(other_protocol(on, &probe, "TLS", "plain http", ("http://", "https://"))),
        Reach::Plain => Err(other_protocol(on, &probe, "plain http", "TLS", ("https://", "http://"))),
        Reach::Untrusted { problem } => Err(Failure::new(format!(
            "the running service does not pass the health check of {}: {problem}",
            probe.url
        ))
        .hint(format!(
            "set `ca_file`, `url` or `headers` (Host) under [probe] in {} to what the certificate is for",
            quoted_path(&on.layout.host_file())
        ))
        .hint(format!("where the certificate was renewed, restart the service first: {}", restart_command(on)))),
        Reach::NoListener { problem } => elsewhere(on, &probe, &problem),
    }
}

/// Refuses a probe of a program that systemd stops with the service: it is started again only after the health check.
fn no_front_end(on: &Installation, probe: &ResolvedProbe) -> Outcome<()> {
    if !on.service.has_units() {
        return Ok(());
    }
    let Ok(listens) = port::addresses_of(&on.service.processes()?) else { return Ok(()) };
    let Some(asked) = probe::addresses(probe).first().map(SocketAddr::port) else { return Ok(()) };
    if listens.iter().any(|address| takes(address, probe, false)) {
        return Ok(());
    }
    let holders = port::holders(asked)?;
    if holders.iter().all(|holder| holder.unit.is_none()) {
        return Ok(());
    }
    let stopped = on.service.others()?.stopped_with_it;
    let Some(unit) = front_end(&holders, &stopped) else { return Ok(()) };
    let file = quoted_path(&on.layout.host_file());
    let failure = Failure::new(format!(
        "the health check asks {}, where {unit} answers, which is stopped with the service and started after its health check",
        probe.url
    ));
    let failure = match suggestion(&listens, probe, probe::speaks_tls) {
        Some(url) => failure.hint(format!("set `url = \"{url}\"` under [probe] in {file}")),
        None => failure,
    };
    let also = format!("or add {unit:?} to `also` under [service] in {file}, then: ladylinux-refresh init");
    Err(failure.hint(also))
}

/// Returns that unit which holds the port of the probe and is stopped with the service. A socket that systemd itself holds
/// stays open: the health check starts its front end again.
fn front_end<'a>(holders: &'a [PortHolder], stopped: &[String]) -> Option<&'a str> {
    if holders.iter().any(|holder| holder.process.is_some_and(|process| process.pid == 1)) {
        return None;
    }
    let mut units = holders.iter().filter_map(|holder| holder.unit.as_deref());
    units.find(|unit| stopped.iter().any(|it| it == unit))
}

/// Refuses a probe with a different protocol than the running service; `schemes` are those of the two.
fn other_protocol(
    on: &Installation,
    probe: &ResolvedProbe,
    service: &str,
    check: &str,
    schemes: (&str, &str),
) -> Failure {
    let url = probe.url.replacen(schemes.0, schemes.1, 1);
    Failure::new(format!(
        "the running service uses {service} at {}, and the health check uses {check}",
        probe.url
    ))
    .hint(format!("set `url = \"{url}\"` under [probe] in {}", quoted_path(&on.layout.host_file())))
    .hint(format!("where that was changed on purpose, restart the service first: {}", restart_command(on)))
}

/// Returns whether a version has passed the probe with its present settings. Such a version may have broken since; then
/// the refresh may be the repair.
fn has_passed(on: &Installation, probe: &ResolvedProbe, words: &str) -> bool {
    let written = std::fs::metadata(on.layout.host_file()).ok();
    let written =
        written.map(|file| (file.mtime(), file.mtime_nsec()).max((file.ctime(), file.ctime_nsec())));
    let has_secrets = !probe.headers.is_empty() || probe.credentials.is_some();
    let past = history::all(&on.layout).unwrap_or_default();
    let mut reports = past.into_iter().filter_map(|past| past.report);
    reports.any(|report| is_passed_by(&report, &probe.url, words, has_secrets, written))
}

/// Returns whether a run has passed this check. Its words name no values of headers and no credentials, and a report of an
/// earlier version has no words: then the file with the settings, which was written at this time, must be older than the
/// run. A copied file can have an old time of modification, so its time of change counts too.
fn is_passed_by(
    report: &Report,
    url: &str,
    words: &str,
    has_secrets: bool,
    written: Option<(i64, i64)>,
) -> bool {
    let started = (report.started_at.as_second(), i64::from(report.started_at.subsec_nanosecond()));
    let is_later = written.is_none_or(|written| written < started);
    let is_same = match &report.service.check {
        Some(check) => {
            check == words && report.service.url.as_deref() == Some(url) && (is_later || !has_secrets)
        }
        None => is_later,
    };
    report.result == RunResult::Refreshed && is_same
}

/// Returns the probe of the deployed version, if it is known; else that of the host.
fn probe_in_use(on: &Installation) -> settings::Probe {
    let deployed = status_file::read(&on.layout).deployed;
    let release = deployed.and_then(|pair| on.release(&pair.commit).ok());
    release.map_or_else(|| on.settings.probe.clone(), |release| release.settings.probe)
}

/// Checks repeatedly: a newly started service may need some time until it listens.
fn patiently(on: &Installation, probe: &ResolvedProbe, running: &Running) -> Outcome<Reach> {
    let limit = probe.deadline.min(PATIENCE);
    loop {
        let reach = probe::reach(probe, &on.units)?;
        if !matches!(reach, Reach::NoListener { .. }) || age(running.main) >= limit {
            return Ok(reach);
        }
        clock::pause(TICK)?;
    }
}

/// Returns the time since the start of a process.
fn age(process: ProcessId) -> Duration {
    let ticks = clock::boot_ticks().saturating_sub(process.started);
    Duration::from_millis(ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1))
}

/// Reports the addresses on which the service listens, because nothing listens at the address of the probe.
fn elsewhere(on: &Installation, probe: &ResolvedProbe, problem: &str) -> Outcome<Vec<String>> {
    let url = &probe.url;
    let processes = on.service.processes()?;
    let listens = match port::addresses_of(&processes) {
        Ok(listens) => listens,
        Err(failure) => {
            let why = failure.chain().join(": ");
            return Ok(vec![format!(
                "{url} does not answer ({problem}), and the address of the service cannot be read: {why}"
            )]);
        }
    };
    if listens.is_empty() {
        return Ok(vec![format!(
            "{url} does not answer ({problem}); the running service listens on no address"
        )]);
    }
    if processes.first().is_some_and(|main| port::has_own_network(*main)) {
        return Err(Failure::new(format!(
            "{url} does not answer ({problem}): the service has a private network (PrivateNetwork= or NetworkNamespacePath=), where it listens on {}",
            in_words(&listens)
        ))
        .command_for("remove that line with", "systemctl edit --full", &[&on.settings.service.unit])
        .hint(format!("where it is removed already, restart the service first: {}", restart_command(on))));
    }
    if listens.iter().any(|address| takes(address, probe, problem == REFUSED)) {
        return Ok(vec![format!("the running service takes no connection at {url} ({problem})")]);
    }
    let mut failure = Failure::new(format!(
        "the health check asks {url}, which does not answer ({problem}); the running service listens on {}",
        in_words(&listens)
    ));
    let file = on.layout.host_file();
    failure = match suggestion(&listens, probe, probe::speaks_tls) {
        Some(url) => failure.hint(format!("set `url = \"{url}\"` under [probe] in {}", file.display())),
        None => failure.hint(
            "let the service listen on a TCP port or on a socket in the file system, which the probe can ask",
        ),
    };
    if on.settings.probe.url.is_none() {
        failure = failure.hint(format!(
            "where {} was changed on purpose, restart the service first: {}",
            probe::PORT,
            restart_command(on)
        ));
    }
    Err(failure)
}

/// Returns the addresses on which the service listens, in words, and the URL that reaches it, if none of them accepts the
/// connections of the probe.
pub(crate) fn other_addresses(
    listens: &[Address],
    probe: &ResolvedProbe,
) -> Option<(String, Option<String>)> {
    if listens.is_empty() || listens.iter().any(|address| takes(address, probe, true)) {
        return None;
    }
    Some((in_words(listens), suggestion(listens, probe, probe::speaks_tls)))
}

fn restart_command(on: &Installation) -> String {
    if on.layout.is_real() {
        format!("systemctl restart {}", on.settings.service.unit)
    } else {
        let stop = on.as_typed("ladylinux-refresh service stop");
        format!("{stop}; {}", on.as_typed("ladylinux-refresh service start"))
    }
}

fn in_words(addresses: &[Address]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// Returns whether a socket accepts the connections of a probe. If connections are refused, a socket on all addresses of
/// IPv6 accepts none of IPv4 (`IPV6_V6ONLY`).
fn takes(address: &Address, probe: &ResolvedProbe, is_refused: bool) -> bool {
    let asked = probe::addresses(probe);
    let listens = match address {
        Address::Tcp(listens) => listens,
        Address::Unix(path) => {
            return probe.socket.as_ref().is_some_and(|socket| socket.file == std::path::Path::new(path));
        }
    };
    asked.iter().any(|asked| {
        let all = listens.ip() == IpAddr::from(Ipv4Addr::UNSPECIFIED) && asked.is_ipv4()
            || listens.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) && (asked.is_ipv6() || !is_refused);
        listens.port() == asked.port() && (all || listens.ip() == asked.ip())
    })
}

/// Returns the URL that reaches the service: on the loopback address if it listens there, else on its first address,
/// else on a socket in the file system.
fn suggestion(
    addresses: &[Address],
    probe: &ResolvedProbe,
    uses_tls: impl Fn(SocketAddr) -> bool,
) -> Option<String> {
    let tcp: Vec<SocketAddr> = addresses
        .iter()
        .filter_map(|address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        })
        .collect();
    if tcp.is_empty() {
        return addresses.iter().find_map(|address| match address {
            Address::Unix(path) if path.starts_with('/') => Some(format!("unix:{path}")),
            _ => None,
        });
    }
    let near = tcp.iter().find(|it| it.ip().is_loopback() || it.ip().is_unspecified()).or(tcp.first())?;
    let ip = match near.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let path = match &probe.socket {
        Some(socket) => socket.path.trim_start_matches('/'),
        None => probe.url.splitn(4, '/').nth(3).unwrap_or_default(),
    };
    let address = SocketAddr::new(ip, near.port());
    let scheme = if uses_tls(address) { "https" } else { "http" };
    Some(format!("{scheme}://{address}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    use refresh_settings::names::RunId;

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    fn probe(url: &str) -> ResolvedProbe {
        ResolvedProbe {
            url: url.to_owned(),
            credentials: None,
            socket: None,
            tls: None,
            headers: std::collections::BTreeMap::new(),
            status: None,
            json: None,
            body: None,
            deadline: Duration::ZERO,
            settle: Duration::ZERO,
        }
    }

    #[test]
    fn a_check_that_a_run_has_passed_is_known_by_its_words_and_by_the_time_of_its_secrets() {
        let mut report = Report::new(RunId::parse("r-1").unwrap(), "run", jiff::Timestamp::UNIX_EPOCH);
        report.result = RunResult::Refreshed;
        report.service.url = Some("http://h/".to_owned());
        let (before, after) = (Some((-1, 0)), Some((1, 0)));
        let passed = |report: &Report, words: &str, has_secrets: bool, written| {
            is_passed_by(report, "http://h/", words, has_secrets, written)
        };
        assert!(passed(&report, "GET /", false, before) && !passed(&report, "GET /", false, after));
        report.service.check = Some("GET /".to_owned());
        assert!(passed(&report, "GET /", false, after), "the file was touched, and the check is the same");
        assert!(passed(&report, "GET /", true, before) && !passed(&report, "GET /", true, after));
        assert!(!passed(&report, "GET /, status 204", false, before));
        assert!(!is_passed_by(&report, "http://other/", "GET /", false, before));
        report.result = RunResult::Halted;
        assert!(!passed(&report, "GET /", false, before));
    }

    #[test]
    fn a_front_end_is_stopped_with_the_service_unless_systemd_holds_its_socket() {
        let holder = |pid: i32, unit: Option<&str>| PortHolder {
            process: Some(ProcessId { pid, started: 0 }),
            command: String::new(),
            uid: 0,
            unit: unit.map(str::to_owned),
        };
        let stopped = ["proxy.service".to_owned()];
        let proxy = holder(7, Some("proxy.service"));
        assert_eq!(front_end(std::slice::from_ref(&proxy), &stopped), Some("proxy.service"));
        assert_eq!(front_end(&[holder(1, None), proxy], &stopped), None);
        assert_eq!(front_end(&[holder(7, Some("other.service"))], &stopped), None);
    }

    #[test]
    fn the_url_to_set_reaches_the_service_on_this_machine_and_keeps_the_path() {
        let of = |addresses: &[Address]| {
            suggestion(addresses, &probe("http://127.0.0.1:8000/api/status"), |it| it.port() == 443).unwrap()
        };
        assert_eq!(of(&[tcp("0.0.0.0:443")]), "https://127.0.0.1:443/api/status");
        assert_eq!(of(&[tcp("[::1]:8112")]), "http://[::1]:8112/api/status");
        assert_eq!(of(&[tcp("192.0.2.7:81"), tcp("0.0.0.0:80")]), "http://127.0.0.1:80/api/status");
        assert_eq!(
            of(&[Address::Unix("/run/x".to_owned()), tcp("192.0.2.7:81")]),
            "http://192.0.2.7:81/api/status"
        );
        assert_eq!(of(&[Address::Unix("/run/x".to_owned())]), "unix:/run/x");
        assert_eq!(suggestion(&[Address::Unix("@x".to_owned())], &probe("http://h/"), |_| true), None);
    }

    #[test]
    fn a_wildcard_address_accepts_requests_to_one_and_another_family_does_not() {
        for (listens, takes_it) in [
            ("0.0.0.0:8000", true),
            ("[::]:8000", true),
            ("127.0.0.1:8000", true),
            ("[::1]:8000", false),
            ("127.0.0.1:8001", false),
            ("192.0.2.7:8000", false),
        ] {
            assert_eq!(takes(&tcp(listens), &probe("http://127.0.0.1:8000/"), false), takes_it, "{listens}");
        }
        assert!(!takes(&tcp("[::]:8000"), &probe("http://127.0.0.1:8000/"), true));
        assert!(takes(&tcp("[::]:8000"), &probe("http://[::1]:8000/"), true));
        assert!(takes(&tcp("0.0.0.0:8000"), &probe("http://127.0.0.1:8000/"), true));
    }
}
