//! Definitions that cannot be built are refused in staging, with nothing touched. The output of the command `lock` is
//! checked too. From end to end, with a separate index that the host names.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests lay out files; none continues without them"
)]

use crate::host;
use crate::index;
use crate::schema;

use std::fs;
use std::path::Path;
use std::process::Command;

use host::Host;
use index::{Index, Release, release};

/// The releases of the index, including `six` in the version that the host runs with.
fn releases() -> Vec<Release> {
    vec![
        release("six", "1.16.0"),
        Release { year: 2025, ..release("six", "1.17.0") },
        Release { needs: "six<1.17", ..release("strict", "1.0") },
        Release { yanked: true, ..release("withdrawn", "1.0") },
        release("also", "1.0"),
        Release { python: ">=3.99", ..release("future", "1.0") },
        Release { tag: "py3-none-win_amd64", ..release("foreign", "1.0") },
        Release { tag: "sdist", ..release("raw", "1.0") },
    ]
}

/// A host that takes packages from an index, and that has refreshed once from it.
fn host_with(index_url: &str) -> Host {
    let host = Host::new();
    host.configure_python(&format!("index_url = \"{index_url}\""));
    host.tool(["run"]).expect(0);
    host
}

/// The properties that identify a deployed installation.
fn state(host: &Host) -> (String, std::path::PathBuf, Option<serde_json::Value>) {
    (host.head(), fs::read_link(host.layout.venv()).unwrap(), host.answer())
}

#[test]
fn rw_7_1b_every_definition_that_cannot_be_built_is_refused_in_staging_and_nothing_is_touched() {
    let index = Index::new(&releases());
    let zeros = "0".repeat(64);
    let wrong_hash = format!("six==1.17.0 --hash=sha256:{zeros}\n");
    let wheel_hash = index.sha256("six==1.17.0");
    let no_wheel = format!("--no-binary six\nsix==1.17.0 --hash=sha256:{wheel_hash}\n");
    let cases: [(&str, &str, [&str; 2]); 15] = [
        ("does not resolve", "six==99\n", ["no version of a package fits", "six==99"]),
        ("contradicts itself", "six==1.17.0\nstrict\n", ["contradict", "six"]),
        ("does not match its hash", &wrong_hash, ["does not match its hash", "six"]),
        ("accepts no wheel", &no_wheel, ["build from source, which is not allowed", "six"]),
        ("is for another platform", "foreign==1.0\n", ["", "foreign"]),
        ("is for another Python", "future==1.0\n", ["", "future"]),
        ("is source only", "raw==1.0\n", ["", "raw"]),
        ("was withdrawn", "withdrawn==1.0\n", ["withdrawn (yanked)", "withdrawn 1.0"]),
        (
            "wants an unknown extra",
            "six==1.16.0\nalso[No_Such]\n",
            ["line 2", "also has no extra \"no-such\""],
        ),
        ("leaves the tree", "-r ../other.txt\n", ["requirements.txt, line 1", "outside of the tree"]),
        ("runs in a circle", "-r requirements.txt\n", ["in a circle", "requirements.txt"]),
        ("is not in the index", "nosuch\n", ["no version of a package fits", "nosuch"]),
        ("comes from git", "x @ git+https://x.invalid/x@v1\n", ["cannot be verified", "git+https://"]),
        (
            "comes from a URL",
            "x @ https://x.invalid/x-1-py3-none-any.whl\n",
            ["cannot be verified", "sha256="],
        ),
        (
            "names another index",
            "--index-url https://x.invalid\nsix\n",
            ["which only the host may do", "line 1"],
        ),
    ];
    let host = host_with(&index.url());
    let before = state(&host);
    for (what, text, expected) in &cases {
        host.push(&[("requirements.txt", text), ("version.txt", "two\n")]);
        let ran = host.tool(["run"]).expect(3);
        for expected in expected {
            assert!(ran.all().contains(expected), "{what}: {expected:?} is missing in\n{}", ran.all());
        }
        assert_eq!(state(&host), before, "{what}");
        assert!(!host.fenced());
    }
    host.push(&[("requirements.txt", "six==1.17.0\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn packages_that_only_another_tool_reads_are_refused_until_the_host_wants_none() {
    let index = Index::new(&releases());
    let host = host_with(&index.url());
    let before = state(&host);
    let poetry = "[tool.poetry]\nname = \"a\"\n[tool.poetry.dependencies]\nsix = \"*\"\n";
    let dynamic = "[project]\nname = \"a\"\nversion = \"1\"\ndynamic = [\"dependencies\"]\n";
    let cases = [
        ("Pipfile", "[packages]\nsix = \"*\"\n", "requirements.txt, pylock.toml"),
        ("requirements/base.txt", "six\n", "-r requirements/base.txt"),
        ("pyproject.toml", poetry, "[project] of pyproject.toml"),
        ("pyproject.toml", dynamic, "[project] of pyproject.toml"),
        ("setup.py", "from setuptools import setup\nsetup(install_requires=['six'])\n", "requirements.txt"),
    ];
    for (file, text, hint) in cases {
        let why = if text == dynamic { "leaves its dependencies to its build" } else { "is not read" };
        host.push(&[("requirements.txt", ""), (file, text)]);
        for command in ["run", "plan", "lock"] {
            let refused = host.tool([command]).expect(3).prints("the environment would be empty");
            refused.prints(&format!("{file} {why}")).prints(hint).prints("definitions = []");
        }
        assert_eq!(state(&host), before, "{file}");
        host.push(&[(file, "")]);
    }
    // Without packages, or with an empty list of them, the environment is empty on purpose.
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0).prints("the environment will be empty");
    host.push(&[("Pipfile", "[packages]\n"), ("requirements.txt", "# none\n"), ("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);
    host.push(&[("requirements.txt", ""), ("version.txt", "four\n")]);
    host.tool(["run"]).expect(3);
    host.configure_python(&format!("index_url = \"{}\"\ndefinitions = []", index.url()));
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("four"));
}

#[test]
fn the_reasons_of_uv_are_reported_by_kind_and_its_full_output_is_in_the_log() {
    let index = Index::new(&releases());
    let host = host_with(&index.url());
    for (text, kind) in [
        ("foreign==1.0\n", "a package is built for other platforms only"),
        ("future==1.0\n", "a package is for other versions of Python"),
        ("raw==1.0\n", "a package comes as source only"),
    ] {
        host.push(&[("requirements.txt", text)]);
        host.tool(["run"]).expect(3).prints(kind);
        let log = fs::read_to_string(host.runs().pop().unwrap().join("log")).unwrap();
        assert!(log.contains("No solution found when resolving dependencies"), "{log}");
    }
}

#[test]
fn strict_refuses_unlocked_requirements_and_accepts_the_output_of_lock() {
    let index = Index::new(&releases());
    let host = host_with(&index.url());
    let before = state(&host);
    host.push(&[("version.txt", "two\n")]);
    for command in [["run", "--strict"], ["plan", "--strict"]] {
        host.tool(command).expect(3).prints("the application has no lockfile").prints("ladylinux-refresh");
        assert_eq!(state(&host), before);
    }
    for (form, file) in [("pylock", "pylock.toml"), ("requirements", "requirements.txt")] {
        let printed = host.tool(["lock", "--format", form]).expect(0);
        assert!(printed.out.contains("six"), "{}", printed.all());
        host.push(&[("pylock.toml", ""), (file, &printed.out), ("version.txt", &format!("{form}\n"))]);
        host.tool(["run", "--strict", "--verbose"]).expect(0).prints(&format!("lock         {file}"));
        assert_eq!(host.version().as_deref(), Some(form));
    }
    host.configure_python(&format!("index_url = \"{}\"\nstrict = true", index.url()));
    host.push(&[("requirements.txt", "six\n")]);
    host.tool(["run"]).expect(3).prints("the application has no lockfile");
}

#[test]
fn a_lock_is_printed_upgraded_and_written_as_json() {
    let index = Index::new(&releases());
    let host = host_with(&index.url());
    host.push(&[("requirements.txt", "six\n")]);
    let lock = host.tool(["lock", "--json"]).expect(0);
    let lock = schema::valid(&lock.out, "lock.schema.json");
    assert_eq!(lock["packages"][0]["version"], "1.17.0");
    assert_eq!(lock["commit"].as_str(), Some(host::git(&host.work(), ["rev-parse", "HEAD"]).as_str()));
    assert!(lock["cutoff"].is_string() && lock["not_reproducible"].is_null(), "{lock}");
    let requirements = host.tool(["lock", "--format", "requirements"]).expect(0);
    let expected = format!("six==1.17.0 \\\n    --hash=sha256:{}\n", index.sha256("six==1.17.0"));
    assert_eq!(requirements.out, expected);
    let same =
        host.tool(["lock", "--upgrade"]).expect(0).prints("nothing changed").prints("from releases until");
    assert!(!same.all().contains("not reproducible"), "{}", same.all());

    // As if the definition were older than the second release.
    let amended = Command::new("git")
        .args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@localhost",
            "commit",
            "--quiet",
            "--amend",
            "--no-edit",
        ])
        .env("GIT_COMMITTER_DATE", "2024-06-01T00:00:00Z")
        .current_dir(host.work())
        .status();
    assert!(amended.unwrap().success());
    host::git(&host.work(), ["push", "--quiet", "--force", "origin", "HEAD"]);
    host.tool(["run", "--verbose"])
        .expect(0)
        .prints("lock         resolved by uv")
        .prints("until 2024-06-01T00:00:00Z");
    host.tool(["lock", "--upgrade"])
        .expect(0)
        .prints("~ six 1.16.0 → 1.17.0")
        .prints("upgraded on this machine");
    host.tool(["plan"]).expect(0).prints("not reproducible: it was upgraded on this machine");
    host.tool(["run", "--verbose"]).expect(0).prints("the lock changed").prints("upgraded on this machine");
    host.tool(["status"]).expect(0).prints("not reproducible");
    host.push(&[("requirements.txt", &expected)]);
    host.tool(["lock", "--upgrade"])
        .expect(3)
        .prints("requirements.txt is the lockfile, and a refresh does not write it");
    host.tool(["lock"]).expect(3).prints("lock --format requirements");
}

#[test]
fn the_credentials_of_an_index_reach_the_index_and_no_record() {
    let index = Index::new(&releases());
    let host = host_with(&index.url_with("me:hushhush"));
    // The beginning of `me:hushhush` in base64.
    assert!(index.asked().iter().any(|line| line.contains("bWU6aHVzaGh1c")));
    host.push(&[("requirements.txt", "six==99\n")]);
    let ran = host.tool(["run", "--verbose"]).expect(3);
    assert!(!ran.all().contains("hushhush"), "{}", ran.all());
    let mut looked = 0;
    for part in ["locks", "environments", "runs", "status.json"] {
        look(&host.layout.state().join(part), &mut |file| {
            looked += 1;
            let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
            assert!(!text.contains("hushhush"), "{}", file.display());
        });
    }
    assert!(looked > 5);
}

fn look(path: &Path, act: &mut dyn FnMut(&Path)) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            look(&entry.unwrap().path(), act);
        }
    } else if path.is_file() {
        act(path);
    }
}
