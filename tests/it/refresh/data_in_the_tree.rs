//! Data that people and the application keep in `app/` stays there, with any commit and on any file system.

use std::fs;
use std::process::Command;

use super::local_changes::{kept_nothing, stashed};
use crate::host::{Host, git};
use crate::refresh::help::last_run;

#[test]
fn data_keeps_its_place_if_the_ignore_rules_change_with_the_commit() {
    let host = Host::new();
    host.push(&[
        (".gitignore", ".env\n*.db\nconf/\ndata/\n"),
        ("settings.ini", "shipped\n"),
        ("seed", "1\n"),
    ]);
    host.tool(["run"]).expect(0);
    let app = host.layout.app();
    host.write(".env", "SECRET=1\n");
    host.write("deep/rows.db", "rows");
    host.write("conf/user.ini", "mine\n");
    host.write("shelf/rows.db", "rows");
    host.write("conf/other.ini", "mine too\n");
    host.write("settings.ini", "changed manually\n");
    host.write("local/notes", "of this machine");
    let exclude = app.join(".git/info/exclude");
    fs::write(&exclude, format!("{}local/\n", fs::read_to_string(&exclude).unwrap())).unwrap();
    fs::create_dir(host.beside("elsewhere")).unwrap();
    std::os::unix::fs::symlink(host.beside("elsewhere"), app.join("data")).unwrap();
    // The rules are removed; a tracked file becomes an ignored one; an ignored one becomes tracked.
    host.push(&[(".gitignore", "settings.ini\nseed\n"), ("settings.ini", ""), ("seed", "")]);
    // A file of the commit comes in place of a local file, and of a directory.
    host.push(&[("conf/user.ini", "shipped\n"), ("shelf", "a file\n")]);
    let run = host.tool(["run"]).expect(0);
    run.prints("the commit replaces conf/user.ini: the local one is in the stash")
        .prints("the commit replaces shelf: the local one is in the stash");
    assert_eq!(fs::read_to_string(stashed(&host).join("conf/user.ini")).unwrap(), "mine\n");
    assert_eq!(fs::read_to_string(stashed(&host).join("shelf/rows.db")).unwrap(), "rows");
    assert_eq!(host.report()["saved"]["count"], 2, "{}", host.report()["saved"]);
    for version in ["two\n", "three\n"] {
        for (path, content) in [
            (".env", "SECRET=1\n"),
            ("deep/rows.db", "rows"),
            ("conf/other.ini", "mine too\n"),
            ("conf/user.ini", "shipped\n"),
            ("settings.ini", "changed manually\n"),
            ("local/notes", "of this machine"),
        ] {
            assert_eq!(host.read(path).as_deref(), Some(content), "{path} before {version}");
        }
        assert!(app.join("data").is_symlink(), "a link to a directory of data is lost");
        assert!(!app.join("seed").exists(), "a file that the commit removes was kept");
        assert_eq!(git(&app, ["status", "--porcelain"]), "");
        host.push(&[("version.txt", version)]);
        host.tool(["run"]).expect(0);
        kept_nothing(&host);
    }
    assert!(host.report()["ignored"].to_string().contains("deep/rows.db"));
}

#[test]
fn a_directory_that_ignores_itself_keeps_its_place_and_its_data() {
    let host = Host::running();
    for (directory, rules) in [("data", "*\n"), ("deep/store", "# made by a tool\n/*\n!.gitignore\n")] {
        host.write(&format!("{directory}/.gitignore"), rules);
        host.write(&format!("{directory}/rows"), "rows");
    }
    host.write("drafts/.gitignore", "*\n!notes\n");
    host.write("drafts/notes", "mine");
    for version in ["two\n", "three\n"] {
        host.push(&[("version.txt", version)]);
        host.tool(["run"]).expect(0);
        for path in ["data/rows", "deep/store/rows"] {
            assert_eq!(host.read(path).as_deref(), Some("rows"), "{path} in {version}");
        }
        if version == "two\n" {
            assert_eq!(host.report()["saved"]["count"], 1, "{}", host.report()["saved"]);
            assert_eq!(fs::read_to_string(stashed(&host).join("drafts/notes")).unwrap(), "mine");
        } else {
            kept_nothing(&host);
        }
    }
}

#[test]
fn files_of_a_halted_run_are_not_local_files_in_the_way_of_the_next_commit() {
    let host = Host::running();
    let failing = "[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"false\"]\n";
    host.push(&[("refresh.toml", failing)]);
    host.tool(["run"]).expect(1);
    host.push(&[("refresh.toml", "# none\n")]);
    let run = host.tool(["run"]).expect(0);
    assert!(!run.all().contains("the commit replaces"), "{}", run.all());
    kept_nothing(&host);
}

#[test]
fn a_preserved_database_whose_rows_are_still_in_its_log_moves_across_with_it() {
    let host = Host::new();
    host.configure("preserve = [\"notes.db\"]", "");
    host.push(&[("notes.db", "as shipped\n"), (".gitignore", "*.duckdb\n")]);
    host.tool(["run"]).expect(0);
    host.write("notes.db-wal", "rows");
    host.write("facts.duckdb", "facts");
    host.write("facts.duckdb.wal", "later facts");
    host.push(&[("notes.db", "shipped later\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.read("notes.db").as_deref(), Some("as shipped\n"));
    assert_eq!(host.read("notes.db-wal").as_deref(), Some("rows"));
    assert_eq!(host.read("facts.duckdb.wal").as_deref(), Some("later facts"));
    kept_nothing(&host);
}

/// Lets every `renameat2` with a flag fail as on file systems without support for them (NFS, 9p, older ZFS), and
/// executes the program that the arguments name. A filter of seccomp(2), for this architecture.
const WITHOUT_FLAGS: &str = r#"
import ctypes, os, platform, struct, sys
arch, number = {"x86_64": (0xC000003E, 316), "aarch64": (0xC00000B7, 276)}[platform.machine()]
code = [(0x20, 0, 0, 4), (0x15, 0, 5, arch), (0x20, 0, 0, 0), (0x15, 0, 3, number),
        (0x20, 0, 0, 48), (0x15, 1, 0, 0), (6, 0, 0, 0x50000 | 22), (6, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
one = Program(len(code), ctypes.addressof(program))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(one), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_file_system_without_exchange_and_without_a_check_of_the_new_name_is_refreshed_too() {
    let host = Host::new();
    let tool = |arguments: &[&str]| {
        let program = host.command(arguments);
        let mut command = Command::new("python3");
        command.args(["-c", WITHOUT_FLAGS]).arg(program.get_program()).args(program.get_args());
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
    };
    // A directory in place of the link is exchanged for it.
    fs::create_dir_all(host.layout.venv().join("bin")).unwrap();
    fs::write(host.layout.venv().join("bin/mine"), "of an earlier environment").unwrap();
    tool(&["run"]);
    assert!(host.layout.venv().is_symlink());
    host.write("mine.txt", "mine");
    host.push(&[("version.txt", "two\n"), (".gitignore", ".env\n")]);
    host.write(".env", "SECRET=1\n");
    tool(&["run"]);
    assert_eq!(host.read(".env").as_deref(), Some("SECRET=1\n"));
    assert_eq!(fs::read_to_string(stashed(&host).join("mine.txt")).unwrap(), "mine");
    tool(&["stash", "restore", &last_run(&host)]);
    assert_eq!(host.read("mine.txt").as_deref(), Some("mine"));
    tool(&["rollback"]);
    assert_eq!(host.answer().unwrap()["version"], "one");
}
