//! `init`: creates missing files, adopts existing ones, overwrites none.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::host::{Host, SERVER, git};
use crate::refresh::help::{installation, last_run, picture};

const APP: [(&str, &str); 3] =
    [("server.py", SERVER), ("version.txt", "one\n"), ("requirements.txt", "six==1.16.0\n")];

#[test]
fn init_creates_all_parts_of_the_contract_and_a_second_one_changes_nothing() {
    let host = Host::bare();
    host.push(&APP);
    fs::remove_file(host.layout.host_file()).unwrap();
    fs::remove_file(host.layout.env_file()).unwrap();
    let port = host.port.to_string();
    let command = ["init", "--repo", &host.url(), "--allow", "git", "--branch", "main", "--port", &port];
    host.tool(command).expect(0).prints("ladylinux-refresh").prints("run");
    let layout = &host.layout;
    for directory in [layout.app(), layout.models(), layout.containers(), layout.etc()] {
        assert!(directory.is_dir(), "{} is missing", directory.display());
    }
    assert!(layout.data().iter().all(|directory| directory.is_dir()));
    assert!(layout.venv().is_symlink() && layout.venv().join("bin/python").exists());
    assert!(fs::read_to_string(layout.host_file()).unwrap().contains(&host.url()));
    assert!(fs::read_to_string(layout.env_file()).unwrap().contains(&port));
    let before = installation(&host);
    host.tool(command).expect(0);
    host.tool(["init"]).expect(0);
    assert_eq!(installation(&host), before, "a second init changed something");
}

#[test]
fn init_adopts_an_installation_as_it_is_and_the_next_run_refreshes_it() {
    let host = Host::bare();
    host.push(&APP);
    let layout = &host.layout;
    fs::create_dir_all(layout.home()).unwrap();
    git(&layout.home(), ["clone", "--quiet", &host.url(), "app"]);
    fs::write(layout.app().join("notes.txt"), "mine").unwrap();
    fs::create_dir_all(layout.venv().join("bin")).unwrap();
    fs::write(layout.venv().join("bin/activate"), "made by hand").unwrap();
    fs::create_dir_all(layout.models()).unwrap();
    fs::write(layout.models().join("weights.gguf"), "weights").unwrap();
    let all = || [layout.app(), layout.venv(), layout.models(), layout.etc()].map(|root| picture(&root));
    let before = all();
    host.tool(["init"]).expect(0).prints("as it is");
    assert_eq!(all(), before, "init changed what was there");
    host.push(&[("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    assert_eq!(fs::read_to_string(layout.models().join("weights.gguf")).unwrap(), "weights");
    assert!(layout.venv().is_symlink());
    assert!(host.report()["saved"]["paths"].to_string().contains("notes.txt"));
}

#[test]
fn a_rollback_returns_to_the_version_before_the_first_run() {
    let host = Host::bare();
    host.push(&APP);
    let layout = &host.layout;
    fs::create_dir_all(layout.home()).unwrap();
    git(&layout.home(), ["clone", "--quiet", &host.url(), "app"]);
    let python = std::process::Command::new("python3").args(["-m", "venv"]).arg(layout.venv()).status();
    assert!(python.unwrap().success());
    fs::write(layout.venv().join("made"), "by hand").unwrap();
    host.tool(["init"]).expect(0).prints("the first run adopts it");
    // Already the first run may be the one that people roll back.
    host.push(&[("version.txt", "two\n"), ("server.py", "raise SystemExit('broken')\n")]);
    host.tool(["run"]).expect(1).prints("rollback");
    host.tool(["rollback", "--dry-run"]).expect(0).prints("from before the first run");
    let back = host.tool(["rollback"]).expect(0).prints(" from before the first run").all();
    assert!(!back.contains("of that run") && !back.contains(" of run "), "{back}");
    assert_eq!(host.version().as_deref(), Some("one"));
    assert_eq!(fs::read_to_string(layout.venv().join("made")).unwrap(), "by hand");
    assert_eq!(host.report()["environment"]["name"], "adopted-1");
    host.push(&[("server.py", SERVER)]);
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    host.tool(["rollback"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
}

#[test]
fn a_dry_run_of_init_prints_its_plan_and_leaves_nothing_behind() {
    let host = Host::bare();
    host.push(&APP);
    let before = picture(host.layout.root());
    host.tool(["init", "--dry-run"])
        .expect(0)
        .prints("would clone main into")
        .prints("would build the environment")
        .prints("no changes were made");
    assert_eq!(picture(host.layout.root()), before);
    host.tool(["init"]).expect(0);
    host.tool(["init", "--dry-run"]).expect(0).prints("no changes are needed");
}

#[test]
fn an_undo_leaves_settings_that_people_have_changed_and_names_them() {
    let host = Host::bare();
    host.push(&APP);
    let file = host.layout.host_file();
    fs::remove_file(&file).unwrap();
    host.tool(["init", "--repo", &host.url(), "--allow", "git"]).expect(0);
    let text = fs::read_to_string(&file).unwrap() + "# index_url\n";
    fs::write(&file, &text).unwrap();
    host.tool(["init", "--undo"])
        .expect(0)
        .prints(&format!("{} stays: `init` has no record that it is unchanged", file.display()));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert!(!host.layout.state().exists());
}

#[test]
fn a_second_undo_keeps_the_adopted_environment_beside_the_one_of_the_first_undo() {
    let host = Host::bare();
    host.push(&APP);
    let venv = host.layout.venv();
    fs::create_dir_all(venv.join("bin")).unwrap();
    for number in ["first", "second"] {
        fs::write(venv.join("bin/made"), number).unwrap();
        host.tool(["init"]).expect(0);
        host.tool(["run"]).expect(0);
        assert!(venv.is_symlink());
        host.tool(["init", "--undo"]).expect(0).prints("venv-adopted-1");
        assert!(venv.is_dir() && !venv.is_symlink());
    }
    let kept = host.layout.home().join("kept-by-refresh");
    let made = |name: &str| fs::read_to_string(kept.join(name).join("bin/made")).unwrap();
    assert_eq!((made("venv-adopted-1"), made("venv-adopted-1-2")), ("first".into(), "second".into()));
}

#[test]
fn while_the_service_is_fenced_an_undo_is_only_listed_with_the_way_out() {
    let host = Host::running();
    host.push(&[("server.py", "raise SystemExit('broken')\n")]);
    host.tool(["run"]).expect(1);
    let way_out = host.as_typed("rollback");
    let state = host.layout.state();
    let undo = host.tool(["init", "--undo"]).expect(3).prints("refused while the service is fenced");
    assert!(undo.err.contains(&format!("  next         {way_out}\n")), "{}", undo.err);
    let dry_run = host.tool(["init", "--undo", "--dry-run"]).expect(0);
    dry_run.prints(&format!("would remove {}", state.display())).prints(&way_out);
    assert!(host.fenced() && state.exists());
}

#[test]
fn a_mistake_in_the_remote_leaves_nothing_behind() {
    let host = Host::bare();
    host.push(&APP);
    let before = picture(host.layout.root());
    let refused = host.tool(["init", "--branch", "mian"]).expect(3).prints("did you mean main?");
    let again = format!("  next         {}\n", host.as_typed("init --branch main"));
    assert!(refused.err.ends_with(&again) && !refused.err.contains(&host.as_typed("run")), "{}", refused.err);
    assert_eq!(picture(host.layout.root()), before);
}

#[test]
fn the_url_of_a_clone_is_offered_and_not_used() {
    let host = Host::bare();
    host.push(&APP);
    fs::remove_file(host.layout.host_file()).unwrap();
    fs::create_dir_all(host.layout.home()).unwrap();
    git(&host.layout.home(), ["clone", "--quiet", &host.url(), "app"]);
    let offered = format!("init --repo {}", host.url());
    host.tool(["init"]).expect(2).prints("no remote is set").prints(&offered);
    assert!(!host.layout.mirror().exists());
    git(&host.layout.app(), ["remote", "set-url", "origin", "https://me:secret@h/r.git"]);
    let printed = host.tool(["init"]).expect(2).prints("init --repo URL");
    assert!(!format!("{printed:?}").contains("secret"), "{printed:?}");
}

#[test]
fn a_configuration_of_a_clone_that_is_a_link_or_a_pipe_is_not_read() {
    let host = Host::bare();
    host.push(&APP);
    fs::remove_file(host.layout.host_file()).unwrap();
    fs::create_dir_all(host.layout.home()).unwrap();
    git(&host.layout.home(), ["clone", "--quiet", &host.url(), "app"]);
    let (config, other) = (host.layout.app().join(".git/config"), host.beside("config"));
    fs::rename(&config, &other).unwrap();
    symlink(&other, &config).unwrap();
    host.tool(["init"]).expect(2).prints("no remote is set").prints("init --repo URL");
    fs::remove_file(&config).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    host.tool(["init"]).expect(2).prints("no remote is set").prints("init --repo URL");
    fs::remove_file(&config).unwrap();
    fs::rename(&other, &config).unwrap();
    host.tool(["init"]).expect(2).prints(&format!("init --repo {}", host.url()));
}

#[test]
fn a_secret_in_a_url_is_not_repeated_by_a_refusal_before_its_check() {
    let host = Host::bare();
    host.push(&APP);
    fs::remove_file(host.layout.host_file()).unwrap();
    fs::set_permissions(host.layout.state(), fs::Permissions::from_mode(0o777)).unwrap();
    let init = |url: &str| host.tool(["init", "--port", "9", "--repo", url]);
    // Only root refuses a state that other users can change; other callers refuse the URL.
    let is_root = rustix::process::geteuid().is_root();
    let refused = init("https://me:s3cret@h/r.git").expect(if is_root { 3 } else { 2 });
    assert!(!refused.all().contains("s3cret"), "{}", refused.all());
    if is_root {
        refused.prints(&host.as_typed("init --repo=URL --port=9"));
        init("https://h/r.git").expect(3).prints(&host.as_typed("init --repo=https://h/r.git --port=9"));
    }
}

#[test]
fn a_url_that_needs_an_allowed_transport_is_refused_with_a_complete_command() {
    let host = Host::bare();
    host.push(&APP);
    fs::remove_file(host.layout.host_file()).unwrap();
    fs::remove_file(host.layout.env_file()).unwrap();
    let port = host.port.to_string();
    let refused = host.tool(["init", "--repo", &host.url(), "--branch", "main", "--port", &port]).expect(2);
    let next = refused.err.lines().find_map(|line| line.trim().strip_prefix("next ")).unwrap();
    let words: Vec<&str> = next.split_whitespace().collect();
    let root = host.layout.root().to_str().unwrap();
    assert_eq!(words[..3], ["ladylinux-refresh", "--root", root]);
    host.tool(&words[3..]).expect(0);
    assert!(fs::read_to_string(host.layout.host_file()).unwrap().contains("branch = \"main\""));
    assert!(fs::read_to_string(host.layout.env_file()).unwrap().contains(&port));
}

#[test]
fn a_name_in_the_work_tree_cannot_write_to_a_terminal_and_a_nested_clone_hinders_no_run() {
    let host = Host::running();
    let name = "in\u{1b}]0;owned\u{7}ner";
    git(&host.layout.app(), ["clone", "--quiet", &host.url(), name]);
    fs::write(host.layout.app().join(name).join("mine"), "work").unwrap();
    for arguments in [&["init"][..], &["doctor"], &["plan"], &["status"], &["run"], &["stash", "list"]] {
        let ran = host.tool(arguments).expect(0);
        assert!(!ran.all().contains('\u{1b}'), "{arguments:?}: {:?}", ran.all());
    }
    let run = last_run(&host);
    let shown = host.tool(["stash", "show", &run]).expect(0).prints("in%1B]0;owned%07ner");
    assert!(!shown.all().contains('\u{1b}'), "{:?}", shown.all());
    assert!(!host.layout.app().join(name).exists());
    let kept = host.layout.stashes().join(&run).join(name);
    assert_eq!(fs::read_to_string(kept.join("mine")).unwrap(), "work");
    assert!(kept.join(".git/HEAD").exists());
}
