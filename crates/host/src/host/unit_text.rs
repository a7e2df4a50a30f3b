//! The text of the service's unit: repairs of one that people wrote, the lines that are not accepted, and the unit by
//! the deployment contract.

use refresh_programs::systemd::file::UnitFile;
use refresh_programs::systemd::root_exec::is_yes;
use refresh_settings::Settings;

use refresh_service::probe;
use refresh_settings::users::SERVICE_USER;

/// The beginning of the unit that [`default_unit`] makes.
pub(super) const SIGNATURE: &str = "# Made by `ladylinux-refresh init` after the deployment contract";

/// Removes a byte order mark and the carriage returns of line ends: systemd reads both as part of a value.
pub(super) fn normalize(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

/// The accepted values of the environment file in the unit of a repository. systemd expands patterns in this value, and
/// reads the matching files as root: only these two spellings are known to name no other file.
const ENV_FILES: [&str; 2] = ["-/etc/ladylinux/ladylinux.env", "/etc/ladylinux/ladylinux.env"];

/// The units that the unit of a repository may be ordered after, and may start before itself.
const NEIGHBOURS: [&str; 4] =
    ["network.target", "network-pre.target", "network-online.target", "ollama.service"];

/// Returns the parts of the unit of a repository that are not accepted, a clause for each; an empty list if it can be
/// installed. Every person who can push a commit can write it, so each of its sections has a list of accepted settings.
/// Sources: systemd.unit(5), systemd.exec(5), systemd.service(5).
pub(super) fn not_accepted(text: &str) -> Vec<String> {
    let file = UnitFile::parse(text.as_bytes());
    let mut against = Vec::new();
    // Only that user is known to have no more rights than the application: other users administer the machine, or own
    // files that root uses.
    match file.value("Service", "User") {
        None => against.push("it has no User=, so its processes would be root's".to_owned()),
        Some(user) if user != SERVICE_USER => against.push(format!("it has User={user}")),
        Some(_) => {}
    }
    for it in &file.assignments {
        let (key, value) = (it.key.as_str(), it.value.as_str());
        let is_accepted = match it.section.as_str() {
            "Unit" => is_accepted_of_unit(key, value),
            "Install" => key == "WantedBy" && matches!(value, "" | "multi-user.target"),
            "Service" => is_accepted_of_service(key, value),
            section => {
                let clause = format!("it has a section [{section}]");
                if !against.contains(&clause) {
                    against.push(clause);
                }
                continue;
            }
        };
        if !is_accepted {
            against.push(format!("it has {key}={value}"));
        }
    }
    against
}

/// Returns whether a setting of `[Unit]` is accepted. Other settings stop, start or isolate units of the machine, or
/// shut it down.
fn is_accepted_of_unit(key: &str, value: &str) -> bool {
    match key {
        "Description" | "Documentation" | "StartLimitIntervalSec" | "StartLimitBurst" => true,
        "After" | "Wants" => value.split_whitespace().all(|unit| NEIGHBOURS.contains(&unit)),
        _ => false,
    }
}

/// Returns whether a setting of `[Service]` is accepted.
fn is_accepted_of_service(key: &str, value: &str) -> bool {
    let prefix: String = value.chars().take_while(|c| "@-:+!|".contains(*c)).collect();
    let opens = ["file:", "append:", "truncate:"].iter().any(|kind| value.starts_with(kind));
    match key {
        // The last value counts; it is checked with the file.
        "User" => true,
        "PermissionsStartOnly" => !is_yes(value),
        // systemd opens the files of these settings as root, and reads or writes them.
        "StandardInput" => value == "null",
        "StandardOutput" | "StandardError" => !opens && !value.contains("tty"),
        "EnvironmentFile" => value.is_empty() || ENV_FILES.contains(&value),
        // Many groups lead to root (disk, shadow, sudo, docker, lxd …), by name or by number.
        "Group" => value.is_empty() || value == SERVICE_USER,
        "Nice" => value.is_empty() || value.parse().is_ok_and(|nice: i8| nice >= 0),
        // `inherit` gives the keys of root's session to the service.
        "KeyringMode" => matches!(value, "" | "private" | "shared"),
        _ if key.starts_with("Exec") => !prefix.contains(['+', '!']),
        // An empty value cancels the earlier ones.
        _ => value.is_empty() || is_unprivileged(key),
    }
}

/// Returns whether a setting of `[Service]` is known to give neither rights of root nor precedence over other work of
/// the machine, with any value. It is a list of accepted settings, because there are many ways to root: directories
/// that systemd gives to the user, files that it reads for the user, mounts that replace a file that programs of root
/// trust. Every version of systemd adds more.
fn is_unprivileged(key: &str) -> bool {
    const KEYS: &str = "\
        Type ExitType BusName WorkingDirectory Environment UnsetEnvironment NotifyAccess RemainAfterExit \
        GuessMainPID SendSIGHUP SendSIGKILL FinalKillSignal SuccessExitStatus RuntimeMaxSec WatchdogSec \
        WatchdogSignal UMask OOMPolicy NoNewPrivileges LockPersonality CapabilityBoundingSet ReadOnlyPaths \
        ReadWritePaths InaccessiblePaths NoExecPaths DevicePolicy DeviceAllow RemoveIPC LogLevelMax \
        CPUAccounting CPUQuota CPUQuotaPeriodSec CPUWeight";
    const FAMILIES: &str =
        "Restart Timeout Kill Limit Memory IPAddress Tasks Private Protect Restrict Syslog SystemCall";
    // Limits that let a process raise its own priority.
    const RAISING: [&str; 2] = ["LimitRTPRIO", "LimitNICE"];
    let is_known = KEYS.split(' ').any(|known| known == key)
        || FAMILIES.split(' ').any(|family| key.starts_with(family))
        || key.starts_with("LogRateLimit");
    is_known && !RAISING.contains(&key)
}

/// Returns the unit that follows from the deployment contract and the host's settings.
pub(super) fn default_unit(settings: &Settings) -> String {
    let layout = &settings.layout;
    let shown = |path: std::path::PathBuf| path.display().to_string();
    let (app, venv) = (shown(layout.app()), shown(layout.venv()));
    let words: Vec<String> = settings
        .service
        .command
        .iter()
        .map(|word| {
            let word = self::word(&word.replace("{venv}", &venv).replace("{app}", &app)).replace('$', "$$");
            // This is not expanded here: the port in the environment file may change at any time.
            word.replace("{port}", "${LADYLINUX_PORT}")
        })
        .collect();
    format!(
        "{SIGNATURE}, from the settings of this host.
# It is yours: no command of this program changes it any more.
[Unit]
Description=LadyLinux API
Wants=ollama.service
After=network.target ollama.service
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
User={SERVICE_USER}
Group={SERVICE_USER}
WorkingDirectory={app}
# The port where the env file names none.
Environment=LADYLINUX_PORT={port}
EnvironmentFile=-{env_file}
ExecStart={command}
Restart=on-failure
RestartSec=5
TimeoutStopSec={stop}

[Install]
WantedBy=multi-user.target
",
        port = probe::DEFAULT_PORT,
        env_file = shown(layout.env_file()),
        command = words.join(" "),
        stop = settings.service.stop_timeout.as_secs().max(1),
    )
}

/// Escapes a word of a command: systemd reads it unchanged, except for its variables (systemd.service(5)).
pub(super) fn word(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    let plain = !word.is_empty() && !word.contains([' ', '\t', '"', '\'', '\\', ';']);
    if plain { escaped } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_settings::layers::{Layers, Overrides};
    use refresh_settings::layout::Layout;

    const GOOD: &str = "[Service]\nUser=ladylinux\nExecStart=/opt/ladylinux/venv/bin/uvicorn api_layer:app\n";

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases is read as one")]
    fn a_unit_of_an_ordinary_user_is_accepted_and_one_of_root_is_not() {
        assert!(not_accepted(GOOD).is_empty());
        for bad in [
            "[Service]\nExecStart=/x\n",
            "[Service]\nUser=root\nExecStart=/x\n",
            "[Service]\nUser=ladylinux\nUser=\nExecStart=/x\n",
            // These blanks are part of a key for systemd, so it finds no User=.
            "[Service]\nUser\u{a0}=ladylinux\nExecStart=/x\n",
            "[Service]\n\u{a0}User=ladylinux\nExecStart=/x\n",
            "[Service]\n\u{c}User=ladylinux\nExecStart=/x\n",
            "[Service]\nUser=ladylinux\nUser=0\nExecStart=/x\n",
            "[Unit]\nUser=ladylinux\n[Service]\nExecStart=/x\n",
            "# User=ladylinux\n[Service]\nExecStart=/x\n",
            "[Service]\n  User = %i\nExecStart=/x\n",
            "[Service]\nUser=1000\nExecStart=/x\n",
            "[Service]\nUser=postgres\nExecStart=/x\n",
            "[Service]\nUser=ladylinux\nEnvironment=A=b\\ \nUser=root\nExecStart=/x\n",
            "[Service]\nUser=ladylinux\nEnvironment=A=b\rUser=root\nExecStart=/x\n",
        ] {
            assert!(!not_accepted(bad).is_empty(), "{bad}");
        }
        for line in [
            "ExecStartPre=+/bin/x",
            "ExecStartPre=-!/bin/x",
            "ExecStopPost=@!!/bin/x",
            "ExecReload=-+/bin/x",
            "PermissionsStartOnly=yes",
            "AmbientCapabilities=CAP_SYS_ADMIN",
            "StandardOutput=append:/etc/cron.d/x",
            "SupplementaryGroups=audio disk",
            "SupplementaryGroups=6",
            "SupplementaryGroups=lxd",
            "Group=lxd",
            "Group=0006",
            "Group=%g",
            "[Install]\nAlias=sshd.service",
            "[Install]\nAlso=other.service",
            // systemd gives it to the user, with all its content.
            "StateDirectory=ladylinux/refresh",
            "RuntimeDirectory=systemd/system",
            // Root reads it for the service.
            "StandardInput=file:/etc/shadow",
            "LoadCredential=x:/etc/shadow",
            "EnvironmentFile=-/root/secrets.env",
            "EnvironmentFile=/opt/ladylinux/app/link",
            "EnvironmentFile=/etc/ladylinux/../../root/secrets.env",
            // It replaces a file that every program of root trusts.
            "BindPaths=/opt/ladylinux/app/preload:/etc/ld.so.preload",
            "RootImage=/opt/ladylinux/app/image",
            "SomethingThatOnlyANewerSystemdKnows=yes",
        ] {
            let found = not_accepted(&format!("{GOOD}{line}\n"));
            assert_eq!(found, [format!("it has {}", line.trim_start_matches("[Install]\n"))]);
        }
        for line in [
            "ExecStartPre=-/bin/x --a=+b",
            "StandardOutput=journal",
            "PermissionsStartOnly=no",
            "EnvironmentFile=-/etc/ladylinux/ladylinux.env",
            "Restart=on-failure",
            "RestartSec=5",
            "KillMode=process",
            "TimeoutStopSec=10",
            "LimitNOFILE=65536",
            "ProtectSystem=strict",
            "AmbientCapabilities=",
            "Group=ladylinux",
            "Group=",
            "SupplementaryGroups=",
            "[Install]\nWantedBy=multi-user.target",
        ] {
            assert_eq!(not_accepted(&format!("{GOOD}{line}\n")), Vec::<String>::new());
        }
    }

    #[test]
    fn the_environment_file_is_accepted_by_its_literal_name_only() {
        for value in ["/etc/ladylinux/ladylinux.env", "-/etc/ladylinux/ladylinux.env", ""] {
            assert_eq!(not_accepted(&format!("{GOOD}EnvironmentFile={value}\n")), Vec::<String>::new());
        }
        for value in [
            "/etc/ladylinux/.\\./.\\./root/.aws/credentials",
            "/etc/ladylinux/*",
            "/etc/ladylinux/token",
            "/etc/ladylinux//ladylinux.env",
            "--/etc/ladylinux/ladylinux.env",
            "/etc/ladylinux/ladylinux.en?",
            "\"/etc/ladylinux/ladylinux.env\"",
            "/etc/default/ladylinux",
        ] {
            let found = not_accepted(&format!("{GOOD}EnvironmentFile={value}\n"));
            assert_eq!(found, [format!("it has EnvironmentFile={value}")]);
        }
    }

    #[test]
    fn a_unit_that_affects_other_units_or_the_machine_is_not_accepted() {
        for line in [
            "Wants=debug-shell.service",
            "Wants=network.target debug-shell.service",
            "After=ollama.service ../x.service",
            "Requires=ollama.service",
            "OnFailure=rescue.target",
            "Conflicts=ssh.service",
            "FailureAction=reboot-force",
            "SuccessAction=poweroff",
            "StartLimitAction=reboot",
            "JobTimeoutAction=poweroff",
            "PropagatesStopTo=ssh.service",
            "DefaultDependencies=no",
            "SomethingThatOnlyANewerSystemdKnows=yes",
        ] {
            assert_eq!(not_accepted(&format!("{GOOD}[Unit]\n{line}\n")), [format!("it has {line}")]);
        }
        for line in
            ["RequiredBy=sysinit.target", "UpheldBy=x.target", "WantedBy=multi-user.target sysinit.target"]
        {
            assert_eq!(not_accepted(&format!("{GOOD}[Install]\n{line}\n")), [format!("it has {line}")]);
        }
        for section in ["Socket", "X-Other", "service", "Unit "] {
            let found = not_accepted(&format!("{GOOD}[{section}]\nDescription=a\nWantedBy=b\n"));
            assert_eq!(found, [format!("it has a section [{section}]")]);
        }
        assert_eq!(not_accepted(&format!("Description=a\n{GOOD}")), ["it has a section []"]);
        let usual = "[Unit]\nDescription=LadyLinux API\nDocumentation=https://example.org\nAfter=network-online.target \
                     ollama.service\nWants=network-online.target\nStartLimitIntervalSec=60\nStartLimitBurst=5\n";
        assert_eq!(not_accepted(&format!("{usual}{GOOD}")), Vec::<String>::new());
    }

    #[test]
    fn a_unit_that_takes_precedence_over_the_rest_of_the_machine_is_not_accepted() {
        for line in [
            "CPUSchedulingPolicy=fifo",
            "CPUSchedulingPriority=99",
            "IOSchedulingClass=realtime",
            "IOWeight=10000",
            "OOMScoreAdjust=-1000",
            "Nice=-20",
            "LimitRTPRIO=99",
            "LimitNICE=40",
            "KeyringMode=inherit",
            "Slice=-.slice",
        ] {
            assert_eq!(not_accepted(&format!("{GOOD}{line}\n")), [format!("it has {line}")]);
        }
        for line in ["Nice=10", "KeyringMode=private", "CPUQuota=50%", "LimitNOFILE=4096"] {
            assert_eq!(not_accepted(&format!("{GOOD}{line}\n")), Vec::<String>::new());
        }
    }

    #[test]
    fn additions_of_editors_of_other_systems_are_removed_and_reported() {
        let normalized = normalize(b"\xef\xbb\xbf[Service]\r\nUser=ladylinux\r\n");
        assert_eq!(normalized, "[Service]\nUser=ladylinux\n");
    }

    #[test]
    fn the_default_unit_has_the_values_of_the_contract() {
        let settings = |text: &str| {
            Layers::of_text(&Layout::below("/"), text, Overrides::default()).unwrap().resolve().unwrap()
        };
        let text = default_unit(&settings(""));
        assert!(not_accepted(&text).is_empty());
        let file = UnitFile::parse(text.as_bytes());
        let value = |key: &str| file.value("Service", key).unwrap();
        assert_eq!(value("User"), "ladylinux");
        assert_eq!(value("WorkingDirectory"), "/opt/ladylinux/app");
        assert_eq!(value("EnvironmentFile"), "-/etc/ladylinux/ladylinux.env");
        assert_eq!(
            value("ExecStart"),
            "/opt/ladylinux/venv/bin/uvicorn api_layer:app --host 0.0.0.0 --port ${LADYLINUX_PORT}"
        );
        assert_eq!(file.value("Unit", "StartLimitBurst"), Some("5"));
        let own =
            "[service]\ncommand = [\"{venv}/bin/python\", \"a b\", \"50%\", \"$X\", \"\", \"x={port}\"]\n";
        let text = default_unit(&settings(own));
        let file = UnitFile::parse(text.as_bytes());
        assert_eq!(
            file.value("Service", "ExecStart"),
            Some("/opt/ladylinux/venv/bin/python \"a b\" 50%% $$X \"\" x=${LADYLINUX_PORT}")
        );
    }
}
