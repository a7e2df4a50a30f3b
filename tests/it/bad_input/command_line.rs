//! Wrong command lines, and commands without an installation.

use std::fs;
use std::process::Command;

use super::{Reports, State, typed};
use crate::host::{Host, ran};

#[test]
fn a_wrong_command_line_is_reported_before_anything_happens() {
    let host = Host::running();
    let state = |host: &Host| (State::of(host), host.runs());
    let before = state(&host);
    for (arguments, says) in [
        (&["run", "--no-such-option"][..], "unexpected argument '--no-such-option'"),
        (&["run", "--dry-rum"], "'--dry-run'"),
        (&["run", "--no-service"], "unexpected argument '--no-service'"),
        (&["run", "-x"], "unexpected argument '-x'"),
        (&["run", "main", "other"], "unexpected argument 'other'"),
        (&["run", "--if-changed", "--dry-run"], "cannot be used with"),
        (&["run", "--wait", "soon"], "invalid value 'soon'"),
        (&["run", "--format", "xml"], "possible values: human, json, github"),
        (&["rum"], "unrecognized subcommand 'rum'"),
        (&["unt"], "unrecognized subcommand 'unt'"),
        (&["uninstall"], "'init --undo'"),
        (&["logs"], "'service logs'"),
        (&["verion"], "'verify'"),
        (&["version"], "'--version'"),
        (&["run", "--json", "--format", "human"], "cannot be used with"),
        (&["run", "main", "--branch", "main"], "cannot be used with"),
        (&["status", "--format", "json"], "unexpected argument '--format'"),
        (&["run", "--dry-run", "--exit-code"], "unexpected argument '--exit-code'"),
        (&["bundle", "create"], "--output <FILE>"),
        (&[], "requires a subcommand"),
        (&["run", "--", "-x"], "it starts with a dash"),
        (&["run", "../.."], "\"../..\" cannot be the name of a branch: it contains '..'"),
        (&["run", ""], "it is empty"),
        (&["run", "a\u{7}b"], "it contains '\\u{7}'"),
        (&["run", "a\nb"], "it contains '\\n'"),
        (&["run", "a b"], "it contains ' '"),
        (&["run", "HEAD"], "git gives it another meaning"),
        (&["run", "x.lock"], "'.lock'"),
        (&["run", "--dry-run", "--", "-x"], "it starts with a dash"),
        (&["plan", "../.."], "it contains '..'"),
        (&["rollback", "../../etc"], "../../etc"),
        (&["history", "-n", "x"], "invalid value 'x' for '--limit <N>': it is not an integer\n"),
        (&["init", "--allow", "foo"], "\"foo\" is not a transport that can be allowed: http, git, file\n"),
        (&["init", "--port", "0"], "invalid value '0' for '--port <PORT>'"),
        (&["init", "--port", "65536"], "65536 is not in 1..=65535"),
        (&["init", "--branch=-x", "--repo", "https://localhost/x"], "it starts with a dash"),
        (&["init", "--repo", "https://u:p@localhost/x"], "remote"),
        (
            &["init", "--repo", "file:///x"],
            &format!("next         {} init --repo file:///x --allow file", typed(&host)),
        ),
    ] {
        let printed = host.tool(arguments).expect(2);
        assert!(printed.err.contains(says), "{arguments:?}: {says:?} is missing in\n{}", printed.err);
        let next = printed.err.lines().last().unwrap_or_default();
        assert!(next.starts_with("  next         ladylinux-refresh "), "{arguments:?}\n{}", printed.err);
        assert!(printed.err.contains("  service      not touched"), "{arguments:?}\n{}", printed.err);
        for wrong in ["For more information", "supervise", "'unit'", "-- --json", "'--verify-models'"] {
            assert!(!printed.err.contains(wrong), "{arguments:?}: {wrong:?} in\n{}", printed.err);
        }
        assert!(
            !printed.err.contains('\u{7}') && !printed.err.contains("u:p@"),
            "{arguments:?}\n{}",
            printed.err
        );
        assert!(printed.out.is_empty(), "{arguments:?}\n{}", printed.out);
    }
    let completions = host.tool(["completions", "bash"]).expect(0).out;
    assert!(completions.contains("rollback") && !completions.contains("git-credential"), "{completions}");
    // A help text is printed with and without a request for it, and names nothing that could have been touched.
    for (arguments, code) in [(&["stash"][..], 2), (&["service"], 2), (&["help"], 0), (&["help", "run"], 0)] {
        let printed = host.tool(arguments).expect(code).prints("Usage: ladylinux-refresh");
        assert!(!printed.all().contains("not touched"), "{arguments:?}\n{}", printed.all());
    }
    for arguments in [
        &["history", "r-1"][..],
        &["wait", "r-1"],
        &["cancel", "r-1"],
        &["bundle", "show", "/nonexistent"],
        &["init", "--branch", "nosuch"],
        &["verify", "--store", "/nonexistent"],
    ] {
        host.tool(arguments).expect(3).reports(&host, &[]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"));
    let printed = ran(command.args(["--root", "", "run"]).env_clear().output().unwrap()).expect(2);
    assert!(printed.err.contains("--root"), "{}", printed.err);
    assert_eq!(before, state(&host));
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn without_an_installation_no_command_creates_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for arguments in [
        &["run"][..],
        &["plan"],
        &["status"],
        &["rollback"],
        &["unfence"],
        &["stash", "list"],
        &["service", "start"],
        &["history"],
        &["verify"],
        &["verify", "--environment"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"))
            .arg("--root")
            .arg(&root)
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        let printed = ran(output).expect(3).prints("no installation found");
        let next = format!("ladylinux-refresh --root {} init --repo URL", root.display());
        assert!(
            printed.err.contains(&next) && printed.err.contains("  service      "),
            "{arguments:?}\n{}",
            printed.err
        );
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "{arguments:?} made something");
    }
}
