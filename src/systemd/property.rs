//! Properties of units as values: name, the version of systemd that introduced it, and what systemd is to take.
//!
//! A property that systemd does not know refuses the whole start, so it is left out there ([`for_version`]).

use zbus::zvariant;

/// A value of a property, typed as systemd takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(&'static str),
    /// Yes or no.
    Flag(bool),
    /// A number of 64 bits: sizes, counts, sets of bits, times in microseconds.
    Number(u64),
    /// A number of 32 bits.
    Small(u32),
    /// A number with a sign.
    Signed(i32),
    /// A list of what is allowed; everything else is refused.
    Only(&'static [&'static str]),
    /// A list.
    Words(&'static [&'static str]),
}

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name on the bus.
    pub name: &'static str,
    /// The version of systemd that introduced it.
    pub since: u32,
    /// Its value.
    pub value: Value,
}

/// Which properties a systemd of `version` takes, and the names of those that it does not.
pub fn for_version(properties: Vec<Property>, version: u32) -> (Vec<Property>, Vec<String>) {
    let (taken, missing): (Vec<_>, Vec<_>) =
        properties.into_iter().partition(|property| property.since <= version);
    let missing =
        missing.iter().map(|property| format!("{} needs systemd {}", property.name, property.since));
    (taken, missing.collect())
}

impl Value {
    /// Returns the value as it goes over the bus.
    pub(super) fn on_the_bus(&self) -> zvariant::Value<'static> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        match self {
            Self::Text(text) => zvariant::Value::from(*text),
            Self::Flag(on) => zvariant::Value::from(*on),
            Self::Number(number) => zvariant::Value::from(*number),
            Self::Small(number) => zvariant::Value::from(*number),
            Self::Signed(number) => zvariant::Value::from(*number),
            Self::Only(words) => zvariant::Value::from((true, owned(words))),
            Self::Words(words) => zvariant::Value::from(owned(words)),
        }
    }
}
