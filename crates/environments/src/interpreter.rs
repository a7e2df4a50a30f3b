//! The Python that environments are made with: it is found, queried and checked.
//!
//! The query returns its *base* executable. A pyenv shim or an active virtual environment of the caller thus does not
//! reach the environments.

use std::path::{Path, PathBuf};

use pep440_rs::{Version, VersionSpecifier};
use serde::{Deserialize, Serialize};

use refresh_programs::process::Program;
use refresh_programs::units::Role;
use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::{Site, uv_operation};

/// The oldest supported version.
const OLDEST: &str = ">=3.9";

/// The query to the interpreter. It prints lines, the path last: a path can contain line breaks.
const QUESTION: &str = "\
import os, sys, sysconfig
print(sys.implementation.name)
print('.'.join(map(str, sys.version_info[:3])))
print(sysconfig.get_config_var('SOABI') or '')
print(sysconfig.get_platform())
sys.stdout.flush()
path = os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable)
sys.stdout.buffer.write(os.fsencode(path))
";

/// A Python interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// The real executable, no link and no shim.
    pub path: PathBuf,
    /// `cpython`, `pypy` …
    pub implementation: String,
    /// The full version, for instance `3.12.1`.
    pub version: String,
    /// The ABI that its compiled modules follow.
    pub abi: String,
    /// The platform, for instance `linux-x86_64`.
    pub platform: String,
}

/// The operation that queries an interpreter.
pub(crate) const OPERATION: &str = "python-find-interpreter";

impl Interpreter {
    /// Finds the interpreter that the settings name and queries it, as the owner of the environments.
    ///
    /// # Errors
    /// The interpreter does not exist, the owner cannot run it, or it is older than 3.9. Each error names the packages
    /// to install.
    pub fn find(site: Site<'_>) -> Outcome<Self> {
        let program = program(&site.python.interpreter)?;
        site.units.call_as(&site.unit_options(Role::Build), site.owner, OPERATION, &program)
    }

    /// Checks that the interpreter is one that a project accepts.
    ///
    /// # Errors
    /// The project does not accept it, or the text of the project is not understood.
    pub fn accept(&self, requires_python: Option<&str>) -> Outcome<()> {
        let Some(wanted) = requires_python else { return Ok(()) };
        if satisfies(&self.version, wanted)
            .context(|| format!("requires-python {wanted:?} of pyproject.toml is not understood"))?
        {
            return Ok(());
        }
        let failure = Failure::new(format!(
            "the application needs Python {wanted}, and {} is {}",
            self.path.display(),
            self.version
        ));
        Err(failure.hint("install that version and name it: python.interpreter in the host's refresh.toml"))
    }

    /// Returns everything that distinguishes this interpreter from others, as one text.
    pub(crate) fn identity(&self) -> String {
        format!(
            "{} {} {} {} {}",
            self.implementation,
            self.version,
            self.abi,
            self.platform,
            self.path.display()
        )
    }
}

/// Finds the interpreter by its name.
///
/// # Errors
/// It does not exist.
pub(super) fn program(name: &str) -> Outcome<PathBuf> {
    let for_root = rustix::process::geteuid().is_root();
    environment::find_program(name, for_root).ok_or_else(|| {
        Failure::new(format!("the Python interpreter {name:?} does not exist"))
            .command("apt install python3", &[])
            .hint("or name another one: python.interpreter in the host's refresh.toml")
    })
}

/// Queries the interpreter at `path`, which may be a link or a shim.
pub(super) fn handle(path: &Path) -> Outcome<Interpreter> {
    let shown = path.display();
    // The query needs no packages: without them (`-S`) the interpreter starts in half the time.
    let program = Program::new(path).args(["-I", "-S", "-c", QUESTION]);
    let finished = uv_operation::runner().run(&program).map_err(|failure| {
        let uid = rustix::process::geteuid().as_raw();
        let cannot = format!("the Python interpreter {shown} cannot be run as uid {uid}");
        Failure::new(cannot).because(failure).hint("name one that every user can run: python.interpreter")
    })?;
    let finished = finished.ok(|| format!("the Python interpreter {shown} does not answer"))?;
    parse_answer(&finished.stdout)
}

/// Returns whether a version such as `3.12.1` satisfies every part of a list such as `>=3.10,<4,!=3.11.*` (PEP 440).
///
/// # Errors
/// The version or a part of the list is not PEP 440.
pub(super) fn satisfies(version: &str, list: &str) -> Outcome<bool> {
    let version: Version = version.parse().context(|| format!("{version:?} is not a version"))?;
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let part: VersionSpecifier = part.parse().context(|| format!("{part:?} is not understood"))?;
        if !part.contains(&version) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse_answer(bytes: &[u8]) -> Outcome<Interpreter> {
    let unexpected = || Failure::new("the Python interpreter gives an unexpected answer");
    let text = std::str::from_utf8(bytes).map_err(|_| unexpected())?;
    let lines: Vec<&str> = text.splitn(5, '\n').collect();
    let [implementation, version, abi, platform, path] = lines[..] else { return Err(unexpected()) };
    if !path.starts_with('/') {
        return Err(unexpected());
    }
    let [implementation, version, abi, platform] =
        [implementation, version, abi, platform].map(str::to_owned);
    let found = Interpreter { path: path.into(), implementation, version, abi, platform };
    if !satisfies(&found.version, OLDEST)? {
        return Err(Failure::new(format!(
            "{} is Python {}; 3.9 is the oldest that works",
            found.path.display(),
            found.version
        ))
        .command("apt install python3", &[])
        .hint("or name another one: python.interpreter in the host's refresh.toml"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str) -> Outcome<Interpreter> {
        let lines =
            ["cpython", version, "cpython-311-x86_64-linux-gnu", "linux-x86_64", "/usr/bin/python3.11"];
        parse_answer(lines.join("\n").as_bytes())
    }

    #[test]
    fn an_answer_that_is_none_is_refused_and_a_path_with_a_line_break_is_read() {
        for bad in ["", "cpython\n3.11.2\n\nlinux-x86_64\n", "cpython\n3.11.2\n\nlinux-x86_64\npython3"] {
            assert!(
                parse_answer(bad.as_bytes()).unwrap_err().summary().contains("unexpected answer"),
                "{bad:?}"
            );
        }
        let found = parse_answer(b"cpython\n3.11.2\n\nlinux-x86_64\n/opt/a\nb/python3").unwrap();
        assert_eq!((found.path.to_str(), &*found.abi), (Some("/opt/a\nb/python3"), ""));
    }

    #[test]
    fn the_real_interpreter_is_found_and_reports_its_version() {
        let found = handle(&program("python3").unwrap()).unwrap();
        assert!(found.path.is_absolute() && !found.path.is_symlink());
        assert!(found.version.starts_with("3."));
        assert!(program("python9.9").unwrap_err().hint_texts()[0].contains("apt install"));
    }

    #[test]
    fn an_old_interpreter_is_refused_with_what_to_install() {
        assert!(answer("3.11.2").is_ok());
        assert!(answer("3.8.18").unwrap_err().summary().contains("3.9 is the oldest"));
    }

    #[test]
    fn a_project_that_needs_another_python_is_refused() {
        let found = answer("3.11.2").unwrap();
        assert!(found.accept(None).is_ok());
        assert!(found.accept(Some(">=3.10,<4")).is_ok());
        assert!(found.accept(Some(">=3.12")).unwrap_err().summary().contains("needs Python >=3.12"));
    }

    #[test]
    fn lists_of_versions_have_the_same_meaning_as_in_pip() {
        for (list, expected) in [
            (">=3.10", true),
            (">=3.10,<4", true),
            (">=3.9rc1,<4.0.dev0", true),
            (">3.11.2", false),
            ("<3.11", false),
            ("~=3.9", true),
            ("~=3.11.1", true),
            ("~=3.10.1", false),
            ("==3.11.*", true),
            ("!=3.11.*", false),
            ("==3.11.2", true),
            ("==3.11", false),
            (" >= 3.9 , != 3.9.1 ", true),
            (">=3.9,", true),
            ("", true),
        ] {
            assert_eq!(satisfies("3.11.2", list).unwrap(), expected, "{list}");
        }
        for wrong in ["3.9", "python", ">=3.x", ">=3.*", "~=3"] {
            assert!(satisfies("3.11.2", wrong).is_err(), "{wrong}");
        }
        assert!(satisfies("3.13.0b1", ">=3.9").unwrap());
    }
}
