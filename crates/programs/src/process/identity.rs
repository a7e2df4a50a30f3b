//! The identity of a process: pid and start time, which distinguishes it from a later process with the same pid.
//!
//! Source: proc(5): field 22 of `/proc/PID/stat` is the start time in clock ticks since boot.

use std::fs;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use refresh_system::text::harmless_line;

/// The permanent identity of one process: a pid alone may belong to another process later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// Finds the process that has `pid` now; `None` if no process has it (or only a zombie).
    pub fn of(pid: i32) -> Option<Self> {
        let stat = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (stat.state != 'Z' && stat.state != 'X').then_some(Self { pid, started: stat.started })
    }

    /// Finds a child that has not been reaped yet, also one that has ended.
    pub fn of_child(pid: i32) -> Option<Self> {
        let stat = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(Self { pid, started: stat.started })
    }

    /// Returns this process.
    pub fn own() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// Returns the process that started this one, or that adopted it.
    pub fn parent(self) -> Option<Self> {
        let stat = parse_stat(&fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)?;
        Self::of(stat.parent).filter(|_| stat.started == self.started)
    }

    /// Returns the process group; `None` for the group of init, whose number means every process to the kernel.
    pub(crate) fn group(self) -> Option<i32> {
        let stat = parse_stat(&fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?)?;
        Some(stat.group).filter(|group| stat.started == self.started && *group > 1)
    }

    /// Returns the user who started the process. A program with the set-user-ID bit does not change that.
    pub(crate) fn real_uid(self) -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Returns whether this process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Returns the command line for people, its arguments separated by spaces; empty if it cannot be read. The process
    /// may belong to another user and can write anything there: the result is one line, and characters that a terminal
    /// obeys are escaped.
    pub fn command(self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        harmless_line(&String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " "))
    }

    /// Returns the unit of systemd that the process belongs to; sessions and users' own units are ignored.
    pub fn unit(self) -> Option<String> {
        unit_of_groups(&groups(self.pid)?, groups_of_init())
    }

    /// Returns the unit of systemd that the process belongs to: a service, a scope, or a session of a user. A unit of a
    /// user's systemd counts as `user@UID.service`.
    pub fn unit_or_session(self) -> Option<String> {
        unit_or_session_in(&groups(self.pid)?, groups_of_init())
    }

    /// Returns the uid whose systemd runs the process (`systemctl --user`), and its unit there.
    pub fn unit_of_user(self) -> Option<(u32, String)> {
        unit_of_user_in(&groups(self.pid)?, groups_of_init())
    }

    /// Returns whether the process is in the cgroup of a unit, or in one below it.
    pub(crate) fn is_in_unit(self, unit: &str) -> bool {
        let groups = groups(self.pid).unwrap_or_default();
        groups.lines().any(|line| line.split(['/', ':']).any(|part| part == unit))
    }

    /// Returns the value of a variable in the environment that the process was started with.
    pub fn variable(self, name: &str) -> Option<String> {
        let bytes = fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        bytes.split(|byte| *byte == 0).find_map(|pair| {
            let pair = String::from_utf8_lossy(pair);
            pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        })
    }
}

/// The content of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `Z` …
    pub state: char,
    /// The parent's pid.
    pub parent: i32,
    /// The process group.
    pub group: i32,
    /// The session.
    pub session: i32,
    /// The start time in clock ticks since boot.
    pub started: u64,
}

/// Reads the stat line of a process; the command's name may contain spaces and brackets.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Returns the groups of a process, one hierarchy a line.
fn groups(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
}

/// Returns the groups of the first process, which never change; empty if they cannot be read.
fn groups_of_init() -> &'static str {
    static GROUPS: OnceLock<String> = OnceLock::new();
    GROUPS.get_or_init(|| groups(1).unwrap_or_default())
}

/// Returns the hierarchies of systemd in `/proc/PID/cgroup`, each with the group of the process.
fn of_systemd(groups: &str) -> impl Iterator<Item = (&str, &str)> {
    groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        matches!(controllers, "" | "name=systemd").then_some((controllers, path))
    })
}

/// Returns the units that the system's systemd manages, each with the group below it: the first name that is not a
/// slice. The names below it are those of others, such as the systemd of a container. `init` is the content of
/// `/proc/1/cgroup`: on a machine that is itself a container, all groups can be below that of the container.
fn units_in<'a>(groups: &'a str, init: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    of_systemd(groups).filter_map(|(hierarchy, path)| {
        let top = of_systemd(init).find(|(other, _)| *other == hierarchy);
        let top = top.and_then(|(_, path)| path.strip_suffix("/init.scope")).unwrap_or_default();
        let mut below = path.strip_prefix(top)?.strip_prefix('/')?;
        let mut is_in_slice = false;
        loop {
            let (name, rest) = below.split_once('/').unwrap_or((below, ""));
            if !is_kind(name, "slice") {
                let is_unit = is_in_slice && (name.ends_with(".service") || is_scope(name));
                return is_unit.then_some((name, rest));
            }
            (below, is_in_slice) = (rest, true);
        }
    })
}

/// Finds the unit of a user's systemd: the innermost name of a service below `user@UID.service`. The user chooses that
/// name: only letters, digits and a few other characters are accepted.
fn unit_of_user_in(groups: &str, init: &str) -> Option<(u32, String)> {
    units_in(groups, init).find_map(|(manager, below)| {
        let uid = manager.strip_prefix("user@")?.strip_suffix(".service")?;
        let unit = below.split('/').rev().find(|part| part.ends_with(".service"))?;
        let is_plain = unit.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
        Some((uid.parse().ok()?, unit.to_owned())).filter(|_| is_plain)
    })
}

/// Finds the unit in `/proc/PID/cgroup` that the system's systemd manages: a service, a scope or a session.
fn unit_or_session_in(groups: &str, init: &str) -> Option<String> {
    units_in(groups, init).next().map(|(unit, _)| unit.to_owned())
}

/// Finds the service in `/proc/PID/cgroup` that the system's systemd manages, except the systemd of a user.
fn unit_of_groups(groups: &str, init: &str) -> Option<String> {
    let is_service = |unit: &&str| unit.ends_with(".service") && !unit.starts_with("user@");
    units_in(groups, init).map(|(unit, _)| unit).find(is_service).map(str::to_owned)
}

fn is_scope(unit: &str) -> bool {
    is_kind(unit, "scope")
}

fn is_kind(unit: &str, kind: &str) -> bool {
    unit.rsplit_once('.').is_some_and(|(_, end)| end == kind)
}

/// The units that start programs of others: schedulers, logins, containers, other supervisors, build agents.
const LAUNCHERS: [&str; 22] = [
    "actions.runner",
    "anacron",
    "atd",
    "buildkite-agent",
    "cockpit",
    "console-getty",
    "containerd",
    "cron",
    "cronie",
    "crond",
    "docker",
    "dropbear",
    "getty@",
    "gitlab-runner",
    "jenkins",
    "monit",
    "pm2-",
    "podman",
    "serial-getty@",
    "ssh",
    "sshd",
    "supervisor",
];

/// Returns whether a unit is a session, a container or another scope, or the systemd of a user.
pub fn is_session(unit: &str) -> bool {
    is_scope(unit) || unit.starts_with("user@")
}

/// Returns whether a unit starts programs that are not its own. A hint about one of these programs never names such a
/// unit, and never stops or restarts it.
pub fn is_launcher(unit: &str) -> bool {
    let stem = unit.trim_end_matches(".service");
    LAUNCHERS.iter().any(|name| {
        let rest = stem.strip_prefix(name);
        // `ssh@1`, `actions.runner.x`, `supervisord`
        rest.is_some_and(|rest| {
            name.ends_with(['@', '-']) || rest.is_empty() || rest == "d" || rest.starts_with(['@', '.'])
        })
    })
}

/// Returns the pids of all visible processes.
pub fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_and_spaces_is_read_over() {
        let line = "42 (a) b (c)) S 7 42 40 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 12345 1 2";
        assert_eq!(
            parse_stat(line),
            Some(Stat { state: 'S', parent: 7, group: 42, session: 40, started: 12345 })
        );
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn the_unit_of_a_user_is_read_from_the_groups_of_a_process() {
        let of = |text| unit_of_user_in(text, "");
        let group = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n";
        assert_eq!(of(group), Some((1000, "x.service".to_owned())));
        assert_eq!(of("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n"), None);
        assert_eq!(of("0::/user.slice/user-1000.slice/user@1000.service/app.slice/$(x).service\n"), None);
        assert_eq!(of("0::/system.slice/x.service\n"), None);
    }

    #[test]
    fn the_unit_of_a_process_is_read_from_its_groups() {
        let of = |text| unit_of_groups(text, "");
        assert_eq!(of("0::/system.slice/nginx.service\n").as_deref(), Some("nginx.service"));
        assert_eq!(
            of("3:cpu:/x.service\n1:name=systemd:/system.slice/a.service/w\n").as_deref(),
            Some("a.service")
        );
        assert_eq!(of("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n"), None);
        assert_eq!(of("0::/init.scope\n"), None);
    }

    #[test]
    fn a_session_a_container_and_the_systemd_of_a_user_count_as_units() {
        for (groups, unit) in [
            ("0::/user.slice/user-1000.slice/session-9.scope\n", Some("session-9.scope")),
            ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n", Some("user@0.service")),
            ("1:name=systemd:/system.slice/docker-0a1b.scope\n", Some("docker-0a1b.scope")),
            ("0::/system.slice/nginx.service/worker\n", Some("nginx.service")),
            // The units of a container are not those of this machine.
            (
                "0::/machine.slice/libpod-1.scope/container/system.slice/dbus.service\n",
                Some("libpod-1.scope"),
            ),
            ("0::/lxc.payload.x/system.slice/dbus.service\n", None),
            ("0::/system.slice/x.service/a@.service\n", Some("x.service")),
            ("0::/init.scope\n", None),
            ("0::/\n", None),
        ] {
            assert_eq!(unit_or_session_in(groups, "0::/init.scope\n").as_deref(), unit, "{groups}");
            let is_service = matches!(unit, Some("nginx.service" | "x.service"));
            assert!(unit.is_none_or(|unit| is_session(unit) != is_service), "{groups}");
        }
    }

    #[test]
    fn the_units_of_a_machine_that_is_a_container_are_found_below_its_own_group() {
        let init = "1:name=systemd:/lxc.payload.x/init.scope\n0::/\n";
        let groups = "1:name=systemd:/lxc.payload.x/system.slice/dbus.service\n0::/\n";
        assert_eq!(unit_or_session_in(groups, init).as_deref(), Some("dbus.service"));
        assert_eq!(unit_of_groups(groups, init).as_deref(), Some("dbus.service"));
        assert_eq!(unit_of_groups("0::/machine.slice/libpod-1.scope/system.slice/dbus.service\n", ""), None);
    }

    #[test]
    fn a_unit_that_starts_programs_of_others_is_recognized_by_its_name() {
        for unit in ["cron.service", "ssh@1-2.service", "supervisord.service", "actions.runner.x-y.service"] {
            assert!(is_launcher(unit), "{unit}");
        }
        for unit in ["ladylinux-api.service", "cronicle.service", "sshguard.service", "x.service"] {
            assert!(!is_launcher(unit), "{unit}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs a process with chosen arguments")]
    fn the_command_line_of_a_foreign_process_is_one_line_without_control_characters() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read line", "x\n  next       reboot\u{1b}[2J"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = ProcessId::of_child(i32::try_from(child.id()).unwrap()).unwrap();
        // Until the child has become the shell, its command is that of this process.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !process.command().contains("read line") && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let command = process.command();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(command, "/bin/sh -c read line x\\n  next       reboot\\u{1b}[2J");
    }

    #[test]
    fn this_process_is_alive_and_a_reused_pid_is_another_process() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive());
    }
}
