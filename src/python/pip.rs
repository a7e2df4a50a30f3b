//! pip, pinned and fetched by the tool itself, and venv, as the interpreter brings it.
//!
//! The pip that comes with the interpreter differs from host to host, and would lie in every environment. So a wheel of
//! one version is kept among the tool's own programs and run from there; the interpreter's own pip fetches it.

use std::path::{Path, PathBuf};

use super::installer::{Job, WHEELS};
use super::interpreter::Interpreter;
use super::{Site, network, trouble};
use crate::checkpoint;
use crate::clock;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::manifest::Scan;
use crate::process::{Keep, Program};

/// The version that is used; the newest that runs on the oldest Python.
const VERSION: &str = "26.0.1";

/// The digest of its wheel, as the index publishes it.
const PINNED: &str = "bdb1b08f4274833d62c1aa29e20907365a2ceb950410df15fc9521bad440122b";

/// pip of the pinned version, and venv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pip {
    wheel: PathBuf,
    python: PathBuf,
}

impl Pip {
    /// Returns pip, fetched first where it is not there.
    pub(super) fn ensure(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Self> {
        if let Some(pip) = Self::present(site, interpreter) {
            return Ok(pip);
        }
        disk::make_folder(&site.layout.tools(), 0o755)?;
        disk::make_folder(&site.layout.cache(), 0o755)?;
        let scratch = site.layout.cache().join("bootstrap");
        let aside = site.layout.tools().join(format!(".{}.new", file()));
        let made = fetch(site, interpreter, &scratch)
            .and_then(|()| take_over(site, &scratch.join("fetched").join(file()), &aside));
        let tidied = disk::remove_tree(&scratch).and_then(|()| disk::remove_tree(&aside));
        made?;
        tidied?;
        Ok(Self { wheel: place(site), python: interpreter.path.clone() })
    }

    /// Returns what pip is called in a bundle, and its place.
    pub(super) fn file(site: Site<'_>) -> (String, PathBuf) {
        (file(), place(site))
    }

    /// Makes sure of pip, out of a file where it is not there.
    pub(super) fn take(site: Site<'_>, from: &Path) -> Outcome<()> {
        if place(site).is_file() {
            return Ok(());
        }
        disk::make_folder(&site.layout.tools(), 0o755)?;
        let aside = site.layout.tools().join(format!(".{}.new", file()));
        let taken = take_over(site, from, &aside);
        let tidied = disk::remove_tree(&aside);
        taken?;
        tidied
    }

    /// Returns pip where it is there; only what was proved is ever put there.
    pub(super) fn present(site: Site<'_>, interpreter: &Interpreter) -> Option<Self> {
        let wheel = place(site);
        wheel.is_file().then(|| Self { wheel, python: interpreter.path.clone() })
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn version(&self) -> &'static str {
        VERSION
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn make(&self, job: &Job<'_>) -> Program {
        make(job)
    }

    pub(super) fn resolve(
        &self,
        job: &Job<'_>,
        requirements: &[PathBuf],
        cutoff: Option<jiff::Timestamp>,
    ) -> Program {
        let program = self.program(job).args(["lock", "--quiet", "--only-binary", ":all:", "--output", "-"]);
        let program = match cutoff {
            Some(cutoff) => program.arg("--uploaded-prior-to").arg(cutoff.to_string()),
            None => program,
        };
        requirements.iter().fold(program, |program, file| program.arg("--requirement").arg(file))
    }

    pub(super) fn install(&self, job: &Job<'_>, requirements: &[PathBuf]) -> Program {
        let program = self
            .within(job)
            .args(["install", "--no-index", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
            .args(["--no-cache-dir", "--compile", "--progress-bar", "off", "--find-links"])
            .arg(job.scratch.join(WHEELS));
        requirements.iter().fold(program, |program, file| program.arg("--requirement").arg(file))
    }

    pub(super) fn check(&self, job: &Job<'_>) -> Program {
        self.within(job).arg("check")
    }

    /// pip, run by the interpreter, outside of any environment.
    pub(super) fn program(&self, job: &Job<'_>) -> Program {
        set_up(job, job.program(&self.python).arg("-I").arg(self.wheel.join("pip")))
    }

    /// pip, working on the job's environment.
    fn within(&self, job: &Job<'_>) -> Program {
        self.program(job).arg("--python").arg(job.python())
    }
}

/// The program that makes an environment without pip in it.
fn make(job: &Job<'_>) -> Program {
    job.program(&job.interpreter.path).args(["-I", "-m", "venv", "--without-pip"]).arg(job.folder)
}

/// Makes an environment with the pip that the interpreter brings. venv could do both, but keeps what went wrong to
/// itself.
pub(super) fn bootstrap(job: &Job<'_>) -> Outcome<()> {
    let told = "cannot make an environment to fetch the installer with";
    job.ask(&make(job), told)?;
    let ensure = job.program(&job.python()).args(["-I", "-m", "ensurepip", "--upgrade", "--default-pip"]);
    job.ask(&ensure, told).map(drop)
}

/// The pip that the interpreter brings, in the environment of [`bootstrap`].
pub(super) fn bundled(job: &Job<'_>) -> Program {
    set_up(job, job.program(&job.python()).args(["-I", "-m", "pip"]))
}

fn set_up(job: &Job<'_>, program: Program) -> Program {
    let cache = job.site.layout.cache().join("pip");
    let program = program
        .args(["--no-input", "--disable-pip-version-check", "--no-color"])
        .env("HOME", &cache)
        .env("PIP_CACHE_DIR", &cache);
    network::for_pip(job.site.python)
        .into_iter()
        .fold(program, |program, (name, value)| program.env(name, value))
}

fn file() -> String {
    format!("pip-{VERSION}-py3-none-any.whl")
}

fn place(site: Site<'_>) -> PathBuf {
    site.layout.tools().join(file())
}

/// Fetches the wheel, as the owner, with the pip that the interpreter brings.
fn fetch(site: Site<'_>, interpreter: &Interpreter, scratch: &Path) -> Outcome<()> {
    site.runner.events().note(&format!("fetching pip {VERSION} from the package index"));
    site.owned_cache(&site.layout.cache().join("pip"))?;
    disk::remove_tree(scratch)?;
    disk::make_folder(scratch, 0o755)?;
    let folder = scratch.join("venv");
    for folder in [&folder, &scratch.join("fetched")] {
        disk::make_owned_folder(folder, 0o755, &site.owner)?;
    }
    let wish = scratch.join("pip.txt");
    disk::write_atomic(&wish, format!("pip=={VERSION} --hash=sha256:{PINNED}\n").as_bytes(), 0o644)?;
    let until = clock::monotonic() + site.python.deadline;
    let job = Job { site, interpreter, folder: &folder, scratch, until };
    bootstrap(&job)?;
    let download = bundled(&job)
        .args(["download", "--require-hashes", "--only-binary", ":all:", "--no-deps"])
        .args(["--progress-bar", "off", "--dest"])
        .arg(scratch.join("fetched"))
        .arg("--requirement")
        .arg(&wish)
        .keep(Keep::Narrated("pip".to_owned()));
    let finished = site.runner.run(&download)?;
    checkpoint::reach("python:pip fetched");
    if finished.succeeded() { Ok(()) } else { Err(trouble::explain(&finished, "cannot fetch pip")) }
}

/// Copies the wheel out of the owner's reach, proves it, and puts it into its place at once.
fn take_over(site: Site<'_>, from: &Path, aside: &Path) -> Outcome<()> {
    disk::remove_tree(aside)?;
    disk::copy_new(from, aside)?;
    let found = Scan::digests().of(aside)?;
    let digest = found.entries().first().and_then(|entry| entry.digest.as_deref()).unwrap_or_default();
    if digest != PINNED {
        return Err(Failure::new(format!(
            "the pip that was fetched is not the pinned one (sha256 {digest})"
        )));
    }
    disk::set_mode(aside, 0o644)?;
    disk::sync_file_system(aside)?;
    disk::move_over(aside, &place(site))
}
