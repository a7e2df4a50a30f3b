//! Output for programs, compared with the schemas in `docs/`.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]

use std::fs;
use std::path::Path;

use serde_json::Value;

/// The schemas that others refer to.
const LINKED: [&str; 3] = ["events.schema.json", "status-file.schema.json", "status.schema.json"];

/// Returns the validator of a schema in `docs/`. Definitions from other schemas are inserted.
pub fn validator(name: &str) -> jsonschema::Validator {
    let read = |name: &str| -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        let text = fs::read_to_string(path).unwrap();
        let text = LINKED.iter().fold(text, |text, other| text.replace(&format!("{other}#"), "#"));
        serde_json::from_str(&text).unwrap()
    };
    let mut schema = read(name);
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let mut all = serde_json::Map::new();
    for schema in LINKED.map(read).iter().chain([&schema]) {
        all.extend(schema["$defs"].as_object().cloned().unwrap_or_default());
    }
    schema["$defs"] = Value::Object(all);
    jsonschema::validator_for(&schema).unwrap()
}

/// Asserts that a value fits a schema.
#[track_caller]
pub fn assert_valid(schema: &jsonschema::Validator, value: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\nin {value:#}");
}

/// Returns the JSON of `output`, which must fit the schema of this name in `docs/`.
#[track_caller]
pub fn valid(output: &str, schema: &str) -> Value {
    let value: Value = serde_json::from_str(output).unwrap_or_else(|_| panic!("no JSON: {output}"));
    assert_valid(&validator(schema), &value);
    value
}
