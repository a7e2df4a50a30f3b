//! The wheel store, from end to end: what is fetched, what is proved, what is built from it without a network, and what
//! goes when nobody needs it any more.
#![allow(clippy::duplicate_mod, reason = "both kinds of installations are lent from the same pool")]
#![expect(clippy::disallowed_methods, reason = "tests lay out and look at folders as they like")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on is a failed test")]

#[path = "common/host.rs"]
mod host;
#[path = "common/python.rs"]
mod python;
#[path = "common/schema.rs"]
mod schema;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use host::Host;
use ladylinux_refresh::disk;
use ladylinux_refresh::process::Owner;
use ladylinux_refresh::python::wheels::Pruning;
use ladylinux_refresh::python::{Lock, Wheels};
use ladylinux_refresh::settings::{InstallerChoice, Strategy};
use python::{World, names, packages, was_built};

const BOTH: [InstallerChoice; 2] = [InstallerChoice::Uv, InstallerChoice::Pip];
const DEAD: &str = "http://127.0.0.1:9/simple";
const TWO: &str = "six==1.17.0\nidna==3.10\n";

/// The files of the wheels in a world's store.
fn stored(world: &World) -> Vec<PathBuf> {
    let folders = names(&world.layout.wheels());
    let files = folders.iter().flat_map(|folder| {
        let folder = world.layout.wheels().join(folder);
        names(&folder).into_iter().map(move |file| folder.join(file))
    });
    files.collect()
}

fn is_of(path: &Path, name: &str) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}-"))
}

/// The one wheel of a package in a world's store.
fn wheel_of(world: &World, name: &str) -> PathBuf {
    stored(world).into_iter().find(|path| is_of(path, name)).unwrap()
}

/// A world whose store nothing was lent to.
fn with_an_empty_store() -> World {
    let world = World::new();
    fs::remove_dir_all(world.layout.wheels()).unwrap();
    world
}

/// Removes what was built, and all that an installer could have kept of a download; the store and the locks stay.
fn forget_all_but_the_store(world: &World) {
    for folder in [world.layout.environments(), world.layout.environment_records(), world.layout.cache()] {
        disk::remove_tree(&folder).unwrap();
    }
}

/// A package index of its own, which has the wheels of [`TWO`] and is away when it is dropped.
struct Index {
    server: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Index {
    fn new() -> Self {
        let world = with_an_empty_store();
        world.ensure(TWO, "run-1").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for name in ["idna", "six"] {
            let wheel = wheel_of(&world, name);
            let sha256 = disk::content_of_own(&wheel).unwrap().sha256;
            let file = wheel.file_name().unwrap().to_str().unwrap().to_owned();
            let place = folder.path().join("simple").join(name);
            fs::create_dir_all(&place).unwrap();
            fs::copy(&wheel, place.join(&file)).unwrap();
            fs::write(place.join("index.html"), format!("<a href=\"{file}#sha256={sha256}\">{file}</a>"))
                .unwrap();
        }
        let port = host::free_port();
        let mut server = Command::new("python3");
        server.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(folder.path());
        server.arg(port.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        let index = Self { server: server.spawn().unwrap(), port, _folder: folder };
        let limit = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "the index does not come up");
            std::thread::yield_now();
        }
        index
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/simple", self.port)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn rw_5_3_what_is_missing_is_fetched_once_and_lies_where_the_owner_cannot_change_it() {
    for installer in BOTH {
        let world = with_an_empty_store().with(installer);
        let first = world.ensure(TWO, "run-1").unwrap();
        assert_eq!(packages(&first), ["idna", "six"]);
        assert!(world.told.has("fetching idna 3.10, six 1.17.0"));
        let files = stored(&world);
        assert_eq!(files.len(), 2);
        for file in &files {
            let (found, folder) = (file.metadata().unwrap(), file.parent().unwrap().metadata().unwrap());
            assert_eq!((found.mode() & 0o7777, folder.mode() & 0o7777), (0o444, 0o755), "{}", file.display());
            let sha256 = disk::content_of_own(file).unwrap().sha256;
            assert_eq!(file.parent().unwrap().file_name().unwrap().to_str(), Some(sha256.as_str()));
        }
        assert_eq!(first.generation.record.built().unwrap().wheels.len(), 2);

        // Another definition fetches only what it has and the first one had not.
        let second = world.ensure("six==1.17.0\nitsdangerous==2.2.0\n", "run-2").unwrap();
        assert_eq!(packages(&second), ["itsdangerous", "six"]);
        assert!(world.told.has("fetching itsdangerous 2.2.0"));
        assert!(!world.told.has("fetching itsdangerous 2.2.0, six") && stored(&world).len() == 3);
    }
}

#[test]
fn rw_5_3_a_machine_that_was_online_once_builds_from_its_store_with_no_network_at_all() {
    for installer in BOTH {
        let mut world = with_an_empty_store().with(installer);
        let index = Index::new();
        world.python.index_url = Some(index.url());
        let first = world.ensure(TWO, "run-1").unwrap();
        forget_all_but_the_store(&world);
        drop(index);
        world.told.0.lock().unwrap().clear();
        let again = world.ensure(TWO, "run-2").unwrap();
        assert!(was_built(&again));
        assert_eq!(again.generation.record.packages, first.generation.record.packages);
        assert!(!world.told.has("resolving") && !world.told.has("fetching"));

        // That the index is really away: what is not known cannot be had.
        let failure = world.ensure("six==1.16.0\n", "run-3").unwrap_err();
        assert!(failure.chain().join("\n").contains("index cannot be reached"), "{:?}", failure.chain());
    }
}

#[test]
fn rw_5_3_a_wheel_that_was_damaged_is_noticed_at_the_next_build_and_fetched_again() {
    let damage: [fn(&Path); 4] = [
        |file| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            replace(file, &bytes, 0o444);
        },
        |file| replace(file, &fs::read(file).unwrap()[..100], 0o444),
        |file| replace(file, &fs::read(file).unwrap(), 0o666),
        |file| fs::remove_file(file).unwrap(),
    ];
    let world = with_an_empty_store();
    let mut run = 0;
    let mut build = || {
        run += 1;
        world.ensure_with(&[("requirements.txt", TWO)], Strategy::Always, &format!("run-{run}"))
    };
    build().unwrap();
    for damage in damage {
        let file = wheel_of(&world, "idna");
        damage(&file);
        world.told.0.lock().unwrap().clear();
        let ensured = build().unwrap();
        assert_eq!(packages(&ensured), ["idna", "six"]);
        assert!(
            world.told.has("is damaged in the wheel store") || world.told.has("is not in the wheel store")
        );
        assert!(world.told.has("fetching idna 3.10") && !world.told.has("fetching idna 3.10, six"));
        let sha256 = disk::content_of_own(&wheel_of(&world, "idna")).unwrap().sha256;
        assert_eq!(file.parent().unwrap().file_name().unwrap().to_str(), Some(sha256.as_str()));
    }
}

/// Puts something else in a file's place; what was lent has other names, which keep what they stood for.
fn replace(file: &Path, bytes: &[u8], mode: u32) {
    let bytes = bytes.to_vec();
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn rw_7_1b_a_damaged_wheel_that_cannot_be_fetched_again_is_told_by_its_name() {
    let mut world = with_an_empty_store();
    let index = Index::new();
    world.python.index_url = Some(index.url());
    world.ensure(TWO, "run-1").unwrap();
    replace(&wheel_of(&world, "idna"), b"rot", 0o444);
    forget_all_but_the_store(&world);
    drop(index);
    let chain = world.ensure(TWO, "run-2").unwrap_err().chain().join("\n");
    assert!(chain.contains("idna 3.10") && chain.contains("index cannot be reached"), "{chain}");
    assert!(!chain.contains("six"), "{chain}");
    assert!(world.told.has("is damaged in the wheel store"));
    assert!(names(&world.layout.environments()).is_empty());
}

#[test]
fn rw_5_3_nothing_but_the_lock_s_own_wheels_is_installed_whatever_else_lies_in_the_store() {
    let world = World::new();
    world.ensure(TWO, "run-1").unwrap();
    let lock_file = world.layout.locks().join(&names(&world.layout.locks())[0]);
    let key = lock_file.file_stem().unwrap().to_str().unwrap().to_owned();
    let lock = Lock::read(&world.layout, &key).unwrap().unwrap();
    assert_eq!(lock.wheels.len(), 2);
    assert!(Wheels::new(world.site()).has_all(&lock) && Wheels::built_here(&lock).is_empty());
    // A wheel of the same name that is another one is not taken for it.
    let stranger = world.layout.wheels().join("0".repeat(64));
    fs::create_dir(&stranger).unwrap();
    fs::write(stranger.join(&lock.wheels[0].file), "a stranger").unwrap();
    let again = world.ensure_with(&[("requirements.txt", TWO)], Strategy::Always, "run-2").unwrap();
    assert_eq!(packages(&again), ["idna", "six"]);
}

#[test]
fn a_package_without_a_wheel_is_refused_by_its_name_and_built_from_source_where_the_host_allows_it() {
    // A release that exists as source only, without anything to compile.
    let source_only = "docopt==0.6.2\n";
    for installer in BOTH {
        let mut world = World::new().with(installer);
        let refused = world.ensure(source_only, "run-1").unwrap_err();
        assert!(refused.chain().join("\n").contains("docopt"), "{:?}", refused.chain());
        assert!(
            refused.hints().iter().any(|hint| hint.contains("python.allow_source")),
            "{:?}",
            refused.hints()
        );
        world.python.allow_source = true;
        let built = world.ensure(source_only, "run-2").unwrap();
        assert_eq!(packages(&built), ["docopt"]);
        assert!(world.told.has("building from source: docopt 0.6.2"));
        let lock = world.environments().lock_of(&built.generation).unwrap().unwrap();
        assert_eq!(Wheels::built_here(&lock), ["docopt 0.6.2"]);
        // Built once: the next environment is made of the same wheel.
        world.told.0.lock().unwrap().clear();
        let files = [("requirements.txt", source_only)];
        let again = world.ensure_with(&files, Strategy::Always, "run-3").unwrap();
        assert!(was_built(&again) && !world.told.has("building from source"));
    }
}

#[test]
fn what_no_environment_needs_is_pruned_and_what_the_live_one_needs_never_is() {
    let world = with_an_empty_store();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let second = world.ensure("idna==3.10\n", "run-2").unwrap();
    world.environments().switch(&first.generation.name).unwrap();
    let wheels = Wheels::new(world.site());
    assert_eq!(wheels.prune(Pruning::Remove).unwrap().wheels.len(), 0);
    assert_eq!((stored(&world).len(), names(&world.layout.locks()).len()), (2, 2));

    assert_eq!(world.environments().prune(&[]).unwrap(), [second.generation.name]);
    let told = wheels.prune(Pruning::Tell).unwrap();
    assert_eq!((told.wheels.len(), told.locks.len(), stored(&world).len()), (1, 1, 2));
    assert_eq!(wheels.prune(Pruning::Remove).unwrap(), told);
    assert!(stored(&world).iter().all(|file| is_of(file, "six")) && names(&world.layout.locks()).len() == 1);

    // The live one's wheels stay although its lock is another one by now.
    fs::remove_dir_all(world.layout.locks()).unwrap();
    assert!(wheels.prune(Pruning::Remove).unwrap().wheels.is_empty());
    assert_eq!(wheels.stock().unwrap().wheels[0].needed_by, [first.generation.name]);
}

#[test]
fn the_owner_of_the_tree_cannot_write_to_the_store() {
    if !rustix::process::geteuid().is_root() {
        let said = b"SKIPPED: only root can build for somebody else; run the tests as root to prove it\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), said);
        return;
    }
    let world = World::bare(Owner { uid: 1234, gid: 1234 });
    python::pool::lend_tools(&world.layout, |_| true);
    world.ensure("six==1.17.0\n", "run-1").unwrap();
    let file = wheel_of(&world, "six");
    let attempts = [
        format!("echo x >>{}", file.display()),
        format!("mv {0} {0}.old", file.display()),
        format!("rm -f {}", file.display()),
        format!("mv {0} {0}.old", file.parent().unwrap().display()),
        format!("touch {}/x", world.layout.wheels().display()),
        format!("mv {0} {0}.old", world.layout.wheels().display()),
        format!("echo x >{}/x.json", world.layout.locks().display()),
    ];
    for attempt in attempts {
        let tried = Command::new("setpriv")
            .args(["--reuid=1234", "--regid=1234", "--clear-groups", "sh", "-c", &attempt])
            .output()
            .unwrap();
        assert!(!tried.status.success(), "{attempt}");
    }
    let read = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--clear-groups", "cat"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(read.status.success() && !read.stdout.is_empty(), "the installer has to read it");
}

#[test]
fn a_run_removes_the_wheels_that_no_kept_environment_needs_and_the_commands_tell_of_them() {
    let host = Host::bare();
    fs::remove_dir_all(host.layout.wheels()).unwrap();
    host.configure("keep = 1", "");
    host.push(&[
        ("server.py", host::SERVER),
        ("version.txt", "one\n"),
        ("requirements.txt", "six==1.16.0\n"),
    ]);
    host.init();
    host.tool(["run"]).expect(0);
    host.tool(["wheels", "list"]).expect(0).says("six-1.16.0").says("needed by").says("1 wheel, ");
    host.push(&[("requirements.txt", "six==1.17.0\n"), ("version.txt", "two\n")]);
    host.tool(["run"]).expect(0);
    // The one good run that is kept, and the live one.
    host.tool(["wheels", "list"]).expect(0).says("six-1.16.0").says("six-1.17.0").says("2 wheels, ");
    host.push(&[("requirements.txt", "idna==3.10\n"), ("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);
    let listed = host.tool(["wheels", "list", "--json"]).expect(0).out;
    let listed = schema::told(&listed, "wheels.schema.json");
    let wheels = listed["wheels"].as_array().unwrap();
    let versions: Vec<_> = wheels.iter().map(|wheel| wheel["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["3.10", "1.17.0"], "{listed}");
    assert!(wheels.iter().all(|wheel| wheel["needed_by"].as_array().unwrap().len() == 1), "{listed}");

    fs::create_dir(host.layout.wheels().join("0".repeat(64))).unwrap();
    host.tool(["wheels", "prune", "--dry-run"]).expect(0).says("nothing to remove");
    host.tool(["wheels", "prune"]).expect(0).says("nothing to remove");
    assert_eq!(fs::read_dir(host.layout.wheels()).unwrap().count(), 2);
}

#[test]
fn a_dead_index_refuses_what_is_not_known_and_says_so() {
    let mut world = with_an_empty_store();
    world.python.index_url = Some(DEAD.to_owned());
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    assert!(failure.chain().join("\n").contains("index cannot be reached"), "{:?}", failure.chain());
    assert!(stored(&world).is_empty());
}
