//! Locks: the resolution of a definition, the releases that it can use, and the use of a lock of the application. With
//! the real uv and a separate index.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests lay out files; none continues without them"
)]

use crate::index;
use crate::python;

use std::fs;
use std::process::Command;

use index::{Index, Release, Times, release};
use python::{World, packages};
use refresh_environments::Lock;
use refresh_environments::lock::Origin;
use refresh_settings::Strategy;

const NO_TIMES: &str = "the package index gives no upload times";

fn world(index: &Index) -> World {
    let mut world = World::new();
    world.python.index_url = Some(index.url());
    world
}

/// The lock of a tree whose definition dates from the middle of 2024.
fn lock(world: &World, files: &[(&str, &str)]) -> refresh_system::error::Outcome<Lock> {
    let wanted = world.wanted_until(files, Some("2024-06-01T00:00:00Z".parse().unwrap()))?;
    world.environments().lock(&wanted)
}

fn listed(lock: &Lock) -> Vec<String> {
    lock.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect()
}

fn why_not(lock: &Lock) -> Option<String> {
    lock.summary().not_reproducible
}

fn refusal(result: refresh_system::error::Outcome<Lock>) -> String {
    result.unwrap_err().chain().join(": ")
}

/// Releases of which some are newer than the definition.
fn releases() -> [Release; 5] {
    [
        Release { needs: "beta>=1|gamma; sys_platform == 'win32'", ..release("alpha", "1.0") },
        Release { year: 2025, ..release("alpha", "2.0") },
        release("beta", "1.5"),
        Release { year: 2025, ..release("beta", "1.6") },
        release("gamma", "1.0"),
    ]
}

#[test]
fn rw_2_2_releases_after_the_definition_are_not_seen() {
    let index = Index::new(&releases());
    let lock = lock(&world(&index), &[("requirements.txt", "alpha\n")]).unwrap();
    assert_eq!(listed(&lock), ["alpha 1.0", "beta 1.5"]);
    assert_eq!(why_not(&lock), None);
    assert!(matches!(lock.origin, Origin::Resolved { cutoff: Some(_), .. }));
}

#[test]
fn an_index_without_upload_times_is_resolved_without_a_cutoff_and_a_warning_names_it() {
    let index = Index::with(&releases(), Times::Untold);
    let world = world(&index);
    let lock = lock(&world, &[("requirements.txt", "alpha==1.0\n")]).unwrap();
    assert_eq!(listed(&lock), ["alpha 1.0", "beta 1.6"]);
    assert_eq!(why_not(&lock).as_deref(), Some(NO_TIMES));
    assert!(world.reported.has(NO_TIMES));
}

#[test]
fn a_pin_that_is_newer_than_the_definition_is_resolved_and_a_warning_names_it() {
    let index = Index::new(&releases());
    let lock = lock(&world(&index), &[("requirements.txt", "alpha==2.0\n")]).unwrap();
    assert_eq!(listed(&lock), ["alpha 2.0"]);
    let why = why_not(&lock).unwrap();
    assert!(why.contains("ask for releases that are newer"), "{why}");
}

#[test]
fn a_definition_that_never_resolves_is_reported_without_the_cutoff() {
    let index = Index::new(&releases());
    let error = refusal(lock(&world(&index), &[("requirements.txt", "alpha==2.0\nbeta==9\n")]));
    assert!(error.contains("beta==9") && !error.contains("exclude-newer"), "{error}");
}

#[test]
fn an_upgrade_sees_everything_and_is_kept_for_the_definition() {
    let index = Index::new(&releases());
    let world = world(&index);
    let wanted =
        world.wanted_until(&[("requirements.txt", "alpha\n")], Some("2024-06-01T00:00:00Z".parse().unwrap()));
    let wanted = wanted.unwrap();
    let before = world.environments().lock(&wanted).unwrap();
    let after = world.environments().upgrade(&wanted).unwrap();
    assert_eq!(before.changes(&after), ["~ alpha 1.0 → 2.0", "- beta 1.5"]);
    assert_eq!(world.environments().lock(&wanted).unwrap().packages, after.packages);
    assert_ne!(wanted.parts(&before).fingerprint(), wanted.parts(&after).fingerprint());
    assert!(why_not(&after).unwrap().contains("upgraded on this machine"));
}

#[test]
fn a_release_that_was_withdrawn_is_never_chosen_and_a_pin_on_it_is_refused() {
    let index = Index::new(&[release("alpha", "1.0"), Release { yanked: true, ..release("alpha", "1.1") }]);
    let world = world(&index);
    let free = lock(&world, &[("requirements.txt", "alpha\n")]).unwrap();
    assert_eq!(listed(&free), ["alpha 1.0"]);
    let pinned = lock(&world, &[("requirements.txt", "alpha==1.1\n")]).unwrap_err().chain().join(": ");
    assert!(pinned.contains("withdrawn (yanked): alpha 1.1"), "{pinned}");
}

#[test]
fn a_list_with_hashes_that_lacks_the_packages_of_an_extra_is_refused() {
    let needs = "beta>=1; extra == 'more'";
    let index = Index::new(&[Release { needs, ..release("alpha", "1.0") }, release("beta", "1.5")]);
    let world = world(&index);
    let pin = |name: &str, release: &str| format!("{name} --hash=sha256:{}\n", index.sha256(release));
    let alone = pin("alpha[more]==1.0", "alpha==1.0");
    let error = world.ensure(&alone, "run-1").unwrap_err().chain().join(": ");
    assert!(error.contains("alpha[more]==1.0") && error.contains("beta"), "{error}");
    let both = format!("{alone}{}", pin("beta==1.5", "beta==1.5"));
    assert_eq!(packages(&world.ensure(&both, "run-2").unwrap()), ["alpha", "beta"]);
}

/// The hash of a release's file by another algorithm than that of its index.
fn sha512(index: &Index, release: &str) -> String {
    use sha2::{Digest as _, Sha512};
    Sha512::digest(index.file(release)).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_hash_on_some_requirements_is_enforced_with_any_strong_algorithm() {
    let index = Index::new(&releases());
    let world = world(&index);
    let right = format!("alpha==1.0 --hash=sha512:{}\nbeta\n", sha512(&index, "alpha==1.0"));
    assert_eq!(packages(&world.ensure(&right, "run-1").unwrap()), ["alpha", "beta"]);
    for wrong in ["sha256:", "sha384:", "sha512:"].into_iter().zip([64, 96, 128]) {
        let wrong = format!("alpha==1.0 --hash={}{}\nbeta\n", wrong.0, "0".repeat(wrong.1));
        let error = world.ensure(&wrong, "run-2").unwrap_err().chain().join(": ");
        assert!(error.contains("does not match its hash"), "{error}");
    }
    // A hash in a file of constraints is one too.
    let limits = |hash: &str| format!("alpha==1.0 --hash=sha512:{hash}\n");
    for (hash, fits) in [(sha512(&index, "alpha==1.0"), true), ("0".repeat(128), false)] {
        let limits = limits(&hash);
        let files = [("requirements.txt", "-c limits.txt\nalpha\n"), ("limits.txt", limits.as_str())];
        let built = world.ensure_with(&files, Strategy::WhenChanged, "run-3");
        match built {
            Ok(_) => assert!(fits, "{hash}"),
            Err(failure) => {
                let error = failure.chain().join(": ");
                assert!(!fits && error.contains("does not match its hash"), "{hash}: {error}");
            }
        }
    }
}

#[test]
fn requirements_of_the_host_are_added_and_change_nothing_that_the_application_locks() {
    let index = Index::new(&releases());
    let mut world = world(&index);
    let alpha = index.sha256("alpha==1.0");
    let beta = index.sha256("beta==1.5");
    let pins = format!("alpha==1.0 --hash=sha256:{alpha}\nbeta==1.5 --hash=sha256:{beta}\n");
    let standard = pylock(&index, "", &[("beta==1.5", "")]);
    let without = world.wanted(&[("requirements.txt", "beta==1.5\n")]).unwrap();
    world.also = Some("gamma\nbeta>=1\n".to_owned());
    for (files, expected) in [
        (("requirements.txt", "beta==1.5\n"), ["beta 1.5", "gamma 1.0"].as_slice()),
        (("requirements.txt", pins.as_str()), &["alpha 1.0", "beta 1.5", "gamma 1.0"]),
        (("pylock.toml", standard.as_str()), &["beta 1.5", "gamma 1.0"]),
    ] {
        let wanted = world.wanted(&[files]).unwrap();
        assert_ne!(wanted.key(), without.key());
        let lock = world.environments().lock(&wanted).unwrap();
        assert_eq!(listed(&lock), expected, "{}", files.0);
        let built = world.ensure_with(&[files], Strategy::WhenChanged, "run-1").unwrap();
        assert_eq!(built.environment.record.packages.len(), expected.len());
    }
    world.also = Some("beta==1.6\n".to_owned());
    let error = refusal(lock(&world, &[("pylock.toml", &standard)]));
    assert!(error.contains("what the host adds (python.also) does not fit"), "{error}");
}

#[test]
fn a_package_with_its_own_index_comes_from_there_and_no_other_does() {
    let (usual, own) =
        (Index::new(&releases()), Index::new(&[release("beta", "7.0"), release("alpha", "9.0")]));
    let mut world = world(&usual);
    world.python.indexes = [("beta".to_owned(), own.url())].into();
    // Required by another package only, and required by name.
    for asked in ["alpha==1.0\n", "alpha==1.0\nbeta\n"] {
        let lock = world.environments().lock(&world.wanted(&[("requirements.txt", asked)]).unwrap()).unwrap();
        assert_eq!(listed(&lock), ["alpha 1.0", "beta 7.0"], "{asked}");
    }
    let built = world.ensure("alpha==1.0\n", "run-1").unwrap();
    assert_eq!(built.environment.record.packages[1].version, "7.0");
    assert!(own.asked().iter().all(|line| !line.contains("/simple/alpha")), "{:?}", own.asked());
}

#[test]
fn an_unreachable_index_is_not_needed_for_cached_packages() {
    let index = Index::new(&releases());
    let world = world(&index);
    world.own_cache();
    let first = world.ensure("alpha==1.0\n", "run-1").unwrap();
    // The definition is another one, and the packages of its lock are in the cache.
    index.away();
    let second = world.ensure("alpha==1.0\nbeta\n", "run-2").unwrap();
    assert_eq!(second.environment.record.digest, first.environment.record.digest);
    let lock = world.environments().lock_of(&second.environment).unwrap().unwrap();
    assert!(why_not(&lock).unwrap().contains("resolved from what uv has in its cache"));
    let error = world.ensure("gamma\n", "run-3").unwrap_err().chain().join(": ");
    assert!(error.contains("index cannot be reached"), "{error}");
}

/// A lock in standard form, with these entries.
fn pylock(index: &Index, head: &str, entries: &[(&str, &str)]) -> String {
    let mut text = format!("lock-version = '1.0'\ncreated-by = 'test'\n{head}\n");
    for (release, more) in entries {
        let (name, version) = release.split_once("==").unwrap();
        text.push_str(&format!(
            "[[packages]]\nname = '{name}'\nversion = '{version}'\n{more}\n\
             wheels = [{{ url = '{}', hashes = {{ sha256 = '{}' }} }}]\n",
            index.url_of(release),
            index.sha256(release)
        ));
    }
    text
}

#[test]
fn rw_5_3_a_pylock_of_the_application_selects_the_packages() {
    let index = Index::new(&releases());
    let text = pylock(
        &index,
        "",
        &[("alpha==1.0", ""), ("beta==1.6", ""), ("gamma==1.0", "marker = \"sys_platform == 'win32'\"")],
    );
    let world = world(&index);
    // Newer than the definition, and beside requirements with another content: only the lock counts.
    let files = [("pylock.toml", text.as_str()), ("requirements.txt", "gamma\n")];
    let ensured = world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap();
    assert_eq!(packages(&ensured), ["alpha", "beta"]);
    assert!(world.reported.has("the application's pylock.toml selects the packages"));
    assert!(world.reported.has("requirements.txt does not count"));
    let kept = world.environments().lock_of(&ensured.environment).unwrap().unwrap();
    assert_eq!(kept.summary().source, "pylock.toml");
}

#[test]
fn extras_and_groups_choose_what_a_pylock_marks_with_them() {
    let index = Index::new(&releases());
    let head = "extras = ['web']\ndependency-groups = ['dev', 'main']\ndefault-groups = ['main']";
    let entries = [
        ("gamma==1.0", "marker = \"'main' in dependency_groups\""),
        ("beta==1.5", "marker = \"'web' in extras\""),
        ("delta==1.0", "marker = \"'dev' in dependency_groups\""),
    ];
    let index = Index::new(&[index.releases(), &[release("delta", "1.0")]].concat());
    let text = pylock(&index, head, &entries);
    let mut world = world(&index);
    let built = |world: &World| {
        let files = [("pylock.toml", text.as_str())];
        packages(&world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap())
    };
    assert_eq!(built(&world), ["gamma"]);
    world.python.extras = Some(vec!["Web".to_owned()]);
    assert_eq!(built(&world), ["beta", "gamma"]);
    world.python.groups = Some(vec!["dev".to_owned()]);
    assert_eq!(built(&world), ["beta", "delta"]);
    world.python.groups = Some(vec!["none".to_owned()]);
    assert!(refusal(lock(&world, &[("pylock.toml", &text)])).contains("has no group \"none\""));
    let plain = pylock(&index, "", &[("beta==1.5", "")]);
    world.python.groups = Some(Vec::new());
    let error = refusal(lock(&world, &[("pylock.toml", &plain)]));
    assert!(error.contains("has no extra \"Web\"; there is: none"), "{error}");
}

#[test]
fn a_pylock_for_another_machine_or_python_or_without_a_requested_package_is_refused() {
    let index = Index::new(&releases());
    let world = world(&index);
    let refused = |head: &str, entries: &[(&str, &str)], more: &[(&str, &str)]| {
        let text = pylock(&index, head, entries);
        let mut files = vec![("pylock.toml", text.as_str())];
        files.extend(more);
        refusal(lock(&world, &files))
    };
    let one = [("beta==1.5", "")];
    let not_built = |head: &str, more: &str| {
        let text = pylock(&index, head, &[("beta==1.5", more)]);
        let files = [("pylock.toml", text.as_str())];
        world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap_err().chain().join(": ")
    };
    let error = not_built("requires-python = '>=3.99'", "");
    assert!(error.contains("other versions of Python") && error.contains(">=3.99"), "{error}");
    let error = not_built("environments = [\"sys_platform == 'win32'\"]", "");
    assert!(error.contains("for other machines"), "{error}");
    let error = not_built("", "marker = 'nonsense'");
    assert!(error.contains("nonsense"), "{error}");
    let project = ("pyproject.toml", "[project]\nname = 'x'\ndependencies = ['alpha']\n");
    assert!(refused("", &one, &[project]).contains("pylock.toml lacks alpha, which pyproject.toml asks for"));
    // A defect that only shows at the installation is named, too.
    let text = pylock(&index, "", &[("alpha==1.0", "")]);
    let failure = world.ensure_with(&[("pylock.toml", &text)], Strategy::WhenChanged, "run-1").unwrap_err();
    let error = failure.chain().join(": ");
    assert!(
        error.contains("the application's pylock.toml is not complete") && error.contains("beta"),
        "{error}"
    );
}

#[test]
fn rw_5_3_requirements_with_hashes_are_installed_and_not_resolved() {
    let index = Index::new(&releases());
    let pin =
        |release: &str, marker: &str| format!("{release}{marker} --hash=sha256:{}\n", index.sha256(release));
    let text =
        pin("alpha==1.0", "") + &pin("beta==1.6", "") + &pin("gamma==1.0", " ; sys_platform == 'win32'");
    let world = world(&index);
    let ensured = world.ensure(&text, "run-1").unwrap();
    assert_eq!(packages(&ensured), ["alpha", "beta"]);
    assert!(!world.reported.has("resolving the definition"));
    let wrong = text.replace(index.sha256("beta==1.6"), &"0".repeat(64));
    let failure = world.ensure(&wrong, "run-2").unwrap_err();
    let error = failure.chain().join(": ");
    assert!(error.contains("does not match its hash"), "{error}");
    // An earlier version of this program did not compare a lock with the constraints beside it.
    let limited = format!("-c limits.txt\n{}", pin("beta==1.6", ""));
    let files = [("requirements.txt", limited.as_str()), ("limits.txt", "beta<1.7\n")];
    lock(&world, &files).unwrap();
    let known = world.layout.locks().join(format!("{}.json", world.wanted(&files).unwrap().key()));
    fs::write(&known, fs::read_to_string(&known).unwrap().replace("1.6", "1.8")).unwrap();
    let error = refusal(lock(&world, &files));
    assert!(error.contains("has beta 1.8, and limits.txt asks for beta<1.7"), "{error}");
}

const PROJECT: &str = "[project]\nname = 'demo'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['alpha']\n\
    [project.optional-dependencies]\nmore = ['gamma']\n";

/// The `uv.lock` that uv makes of a project.
fn uv_lock(world: &World, index: &Index, project: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pyproject.toml"), project).unwrap();
    let made = Command::new(python::pool::uv(&world.layout))
        .args(["--no-config", "--no-cache", "lock", "--python"])
        .arg(python::pool::interpreter())
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", directory.path())
        .env("UV_DEFAULT_INDEX", index.url())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read_to_string(directory.path().join("uv.lock")).unwrap()
}

#[test]
fn rw_5_3_a_uv_lock_is_installed_and_one_that_does_not_fit_the_project_is_refused() {
    let (made, other) = (Index::new(&releases()), Index::new(&releases()));
    // The lock names another index than the host: its files are used, and the index receives no other request.
    let mut world = world(&other);
    let text = uv_lock(&world, &made, PROJECT);
    let asked = made.asked().len();
    let files = [("uv.lock", text.as_str()), ("pyproject.toml", PROJECT)];
    let ensured = world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap();
    assert_eq!(packages(&ensured), ["alpha"]);
    assert!(made.asked()[asked..].iter().all(|line| line.contains("/files/")), "{:?}", made.asked());
    world.python.extras = Some(vec!["more".to_owned()]);
    assert_eq!(listed(&lock(&world, &files).unwrap()), ["alpha 2.0", "gamma 1.0"]);
    world.python.extras = Some(Vec::new());
    let changed = PROJECT.replace("['alpha']", "['alpha', 'beta']");
    let error = refusal(lock(&world, &[("uv.lock", &text), ("pyproject.toml", &changed)]));
    assert!(error.contains("it does not fit pyproject.toml"), "{error}");
    let member = "[[package]]\nname = \"m\"\nversion = \"1\"\nsource = { virtual = \"packages/m\" }\n";
    let error =
        refusal(lock(&world, &[("uv.lock", &format!("{text}\n{member}")), ("pyproject.toml", &changed)]));
    assert!(error.contains("packages/m of the application, which has no hash: it does not fit"), "{error}");
}

#[test]
fn no_file_of_the_application_sends_uv_to_another_index() {
    let (ours, theirs) = (Index::new(&releases()), Index::new(&releases()));
    let world = world(&ours);
    let elsewhere = theirs.url();
    let tool = format!(
        "{PROJECT}[tool.uv]\nindex-url = '{elsewhere}'\n[[tool.uv.index]]\nname = 'theirs'\nurl = '{elsewhere}'\n\
         default = true\n"
    );
    let files = [
        ("pyproject.toml", tool.as_str()),
        ("requirements.txt", "beta\n"),
        ("uv.toml", &format!("index-url = '{elsewhere}'\n")),
        ("pip.conf", &format!("[global]\nindex-url = {elsewhere}\n")),
        (".env", &format!("UV_DEFAULT_INDEX={elsewhere}\nPIP_INDEX_URL={elsewhere}\n")),
    ];
    let ensured = world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap();
    assert_eq!(packages(&ensured), ["alpha", "beta"]);
    assert!(!ours.asked().is_empty());
    assert_eq!(theirs.asked(), [""; 0]);
}
