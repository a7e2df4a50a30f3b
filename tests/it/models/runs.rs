//! Verification in a run, and without an installation.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Machine, model, put, sha256};
use crate::host::{Host, SERVER};
use crate::refresh::help::{WAYS, error_text, picture, strict, with};
use refresh_settings::layout::Layout;
use serde_json::json;

#[test]
fn rw_6_2a_models_are_verified_without_an_installation() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let machine = Machine { layout: Layout::below(&root), directory };
    // A file that would be remembered, because it has not changed for a while.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf");
    let weights = fs::read(corpus.join("small.gguf")).unwrap();
    machine.put("SHA256SUMS", format!("{}  w\n", sha256(&weights)).as_bytes());
    symlink(corpus.join("small.gguf"), machine.layout.models().join("w")).unwrap();
    let report = machine.verify(&["--store", corpus.to_str().unwrap()], 0);
    assert_eq!(report["summary"]["verified"], 1, "{report:#}");
    assert_eq!(report["summary"]["bytes_read"], weights.len());
    let why = report["not_remembered"].as_str().unwrap();
    assert!(why.contains("models-known"), "{why}");
    assert!(!machine.layout.state().exists() && machine.directory.path().exists());
}

#[test]
fn rw_6_1_rw_6_2a_rw_6_2b_rw_6_2c_a_run_verifies_the_models_of_the_coming_commit_before_anything_is_touched()
{
    for way in WAYS {
        let host = Host::running();
        let weights = host.layout.models().join("llm/w.bin");
        put(&weights, b"weights");
        let manifest = |digest: &str| {
            json!({ "schema_version": "0.1", "models": [model("w", "llm/", "w.bin", digest)] }).to_string()
        };
        host.push(&[("models/manifest.json", &manifest(&sha256(b"weights"))), ("version.txt", "two\n")]);
        let before = picture(&host.layout.models());
        host.tool(with(way, &["--verify-models"])).expect(0).prints("1 verified");
        let report = host.report();
        assert_eq!((&report["models"]["how"], &report["models"]["verified"]), (&json!("full"), &json!(1)));
        host.tool(["run", "--if-changed", "--verify-models=presence"]).expect(0).prints("1 present");
        host.tool(way).expect(0);
        assert!(host.report()["models"].is_null(), "no check of models was requested");

        host.push(&[("models/manifest.json", &manifest(&sha256(b"other"))), ("version.txt", "three\n")]);
        host.tool(with(way, &["--dry-run", "--verify-models"])).expect(3).prints("w.bin: has another digest");
        host.tool(with(way, &["--dry-run", "--verify-models=presence"]))
            .expect(0)
            .prints("models: 0 verified, 1 present");
        host.configure("", "[models]\nverify = \"full\"\n");
        let code = if strict(way) { 1 } else { 3 };
        host.tool(way)
            .expect(code)
            .prints("w.bin: has another digest than expected")
            .prints("ladylinux-refresh");
        assert!(
            error_text(&host).contains("the models are not as they should be: 1 problem"),
            "{}",
            error_text(&host)
        );
        assert_eq!(host.report()["models"]["problems"], 1);
        let found = sha256(b"weights");
        assert!(!host.report().to_string().contains(&found), "the report quotes the content of a file");
        if strict(way) {
            assert!(host.fenced());
            host.tool(["rollback"]).expect(0);
        }
        assert_eq!(host.version().as_deref(), Some("two"), "the old version serves");
        assert_eq!(picture(&host.layout.models()), before, "models were touched");
        host.tool(with(way, &["--verify-models=presence"])).expect(0).prints("1 present");
        assert_eq!(host.version().as_deref(), Some("three"));
        host.tool(with(way, &["--verify-models=off"])).expect(0);
        host.push(&[("server.py", SERVER)]);
    }
}
