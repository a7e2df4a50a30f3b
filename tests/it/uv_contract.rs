//! The features of the pinned uv that the program relies on; its `pylock.toml` is experimental. Each test is a promise
//! that another version of uv must keep before it can be the pinned one.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests start programs and lay out files")]

use crate::host::pool;
use crate::index;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use index::{Index, Release, release};

/// A directory with a cache and an environment.
struct Place {
    directory: tempfile::TempDir,
    uv: PathBuf,
}

impl Place {
    fn new() -> Self {
        let uv = fs::read_dir(pool::pool().join("uv")).unwrap().map(|entry| entry.unwrap().path().join("uv"));
        let uv = uv.into_iter().find(|uv| uv.is_file()).unwrap();
        let place = Self { directory: tempfile::tempdir().unwrap(), uv };
        let python = pool::interpreter().to_str().unwrap();
        place.run(&["venv", "--no-project", "--python", python, "env"]).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The output of uv: standard output, or standard error if it fails.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.uv)
            .args(["--no-config", "--no-progress", "--color", "never", "--preview-features", "pylock"])
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("UV_CACHE_DIR", self.path("cache"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn sync(&self, more: &[&str]) -> Result<String, String> {
        let usual =
            ["pip", "sync", "--python", "env/bin/python", "--require-hashes", "--only-binary", ":all:"];
        self.run(&[&usual[..], more].concat())
    }

    fn installed(&self) -> Vec<String> {
        let lib = fs::read_dir(self.path("env/lib")).unwrap().next().unwrap().unwrap().path();
        let entries = fs::read_dir(lib.join("site-packages")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| Path::new(name).extension().is_some_and(|end| end == "py"));
        names.sort();
        names
    }
}

fn index() -> Index {
    Index::new(&[
        release("alpha", "1.0"),
        release("beta", "1.0"),
        Release { tag: "sdist", ..release("raw", "1.0") },
    ])
}

/// A document with these entries.
fn pylock(head: &str, entries: &[String]) -> String {
    format!("lock-version = '1.0'\ncreated-by = 'test'\n{head}\n{}", entries.concat())
}

fn entry(index: &Index, release: &str, sha256: &str, more: &str) -> String {
    let (name, version) = release.split_once("==").unwrap();
    format!(
        "[[packages]]\nname = '{name}'\nversion = '{version}'\n{more}\n\
         wheels = [{{ url = '{}', hashes = {{ sha256 = '{sha256}' }} }}]\n",
        index.url_of(release)
    )
}

fn good(index: &Index, release: &str, more: &str) -> String {
    entry(index, release, index.sha256(release), more)
}

#[test]
fn sync_installs_the_output_of_compile_and_verifies_its_hashes() {
    let (index, place) = (index(), Place::new());
    place.write("requirements.txt", "alpha\n");
    let compile =
        ["pip", "compile", "--format", "pylock.toml", "--no-header", "--default-index", &index.url()];
    let document = place.run(&[&compile[..], &["requirements.txt"]].concat()).unwrap();
    assert!(document.contains(index.sha256("alpha==1.0")), "{document}");
    place.write("pylock.toml", &document);
    place.sync(&["pylock.toml"]).unwrap();
    assert_eq!(place.installed(), ["alpha.py"]);

    let wrong = document.replace(index.sha256("alpha==1.0"), &"0".repeat(64));
    place.write("pylock.wrong.toml", &wrong);
    // The same holds if the cache has the file, whose hash is known to be different.
    let error = place.sync(&["--reinstall", "pylock.wrong.toml"]).unwrap_err();
    assert!(error.contains("Hash mismatch"), "{error}");
    let without = "lock-version = '1.0'\ncreated-by = 'x'\n[[packages]]\nname = 'alpha'\nversion = '1.0'\n";
    place.write(
        "pylock.bare.toml",
        &format!("{without}wheels = [{{ url = 'https://x.invalid/a-1-py3-none-any.whl' }}]\n"),
    );
    assert!(place.sync(&["pylock.bare.toml"]).is_err());
}

#[test]
fn requirements_need_a_hash_each_and_every_strong_algorithm_is_enforced() {
    use sha2::{Digest as _, Sha384, Sha512};
    let (index, place) = (index(), Place::new());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file = index.file("alpha==1.0");
    let hashes = [
        format!("sha384:{}", hex(&Sha384::digest(&file))),
        format!("sha512:{}", hex(&Sha512::digest(&file))),
    ];
    let url = index.url();
    let sync = |text: &str| {
        place.write("r.txt", text);
        place.sync(&["--reinstall", "--default-index", &url, "r.txt"])
    };
    for hash in &hashes {
        sync(&format!("alpha==1.0 --hash={hash}\n")).unwrap();
        let (name, digits) = hash.split_once(':').unwrap();
        let error = sync(&format!("alpha==1.0 --hash={name}:{}\n", "0".repeat(digits.len()))).unwrap_err();
        assert!(error.contains("Hash mismatch"), "{error}");
    }
    assert!(sync("alpha==1.0\n").unwrap_err().contains("all requirements must have a hash"));
    // Markers are evaluated, and packages for other machines are left out.
    sync(&format!(
        "alpha==1.0 --hash={}\nbeta==1.0 ; sys_platform == 'win32' --hash={}\n",
        hashes[0], hashes[0]
    ))
    .unwrap();
    assert_eq!(place.installed(), ["alpha.py"]);
}

#[test]
fn a_document_for_other_machines_is_refused_and_extras_and_groups_choose() {
    let (index, place) = (index(), Place::new());
    let sync = |document: &str, more: &[&str]| {
        place.write("pylock.toml", document);
        place.sync(&[more, &["pylock.toml"]].concat())
    };
    let one = [good(&index, "alpha==1.0", "")];
    let error = sync(&pylock("environments = [\"sys_platform == 'win32'\"]", &one), &[]).unwrap_err();
    assert!(error.contains("not supported by the lockfile"), "{error}");
    let error = sync(&pylock("requires-python = '>=3.99'", &one), &[]).unwrap_err();
    assert!(error.contains("incompatible with the `pylock.toml`'s Python requirement"), "{error}");
    let head = "extras = ['x']\ndependency-groups = ['g']\ndefault-groups = ['g']";
    let marked = [
        good(&index, "alpha==1.0", "marker = \"'x' in extras\""),
        good(&index, "beta==1.0", "marker = \"'g' in dependency_groups\""),
    ];
    let marked = pylock(head, &marked);
    sync(&marked, &[]).unwrap();
    assert_eq!(place.installed(), ["beta.py"]);
    sync(&marked, &["--extra", "x"]).unwrap();
    assert_eq!(place.installed(), ["alpha.py", "beta.py"]);
    // A name that the document does not contain is not an error for uv: the program must check it.
    sync(&marked, &["--extra", "nosuch"]).unwrap();
}

#[test]
fn cached_packages_need_no_network_and_a_missing_one_is_named_and_leaves_nothing() {
    let (index, place) = (index(), Place::new());
    let document = pylock("", &[good(&index, "alpha==1.0", ""), good(&index, "beta==1.0", "")]);
    place.write("pylock.toml", &document);
    let error = place.sync(&["--offline", "pylock.toml"]).unwrap_err();
    assert!(error.contains("Network connectivity is disabled"), "{error}");
    assert!(place.installed().is_empty());
    let wheels = place.path("cache/archive-v0");
    assert!(!wheels.is_dir(), "a cache without this directory holds no wheel");
    place.sync(&["pylock.toml"]).unwrap();
    assert!(wheels.is_dir());
    // A cache that was moved works as well.
    fs::rename(place.path("cache"), place.path("elsewhere")).unwrap();
    fs::rename(place.path("elsewhere"), place.path("cache")).unwrap();
    let asked = index.asked().len();
    place.sync(&["--offline", "--reinstall", "pylock.toml"]).unwrap();
    assert_eq!((place.installed().len(), index.asked().len()), (2, asked));
}

#[test]
fn a_source_is_built_only_if_that_is_allowed_and_is_named_otherwise() {
    let (index, place) = (index(), Place::new());
    let entry = good(&index, "raw==1.0", "").replace("wheels = [{", "sdist = {").replace("} }]", "} }");
    place.write("pylock.toml", &pylock("", &[entry]));
    let error = place.sync(&["pylock.toml"]).unwrap_err();
    assert!(error.contains("`raw` can't be installed because it is marked as `--no-build`"), "{error}");
}

#[test]
fn a_uv_lock_that_does_not_fit_its_project_is_not_exported() {
    let (index, place) = (index(), Place::new());
    let project = |needs: &str| {
        format!(
            "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9'\ndependencies = ['{needs}']\n"
        )
    };
    place.write("pyproject.toml", &project("alpha"));
    let url = index.url();
    place.run(&["lock", "--default-index", &url]).unwrap();
    let export =
        ["--offline", "--no-cache", "export", "--locked", "--format", "pylock.toml", "--no-emit-project"];
    let export = [&export[..], &["--default-index", &url]].concat();
    let document = place.run(&export).unwrap();
    assert!(document.contains(index.sha256("alpha==1.0")), "{document}");
    place.write("pyproject.toml", &project("beta"));
    assert!(place.run(&export).is_err());
}
