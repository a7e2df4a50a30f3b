//! Models, verified by the real program: missing, truncated and changed files, and damaged sources.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out files and start programs")]

mod damage;
mod reading;
mod runs;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{Ran, program, ran};
use crate::schema;
use refresh_settings::layout::Layout;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A small GGUF file, written by the library that converters use (gguf 0.19.0), with three tensors.
const SMALL_GGUF: &[u8] = include_bytes!("../../corpus/gguf/small.gguf");

/// A machine with directories only.
struct Machine {
    directory: tempfile::TempDir,
    layout: Layout,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path().canonicalize().unwrap());
        for directory in [layout.models(), layout.app().join("models"), layout.etc(), layout.state()] {
            fs::create_dir_all(directory).unwrap();
        }
        Self { directory, layout }
    }

    fn tool(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(program());
        ran(command.arg("--root").arg(self.layout.root()).args(arguments).env_clear().output().unwrap())
    }

    /// Returns the valid report of `verify --json`, after it ended with `code`.
    #[track_caller]
    fn verify(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.tool(&[&["verify", "--json"], arguments].concat()).expect(code);
        schema::valid(&ran.out, "models.schema.json")
    }

    /// Returns the report for a user without permission to read everything; root drops its privileges for that.
    #[track_caller]
    fn verify_without_rights(&self, code: i32) -> Value {
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search", "--"]);
        if !rustix::process::geteuid().is_root() {
            command = Command::new("env");
        }
        command.arg(program()).arg("--root").arg(self.layout.root());
        command.args(["verify", "--json", "--no-cache"]);
        serde_json::from_str(&ran(command.output().unwrap()).expect(code).out).unwrap()
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.layout.models().join(path);
        put(&path, bytes);
        path
    }

    fn manifest(&self, models: &Value) {
        let text =
            json!({ "schema_version": "0.1", "models_base_dir": "/opt/ladylinux/models", "models": models });
        put(&self.layout.app().join("models/manifest.json"), text.to_string().as_bytes());
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn model(id: &str, path: &str, name: &str, digest: &str) -> Value {
    json!({ "id": id, "local_path": path, "filename": name, "required": true,
            "checksum": { "algorithm": "sha256", "value": digest } })
}

/// Returns the findings about the files whose names end with this text.
fn findings(report: &Value, name: &str) -> Vec<String> {
    let verdicts = report["verdicts"].as_array().unwrap().iter();
    let about = verdicts.filter(|verdict| verdict["name"].as_str().unwrap().ends_with(name));
    about.map(|verdict| verdict["finding"].as_str().unwrap().to_owned()).collect()
}

/// Returns the texts of all problems.
fn problems(report: &Value) -> Vec<String> {
    let verdicts = report["verdicts"].as_array().unwrap().iter();
    let problems = verdicts.filter(|verdict| verdict["severity"] == "problem");
    problems
        .map(|verdict| {
            let word = |key: &str| verdict[key].as_str().unwrap().to_owned();
            format!("{} {}: {} [{}]", word("name"), word("finding"), word("description"), word("from"))
        })
        .collect()
}

/// Writes an Ollama store with one model. Returns its blobs: configuration, weights, license.
fn ollama(directory: &Path, weights: &[u8]) -> Vec<PathBuf> {
    let blobs: [(&str, &[u8]); 3] = [
        ("application/vnd.docker.container.image.v1+json", br#"{"model_format":"gguf"}"#),
        ("application/vnd.ollama.image.model", weights),
        ("application/vnd.ollama.image.license", b"a licence"),
    ];
    let descriptor = |(kind, bytes): &(&str, &[u8])| json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": descriptor(&blobs[0]), "layers": [descriptor(&blobs[1]), descriptor(&blobs[2])],
    });
    let place = directory.join("manifests/registry.ollama.ai/library/mistral/latest");
    put(&place, manifest.to_string().as_bytes());
    let path = |bytes: &[u8]| directory.join("blobs").join(format!("sha256-{}", sha256(bytes)));
    for (_, bytes) in &blobs {
        put(&path(bytes), bytes);
    }
    blobs.iter().map(|(_, bytes)| path(bytes)).collect()
}
