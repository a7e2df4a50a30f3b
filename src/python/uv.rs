//! uv, pinned and fetched by the tool itself; a uv of the host is never used.
//!
//! It comes as a wheel from the package index, and is fetched and proved as all tools are ([`super::tools`]).

use std::path::{Path, PathBuf};

use super::installer::{Job, WHEELS};
use super::interpreter::Interpreter;
use super::pip::Pip;
use super::{Site, network, tools};
use crate::error::Outcome;
use crate::process::Program;

/// The version that is used.
pub(super) const VERSION: &str = "0.13.9";

/// Digests of the wheels of that version, as the index publishes them, and of the program in each.
pub(super) const PINNED: [(&str, &str); 4] = [
    // manylinux x86_64
    (
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
        "b73acdf73b96c3ac9e56d2fa933427b3ee6a901e3cce6ba1e3ecb3f91ca0d86a",
    ),
    // musllinux x86_64
    (
        "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
        "edbfb9a3d00dc84148e6691cd8740781fdc32db6505d7ef88ba6c3e569d5bec9",
    ),
    // manylinux 2.17 and musllinux aarch64
    (
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
        "bbecb5ac518030bb5e84f1999c577228460192832ac24a92bd772735682979f4",
    ),
    // manylinux 2.28 aarch64
    (
        "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
        "6109e47a75f2380d1cc90b00a6ee82b7b5792ddf66588625ec168545ae17512e",
    ),
];

/// uv of the pinned version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uv {
    program: PathBuf,
}

impl Uv {
    /// Returns uv, fetched first where it is not there.
    pub(super) fn ensure(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Self> {
        if let Some(uv) = Self::present(site)? {
            return Ok(uv);
        }
        let pip = Pip::ensure(site, interpreter)?;
        tools::fetch_uv(site, interpreter, &pip)?;
        Ok(Self { program: tools::uv_program(site) })
    }

    /// Returns uv where it is there and runs.
    pub(super) fn present(site: Site<'_>) -> Outcome<Option<Self>> {
        let program = tools::uv_program(site);
        Ok((program.is_file() && works(site, &program)?).then_some(Self { program }))
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn version(&self) -> &'static str {
        VERSION
    }

    pub(super) fn make(&self, job: &Job<'_>) -> Program {
        self.program(job)
            .args(["venv", "--no-project", "--no-python-downloads", "--python"])
            .arg(&job.interpreter.path)
            .arg(job.folder)
    }

    pub(super) fn resolve(
        &self,
        job: &Job<'_>,
        requirements: &[PathBuf],
        cutoff: Option<jiff::Timestamp>,
    ) -> Program {
        // What it says becomes law, and the owner could have put pages of an index into a cache.
        let program = self
            .program(job)
            .args(["--no-cache", "pip", "compile", "--format", "pylock.toml", "--no-header", "--no-annotate"])
            .arg("--python")
            .arg(&job.interpreter.path);
        let program =
            if job.site.python.allow_source { program } else { program.args(["--only-binary", ":all:"]) };
        let program = match cutoff {
            Some(cutoff) => program.arg("--exclude-newer").arg(cutoff.to_string()),
            None => program,
        };
        requirements.iter().fold(program, Program::arg)
    }

    pub(super) fn install(&self, job: &Job<'_>, requirements: &[PathBuf]) -> Program {
        let program = self
            .program(job)
            .args(["--no-cache", "pip", "install", "--no-index", "--no-deps", "--require-hashes"])
            .args(["--only-binary", ":all:", "--link-mode", "copy", "--compile-bytecode", "--find-links"])
            .arg(job.scratch.join(WHEELS))
            .arg("--python")
            .arg(job.python());
        requirements.iter().fold(program, |program, file| program.arg("--requirements").arg(file))
    }

    pub(super) fn check(&self, job: &Job<'_>) -> Program {
        self.program(job).args(["pip", "check", "--python"]).arg(job.python())
    }

    /// uv, with what it is told of the network and nothing else.
    pub(super) fn program(&self, job: &Job<'_>) -> Program {
        let cache = job.site.layout.cache().join("uv");
        let program = job
            .program(&self.program)
            .args(["--no-config", "--system-certs", "--no-progress", "--color", "never"])
            .env("HOME", &cache)
            .env("UV_CACHE_DIR", &cache);
        network::for_uv(job.site.python)
            .into_iter()
            .fold(program, |program, (name, value)| program.env(name, value))
    }
}

/// Tells whether a program is uv of the pinned version, and runs here.
pub(super) fn works(site: Site<'_>, program: &Path) -> Outcome<bool> {
    let asked = Program::new(program).arg("--version").owner(site.owner);
    match site.runner.run(&asked) {
        Ok(finished) => Ok(finished.succeeded() && parse_version(&finished.text()) == Some(VERSION)),
        Err(failure) if failure.interrupted_by().is_some() => Err(failure),
        Err(_) => Ok(false),
    }
}

fn parse_version(text: &str) -> Option<&str> {
    text.strip_prefix("uv ")?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_uv_says() {
        assert_eq!(parse_version("uv 0.13.9 (x86_64-unknown-linux-gnu)\n"), Some("0.13.9"));
        assert_eq!(parse_version("something else"), None);
    }
}
