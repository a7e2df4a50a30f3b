//! Step 3: `venv` leads to the environment of the commit's definition, by one switch between complete environments
//! (RW-5.3).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::Host;
use crate::refresh::help::{WAYS, down_and_fenced, error_text, picture, strict};

fn live(host: &Host) -> PathBuf {
    fs::read_link(host.layout.venv()).unwrap()
}

fn environments(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.layout.environments()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn rw_5_3b_an_unchanged_definition_keeps_the_environment_and_even_the_link() {
    let host = Host::running();
    let link = host.layout.venv().symlink_metadata().unwrap();
    let before = picture(&host.layout.environments());
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "# a remark\nsix==1.16.0  # and another\n")]);
    host.tool(["run"]).expect(0);
    let after = host.layout.venv().symlink_metadata().unwrap();
    assert_eq!((link.ino(), link.ctime_nsec()), (after.ino(), after.ctime_nsec()), "the link was made again");
    assert_eq!(picture(&host.layout.environments()), before);
    assert_eq!(host.report()["environment"]["built"], false);
    assert_eq!(host.version().as_deref(), Some("two"));
}

#[test]
fn rw_3_1_rw_5_3b_a_changed_definition_is_built_and_removed_packages_are_gone() {
    let host = Host::running();
    let first = live(&host);
    assert_eq!(host.answer().unwrap()["package"], "1.16.0");
    host.push(&[("requirements.txt", "-r more.txt\n"), ("more.txt", "iniconfig==2.0.0\n")]);
    host.tool(["run"]).expect(0);
    let report = host.report();
    assert_eq!(report["environment"]["built"], true);
    assert_eq!(report["environment"]["packages"], 1);
    assert_ne!(live(&host), first);
    assert_eq!(
        host.answer().unwrap()["package"],
        serde_json::Value::Null,
        "the removed package is still there"
    );
    assert_eq!(host.answer().unwrap()["environment"], report["environment"]["name"]);
    // A change in an included file counts like one in the file itself.
    host.push(&[("more.txt", "six==1.16.0\niniconfig==2.0.0\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["environment"]["built"], true);
    assert_eq!(host.answer().unwrap()["package"], "1.16.0");
    // Back to the first definition: its environment can still be used.
    host.push(&[("requirements.txt", "six==1.16.0\n"), ("more.txt", "")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.report()["environment"]["built"], false);
    assert_eq!(live(&host), first);
}

#[test]
fn rw_5_3a_always_builds_by_flag_and_by_setting() {
    let host = Host::running();
    let first = live(&host);
    host.tool(["run", "--always-rebuild-venv"]).expect(0);
    let second = live(&host);
    assert_ne!(second, first);
    let settings = host.settings("").replace("[python]", "[python]\nstrategy = \"always\"");
    fs::write(host.layout.host_file(), settings).unwrap();
    host.tool(["run"]).expect(0);
    assert_ne!(live(&host), second);
    assert_eq!(host.report()["environment"]["built"], true);
}

#[test]
fn rw_5_3_a_real_directory_in_the_links_place_is_adopted_and_nothing_of_it_changes() {
    let host = Host::running();
    host.tool(["service", "stop"]).expect(0);
    let venv = host.layout.venv();
    fs::remove_file(&venv).unwrap();
    fs::create_dir_all(venv.join("bin")).unwrap();
    fs::write(venv.join("bin/marker"), "made by hand").unwrap();
    std::os::unix::fs::symlink("/usr/bin/env", venv.join("bin/python")).unwrap();
    let inode = venv.join("bin/marker").metadata().unwrap().ino();
    let earlier = environments(&host);
    host.tool(["run"]).expect(0);
    assert!(venv.is_symlink());
    let adopted: Vec<String> =
        environments(&host).into_iter().filter(|name| !earlier.contains(name)).collect();
    assert_eq!(adopted.len(), 1, "{adopted:?}");
    let marker = host.layout.environments().join(&adopted[0]).join("bin/marker");
    assert_eq!(fs::read_to_string(&marker).unwrap(), "made by hand");
    assert_eq!(marker.metadata().unwrap().ino(), inode, "it was copied, not moved");
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn rw_5_3_a_failed_build_leaves_the_existing_environment_intact() {
    for way in WAYS {
        let host = Host::running();
        let (before, names) = (picture(&host.layout.environments()), environments(&host));
        let link = live(&host);
        host.push(&[("requirements.txt", "six==99.99\n")]);
        host.tool(way).expect(if strict(way) { 1 } else { 3 });
        assert!(error_text(&host).contains("six"), "{}", error_text(&host));
        assert_eq!(environments(&host), names);
        assert_eq!(live(&host), link);
        let mut after = picture(&host.layout.environments());
        // The directory of the environments itself was written to: the build began and was discarded there.
        after.insert(PathBuf::new(), before[&PathBuf::new()].clone());
        assert_eq!(after, before);
        if strict(way) {
            assert_eq!(host.report()["error"]["phase"], "environment");
            down_and_fenced(&host);
        } else {
            assert_eq!(host.report()["error"]["phase"], "staging");
            assert_eq!(host.version().as_deref(), Some("one"), "a failed staging touched the service");
            assert!(!host.fenced());
        }
        host.push(&[("requirements.txt", "six==1.16.0\n")]);
        host.tool(way).expect(0);
    }
}

#[test]
fn rw_5_3_the_environment_is_never_missing_while_it_is_switched() {
    let host = Host::running();
    host.push(&[("requirements.txt", "iniconfig==2.0.0\n")]);
    let before = live(&host);
    let python = host.layout.venv().join("bin/python");
    let done = AtomicBool::new(false);
    let (looks, missing) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut looks, mut missing) = (0_u64, 0_u64);
            while !done.load(Ordering::Relaxed) {
                looks += 1;
                missing += u64::from(!python.exists());
                std::thread::yield_now();
            }
            (looks, missing)
        });
        let ran = host.tool(["run"]);
        done.store(true, Ordering::Relaxed);
        let counts = watcher.join().unwrap();
        ran.expect(0);
        counts
    });
    assert_ne!(live(&host), before, "nothing was switched");
    assert!(looks > 0);
    assert_eq!(missing, 0, "missing in {missing} of {looks} looks");
}

#[test]
fn an_environment_that_sees_the_packages_of_the_system_is_replaced_only_once_the_host_has_decided() {
    let host = Host::new();
    let venv = host.layout.venv();
    let _ = fs::remove_file(&venv);
    let made = Command::new("python3")
        .args(["-m", "venv", "--system-site-packages", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    let setting = "`system_site_packages = true` under [python]";
    host.tool(["run"]).expect(3).prints("was made with --system-site-packages").prints(setting);
    host.tool(["doctor"]).expect(5).prints(setting);
    host.configure_python("system_site_packages = true");
    host.tool(["run"]).expect(0);
    let prefixes = || {
        let python = venv.join("bin/python");
        let output = Command::new(python)
            .args(["-I", "-c", "import site; print(len(site.PREFIXES))"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_ne!(prefixes(), "1", "the environment does not see the packages of the system");
    assert!(host.answer().unwrap()["package"].is_string(), "what the lock names is installed all the same");
    host.tool(["run", "--if-changed"]).expect(0).prints("Already current");
    host.configure_python("system_site_packages = false");
    host.tool(["run"]).expect(0);
    assert_eq!(prefixes(), "1");
}
