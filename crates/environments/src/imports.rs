//! The operation that tries imports in a new environment. It runs code of the packages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_programs::process::Program;
use refresh_programs::units::Role;
use refresh_system::error::Outcome;

use super::{Site, uv_operation};

/// The operation.
pub(super) const OPERATION: &str = "python-try-imports";

/// Imports modules one after the other and names the first that fails. For a program, it imports the module that the
/// program starts. Optional modules are skipped if the environment lacks them: they may be the application's own.
const IMPORT: &str = "\
import importlib, importlib.util, json, sys
asked = json.loads(sys.argv[1])
modules = list(asked['modules'])
if asked['program']:
    import importlib.metadata
    for entry in importlib.metadata.distributions():
        for point in entry.entry_points:
            if point.group == 'console_scripts' and point.name == asked['program']:
                modules.append(point.value.split(':')[0].split('[')[0].strip())
for name in asked['where_there']:
    if importlib.util.find_spec(name.split('.')[0]) is not None:
        modules.append(name)
for name in modules:
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f'{name}: {type(error).__name__}: {error}')
";

/// Tries imports in an environment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TryImportsRequest {
    /// The environment.
    directory: PathBuf,
    imports: Imports,
    deadline: std::time::Duration,
}

/// The modules to import.
#[derive(Debug, Serialize, Deserialize)]
struct Imports {
    /// Required modules.
    modules: Vec<String>,
    /// A program of the environment that a package installs, whose module is required.
    program: Option<String>,
    /// Modules that are tried if the environment has them.
    where_there: Vec<String>,
}

impl Imports {
    /// Takes the modules that the host declares, and those behind the words of the service's command.
    fn of(modules: &[String], command: &[String]) -> Self {
        let program = command.first().and_then(|program| program.strip_prefix("{venv}/bin/"));
        // No package installs the interpreter.
        let program = program.filter(|name| !is_interpreter(name));
        let is_module = |module: &str| {
            !module.is_empty()
                && module.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'))
        };
        let objects = command.iter().skip(1).filter_map(|word| word.split_once(':'));
        Self {
            modules: modules.to_vec(),
            program: program.map(str::to_owned),
            where_there: objects
                .map(|(module, _)| module)
                .filter(|it| is_module(it))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// Returns whether a program of an environment is its interpreter: `python`, `python3`, `python3.12`.
fn is_interpreter(name: &str) -> bool {
    let version = name.strip_prefix("python");
    version.is_some_and(|version| version.chars().all(|letter| letter.is_ascii_digit() || letter == '.'))
}

impl Site<'_> {
    /// Tries the imports that the host declares, and those that the service's own command needs.
    ///
    /// # Errors
    /// A module cannot be imported.
    pub(super) fn try_imports(&self, directory: PathBuf) -> Outcome<()> {
        let imports = Imports::of(&self.python.imports, &self.python.command);
        if imports.modules.is_empty() && imports.program.is_none() && imports.where_there.is_empty() {
            return Ok(());
        }
        let deadline = self.python.deadline;
        let request = TryImportsRequest { directory, imports, deadline };
        self.units.call_as(&self.unit_options(Role::Rehearse).narrated("uv"), self.owner, OPERATION, &request)
    }
}

/// Performs the operation.
pub(super) fn handle(request: &TryImportsRequest) -> Outcome<()> {
    let asked = serde_json::to_string(&request.imports).unwrap_or_default();
    // The imports must leave no files behind.
    let program = Program::new(request.directory.join("bin/python"))
        .args(["-I", "-B", "-c", IMPORT])
        .arg(asked)
        .deadline(request.deadline);
    let finished = uv_operation::runner().run(&program)?;
    finished.ok(|| "a module cannot be imported in the environment".to_owned()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_behind_the_words_of_a_command_are_found() {
        let command = ["{venv}/bin/uvicorn", "api_layer:app", "--host", "0.0.0.0:1", "x:"].map(str::to_owned);
        let imports = Imports::of(&["six".to_owned()], &command);
        assert_eq!(imports.program.as_deref(), Some("uvicorn"));
        assert_eq!(imports.where_there, ["api_layer", "0.0.0.0", "x"]);
        for other in ["/usr/bin/env", "{venv}/bin/python", "{venv}/bin/python3.12"] {
            assert_eq!(Imports::of(&[], &[other.to_owned()]).program, None, "{other}");
        }
        let tool = Imports::of(&[], &["{venv}/bin/pythonic".to_owned()]);
        assert_eq!(tool.program.as_deref(), Some("pythonic"));
    }
}
