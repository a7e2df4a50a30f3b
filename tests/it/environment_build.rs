//! Environments are built from locks: without a network, with two packages that contain the same file, from source, and
//! after an interrupted build. With the real uv and a separate index.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::index;
use crate::python;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use index::{Index, Release, release};
use python::{World, names, packages, was_built};
use refresh_settings::Strategy;
use refresh_system::disk;

fn world(index: &Index) -> World {
    let mut world = World::new();
    world.own_cache();
    world.python.index_url = Some(index.url());
    world
}

/// The directory of the packages of an environment.
fn site(environment: &Path) -> PathBuf {
    fs::read_dir(environment.join("lib")).unwrap().next().unwrap().unwrap().path().join("site-packages")
}

/// Returns the lines that pin releases with the hashes of the index.
fn pinned(index: &Index, releases: &[&str]) -> String {
    releases.iter().map(|release| format!("{release} --hash=sha256:{}\n", index.sha256(release))).collect()
}

#[test]
fn rw_5_3_cached_packages_are_built_without_any_network_in_either_form_of_a_lock() {
    let index = Index::new(&[release("alpha", "1.0"), release("beta", "1.0")]);
    let forms = ["alpha==1.0\nbeta\n".to_owned(), pinned(&index, &["alpha==1.0", "beta==1.0"])];
    for form in &forms {
        let mut world = world(&index);
        let first = world.ensure(form, "run-1").unwrap();
        let asked = index.asked().len();
        world.offline = true;
        let files = [("requirements.txt", form.as_str())];
        let second = world.ensure_with(&files, Strategy::Always, "run-2").unwrap();
        assert!(was_built(&second) && second.environment.name != first.environment.name);
        assert_eq!(second.environment.record.digest, first.environment.record.digest);
        assert_eq!(index.asked().len(), asked, "the index was asked");
        // A build that needs the network would fail here.
        disk::remove_tree(&world.layout.uv().join("cache")).unwrap();
        let error = world.ensure_with(&files, Strategy::Always, "run-4").unwrap_err().chain().join(": ");
        assert!(error.contains("index cannot be reached"), "{error}");
        assert_eq!(index.asked().len(), asked);
    }
}

#[test]
fn of_two_packages_with_one_file_the_later_one_in_the_lock_always_wins_and_is_named() {
    let both = |first: &'static str, second: &'static str| {
        [
            Release { shared: "common.py", ..release(first, "1.0") },
            Release { shared: "common.py", ..release(second, "1.0") },
            release("middle", "1.0"),
        ]
    };
    let index = Index::new(&both("aaa", "zzz"));
    let world = world(&index);
    // A lock that uv makes is in the order of the names; one of the application is in its own order.
    let (resolved, reversed) =
        ("zzz\nmiddle\naaa\n".to_owned(), pinned(&index, &["zzz==1.0", "middle==1.0", "aaa==1.0"]));
    for (definition, winner) in [(&resolved, "zzz"), (&reversed, "aaa")] {
        for run in 0..3 {
            let files = [("requirements.txt", definition.as_str())];
            let built = world.ensure_with(&files, Strategy::Always, &format!("run-{winner}-{run}")).unwrap();
            let text = fs::read_to_string(site(&built.environment.path).join("common.py")).unwrap();
            assert_eq!(text, format!("owner = '{winner}'\n"));
            assert_eq!(packages(&built), ["aaa", "middle", "zzz"]);
            let overlaps = &built.environment.record.built().unwrap().overlaps;
            assert_eq!(overlaps.len(), 1);
            assert_eq!(overlaps[0].path, "common.py");
            assert_eq!(overlaps[0].packages.last().map(String::as_str), Some(winner));
            assert!(world.environments().contamination_by_bytes(&built.environment).unwrap().is_none());
        }
        assert!(world.reported.has(&format!("the one of {winner} is used")));
    }
}

#[test]
fn an_environment_shares_no_file_with_the_cache_it_was_built_from() {
    let index = Index::new(&[release("alpha", "1.0")]);
    let world = world(&index);
    let built = world.ensure("alpha==1.0\n", "run-1").unwrap();
    let file = site(&built.environment.path).join("alpha.py");
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
    assert!(!file.is_symlink());
    assert!(site(&built.environment.path).join("__pycache__").is_dir(), "nothing was compiled");
    assert!(!site(&built.environment.path).join("pip").exists());
}

#[test]
fn a_package_without_a_wheel_is_refused_by_name_or_built_from_source_if_the_host_allows_it() {
    // A release that exists as source only and needs no compiler.
    let source_only = "docopt==0.6.2\n";
    let mut world = World::new();
    world.own_cache();
    let refused = world.ensure(source_only, "run-1").unwrap_err();
    assert!(refused.chain().join("\n").contains("docopt"), "{:?}", refused.chain());
    assert!(
        refused.hint_texts().iter().any(|hint| hint.contains("python.allow_source")),
        "{:?}",
        refused.hint_texts()
    );
    world.python.allow_source = true;
    let built = world.ensure(source_only, "run-2").unwrap();
    assert_eq!(packages(&built), ["docopt"]);
    assert_eq!(built.environment.record.built().unwrap().from_source, ["docopt 0.6.2"]);
}

#[test]
fn rw_5_3_leftovers_of_an_interrupted_build_are_removed_and_never_used() {
    let index = Index::new(&[release("alpha", "1.0")]);
    let world = world(&index);
    let first = world.ensure("alpha==1.0\n", "run-1").unwrap().environment;
    let records = world.layout.environment_records();
    for left in [format!("{}.json", first.name), format!("{}.manifest", first.name)] {
        fs::remove_file(records.join(left)).unwrap();
    }
    // As a kill during the work leaves it.
    let half = site(&first.path);
    assert!(half.is_dir());
    fs::create_dir_all(world.layout.uv().join("scratch/build-x/more")).unwrap();
    fs::write(records.join(format!("{}.manifest", first.name)), "half").unwrap();
    let second = world.ensure("alpha==1.0\n", "run-2").unwrap();
    assert!(was_built(&second));
    assert!(world.reported.has("discarded the unfinished environment"));
    assert_eq!(names(&world.layout.environments()), [second.environment.name.as_str()]);
    assert!(names(&world.layout.uv().join("scratch")).is_empty());
    assert!(world.environments().contamination_by_bytes(&second.environment).unwrap().is_none());
}

#[test]
fn a_manually_installed_package_is_found_by_the_manifest_alone() {
    let index = Index::new(&[release("alpha", "1.0"), release("beta", "1.0")]);
    let world = world(&index);
    let built = world.ensure("alpha==1.0\n", "run-1").unwrap().environment;
    // Read-only permissions do not restrict root.
    let other = world.ensure("beta==1.0\n", "run-2").unwrap().environment;
    let stray = site(&built.path).join("beta.py");
    disk::set_mode(&site(&built.path), 0o755).unwrap();
    fs::copy(site(&other.path).join("beta.py"), &stray).unwrap();
    let found = world.environments().contamination(&built).unwrap().unwrap();
    assert!(found.found.iter().any(|finding| built.path.join(&finding.path) == stray), "{found:?}");
    let again = world.ensure("alpha==1.0\n", "run-3").unwrap();
    assert!(was_built(&again), "it was used again");
    assert!(!site(&again.environment.path).join("beta.py").exists());
}

#[test]
fn locks_that_no_environment_needs_are_removed() {
    let index = Index::new(&[release("alpha", "1.0"), release("beta", "1.0")]);
    let world = world(&index);
    let first = world.ensure("alpha==1.0\n", "run-1").unwrap();
    let second = world.ensure("beta==1.0\n", "run-2").unwrap();
    world.environments().switch(&first.environment.name).unwrap();
    assert_eq!(names(&world.layout.locks()).len(), 2);
    assert_eq!(world.environments().prune(&[]).unwrap(), [second.environment.name]);
    world.environments().prune_locks().unwrap();
    let left = names(&world.layout.locks());
    assert_eq!(left, [format!("{}.json", first.environment.record.built().unwrap().parts.key())]);
}
