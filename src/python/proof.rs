//! The proof of a generation, before it is recorded as good: it runs, what it declares can be imported, it is compiled
//! and closed, and every file in it is explained by a wheel of the store or by the making of an environment.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::digest;
use super::explain::{Explanation, packages_folder, source_of};
use super::generation::ENTRIES;
use super::installer::Job;
use super::record::Package;
use super::wheel_file::WheelFile;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::manifest::{Kind, Manifest, Scan};
use crate::report::shell::quoted_path;
use crate::settings::environment::find_program;

/// What a proof has shown.
#[derive(Debug)]
pub(super) struct Proved {
    /// The distributions, sorted by name.
    pub(super) packages: Vec<Package>,
    /// The digest of what is installed.
    pub(super) digest: String,
    /// Every file of the environment.
    pub(super) manifest: Manifest,
}

/// Proves the environment in the job's folder, which holds these wheels of the store and nothing else.
///
/// # Errors
/// A wheel is not what its place in the store says, the environment does not run, or a file in it is not explained.
pub(super) fn prove(job: &Job<'_>, wheels: &[PathBuf]) -> Outcome<Proved> {
    let mut wheels = wheels.iter().map(|path| open(path)).collect::<Outcome<Vec<_>>>()?;
    compile(job)?;
    try_out(job)?;
    import(job, &wheels)?;
    close(job)?;
    let manifest = Scan::digests().at_most(ENTRIES).of(job.folder)?;
    let brought = Explanation::new(job.folder, job.interpreter, &mut wheels).check(&manifest)?;
    disk::sync_file_system(job.folder)?;
    let mut packages: Vec<Package> = wheels.iter().map(|wheel| wheel.package.clone()).collect();
    packages.sort();
    let digest = digest::of(&packages, &brought);
    Ok(Proved { packages, digest, manifest })
}

/// Tries the imports in an environment that was proved before, with these wheels of the store.
///
/// # Errors
/// A wheel is not what its place in the store says, or a module cannot be imported.
pub(super) fn try_imports(job: &Job<'_>, wheels: &[PathBuf]) -> Outcome<()> {
    let wheels = wheels.iter().map(|path| open(path)).collect::<Outcome<Vec<_>>>()?;
    import(job, &wheels)
}

/// Opens a wheel of the store, whose folder is called by the wheel's digest.
fn open(path: &Path) -> Outcome<WheelFile> {
    let named = path.parent().and_then(Path::file_name).unwrap_or_default();
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Err(Failure::new(format!("the wheel {} is missing in the store", path.display()))
            .hint("the next run fetches it again: ladylinux-refresh run"));
    }
    let found = Scan::digests().of(path)?;
    let digest = found.entries().first().and_then(|entry| entry.digest.clone()).unwrap_or_default();
    if named != digest.as_str() {
        return Err(Failure::new(format!(
            "the wheel {} in the store was changed: its sha256 is {digest}",
            path.display()
        ))
        .hint(format!("remove it, and the next run fetches it again: rm {}", quoted_path(path))));
    }
    WheelFile::open(path)
}

/// Makes the byte code that the installer has not made. What does not compile has none; nothing imports it.
fn compile(job: &Job<'_>) -> Outcome<()> {
    let packages = job.folder.join(packages_folder(job.interpreter));
    let installed = Scan::metadata().at_most(ENTRIES).of(&packages)?;
    let sources = uncompiled(&installed);
    let lines: Vec<String> =
        sources.iter().filter_map(|path| Some(format!("{}\n", packages.join(path).to_str()?))).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let list = job.scratch.join("uncompiled.txt");
    disk::write_atomic(&list, lines.concat().as_bytes(), 0o644)?;
    let program = job.program(&job.python()).args(["-I", "-m", "compileall", "-qq", "-i"]).arg(&list);
    // It fails where only one of the sources does not compile.
    job.site.runner.run(&program).map(drop)
}

/// The sources without byte code.
fn uncompiled(manifest: &Manifest) -> Vec<&Path> {
    let files = || manifest.entries().iter().filter(|entry| entry.kind == Kind::File);
    let compiled: BTreeSet<PathBuf> = files().filter_map(|entry| source_of(&entry.path)).collect();
    files()
        .map(|entry| entry.path.as_path())
        .filter(|path| path.extension().is_some_and(|end| end == "py") && !compiled.contains(*path))
        .collect()
}

/// Lets the environment's own interpreter say where it lives.
fn try_out(job: &Job<'_>) -> Outcome<()> {
    let ask = job.program(&job.python()).args(["-I", "-c", "import sys; print(sys.prefix)"]);
    let said = job.ask(&ask, "the new environment's interpreter does not run")?;
    let told = || "cannot look at the new environment".to_owned();
    if fs::canonicalize(said.trim_end_matches('\n')).context(told)?
        == fs::canonicalize(job.folder).context(told)?
    {
        return Ok(());
    }
    Err(Failure::new(format!("the new environment's interpreter takes {} for its home", said.trim())))
}

/// Imports modules one after the other and names the first that cannot be.
const IMPORT: &str = "\
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f'{name}: {type(error).__name__}: {error}')
";

/// Tries the imports that the host declares, and those that the service's own command needs.
fn import(job: &Job<'_>, wheels: &[WheelFile]) -> Outcome<()> {
    let mut modules = job.site.python.imports.clone();
    modules.extend(modules_of_command(&job.site.python.command, wheels));
    if modules.is_empty() {
        return Ok(());
    }
    // What is imported must leave nothing behind.
    let ask = job.program(&job.python()).args(["-I", "-B", "-c", IMPORT]).args(&modules);
    job.ask(&ask, "a module cannot be imported in the environment").map(drop)
}

/// The modules behind the words of a command: that of the program, where a wheel brings it, and that of every
/// `module:object` which a wheel brings. The application's own modules lie in its tree and are not tried here.
fn modules_of_command(command: &[String], wheels: &[WheelFile]) -> Vec<String> {
    let mut modules = Vec::new();
    if let Some(name) = command.first().and_then(|program| program.strip_prefix("{venv}/bin/")) {
        let programs = wheels.iter().flat_map(|wheel| &wheel.programs);
        modules.extend(programs.filter(|program| program.name == name).map(|program| program.module.clone()));
    }
    let is_brought = |module: &str| {
        let top = module.split('.').next().unwrap_or_default();
        let members = wheels.iter().flat_map(|wheel| &wheel.members);
        members
            .filter_map(|member| member.name.split('/').next())
            .any(|first| first.strip_prefix(top).is_some_and(|rest| rest.is_empty() || matches!(rest, ".py")))
    };
    let objects = command.iter().skip(1).filter_map(|word| word.split_once(':'));
    let is_module = |module: &str| {
        !module.is_empty()
            && module.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '.'))
    };
    modules.extend(
        objects
            .map(|(module, _)| module)
            .filter(|module| is_module(module) && is_brought(module))
            .map(str::to_owned),
    );
    modules
}

/// Takes all rights to write away, as the owner: a generation does not change once it is good.
fn close(job: &Job<'_>) -> Outcome<()> {
    let chmod = find_program("chmod", true)
        .ok_or_else(|| Failure::new("there is no chmod").hint("apt install coreutils"))?;
    let program = job.program(&chmod).args(["-R", "a-w", "--"]).arg(job.folder);
    job.ask(&program, "cannot make the new environment read-only").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_code_is_made_where_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["a.py", "b.py", "__pycache__/a.cpython-312.pyc", "c/__init__.py", "data.txt"];
        for file in files {
            let path = folder.path().join(file);
            disk::make_folder(path.parent().unwrap(), 0o755).unwrap();
            disk::write_passing(&path, b"", 0o644).unwrap();
        }
        let manifest = Scan::metadata().of(folder.path()).unwrap();
        assert_eq!(uncompiled(&manifest), [Path::new("b.py"), Path::new("c/__init__.py")]);
    }
}
