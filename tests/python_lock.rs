//! Locks: what a definition resolves to, with which releases in view, and what becomes of a lock that the application
//! brings. With the real installers and an index of our own.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests lay out files; none goes on without them"
)]

#[path = "common/index.rs"]
mod index;
#[path = "common/python.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod python;

use std::fs;
use std::process::Command;

use index::{Index, Release, Times, release};
use ladylinux_refresh::python::Lock;
use ladylinux_refresh::python::lock::Origin;
use ladylinux_refresh::settings::{InstallerChoice, Strategy};
use python::{World, packages};

const BOTH: [InstallerChoice; 2] = [InstallerChoice::Uv, InstallerChoice::Pip];

const NO_TIMES: &str = "the package index gives no upload times";

fn world(installer: InstallerChoice, index: &Index) -> World {
    let mut world = World::new().with(installer);
    world.python.index_url = Some(index.url());
    world
}

/// The lock of a tree whose definition is of the middle of 2024.
fn lock(world: &World, files: &[(&str, &str)]) -> ladylinux_refresh::error::Outcome<Lock> {
    let wanted = world.wanted_until(files, Some("2024-06-01T00:00:00Z".parse().unwrap()))?;
    world.environments().lock(&wanted)
}

fn listed(lock: &Lock) -> Vec<String> {
    lock.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect()
}

fn why_not(lock: &Lock) -> Option<String> {
    lock.summary().not_reproducible
}

fn refusal(result: ladylinux_refresh::error::Outcome<Lock>) -> String {
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
fn rw_2_2_releases_after_the_definition_are_not_seen_and_both_installers_lock_the_same() {
    let index = Index::new(&releases());
    let locks = BOTH.map(|installer| {
        let lock = lock(&world(installer, &index), &[("requirements.txt", "alpha\n")]).unwrap();
        assert_eq!(listed(&lock), ["alpha 1.0", "beta 1.5"], "{installer:?}");
        assert_eq!(why_not(&lock), None);
        assert!(matches!(lock.origin, Origin::Resolved { cutoff: Some(_), .. }));
        lock
    });
    assert_eq!(locks[0].packages, locks[1].packages);
    assert_eq!(locks[0].digest(), locks[1].digest());
}

#[test]
fn an_index_without_upload_times_is_resolved_without_a_cutoff_and_that_is_said() {
    let index = Index::with(&releases(), Times::Untold);
    for installer in BOTH {
        let world = world(installer, &index);
        let lock = lock(&world, &[("requirements.txt", "alpha==1.0\n")]).unwrap();
        assert_eq!(listed(&lock), ["alpha 1.0", "beta 1.6"], "{installer:?}");
        assert_eq!(why_not(&lock).as_deref(), Some(NO_TIMES), "{installer:?}");
        assert!(world.told.has(NO_TIMES));
    }
}

#[test]
fn a_pin_that_is_newer_than_the_definition_is_resolved_and_that_is_said() {
    let index = Index::new(&releases());
    for installer in BOTH {
        let lock = lock(&world(installer, &index), &[("requirements.txt", "alpha==2.0\n")]).unwrap();
        assert_eq!(listed(&lock), ["alpha 2.0"], "{installer:?}");
        let why = why_not(&lock).unwrap();
        assert!(why.contains("asks for releases that are newer than itself"), "{installer:?}: {why}");
    }
}

#[test]
fn what_does_not_resolve_at_all_is_told_as_it_is_without_the_cutoff() {
    let index = Index::new(&releases());
    for installer in BOTH {
        let told = refusal(lock(&world(installer, &index), &[("requirements.txt", "alpha==2.0\nbeta==9\n")]));
        assert!(told.contains("beta==9") && !told.contains("exclude-newer"), "{installer:?}: {told}");
    }
}

#[test]
fn an_upgrade_sees_everything_and_is_kept_for_the_definition() {
    let index = Index::new(&releases());
    let world = world(InstallerChoice::Uv, &index);
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
    for installer in BOTH {
        let world = world(installer, &index);
        let free = lock(&world, &[("requirements.txt", "alpha\n")]).unwrap();
        assert_eq!(listed(&free), ["alpha 1.0"], "{installer:?}");
        let pinned = lock(&world, &[("requirements.txt", "alpha==1.1\n")]).unwrap_err().chain().join(": ");
        assert!(pinned.contains("withdrawn (yanked): alpha 1.1"), "{installer:?}: {pinned}");
    }
}

#[test]
fn a_hash_on_some_requirements_is_held_to() {
    let index = Index::new(&releases());
    let wrong = format!("alpha==1.0 --hash=sha256:{}\nbeta\n", "0".repeat(64));
    for installer in BOTH {
        let told = refusal(lock(&world(installer, &index), &[("requirements.txt", &wrong)]));
        assert!(told.contains("not what its hash says"), "{installer:?}: {told}");
    }
}

/// A lock in standard form, with these entries.
fn pylock(index: &Index, head: &str, entries: &[(&str, &str)]) -> String {
    let mut text = format!("lock-version = '1.0'\ncreated-by = 'test'\n{head}\n");
    for (release, more) in entries {
        let (name, version) = release.split_once("==").unwrap();
        text.push_str(&format!(
            "[[packages]]\nname = '{name}'\nversion = '{version}'\n{more}\n\
             wheels = [{{ url = 'https://x.invalid/x.whl', hashes = {{ sha256 = '{}' }} }}]\n",
            index.sha256(release)
        ));
    }
    text
}

#[test]
fn rw_5_3_a_pylock_of_the_application_is_law_for_both_installers() {
    let index = Index::new(&releases());
    let text = pylock(
        &index,
        "",
        &[("alpha==1.0", ""), ("beta==1.6", ""), ("gamma==1.0", "marker = \"sys_platform == 'win32'\"")],
    );
    for installer in BOTH {
        let world = world(installer, &index);
        // Newer than the definition, and beside requirements that say something else: the lock is what counts.
        let files = [("pylock.toml", text.as_str()), ("requirements.txt", "gamma\n")];
        let ensured = world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap();
        assert_eq!(packages(&ensured), ["alpha", "beta"], "{installer:?}");
        assert!(world.told.has("the application's pylock.toml says what is installed"));
        assert!(world.told.has("requirements.txt does not count"));
        let kept = world.environments().lock_of(&ensured.generation).unwrap().unwrap();
        assert_eq!(kept.summary().source, "pylock.toml");
    }
}

#[test]
fn extras_and_groups_choose_what_a_pylock_marks_with_them() {
    let index = Index::new(&releases());
    let head = "extras = ['web']\ndependency-groups = ['dev', 'main']\ndefault-groups = ['main']";
    let text = pylock(
        &index,
        head,
        &[
            ("alpha==1.0", "marker = \"'main' in dependency_groups\""),
            ("beta==1.5", "marker = \"'web' in extras\""),
            ("gamma==1.0", "marker = \"'dev' in dependency_groups\""),
        ],
    );
    let mut world = world(InstallerChoice::Uv, &index);
    let listed = |world: &World| listed(&lock(world, &[("pylock.toml", &text)]).unwrap());
    assert_eq!(listed(&world), ["alpha 1.0"]);
    world.python.extras = vec!["Web".to_owned()];
    assert_eq!(listed(&world), ["alpha 1.0", "beta 1.5"]);
    world.python.groups = vec!["dev".to_owned()];
    assert_eq!(listed(&world), ["beta 1.5", "gamma 1.0"]);
    world.python.groups = vec!["none".to_owned()];
    assert!(refusal(lock(&world, &[("pylock.toml", &text)])).contains("has no group \"none\""));
}

#[test]
fn a_pylock_for_other_machines_or_another_python_or_without_what_is_asked_for_is_refused() {
    let index = Index::new(&releases());
    let world = world(InstallerChoice::Uv, &index);
    let refused = |head: &str, entries: &[(&str, &str)], more: &[(&str, &str)]| {
        let text = pylock(&index, head, entries);
        let mut files = vec![("pylock.toml", text.as_str())];
        files.extend(more);
        refusal(lock(&world, &files))
    };
    let one = [("beta==1.5", "")];
    assert!(refused("requires-python = '>=3.99'", &one, &[]).contains("needs Python >=3.99"));
    assert!(
        refused("environments = [\"sys_platform == 'win32'\"]", &one, &[]).contains("for other machines")
    );
    let project = ("pyproject.toml", "[project]\nname = 'x'\ndependencies = ['alpha']\n");
    assert!(refused("", &one, &[project]).contains("pylock.toml lacks alpha, which pyproject.toml asks for"));
    assert!(refused("", &[("beta==1.5", "marker = 'nonsense'")], &[]).contains("markers are not understood"));
    // What only shows when everything is installed is told as what it is, too.
    let text = pylock(&index, "", &[("alpha==1.0", "")]);
    let failure = world.ensure_with(&[("pylock.toml", &text)], Strategy::WhenChanged, "run-1").unwrap_err();
    let told = failure.chain().join(": ");
    assert!(
        told.contains("the application's pylock.toml is not complete") && told.contains("beta"),
        "{told}"
    );
}

#[test]
fn rw_5_3_requirements_with_hashes_are_law_and_are_not_resolved() {
    let index = Index::new(&releases());
    let pin =
        |release: &str, marker: &str| format!("{release}{marker} --hash=sha256:{}\n", index.sha256(release));
    let text =
        pin("alpha==1.0", "") + &pin("beta==1.6", "") + &pin("gamma==1.0", " ; sys_platform == 'win32'");
    for installer in BOTH {
        let world = world(installer, &index);
        let ensured = world.ensure(&text, "run-1").unwrap();
        assert_eq!(packages(&ensured), ["alpha", "beta"], "{installer:?}");
        assert!(!world.told.has("resolving the definition"));
    }
    let wrong = text.replace(index.sha256("beta==1.6"), &"0".repeat(64));
    for installer in BOTH {
        let failure = world(installer, &index).ensure(&wrong, "run-1").unwrap_err();
        let told = failure.chain().join(": ");
        assert!(told.contains("is not what its hash says"), "{installer:?}: {told}");
    }
}

const PROJECT: &str = "[project]\nname = 'demo'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['alpha']\n\
    [project.optional-dependencies]\nmore = ['gamma']\n";

/// The `uv.lock` that uv makes of a project.
fn uv_lock(world: &World, index: &Index, project: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pyproject.toml"), project).unwrap();
    let uv = fs::read_dir(world.layout.tools()).unwrap().map(|entry| entry.unwrap().path());
    let uv = uv.map(|path| path.join("uv")).find(|path| path.is_file()).unwrap();
    let made = Command::new(uv)
        .args(["--no-config", "--no-cache", "lock", "--python", "python3"])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", folder.path())
        .env("UV_DEFAULT_INDEX", index.url())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read_to_string(folder.path().join("uv.lock")).unwrap()
}

#[test]
fn rw_5_3_a_uv_lock_is_law_and_one_that_does_not_fit_the_project_is_refused() {
    let (made, other) = (Index::new(&releases()), Index::new(&releases()));
    for installer in BOTH {
        // The lock names another index than the host: what it says holds, where it comes from is the host's affair.
        let mut world = world(installer, &other);
        let text = uv_lock(&world, &made, PROJECT);
        let asked = made.asked().len();
        let files = [("uv.lock", text.as_str()), ("pyproject.toml", PROJECT)];
        let ensured = world.ensure_with(&files, Strategy::WhenChanged, "run-1").unwrap();
        assert_eq!(packages(&ensured), ["alpha"], "{installer:?}");
        assert_eq!(made.asked().len(), asked);
        world.python.extras = vec!["more".to_owned()];
        assert_eq!(listed(&lock(&world, &files).unwrap()), ["alpha 2.0", "gamma 1.0"]);
        world.python.extras = Vec::new();
        let changed = PROJECT.replace("['alpha']", "['alpha', 'beta']");
        let told = refusal(lock(&world, &[("uv.lock", &text), ("pyproject.toml", &changed)]));
        assert!(told.contains("it does not fit pyproject.toml"), "{installer:?}: {told}");
    }
}

#[test]
fn no_file_of_the_application_sends_an_installer_to_another_index() {
    let (ours, theirs) = (Index::new(&releases()), Index::new(&releases()));
    for installer in BOTH {
        let world = world(installer, &ours);
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
        assert_eq!(packages(&ensured), ["alpha", "beta"], "{installer:?}");
        assert!(!ours.asked().is_empty());
        assert_eq!(theirs.asked(), [""; 0], "{installer:?}");
    }
}
