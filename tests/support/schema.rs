//! Output for programs, held to the schemas that `docs/` promises.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]
#![expect(unreachable_pub, reason = "a module of a test is private whatever its items say")]

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Reads what the program wrote, which must be JSON that fits the schema of this name in `docs/`.
#[track_caller]
pub fn told(written: &str, schema: &str) -> Value {
    let told: Value = serde_json::from_str(written).unwrap_or_else(|_| panic!("no JSON: {written}"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(schema);
    let schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = schema.iter_errors(&told).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\nin {told:#}");
    told
}
