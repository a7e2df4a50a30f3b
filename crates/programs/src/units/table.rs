//! The table of units: the user of each role, the resources that it may reach, and its limits. It is one file: the
//! entire confinement can be read in one place. The module touches nothing; [`super::systemd`] and [`super::launcher`]
//! put the table into force.
//!
//! Each property names the version of systemd that introduced it: systemd refuses the start of a unit with an unknown
//! property, so such a property is left out and counted as missing (systemd.exec(5), org.freedesktop.systemd1(5)).

use std::time::Duration;

use crate::systemd::property::{Property, Value};

/// The purpose of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::Display, strum::VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Role {
    /// Queries the remote and fetches from it; the only role with credentials of the remote.
    Fetch,
    /// Reads the content of a commit, prepares the tree, builds the environment.
    Build,
    /// Runs programs of the application before the stop.
    Rehearse,
    /// Runs programs of the application after the stop.
    Hooks,
    /// Works in the working tree while the service is stopped.
    Align,
    /// Reads files of the service user.
    Inspect,
    /// Has the sockets of the service while the service is stopped. It accepts no connection from them.
    Hold,
    /// Sends the requests of the health check to the service.
    Probe,
}

/// The user that a role runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// `ladylinux-refresh`, which owns the mirror and the environments.
    Builder,
    /// `ladylinux-staging`, which owns nothing.
    Staging,
    /// The owner of `app/`.
    Service,
}

impl Role {
    /// All roles.
    pub const ALL: &'static [Self] = <Self as strum::VariantArray>::VARIANTS;

    /// Returns the user that it runs as.
    pub(crate) fn user(self) -> User {
        match self {
            Self::Fetch | Self::Build => User::Builder,
            Self::Rehearse | Self::Hold | Self::Probe => User::Staging,
            Self::Hooks | Self::Align | Self::Inspect => User::Service,
        }
    }

    /// Returns whether it reaches the network.
    pub(crate) fn has_network(self) -> bool {
        matches!(self, Self::Fetch | Self::Build | Self::Probe)
    }

    /// Returns whether it works while the service still runs, and so must not take resources from it.
    pub(crate) fn gives_way(self) -> bool {
        matches!(self, Self::Fetch | Self::Build | Self::Rehearse)
    }

    /// Returns whether it starts programs of the application, which may use any system call that programs use.
    fn runs_foreign_programs(self) -> bool {
        matches!(self, Self::Build | Self::Rehearse | Self::Hooks)
    }

    /// Returns how many processes and threads it may have.
    pub(crate) fn tasks(self) -> u64 {
        match self {
            Self::Fetch | Self::Align | Self::Inspect => 512,
            Self::Build | Self::Rehearse => 2048,
            Self::Hooks => 4096,
            // One thread that waits, one that ends with the conductor, and one that keeps watch.
            Self::Hold => 4,
            Self::Probe => 64,
        }
    }

    /// Returns how much memory it may use on a machine that has `total`, in bytes; never less than 1 GiB.
    pub(crate) fn memory(self, total: u64) -> u64 {
        let share = match self {
            Self::Fetch | Self::Align | Self::Inspect => 25,
            Self::Hold | Self::Probe => 1,
            Self::Build | Self::Rehearse => 50,
            Self::Hooks => 90,
        };
        (total / 100 * share).max(1 << 30)
    }

    /// Returns how long it may live at most if its work may take `deadline`: systemd ends it even if nothing else does.
    pub(crate) fn lifetime(deadline: Duration) -> Duration {
        deadline + Duration::from_secs(60)
    }

    /// Returns the properties of its unit that follow from the role, and from whether it is brief
    /// ([`super::UnitOptions::brief`]).
    pub(crate) fn properties_of(self, brief: bool) -> Vec<Property> {
        let mut all = self.properties();
        if brief {
            all.retain(|property| !GIVING_WAY.contains(&property.name));
        }
        all
    }

    /// Returns the properties of its unit that follow from the role alone.
    pub fn properties(self) -> Vec<Property> {
        let mut all = always();
        let capabilities = Value::Capabilities(if self == Self::Hold { &FILTERS } else { &[] });
        for (name, since) in [("CapabilityBoundingSet", 217), ("AmbientCapabilities", 229)] {
            all.push(Property { name, since, value: capabilities.clone() });
        }
        let mut add = |name, since, value| all.push(Property { name, since, value });
        add("TasksMax", 227, Value::Number(self.tasks()));
        if self.has_network() {
            add("RestrictAddressFamilies", 211, Value::Only(&["AF_UNIX", "AF_INET", "AF_INET6"]));
        } else {
            add("PrivateNetwork", 33, Value::Flag(true));
            add("RestrictAddressFamilies", 211, Value::Only(&["AF_UNIX"]));
        }
        // Interpreters and repositories may be below /home. Their own modes decide which users can read them.
        let home = if matches!(self, Self::Align | Self::Hold | Self::Probe) { "yes" } else { "read-only" };
        add("ProtectHome", 214, Value::Text(home));
        if !self.runs_foreign_programs() {
            // Libraries read the number of processors and the size of the memory from /proc; git does not.
            add("ProcSubset", 247, Value::Text("pid"));
        }
        if matches!(self, Self::Rehearse | Self::Hooks | Self::Inspect | Self::Hold | Self::Probe) {
            // git sets the bit on the directories of a shared repository.
            add("RestrictSUIDSGID", 242, Value::Flag(true));
        }
        if self == Self::Hold {
            // The sockets belong to the machine's network: with ioctl(2) on them the capability would reach that
            // network.
            add("SystemCallFilter", 187, Value::Except(&["ioctl"]));
        }
        if self.user() != User::Service {
            // The running service shares the service user, whose queues and memory this would remove.
            add("RemoveIPC", 232, Value::Flag(true));
        }
        if self.gives_way() {
            add("CPUSchedulingPolicy", 5, Value::Signed(SCHED_IDLE));
            add("IOSchedulingClass", 5, Value::Signed(IOPRIO_CLASS_IDLE));
        }
        if self.gives_way() || self == Self::Inspect {
            add("OOMScoreAdjust", 5, Value::Signed(1000));
            add("Nice", 5, Value::Signed(10));
        }
        all
    }
}

/// The capability to attach a filter to a socket, on kernels that do not allow that for every process. Without calls
/// that open network sockets, and without ioctl(2), it only serves to set options of the sockets that the unit has.
const FILTERS: [(u32, &str); 1] = [(12, "CAP_NET_ADMIN")];

/// The properties that make a unit give way.
const GIVING_WAY: [&str; 3] = ["CPUSchedulingPolicy", "IOSchedulingClass", "Nice"];
/// `SCHED_IDLE` of sched(7).
const SCHED_IDLE: i32 = 5;
/// `IOPRIO_CLASS_IDLE` of `ioprio_set(2)`.
const IOPRIO_CLASS_IDLE: i32 = 3;

/// Returns the properties that every unit has.
fn always() -> Vec<Property> {
    let property = |name, since, value| Property { name, since, value };
    vec![
        property("Type", 240, Value::Text("exec")),
        property("KillMode", 187, Value::Text("control-group")),
        property("SendSIGKILL", 187, Value::Flag(true)),
        property("TimeoutStopUSec", 188, Value::Number(2_000_000)),
        property("OOMPolicy", 243, Value::Text("continue")),
        property("CollectMode", 236, Value::Text("inactive-or-failed")),
        property("UMask", 217, Value::Small(0o022)),
        property("LimitCORE", 215, Value::Number(0)),
        property("KeyringMode", 235, Value::Text("private")),
        property("NoNewPrivileges", 187, Value::Flag(true)),
        property("SecureBits", 217, Value::Signed(0)),
        property("SystemCallFilter", 187, Value::Only(&["@system-service"])),
        property("SystemCallErrorNumber", 209, Value::Signed(EPERM)),
        property("SystemCallArchitectures", 209, Value::Words(&["native"])),
        property("LockPersonality", 235, Value::Flag(true)),
        property("RestrictRealtime", 231, Value::Flag(true)),
        property("RestrictNamespaces", 233, Value::Number(0)),
        property("ProtectSystem", 214, Value::Text("strict")),
        property("PrivateTmp", 5, Value::Flag(true)),
        property("PrivateDevices", 209, Value::Flag(true)),
        property("DevicePolicy", 208, Value::Text("closed")),
        property("ProtectKernelTunables", 232, Value::Flag(true)),
        property("ProtectKernelModules", 232, Value::Flag(true)),
        property("ProtectKernelLogs", 244, Value::Flag(true)),
        property("ProtectControlGroups", 232, Value::Flag(true)),
        property("ProtectClock", 245, Value::Flag(true)),
        property("ProtectHostname", 242, Value::Flag(true)),
        property("ProtectProc", 247, Value::Text("invisible")),
    ]
}

/// `EPERM` of errno(3): the error of a refused system call.
const EPERM: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::property::for_version;

    fn value(role: Role, name: &str) -> Option<Value> {
        role.properties().into_iter().find(|property| property.name == name).map(|property| property.value)
    }

    #[test]
    fn every_role_is_confined() {
        for &role in Role::ALL {
            assert_eq!(value(role, "NoNewPrivileges"), Some(Value::Flag(true)), "{role:?}");
            let capabilities: &[_] = if role == Role::Hold { &FILTERS } else { &[] };
            for name in ["CapabilityBoundingSet", "AmbientCapabilities"] {
                assert_eq!(value(role, name), Some(Value::Capabilities(capabilities)), "{role:?}");
            }
            assert_eq!(value(role, "ProtectSystem"), Some(Value::Text("strict")), "{role:?}");
            assert_eq!(value(role, "KillMode"), Some(Value::Text("control-group")), "{role:?}");
            assert_eq!(value(role, "RestrictNamespaces"), Some(Value::Number(0)), "{role:?}");
            assert!(value(role, "TasksMax").is_some(), "{role:?}");
            let is_list = |property: &Property| matches!(property.value, Value::Only(_) | Value::Except(_));
            let names: Vec<&str> = role
                .properties()
                .iter()
                .filter(|property| !is_list(property))
                .map(|property| property.name)
                .collect();
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len(), "{role:?} has a property twice");
        }
    }

    #[test]
    fn only_fetch_build_and_probe_reach_the_network() {
        for &role in Role::ALL {
            let expected = !matches!(role, Role::Fetch | Role::Build | Role::Probe);
            assert_eq!(value(role, "PrivateNetwork").is_some(), expected, "{role:?}");
        }
    }

    #[test]
    fn a_unit_that_works_beside_the_service_has_a_lower_weight() {
        for role in [Role::Fetch, Role::Build, Role::Rehearse] {
            assert_eq!(value(role, "OOMScoreAdjust"), Some(Value::Signed(1000)));
            assert_eq!(value(role, "CPUSchedulingPolicy"), Some(Value::Signed(SCHED_IDLE)));
        }
        for role in [Role::Hooks, Role::Align] {
            assert_eq!(value(role, "CPUSchedulingPolicy"), None, "the service waits for it");
        }
    }

    #[test]
    fn an_older_systemd_gets_supported_properties_and_the_others_are_named() {
        let (taken, missing) = for_version(Role::Align.properties(), 245);
        assert_eq!(missing, ["ProtectProc needs systemd 247", "ProcSubset needs systemd 247"]);
        assert!(taken.iter().all(|property| property.since <= 245));
        for &role in Role::ALL {
            assert!(for_version(role.properties(), 247).1.is_empty());
        }
    }

    #[test]
    fn memory_is_a_share_of_the_machine_and_never_too_little_for_git() {
        assert_eq!(Role::Fetch.memory(2 << 30), 1 << 30);
        assert_eq!(Role::Hooks.memory(100 << 30), 90 << 30);
    }
}
