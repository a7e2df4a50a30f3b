//! Damaged files and damaged sources are verdicts.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::{Machine, SMALL_GGUF, findings, model, ollama, problems, put, sha256};
use crate::refresh::help::picture;
use serde_json::json;

#[test]
fn rw_6_2a_rw_6_2b_rw_6_2d_a_flipped_bit_a_cut_file_and_a_zeroed_blob_are_each_found_and_named() {
    let machine = Machine::new();
    let gguf = SMALL_GGUF;
    let file = machine.put("llm/small.gguf", gguf);
    let bare = machine.put("bare/unsaid.gguf", gguf);
    machine.manifest(&json!([model("small", "llm/", "small.gguf", &sha256(gguf))]));
    let store = machine.layout.root().join("usr/share/ollama/.ollama/models");
    let blobs = ollama(&store, gguf);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let before = (picture(&machine.layout.models()), picture(&store));

    let report = machine.verify(&[], 0);
    assert_eq!(report["summary"]["verified"], 4, "{report:#}");
    assert_eq!(findings(&report, "bare/unsaid.gguf"), ["unexpected"]);
    assert_eq!((picture(&machine.layout.models()), picture(&store)), before, "something was changed");

    // One bit.
    let mut flipped = gguf.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&file, &flipped).unwrap();
    let report = machine.verify(&[], 5);
    assert_eq!(findings(&report, "llm/small.gguf"), ["digest-mismatch"]);
    let [problem] = &problems(&report)[..] else { panic!("{report:#}") };
    assert!(problem.contains(&sha256(&flipped)) && problem.contains("manifest: small"), "{problem}");
    fs::write(&file, gguf).unwrap();

    // Cut off before the last tensor.
    let cut = &gguf[..gguf.len() / 2];
    fs::write(&file, cut).unwrap();
    fs::write(&bare, cut).unwrap();
    fs::write(&blobs[1], cut).unwrap();
    for arguments in [&[][..], &["--presence"]] {
        let report = machine.verify(arguments, 5);
        for file in ["llm/small.gguf", "bare/unsaid.gguf"] {
            assert_eq!(findings(&report, file), ["truncated"], "{report:#}");
        }
        assert_eq!(findings(&report, &name(&blobs[1])), ["size-mismatch"]);
        assert!(
            problems(&report).iter().any(|printed| printed.contains("ollama: mistral:latest model")),
            "{report:#}"
        );
    }
    for path in [&file, &bare, &blobs[1]] {
        fs::write(path, gguf).unwrap();
    }

    // One blob zeroed, its length kept.
    fs::write(&blobs[1], vec![0; gguf.len()]).unwrap();
    fs::write(&blobs[2], vec![0; "a licence".len()]).unwrap();
    let report = machine.verify(&[], 5);
    assert_eq!(findings(&report, &name(&blobs[1])), ["digest-mismatch"]);
    assert_eq!(findings(&report, &name(&blobs[2])), ["digest-mismatch"]);
    let report = machine.verify(&["--presence"], 5);
    assert_eq!(
        findings(&report, &name(&blobs[1])),
        ["inconsistent"],
        "presence sees that it is no GGUF file"
    );
}

#[test]
fn rw_6_2c_every_bad_manifest_is_a_verdict() {
    let machine = Machine::new();
    let manifest = machine.layout.app().join("models/manifest.json");
    for (text, word) in [
        ("{\n  \"schema_version\": \"0.1\",\n  oops", "line 3 column 3"),
        (r#"{"schema_version": "0.1", "models": {}}"#, "line 1 column"),
        (r#"{"schema_version": "9.9", "models": []}"#, "supported is \"0.1\""),
        ("", "line 1 column 0"),
    ] {
        put(&manifest, text.as_bytes());
        let report = machine.verify(&[], 5);
        assert!(problems(&report)[0].contains(word), "{text}: {report:#}");
    }
    fs::remove_file(&manifest).unwrap();
    symlink("/etc/hostname", &manifest).unwrap();
    let report = machine.verify(&[], 5);
    assert_eq!(
        findings(&report, "manifest.json"),
        ["unreadable"],
        "a link out of app/ was followed: {report:#}"
    );
    fs::remove_file(&manifest).unwrap();
    assert_eq!(machine.verify(&[], 0)["summary"]["verdicts"], 0);

    machine.put("good", b"good");
    let entry = |id: &str, path: &str, name: &str| json!({ "id": id, "local_path": path, "filename": name });
    machine.manifest(&json!([
        entry("absolute", "/etc/", "x"),
        entry("above", "../", "x"),
        entry("good", "./", "good"),
        entry("good", "./", "good"),
        model("md5", "./", "good", "abc"),
        { "id": "algorithm", "local_path": "./", "filename": "good", "checksum": { "algorithm": "md5", "value": "x" } },
        { "id": 5, "local_path": "./", "filename": "x" },
        model("missing", "./", "missing", ""),
        entry("optional", "./", "optional"),
    ]));
    let report = machine.verify(&[], 5);
    let all = problems(&report).join("\n");
    for word in
        ["(absolute)", "leaves the base", "models[2] too", "malformed", "is not sha256", "expected a string"]
    {
        assert!(all.contains(word), "{word}: {all}");
    }
    assert_eq!(findings(&report, "missing"), ["missing-required"]);
    assert_eq!(findings(&report, "optional"), ["missing-optional"]);
    assert_eq!(findings(&report, "good"), ["present"; 3], "a checksum that cannot be used verifies nothing");
}

#[test]
fn rw_6_2c_a_file_of_another_kind_is_a_verdict_and_never_a_hang() {
    let machine = Machine::new();
    let models = machine.layout.models();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, models.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    symlink("loop", models.join("loop")).unwrap();
    symlink("/etc/hostname", models.join("out")).unwrap();
    symlink("gone", models.join("dangling")).unwrap();
    fs::create_dir(models.join("directory")).unwrap();
    let strange = OsStr::from_bytes(b"\xff\xfe\x1b[2J.bin");
    fs::write(models.join(strange), b"x").unwrap();
    let entries = ["pipe", "loop", "out", "dangling", "directory"];
    machine.manifest(&entries.iter().map(|name| model(name, "./", name, "")).collect());
    let report = machine.verify(&[], 5);
    assert_eq!(findings(&report, "pipe"), ["unreadable"], "{report:#}");
    assert_eq!(findings(&report, "loop"), ["unreadable"]);
    assert_eq!(findings(&report, "out"), ["inconsistent"]);
    assert_eq!(findings(&report, "dangling"), ["missing-required"]);
    assert_eq!(findings(&report, "directory"), ["unreadable"]);
    assert_eq!(findings(&report, "[2J.bin"), ["unexpected"]);
    assert!(!machine.tool(&["verify"]).expect(5).all().contains('\u{1b}'), "a name reached the terminal");
    let closed = machine.put("closed", b"x");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    machine.manifest(&json!([model("closed", "./", "closed", "")]));
    assert_eq!(findings(&machine.verify_without_rights(5), "closed"), ["unreadable"]);
}

#[test]
fn rw_6_2c_a_manifest_without_read_permission_is_a_problem_and_not_missing() {
    let machine = Machine::new();
    machine.manifest(&json!([model("gone", "./", "gone", "")]));
    let close = |mode| fs::set_permissions(machine.layout.app(), fs::Permissions::from_mode(mode)).unwrap();
    close(0o000);
    let report = machine.verify_without_rights(5);
    close(0o755);
    assert_eq!(findings(&report, "manifest.json"), ["unreadable"], "{report:#}");
}

#[test]
fn rw_6_2c_unreadable_files_hide_no_other_ones() {
    let machine = Machine::new();
    machine.put("half/f", b"f");
    machine.put("w", b"weights");
    machine.manifest(&json!([model("w", "./", "w", &sha256(b"weights")), model("gone", "./", "gone", "")]));
    let close = |path: &str, mode| {
        fs::set_permissions(machine.layout.models().join(path), fs::Permissions::from_mode(mode))
    };
    // Its names are readable; the type and size of its entries are not.
    close("half", 0o444).unwrap();
    let report = machine.verify_without_rights(5);
    close("half", 0o755).unwrap();
    let found = ["half", "w", "gone"].map(|name| findings(&report, name).join(" "));
    assert_eq!(found, ["unreadable", "verified", "missing-required"], "{report:#}");
    close("", 0o000).unwrap();
    let report = machine.verify_without_rights(5);
    close("", 0o755).unwrap();
    assert_eq!(findings(&report, "gone"), ["unreadable"], "{report:#}");

    let entry = model("twice", "/absolute/", "x", "");
    let manifest =
        json!({ "schema_version": "0.1", "models_base_dir": "relative", "models": [entry, entry] });
    put(&machine.layout.app().join("models/manifest.json"), manifest.to_string().as_bytes());
    let all = problems(&machine.verify(&[], 5)).join("\n");
    for word in ["relative", "is absolute", "models[0] too"] {
        assert!(all.contains(word), "{word}: {all}");
    }
}

#[test]
fn rw_6_2c_no_name_of_a_file_adds_a_line_or_controls_the_terminal() {
    let machine = Machine::new();
    let outside = machine.layout.root().join("elsewhere\ngood     everything: verified [SHA256SUMS]\u{202e}");
    put(&outside, b"");
    symlink(&outside, machine.layout.models().join("link")).unwrap();
    let file = machine.put("\u{9b}2J.bin", b"");
    let printed = machine.tool(&["verify", "--verbose"]).expect(5).all();
    assert!(printed.contains("a link leads out of the model directories"), "{printed}");
    assert!(printed.lines().all(|line| !line.starts_with("good")), "{printed}");
    let report = machine.verify(&[], 5);
    let first = report["summary"]["first_problems"][0].as_str().unwrap();
    assert!(first.contains("everything: verified") && !first.contains('\n'), "{first}");
    let paths =
        report["verdicts"].as_array().unwrap().iter().map(|verdict| verdict["path"].as_str().unwrap());
    assert!(paths.into_iter().any(|path| Path::new(path) == file), "a path reads back as it is: {report:#}");
    for arguments in [&["verify"][..], &["verify", "--json"]] {
        let printed = machine.tool(arguments).expect(5).all();
        assert!(!printed.chars().any(|c| matches!(c, '\u{9b}' | '\u{202e}')), "{printed:?}");
    }
}

/// Damages a source in several ways. Asserts that `verify` ends with verdicts each time.
#[test]
fn rw_6_2c_a_damaged_source_ends_in_verdicts() {
    let machine = Machine::new();
    let place = machine.layout.models().join("o");
    let blobs = ollama(&place, SMALL_GGUF);
    let manifest = place.join("manifests/registry.ollama.ai/library/mistral/latest");
    let sums = machine.put("SHA256SUMS", format!("{}  w\n", sha256(b"w")).as_bytes());
    machine.put("w", b"w");
    machine.manifest(&json!([model("w", "./", "w", "")]));
    machine.verify(&[], 0);
    let app = machine.layout.app().join("models/manifest.json");
    for path in [&manifest, &sums, &app, &blobs[1]] {
        let good = fs::read(path).unwrap();
        for at in [good.len() / 5, good.len() / 2, good.len() - 5] {
            fs::write(path, &good[..at]).unwrap();
            machine.verify(&[], 5);
            let damaged = [&good[..at], b"\xff\x00{[\"", &good[at..]].concat();
            fs::write(path, damaged).unwrap();
            machine.verify(&[], 5);
        }
        fs::write(path, &good).unwrap();
    }
    machine.verify(&[], 0);
}
