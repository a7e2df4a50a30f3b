//! The properties of a unit that this program reads, from the several hundred that systemd sends.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::LazyLock;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use zvariant::{OwnedValue, Signature, Type, Value};

/// The names of the properties that are kept, separated by spaces. Decoding a value costs more than all other parts of
/// a call.
const NAMES: &str = "\
    Accept ActiveEnterTimestamp ActiveState AssertResult Asserts BindPaths BindReadOnlyPaths BindsTo BoundBy ConditionResult Conditions \
    ConsistsOf ControlGroup DropInPaths DynamicUser Environment EnvironmentFiles ExecCondition ExecPaths ExecMainCode ExecMainExitTimestamp \
    ExecMainPID ExecMainStartTimestamp ExecMainStatus ExecStart ExecStartPost ExecStartPre FailureAction FragmentPath \
    Group InactiveEnterTimestamp LoadCredential ReadOnlyPaths ReadWritePaths RootDirectory RootImage SupplementaryGroups \
    InvocationID Job KillMode Listen LoadError LoadState MainPID NRestarts NeedDaemonReload PIDFile PartOf \
    PropagatesStopTo RefuseManualStart RefuseManualStop RequiredBy Requires Requisite \
    RequisiteOf Result Slice StartLimitAction StopPropagatedFrom SubState SuccessAction TimeoutStartUSec TimeoutStopUSec TriggeredBy \
    Triggers Type UnitFileState User WorkingDirectory";

static KEPT: LazyLock<HashSet<&str>> = LazyLock::new(|| NAMES.split(' ').collect());

/// Properties in the form of the bus. A missing one (an older systemd may not have it) has no value.
#[derive(Debug)]
pub(super) struct Properties(HashMap<String, OwnedValue>);

impl Properties {
    pub(super) fn value<T: TryFrom<OwnedValue>>(&self, name: &str) -> Option<T> {
        let value = self.get(name)?.try_clone().ok()?;
        T::try_from(value).ok()
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.get(name).map(|value| &**value) {
            Some(Value::Str(text)) => text.to_string(),
            _ => String::new(),
        }
    }

    /// Returns the units that properties name, each once, in their order.
    pub(super) fn units(&self, names: &[&str]) -> Vec<String> {
        let mut units: Vec<String> = Vec::new();
        for unit in names.iter().flat_map(|name| self.value::<Vec<String>>(name).unwrap_or_default()) {
            if !units.contains(&unit) {
                units.push(unit);
            }
        }
        units
    }

    fn get(&self, name: &str) -> Option<&OwnedValue> {
        debug_assert!(is_kept(name), "{name} is not kept");
        self.0.get(name)
    }

    /// Makes properties from values, for tests.
    #[cfg(test)]
    pub(super) fn new(values: HashMap<String, OwnedValue>) -> Self {
        Self(values)
    }
}

fn is_kept(name: &str) -> bool {
    KEPT.contains(name)
}

impl Type for Properties {
    const SIGNATURE: &'static Signature = <HashMap<String, OwnedValue> as Type>::SIGNATURE;
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Kept)
    }
}

struct Kept;

impl<'de> Visitor<'de> for Kept {
    type Value = Properties;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of properties")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
        let mut kept = HashMap::with_capacity(KEPT.len());
        while let Some(name) = map.next_key::<&str>()? {
            if is_kept(name) {
                let name = name.to_owned();
                kept.insert(name, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Properties(kept))
    }
}

#[cfg(test)]
mod tests {
    use zvariant::serialized::Context;
    use zvariant::{LE, to_bytes};

    use super::*;

    #[test]
    fn unread_properties_are_left_out_and_the_rest_is_unchanged() {
        let command = ("/bin/x", vec!["x", "-y"], false, 1_u64);
        let sent: HashMap<&str, Value<'_>> = HashMap::from([
            ("ActiveState", Value::from("active")),
            ("ExecStart", Value::from(vec![command.clone()])),
            ("ExecReload", Value::from(vec![command])),
            ("Requires", Value::from(vec!["a.service", "b.socket"])),
            ("CPUWeight", Value::from(7_u64)),
            ("SomethingNew", Value::from(("a", 1_i32))),
        ]);
        let bytes = to_bytes(Context::new_dbus(LE, 0), &sent).unwrap();
        let (read, _): (Properties, usize) = bytes.deserialize().unwrap();
        assert_eq!(read.text("ActiveState"), "active");
        assert_eq!(read.units(&["Requires"]), ["a.service", "b.socket"]);
        let commands: Vec<(String, Vec<String>, bool, u64)> = read.value("ExecStart").unwrap();
        assert_eq!(commands[0].1, ["x", "-y"]);
        assert_eq!(read.0.len(), 3);
    }
}
