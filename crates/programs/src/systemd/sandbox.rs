//! The restrictions of a unit of this program: one table of properties, for transient units and for unit files.
//!
//! systemd refuses a transient unit with an unknown property, so each row names the version that introduced it
//! (systemd.exec(5), systemd.resource-control(5)). A unit file may name all of them: in it an unknown one is a warning.
//!
//! Some properties are missing on purpose. `ProtectControlGroups` forbids `cgroup.kill`, which ends the remaining
//! processes of the service. `IPAddressDeny` forbids requests to a service that listens at an address other than that
//! of the loopback. `ProtectProc` hides processes from users without `CAP_SYS_PTRACE`: a run has it, since it must find
//! the processes of the service.

use std::path::PathBuf;

use super::property::{Property, Value, for_version};

/// The directories that a unit may write to, and those that it only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directories that the unit writes to. A rename from one to another fails, as between two file systems.
    pub writable: Vec<PathBuf>,
    /// Directories below them that the unit only reads.
    pub read_only: Vec<PathBuf>,
    /// Whether `/tmp` and `/var/tmp` are the unit's own.
    pub own_tmp: bool,
}

/// A property, and the text of its value in a unit file if it differs from the value's own text.
struct Row {
    property: Property,
    text: Option<&'static str>,
}

/// The capabilities that root needs for a refresh: to change owners and modes, end the processes of the service, and
/// read in `/proc` which of them belong to a run (linux/capability.h). It never acts as another user: units do that.
const CAPABILITIES: [(u32, &str); 7] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (19, "CAP_SYS_PTRACE"),
];

/// The families of the sockets for the bus, for requests to the service, and for the kernel's list of listening
/// processes. A change over the last one requires a capability that the unit does not have.
const FAMILIES: [&str; 4] = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"];

const REFUSED_CALLS: [&str; 5] = ["ptrace", "process_vm_readv", "process_vm_writev", "@mount", "@resources"];

/// `EPERM`: a program that makes a refused call gets an error and is not killed.
const REFUSAL: i32 = 1;

fn table(places: &Places) -> Vec<Row> {
    let row = |name, since, value| Row { property: Property { name, since, value }, text: None };
    let written =
        |name, since, value, text| Row { property: Property { name, since, value }, text: Some(text) };
    let mut writable = places.writable.clone();
    if !places.own_tmp {
        writable.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
    }
    vec![
        row("NoNewPrivileges", 187, Value::Flag(true)),
        row("ProtectSystem", 232, Value::Text("strict")),
        row("ReadWritePaths", 231, Value::Paths(writable)),
        row("ReadOnlyPaths", 231, Value::Paths(places.read_only.clone())),
        // A key for ssh, or a token, may be below /root.
        row("ProtectHome", 214, Value::Text("read-only")),
        row("PrivateTmp", 183, Value::Flag(places.own_tmp)),
        row("PrivateDevices", 209, Value::Flag(true)),
        row("PrivateMounts", 239, Value::Flag(true)),
        row("ProtectProc", 247, Value::Text("invisible")),
        row("ProtectKernelTunables", 232, Value::Flag(true)),
        row("ProtectKernelModules", 232, Value::Flag(true)),
        row("ProtectKernelLogs", 244, Value::Flag(true)),
        row("ProtectClock", 245, Value::Flag(true)),
        row("ProtectHostname", 242, Value::Flag(true)),
        row("LockPersonality", 235, Value::Flag(true)),
        row("RestrictRealtime", 231, Value::Flag(true)),
        row("RestrictSUIDSGID", 242, Value::Flag(true)),
        row("MemoryDenyWriteExecute", 231, Value::Flag(true)),
        written("RestrictNamespaces", 233, Value::Number(0), "yes"),
        row("RestrictAddressFamilies", 211, Value::Only(&FAMILIES)),
        row("SystemCallArchitectures", 209, Value::Words(&["native"])),
        row("SystemCallFilter", 239, Value::Only(&["@system-service"])),
        row("SystemCallFilter", 239, Value::Except(&REFUSED_CALLS)),
        written("SystemCallErrorNumber", 209, Value::Signed(REFUSAL), "EPERM"),
        row("CapabilityBoundingSet", 183, Value::Capabilities(&CAPABILITIES)),
        row("KeyringMode", 235, Value::Text("private")),
        written("TasksMax", 227, Value::Number(512), "512"),
        row("MemoryMax", 232, Value::Percent(75)),
        written("UMask", 183, Value::Small(0o022), "0022"),
    ]
}

/// Returns the properties of a transient unit, those that systemd `version` supports.
pub(crate) fn properties(version: u32, places: &Places) -> Vec<(&'static str, zvariant::Value<'static>)> {
    let all = table(places).into_iter().map(|row| row.property).collect();
    let (known, _) = for_version(all, version);
    known.iter().map(|property| (property.name_on_the_bus(), property.value.on_the_bus())).collect()
}

/// Returns the same as lines of a unit file's `[Service]` section.
pub fn lines(places: &Places) -> String {
    table(places).iter().fold(String::new(), |lines, Row { property, text }| {
        let text = text.map_or_else(|| property.value.text(), str::to_owned);
        lines + property.name + "=" + &text + "\n"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(own_tmp: bool) -> Places {
        Places { writable: vec!["/opt/a b".into()], read_only: vec!["/opt/100%".into()], own_tmp }
    }

    #[test]
    fn an_older_systemd_gets_only_supported_properties() {
        let named = |version| -> Vec<&str> {
            properties(version, &places(true)).into_iter().map(|(name, _)| name).collect()
        };
        assert!(named(244).contains(&"ProtectKernelLogs"));
        assert!(!named(244).contains(&"ProtectClock"));
        assert!(named(247).contains(&"ProtectClock"));
        assert_eq!(named(247), named(300), "Debian 11 has 247 and gets all of them");
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
        assert_eq!(value("CapabilityBoundingSet"), Some(&zvariant::Value::from(0x8_003f_u64)));
        assert_eq!(value("ReadWritePaths"), Some(&zvariant::Value::from(vec!["-/opt/a b".to_owned()])));
    }

    #[test]
    fn a_unit_without_a_private_tmp_writes_to_the_shared_tmp() {
        let text = lines(&places(false));
        assert!(text.contains("PrivateTmp=no\n"), "{text}");
        assert!(text.contains("ReadWritePaths=\"-/opt/a b\" \"-/tmp\" \"-/var/tmp\"\n"), "{text}");
    }
}
