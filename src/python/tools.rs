//! The tool's own installers: pip and uv, each of one pinned version, fetched once and kept out of the owner's reach.
//!
//! pip comes first: the owner fetches its wheel with the pip that the interpreter brings, in an environment that is
//! thrown away. With that wheel everything else is fetched, uv too. What arrives is copied away from the owner and taken
//! over only when its digest is the pinned one.

use std::path::{Path, PathBuf};

use super::installer::Job;
use super::interpreter::Interpreter;
use super::{Site, pip, trouble, uv};
use crate::checkpoint;
use crate::clock;
use crate::disk::{self, Moved};
use crate::error::{Failure, Outcome};
use crate::manifest::Scan;
use crate::process::{Keep, Program};

/// What is not in its place yet bears this in front of its name.
const ASIDE: &str = ".new-";

/// How large a tool can be, in bytes.
const LARGEST: u64 = 512 << 20;

/// One of the tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Pip,
    Uv,
}

impl Tool {
    fn in_words(self) -> String {
        match self {
            Self::Pip => format!("pip {}", pip::VERSION),
            Self::Uv => format!("uv {}", uv::VERSION),
        }
    }

    /// The name below the folder of the tools.
    fn name(self) -> String {
        match self {
            Self::Pip => format!("pip-{}-py3-none-any.whl", pip::VERSION),
            Self::Uv => format!("uv-{}", uv::VERSION),
        }
    }

    /// What is asked for, by version and digest only.
    fn requirement(self) -> String {
        let hashes: Vec<&str> = match self {
            Self::Pip => vec![pip::PINNED],
            Self::Uv => uv::PINNED.iter().map(|(wheel, _)| *wheel).collect(),
        };
        let hashes: Vec<String> = hashes.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
        format!("{}{}\n", self.in_words().replace(' ', "=="), hashes.concat())
    }

    /// Tells whether something with this digest is the tool.
    fn is(self, digest: &str) -> bool {
        match self {
            Self::Pip => digest == pip::PINNED,
            Self::Uv => uv::PINNED.iter().any(|(_, program)| *program == digest),
        }
    }
}

/// Where pip's wheel is kept.
pub(super) fn pip_wheel(site: Site<'_>) -> PathBuf {
    site.layout.tools().join(Tool::Pip.name())
}

/// Tells whether pip's wheel is there and is the pinned one, every byte of it.
pub(super) fn has_pip(site: Site<'_>) -> Outcome<bool> {
    let wheel = pip_wheel(site);
    if !wheel.is_file() {
        return Ok(false);
    }
    let found = Scan::digests().of(&wheel)?;
    Ok(found.entries().first().and_then(|entry| entry.digest.as_deref()).is_some_and(|it| Tool::Pip.is(it)))
}

/// Where uv is kept.
pub(super) fn uv_program(site: Site<'_>) -> PathBuf {
    site.layout.tools().join(Tool::Uv.name()).join("uv")
}

/// Fetches pip's wheel.
pub(super) fn fetch_pip(site: Site<'_>, interpreter: &Interpreter) -> Outcome<()> {
    fetch(site, interpreter, Tool::Pip, |job| {
        pip::bootstrap(job)?;
        checkpoint::reach("python:pip venv made");
        let download = pip::bundled(job)
            .args(["download", "--require-hashes", "--only-binary", ":all:", "--no-deps"])
            .args(["--progress-bar", "off", "--dest"])
            .arg(job.scratch.join("fetched"));
        Ok((download, job.scratch.join("fetched").join(Tool::Pip.name())))
    })
}

/// Fetches uv with the pinned pip, which unpacks its wheel too.
pub(super) fn fetch_uv(site: Site<'_>, interpreter: &Interpreter, with: &pip::Pip) -> Outcome<()> {
    fetch(site, interpreter, Tool::Uv, |job| {
        let fetched = job.scratch.join("fetched");
        let install = with
            .program(job)
            .args(["install", "--require-hashes", "--only-binary", ":all:", "--no-deps", "--no-compile"])
            .args(["--progress-bar", "off", "--target"])
            .arg(&fetched);
        Ok((install, fetched.join("bin/uv")))
    })
}

/// Returns the tools that are there: what each is called, and the file that it is.
pub(super) fn present(site: Site<'_>) -> Vec<(String, PathBuf)> {
    let all = [(Tool::Pip, pip_wheel(site)), (Tool::Uv, uv_program(site))];
    all.into_iter().filter(|(_, file)| file.is_file()).map(|(tool, file)| (tool.name(), file)).collect()
}

/// Makes sure of the tool that is called so, out of a file where it is not there yet; tells whether there is such a tool.
pub(super) fn bring(site: Site<'_>, name: &str, file: &Path) -> Outcome<bool> {
    let Some(tool) = [Tool::Pip, Tool::Uv].into_iter().find(|tool| tool.name() == name) else {
        return Ok(false);
    };
    let there = match tool {
        Tool::Pip => has_pip(site)?,
        Tool::Uv => uv_program(site).is_file() && uv::works(site, &uv_program(site))?,
    };
    if there {
        return Ok(true);
    }
    disk::make_folder(&site.layout.tools(), 0o755)?;
    let aside = site.layout.tools().join(format!("{ASIDE}{name}"));
    let taken = take_over(site, tool, file, &aside);
    let tidied = disk::remove_tree(&aside);
    taken?;
    tidied.map(|()| true)
}

/// Lets the owner fetch a tool, and takes it over. `prepare` returns the program that fetches what a list names, and where
/// it then lies.
fn fetch(
    site: Site<'_>,
    interpreter: &Interpreter,
    tool: Tool,
    prepare: impl FnOnce(&Job<'_>) -> Outcome<(Program, PathBuf)>,
) -> Outcome<()> {
    let what = tool.in_words();
    site.runner.events().note(&format!("fetching {what} from the package index"));
    disk::make_folder(&site.layout.tools(), 0o755)?;
    site.owned_cache(&site.layout.cache().join("pip"))?;
    let scratch = site.layout.cache().join("bootstrap");
    let aside = site.layout.tools().join(format!("{ASIDE}{}", tool.name()));
    disk::remove_tree(&scratch)?;
    disk::make_folder(&scratch, 0o755)?;
    let made = (|| {
        let folder = scratch.join("venv");
        for folder in [&folder, &scratch.join("fetched")] {
            disk::make_owned_folder(folder, 0o755, &site.owner)?;
        }
        let list = scratch.join("tool.txt");
        disk::write_atomic(&list, tool.requirement().as_bytes(), 0o644)?;
        let until = clock::monotonic() + site.python.deadline;
        let job = Job { site, interpreter, folder: &folder, scratch: &scratch, until };
        let (program, arrived) = prepare(&job)?;
        let program = program.arg("--requirement").arg(&list).keep(Keep::Narrated("pip".to_owned()));
        let finished = site.runner.run(&program)?;
        checkpoint::reach("python:tool fetched");
        if !finished.succeeded() {
            return Err(trouble::explain(&finished, &format!("cannot fetch {what}")));
        }
        take_over(site, tool, &arrived, &aside)
    })();
    let tidied = disk::remove_tree(&scratch).and_then(|()| disk::remove_tree(&aside));
    made?;
    tidied
}

/// Copies the tool out of the owner's reach, proves it, and puts it into its place at once.
fn take_over(site: Site<'_>, tool: Tool, arrived: &Path, aside: &Path) -> Outcome<()> {
    disk::remove_tree(aside)?;
    let (copy, mode) = match tool {
        Tool::Pip => (aside.to_path_buf(), 0o644),
        Tool::Uv => (aside.join("uv"), 0o755),
    };
    if tool == Tool::Uv {
        // Closed until the program is proved.
        disk::make_folder(aside, 0o700)?;
    }
    let content = disk::take_copy(arrived, &copy, mode, LARGEST)?;
    if !tool.is(&content.sha256) {
        let what = format!("the {tool:?} that was fetched is not the pinned one").to_lowercase();
        return Err(Failure::new(format!("{what} (sha256 {})", content.sha256)));
    }
    if tool == Tool::Uv {
        disk::set_mode(aside, 0o755)?;
        if !uv::works(site, &copy)? {
            return Err(Failure::new("the uv that was fetched does not run on this machine")
                .hint("use pip: python.installer = \"pip\" in the host's refresh.toml"));
        }
    }
    disk::sync_file_system(aside)?;
    checkpoint::reach("python:tool proved");
    let place = site.layout.tools().join(tool.name());
    disk::remove_tree(&place)?;
    if disk::move_new(aside, &place)? == Moved::OtherFileSystem {
        return Err(Failure::new(format!("{} lies on two file systems", site.layout.tools().display())));
    }
    disk::sync_parent(&place)
}

/// Removes what a killed process left of a tool.
pub(super) fn sweep(site: Site<'_>) -> Outcome<()> {
    for name in super::record::entries(&site.layout.tools())? {
        if name.starts_with('.') {
            disk::remove_tree(&site.layout.tools().join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_asked_for_by_version_and_digest_only() {
        for (tool, hashes) in [(Tool::Pip, 1), (Tool::Uv, uv::PINNED.len())] {
            let text = tool.requirement();
            assert!(
                text.contains(&format!("{} --hash=sha256:", tool.in_words().replace(' ', "=="))),
                "{text}"
            );
            assert_eq!((text.matches("--hash=").count(), text.lines().count()), (hashes, 1));
        }
        assert!(Tool::Pip.is(pip::PINNED) && Tool::Uv.is(uv::PINNED[0].1));
        assert!(!Tool::Uv.is(uv::PINNED[0].0), "the wheel is not the program");
    }
}
