//! The shared parts of the installations of tests, so that not each of them fetches everything again: uv and its cache.
//!
//! They are in the directory that `LADYLINUX_REFRESH_TEST_CACHE` names, or in one below the system's directory for
//! temporary files. uv is shared as a hard link of a file that never changes; the cache is shared directly.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests lay out directories; none continues without them"
)]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use refresh_environments::reading;
use refresh_environments::{DefinitionFilter, TreeSource};
use refresh_environments::{Environments, Interpreter, Site, bundled};
use refresh_events::event::Events;
use refresh_programs::process::Runner;
use refresh_programs::units::Units;
use refresh_settings::layout::Layout;
use refresh_settings::{ImportCheck, Python};
use refresh_system::disk::Owner;

/// The program under test: the one that was built with the test, unless another build is named. If other users cannot
/// reach it, as in the home directory of root, it is a copy that they can execute.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let found = || {
        let named = std::env::var_os("LADYLINUX_REFRESH_TEST_PROGRAM");
        let built = named.map_or_else(|| env!("CARGO_BIN_EXE_ladylinux-refresh").into(), PathBuf::from);
        if is_open(&built) {
            return built;
        }
        // One copy for each checkout: a build that comes later replaces it.
        let directory = cache().join("programs").join(built.display().to_string().replace('/', "-"));
        fs::create_dir_all(&directory).unwrap();
        let copy = directory.join("ladylinux-refresh");
        let new = copy.with_extension(std::process::id().to_string());
        // Not by this process: a child that another thread starts has the open files of this process for a moment, and
        // the copy cannot be executed until then.
        assert!(Command::new("cp").arg(&built).arg(&new).status().unwrap().success());
        fs::rename(&new, &copy).unwrap();
        copy
    };
    PROGRAM.get_or_init(found).clone()
}

/// Returns whether the other users that a test of root acts as can execute a program.
fn is_open(program: &Path) -> bool {
    let others = |path: &Path| path.metadata().is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    !rustix::process::geteuid().is_root() || program.ancestors().all(others)
}

/// The directory that all test processes of a user share; it is created if it is missing.
fn cache() -> PathBuf {
    let named = std::env::var_os("LADYLINUX_REFRESH_TEST_CACHE").map(PathBuf::from);
    let directory = named.unwrap_or_else(|| {
        let uid = rustix::process::geteuid().as_raw();
        std::env::temp_dir().join(format!("ladylinux-refresh-test-cache-{uid}"))
    });
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory).unwrap();
    let owner = Owner::of(&directory).unwrap().uid;
    assert_eq!(owner, Owner::own().uid, "{} is not ours", directory.display());
    directory
}

/// Returns the interpreter of the system, which starts fastest. If it is missing or cannot make environments, returns the
/// one behind `python3`: a wrapper that chooses a version, as that of pyenv, takes longer than most of the programs that
/// it starts.
pub fn interpreter() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let of_system = Path::new("/usr/bin/python3");
        let tried = Command::new(of_system).args(["-I", "-c", "import ensurepip, venv"]).output();
        if tried.is_ok_and(|tried| tried.status.success()) {
            return of_system.to_owned();
        }
        let mut command = Command::new("python3");
        let output = command.args(["-I", "-c", "import sys; print(sys.executable)"]).output().unwrap();
        assert!(output.status.success(), "python3 does not run: {output:?}");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
    })
}

/// Returns the settings of an installation without settings.
pub fn python() -> Python {
    Python {
        interpreter: interpreter().to_str().unwrap().to_owned(),
        import_check: ImportCheck::Off,
        deadline: Duration::from_secs(300),
        ..Python::default()
    }
}

/// The directory that all tests share, with uv in it, which the first test fetches.
pub fn pool() -> &'static Path {
    static POOL: OnceLock<PathBuf> = OnceLock::new();
    POOL.get_or_init(|| {
        let directory = cache();
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
            // Any request that needs uv fetches it.
            let interpreter = Interpreter::find(site).unwrap();
            let empty = Empty;
            let definitions = reading::read(&empty, &DefinitionFilter::of(&python, None)).unwrap();
            let environments = Environments::new(site);
            environments.lock(&environments.wanted(definitions, interpreter, None).unwrap()).unwrap();
        }
        directory
    })
}

/// A tree without any file.
struct Empty;

impl TreeSource for Empty {
    fn names_at_root(&self) -> refresh_system::error::Outcome<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    fn read(&self, _: &Path) -> refresh_system::error::Outcome<Option<Vec<u8>>> {
        Ok(None)
    }
    fn link(&self, _: &Path) -> refresh_system::error::Outcome<Option<PathBuf>> {
        Ok(None)
    }
}

/// The path of uv in an installation.
pub fn uv(layout: &Layout) -> PathBuf {
    layout.uv().join(bundled::uv_name()).join("uv")
}

/// Shares everything with an installation.
pub fn lend(layout: &Layout) {
    lend_uv(layout);
    symlink(pool().join("uv/cache"), layout.uv().join("cache")).unwrap();
}

/// Shares uv without its cache.
pub fn lend_uv(layout: &Layout) {
    let place = uv(layout);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    let program = pool().join("uv").join(bundled::uv_name()).join("uv");
    if fs::hard_link(&program, &place).is_err() {
        // Another file system.
        fs::copy(&program, &place).unwrap();
    }
}
