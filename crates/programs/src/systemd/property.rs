//! Properties of units as values: the name, the version of systemd that introduced the property, and the value.
//!
//! systemd refuses the start of a unit with an unknown property, so such a property is left out ([`for_version`]).

use std::path::{Path, PathBuf};

/// A value of a property, with the type that systemd expects.
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
    /// A list of everything that is allowed; anything else is refused.
    Only(&'static [&'static str]),
    /// A list of exceptions from what is allowed.
    Except(&'static [&'static str]),
    /// A list.
    Words(&'static [&'static str]),
    /// A part of the machine's memory, in percent. Its name on the bus has `Scale` at the end.
    Percent(u32),
    /// Capabilities by number and name.
    Capabilities(&'static [(u32, &'static str)]),
    /// Paths, each of which may be missing.
    Paths(Vec<PathBuf>),
}

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// The version of systemd that introduced it.
    pub since: u32,
    /// Its value.
    pub value: Value,
}

/// Returns the properties that a systemd of `version` supports, and the names of those that it does not.
pub(crate) fn for_version(properties: Vec<Property>, version: u32) -> (Vec<Property>, Vec<String>) {
    let (taken, missing): (Vec<_>, Vec<_>) =
        properties.into_iter().partition(|property| property.since <= version);
    let missing =
        missing.iter().map(|property| format!("{} needs systemd {}", property.name, property.since));
    (taken, missing.collect())
}

impl Property {
    /// Returns its name on the bus, which can differ from the name in a unit file.
    pub(super) fn name_on_the_bus(&self) -> &'static str {
        match self.value {
            Value::Percent(_) => "MemoryMaxScale",
            _ => self.name,
        }
    }
}

impl Value {
    /// Returns the value in the form of the bus.
    pub(super) fn on_the_bus(&self) -> zvariant::Value<'static> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        match self {
            Self::Text(text) => zvariant::Value::from(*text),
            Self::Flag(on) => zvariant::Value::from(*on),
            Self::Number(number) => zvariant::Value::from(*number),
            Self::Small(number) => zvariant::Value::from(*number),
            Self::Signed(number) => zvariant::Value::from(*number),
            Self::Only(words) => zvariant::Value::from((true, owned(words))),
            Self::Except(words) => zvariant::Value::from((false, owned(words))),
            Self::Words(words) => zvariant::Value::from(owned(words)),
            Self::Percent(part) => zvariant::Value::from(u32::MAX / 100 * part),
            Self::Capabilities(all) => {
                zvariant::Value::from(all.iter().fold(0_u64, |set, (bit, _)| set | 1 << bit))
            }
            Self::Paths(paths) => {
                zvariant::Value::from(paths.iter().map(|path| optional(path)).collect::<Vec<_>>())
            }
        }
    }

    /// Returns the value in the form of a unit file.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::Flag(on) => if *on { "yes" } else { "no" }.to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Small(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Only(words) | Self::Words(words) => words.join(" "),
            Self::Except(words) => format!("~{}", words.join(" ")),
            Self::Percent(part) => format!("{part}%"),
            Self::Capabilities(all) => all.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(" "),
            Self::Paths(paths) => {
                let quoted = |path: &PathBuf| format!("\"{}\"", escape_specifiers(&optional(path)));
                paths.iter().map(quoted).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// Returns a path that may be missing, in systemd's form (systemd.exec(5)).
fn optional(path: &Path) -> String {
    format!("-{}", path.display())
}

/// Writes a path as a word in quotes of a unit file (systemd.syntax(7), systemd.unit(5) on specifiers).
fn escape_specifiers(path: &str) -> String {
    path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}
