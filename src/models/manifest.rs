//! The application's `models/manifest.json`, schema 0.1: which models it expects, where, and with which checksums.
//!
//! It describes; nothing is ever downloaded because of it. It is read as a stream, entry by entry, so that one of 50 MB
//! costs little more than its entries; what is wrong with one entry leaves the others usable. Whoever wrote it may have
//! meant harm, so what nothing here depends on is passed over, and what may be kept has a limit.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::Outcome;
use crate::process::interrupt;

use super::store::Store;
use super::{AT_MOST, Algorithm, COMPLAINTS, Claim, Digest, Finding, Header, Need, Said, Verdict};
use super::{is_inside, told_short};

/// Where it lies in the application's tree.
pub const PLACE: &str = "models/manifest.json";

/// How many bytes it may have.
pub const LIMIT: u64 = 64 << 20;

/// How many bytes one entry may have: taken apart, it needs many times as much.
const ENTRY_LIMIT: usize = 1 << 20;

/// The version of the schema that is known here.
const VERSION: &str = "0.1";

/// A manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    /// Where the models lie, as it says.
    pub base: Option<PathBuf>,
    /// The entries that can be used.
    pub models: Vec<Model>,
    /// What is wrong with entries, and with which; no more than some.
    pub complaints: Vec<(String, String)>,
    /// How many complaints there are beyond these.
    pub more: usize,
}

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Its file, relative to the base.
    pub path: PathBuf,
    /// Whether it has to be there.
    pub need: Need,
    /// Its digest; `None` where the checksum is empty.
    pub digest: Option<Digest>,
    /// Whether it is a GGUF file.
    pub header: Header,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// It is no JSON (with line and column), no manifest, too long, or of a version that is not known here.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > LIMIT {
            return Err(format!("it has more than {LIMIT} bytes"));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let raw = Top.deserialize(&mut reader).map_err(|error| in_words(&error))?;
        reader.end().map_err(|error| in_words(&error))?;
        let Some(version) = raw.version else { return Err("it has no schema_version".to_owned()) };
        if serde_json::from_str::<String>(version).ok().as_deref() != Some(VERSION) {
            let version = told_short(version);
            return Err(format!("its schema_version is {version}; known here is \"{VERSION}\""));
        }
        if !raw.has_models {
            return Err("it has no list of models".to_owned());
        }
        Ok(raw.manifest)
    }

    /// Says what is wrong with its entries; `place` is the manifest itself.
    pub fn verdicts(&self, place: &Verdict) -> Vec<Verdict> {
        let told = |from: String, why: String| Verdict {
            from,
            finding: Finding::Inconsistent(why),
            ..place.clone()
        };
        let complaints = self.complaints.iter();
        let mut verdicts: Vec<Verdict> =
            complaints.map(|(which, why)| told(format!("manifest: {which}"), why.clone())).collect();
        if self.more > 0 {
            let why = format!("{} more things are wrong with its entries", self.more);
            verdicts.push(told(place.from.clone(), why));
        }
        verdicts
    }

    /// Says what this manifest claims about the files in `store`.
    ///
    /// # Errors
    /// The interruption.
    pub fn claims(&self, store: &Store, said: &mut Said) -> Outcome<()> {
        for model in &self.models {
            interrupt::check()?;
            let claim = Claim {
                path: PathBuf::new(),
                shown: String::new(),
                need: model.need,
                size: None,
                digest: model.digest.clone(),
                from: format!("manifest: {}", told_short(&model.id)),
                header: model.header,
            };
            said.push(store, &model.path, claim);
        }
        Ok(())
    }

    fn complain(&mut self, which: String, why: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push((which, why));
        } else {
            self.more += 1;
        }
    }
}

fn in_words(error: &serde_json::Error) -> String {
    told_short(&error.to_string())
}

/// A manifest while it is read; the version may come last.
struct Raw<'de> {
    manifest: Manifest,
    /// As it is written.
    version: Option<&'de str>,
    has_models: bool,
}

struct Top;

impl<'de> DeserializeSeed<'de> for Top {
    type Value = Raw<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with schema_version and models")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let mut raw = Raw { manifest: Manifest::default(), version: None, has_models: false };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "schema_version" => raw.version = Some(map.next_value::<&RawValue>()?.get()),
                "models_base_dir" => raw.manifest.base = Some(map.next_value::<PathBuf>()?),
                "models" if raw.has_models => return Err(de::Error::custom("it has two lists of models")),
                "models" => {
                    map.next_value_seed(Models(&mut raw.manifest))?;
                    raw.has_models = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(raw)
    }
}

struct Models<'a>(&'a mut Manifest);

impl<'de> DeserializeSeed<'de> for Models<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Models<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of models")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut ids: HashMap<String, usize> = HashMap::new();
        let mut index = 0;
        while let Some(entry) = seq.next_element::<&RawValue>()? {
            if index == AT_MOST {
                return Err(de::Error::custom(format!("it lists more than {AT_MOST} models")));
            }
            let which = |id: Option<&str>| match id {
                Some(id) => format!("{} (models[{index}])", told_short(id)),
                None => format!("models[{index}]"),
            };
            let entry = fields(entry.get());
            let id = entry.as_ref().ok().and_then(|fields| fields.get("id")).and_then(Value::as_str);
            let id = id.map(str::to_owned);
            match id.as_ref().and_then(|id| ids.get(id)) {
                Some(first) => {
                    self.0.complain(which(id.as_deref()), format!("its id is that of models[{first}] too"));
                }
                None => {
                    ids.extend(id.clone().map(|id| (id, index)));
                }
            }
            match entry.and_then(model) {
                Ok((model, complaint)) => {
                    if let Some(why) = complaint {
                        self.0.complain(which(id.as_deref()), why);
                    }
                    self.0.models.push(model);
                }
                Err(why) => self.0.complain(which(id.as_deref()), why),
            }
            index += 1;
        }
        Ok(())
    }
}

/// Takes one entry apart.
fn fields(entry: &str) -> Result<Map<String, Value>, String> {
    if entry.len() > ENTRY_LIMIT {
        return Err(format!("it has more than {ENTRY_LIMIT} bytes"));
    }
    match serde_json::from_str(entry) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err("it is no object".to_owned()),
        Err(error) => Err(in_words(&error)),
    }
}

/// Reads an entry; where only its checksum cannot be used, the file is still expected.
fn model(mut fields: Map<String, Value>) -> Result<(Model, Option<String>), String> {
    let id = required(&mut fields, "id")?;
    let folder = required(&mut fields, "local_path")?;
    let name = required(&mut fields, "filename")?;
    for (key, text) in [("id", &id), ("filename", &name)] {
        if text.trim().is_empty() {
            return Err(format!("its {key} is empty"));
        }
    }
    if name.contains('/') || !is_inside(&PathBuf::from(&name)) {
        return Err(format!("its filename {} is no name of a file", quoted(&name)));
    }
    if folder.starts_with('/') {
        return Err(format!("its local_path {} is absolute", quoted(&folder)));
    }
    // Joined, the path has to stay below the base, so `..` is refused and `./` is not.
    let path = PathBuf::from(&folder).join(&name);
    if !is_inside(&path) {
        return Err(format!("its local_path {} leaves the base", quoted(&folder)));
    }
    let need = match fields.shift_remove("required") {
        None | Some(Value::Null | Value::Bool(false)) => Need::Optional,
        Some(Value::Bool(true)) => Need::Required,
        Some(_) => return Err("its required is neither true nor false".to_owned()),
    };
    let is_gguf = match fields.get("format") {
        None | Some(Value::Null) => false,
        Some(Value::String(format)) => format.eq_ignore_ascii_case("gguf"),
        Some(_) => return Err("its format is no text".to_owned()),
    };
    let header = if is_gguf || super::is_gguf_name(&path) { Header::Gguf } else { Header::None };
    let (digest, complaint) = match fields.shift_remove("checksum").map(checksum) {
        None | Some(Ok(None)) => (None, None),
        Some(Ok(digest)) => (digest, None),
        Some(Err(why)) => (None, Some(why)),
    };
    let path = path.components().filter(|part| *part != std::path::Component::CurDir).collect();
    Ok((Model { id, path, need, digest, header }, complaint))
}

fn required(fields: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match fields.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Null) | None => Err(format!("it has no {key}")),
        Some(_) => Err(format!("its {key} is no text")),
    }
}

/// An empty value says nothing, whatever the algorithm.
fn checksum(value: Value) -> Result<Option<Digest>, String> {
    let mut fields = match value {
        Value::Null => return Ok(None),
        Value::Object(fields) => fields,
        _ => return Err("its checksum is no object".to_owned()),
    };
    let hex = match fields.shift_remove("value") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(hex)) => hex,
        Some(_) => return Err("the value of its checksum is no text".to_owned()),
    };
    if hex.trim().is_empty() {
        return Ok(None);
    }
    match fields.shift_remove("algorithm") {
        Some(Value::String(name)) => Digest::parse(Algorithm::parse(&name)?, &hex).map(Some),
        None | Some(Value::Null) => Err("its checksum names no algorithm".to_owned()),
        Some(_) => Err("the algorithm of its checksum is no text".to_owned()),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", told_short(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(models: &str) -> Manifest {
        let text = format!(r#"{{"schema_version": "0.1", "models": [{models}]}}"#);
        Manifest::parse(text.as_bytes()).unwrap()
    }

    fn complaint(model: &str) -> String {
        let manifest = of(model);
        let [(_, why)] = &manifest.complaints[..] else { panic!("{:?}", manifest.complaints) };
        why.clone()
    }

    #[test]
    fn three_fields_are_enough_and_the_base_itself_is_a_folder_too() {
        let manifest = of(r#"{"id": "a", "local_path": "./", "filename": "a.gguf"}"#);
        let model = &manifest.models[0];
        assert_eq!((model.path.to_str(), model.need), (Some("a.gguf"), Need::Optional));
        assert_eq!((&model.digest, model.header), (&None, Header::Gguf));
        assert_eq!(manifest.complaints, []);
    }

    #[test]
    fn what_real_machines_have_is_read_and_unknown_fields_are_passed_over() {
        let text = r#"{"models": [{"id": "mistral-7b", "display_name": "Mistral", "format": "gguf",
            "local_path": "mistral/", "filename": "m.gguf", "required": false, "future": [1],
            "checksum": {"algorithm": "sha256", "value": ""}}],
            "purpose": "p", "models_base_dir": "/opt/ladylinux/models", "schema_version": "0.1", "later": {"x": 1}}"#;
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.base.as_deref(), Some(std::path::Path::new("/opt/ladylinux/models")));
        assert_eq!((&manifest.complaints[..], manifest.more), (&[][..], 0));
        let model = &manifest.models[0];
        assert_eq!((model.path.to_str(), &model.digest), (Some("mistral/m.gguf"), &None));
    }

    #[test]
    fn what_is_no_json_is_told_with_line_and_column() {
        let why = Manifest::parse(b"{\n  \"schema_version\": \"0.1\",\n  oops\n}").unwrap_err();
        assert!(why.contains("line 3 column 3"), "{why}");
        let why = Manifest::parse(b"{\"schema_version\": \"0.1\",\n \"models\": 5}").unwrap_err();
        assert!(why.contains("a list of models") && why.contains("line 2"), "{why}");
        assert!(Manifest::parse(b"[]").unwrap_err().contains("line 1 column"));
        assert!(Manifest::parse(b"").is_err());
        assert!(Manifest::parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(Manifest::parse(b"{\"schema_version\": \"0.1\", \"models\": []} x").is_err());
    }

    #[test]
    fn another_version_is_refused_and_named() {
        let why = Manifest::parse(br#"{"schema_version": "0.2", "models": []}"#).unwrap_err();
        assert_eq!(why, "its schema_version is \"0.2\"; known here is \"0.1\"");
        assert!(Manifest::parse(br#"{"schema_version": 0.1, "models": []}"#).is_err());
        assert!(Manifest::parse(br#"{"models": []}"#).unwrap_err().contains("no schema_version"));
        assert!(Manifest::parse(br#"{"schema_version": "0.1"}"#).unwrap_err().contains("no list of models"));
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_named_and_the_others_count() {
        let told = [
            (r#"{"local_path": "./", "filename": "f"}"#, "it has no id"),
            (r#"{"id": 5, "local_path": "./", "filename": "f"}"#, "its id is no text"),
            (r#"{"id": "a", "local_path": "/abs", "filename": "f"}"#, "is absolute"),
            (r#"{"id": "a", "local_path": "../x", "filename": "f"}"#, "leaves the base"),
            (r#"{"id": "a", "local_path": "./", "filename": "../f"}"#, "no name of a file"),
            (r#"{"id": "a", "local_path": "./", "filename": ".."}"#, "no name of a file"),
            (
                r#"{"id": "a", "local_path": "./", "filename": "f", "required": "yes"}"#,
                "neither true nor false",
            ),
            (r#""text""#, "it is no object"),
        ];
        for (entry, why) in told {
            assert!(complaint(entry).contains(why), "{entry}: {}", complaint(entry));
            assert!(of(entry).models.is_empty());
        }
        let two = of(r#"5, {"id": "a", "local_path": "./", "filename": "f"}"#);
        assert_eq!((two.models.len(), two.complaints[0].0.as_str()), (1, "models[0]"));
    }

    #[test]
    fn a_checksum_that_cannot_be_used_is_told_and_the_file_still_expected() {
        let with = |checksum: &str| {
            of(&format!(r#"{{"id": "a", "local_path": "./", "filename": "f", "checksum": {checksum}}}"#))
        };
        for (checksum, why) in [
            (r#"{"algorithm": "md5", "value": "abc"}"#, "unknown algorithm \"md5\""),
            (r#"{"algorithm": "sha256", "value": "abc"}"#, "malformed"),
            (r#"{"value": "abc"}"#, "names no algorithm"),
            (r#""abc""#, "no object"),
        ] {
            let manifest = with(checksum);
            assert!(manifest.complaints[0].1.contains(why), "{checksum}: {:?}", manifest.complaints);
            assert_eq!(manifest.models.len(), 1);
        }
        assert_eq!(with(r#"{"algorithm": "whatever", "value": ""}"#).complaints, []);
    }

    #[test]
    fn a_list_of_rubbish_gives_some_complaints_and_the_number_of_the_others() {
        let manifest = of(&["5"; COMPLAINTS + 7].join(","));
        assert_eq!((manifest.complaints.len(), manifest.more), (COMPLAINTS, 7));
        let text = |entries: usize| {
            format!(r#"{{"schema_version": "0.1", "models": [{}]}}"#, vec!["5"; entries].join(","))
        };
        assert!(Manifest::parse(text(AT_MOST).as_bytes()).is_ok());
        let why = Manifest::parse(text(AT_MOST + 1).as_bytes()).unwrap_err();
        assert!(why.contains("more than 200000 models"), "{why}");
    }

    #[test]
    fn an_entry_that_is_too_long_or_no_json_inside_is_told_and_the_others_count() {
        let good = r#"{"id": "a", "local_path": "./", "filename": "f"}"#;
        for (bad, why) in [
            (format!("[{}]", vec!["0"; ENTRY_LIMIT].join(",")), "more than 1048576 bytes"),
            ("[".repeat(1_000) + &"]".repeat(1_000), "recursion limit"),
            (r#"{"id": "\ud800"}"#.to_owned(), "line 1 column"),
        ] {
            let manifest = of(&format!("{bad}, {good}"));
            assert_eq!(manifest.models.len(), 1);
            assert!(manifest.complaints[0].1.contains(why), "{:?}", manifest.complaints);
        }
    }

    #[test]
    fn an_id_that_comes_twice_is_told() {
        let entry = r#"{"id": "a", "local_path": "./", "filename": "f"}"#;
        assert_eq!(complaint(&format!("{entry}, {entry}")), "its id is that of models[0] too");
    }
}
