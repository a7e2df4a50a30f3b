//! The keys of the two files of settings, read from the types that they are parsed into.

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use super::file::{ApplicationFile, ApplicationProbe, Author, HostFile};
use super::{Hook, Models, Probe, Python, Remote, Security, Service};

/// The keys of a table; the empty name is the top of the file.
pub type TableKeys = (&'static str, &'static [&'static str]);

/// Returns the keys of the host's file.
pub fn host_keys() -> [TableKeys; 8] {
    [
        ("", fields::<HostFile>()),
        ("remote", fields::<Remote>()),
        ("python", fields::<Python>()),
        ("service", fields::<Service>()),
        ("probe", fields::<Probe>()),
        ("models", fields::<Models>()),
        ("security", fields::<Security>()),
        ("hook", fields::<Hook>()),
    ]
}

/// Returns the keys of the application's file.
pub fn application_keys() -> [TableKeys; 3] {
    [("", fields::<ApplicationFile>()), ("probe", fields::<ApplicationProbe>()), ("hook", fields::<Hook>())]
}

/// Returns the keys of one table; none for a table that `author` does not have.
pub(super) fn keys_of(table: &str, author: Author) -> &'static [&'static str] {
    let of =
        |keys: &[TableKeys]| keys.iter().find(|(name, _)| *name == table).map_or(&[][..], |(_, keys)| keys);
    match author {
        Author::Host => of(&host_keys()),
        Author::Application => of(&application_keys()),
    }
}

/// Returns the names of a struct's fields as serde reads them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    // Only the names are needed, so the deserializer ends with an error.
    let _ = T::deserialize(Fields(&mut found));
    found
}

/// A deserializer that keeps the names of the fields of the struct that is read from it.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only the names are read"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_table_are_the_fields_of_its_type() {
        assert_eq!(fields::<Models>(), ["verify", "stores"]);
        assert_eq!(fields::<String>(), [""; 0]);
        let [(_, top), tables @ ..] = host_keys();
        for (table, keys) in tables {
            assert!(top.contains(&table) && !keys.is_empty(), "{table}");
        }
    }
}
