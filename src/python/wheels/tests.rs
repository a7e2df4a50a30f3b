//! Tests of the store itself, without an index.
#![expect(clippy::disallowed_methods, reason = "tests lay out and damage files")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::event::Events;
use crate::process::{Owner, Runner};
use crate::python::lock::{Locked, Origin};
use crate::settings::layout::Layout;
use crate::settings::pip_config::PipConfig;
use crate::settings::{InstallerChoice, Python, Strategy};

const FILE: &str = "six-1.17.0-py2.py3-none-any.whl";
const CONTENT: &str = "the bytes of a wheel";

struct World {
    folder: tempfile::TempDir,
    layout: Layout,
    runner: Runner,
    python: Python,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::below(folder.path());
        fs::create_dir_all(layout.wheels()).unwrap();
        fs::create_dir_all(folder.path().join("passage")).unwrap();
        let python = Python {
            interpreter: "python3".to_owned(),
            installer: InstallerChoice::Pip,
            strategy: Strategy::WhenChanged,
            definitions: Vec::new(),
            extras: Vec::new(),
            groups: Vec::new(),
            strict: false,
            index_url: None,
            pip: PipConfig::default(),
            allow_source: false,
            imports: Vec::new(),
            import_check: crate::settings::ImportCheck::Off,
            command: Vec::new(),
            deadline: Duration::from_secs(60),
        };
        Self { folder, layout, runner: Runner::new(Arc::new(Events::silent())), python }
    }

    fn store(&self) -> Wheels<'_> {
        let owner = Owner::own();
        Wheels::new(Site { runner: &self.runner, layout: &self.layout, python: &self.python, owner })
    }

    fn passage(&self) -> PathBuf {
        self.folder.path().join("passage")
    }

    /// Takes in what lies in the passage, as `six 1.17.0` with the digest of [`CONTENT`].
    fn take_in(&self, proof: Proof) -> Outcome<Vec<Wheel>> {
        let tags = ["py3-none-any".to_owned()];
        Entrance { store: self.store(), tags: &tags }.take_in_all(&[self.passage()], &[wish()], proof)
    }

    fn brought() -> (Self, Wheel) {
        let world = Self::new();
        fs::write(world.passage().join(FILE), CONTENT).unwrap();
        let wheel = world.take_in(Proof::Digest).unwrap().remove(0);
        (world, wheel)
    }

    fn stored(&self) -> Vec<String> {
        record::entries(&self.layout.wheels()).unwrap()
    }
}

fn sha256() -> String {
    use sha2::{Digest as _, Sha256};
    crate::hexadecimal::hexadecimal(&Sha256::digest(CONTENT))
}

fn wish() -> Choice {
    Choice {
        name: "six".into(),
        version: "1.17.0".into(),
        digests: vec![sha256()],
        named: true,
        url: None,
        limit: 100,
        size: None,
    }
}

#[test]
fn a_wheel_that_is_what_the_lock_says_lies_in_the_store_where_nobody_else_can_change_it() {
    let (world, wheel) = World::brought();
    assert_eq!((wheel.name.as_str(), wheel.version.as_str(), &wheel.sha256), ("six", "1.17.0", &sha256()));
    let path = world.store().path(&wheel);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o444, 0o755));
    assert_eq!(world.stored(), [sha256()]);
    assert_eq!(world.store().proved(std::slice::from_ref(&wheel)).unwrap(), [wheel]);
}

#[test]
fn what_is_not_the_lock_s_wheel_never_enters_the_store() {
    type Bring<'a> = (&'a str, &'a dyn Fn(&Path));
    let bring: [Bring<'_>; 8] = [
        ("is not what the lock says", &|folder| fs::write(folder.join(FILE), "others").unwrap()),
        ("has more than 100 bytes", &|folder| fs::write(folder.join(FILE), vec![0; 101]).unwrap()),
        ("cannot be opened", &|folder| {
            fs::write(folder.join("../elsewhere"), CONTENT).unwrap();
            std::os::unix::fs::symlink("../elsewhere", folder.join(FILE)).unwrap();
        }),
        ("is no regular file", &|folder| fs::create_dir(folder.join(FILE)).unwrap()),
        ("is no regular file", &|folder| {
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
            rustix::fs::mknodat(rustix::fs::CWD, folder.join(FILE), kind, mode, 0).unwrap();
        }),
        ("is not the name of a wheel", &|folder| {
            fs::write(folder.join("six-1.17.0.tar.gz"), CONTENT).unwrap();
        }),
        ("was not asked for", &|folder| {
            fs::write(folder.join("six-1.16.0-py3-none-any.whl"), CONTENT).unwrap();
        }),
        ("for another Python", &|folder| {
            fs::write(folder.join("six-1.17.0-cp311-cp311-win_amd64.whl"), CONTENT).unwrap();
        }),
    ];
    for (why, bring) in bring {
        let world = World::new();
        bring(&world.passage());
        let failure = world.take_in(Proof::Digest).unwrap_err();
        assert!(failure.chain().join(": ").contains(why), "{why}: {:?}", failure.chain());
        assert!(world.stored().is_empty(), "{why}");
    }
    let nothing = World::new().take_in(Proof::Digest).unwrap_err();
    assert!(nothing.summary().contains("brought no wheel of six 1.17.0"));
}

#[test]
fn a_wheel_that_was_only_just_built_is_known_by_its_name_and_gets_its_own_digest() {
    let world = World::new();
    fs::write(world.passage().join(FILE), "built here").unwrap();
    let wheel = world.take_in(Proof::Name).unwrap().remove(0);
    assert_ne!(wheel.sha256, sha256());
    assert_eq!(world.store().proved(std::slice::from_ref(&wheel)).unwrap(), [wheel]);
}

#[test]
fn a_wheel_that_was_damaged_later_is_noticed_and_removed() {
    let damage: [&dyn Fn(&Path); 7] = [
        &|path| fs::write(path, "the bytes of A wheel").unwrap(),
        &|path| fs::write(path, &CONTENT[..5]).unwrap(),
        &|path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap(),
        &|path| {
            fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        },
        &|path| {
            fs::rename(path, path.with_file_name("other")).unwrap();
            std::os::unix::fs::symlink("other", path).unwrap();
        },
        &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
        &|path| {
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(path, Some(1234), None).unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        },
    ];
    for (index, damage) in damage.iter().enumerate() {
        let (world, wheel) = World::brought();
        let path = world.store().path(&wheel);
        if !rustix::process::geteuid().is_root() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        damage(&path);
        if index < 2 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        }
        assert!(world.store().proved(&[wheel]).unwrap().is_empty(), "damage {index}");
        assert!(world.stored().is_empty(), "damage {index}");
    }
}

#[test]
fn what_another_lock_has_brought_is_taken_only_where_it_is_the_one_file_that_is_meant() {
    let (world, wheel) = World::brought();
    assert_eq!(world.store().adopt(&wish()).unwrap(), Some(wheel));
    let several = Choice { digests: vec![sha256(), "other".into()], ..wish() };
    assert_eq!(world.store().adopt(&several).unwrap(), None);
    assert_eq!(world.store().adopt(&Choice { named: false, ..wish() }).unwrap(), None);
    assert_eq!(world.store().adopt(&Choice { version: "1.16.0".into(), ..wish() }).unwrap(), None);
}

#[test]
fn a_bundle_brings_what_the_lock_does_not_name_only_where_source_is_all_there_is() {
    let (mut world, wheel) = World::brought();
    let package = |sha256| Locked {
        name: "six".into(),
        version: "1.17.0".into(),
        marker: None,
        digests: vec![sha256],
        url: None,
    };
    let lock = |sha256| {
        let origin = Origin::Application { file: "pylock.toml".into() };
        Lock::new("k", origin, vec![package(sha256)], "").unwrap()
    };
    let (named, foreign) = (lock(sha256()), lock("0".repeat(64)));
    let (as_wheel, as_source) = (
        Chosen { wheels: vec![wish()], ..Chosen::default() },
        Chosen { sources: vec![wish()], ..Chosen::default() },
    );
    let told = |world: &World, lock: &Lock, chosen: &Chosen| {
        world.store().wish(lock, chosen, &wheel).map_err(|failure| failure.summary().to_owned())
    };
    assert!(told(&world, &named, &as_wheel).is_ok());
    assert!(told(&world, &foreign, &as_source).unwrap_err().contains("built from source"));
    world.python.allow_source = true;
    assert!(told(&world, &foreign, &as_source).is_ok());
    assert!(told(&world, &foreign, &as_wheel).unwrap_err().contains("is not what the lock says"));
}

#[test]
fn a_pip_that_is_not_the_pinned_one_is_not_there() {
    let world = World::new();
    let site = world.store().site;
    let wheel = crate::python::tools::pip_wheel(site);
    assert!(!crate::python::tools::has_pip(site).unwrap());
    fs::create_dir_all(wheel.parent().unwrap()).unwrap();
    fs::write(&wheel, "damaged").unwrap();
    assert!(!crate::python::tools::has_pip(site).unwrap());
}

#[test]
fn what_is_no_digest_never_leads_out_of_the_store() {
    let (world, wheel) = World::brought();
    let outside = world.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join(FILE), "others").unwrap();
    let up = format!("{}/outside", "../".repeat(20).trim_end_matches('/'));
    for word in [outside.to_str().unwrap(), &up, "", ".", ".."] {
        let wheel = Wheel { sha256: word.to_owned(), ..wheel.clone() };
        assert!(world.store().path(&wheel).starts_with(world.layout.wheels().join(NOTHING)), "{word:?}");
        assert!(world.store().proved(&[wheel]).unwrap().is_empty(), "{word:?}");
        let wish = Choice { digests: vec![word.to_owned()], ..wish() };
        assert_eq!(world.store().adopt(&wish).unwrap(), None, "{word:?}");
    }
    assert!(outside.join(FILE).is_file());
    assert_eq!(world.stored(), [sha256()]);
}

#[test]
fn what_a_killed_process_left_is_swept_and_what_nobody_needs_is_pruned() {
    let (world, wheel) = World::brought();
    let store = world.layout.wheels();
    fs::create_dir(store.join(format!("{ASIDE}{FILE}"))).unwrap();
    fs::create_dir(store.join("0".repeat(64))).unwrap();
    world.store().sweep().unwrap();
    assert_eq!(world.stored().len(), 2);
    let stock = world.store().stock().unwrap();
    assert_eq!(stock.wheels.iter().map(|it| &it.sha256).collect::<Vec<_>>(), [&wheel.sha256]);
    let told = world.store().prune(Pruning::Tell).unwrap();
    assert_eq!((told.wheels.len(), world.stored().len()), (1, 2));
    assert_eq!(world.store().prune(Pruning::Remove).unwrap(), told);
    assert!(world.stored().is_empty());
}

#[test]
fn a_store_that_others_can_write_to_is_closed() {
    let world = World::new();
    fs::set_permissions(world.layout.wheels(), fs::Permissions::from_mode(0o777)).unwrap();
    world.store().hold_store().unwrap();
    assert_eq!(fs::metadata(world.layout.wheels()).unwrap().permissions().mode() & 0o7777, 0o755);
}
