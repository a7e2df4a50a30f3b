//! Many files, the cache of digests, and the end of a verification by a signal.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Machine, findings, model, put, sha256};
use crate::host::program;
use serde_json::{Value, json};

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
    let report = machine.verify(&[], 0);
    assert_eq!(report["summary"]["verified"], 10_000);
    assert_eq!(report["summary"]["present"], 10_000, "the manifest names no digests");
}

#[test]
fn rw_6_2b_a_digest_is_remembered_until_its_file_changes_and_is_optional() {
    let machine = Machine::new();
    // Only files that have not changed for a while are remembered, so this is a file of the source tree.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/gguf");
    let weights = fs::read(corpus.join("small.gguf")).unwrap();
    let file = machine.layout.models().join("borrowed");
    symlink(corpus.join("small.gguf"), &file).unwrap();
    machine.manifest(&json!([model("borrowed", "./", "borrowed", &sha256(&weights))]));
    let verify = |more: &[&str], code| {
        let report = machine.verify(&[&["--store", corpus.to_str().unwrap()], more].concat(), code);
        let read = report["summary"]["bytes_read"].as_u64().unwrap();
        (findings(&report, "borrowed").remove(0), read, report["not_remembered"].is_string())
    };
    let length = weights.len() as u64;
    assert_eq!(verify(&[], 0), ("verified".to_owned(), length, false));
    assert_eq!(verify(&[], 0), ("verified".to_owned(), 0, false), "it was read again");
    assert_eq!(verify(&["--no-cache"], 0), ("verified".to_owned(), length, false));
    assert_eq!(verify(&["--presence"], 0), ("present".to_owned(), 0, false));
    assert_eq!(verify(&[], 0), ("verified".to_owned(), 0, false), "a look at presence made it forget");
    // If the store is not named, the link leads out of the model directories.
    machine.verify(&[], 5);
    assert_eq!(verify(&[], 0), ("verified".to_owned(), 0, false), "another store made it forget");
    // Another file under the same name.
    fs::remove_file(&file).unwrap();
    fs::write(&file, [&weights[..weights.len() - 1], b"!"].concat()).unwrap();
    assert_eq!(verify(&[], 5), ("digest-mismatch".to_owned(), length, false));
    // The cache is damaged, and then it cannot be written.
    fs::remove_file(&file).unwrap();
    symlink(corpus.join("small.gguf"), &file).unwrap();
    put(&machine.layout.models_known(), b"rubbish");
    assert_eq!(verify(&[], 0), ("verified".to_owned(), length, false));
    fs::remove_file(machine.layout.models_known()).unwrap();
    fs::create_dir_all(machine.layout.models_known().join("in/the/way")).unwrap();
    assert_eq!(verify(&[], 0), ("verified".to_owned(), length, true));
}

/// Returns the number of bytes that a running program has read.
fn bytes_read(child: &Child) -> u64 {
    let counters = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    let line = counters.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.map_or(0, |number| number.parse().unwrap())
}

/// Starts a verification, waits until it reaches the point of interruption, and interrupts it.
fn interrupted(machine: &Machine, is_there: &dyn Fn(&Child) -> bool) -> Child {
    let mut command = Command::new(program());
    let root = machine.layout.root();
    command.arg("--root").arg(root).arg("verify").env_clear().stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    while !is_there(&child) && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let id = rustix::process::Pid::from_child(&child);
    // Until its parent waits for it, its process ID stays in use, even after its end.
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    child
}

#[test]
fn ctrl_c_ends_a_verification_at_once() {
    let machine = Machine::new();
    let file = machine.put("huge", b"");
    // The entire file is a hole, which still takes minutes to read.
    fs::File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
    machine.put("SHA256SUMS", format!("{}  huge\n", "a".repeat(64)).as_bytes());
    let mut child = interrupted(&machine, &|child| bytes_read(child) > 64 << 20);
    let until_then = bytes_read(&child);
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        // Many times the amount that is read before the next check for an interruption, and a small part of the file.
        if bytes_read(&child) > until_then + (8 << 30) {
            child.kill().unwrap();
            panic!("it reads on");
        }
        std::thread::yield_now();
    };
    assert_eq!(ended.code(), Some(130));
}

#[test]
fn ctrl_c_ends_the_collection_of_the_names() {
    let machine = Machine::new();
    // So long that it is not finished when a part of it is read; and no part of its content needs a check after that.
    let length = 15 << 20;
    machine.put("SHA256SUMS", &b"\n".repeat(length));
    // If the test is delayed before the signal, the signal is too late: it is repeated.
    let codes = std::iter::repeat_with(|| {
        interrupted(&machine, &|child| bytes_read(child) > length as u64 / 2).wait().unwrap().code()
    });
    let codes: Vec<Option<i32>> = codes.take(5).take_while(|code| *code != Some(130)).collect();
    assert!(codes.len() < 5, "it was not heard: {codes:?}");
}
