//! Environments, made by the real uv from the real index.
#![expect(clippy::disallowed_methods, reason = "tests create and read directories themselves")]
#![expect(clippy::disallowed_macros, reason = "tests print their counts and the reason for a skip")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

mod build;
mod live;

use std::fs;
use std::path::Path;
use std::process::Command;

fn import(venv: &Path, module: &str) -> bool {
    Command::new(venv.join("bin/python"))
        .args(["-I", "-c", &format!("import {module}")])
        .output()
        .unwrap()
        .status
        .success()
}

fn each(path: &Path, look: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let found = fs::symlink_metadata(path).unwrap();
    look(path, &found);
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            each(&entry.unwrap().path(), look);
        }
    }
}
