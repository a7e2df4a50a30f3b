//! Paths that no refresh may touch: models, containers, configuration, persistent data (RW-3.2, RW-6.1, RW-6.2).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::host::{Host, SERVER};
use crate::refresh::help::{WAYS, data, hook, picture, with};

/// Fills the protected paths, with permissions and links that a careless copy would lose.
fn fill(host: &Host) {
    let layout = &host.layout;
    for directory in [layout.models().join("llm/mistral"), layout.containers().join("ollama")] {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("weights.gguf"), [0_u8, 255, 10, 13].repeat(1000)).unwrap();
    }
    fs::write(layout.models().join("half.gguf.part"), "half").unwrap();
    std::os::unix::fs::symlink("llm/mistral/weights.gguf", layout.models().join("latest")).unwrap();
    fs::write(layout.etc().join("extra.conf"), "kept\r\n").unwrap();
    fs::set_permissions(layout.env_file(), fs::Permissions::from_mode(0o600)).unwrap();
    for directory in layout.data() {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("kept.db"), "rows").unwrap();
        fs::set_permissions(directory.join("kept.db"), fs::Permissions::from_mode(0o640)).unwrap();
    }
}

#[test]
fn rw_3_2_rw_6_1_rw_6_2d_refreshes_halts_and_rollbacks_leave_protected_paths_as_they_are() {
    for way in WAYS {
        let host = Host::running();
        fill(&host);
        // The base system (everything below the root that belongs neither to the application nor to the tool) is not
        // touched either.
        fs::create_dir_all(host.layout.root().join("usr/lib")).unwrap();
        fs::write(host.layout.root().join("usr/lib/libc.so"), "of the system").unwrap();
        let all = || {
            let layout = &host.layout;
            let roots = [layout.models(), layout.containers(), layout.etc(), layout.root().join("usr")];
            (roots.map(|root| picture(&root)), data(&host))
        };
        let before = all();
        assert!(before.0.iter().all(|root| root.len() > 2), "there is nothing to protect");

        // The application has directories of the same names, and removes them again.
        host.push(&[
            ("version.txt", "two\n"),
            ("models/manifest.json", "{\"models\": []}"),
            ("models/llm/mistral/weights.gguf", "not those"),
            ("requirements.txt", "iniconfig==2.0.0\n"),
        ]);
        host.write("models/downloaded.gguf", "in the tree");
        host.tool(with(way, &["--verbose"])).expect(0).prints("unchanged (").prints(" entries)");
        assert_eq!(all(), before, "a refresh");
        assert_eq!(host.report()["protected"]["changed"].as_array().unwrap().len(), 0);
        assert!(host.report()["protected"]["entries"].as_u64().unwrap() >= 12);

        host.push(&[("models/manifest.json", ""), ("models/llm/mistral/weights.gguf", "")]);
        host.tool(with(way, &["--always-rebuild-venv"])).expect(0);
        assert_eq!(all(), before, "a rebuild");
        host.push(&[("refresh.toml", &hook("broken", "migration", &["false"], ""))]);
        host.tool(way).expect(1);
        assert_eq!(all(), before, "a halt in step 4");
        host.push(&[("refresh.toml", ""), ("server.py", "raise SystemExit(1)")]);
        host.tool(way).expect(1);
        assert_eq!(all(), before, "a halt in step 5");
        host.tool(["rollback"]).expect(0);
        assert_eq!(all(), before, "a rollback");
        host.push(&[("server.py", SERVER)]);
        host.tool(way).expect(0);
        assert_eq!(all(), before, "a repaired refresh");
    }
}

#[test]
fn rw_6_2a_rw_6_2b_rw_6_2c_without_a_request_a_run_neither_reads_nor_reports_models() {
    let host = Host::running();
    fill(&host);
    let manifest = r#"{"schema_version": "0.1", "models_base_dir": "/opt/ladylinux/models", "models": [
        {"id": "absent", "local_path": "llm/absent/", "filename": "x.gguf", "required": true,
         "source": {"type": "url", "url": "http://127.0.0.1:1/x.gguf"},
         "checksum": {"algorithm": "sha256", "value": "00"}},
        {"id": "other", "local_path": "llm/mistral/", "filename": "weights.gguf", "required": true,
         "checksum": {"algorithm": "sha256", "value": "00"}}]}"#;
    let before = picture(&host.layout.models());
    for manifest in [manifest, "torn {"] {
        host.push(&[("models/manifest.json", manifest)]);
        let ran = host.tool(["run"]).expect(0);
        assert_eq!(picture(&host.layout.models()), before);
        // Neither the report nor the text for people mentions the state of models.
        let printed = format!("{}{}", ran.all(), host.report());
        for word in ["verified", "checksum", "manifest", "gguf"] {
            assert!(!printed.contains(word), "{word:?} is claimed in {printed}");
        }
    }
}
