//! Checksum files, stores, split models and indices of shards.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::{Machine, findings, model, ollama, problems, put, sha256};
use serde_json::json;

#[test]
fn rw_6_2b_a_file_of_checksums_that_is_none_is_a_problem_and_one_behind_a_link_is_read() {
    let machine = Machine::new();
    machine.put("w", b"weights");
    let sums = machine.put("real.sums", format!("{}  w\n", sha256(b"other")).as_bytes());
    let models = machine.layout.models();
    symlink(&sums, models.join("SHA256SUMS")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    for (dir, target) in [("nowhere", "none"), ("astray", "/etc/hostname"), ("dir", "."), ("pipe", "fifo")] {
        fs::create_dir(models.join(dir)).unwrap();
        symlink(target, models.join(dir).join("SHA256SUMS")).unwrap();
    }
    let fifo = models.join("pipe/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::create_dir_all(models.join("real/SHA256SUMS")).unwrap();
    let report = machine.verify(&[], 5);
    assert_eq!(findings(&report, "w"), ["digest-mismatch"], "{report:#}");
    assert_eq!(findings(&report, "astray/SHA256SUMS"), ["inconsistent"], "{report:#}");
    for dir in ["nowhere", "dir", "pipe", "real"] {
        assert_eq!(findings(&report, &format!("{dir}/SHA256SUMS")), ["unreadable"], "{report:#}");
    }
}

#[test]
fn rw_6_2a_a_store_of_ollama_without_its_blobs_misses_all_of_them() {
    let machine = Machine::new();
    let below = |path: &str| machine.layout.root().join(path);
    let packaged = below("usr/share/ollama/.ollama/models");
    ollama(&packaged, b"weights");
    fs::remove_dir_all(packaged.join("blobs")).unwrap();
    let report = machine.verify(&[], 5);
    assert_eq!(findings(&report, ""), ["missing-required"; 3], "{report:#}");

    // They moved to another disk, which is a separate store if the settings name it.
    ollama(&below("big"), b"weights");
    fs::remove_dir_all(below("big/manifests")).unwrap();
    let orphan = below("big/blobs").join(format!("sha256-{}", sha256(b"orphan")));
    put(&orphan, b"orphan");
    symlink(below("big/blobs"), packaged.join("blobs")).unwrap();
    let report = machine.verify(&[], 5);
    assert_eq!(problems(&report).len(), 4, "the link and three blobs behind it: {report:#}");
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/big\"]\n").unwrap();
    let report = machine.verify(&[], 0);
    assert_eq!(report["summary"]["verified"], 3, "{report:#}");
    assert_eq!(findings(&report, &sha256(b"orphan")), ["unexpected"]);
    fs::write(orphan.with_file_name(format!("sha256-{}", sha256(b"weights"))), b"WEIGHTS").unwrap();
    assert_eq!(findings(&machine.verify(&[], 5), &sha256(b"weights")), ["digest-mismatch"]);
}

#[test]
fn rw_6_2a_a_digest_in_one_store_covers_a_file_in_another() {
    let machine = Machine::new();
    let below = |path: &str| machine.layout.root().join(path);
    put(&below("srv/o/w.bin"), b"weights");
    symlink(below("srv/o/w.bin"), machine.layout.models().join("w.bin")).unwrap();
    machine.manifest(&json!([model("w", "./", "w.bin", &sha256(b"weights"))]));
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/o\"]\n").unwrap();
    let report = machine.verify(&[], 0);
    assert_eq!(findings(&report, ""), ["verified"], "{report:#}");

    // The base is in a store that the host names.
    put(&below("srv/models/llm/v.bin"), b"v");
    put(&below("srv/models/llm/u.bin"), b"u");
    let entry = model("v", "./", "v.bin", &sha256(b"v"));
    let manifest =
        json!({ "schema_version": "0.1", "models_base_dir": "/srv/models/llm", "models": [entry] });
    put(&machine.layout.app().join("models/manifest.json"), manifest.to_string().as_bytes());
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/models\"]\n").unwrap();
    let report = machine.verify(&[], 0);
    assert_eq!(findings(&report, "v.bin"), ["verified"], "{report:#}");
    assert_eq!(findings(&report, "u.bin"), ["unexpected"]);
}

#[test]
fn rw_6_2a_a_named_store_that_is_missing_is_reported_and_so_is_an_unreadable_file_of_names() {
    let machine = Machine::new();
    fs::write(machine.layout.env_file(), "OLLAMA_MODELS=/mnt/gone\n").unwrap();
    let report = machine.verify(&[], 0);
    assert_eq!(findings(&report, "/mnt/gone"), ["missing-optional"], "{report:#}");
    machine.put("w", b"weights");
    machine.manifest(&json!([model("w", "./", "w", &sha256(b"weights"))]));
    fs::set_permissions(machine.layout.env_file(), fs::Permissions::from_mode(0o000)).unwrap();
    let report = machine.verify_without_rights(0);
    assert_eq!(findings(&report, "w"), ["verified"], "{report:#}");
    assert_eq!(findings(&report, "ladylinux.env"), ["unsupported"]);
}

#[test]
fn rw_6_2a_an_unreadable_store_of_another_service_is_a_note_and_one_of_the_host_a_problem() {
    let machine = Machine::new();
    let closed = machine.layout.root().join("srv/ollama");
    fs::create_dir_all(closed.join("models")).unwrap();
    fs::write(machine.layout.env_file(), "OLLAMA_MODELS=/srv/ollama/models\n").unwrap();
    let close = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    close(0o000);
    let report = machine.verify_without_rights(0);
    assert_eq!(findings(&report, "/srv/ollama/models"), ["unsupported"], "{report:#}");
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/ollama/models\"]\n").unwrap();
    let report = machine.verify_without_rights(5);
    close(0o755);
    assert!(findings(&report, "/srv/ollama/models").contains(&"unreadable".to_owned()), "{report:#}");
}

/// A GGUF file of one tensor that is the part `number` (from 0) of `count`.
fn gguf_part(number: u16, count: u16) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let pair = |key: &str, value: u16| [&text(key)[..], &2_u32.to_le_bytes(), &value.to_le_bytes()].concat();
    let tensor = [&text("w")[..], &1_u32.to_le_bytes(), &8_u64.to_le_bytes(), &[0; 12]].concat();
    let counts = [1_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat();
    let pairs = [pair("split.no", number), pair("split.count", count)].concat();
    [&b"GGUF"[..], &3_u32.to_le_bytes(), &counts, &pairs, &tensor, &[7; 64]].concat()
}

#[test]
fn rw_6_2a_every_part_of_a_split_model_has_to_be_there() {
    let machine = Machine::new();
    machine.put("toy-00001-of-00002.gguf", &gguf_part(0, 2));
    let part = machine.layout.models().join("toy-00002-of-00002.gguf");
    for named in ["toy-00001-of-00002.gguf", "toy-00002-of-00002.gguf"] {
        machine.manifest(&json!([model("toy", "./", named, "")]));
        let report = machine.verify(&["--presence"], 5);
        assert_eq!(findings(&report, "toy-00002-of-00002.gguf"), ["missing-required"], "{report:#}");
    }
    // A part of another model is in its place.
    put(&part, &gguf_part(2, 4));
    let report = machine.verify(&["--presence"], 5);
    assert!(problems(&report)[0].contains("part 3 of 4"), "{report:#}");
    put(&part, &gguf_part(1, 2));
    let report = machine.verify(&["--presence"], 0);
    assert_eq!(findings(&report, ".gguf"), ["present"; 2], "{report:#}");
}

#[test]
fn rw_6_2a_every_shard_of_an_index_has_to_be_there_and_none_may_be_cut_off() {
    let machine = Machine::new();
    let shard = |data: usize| {
        let header = r#"{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat()
    };
    let index = json!({ "metadata": {}, "weight_map": { "a": "m-1.safetensors", "b": "m-2.safetensors" } });
    machine.put("st/model.safetensors.index.json", index.to_string().as_bytes());
    machine.put("st/m-1.safetensors", &shard(15));
    let report = machine.verify(&["--presence"], 5);
    assert_eq!(findings(&report, "m-1.safetensors"), ["truncated"], "{report:#}");
    assert_eq!(findings(&report, "m-2.safetensors"), ["missing-required"]);
    machine.put("st/m-1.safetensors", &shard(16));
    machine.put("st/m-2.safetensors", &shard(16));
    assert_eq!(machine.verify(&[], 0)["summary"]["present"], 2);
    machine.put("st/model.safetensors.index.json", br#"{"weight_map": {"a": "../../etc/passwd"}}"#);
    let report = machine.verify(&[], 5);
    assert!(problems(&report)[0].contains("leaves the directory"), "{report:#}");
}

#[test]
fn rw_6_2b_files_of_checksums_are_read_in_either_form() {
    let machine = Machine::new();
    machine.put("a", b"weights");
    let sums = format!("rubbish\n{}  a\nSHA256 (absent) = {}\n", sha256(b"weights"), sha256(b""));
    machine.put("SHA256SUMS", sums.as_bytes());
    let report = machine.verify(&[], 5);
    assert_eq!(findings(&report, "a"), ["verified"]);
    assert_eq!(findings(&report, "absent"), ["missing-optional"]);
    assert!(problems(&report)[0].contains("line 1"), "{report:#}");
}

#[test]
fn rw_6_2a_stores_that_host_environment_or_unit_name_are_found() {
    let machine = Machine::new();
    let below = |path: &str| machine.layout.root().join(path);
    ollama(&below("srv/by-env"), b"one");
    fs::write(machine.layout.env_file(), "OLLAMA_MODELS=/srv/by-env\n").unwrap();
    ollama(&below("srv/by unit"), b"two");
    let unit = "[Service]\nEnvironment=\"OLLAMA_MODELS=/srv/by unit\"\n";
    put(&below("etc/systemd/system/ollama.service.d/override.conf"), unit.as_bytes());
    ollama(&machine.layout.models().join("nested/ollama"), b"three");
    put(&below("srv/mine/SHA256SUMS"), format!("{}  w\n", sha256(b"w")).as_bytes());
    put(&below("srv/mine/w"), b"w");
    put(&below("typed/SHA256SUMS"), format!("{}  t\n", sha256(b"t")).as_bytes());
    put(&below("typed/t"), b"t");
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/mine\", \"/srv/none\"]\n").unwrap();
    let orphan = below("srv/by-env/blobs").join(format!("sha256-{}", sha256(b"orphan")));
    put(&orphan, b"orphan");
    put(&below("srv/by-env/blobs").join(format!("sha256-{}-partial", "a".repeat(64))), b"p");

    let typed = below("typed");
    let report = machine.verify(&["--store", typed.to_str().unwrap()], 5);
    assert_eq!(problems(&report).len(), 1, "{report:#}");
    assert_eq!(findings(&report, "/srv/none"), ["missing-required"]);
    // Three blobs of each Ollama store, and the two that checksum files name.
    assert_eq!(report["summary"]["verified"], 3 * 3 + 2, "{report:#}");
    assert_eq!(findings(&report, &sha256(b"orphan")), ["unexpected"]);
    assert_eq!(findings(&report, "-partial"), ["unexpected"]);
    for refused in ["/", "/opt/ladylinux", "/etc"] {
        fs::write(machine.layout.host_file(), format!("[models]\nstores = [\"{refused}\"]\n")).unwrap();
        machine.tool(&["verify"]).expect(2).prints("much more than models");
    }
}
