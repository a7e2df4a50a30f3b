//! Errors of commands with `--json`: one object on standard output for each kind of failure.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::host::{Ran, ran};
use crate::schema;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::CommandFactory as _;
use ladylinux_refresh::cli::Cli;
use refresh_installation::journal::run_lock;
use refresh_installation::journal::run_lock::Taken;
use refresh_settings::layout::Layout;
use serde_json::Value;

/// Returns the words of each command that has `--json`, with a value for each required argument.
fn commands_with_json() -> Vec<Vec<String>> {
    fn add(words: &[String], command: &clap::Command, found: &mut Vec<Vec<String>>) {
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            add(&[words, &[inner.get_name().to_owned()]].concat(), inner, found);
        }
        if command.get_arguments().any(|argument| argument.get_id() == "json") {
            let required = command.get_positionals().filter(|argument| argument.is_required_set());
            let values = required.map(|_| "/nonexistent".to_owned()).collect();
            found.push([words.to_vec(), values].concat());
        }
    }
    let mut found = Vec::new();
    add(&[], &Cli::command(), &mut found);
    found
}

fn tool(root: &Path, words: &[String], more: &[&str]) -> Ran {
    let mut command = Command::new(crate::host::program());
    command.env_clear().arg("--root").arg(root).args(words).args(more);
    ran(command.output().unwrap())
}

/// Returns the error object of a failed command. Its exit code and its next command equal those of the text.
#[track_caller]
fn error(printed: &Ran) -> Value {
    let object = schema::valid(&printed.out, "error.schema.json");
    assert_eq!(object["exit_code"], printed.code.unwrap(), "{}", printed.err);
    let next = format!("  next         {}", object["error"]["next"].as_str().unwrap());
    assert_eq!(printed.err.lines().last(), Some(next.as_str()), "{}", printed.out);
    object
}

fn empty() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    (directory, root)
}

#[test]
fn without_an_installation_each_command_with_json_writes_json() {
    let (_directory, root) = empty();
    let commands = commands_with_json();
    assert!(commands.len() >= 13, "{commands:?}");
    let mut failed = 0;
    for words in &commands {
        let printed = tool(&root, words, &["--json"]);
        if printed.code == Some(0) {
            serde_json::from_str::<Value>(&printed.out).unwrap();
            continue;
        }
        // The doctor has findings, which are its result.
        if printed.code == Some(5) {
            continue;
        }
        error(&printed);
        failed += 1;
    }
    assert!(failed >= 10, "only {failed} commands failed");
    let object = error(&tool(&root, &["status".to_owned()], &["--json"]));
    assert_eq!((&object["exit_code"], &object["error"]["step"]), (&3.into(), &"status".into()));
    assert!(object["error"]["next"].as_str().unwrap().contains(" init --repo URL"), "{object}");
}

#[test]
fn a_wrong_command_line_and_wrong_settings_are_json() {
    let (_directory, root) = empty();
    for words in commands_with_json() {
        let object = error(&tool(&root, &words, &["--json", "--no-such-option"]));
        assert_eq!(object["exit_code"], 2);
        assert!(object["error"]["cause"][0].as_str().unwrap().contains("--no-such-option"), "{object}");
    }
    let object = error(&tool(&root, &["rum".to_owned()], &["--json"]));
    assert!(object["error"]["cause"][0].as_str().unwrap().contains("'rum'"), "{object}");
    let printed = tool(&root, &["rum".to_owned()], &[]).expect(2);
    assert_eq!(printed.out, "");

    let layout = Layout::below(&root);
    fs::create_dir_all(layout.etc()).unwrap();
    fs::create_dir_all(layout.home()).unwrap();
    fs::create_dir_all(layout.state()).unwrap();
    fs::write(layout.host_file(), "kep = 3\n").unwrap();
    for words in [&["status"][..], &["run"], &["config", "show"]] {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let object = error(&tool(&root, &words, &["--json"]));
        assert_eq!(object["exit_code"], 2);
        assert!(object["error"]["next"].as_str().unwrap().ends_with(" config check"), "{object}");
    }
}

#[test]
fn a_run_that_finds_another_one_in_progress_writes_one_line_of_json() {
    let (_directory, root) = empty();
    let layout = Layout::below(&root);
    fs::create_dir_all(layout.home()).unwrap();
    fs::create_dir_all(layout.state()).unwrap();
    let taken = run_lock::take(&layout.lock_file(), "run", None, Duration::ZERO).unwrap();
    assert!(matches!(taken, Taken::Ours(_)));
    let printed = tool(&root, &["run".to_owned()], &["--json", "--no-stage"]).expect(4);
    assert_eq!(printed.out.lines().count(), 1, "{}", printed.out);
    let object = error(&printed);
    assert_eq!(object["error"]["service"], "left to that run");
    assert!(object["error"]["next"].as_str().unwrap().ends_with(" run --no-stage --wait 5m"), "{object}");
}
