//! The installer: who makes an environment and fills it. uv where it can be had, else venv and pip.
//!
//! An installer runs as the owner of the tree, in a folder that holds checked definitions only, with a cleared
//! environment; no configuration file of the application or of the owner reaches it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Site;
use super::interpreter::Interpreter;
use super::pip::Pip;
use super::trouble::{self, Trouble};
use super::uv::Uv;
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::process::{Ended, Keep, Program};
use crate::settings::InstallerChoice;

/// The folder in the scratch folder of a build that holds links to the wheels.
pub(super) const WHEELS: &str = "wheels";

/// An installer that is there and works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installer {
    /// uv, of the pinned version, in the tool's own folder.
    Uv(Uv),
    /// venv and pip, as the interpreter brings them.
    Pip(Pip),
}

impl Installer {
    /// Makes sure of the installer that the settings ask for. uv is fetched when it is not there yet; when it is, no
    /// network is used. `auto` falls back to pip, with a warning.
    ///
    /// # Errors
    /// uv is asked for and cannot be had, or the run is interrupted.
    pub fn ensure(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Self> {
        match site.python.installer {
            InstallerChoice::Pip => Pip::ensure(site, interpreter).map(Self::Pip),
            InstallerChoice::Uv => Uv::ensure(site, interpreter).map(Self::Uv),
            InstallerChoice::Auto => match Uv::ensure(site, interpreter) {
                Ok(uv) => Ok(Self::Uv(uv)),
                Err(failure) if failure.interrupted_by().is_some() => Err(failure),
                Err(failure) => {
                    let why = failure.chain().join(": ");
                    site.runner.events().warn(&format!("uv cannot be had, pip is used instead: {why}"));
                    Pip::ensure(site, interpreter).map(Self::Pip)
                }
            },
        }
    }

    /// Returns the installer that [`Self::ensure`] would return without fetching anything; `None` where it would
    /// have to fetch. Only reads.
    ///
    /// # Errors
    /// The run is interrupted.
    pub fn present(site: Site<'_>, interpreter: &Interpreter) -> Outcome<Option<Self>> {
        match site.python.installer {
            InstallerChoice::Pip => Ok(Pip::present(site, interpreter)?.map(Self::Pip)),
            InstallerChoice::Uv | InstallerChoice::Auto => Ok(Uv::present(site)?.map(Self::Uv)),
        }
    }

    /// Returns kind and version, for records and people.
    pub fn identity(&self) -> String {
        match self {
            Self::Uv(uv) => format!("uv {}", uv.version()),
            Self::Pip(pip) => format!("pip {}", pip.version()),
        }
    }

    /// Makes the environment in its empty folder.
    pub(super) fn make(&self, job: &Job<'_>) -> Outcome<()> {
        let program = match self {
            Self::Uv(uv) => uv.make(job),
            Self::Pip(pip) => pip.make(job),
        };
        job.run(program, "cannot make the environment")
    }

    /// Resolves a definition and returns it in the form of PEP 751.
    pub(super) fn resolve(
        &self,
        job: &Job<'_>,
        requirements: &[PathBuf],
        cutoff: Option<jiff::Timestamp>,
    ) -> Result<Resolution, Unresolved> {
        let caches = job.site.layout.cache();
        let (program, cache) = match self {
            Self::Uv(uv) => (uv.resolve(job, requirements, cutoff), caches.join("uv")),
            Self::Pip(pip) => (pip.resolve(job, requirements, cutoff), caches.join("pip")),
        };
        job.site.owned_cache(&cache)?;
        let mut finished = job.site.runner.run(&program)?;
        // Files are called as in the application's tree, not as in the scratch folder.
        let said = String::from_utf8_lossy(&finished.stderr);
        let said = said.replace(&format!("{}/", job.scratch.display()), "");
        finished.stderr = said.clone().into_bytes();
        if finished.succeeded() {
            return Ok(Resolution { document: finished.text(), yanked: trouble::parse_yanked(&said) });
        }
        // What is told of it is short; all of it is in the log of the run.
        let source = if matches!(self, Self::Uv(_)) { "uv" } else { "pip" };
        said.lines().for_each(|line| job.site.runner.events().output(source, line));
        Err(Unresolved {
            trouble: matches!(finished.ended, Ended::Exited(_)).then(|| trouble::parse_trouble(&said)),
            because_of_upload_times: said.contains("does not provide upload-time metadata"),
            failure: trouble::explain(&finished, "cannot resolve the definition"),
        })
    }

    /// Installs the wheels that are laid out in the scratch folder.
    pub(super) fn install(&self, job: &Job<'_>, requirements: &[PathBuf]) -> Outcome<()> {
        if requirements.is_empty() {
            return Ok(());
        }
        let program = match self {
            Self::Uv(uv) => uv.install(job, requirements),
            Self::Pip(pip) => pip.install(job, requirements),
        };
        job.run(program, "cannot install the packages")
    }

    /// Checks that what is installed fits together.
    pub(super) fn check(&self, job: &Job<'_>) -> Outcome<()> {
        let program = match self {
            Self::Uv(uv) => uv.check(job),
            Self::Pip(pip) => pip.check(job),
        };
        job.run(program, "the installed packages do not fit together")
    }
}

/// What a definition resolves to.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    /// The document.
    pub(super) document: String,
    /// Releases in it that their authors have withdrawn.
    pub(super) yanked: Vec<String>,
}

/// Why a definition does not resolve.
#[derive(Debug)]
pub(super) struct Unresolved {
    /// What the installer complains of; `None` where it is not that which ended it.
    pub(super) trouble: Option<Trouble>,
    /// Whether the index tells too little for a cutoff.
    pub(super) because_of_upload_times: bool,
    /// The whole.
    pub(super) failure: Failure,
}

impl From<Failure> for Unresolved {
    fn from(failure: Failure) -> Self {
        Self { trouble: None, because_of_upload_times: false, failure }
    }
}

/// One environment being made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) site: Site<'a>,
    pub(super) interpreter: &'a Interpreter,
    /// The folder of the generation.
    pub(super) folder: &'a Path,
    /// The folder that holds the definitions; the installer's working directory.
    pub(super) scratch: &'a Path,
    /// When all has to be done.
    pub(super) until: Instant,
}

impl Job<'_> {
    /// The environment's own interpreter.
    pub(super) fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// Prepares a program of the owner, within what is left of the deadline.
    pub(super) fn program(&self, path: &Path) -> Program {
        Program::new(path).folder(self.scratch).owner(self.site.owner).deadline(self.left())
    }

    /// Runs an installer's program, tells its output, and explains its failure.
    fn run(&self, program: Program, summary: &str) -> Outcome<()> {
        let name = program.name();
        let source = if name.starts_with("python") { "pip".to_owned() } else { name };
        let finished = self.site.runner.run(&program.keep(Keep::Narrated(source)))?;
        if finished.succeeded() { Ok(()) } else { Err(trouble::explain(&finished, summary)) }
    }

    /// Runs a program of the owner and returns what it wrote.
    pub(super) fn ask(&self, program: &Program, summary: &str) -> Outcome<String> {
        let finished = self.site.runner.run(program)?;
        finished.ok(|| summary.to_owned()).map(|finished| finished.text())
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(clock::monotonic())
    }

    /// Gives up when the deadline has passed.
    pub(super) fn in_time(&self) -> Outcome<()> {
        if self.left().is_zero() {
            let limit = self.site.python.deadline;
            return Err(Failure::new(format!("the environment was not built within {limit:?}"))
                .hint("give it longer: python.deadline in the host's refresh.toml"));
        }
        Ok(())
    }
}
