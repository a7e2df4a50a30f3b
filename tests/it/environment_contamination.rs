//! A manual change in an environment is found at once, reported by name, repaired by the next run, and never copied
//! into another environment.
#![expect(clippy::disallowed_methods, reason = "the tests change environments manually, as people do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::host;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use host::Host;
use serde_json::{Value, json};

/// The directory that `venv` leads to.
fn live(host: &Host) -> PathBuf {
    host.layout.venv().canonicalize().unwrap()
}

fn name(environment: &Path) -> String {
    environment.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Makes the directory of the packages of an environment writable, and returns it.
fn packages(environment: &Path) -> PathBuf {
    let mut versions = fs::read_dir(environment.join("lib")).unwrap();
    let directory = versions.next().unwrap().unwrap().path().join("site-packages");
    for directory in [directory.clone(), directory.join("__pycache__")] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

/// Changes the first byte of a file and restores its time.
fn change_a_byte(path: &Path) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn json_of(host: &Host, arguments: &[&str], code: i32) -> Value {
    serde_json::from_str(&host.tool(arguments).expect(code).out).unwrap()
}

/// Returns the paths of the report, each with its kind and its fate.
fn changes(contamination: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = contamination["found"].as_array().unwrap().iter();
    found.map(|it| (text(&it["path"]), text(&it["change"]), text(&it["kind"]))).collect()
}

#[test]
fn rw_2_2_rw_5_3_a_manual_change_is_found_by_status_and_plan_and_gone_after_the_next_run() {
    type Deed = (&'static str, fn(&Path), &'static str, &'static str, &'static [&'static str]);
    let deeds: [Deed; 6] = [
        ("six.py", |path| change_a_byte(path), "changed", "module", &["run"]),
        ("six.py", |path| fs::remove_file(path).unwrap(), "removed", "module", &["run", "--no-stage"]),
        (
            "smuggled-1.0.dist-info",
            |path| {
                fs::create_dir(path).unwrap();
                fs::write(path.join("METADATA"), "Name: smuggled\nVersion: 1.0\n").unwrap();
                fs::write(path.parent().unwrap().join("smuggled.py"), "").unwrap();
            },
            "added",
            "distribution",
            &["run", "--if-changed"],
        ),
        ("smuggled.pth", |path| fs::write(path, "import os\n").unwrap(), "added", "path_file", &["run"]),
        ("sitecustomize.py", |path| fs::write(path, "").unwrap(), "added", "customize", &["run"]),
        (
            "__pycache__/ghost.cpython-300.pyc",
            |path| fs::write(path, "").unwrap(),
            "added",
            "byte_code",
            &["run"],
        ),
    ];
    let host = Host::running();
    let digest = host.report()["environment"]["digest"].clone();
    assert!(digest.is_string());
    for (file, deed, change, kind, run) in deeds {
        let before = live(&host);
        assert!(json_of(&host, &["status", "--json"], 0)["contamination"].is_null());
        host.tool(["plan", "--exit-code"]).expect(0);
        let path = packages(&before).join(file);
        deed(&path);

        let below = path.strip_prefix(&before).unwrap().to_str().unwrap().to_owned();
        let expected = (below.clone(), change.to_owned(), kind.to_owned());
        let status = json_of(&host, &["status", "--json"], 0);
        assert!(changes(&status["contamination"]).contains(&expected), "{file}: {status:#}");
        host.tool(["status"]).expect(0).prints("changed manually:").prints(&format!("{change} {below}"));
        let plan = json_of(&host, &["plan", "--json", "--exit-code"], 5);
        assert!(changes(&plan["environment"]["contamination"]).contains(&expected), "{file}: {plan:#}");
        assert_eq!(plan["environment"]["build"], true);
        assert_eq!(plan["environment"]["reason"], "the environment was changed manually");
        let plan = host.tool(["plan"]).expect(0);
        plan.prints("changed manually:").prints(&format!("{change} {below}"));

        let ran = host.tool(run).expect(0);
        let ran =
            ran.prints("was changed manually and is not used any more").prints(&format!("{change} {below}"));
        drop(ran);
        let report = host.report();
        assert_eq!(report["environment"]["contaminated"][0]["name"], name(&before).as_str());
        assert!(changes(&report["environment"]["contaminated"][0]).contains(&expected), "{report:#}");
        assert_eq!(report["environment"]["contaminated"].as_array().unwrap().len(), 1);
        assert_eq!(report["environment"]["built"], true);
        assert_eq!(report["environment"]["digest"], digest, "the fresh one holds the same");
        let after = live(&host);
        assert_ne!(after, before);
        assert_eq!(packages(&after).join(file).exists(), file == "six.py");
        assert!(!packages(&after).join("smuggled.py").exists());
        let fresh = Command::new(after.join("bin/python")).args(["-IBc", "import six"]).status().unwrap();
        assert!(fresh.success());
        // This test itself changed the permissions of two directories.
        restore_modes(&after);
        host.tool(["verify", "--environment"]).expect(0);
    }
}

#[test]
fn rw_5_3_a_staged_check_writes_nothing_into_the_environment_and_a_mode_that_it_changes_is_repaired() {
    let host = Host::running();
    let before = live(&host);
    let check = |script: &str| {
        let command = ["sh", "-c", script];
        format!("[[hook]]\nname = \"rude\"\nkind = \"check\"\ncommand = {command:?}\nstage = true\n")
    };
    // Below `--root` the check runs as the owner, who could change the mode; nevertheless the check cannot write
    // anywhere.
    let smuggle = "cd $VIRTUAL_ENV && chmod u+w . && touch smuggled";
    host.push(&[("version.txt", "two\n"), ("refresh.toml", &check(smuggle))]);
    drop(host.tool(["run"]).expect(3).prints("the check hook rude failed"));
    assert_eq!(live(&host), before);
    assert!(!before.join("smuggled").exists());
    assert_eq!(host.version().as_deref(), Some("one"), "the old version serves");
    host.tool(["verify", "--environment"]).expect(5).prints("permissions changed: .");

    host.push(&[("refresh.toml", &check("exit 0"))]);
    drop(host.tool(["run"]).expect(0).prints("was changed manually and is not used any more"));
    assert_ne!(live(&host), before);
    host.tool(["verify", "--environment"]).expect(0);
}

/// Reverts the changes of [`packages`].
fn restore_modes(environment: &Path) {
    let directory = packages(environment);
    for directory in [directory.join("__pycache__"), directory] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o555)).unwrap();
    }
}

#[test]
fn a_rollback_to_a_changed_environment_builds_the_same_one_again() {
    let host = Host::running();
    let (first, digest) = (live(&host), host.report()["environment"]["digest"].clone());
    let commit = host.head();
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\n")]);
    host.tool(["run"]).expect(0);
    assert_ne!(host.report()["environment"]["digest"], digest);
    change_a_byte(&packages(&first).join("six.py"));
    restore_modes(&first);
    host.tool(["rollback"]).expect(0).prints("was changed manually and is not used any more");
    assert_eq!(host.head(), commit);
    let report = host.report();
    assert_eq!(report["environment"]["digest"], digest);
    assert_eq!(report["environment"]["contaminated"][0]["name"], name(&first).as_str());
    assert_ne!(live(&host), first);
    host.tool(["verify", "--environment"]).expect(0);
    let list = json_of(&host, &["environments", "list", "--json"], 0);
    assert!(!list.to_string().contains(&format!("\"{}\"", name(&first))), "no version uses it: {list:#}");
}

#[test]
fn verify_finds_changes_without_a_trace_and_a_copied_disk_is_no_change() {
    let host = Host::running();
    let environment = live(&host);

    // A copy has other times and other inodes, and the same bytes.
    let copy = environment.with_file_name("copy");
    let copied = Command::new("cp").arg("-a").args([&environment, &copy]).status().unwrap();
    assert!(copied.success());
    let traces = |path: &Path| {
        let found = fs::metadata(path.join("pyvenv.cfg")).unwrap();
        (found.ino(), found.ctime_nsec())
    };
    assert_ne!(traces(&environment), traces(&copy));
    refresh_system::disk::remove_tree(&environment).unwrap();
    fs::rename(&copy, &environment).unwrap();
    assert!(json_of(&host, &["status", "--json"], 0)["contamination"].is_null());
    host.tool(["verify", "--environment"]).expect(0).prints("as it was built");
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");

    // A failing disk changes a file in this way: other bytes, and all times unchanged.
    let path = packages(&environment).join("six.py");
    restore_modes(&environment);
    change_a_byte(&path);
    let found = fs::metadata(&path).unwrap();
    let file = host.layout.environment_records().join(format!("{}.manifest", name(&environment)));
    let manifest = fs::read_to_string(&file).unwrap();
    let time = |seconds: i64, rest: i64| json!(seconds * 1_000_000_000 + rest);
    let below = path.strip_prefix(&environment).unwrap().to_str().unwrap();
    let mut patched = 0;
    let lines = manifest.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if line["path"] == below {
            line["modified"] = time(found.mtime(), found.mtime_nsec());
            line["touched"] = time(found.ctime(), found.ctime_nsec());
            line["inode"] = json!(found.ino());
            patched += 1;
        }
        line.to_string()
    });
    // The other files were copied, so with their old traces all of them would be read.
    let patched_manifest = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(patched, 1);
    fs::write(&file, patched_manifest).unwrap();
    assert!(json_of(&host, &["status", "--json"], 0)["contamination"].is_null());
    host.tool(["verify", "--environment"])
        .expect(5)
        .prints(&format!("changed {below}"))
        .prints("ladylinux-refresh");
    let verified = json_of(&host, &["verify", "--environment", "--all", "--json"], 5);
    assert_eq!(verified["ok"], false);
    assert_eq!(changes(&verified["environments"][0]["contamination"])[0].0, below);

    // The change is recorded, so neither the next run nor one that only checks for changes uses the environment.
    assert!(!json_of(&host, &["status", "--json"], 0)["contamination"].is_null());
    host.tool(["run", "--if-changed"]).expect(0).prints("Refreshed");
    assert_ne!(live(&host), environment);
    host.tool(["verify", "--environment", "--all"]).expect(0);
}

#[test]
fn environments_are_listed_and_unused_ones_are_removed() {
    let host = Host::running();
    let first = name(&live(&host));
    host.push(&[("requirements.txt", "six==1.17.0\n")]);
    host.tool(["run"]).expect(0);
    let second = name(&live(&host));
    let list = json_of(&host, &["environments", "list", "--json"], 0);
    let of = |name: &str| {
        let mut all = list["environments"].as_array().unwrap().iter();
        all.find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name} is missing in {list:#}"))
    };
    assert_eq!(of(&second)["state"], "good");
    assert_eq!((&of(&second)["live"], &of(&second)["last_good"]), (&json!(true), &json!(true)));
    assert_eq!((&of(&first)["live"], &of(&first)["last_good"]), (&json!(false), &json!(false)));
    assert_eq!(of(&second)["packages"], 1);
    host.tool(["environments", "list"]).expect(0).prints(&format!("{second}  good (live, last good)"));

    host.tool(["environments", "prune"]).expect(0).prints("nothing to remove");
    let dry = host.tool(["environments", "prune", "--keep", "0", "--dry-run"]).expect(0);
    assert_eq!(dry.out, format!("{first}  would be removed\n"));
    assert!(host.layout.environments().join(&first).is_dir());
    let gone = host.tool(["environments", "prune", "--keep", "0"]).expect(0);
    assert_eq!(gone.out, format!("{first}  removed\n"));
    assert!(!host.layout.environments().join(&first).exists());
    assert_eq!(name(&live(&host)), second);
    host.tool(["verify", "--environment", "--all"]).expect(0);
    // The environment can be removed, and nevertheless a rollback to the run is possible.
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.report()["environment"]["built"], true);
}

#[test]
fn verify_takes_the_part_as_an_argument_and_its_first_line_is_the_verdict() {
    let host = Host::running();
    let first = |arguments: &[&str], code: i32| -> String {
        host.tool(arguments).expect(code).out.lines().next().unwrap().to_owned()
    };
    for arguments in [&["verify"][..], &["verify", "models"]] {
        assert!(first(arguments, 0).starts_with("Models: good; no models, and none is expected"));
    }
    for arguments in [&["verify", "environment"][..], &["verify", "--environment"]] {
        let verdict = first(arguments, 0);
        assert!(verdict.starts_with("Environment: good; every byte of 1 environment read in "), "{verdict}");
    }
    assert_eq!(first(&["verify", "all"], 0), "Good: models and environment are as they should be");
    let both = json_of(&host, &["verify", "all", "--json"], 0);
    assert_eq!(both["ok"], true);
    crate::schema::valid(&both["models"].to_string(), "models.schema.json");
    let environment = json_of(&host, &["verify", "environment", "--json"], 0);
    assert_eq!(both["environment"]["environments"], environment["environments"]);

    change_a_byte(&packages(&live(&host)).join("six.py"));
    assert_eq!(first(&["verify", "all"], 5), "Problems: environment");
    let verdict = first(&["verify", "environment"], 5);
    assert!(verdict.starts_with("Environment: changed; every byte of 1 environment read in "), "{verdict}");
    assert_eq!(json_of(&host, &["verify", "all", "--json"], 5)["ok"], false);
    host.tool(["verify", "models", "--all"]).expect(2).prints("--all is an option of `verify environment`");
    host.tool(["verify", "environment", "--presence"]).expect(2).prints("options of `verify models`");
    host.tool(["verify", "rooms"]).expect(2).prints("models, environment, all");
}
