//! What the kernel keeps a unit of this program from: one table of properties, for transient units and for unit files.
//!
//! systemd refuses a transient unit with a property that it does not know, so each row names the version that brought it
//! (systemd.exec(5), systemd.resource-control(5)). A unit file may name all of them: there an unknown one is a warning.
//!
//! Some properties are missing on purpose. `RestrictSUIDSGID` forbids to copy a directory of the application that has the
//! set-group-ID bit. `ProtectControlGroups` forbids `cgroup.kill`, which ends what is left of the service. `IPAddressDeny`
//! forbids to ask a service that listens at another address than the loopback's. `ProtectProc` hides processes from whoever
//! has no `CAP_SYS_PTRACE`: a run has it, since it has to find the processes of the service.

use std::path::{Path, PathBuf};

use zbus::zvariant::Value;

/// Where a unit may write, and what it only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directories that the unit writes to. A rename from one to another fails as between two file systems.
    pub writable: Vec<PathBuf>,
    /// Directories below those that the unit only reads.
    pub read_only: Vec<PathBuf>,
    /// Whether `/tmp` and `/var/tmp` are the unit's own.
    pub own_tmp: bool,
}

/// A property, and the first version of systemd that knows it.
struct Row {
    name: &'static str,
    since: u32,
    setting: Setting,
}

/// The value of a property, which D-Bus and a unit file write differently.
enum Setting {
    Flag(bool),
    Word(&'static str),
    /// A number on the bus and its text in a file.
    Unsigned(u64, &'static str),
    /// The same with 32 bits.
    Narrow(u32, &'static str),
    /// The same with a sign.
    Signed(i32, &'static str),
    /// A part of the machine's memory, in percent. Its name on the bus has `Scale` at the end.
    Percent(u32),
    /// Names of a plain list.
    Names(&'static [&'static str]),
    /// What is allowed; everything else is not.
    Allowed(&'static [&'static str]),
    /// What is taken from what is allowed.
    Denied(&'static [&'static str]),
    /// Capabilities by number and name.
    Capabilities(&'static [(u32, &'static str)]),
    /// Paths, each of which may be missing.
    Paths(Vec<PathBuf>),
}

/// What root needs for a refresh: change owners and modes, end the processes of the service, and read in `/proc` which of
/// them belong to a run (linux/capability.h). It acts as no other user: units do that.
const CAPABILITIES: [(u32, &str); 7] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (19, "CAP_SYS_PTRACE"),
];

/// The sockets of the bus, and those that the service is asked over.
const FAMILIES: [&str; 3] = ["AF_UNIX", "AF_INET", "AF_INET6"];

const REFUSED_CALLS: [&str; 5] = ["ptrace", "process_vm_readv", "process_vm_writev", "@mount", "@resources"];

/// `EPERM`: a program that makes a refused call gets an error and is not killed.
const REFUSAL: i32 = 1;

fn table(places: &Places) -> Vec<Row> {
    let row = |name, since, setting| Row { name, since, setting };
    let mut writable = places.writable.clone();
    if !places.own_tmp {
        writable.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
    }
    vec![
        row("NoNewPrivileges", 187, Setting::Flag(true)),
        row("ProtectSystem", 232, Setting::Word("strict")),
        row("ReadWritePaths", 231, Setting::Paths(writable)),
        row("ReadOnlyPaths", 231, Setting::Paths(places.read_only.clone())),
        // A key for ssh, or a token, may lie below /root.
        row("ProtectHome", 214, Setting::Word("read-only")),
        row("PrivateTmp", 183, Setting::Flag(places.own_tmp)),
        row("PrivateDevices", 209, Setting::Flag(true)),
        row("PrivateMounts", 239, Setting::Flag(true)),
        row("ProtectProc", 247, Setting::Word("invisible")),
        row("ProtectKernelTunables", 232, Setting::Flag(true)),
        row("ProtectKernelModules", 232, Setting::Flag(true)),
        row("ProtectKernelLogs", 244, Setting::Flag(true)),
        row("ProtectClock", 245, Setting::Flag(true)),
        row("ProtectHostname", 242, Setting::Flag(true)),
        row("LockPersonality", 235, Setting::Flag(true)),
        row("RestrictRealtime", 231, Setting::Flag(true)),
        row("MemoryDenyWriteExecute", 231, Setting::Flag(true)),
        row("RestrictNamespaces", 233, Setting::Unsigned(0, "yes")),
        row("RestrictAddressFamilies", 211, Setting::Allowed(&FAMILIES)),
        row("SystemCallArchitectures", 209, Setting::Names(&["native"])),
        row("SystemCallFilter", 239, Setting::Allowed(&["@system-service"])),
        row("SystemCallFilter", 239, Setting::Denied(&REFUSED_CALLS)),
        row("SystemCallErrorNumber", 209, Setting::Signed(REFUSAL, "EPERM")),
        row("CapabilityBoundingSet", 183, Setting::Capabilities(&CAPABILITIES)),
        row("KeyringMode", 235, Setting::Word("private")),
        row("TasksMax", 227, Setting::Unsigned(512, "512")),
        row("MemoryMax", 232, Setting::Percent(75)),
        row("UMask", 183, Setting::Narrow(0o022, "0022")),
    ]
}

/// Returns the properties of a transient unit, as far as systemd `version` knows them.
pub fn properties(version: u32, places: &Places) -> Vec<(&'static str, Value<'static>)> {
    let known = table(places).into_iter().filter(|row| row.since <= version);
    known.map(|row| (row.setting.name_on_bus(row.name), row.setting.into_value())).collect()
}

/// Returns the same as lines of a unit file's `[Service]` section.
pub fn lines(places: &Places) -> String {
    table(places).iter().fold(String::new(), |text, row| text + row.name + "=" + &row.setting.text() + "\n")
}

impl Setting {
    fn name_on_bus(&self, name: &'static str) -> &'static str {
        match self {
            Self::Percent(_) => "MemoryMaxScale",
            _ => name,
        }
    }

    fn into_value(self) -> Value<'static> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        match self {
            Self::Flag(on) => Value::from(on),
            Self::Word(word) => Value::from(word),
            Self::Unsigned(number, _) => Value::from(number),
            Self::Narrow(number, _) => Value::from(number),
            Self::Signed(number, _) => Value::from(number),
            Self::Percent(part) => Value::from(u32::MAX / 100 * part),
            Self::Names(names) => Value::from(owned(names)),
            Self::Allowed(names) => Value::from((true, owned(names))),
            Self::Denied(names) => Value::from((false, owned(names))),
            Self::Capabilities(all) => Value::from(all.iter().fold(0_u64, |set, (bit, _)| set | 1 << bit)),
            Self::Paths(paths) => Value::from(paths.iter().map(|path| optional(path)).collect::<Vec<_>>()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Flag(true) => "yes".to_owned(),
            Self::Flag(false) => "no".to_owned(),
            Self::Word(text) | Self::Unsigned(_, text) | Self::Narrow(_, text) | Self::Signed(_, text) => {
                (*text).to_owned()
            }
            Self::Percent(part) => format!("{part}%"),
            Self::Names(names) | Self::Allowed(names) => names.join(" "),
            Self::Denied(names) => format!("~{}", names.join(" ")),
            Self::Capabilities(all) => all.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(" "),
            Self::Paths(paths) => {
                let quoted = |path: &PathBuf| format!("\"{}\"", specified(&optional(path)));
                paths.iter().map(quoted).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// A path that may be missing (systemd.exec(5)).
fn optional(path: &Path) -> String {
    format!("-{}", path.display())
}

/// Writes a path as a word in quotes of a unit file (systemd.syntax(7), systemd.unit(5) on specifiers).
fn specified(path: &str) -> String {
    path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(own_tmp: bool) -> Places {
        Places { writable: vec!["/opt/a b".into()], read_only: vec!["/opt/100%".into()], own_tmp }
    }

    #[test]
    fn an_older_systemd_gets_no_property_that_it_does_not_know() {
        let named = |version| -> Vec<&str> {
            properties(version, &places(true)).into_iter().map(|(name, _)| name).collect()
        };
        assert!(named(244).contains(&"ProtectKernelLogs"));
        assert!(!named(244).contains(&"ProtectClock"));
        assert!(named(247).contains(&"ProtectClock"));
        assert_eq!(named(247), named(300), "Debian 11 has 247 and gets all of them");
        assert!(!named(300).contains(&"RestrictSUIDSGID"));
    }

    #[test]
    fn the_bus_and_a_unit_file_get_the_same() {
        let text = lines(&places(true));
        for line in [
            "ProtectSystem=strict",
            "ReadWritePaths=\"-/opt/a b\"",
            "ReadOnlyPaths=\"-/opt/100%%\"",
            "SystemCallFilter=@system-service",
            "SystemCallFilter=~ptrace process_vm_readv process_vm_writev @mount @resources",
            "MemoryMax=75%",
            "UMask=0022",
            "RestrictNamespaces=yes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        let on_bus = properties(300, &places(true));
        assert_eq!(on_bus.len(), text.lines().count());
        let value = |name: &str| on_bus.iter().find(|(found, _)| *found == name).map(|(_, value)| value);
        assert_eq!(value("CapabilityBoundingSet"), Some(&Value::from(0x8_003f_u64)));
        assert_eq!(value("ReadWritePaths"), Some(&Value::from(vec!["-/opt/a b".to_owned()])));
    }

    #[test]
    fn a_unit_without_a_tmp_of_its_own_writes_to_that_of_all() {
        let text = lines(&places(false));
        assert!(text.contains("PrivateTmp=no\n"), "{text}");
        assert!(text.contains("ReadWritePaths=\"-/opt/a b\" \"-/tmp\" \"-/var/tmp\"\n"), "{text}");
    }
}
