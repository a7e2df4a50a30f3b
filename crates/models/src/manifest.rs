//! The application's `models/manifest.json`, schema 0.1: the models that it expects. The module reads nothing itself,
//! and nothing is ever downloaded because of it.
//!
//! A faulty entry leaves the others usable. Unused fields are ignored.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Expected, Format, Problems, Sha256Hex, is_inside, shortened};

/// The path in the application's tree.
pub const PATH: &str = "models/manifest.json";

/// How many bytes a manifest may have.
pub(crate) const LIMIT: u64 = 16 << 20;

/// The known version of the schema.
const VERSION: &str = "0.1";

/// A manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The directory of the models, as the manifest names it.
    pub base: Option<PathBuf>,
    /// The files of the usable entries, relative to the base.
    pub models: Vec<(PathBuf, Expected)>,
    /// The faults of entries.
    pub problems: Problems,
}

#[derive(Deserialize)]
struct Json<'a> {
    schema_version: String,
    models_base_dir: Option<PathBuf>,
    #[serde(borrow)]
    models: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    local_path: String,
    filename: String,
    required: Option<bool>,
    format: Option<String>,
    checksum: Option<Checksum>,
}

#[derive(Deserialize)]
struct Checksum {
    algorithm: Option<String>,
    value: Option<String>,
}

impl Manifest {
    /// Parses a manifest.
    ///
    /// # Errors
    /// It is not JSON (with line and column), is not a manifest, is too long, or has another version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > LIMIT {
            return Err(format!("it has more than {LIMIT} bytes"));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let json: Json<'_> = serde_json::from_slice(bytes).map_err(|error| shortened(&error.to_string()))?;
        if json.schema_version != VERSION {
            let version = shortened(&json.schema_version);
            return Err(format!("schema_version is \"{version}\", supported is \"{VERSION}\""));
        }
        let mut manifest = Self { base: json.models_base_dir, ..Self::default() };
        let mut first_of_id: HashMap<String, usize> = HashMap::new();
        for (index, raw) in json.models.iter().enumerate() {
            let entry = match serde_json::from_str::<Entry>(raw.get()) {
                Ok(entry) => entry,
                Err(error) => {
                    manifest.problem(index, None, &shortened(&error.to_string()));
                    continue;
                }
            };
            let first = *first_of_id.entry(entry.id.clone()).or_insert(index);
            if first != index {
                manifest.problem(index, Some(&entry.id), &format!("its id is that of models[{first}] too"));
            }
            manifest.take(index, &entry);
        }
        Ok(manifest)
    }

    fn problem(&mut self, index: usize, id: Option<&str>, why: &str) {
        self.problems.push(|| match id {
            Some(id) => format!("models[{index}] ({}): {why}", shortened(id)),
            None => format!("models[{index}]: {why}"),
        });
    }

    /// Adds a usable entry. A file whose checksum cannot be used is still expected.
    fn take(&mut self, index: usize, entry: &Entry) {
        let path = match entry.path() {
            Ok(path) => path,
            Err(why) => return self.problem(index, Some(&entry.id), &why),
        };
        let digest = entry.checksum.as_ref().map_or(Ok(None), Checksum::digest).unwrap_or_else(|why| {
            self.problem(index, Some(&entry.id), &why);
            None
        });
        let is_gguf = entry.format.as_deref().is_some_and(|format| format.eq_ignore_ascii_case("gguf"));
        let expected = Expected {
            from: format!("manifest: {}", shortened(&entry.id)),
            is_required: entry.required == Some(true),
            size: None,
            digest,
            format: if is_gguf { Some(Format::Gguf) } else { Format::of_name(&path) },
        };
        self.models.push((path, expected));
    }
}

impl Entry {
    fn path(&self) -> Result<PathBuf, String> {
        for (key, text) in [("id", &self.id), ("filename", &self.filename)] {
            if text.trim().is_empty() {
                return Err(format!("its {key} is empty"));
            }
        }
        let name = PathBuf::from(&self.filename);
        if self.filename.contains('/') || !is_inside(&name) {
            return Err(format!("its filename \"{}\" is not a file name", shortened(&self.filename)));
        }
        let path = PathBuf::from(&self.local_path).join(name);
        if !is_inside(&path) {
            let shown = shortened(&self.local_path);
            return Err(format!("its local_path \"{shown}\" is absolute or leaves the base"));
        }
        Ok(path.components().filter(|part| *part != std::path::Component::CurDir).collect())
    }
}

impl Checksum {
    /// Returns the digest; an empty value counts as none, for every algorithm.
    fn digest(&self) -> Result<Option<Sha256Hex>, String> {
        let hex = self.value.as_deref().unwrap_or_default();
        if hex.trim().is_empty() {
            return Ok(None);
        }
        match self.algorithm.as_deref() {
            Some(name) if name.eq_ignore_ascii_case("sha256") || name.eq_ignore_ascii_case("sha-256") => {
                Sha256Hex::parse(hex).map(Some)
            }
            Some(name) => Err(format!("the algorithm \"{}\" is not sha256", shortened(name))),
            None => Err("its checksum names no algorithm".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(models: &str) -> Manifest {
        let text = format!(r#"{{"schema_version": "0.1", "models": [{models}]}}"#);
        Manifest::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_real_manifest_is_read_and_unknown_fields_are_ignored() {
        let text = r#"{"models": [{"id": "mistral-7b", "display_name": "Mistral", "format": "gguf",
            "local_path": "mistral/", "filename": "m.bin", "required": false, "future": [1],
            "checksum": {"algorithm": "sha256", "value": ""}}, {"id": "b", "local_path": "./", "filename": "b"}],
            "purpose": "p", "models_base_dir": "/opt/ladylinux/models", "schema_version": "0.1", "later": {"x": 1}}"#;
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.base, Some(PathBuf::from("/opt/ladylinux/models")));
        assert_eq!(manifest.problems, Problems::default());
        let (path, expected) = &manifest.models[0];
        assert_eq!((path, &expected.digest), (&PathBuf::from("mistral/m.bin"), &None));
        assert_eq!((expected.format, expected.is_required), (Some(Format::Gguf), false));
        assert_eq!(manifest.models[1].0, PathBuf::from("b"));
    }

    #[test]
    fn rw_6_2c_a_torn_or_newer_manifest_is_refused_with_line_and_column() {
        for (text, why) in [
            ("{\n  \"schema_version\": \"0.1\",\n  oops\n}", "line 3 column 3"),
            ("{\"schema_version\": \"0.1\",\n \"models\": 5}", "line 2"),
            ("[]", "line 1 column"),
            ("", "line 1 column 0"),
            (r#"{"models": []}"#, "schema_version"),
            (r#"{"schema_version": "0.1"}"#, "models"),
            (r#"{"schema_version": "0.1", "models": []} x"#, "line 1"),
            (r#"{"schema_version": "0.2", "models": []}"#, "is \"0.2\", supported is \"0.1\""),
        ] {
            let refused = Manifest::parse(text.as_bytes()).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!(Manifest::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn rw_6_2c_a_wrong_entry_is_named_and_the_others_count() {
        let good = r#"{"id": "good", "local_path": "./", "filename": "f"}"#;
        for (entry, why) in [
            (r#"{"local_path": "./", "filename": "f"}"#, "missing field `id`"),
            (r#"{"id": 5, "local_path": "./", "filename": "f"}"#, "expected a string"),
            (r#"{"id": "a", "local_path": "/abs", "filename": "f"}"#, "is absolute or leaves the base"),
            (r#"{"id": "a", "local_path": "../x", "filename": "f"}"#, "is absolute or leaves the base"),
            (r#"{"id": "a", "local_path": "./", "filename": "../f"}"#, "not a file name"),
            (r#"{"id": "a", "local_path": "./", "filename": ".."}"#, "not a file name"),
            (r#"{"id": "a", "local_path": "./", "filename": "f", "required": "yes"}"#, "a boolean"),
            (r#""text""#, "models[0]: invalid type"),
            (r#"{"id": "good", "local_path": "./", "filename": ""}"#, "filename is empty"),
        ] {
            let manifest = of(&format!("{entry}, {good}"));
            let problem = manifest.problems.sentences().next().unwrap();
            assert!(problem.contains(why), "{entry}: {problem}");
            assert_eq!(manifest.models.len(), 1);
        }
        let twice = of(&format!("{good}, {good}"));
        assert!(twice.problems.sentences().any(|problem| problem.contains("that of models[0] too")));
    }

    #[test]
    fn a_file_whose_checksum_cannot_be_used_is_still_expected() {
        for (checksum, why) in [
            (r#"{"algorithm": "md5", "value": "abc"}"#, "\"md5\" is not sha256"),
            (r#"{"algorithm": "SHA-256", "value": "abc"}"#, "malformed"),
            (r#"{"value": "abc"}"#, "names no algorithm"),
        ] {
            let manifest =
                of(&format!(r#"{{"id": "a", "local_path": "./", "filename": "f", "checksum": {checksum}}}"#));
            let problem = manifest.problems.sentences().next().unwrap();
            assert!(problem.contains(why), "{checksum}: {problem}");
            assert_eq!(manifest.models.len(), 1);
        }
    }
}
