//! A working tree that cannot be refreshed, protected paths inside it, and a full disk.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use super::{Reports, in_namespace, is_root, reconfigure, refused, refused_by};
use crate::host::{Host, git};

#[test]
fn an_app_directory_without_a_repository_is_refused_until_a_refresh_has_deployed_there() {
    let host = Host::new();
    let app = host.layout.app();
    let away = host.beside("away");
    let break_off = || {
        fs::rename(app.join(".git"), &away).unwrap();
        fs::write(app.join("mine"), "mine").unwrap();
    };
    break_off();
    for command in ["run", "plan"] {
        host.tool([command]).expect(3).prints("is not a Git working tree");
    }
    let leads_away = || fs::write(app.join(".git"), format!("gitdir: {}\n", away.display())).unwrap();
    leads_away();
    host.tool(["run"]).expect(3).prints("belongs to a Git repository somewhere else");
    assert_eq!(fs::read_to_string(app.join("mine")).unwrap(), "mine");
    fs::remove_file(app.join(".git")).unwrap();
    fs::rename(&away, app.join(".git")).unwrap();

    // The service user can remove it at any time, and cannot prevent a refresh with that.
    for elsewhere in [false, true] {
        host.tool(["run"]).expect(0);
        break_off();
        if elsewhere {
            leads_away();
        }
        host.tool(["plan"]).expect(0);
        host.tool(["run"]).expect(0);
        assert!(app.join(".git/HEAD").is_file() && !app.join("mine").exists());
        let kept = host.layout.stashes().join(host.report()["run"].as_str().unwrap());
        assert_eq!(fs::read_to_string(kept.join("mine")).unwrap(), "mine");
        fs::remove_dir_all(&away).unwrap();
    }
}

#[test]
fn a_tree_that_cannot_be_refreshed_is_refused() {
    let host = Host::running();
    git(&host.layout.home(), ["init", "--quiet"]);
    refused(&host, &["run"], 3, &["is a working tree itself, around models and environments"]);
    fs::remove_dir_all(host.layout.home().join(".git")).unwrap();

    reconfigure(&host, "[python]", "[python]\ninterpreter = \"python9.9\"");
    refused(&host, &["run"], 3, &["in preflight: ", "the Python interpreter \"python9.9\" does not exist"]);
    host.configure("", "");

    fs::write(host.layout.env_file(), "LADYLINUX_PORT=many\n").unwrap();
    refused(&host, &["run"], 3, &["in preflight: ", "LADYLINUX_PORT", "many"]);
    fs::write(host.layout.env_file(), format!("LADYLINUX_PORT={}\n", host.port)).unwrap();

    // Several problems are reported together.
    fs::write(host.layout.host_file(), "[python]\ninterpreter = \"python9.9\"\n").unwrap();
    let both = ["2 problems prevent a refresh", "no remote is set", "python9.9"];
    refused(&host, &["run"], 3, &both);
    refused(&host, &["plan"], 3, &both);
    host.configure("", "");
    host.tool(["run"]).expect(0);
}

#[test]
fn rw_6_1_a_protected_path_inside_the_working_tree_is_refused_by_any_route() {
    let host = Host::running();
    let (app, home) = (host.layout.app(), host.layout.home());
    fs::create_dir(app.join("store")).unwrap();
    fs::write(app.join("store/weights"), "w").unwrap();
    let inside = ["in preflight: ", "lies inside the working tree", "would remove it"];

    let models = host.layout.models();
    fs::remove_dir(&models).unwrap();
    for target in
        [app.join("store"), PathBuf::from("app/store"), PathBuf::from("../../opt/ladylinux/app/../app/store")]
    {
        symlink(&target, &models).unwrap();
        refused(&host, &["run"], 3, &inside);
        refused(&host, &["run", "--no-stage"], 3, &inside);
        fs::remove_file(&models).unwrap();
    }
    fs::create_dir(&models).unwrap();

    let etc = host.beside("etc");
    fs::rename(host.layout.etc(), &etc).unwrap();
    fs::create_dir(app.join("etc")).unwrap();
    for file in ["refresh.toml", "ladylinux.env"] {
        fs::copy(etc.join(file), app.join("etc").join(file)).unwrap();
    }
    symlink(app.join("etc"), host.layout.etc()).unwrap();
    refused(&host, &["run"], 3, &inside);
    fs::remove_file(host.layout.etc()).unwrap();
    fs::rename(&etc, host.layout.etc()).unwrap();
    fs::remove_dir_all(app.join("etc")).unwrap();

    // The working tree is /opt/ladylinux itself.
    let real = home.join("app.real");
    let before = fs::read_dir(&home).unwrap().count();
    fs::rename(&app, &real).unwrap();
    symlink(".", &app).unwrap();
    host.tool(["run"]).expect(3).reports(&host, &["lies inside the working tree", "models"]);
    fs::remove_file(&app).unwrap();
    symlink("app.real", &app).unwrap();
    host.tool(["run"]).expect(3).reports(&host, &["not a symbolic link"]);
    fs::remove_file(&app).unwrap();
    fs::rename(&real, &app).unwrap();
    assert_eq!(fs::read_dir(&home).unwrap().count(), before);
    assert!(!host.fenced());

    // Mounts are visible only in the kernel's table.
    let (app, store, models) = (app.display(), app.join("store").display().to_string(), models.display());
    for (script, says) in [
        (format!("mount --bind {store} {models}"), "is mounted from inside the working tree"),
        (format!("mount --bind {app} {models}"), "is mounted from inside the working tree"),
        (format!("mount --bind {models} {store}"), "there is a mount inside the working tree"),
        (format!("mount -t tmpfs none {store}"), "there is a mount inside the working tree"),
    ] {
        for arguments in [&["run"][..], &["run", "--no-stage"]] {
            refused_by(&host, in_namespace(&host, &script, arguments), 3, &["in preflight: ", says]);
        }
    }
    assert_eq!(fs::read_to_string(host.layout.app().join("store/weights")).unwrap(), "w");
}

#[test]
fn too_little_space_is_reported_before_anything_is_stopped() {
    let host = Host::running();
    let (state, place) = (host.layout.state().display().to_string(), host.beside("small"));
    fs::create_dir(&place).unwrap();
    let small = |options: &str| {
        format!(
            "mount -t tmpfs -o {options} none {0}\ncp -a {state}/. {0}/\nmount --bind {0} {state}",
            place.display()
        )
    };
    let printed = [format!("{state} has only "), "MiB free; 256 are needed".to_owned()];
    refused_by(
        &host,
        in_namespace(&host, &small("size=200m"), &["run"]),
        3,
        &[&printed[0], &printed[1], "df -h"],
    );
    let options = "size=2g,nr_inodes=8000";
    refused_by(
        &host,
        in_namespace(&host, &small(options), &["run"]),
        3,
        &[&printed[0], "inodes free", "df -i"],
    );
}

#[test]
fn an_entry_that_cannot_be_moved_out_of_the_tree_is_named_with_its_repair() {
    if !is_root() {
        // Only root can mark files immovable.
        return;
    }
    let host = Host::running();
    let app = host.layout.app();
    // Without staging, there is no prepared tree with which a border could be found.
    // In memory, since another overlay cannot hold the upper layer.
    let (root, layers) = (host.layout.root().display(), host.beside("layers"));
    fs::create_dir(&layers).unwrap();
    let layers = layers.display();
    let overlay = format!(
        "mount -t tmpfs none {layers}; mkdir {layers}/upper {layers}/work; \
         mount -t overlay -o lowerdir={root},upperdir={layers}/upper,workdir={layers}/work none {root}"
    );
    let says = ["in preflight: no rename leads from ", "cp -aT ", "set `store` in "];
    refused_by(&host, in_namespace(&host, &overlay, &["run", "--no-stage"]), 3, &says);
    fs::create_dir_all(app.join("deep/er")).unwrap();
    fs::write(app.join("deep/er/stays"), "x").unwrap();
    fs::write(app.join("stays"), "x").unwrap();
    for (path, set, clear, says) in [
        (app.clone(), "+i", "-i", "it is marked immutable"),
        (app.join("stays"), "+i", "-i", "it is marked immutable"),
        (app.join("deep/er/stays"), "+i", "-i", "it is marked immutable"),
        (app.join("deep/er"), "+a", "-a", "it is marked append-only"),
    ] {
        let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&path).status().unwrap().success();
        if chattr(set) {
            let cure = format!("chattr {clear} {}", path.display());
            refused(&host, &["run"], 3, &["in preflight: ", says, &cure]);
            refused(&host, &["plan"], 3, &[says, &cure]);
            assert!(chattr(clear));
        }
    }
    host.tool(["run"]).expect(0);
}
