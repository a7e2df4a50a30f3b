//! The Python that environments are made with: found, asked who it is, and judged.
//!
//! It is asked for its *base* executable, so that a pyenv shim, or a virtual environment that the caller sits in,
//! does not end up in the generations.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::versions;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Owner, Program, Runner};
use crate::settings::{Python, environment};

/// The oldest version that works.
const OLDEST: &str = ">=3.9";

/// What the interpreter is asked; it answers one line of JSON.
const QUESTION: &str = "\
import importlib.util, json, os, sys, sysconfig
def there(name): return importlib.util.find_spec(name) is not None
pip = None
if there('venv') and there('ensurepip'):
    import ensurepip
    pip = ensurepip.version()
print(json.dumps({
    'path': os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable),
    'implementation': sys.implementation.name,
    'version': '.'.join(map(str, sys.version_info[:3])),
    'abi': sysconfig.get_config_var('SOABI') or '',
    'platform': sysconfig.get_platform(),
    'pip': pip,
}))
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
    /// The version of the pip that it brings for new environments.
    pub pip: String,
}

impl Interpreter {
    /// Finds the interpreter that the settings name and asks it who it is, as `owner`.
    ///
    /// # Errors
    /// There is none, `owner` cannot run it, it is older than 3.9, or it cannot make environments; each with what to
    /// install.
    pub fn find(runner: &Runner, python: &Python, owner: Owner) -> Outcome<Self> {
        let name = &python.interpreter;
        let for_root = rustix::process::geteuid().is_root();
        let found = environment::find_program(name, for_root).ok_or_else(|| {
            Failure::new(format!("there is no Python interpreter {name:?}"))
                .hint("apt install python3 python3-venv")
                .hint("or name another one: python.interpreter in the host's refresh.toml")
        })?;
        let finished = runner.run(&ask(found.clone(), owner)).map_err(|failure| {
            let cannot =
                format!("the Python interpreter {} cannot be run as uid {}", found.display(), owner.uid);
            Failure::new(cannot).because(failure).hint("name one that every user can run: python.interpreter")
        })?;
        let finished =
            finished.ok(|| format!("the Python interpreter {} does not answer", found.display()))?;
        parse_answer(&finished.stdout)
    }

    /// Checks that the interpreter is one that a project accepts.
    ///
    /// # Errors
    /// It is not, or the project's text is not understood.
    pub fn accept(&self, requires_python: Option<&str>) -> Outcome<()> {
        let Some(wanted) = requires_python else { return Ok(()) };
        if versions::satisfies(&self.version, wanted)
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

    /// Returns everything that tells this interpreter from another, as one text.
    pub fn identity(&self) -> String {
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

fn ask(found: PathBuf, owner: Owner) -> Program {
    Program::new(found).args(["-I", "-c", QUESTION]).owner(owner)
}

/// What comes back: as [`Interpreter`], but pip may be missing.
#[derive(Deserialize)]
struct Answer {
    path: PathBuf,
    implementation: String,
    version: String,
    abi: String,
    platform: String,
    pip: Option<String>,
}

fn parse_answer(bytes: &[u8]) -> Outcome<Interpreter> {
    let Answer { path, implementation, version, abi, platform, pip } = serde_json::from_slice(bytes)
        .context(|| "the Python interpreter answers something else".to_owned())?;
    if !versions::satisfies(&version, OLDEST)? {
        return Err(Failure::new(format!(
            "{} is Python {version}; 3.9 is the oldest that works",
            path.display()
        ))
        .hint("apt install python3 python3-venv")
        .hint("or name another one: python.interpreter in the host's refresh.toml"));
    }
    let Some(pip) = pip else {
        let short: Vec<&str> = version.split('.').take(2).collect();
        return Err(Failure::new(format!(
            "{} cannot make environments: its modules venv and ensurepip are not installed",
            path.display()
        ))
        .hint(format!("apt install python3-venv (or python{}-venv)", short.join("."))));
    };
    Ok(Interpreter { path, implementation, version, abi, platform, pip })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::event::Events;
    use crate::settings::pip_config::PipConfig;
    use crate::settings::{InstallerChoice, Strategy};

    fn answer(version: &str, pip: &str) -> Outcome<Interpreter> {
        parse_answer(
            format!(
                r#"{{"path":"/usr/bin/python3.11","implementation":"cpython","version":"{version}",
                "abi":"cpython-311-x86_64-linux-gnu","platform":"linux-x86_64","pip":{pip}}}"#
            )
            .as_bytes(),
        )
    }

    fn python(interpreter: &str) -> Python {
        Python {
            interpreter: interpreter.to_owned(),
            installer: InstallerChoice::Auto,
            strategy: Strategy::WhenChanged,
            definitions: Vec::new(),
            extras: Vec::new(),
            groups: Vec::new(),
            strict: false,
            index_url: None,
            pip: PipConfig::default(),
            allow_source: false,
            deadline: Duration::from_secs(60),
            imports: Vec::new(),
            import_check: crate::settings::ImportCheck::Off,
            command: Vec::new(),
        }
    }

    #[test]
    fn the_real_interpreter_is_asked_who_it_is() {
        let runner = Runner::new(Arc::new(Events::silent()));
        let found = Interpreter::find(&runner, &python("python3"), Owner::own()).unwrap();
        assert!(found.path.is_absolute() && !found.path.is_symlink());
        assert!(found.version.starts_with("3."));
        let missing = Interpreter::find(&runner, &python("python9.9"), Owner::own()).unwrap_err();
        assert!(missing.hints()[0].contains("apt install"));
    }

    #[test]
    fn an_old_interpreter_and_one_without_venv_are_refused_with_what_to_install() {
        assert!(answer("3.11.2", "\"23.0\"").is_ok());
        assert!(answer("3.8.18", "\"23.0\"").unwrap_err().summary().contains("3.9 is the oldest"));
        assert!(answer("3.11.2", "null").unwrap_err().hints()[0].contains("python3.11-venv"));
    }

    #[test]
    fn a_project_that_needs_another_python_is_refused() {
        let found = answer("3.11.2", "\"23.0\"").unwrap();
        assert!(found.accept(None).is_ok());
        assert!(found.accept(Some(">=3.10,<4")).is_ok());
        assert!(found.accept(Some(">=3.12")).unwrap_err().summary().contains("needs Python >=3.12"));
    }
}
