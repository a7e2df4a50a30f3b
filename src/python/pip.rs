//! pip, pinned and fetched by the tool itself, and venv, as the interpreter brings it.
//!
//! The pip that comes with the interpreter differs from host to host, and would lie in every environment. So a wheel of
//! one version is kept among the tool's own programs and run from there; the interpreter's own pip fetches it.

use std::path::{Path, PathBuf};

use super::installer::{Job, WHEELS};
use super::interpreter::Interpreter;
use super::{Site, network, tools};
use crate::disk;
use crate::error::Outcome;
use crate::process::Program;

/// The version that is used; the newest that runs on the oldest Python.
pub(super) const VERSION: &str = "26.0.1";

/// The digest of its wheel, as the index publishes it.
pub(super) const PINNED: &str = "bdb1b08f4274833d62c1aa29e20907365a2ceb950410df15fc9521bad440122b";

/// pip of the pinned version, and venv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pip {
    wheel: PathBuf,
    python: PathBuf,
}

impl Pip {
    /// Returns pip, fetched first where it is not there or damaged.
    pub(super) fn ensure(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Self> {
        if let Some(pip) = Self::present(site, interpreter)? {
            return Ok(pip);
        }
        let wheel = tools::pip_wheel(site);
        if wheel.symlink_metadata().is_ok() {
            let told = format!("{} is damaged; it is fetched again", wheel.display());
            site.runner.events().warn(&told);
            disk::remove_tree(&wheel)?;
        }
        tools::fetch_pip(site, interpreter)?;
        Ok(Self { wheel: tools::pip_wheel(site), python: interpreter.path.clone() })
    }

    /// Returns pip where it is there and is what was proved when it was put there.
    pub(super) fn present(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Option<Self>> {
        let pip = || Self { wheel: tools::pip_wheel(site), python: interpreter.path.clone() };
        Ok(tools::has_pip(site)?.then(pip))
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
        let program = self.without_cache(job).args(["lock", "--quiet", "--output", "-"]);
        let program =
            if job.site.python.allow_source { program } else { program.args(["--only-binary", ":all:"]) };
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

    /// The program that fetches the wheels of a list into a folder. It may use a cache: whatever comes is proved by the
    /// digests that the lock names.
    pub(super) fn download(&self, job: &Job<'_>, into: &Path, list: &Path) -> Program {
        self.program(job)
            .args(["download", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
            .args(["--progress-bar", "off", "--dest"])
            .arg(into)
            .arg("--requirement")
            .arg(list)
    }

    /// The program that builds the wheels of a list from source, into a folder.
    pub(super) fn build(&self, job: &Job<'_>, into: &Path, list: &Path) -> Program {
        self.without_cache(job)
            .args(["wheel", "--no-deps", "--require-hashes", "--progress-bar", "off", "--wheel-dir"])
            .arg(into)
            .arg("--requirement")
            .arg(list)
    }

    pub(super) fn check(&self, job: &Job<'_>) -> Program {
        self.within(job).arg("check")
    }

    /// The interpreter, with a script that is told where pip's modules are.
    pub(super) fn script(&self, job: &Job<'_>, script: &str) -> Program {
        job.program(&self.python).args(["-I", "-c", script]).arg(&self.wheel)
    }

    /// pip, run by the interpreter, outside of any environment.
    pub(super) fn program(&self, job: &Job<'_>) -> Program {
        set_up(job, job.program(&self.python).arg("-I").arg(self.wheel.join("pip")))
    }

    /// pip that believes no cache: what it says becomes law, and whoever has the owner's rights could have put pages of
    /// an index or built wheels into a cache. The variable holds for the pip that fetches what a build needs, too.
    fn without_cache(&self, job: &Job<'_>) -> Program {
        self.program(job).env("PIP_NO_CACHE_DIR", "1")
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
