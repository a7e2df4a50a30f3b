//! uv, pinned and fetched by the tool itself; a uv of the host is never used.
//!
//! It comes as a wheel from the package index. The owner fetches it with venv and pip (root never runs an installer),
//! pip checks the wheel's digest, and the program is taken over only when its own digest is the pinned one too: what
//! the owner's process left there need not be trusted.

use std::path::{Path, PathBuf};

use super::installer::{Job, WHEELS};
use super::interpreter::Interpreter;
use super::{Site, network, pip, trouble};
use crate::checkpoint;
use crate::clock;
use crate::disk::{self, Moved};
use crate::error::{Failure, Outcome};
use crate::manifest::Scan;
use crate::process::{Keep, Program};

/// The version that is used.
const VERSION: &str = "0.13.9";

/// Digests of the wheels of that version, as the index publishes them, and of the program in each.
const PINNED: [(&str, &str); 4] = [
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
        disk::make_folder(&site.layout.tools(), 0o755)?;
        disk::make_folder(&site.layout.cache(), 0o755)?;
        let aside = site.layout.tools().join(format!(".uv-{VERSION}.new"));
        let scratch = site.layout.cache().join("bootstrap");
        let made = fetch(site, interpreter, &scratch)
            .and_then(|()| take_over(site, &scratch.join("venv/bin/uv"), &aside));
        let tidied = disk::remove_tree(&scratch).and_then(|()| disk::remove_tree(&aside));
        let uv = made?;
        tidied?;
        Ok(uv)
    }

    /// Returns what uv is called in a bundle, and its place.
    pub(super) fn file(site: Site<'_>) -> (String, PathBuf) {
        (format!("uv-{VERSION}"), place(site).join("uv"))
    }

    /// Makes sure of uv, out of a file where it is not there.
    pub(super) fn take(site: Site<'_>, from: &Path) -> Outcome<()> {
        if Self::present(site)?.is_some() {
            return Ok(());
        }
        disk::make_folder(&site.layout.tools(), 0o755)?;
        let aside = site.layout.tools().join(format!(".uv-{VERSION}.new"));
        let taken = take_over(site, from, &aside);
        let tidied = disk::remove_tree(&aside);
        taken?;
        tidied
    }

    /// Returns uv where it is there and runs.
    pub(super) fn present(site: Site<'_>) -> Outcome<Option<Self>> {
        let program = place(site).join("uv");
        Ok((program.is_file() && works(site, &program)?).then_some(Self { program }))
    }

    #[expect(clippy::unused_self, reason = "the same shape as the other installer")]
    pub(super) fn version(&self) -> &'static str {
        VERSION
    }

    pub(super) fn make(&self, job: &Job<'_>) -> Program {
        self.uv(job)
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
        let program = self
            .uv(job)
            .args(["pip", "compile", "--format", "pylock.toml", "--no-header", "--no-annotate"])
            .args(["--only-binary", ":all:", "--quiet", "--python"])
            .arg(&job.interpreter.path);
        let program = match cutoff {
            Some(cutoff) => program.arg("--exclude-newer").arg(cutoff.to_string()),
            None => program,
        };
        requirements.iter().fold(program, Program::arg)
    }

    pub(super) fn install(&self, job: &Job<'_>, requirements: &[PathBuf]) -> Program {
        let program = self
            .uv(job)
            .args(["--no-cache", "pip", "install", "--no-index", "--no-deps", "--require-hashes"])
            .args(["--only-binary", ":all:", "--link-mode", "copy", "--compile-bytecode", "--find-links"])
            .arg(job.scratch.join(WHEELS))
            .arg("--python")
            .arg(job.python());
        requirements.iter().fold(program, |program, file| program.arg("--requirements").arg(file))
    }

    pub(super) fn check(&self, job: &Job<'_>) -> Program {
        self.uv(job).args(["pip", "check", "--python"]).arg(job.python())
    }

    fn uv(&self, job: &Job<'_>) -> Program {
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

/// The folder of the pinned version; it is there only when the program in it is whole.
fn place(site: Site<'_>) -> PathBuf {
    site.layout.tools().join(format!("uv-{VERSION}"))
}

fn works(site: Site<'_>, program: &Path) -> Outcome<bool> {
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

/// Fetches the wheel and unpacks it into an environment of its own, as the owner.
fn fetch(site: Site<'_>, interpreter: &Interpreter, scratch: &Path) -> Outcome<()> {
    site.runner.events().note(&format!("fetching uv {VERSION} from the package index"));
    site.owned_cache(&site.layout.cache().join("pip"))?;
    disk::remove_tree(scratch)?;
    disk::make_folder(scratch, 0o755)?;
    let folder = scratch.join("venv");
    disk::make_owned_folder(&folder, 0o755, &site.owner)?;
    let wish = scratch.join("uv.txt");
    disk::write_atomic(&wish, pinned_requirement().as_bytes(), 0o644)?;
    let until = clock::monotonic() + site.python.deadline;
    let job = Job { site, interpreter, folder: &folder, scratch, until };
    pip::bootstrap(&job)?;
    checkpoint::reach("python:uv venv made");
    let install = pip::bundled(&job)
        .args(["install", "--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-compile"])
        .args(["--progress-bar", "off", "--requirement"])
        .arg(&wish)
        .keep(Keep::Narrated("pip".to_owned()));
    let finished = site.runner.run(&install)?;
    checkpoint::reach("python:uv fetched");
    if finished.succeeded() { Ok(()) } else { Err(trouble::explain(&finished, "cannot fetch uv")) }
}

fn pinned_requirement() -> String {
    let hashes: Vec<String> = PINNED.iter().map(|(wheel, _)| format!(" --hash=sha256:{wheel}")).collect();
    format!("uv=={VERSION}{}\n", hashes.concat())
}

/// Copies the program out of the owner's reach, proves it, and puts it into its place at once.
fn take_over(site: Site<'_>, from: &Path, aside: &Path) -> Outcome<Uv> {
    disk::remove_tree(aside)?;
    // Closed until the program is proved: a copy keeps the mode bits that the owner gave the original.
    disk::make_folder(aside, 0o700)?;
    let copy = aside.join("uv");
    disk::copy_new(from, &copy)?;
    let found = Scan::digests().of(&copy)?;
    let digest = found.entries().first().and_then(|entry| entry.digest.as_deref()).unwrap_or_default();
    if !PINNED.iter().any(|(_, program)| *program == digest) {
        return Err(Failure::new(format!("the uv that was fetched is not the pinned one (sha256 {digest})")));
    }
    disk::set_mode(&copy, 0o755)?;
    disk::set_mode(aside, 0o755)?;
    if !works(site, &copy)? {
        return Err(Failure::new("the uv that was fetched does not run on this machine")
            .hint("use pip: python.installer = \"pip\" in the host's refresh.toml"));
    }
    disk::sync_file_system(aside)?;
    checkpoint::reach("python:uv proved");
    let place = place(site);
    disk::remove_tree(&place)?;
    match disk::move_new(aside, &place)? {
        Moved::Done => {}
        Moved::OtherFileSystem => {
            return Err(Failure::new(format!("{} lies on two file systems", site.layout.tools().display())));
        }
    }
    disk::sync_parent(&place)?;
    Ok(Uv { program: place.join("uv") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_what_uv_says() {
        assert_eq!(parse_version("uv 0.13.9 (x86_64-unknown-linux-gnu)\n"), Some("0.13.9"));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_wheel_is_asked_for_by_version_and_digest_only() {
        let text = pinned_requirement();
        assert!(text.starts_with("uv==0.13.9 --hash=sha256:"));
        assert_eq!(text.matches("--hash=").count(), PINNED.len());
        assert_eq!(text.lines().count(), 1);
    }
}
