//! What tests lend to the installations that they make, so that not each of them fetches everything again: uv and its cache.
//!
//! It is kept in a directory named by `LADYLINUX_REFRESH_TEST_CACHE`, else in one below the system's directory for temporary
//! files. uv is lent as a hard link of a file that nobody writes to; the cache is shared as it is.
#![expect(unreachable_pub, reason = "a module of a test is private whatever its items say")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests lay out directories; none goes on without this"
)]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ladylinux_refresh::event::Events;
use ladylinux_refresh::process::{Owner, Runner};
use ladylinux_refresh::python::definitions::{self, Choice, DEFAULT_PATTERNS};
use ladylinux_refresh::python::{Environments, Interpreter, Site, bundled};
use ladylinux_refresh::settings::layout::Layout;
use ladylinux_refresh::settings::{ImportCheck, Python, Strategy};
use ladylinux_refresh::units::Units;

/// The program that does the operations.
pub fn program() -> PathBuf {
    std::env::var_os("LADYLINUX_REFRESH_TEST_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_ladylinux-refresh").into(), PathBuf::from)
}

/// Returns the settings of an installation that says nothing of its own.
pub fn python() -> Python {
    Python {
        interpreter: "python3".to_owned(),
        strategy: Strategy::WhenChanged,
        definitions: DEFAULT_PATTERNS.map(str::to_owned).to_vec(),
        extras: Vec::new(),
        groups: Vec::new(),
        also: None,
        strict: false,
        index_url: None,
        indexes: std::collections::BTreeMap::new(),
        allow_source: false,
        imports: Vec::new(),
        import_check: ImportCheck::Off,
        command: Vec::new(),
        deadline: Duration::from_secs(300),
    }
}

/// The directory that all tests share, with uv in it, which is fetched by whoever comes first.
pub fn pool() -> &'static Path {
    static POOL: OnceLock<PathBuf> = OnceLock::new();
    POOL.get_or_init(|| {
        let named = std::env::var_os("LADYLINUX_REFRESH_TEST_CACHE").map(PathBuf::from);
        let directory = named.unwrap_or_else(|| {
            let uid = rustix::process::geteuid().as_raw();
            std::env::temp_dir().join(format!("ladylinux-refresh-test-cache-{uid}"))
        });
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory).unwrap();
        let owner = Owner::of(&directory).unwrap().uid;
        assert_eq!(owner, Owner::own().uid, "{} is not ours", directory.display());
        let lock = fs::OpenOptions::new().create(true).append(true).open(directory.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        fs::create_dir_all(directory.join("uv/cache")).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::below(scratch.path().canonicalize().unwrap());
        fs::create_dir_all(layout.state()).unwrap();
        fs::create_dir_all(layout.store()).unwrap();
        symlink(directory.join("uv"), layout.uv()).unwrap();
        let runner = Runner::new(Arc::new(Events::silent())).with_worker(program());
        let (python, owner) = (python(), Owner::own());
        let units = Units::new(&layout, &runner, owner);
        let site =
            Site { runner: &runner, layout: &layout, python: &python, owner, offline: false, units: &units };
        if !uv(&layout).is_file() {
            // Whatever needs uv fetches it.
            let interpreter = Interpreter::find(site).unwrap();
            let empty = Empty;
            let definitions = definitions::read(&empty, &Choice::of(&python, None)).unwrap();
            let environments = Environments::new(site);
            environments.lock(&environments.wanted(definitions, interpreter, None).unwrap()).unwrap();
        }
        directory
    })
}

/// A tree without any file.
struct Empty;

impl definitions::TreeSource for Empty {
    fn names_at_root(&self) -> ladylinux_refresh::error::Outcome<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn read(&self, _: &Path) -> ladylinux_refresh::error::Outcome<Option<Vec<u8>>> {
        Ok(None)
    }
    fn link(&self, _: &Path) -> ladylinux_refresh::error::Outcome<Option<PathBuf>> {
        Ok(None)
    }
}

/// Where an installation keeps uv.
pub fn uv(layout: &Layout) -> PathBuf {
    layout.uv().join(bundled::uv_name()).join("uv")
}

/// Lends everything to an installation.
pub fn lend(layout: &Layout) {
    lend_uv(layout);
    symlink(pool().join("uv/cache"), layout.uv().join("cache")).unwrap();
}

/// Lends uv without its cache.
pub fn lend_uv(layout: &Layout) {
    let place = uv(layout);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    let program = pool().join("uv").join(bundled::uv_name()).join("uv");
    if fs::hard_link(&program, &place).is_err() {
        // Another file system.
        fs::copy(&program, &place).unwrap();
    }
}
