//! What tests lend to the installations that they make, so that not each of them fetches everything anew: the installers,
//! their download caches, and wheels.
//!
//! It is kept in a folder named by `LADYLINUX_REFRESH_TEST_CACHE`, else in one below the system's folder for temporary
//! files. Installers and wheels are lent as hard links of files that nobody writes to: what an installation removes is its
//! own name only, and what it puts in another one's place stays with it.
#![expect(unreachable_pub, reason = "a module of a test is private whatever its items say")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests lay out folders; none goes on without this"
)]
#![allow(dead_code, reason = "not every test uses everything")]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ladylinux_refresh::disk;
use ladylinux_refresh::event::Events;
use ladylinux_refresh::process::{Owner, Runner};
use ladylinux_refresh::python::definitions::DEFAULT_PATTERNS;
use ladylinux_refresh::python::{Installer, Interpreter, Site};
use ladylinux_refresh::settings::layout::Layout;
use ladylinux_refresh::settings::pip_config::PipConfig;
use ladylinux_refresh::settings::{InstallerChoice, Python, Strategy};

/// The installers' caches, which are shared as they are.
const CACHES: [&str; 2] = ["cache/uv", "cache/pip"];

/// Returns the settings of an installation that says nothing of its own.
pub fn python(installer: InstallerChoice) -> Python {
    Python {
        interpreter: "python3".to_owned(),
        installer,
        strategy: Strategy::WhenChanged,
        definitions: DEFAULT_PATTERNS.map(str::to_owned).to_vec(),
        extras: Vec::new(),
        groups: Vec::new(),
        strict: false,
        index_url: None,
        pip: PipConfig::default(),
        allow_source: false,
        imports: Vec::new(),
        import_check: ladylinux_refresh::settings::ImportCheck::Off,
        command: Vec::new(),
        deadline: Duration::from_secs(300),
    }
}

/// The folder that all tests share, with both installers in it; they are fetched by whoever comes first.
pub fn pool() -> &'static Path {
    static POOL: OnceLock<PathBuf> = OnceLock::new();
    POOL.get_or_init(|| {
        let named = std::env::var_os("LADYLINUX_REFRESH_TEST_CACHE").map(PathBuf::from);
        let folder = named.unwrap_or_else(|| {
            let uid = rustix::process::geteuid().as_raw();
            std::env::temp_dir().join(format!("ladylinux-refresh-test-cache-{uid}"))
        });
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder).unwrap();
        assert_eq!(Owner::of(&folder).unwrap().uid, Owner::own().uid, "{} is not ours", folder.display());
        let lock = fs::OpenOptions::new().create(true).append(true).open(folder.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        for name in CACHES.iter().chain(&["tools", "wheels"]) {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::below(scratch.path().canonicalize().unwrap());
        fs::create_dir_all(layout.state()).unwrap();
        symlink(folder.join("tools"), layout.tools()).unwrap();
        let runner = Runner::new(Arc::new(Events::silent()));
        for installer in [InstallerChoice::Uv, InstallerChoice::Pip] {
            let python = python(installer);
            let interpreter = Interpreter::find(&runner, &python, Owner::own()).unwrap();
            let site = Site { runner: &runner, layout: &layout, python: &python, owner: Owner::own() };
            Installer::ensure(site, &interpreter).unwrap();
        }
        folder
    })
}

/// Lends everything to an installation.
pub fn lend(layout: &Layout) {
    lend_tools(layout, |_| true);
    lend_wheels(layout);
    for name in CACHES {
        let link = layout.state().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(pool().join(name), link).unwrap();
    }
}

/// Lends the installers whose names are wanted.
pub fn lend_tools(layout: &Layout, wanted: impl Fn(&str) -> bool) {
    fs::create_dir_all(layout.tools()).unwrap();
    for entry in fs::read_dir(pool().join("tools")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if wanted(&name) && !name.starts_with('.') {
            link(&entry.path(), &layout.tools().join(name));
        }
    }
}

/// Lends the wheels that there are.
pub fn lend_wheels(layout: &Layout) {
    fs::create_dir_all(layout.wheels()).unwrap();
    for entry in fs::read_dir(pool().join("wheels")).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with('.') {
            link(&entry.path(), &layout.wheels().join(entry.file_name()));
        }
    }
}

/// Keeps the wheels that an installation has got, for the next ones: those that are what their folder says.
pub fn keep_wheels(layout: &Layout) {
    let pool = pool().join("wheels");
    for entry in fs::read_dir(layout.wheels()).into_iter().flatten().flatten() {
        let sha256 = entry.file_name().into_string().unwrap_or_default();
        let place = pool.join(&sha256);
        if place.exists() || sha256.len() != 64 {
            continue;
        }
        let files: Vec<PathBuf> =
            fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|file| file.path()).collect();
        let [file] = files.as_slice() else { continue };
        if !disk::content_of_own(file).is_ok_and(|content| content.sha256 == sha256) {
            continue;
        }
        let aside = pool.join(format!(".{sha256}-{}", std::process::id()));
        link(&entry.path(), &aside);
        if fs::rename(&aside, &place).is_err() {
            let _ = fs::remove_dir_all(&aside);
        }
    }
}

/// A file under a second name, or a folder of such files.
fn link(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            link(&entry.path(), &to.join(entry.file_name()));
        }
    } else if fs::hard_link(from, to).is_err() {
        // Another file system.
        fs::copy(from, to).unwrap();
    }
}
