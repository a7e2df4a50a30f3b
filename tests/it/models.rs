//! Models, verified by the real program: what is missing, cut off or changed, and damaged sources.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out files and start programs")]

use crate::host;
use crate::refresh::help;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use help::{WAYS, picture, strict, told, with};
use host::{Host, Ran, SERVER, program, ran};
use ladylinux_refresh::settings::layout::Layout;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A small GGUF file, written by the library that converters use (gguf 0.19.0), with three tensors.
const SMALL_GGUF: &[u8] = include_bytes!("../corpus/gguf/small.gguf");

/// A machine with nothing but directories.
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

    /// What `verify --json` says, valid against its schema, after it ended with `code`.
    #[track_caller]
    fn verify(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.tool(&[&["verify", "--json"], arguments].concat()).expect(code);
        let told: Value = serde_json::from_str(&ran.out).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/models.schema.json");
        let schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let schema = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = schema.iter_errors(&told).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{told:#}");
        told
    }

    /// What it says to somebody who may not read everything; root gives that right up.
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

/// The findings about the files whose names end so.
fn findings(told: &Value, name: &str) -> Vec<String> {
    let verdicts = told["verdicts"].as_array().unwrap().iter();
    let about = verdicts.filter(|verdict| verdict["name"].as_str().unwrap().ends_with(name));
    about.map(|verdict| verdict["finding"].as_str().unwrap().to_owned()).collect()
}

/// All that is said about problems.
fn problems(told: &Value) -> Vec<String> {
    let verdicts = told["verdicts"].as_array().unwrap().iter();
    let problems = verdicts.filter(|verdict| verdict["severity"] == "problem");
    problems
        .map(|verdict| {
            let word = |key: &str| verdict[key].as_str().unwrap().to_owned();
            format!("{} {}: {} [{}]", word("name"), word("finding"), word("told"), word("from"))
        })
        .collect()
}

/// Writes an Ollama store that holds one model; returns its blobs: configuration, weights, licence.
fn ollama(directory: &Path, weights: &[u8]) -> Vec<PathBuf> {
    let blobs: [(&str, &[u8]); 3] = [
        ("application/vnd.docker.container.image.v1+json", br#"{"model_format":"gguf"}"#),
        ("application/vnd.ollama.image.model", weights),
        ("application/vnd.ollama.image.license", b"a licence"),
    ];
    let told = |(kind, bytes): &(&str, &[u8])| json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": told(&blobs[0]), "layers": [told(&blobs[1]), told(&blobs[2])],
    });
    let place = directory.join("manifests/registry.ollama.ai/library/mistral/latest");
    put(&place, manifest.to_string().as_bytes());
    let path = |bytes: &[u8]| directory.join("blobs").join(format!("sha256-{}", sha256(bytes)));
    for (_, bytes) in &blobs {
        put(&path(bytes), bytes);
    }
    blobs.iter().map(|(_, bytes)| path(bytes)).collect()
}

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

    let told = machine.verify(&[], 0);
    assert_eq!(told["summary"]["verified"], 4, "{told:#}");
    assert_eq!(findings(&told, "bare/unsaid.gguf"), ["unexpected"]);
    assert_eq!((picture(&machine.layout.models()), picture(&store)), before, "something was changed");

    // One bit.
    let mut flipped = gguf.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&file, &flipped).unwrap();
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, "llm/small.gguf"), ["digest-mismatch"]);
    let [problem] = &problems(&told)[..] else { panic!("{told:#}") };
    assert!(problem.contains(&sha256(&flipped)) && problem.contains("manifest: small"), "{problem}");
    fs::write(&file, gguf).unwrap();

    // Cut off before the last tensor.
    let cut = &gguf[..gguf.len() / 2];
    fs::write(&file, cut).unwrap();
    fs::write(&bare, cut).unwrap();
    fs::write(&blobs[1], cut).unwrap();
    for arguments in [&[][..], &["--presence"]] {
        let told = machine.verify(arguments, 5);
        for file in ["llm/small.gguf", "bare/unsaid.gguf"] {
            assert_eq!(findings(&told, file), ["truncated"], "{told:#}");
        }
        assert_eq!(findings(&told, &name(&blobs[1])), ["size-mismatch"]);
        assert!(problems(&told).iter().any(|said| said.contains("ollama: mistral:latest model")), "{told:#}");
    }
    for path in [&file, &bare, &blobs[1]] {
        fs::write(path, gguf).unwrap();
    }

    // One blob zeroed, its length kept.
    fs::write(&blobs[1], vec![0; gguf.len()]).unwrap();
    fs::write(&blobs[2], vec![0; "a licence".len()]).unwrap();
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, &name(&blobs[1])), ["digest-mismatch"]);
    assert_eq!(findings(&told, &name(&blobs[2])), ["digest-mismatch"]);
    let told = machine.verify(&["--presence"], 5);
    assert_eq!(findings(&told, &name(&blobs[1])), ["inconsistent"], "presence sees that it is no GGUF file");
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
        let told = machine.verify(&[], 5);
        assert!(problems(&told)[0].contains(word), "{text}: {told:#}");
    }
    fs::remove_file(&manifest).unwrap();
    symlink("/etc/hostname", &manifest).unwrap();
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, "manifest.json"), ["unreadable"], "a link out of app/ was followed: {told:#}");
    fs::remove_file(&manifest).unwrap();
    assert_eq!(machine.verify(&[], 0)["summary"]["looked_at"], 0);

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
    let told = machine.verify(&[], 5);
    let all = problems(&told).join("\n");
    for word in
        ["(absolute)", "leaves the base", "models[2] too", "malformed", "is not sha256", "expected a string"]
    {
        assert!(all.contains(word), "{word}: {all}");
    }
    assert_eq!(findings(&told, "missing"), ["missing-required"]);
    assert_eq!(findings(&told, "optional"), ["missing-optional"]);
    assert_eq!(findings(&told, "good"), ["present"; 3], "a checksum that cannot be used verifies nothing");
}

#[test]
fn rw_6_2c_what_lies_in_the_way_is_a_verdict_and_never_a_hang() {
    let machine = Machine::new();
    let models = machine.layout.models();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, models.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    symlink("loop", models.join("loop")).unwrap();
    symlink("/etc/hostname", models.join("out")).unwrap();
    symlink("gone", models.join("dangling")).unwrap();
    fs::create_dir(models.join("folder")).unwrap();
    let strange = OsStr::from_bytes(b"\xff\xfe\x1b[2J.bin");
    fs::write(models.join(strange), b"x").unwrap();
    let entries = ["pipe", "loop", "out", "dangling", "folder"];
    machine.manifest(&entries.iter().map(|name| model(name, "./", name, "")).collect());
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, "pipe"), ["unreadable"], "{told:#}");
    assert_eq!(findings(&told, "loop"), ["unreadable"]);
    assert_eq!(findings(&told, "out"), ["inconsistent"]);
    assert_eq!(findings(&told, "dangling"), ["missing-required"]);
    assert_eq!(findings(&told, "folder"), ["unreadable"]);
    assert_eq!(findings(&told, "[2J.bin"), ["unexpected"]);
    assert!(!machine.tool(&["verify"]).expect(5).all().contains('\u{1b}'), "a name reached the terminal");
    let closed = machine.put("closed", b"x");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    machine.manifest(&json!([model("closed", "./", "closed", "")]));
    assert_eq!(findings(&machine.verify_without_rights(5), "closed"), ["unreadable"]);
}

#[test]
fn rw_6_2c_a_manifest_that_may_not_be_looked_at_is_a_problem_and_not_missing() {
    let machine = Machine::new();
    machine.manifest(&json!([model("gone", "./", "gone", "")]));
    let close = |mode| fs::set_permissions(machine.layout.app(), fs::Permissions::from_mode(mode)).unwrap();
    close(0o000);
    let told = machine.verify_without_rights(5);
    close(0o755);
    assert_eq!(findings(&told, "manifest.json"), ["unreadable"], "{told:#}");
}

#[test]
fn rw_6_2c_what_cannot_be_looked_at_hides_nothing_else() {
    let machine = Machine::new();
    machine.put("half/f", b"f");
    machine.put("w", b"weights");
    machine.manifest(&json!([model("w", "./", "w", &sha256(b"weights")), model("gone", "./", "gone", "")]));
    let close = |path: &str, mode| {
        fs::set_permissions(machine.layout.models().join(path), fs::Permissions::from_mode(mode))
    };
    // The names in it may be read, and what they are may not be known.
    close("half", 0o444).unwrap();
    let told = machine.verify_without_rights(5);
    close("half", 0o755).unwrap();
    let found = ["half", "w", "gone"].map(|name| findings(&told, name).join(" "));
    assert_eq!(found, ["unreadable", "verified", "missing-required"], "{told:#}");
    close("", 0o000).unwrap();
    let told = machine.verify_without_rights(5);
    close("", 0o755).unwrap();
    assert_eq!(findings(&told, "gone"), ["unreadable"], "{told:#}");

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
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, "w"), ["digest-mismatch"], "{told:#}");
    assert_eq!(findings(&told, "astray/SHA256SUMS"), ["inconsistent"], "{told:#}");
    for dir in ["nowhere", "dir", "pipe", "real"] {
        assert_eq!(findings(&told, &format!("{dir}/SHA256SUMS")), ["unreadable"], "{told:#}");
    }
}

#[test]
fn rw_6_2a_a_store_of_ollama_without_its_blobs_misses_all_of_them() {
    let machine = Machine::new();
    let below = |path: &str| machine.layout.root().join(path);
    let packaged = below("usr/share/ollama/.ollama/models");
    ollama(&packaged, b"weights");
    fs::remove_dir_all(packaged.join("blobs")).unwrap();
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, ""), ["missing-required"; 3], "{told:#}");

    // They moved to another disk, which is a store of its own once the host says so.
    ollama(&below("big"), b"weights");
    fs::remove_dir_all(below("big/manifests")).unwrap();
    let orphan = below("big/blobs").join(format!("sha256-{}", sha256(b"orphan")));
    put(&orphan, b"orphan");
    symlink(below("big/blobs"), packaged.join("blobs")).unwrap();
    let told = machine.verify(&[], 5);
    assert_eq!(problems(&told).len(), 4, "the link and three blobs behind it: {told:#}");
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/big\"]\n").unwrap();
    let told = machine.verify(&[], 0);
    assert_eq!(told["summary"]["verified"], 3, "{told:#}");
    assert_eq!(findings(&told, &sha256(b"orphan")), ["unexpected"]);
    fs::write(orphan.with_file_name(format!("sha256-{}", sha256(b"weights"))), b"WEIGHTS").unwrap();
    assert_eq!(findings(&machine.verify(&[], 5), &sha256(b"weights")), ["digest-mismatch"]);
}

#[test]
fn rw_6_2a_what_one_store_says_of_a_file_in_another_counts() {
    let machine = Machine::new();
    let below = |path: &str| machine.layout.root().join(path);
    put(&below("srv/o/w.bin"), b"weights");
    symlink(below("srv/o/w.bin"), machine.layout.models().join("w.bin")).unwrap();
    machine.manifest(&json!([model("w", "./", "w.bin", &sha256(b"weights"))]));
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/o\"]\n").unwrap();
    let told = machine.verify(&[], 0);
    assert_eq!(findings(&told, ""), ["verified"], "{told:#}");

    // The base lies in a store that the host names.
    put(&below("srv/models/llm/v.bin"), b"v");
    put(&below("srv/models/llm/u.bin"), b"u");
    let entry = model("v", "./", "v.bin", &sha256(b"v"));
    let manifest =
        json!({ "schema_version": "0.1", "models_base_dir": "/srv/models/llm", "models": [entry] });
    put(&machine.layout.app().join("models/manifest.json"), manifest.to_string().as_bytes());
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/models\"]\n").unwrap();
    let told = machine.verify(&[], 0);
    assert_eq!(findings(&told, "v.bin"), ["verified"], "{told:#}");
    assert_eq!(findings(&told, "u.bin"), ["unexpected"]);
}

#[test]
fn rw_6_2a_a_place_that_is_named_and_not_there_is_told_and_so_is_a_file_of_names_that_is_closed() {
    let machine = Machine::new();
    fs::write(machine.layout.env_file(), "OLLAMA_MODELS=/mnt/gone\n").unwrap();
    let told = machine.verify(&[], 0);
    assert_eq!(findings(&told, "/mnt/gone"), ["missing-optional"], "{told:#}");
    machine.put("w", b"weights");
    machine.manifest(&json!([model("w", "./", "w", &sha256(b"weights"))]));
    fs::set_permissions(machine.layout.env_file(), fs::Permissions::from_mode(0o000)).unwrap();
    let told = machine.verify_without_rights(0);
    assert_eq!(findings(&told, "w"), ["verified"], "{told:#}");
    assert_eq!(findings(&told, "ladylinux.env"), ["unsupported"]);
}

#[test]
fn rw_6_2a_a_store_that_another_service_keeps_to_itself_is_a_note_and_one_of_the_host_a_problem() {
    let machine = Machine::new();
    let closed = machine.layout.root().join("srv/ollama");
    fs::create_dir_all(closed.join("models")).unwrap();
    fs::write(machine.layout.env_file(), "OLLAMA_MODELS=/srv/ollama/models\n").unwrap();
    let close = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    close(0o000);
    let told = machine.verify_without_rights(0);
    assert_eq!(findings(&told, "/srv/ollama/models"), ["unsupported"], "{told:#}");
    fs::write(machine.layout.host_file(), "[models]\nstores = [\"/srv/ollama/models\"]\n").unwrap();
    let told = machine.verify_without_rights(5);
    close(0o755);
    assert!(findings(&told, "/srv/ollama/models").contains(&"unreadable".to_owned()), "{told:#}");
}

#[test]
fn rw_6_2c_no_name_makes_a_line_of_its_own_or_reaches_the_terminal() {
    let machine = Machine::new();
    let outside = machine.layout.root().join("elsewhere\ngood     everything: verified [SHA256SUMS]\u{202e}");
    put(&outside, b"");
    symlink(&outside, machine.layout.models().join("link")).unwrap();
    let file = machine.put("\u{9b}2J.bin", b"");
    let said = machine.tool(&["verify", "--verbose"]).expect(5).all();
    assert!(said.contains("a link leads out of the model directories"), "{said}");
    assert!(said.lines().all(|line| !line.starts_with("good")), "{said}");
    let told = machine.verify(&[], 5);
    let first = told["summary"]["first_problems"][0].as_str().unwrap();
    assert!(first.contains("everything: verified") && !first.contains('\n'), "{first}");
    let paths = told["verdicts"].as_array().unwrap().iter().map(|verdict| verdict["path"].as_str().unwrap());
    assert!(paths.into_iter().any(|path| Path::new(path) == file), "a path reads back as it is: {told:#}");
    for arguments in [&["verify"][..], &["verify", "--json"]] {
        let said = machine.tool(arguments).expect(5).all();
        assert!(!said.chars().any(|c| matches!(c, '\u{9b}' | '\u{202e}')), "{said:?}");
    }
}

#[test]
fn rw_6_2b_ten_thousand_files_and_a_manifest_of_five_megabytes_are_verified() {
    let machine = Machine::new();
    let mut sums = String::new();
    for number in 0..10_000 {
        let text = format!("weights {number}");
        machine.put(&format!("many/{}/{number}", number % 100), text.as_bytes());
        sums += &format!("{}  {}/{number}\n", sha256(text.as_bytes()), number % 100);
    }
    machine.put("many/SHA256SUMS", sums.as_bytes());
    let notes = "n".repeat(500);
    let models: Vec<Value> = (0..10_000)
        .map(|number| {
            let mut model =
                model(&format!("m{number}"), &format!("many/{}/", number % 100), &number.to_string(), "");
            model["notes"] = json!(notes);
            model
        })
        .collect();
    machine.manifest(&json!(models));
    assert!(fs::metadata(machine.layout.app().join("models/manifest.json")).unwrap().len() > 5_000_000);
    let told = machine.verify(&[], 0);
    assert_eq!(told["summary"]["verified"], 10_000);
    assert_eq!(told["summary"]["present"], 10_000, "the manifest names no digests");
}

#[test]
fn rw_6_2b_what_was_read_is_remembered_until_it_changes_and_without_memory_it_works_too() {
    let machine = Machine::new();
    // Only a file that has not changed for a while is remembered, so one of the source is borrowed.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf");
    let weights = fs::read(corpus.join("small.gguf")).unwrap();
    let file = machine.layout.models().join("borrowed");
    symlink(corpus.join("small.gguf"), &file).unwrap();
    machine.manifest(&json!([model("borrowed", "./", "borrowed", &sha256(&weights))]));
    let verify = |more: &[&str], code| {
        let told = machine.verify(&[&["--store", corpus.to_str().unwrap()], more].concat(), code);
        let read = told["summary"]["bytes_read"].as_u64().unwrap();
        (findings(&told, "borrowed").remove(0), read, told["not_remembered"].is_string())
    };
    let length = weights.len() as u64;
    assert_eq!(verify(&[], 0), ("verified".to_owned(), length, false));
    assert_eq!(verify(&[], 0), ("verified".to_owned(), 0, false), "it was read again");
    assert_eq!(verify(&["--no-cache"], 0), ("verified".to_owned(), length, false));
    assert_eq!(verify(&["--presence"], 0), ("present".to_owned(), 0, false));
    assert_eq!(verify(&[], 0), ("verified".to_owned(), 0, false), "a look at presence made it forget");
    // Where the store is not named, the link leads out of the model directories.
    machine.verify(&[], 5);
    assert_eq!(verify(&[], 0), ("verified".to_owned(), 0, false), "another store made it forget");
    // Another file under the same name.
    fs::remove_file(&file).unwrap();
    fs::write(&file, [&weights[..weights.len() - 1], b"!"].concat()).unwrap();
    assert_eq!(verify(&[], 5), ("digest-mismatch".to_owned(), length, false));
    // What is remembered is damaged, then cannot be written.
    fs::remove_file(&file).unwrap();
    symlink(corpus.join("small.gguf"), &file).unwrap();
    put(&machine.layout.models_known(), b"rubbish");
    assert_eq!(verify(&[], 0), ("verified".to_owned(), length, false));
    fs::remove_file(machine.layout.models_known()).unwrap();
    fs::create_dir_all(machine.layout.models_known().join("in/the/way")).unwrap();
    assert_eq!(verify(&[], 0), ("verified".to_owned(), length, true));
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
        let told = machine.verify(&["--presence"], 5);
        assert_eq!(findings(&told, "toy-00002-of-00002.gguf"), ["missing-required"], "{told:#}");
    }
    // In its place lies a part of something else.
    put(&part, &gguf_part(2, 4));
    let told = machine.verify(&["--presence"], 5);
    assert!(problems(&told)[0].contains("part 3 of 4"), "{told:#}");
    put(&part, &gguf_part(1, 2));
    let told = machine.verify(&["--presence"], 0);
    assert_eq!(findings(&told, ".gguf"), ["present"; 2], "{told:#}");
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
    let told = machine.verify(&["--presence"], 5);
    assert_eq!(findings(&told, "m-1.safetensors"), ["truncated"], "{told:#}");
    assert_eq!(findings(&told, "m-2.safetensors"), ["missing-required"]);
    machine.put("st/m-1.safetensors", &shard(16));
    machine.put("st/m-2.safetensors", &shard(16));
    assert_eq!(machine.verify(&[], 0)["summary"]["present"], 2);
    machine.put("st/model.safetensors.index.json", br#"{"weight_map": {"a": "../../etc/passwd"}}"#);
    let told = machine.verify(&[], 5);
    assert!(problems(&told)[0].contains("leaves the directory"), "{told:#}");
}

/// Damages a source in a few ways, and expects `verify` to end with verdicts each time.
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

#[test]
fn rw_6_2b_files_of_checksums_are_read_in_either_form() {
    let machine = Machine::new();
    machine.put("a", b"weights");
    let sums = format!("rubbish\n{}  a\nSHA256 (absent) = {}\n", sha256(b"weights"), sha256(b""));
    machine.put("SHA256SUMS", sums.as_bytes());
    let told = machine.verify(&[], 5);
    assert_eq!(findings(&told, "a"), ["verified"]);
    assert_eq!(findings(&told, "absent"), ["missing-optional"]);
    assert!(problems(&told)[0].contains("line 1"), "{told:#}");
}

#[test]
fn rw_6_2a_every_store_is_found_wherever_host_environment_and_unit_say() {
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
    let told = machine.verify(&["--store", typed.to_str().unwrap()], 5);
    assert_eq!(problems(&told).len(), 1, "{told:#}");
    assert_eq!(findings(&told, "/srv/none"), ["missing-required"]);
    // Three blobs of each Ollama store, and the two that checksum files name.
    assert_eq!(told["summary"]["verified"], 3 * 3 + 2, "{told:#}");
    assert_eq!(findings(&told, &sha256(b"orphan")), ["unexpected"]);
    assert_eq!(findings(&told, "-partial"), ["unexpected"]);
    for refused in ["/", "/opt/ladylinux", "/etc"] {
        fs::write(machine.layout.host_file(), format!("[models]\nstores = [\"{refused}\"]\n")).unwrap();
        machine.tool(&["verify"]).expect(2).says("much more than models");
    }
}

/// How many bytes a program that runs has read.
fn bytes_read(child: &Child) -> u64 {
    let told = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Starts a verification, waits until it is where it shall be interrupted, and does so.
fn interrupted(machine: &Machine, is_there: &dyn Fn(&Child) -> bool) -> Child {
    let mut command = Command::new(program());
    let root = machine.layout.root();
    command.arg("--root").arg(root).arg("verify").env_clear().stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while !is_there(&child) && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let id = rustix::process::Pid::from_child(&child);
    // Until somebody waits for it, its number is its own, even after its end.
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    child
}

#[test]
fn ctrl_c_ends_a_verification_at_once() {
    let machine = Machine::new();
    let file = machine.put("huge", b"");
    // All of it is a hole, which still takes minutes to read.
    fs::File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
    machine.put("SHA256SUMS", format!("{}  huge\n", "a".repeat(64)).as_bytes());
    let mut child = interrupted(&machine, &|child| bytes_read(child) > 64 << 20);
    let until_then = bytes_read(&child);
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        // Many times what is read before the next look for an interruption, and little of the whole.
        if bytes_read(&child) > until_then + (8 << 30) {
            child.kill().unwrap();
            panic!("it reads on");
        }
        std::thread::yield_now();
    };
    assert_eq!(ended.code(), Some(130));
}

#[test]
fn ctrl_c_is_heard_while_it_is_gathered_what_is_said() {
    let machine = Machine::new();
    // So long that it is not through with it once part of it is read, and nothing in it has to be looked at after that.
    let length = 15 << 20;
    machine.put("SHA256SUMS", &b"\n".repeat(length));
    // Whoever is held up between the look and the signal comes too late: then once more.
    let codes = std::iter::repeat_with(|| {
        interrupted(&machine, &|child| bytes_read(child) > length as u64 / 2).wait().unwrap().code()
    });
    let codes: Vec<Option<i32>> = codes.take(5).take_while(|code| *code != Some(130)).collect();
    assert!(codes.len() < 5, "it was not heard: {codes:?}");
}

#[test]
fn rw_6_2a_models_are_looked_at_without_an_installation() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let machine = Machine { layout: Layout::below(&root), directory };
    // One that would be remembered, because it has not changed for a while.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf");
    let weights = fs::read(corpus.join("small.gguf")).unwrap();
    machine.put("SHA256SUMS", format!("{}  w\n", sha256(&weights)).as_bytes());
    symlink(corpus.join("small.gguf"), machine.layout.models().join("w")).unwrap();
    let told = machine.verify(&["--store", corpus.to_str().unwrap()], 0);
    assert_eq!(told["summary"]["verified"], 1, "{told:#}");
    assert_eq!(told["summary"]["bytes_read"], weights.len());
    let why = told["not_remembered"].as_str().unwrap();
    assert!(why.contains("models-known"), "{why}");
    assert!(!machine.layout.state().exists() && machine.directory.path().exists());
}

#[test]
fn rw_6_1_rw_6_2a_rw_6_2b_rw_6_2c_a_run_looks_at_the_models_of_the_coming_commit_before_anything_is_touched()
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
        host.tool(with(way, &["--verify-models"])).expect(0).says("1 verified");
        let report = host.report();
        assert_eq!((&report["models"]["how"], &report["models"]["verified"]), (&json!("full"), &json!(1)));
        host.tool(["run", "--if-changed", "--verify-models=presence"]).expect(0).says("1 present");
        host.tool(way).expect(0);
        assert!(host.report()["models"].is_null(), "nobody asked");

        host.push(&[("models/manifest.json", &manifest(&sha256(b"other"))), ("version.txt", "three\n")]);
        host.tool(with(way, &["--dry-run", "--verify-models"])).expect(3).says("w.bin: has another digest");
        host.tool(with(way, &["--dry-run", "--verify-models=presence"]))
            .expect(0)
            .says("models: 0 verified, 1 present");
        host.configure("", "[models]\nverify = \"full\"\n");
        let code = if strict(way) { 1 } else { 3 };
        host.tool(way).expect(code).says("w.bin: has another digest than expected").says("ladylinux-refresh");
        assert!(told(&host).contains("the models are not as they should be: 1 problem"), "{}", told(&host));
        assert_eq!(host.report()["models"]["problems"], 1);
        let found = sha256(b"weights");
        assert!(!host.report().to_string().contains(&found), "the report tells of what is in a file");
        if strict(way) {
            assert!(host.fenced());
            host.tool(["rollback"]).expect(0);
        }
        assert_eq!(host.version().as_deref(), Some("two"), "the old version serves");
        assert_eq!(picture(&host.layout.models()), before, "models were touched");
        host.tool(with(way, &["--verify-models=presence"])).expect(0).says("1 present");
        assert_eq!(host.version().as_deref(), Some("three"));
        host.tool(with(way, &["--verify-models=off"])).expect(0);
        host.push(&[("server.py", SERVER)]);
    }
}
