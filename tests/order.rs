//! The order of the six steps is a type (RW-5.0): programs that skip, repeat or reorder a step, or that construct a
//! later state directly, do not compile. Each is a file in `tests/order/`, which names the compiler's error code at the
//! end of each line that has one; the program in the right order has none.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "starts the compiler itself")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A line of a program, from 1, and the code of its error (`E0599`).
type CompileError = (u64, String);

/// The crates that the programs use.
const CRATES: [&str; 3] = ["refresh_events", "refresh_installation", "refresh_run"];

/// Returns the path of a crate that was built for this test.
fn library(directory: &Path, name: &str) -> PathBuf {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let start = format!("lib{name}-");
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(&start) && name.ends_with(".rlib")
    };
    entries.filter(is_library).max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap()
}

/// Compiles a program against the library and returns its errors.
fn errors_of(program: &Path) -> BTreeSet<CompileError> {
    let test = std::env::current_exe().unwrap();
    let dependencies = test.parent().unwrap();
    let output = tempfile::tempdir().unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "--crate-type=bin", "--emit=metadata", "--error-format=json"]);
    rustc.arg("-L").arg(format!("dependency={}", dependencies.display()));
    for name in CRATES {
        rustc.arg("--extern").arg(format!("{name}={}", library(dependencies, name).display()));
    }
    let compiled = rustc.arg("--out-dir").arg(output.path()).arg(program).output().unwrap();
    let printed = String::from_utf8(compiled.stderr).unwrap();
    let messages = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let errors: BTreeSet<CompileError> = messages.filter_map(|message| error_in(&message)).collect();
    assert_eq!(compiled.status.success(), errors.is_empty(), "{printed}");
    errors
}

/// Reads one message of the compiler; `None` for a warning and for the summary at the end.
fn error_in(message: &Value) -> Option<CompileError> {
    let code = message["code"]["code"].as_str().filter(|_| message["level"] == "error")?;
    let spans = message["spans"].as_array()?;
    let main = spans.iter().find(|span| span["is_primary"] == true)?;
    Some((main["line_start"].as_u64()?, code.to_owned()))
}

/// Reads the errors that a program names.
fn expected_in(program: &Path) -> BTreeSet<CompileError> {
    let text = fs::read_to_string(program).unwrap();
    let lines = text.lines().zip(1..);
    lines.filter_map(|(line, number)| Some((number, line.split_once(" // ")?.1.to_owned()))).collect()
}

#[test]
fn rw_5_0_a_wrong_order_of_steps_does_not_compile() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/order");
    for (name, count) in [
        ("in_order", 0),
        ("skipped", 5),
        ("repeated", 2),
        ("reordered", 3),
        ("from_nothing", 1),
        ("made_by_hand", 3),
    ] {
        let program = directory.join(name).with_extension("rs");
        let errors = errors_of(&program);
        assert_eq!(errors, expected_in(&program), "{name}");
        assert_eq!(errors.len(), count, "{name}");
    }
}
