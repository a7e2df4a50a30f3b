//! A process that has the port of the service, and the command that helps against it.

use std::fmt;

use refresh_programs::process::ProcessId;
use refresh_programs::process::identity::is_launcher;
use refresh_system::error::Failure;

/// A process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The process; `None` if its descriptors cannot be read (it belongs to another user).
    pub process: Option<ProcessId>,
    /// Its command line.
    pub command: String,
    /// The user that owns the socket.
    pub uid: u32,
    /// The unit of systemd that the process is part of.
    pub unit: Option<String>,
}

impl PortHolder {
    pub(crate) fn of(process: ProcessId, uid: u32) -> Self {
        Self { process: Some(process), command: process.command(), uid, unit: process.unit() }
    }
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.process {
            Some(process) => write!(f, "process {} ({}) of uid {}", process.pid, self.command, self.uid)?,
            None => write!(f, "a process of uid {}", self.uid)?,
        }
        self.unit.as_ref().map_or(Ok(()), |unit| write!(f, ", part of {unit}"))
    }
}

/// Returns the failure that another process holds the port of the service, with a command that can help.
pub fn held(port: u16, holder: &PortHolder) -> Failure {
    let failure = Failure::new(format!("port {port} is held by {holder}, which is not the service"));
    match (holder.process, holder.unit.as_deref()) {
        // systemd itself: a socket unit.
        (Some(ProcessId { pid: 1, .. }), _) => failure.command("systemctl list-sockets", &[]),
        _ if container_list(holder).is_some() => failure
            .command_for(&container_search(holder), container_list(holder).unwrap_or_default(), &[&format!("publish={port}")])
            .hint("an application in a container is not refreshed by this program: stop the container, or use another port"),
        (Some(process), Some(unit)) if is_launcher(unit) => failure.hint(format!(
            "have {unit} start it no more, then end process {} if it may be ended",
            process.pid
        )),
        (Some(_), Some(unit)) if !is_session(unit) => {
            failure.command_for("where it may be stopped", "systemctl stop", &[&unit])
        }
        (Some(process), _) => match process.unit_of_user() {
            Some((uid, unit)) => failure.command_for(
                &format!("where it may be stopped, as the user with uid {uid}"),
                "systemctl --user stop",
                &[&unit],
            ),
            None => failure.hint(format!("end process {} if it may be ended", process.pid)),
        },
        (None, _) => failure.command("sudo ss -ltnp", &[&format!("sport = :{port}")]),
    }
}

/// Returns the purpose of the command that lists containers. Only the user of a container sees it, who runs the network
/// of podman; a process of the container itself may have any user.
fn container_search(holder: &PortHolder) -> String {
    let is_of_user = holder.uid != 0 && is_network_of_podman(holder);
    let by = if is_of_user { format!(", as the user with uid {}", holder.uid) } else { String::new() };
    format!("find the container that publishes the port{by}")
}

/// Returns whether a process is the network of a container of podman. Its name in podman 3 is longer.
fn is_network_of_podman(holder: &PortHolder) -> bool {
    let name = program_name(holder);
    let name = name.strip_prefix("containers-").unwrap_or(name);
    ["rootlessport", "slirp4netns", "pasta"].iter().any(|program| name.starts_with(program))
}

fn program_name(holder: &PortHolder) -> &str {
    let program = holder.command.split(' ').next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default()
}

/// Returns the command that lists containers, if a process publishes a port of one or runs in one (in a shared unit).
fn container_list(holder: &PortHolder) -> Option<&'static str> {
    let unit = holder.unit.as_deref().unwrap_or_default();
    let scopes = ["docker-", "crio-", "cri-containerd-", "docker.service", "containerd.service"];
    if is_network_of_podman(holder) || unit.starts_with("libpod-") {
        return Some("podman ps --filter");
    }
    let is_other =
        program_name(holder) == "docker-proxy" || scopes.iter().any(|scope| unit.starts_with(scope));
    is_other.then_some("docker ps --filter")
}

/// Returns whether a unit is the session of a user: its stop would end all processes of that user.
fn is_session(unit: &str) -> bool {
    unit.starts_with("session-") || unit.starts_with("user@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_never_ends_process_1_and_stops_a_unit_rather_than_its_process() {
        let holder = |pid: i32, unit: Option<&str>| PortHolder {
            process: Some(ProcessId { pid, started: 1 }),
            command: "x".to_owned(),
            uid: 0,
            unit: unit.map(str::to_owned),
        };
        assert_eq!(held(80, &holder(1, Some("init.scope"))).hint_texts(), ["systemctl list-sockets"]);
        let of_unit = held(80, &holder(7, Some("nginx.service")));
        assert!(of_unit.summary().contains("part of nginx.service"), "{of_unit}");
        assert_eq!(of_unit.hint_texts(), ["where it may be stopped: systemctl stop nginx.service"]);
        for launcher in ["cron.service", "supervisor.service", "ssh@3.service"] {
            assert_eq!(
                held(80, &holder(7, Some(launcher))).hint_texts(),
                [format!("have {launcher} start it no more, then end process 7 if it may be ended")]
            );
        }
        for session in ["session-3.scope", "user@1000.service"] {
            assert_eq!(
                held(80, &holder(7, Some(session))).hint_texts(),
                ["end process 7 if it may be ended"]
            );
        }
        let proxy = PortHolder {
            command: "/usr/bin/docker-proxy -proto tcp".to_owned(),
            ..holder(7, Some("docker.service"))
        };
        let pasta = PortHolder { command: "/usr/bin/pasta --config-net".to_owned(), ..holder(7, None) };
        let podman = "podman ps --filter publish=80";
        let python = PortHolder { command: "/srv/pasta/bin/python app.py".to_owned(), ..holder(7, None) };
        assert_eq!(held(80, &python).hint_texts(), ["end process 7 if it may be ended"]);
        let rootless = PortHolder { uid: 1000, ..pasta.clone() };
        assert!(held(80, &rootless).hint_texts()[0].contains("as the user with uid 1000"));
        let of_image = PortHolder { uid: 101, ..holder(7, Some("docker-0a.scope")) };
        assert!(!held(80, &of_image).hint_texts()[0].contains("101"), "a user of the image");
        let podman_3 = PortHolder { command: "containers-rootlessport".to_owned(), ..holder(7, None) };
        for (of_container, list) in [
            (proxy, "docker ps --filter publish=80"),
            (pasta, podman),
            (podman_3, podman),
            (holder(7, Some("libpod-0a.scope")), podman),
        ] {
            assert!(held(80, &of_container).hint_texts()[0].ends_with(list), "{of_container}");
        }
        assert_eq!(held(80, &holder(7, None)).hint_texts(), ["end process 7 if it may be ended"]);
    }
}
