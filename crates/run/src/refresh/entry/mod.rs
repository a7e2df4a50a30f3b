//! Checks the application's entry module before the service is stopped: it is in the commit and it compiles
//! (`python.import_check`).
//!
//! The content comes from the mirror and goes to the environment's interpreter through an operation; root parses
//! nothing of it.

mod compile;
mod find;

pub(crate) use compile::{CompileRequest, CompileResponse};
pub use compile::{OPERATION, handle};

use std::path::{Path, PathBuf};
use std::time::Duration;

use find::{Entry, Located, Tree, entry_of, entry_of_interpreter, locate};

use refresh_environments::RecordedEnvironment;
use refresh_installation::installation::{Installation, Release};
use refresh_programs::units::{Role, UnitOptions};
use refresh_service::ServiceProgram;
use refresh_settings::names::CommitId;
use refresh_settings::{Hook, HookKind, ImportCheck, Origin};
use refresh_system::error::{Context as _, Failure, Outcome};

/// The time limit of an import.
const IMPORT_DEADLINE: Duration = Duration::from_secs(300);

/// Imports a module from further directories.
const IMPORT: &str = "\
import importlib, sys
sys.path[:0] = sys.argv[2:]
importlib.import_module(sys.argv[1])
";

/// Checks that the commit contains the entry module of the service, and that the module compiles with the environment's
/// interpreter.
///
/// # Errors
/// It is missing or does not compile; or the mirror cannot be read, or the interpreter cannot be started.
pub(crate) fn check(on: &Installation, release: &Release, environment: &RecordedEnvironment) -> Outcome<()> {
    if release.settings.python.import_check == ImportCheck::Off {
        return Ok(());
    }
    let Some(program) = on.service.program()? else { return Ok(()) };
    let Some(entry) = entry_of(&program) else { return Ok(()) };
    let entries = on.mirror.files(&release.commit)?;
    let tree = Tree::of(&entries);
    let is_installed = |name: &str| is_installed(&environment.path, name);
    let commit = release.commit.short();
    let context = || format!("commit {commit} cannot be started");
    match locate(&entry, &on.layout.app(), &tree, is_installed) {
        Located::Elsewhere => Ok(()),
        Located::Missing(searched) => Err(missing(&program, &entry, &searched)).context(context),
        Located::Source(path) => {
            let Some(source) = on.mirror.read(&release.commit, &path)? else { return Ok(()) };
            let options = UnitOptions::new(Role::Build, compile::DEADLINE);
            let request = CompileRequest {
                python: environment.path.join("bin/python"),
                name: path.display().to_string(),
                source,
            };
            let answer: CompileResponse = on.units.call(&options, OPERATION, &request)?;
            let Some(problem) = answer.problem else { return Ok(()) };
            Err(Failure::new(format!("{} does not compile: {problem}", path.display()))
                .command_for("push a commit in which it compiles, then", "ladylinux-refresh run", &[])
                .hint(format!(
                    "or leave this check out with `import_check = \"off\"` under [python] in {}",
                    on.layout.host_file().display()
                )))
            .context(context)
        }
    }
}

/// Returns the staged check that imports the entry module, if the host requests it.
///
/// # Errors
/// The manager of the service cannot be queried.
pub(crate) fn import_hook(on: &Installation, release: &Release, tree: &Path) -> Outcome<Option<Hook>> {
    if release.settings.python.import_check != ImportCheck::Import {
        return Ok(None);
    }
    let Some(program) = on.service.program()? else { return Ok(None) };
    let Some((name, bases)) = entry_of(&program).and_then(Entry::into_module) else { return Ok(None) };
    let app = on.layout.app();
    let bases = bases.iter().map(|base| match base.strip_prefix(&app) {
        Ok(below) => tree.join(below).display().to_string(),
        Err(_) => base.display().to_string(),
    });
    let words = ["python", "-B", "-c", IMPORT, name.as_str()].map(str::to_owned);
    Ok(Some(Hook {
        name: format!("import of {name}"),
        kind: HookKind::Check,
        command: words.into_iter().chain(bases).collect(),
        deadline: IMPORT_DEADLINE,
        stage: true,
        origin: Origin::Host,
    }))
}

/// A script or module of the application that a hook starts, and that a commit does not contain.
pub(super) struct MissingScript {
    /// The name in the command of the hook.
    pub name: String,
    /// The entries of the tree that could be it, or contain it.
    pub places: Vec<PathBuf>,
    /// Whether the commit has the package of the module: a module without one may be a part of Python.
    pub is_of_commit: bool,
}

/// Returns the script or module that the interpreter in the command of a hook starts, if the commit does not contain it.
///
/// # Errors
/// The mirror cannot be read.
pub(super) fn missing_script(
    on: &Installation,
    commit: &CommitId,
    environment: &RecordedEnvironment,
    command: &[String],
) -> Outcome<Option<MissingScript>> {
    let program = ServiceProgram {
        path: command.first().map(PathBuf::from).unwrap_or_default(),
        words: command.to_vec(),
        directory: on.layout.app(),
        python_path: Vec::new(),
        change: String::new(),
    };
    let Some(entry) = entry_of_interpreter(&program) else { return Ok(None) };
    let entries = on.mirror.files(commit)?;
    let tree = Tree::of(&entries);
    let Located::Missing(searched) =
        locate(&entry, &on.layout.app(), &tree, |name| is_installed(&environment.path, name))
    else {
        return Ok(None);
    };
    Ok(match entry {
        Entry::File { .. } => searched.into_iter().next().map(|path| MissingScript {
            name: path.display().to_string(),
            places: vec![path],
            is_of_commit: true,
        }),
        Entry::Module { name, .. } => {
            let first = name.split('.').next().unwrap_or_default();
            let package = PathBuf::from(first);
            // Python prefers an installed package to a directory that is no package.
            if !tree.has_module(&package) && is_installed(&environment.path, first) {
                return Ok(None);
            }
            let is_of_commit = tree.has_any(&package);
            let module: PathBuf = name.split('.').collect();
            let places = vec![module.with_extension("py"), module];
            Some(MissingScript { name: format!("the module {name}"), places, is_of_commit })
        }
    })
}

fn missing(program: &ServiceProgram, entry: &Entry, searched: &[PathBuf]) -> Failure {
    let what = match entry {
        Entry::Module { name, .. } => format!("the module {name}"),
        Entry::File { path } => path.display().to_string(),
    };
    let searched: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
    Failure::new(format!(
        "the service starts from {what}, which the commit does not contain (searched: {})",
        searched.join(", ")
    ))
    .hint(program.change.clone())
    .command_for("or push a commit that brings it, then", "ladylinux-refresh run", &[])
}

/// Returns whether an environment, or the standard library of its interpreter, has a module or package of that name.
fn is_installed(environment: &Path, name: &str) -> bool {
    let python = environment.join("bin/python").canonicalize().unwrap_or_default();
    let prefix = python.parent().and_then(Path::parent);
    let versions = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    versions.into_iter().any(|version| {
        let entries = std::fs::read_dir(version.path().join("site-packages")).into_iter().flatten().flatten();
        let mut files = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let standard =
            ["lib", "lib64"].iter().filter_map(|lib| Some(prefix?.join(lib).join(version.file_name())));
        files.any(|file| file == name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
            || standard
                .map(|library| library.join(name))
                .any(|stem| stem.with_extension("py").is_file() || stem.join("__init__.py").is_file())
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make the files")]
mod tests {
    use super::*;

    #[test]
    fn modules_of_the_environment_and_of_the_standard_library_are_installed() {
        let place = tempfile::tempdir().unwrap();
        let (environment, python) = (place.path().join("e"), place.path().join("p"));
        for file in
            ["e/lib/python3.12/site-packages/web.py", "p/lib/python3.12/json/__init__.py", "p/bin/python3"]
        {
            let file = place.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        std::fs::create_dir_all(environment.join("bin")).unwrap();
        std::os::unix::fs::symlink(python.join("bin/python3"), environment.join("bin/python")).unwrap();
        for (name, expected) in [("web", true), ("json", true), ("http", false), ("js", false)] {
            assert_eq!(is_installed(&environment, name), expected, "{name}");
        }
    }
}
