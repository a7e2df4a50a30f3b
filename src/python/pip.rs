//! venv and pip, as the interpreter brings them.

use std::path::{Path, PathBuf};

use super::installer::Job;
use super::interpreter::Interpreter;
use super::network;
use crate::process::Program;

/// venv and pip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pip {
    version: String,
}

impl Pip {
    pub(super) fn of(interpreter: &Interpreter) -> Self {
        Self { version: interpreter.pip.clone() }
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn make(&self, job: &Job<'_>) -> [Program; 2] {
        make(job, job.folder)
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn install(&self, job: &Job<'_>, requirements: &[PathBuf]) -> Program {
        let program = pip(job, &job.python()).args(["install", "--compile", "--progress-bar", "off"]);
        requirements.iter().fold(program, |program, file| program.arg("--requirement").arg(file))
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn check(&self, job: &Job<'_>) -> Program {
        pip(job, &job.python()).arg("check")
    }
}

/// The programs that make an environment with pip in it. venv could do both, but keeps what went wrong to itself.
pub(super) fn make(job: &Job<'_>, folder: &Path) -> [Program; 2] {
    [
        job.program(&job.interpreter.path).args(["-I", "-m", "venv", "--without-pip"]).arg(folder),
        job.program(&folder.join("bin/python")).args(["-I", "-m", "ensurepip", "--upgrade", "--default-pip"]),
    ]
}

/// pip of the environment that `python` belongs to.
pub(super) fn pip(job: &Job<'_>, python: &Path) -> Program {
    let cache = job.site.layout.cache().join("pip");
    let program = job
        .program(python)
        .args(["-I", "-m", "pip", "--no-input", "--disable-pip-version-check", "--no-color"])
        .env("HOME", &cache)
        .env("PIP_CACHE_DIR", &cache);
    network::for_pip(job.site.python)
        .into_iter()
        .fold(program, |program, (name, value)| program.env(name, value))
}
