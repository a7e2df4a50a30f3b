//! The proof of a generation, before it is recorded as good: it runs, what it declares can be imported, it is compiled
//! and closed, and every file in it is explained by a wheel of the store or by the making of an environment.
//!
//! What is compared with is the wheel, which the service's user cannot write, and not the `RECORD` that the installer left
//! in the environment. Where a file of a wheel belongs, and which few files an installer changes or adds, the
//! specification of binary distributions says; the rest must be the same byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};

use super::digest::{self, Brought, OF_THE_INSTALLATION};
use super::generation::ENTRIES;
use super::installer::Job;
use super::interpreter::Interpreter;
use super::lock::hexadecimal;
use super::record::Package;
use super::requirements::normal_name;
use super::wheel_file::{Place, Program, WheelFile};
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::manifest::{Entry, Kind, Manifest, Scan};
use crate::process::interrupt;
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
    let brought = Proof::new(job.folder, job.interpreter, &mut wheels).check(&manifest)?;
    disk::sync_file_system(job.folder)?;
    let mut packages: Vec<Package> = wheels.iter().map(|wheel| wheel.package.clone()).collect();
    packages.sort();
    let digest = digest::of(&packages, &brought);
    Ok(Proved { packages, digest, manifest })
}

/// Opens a wheel of the store, whose folder is called by the wheel's digest.
fn open(path: &Path) -> Outcome<WheelFile> {
    let named = path.parent().and_then(Path::file_name).unwrap_or_default();
    let found = Scan::digests().of(path)?;
    let digest = found.entries().first().and_then(|entry| entry.digest.clone()).unwrap_or_default();
    if named != digest.as_str() {
        return Err(Failure::new(format!(
            "the wheel {} in the store was changed: its sha256 is {digest}",
            path.display()
        ))
        .hint(format!("remove it, and the next run fetches it again: rm {}", path.display())));
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

/// The source that cached byte code was made of: `a/__pycache__/b.cpython-312.opt-1.pyc` of `a/b.py`.
fn source_of(path: &Path) -> Option<PathBuf> {
    let cache =
        path.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "__pycache__"))?;
    let name = path.file_name()?.to_str()?.strip_suffix(".pyc")?;
    let (stem, tag) = name.rsplit_once('.')?;
    let stem = if tag.starts_with("opt-") { stem.rsplit_once('.')?.0 } else { stem };
    Some(cache.parent()?.join(format!("{stem}.py")))
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
    job.ask(&ask, "a module cannot be imported in the new environment").map(drop)
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

/// The folder of the packages, below an environment's own.
fn packages_folder(interpreter: &Interpreter) -> PathBuf {
    Path::new("lib").join(versioned(interpreter)).join("site-packages")
}

/// `python3.12`, as folders are called by an interpreter.
fn versioned(interpreter: &Interpreter) -> String {
    let kind = if interpreter.implementation == "pypy" { "pypy" } else { "python" };
    let version: Vec<&str> = interpreter.version.split('.').take(2).collect();
    format!("{kind}{}", version.join("."))
}

/// What the making of an environment leaves beside the packages, by either installer: files for people who work in it by
/// hand, and marks for other programs.
const OF_THE_MAKING: [&str; 15] = [
    ".gitignore",
    ".lock",
    "CACHEDIR.TAG",
    "pyvenv.cfg",
    "bin/activate",
    "bin/activate.bat",
    "bin/activate.csh",
    "bin/activate.fish",
    "bin/activate.nu",
    "bin/activate.ps1",
    "bin/Activate.ps1",
    "bin/activate.xsh",
    "bin/activate_this.py",
    "bin/deactivate.bat",
    "bin/pydoc.bat",
];

/// How large a script or a configuration may be that has to be read whole.
const TEXT_LIMIT: u64 = 16 << 20;

/// Why a file may be in the environment.
#[derive(Debug, Clone, Copy)]
enum Claim {
    /// It is this member of this wheel.
    Member(usize, usize),
    /// It is this member, a script, with its first line rewritten.
    Script(usize, usize),
    /// It is the program that an installer makes for this line of this wheel.
    Program(usize, usize),
}

/// A comparison of an environment with its wheels.
struct Proof<'a> {
    folder: &'a Path,
    interpreter: &'a Interpreter,
    packages: PathBuf,
    wheels: &'a mut [WheelFile],
    claims: BTreeMap<PathBuf, Vec<Claim>>,
}

impl<'a> Proof<'a> {
    fn new(folder: &'a Path, interpreter: &'a Interpreter, wheels: &'a mut [WheelFile]) -> Self {
        let packages = packages_folder(interpreter);
        let mut claims: BTreeMap<PathBuf, Vec<Claim>> = BTreeMap::new();
        for (at, wheel) in wheels.iter().enumerate() {
            for (index, member) in wheel.members.iter().enumerate() {
                let (path, claim) = match &member.place {
                    Place::Packages(path) => (packages.join(path), Claim::Member(at, index)),
                    Place::Programs(path) => (Path::new("bin").join(path), Claim::Script(at, index)),
                    Place::Data(path) => (path.clone(), Claim::Member(at, index)),
                    Place::Headers(path) => {
                        let folder = headers_folder(interpreter).join(&wheel.package.name);
                        (folder.join(path), Claim::Member(at, index))
                    }
                };
                claims.entry(path).or_default().push(claim);
            }
            for (index, program) in wheel.programs.iter().enumerate() {
                let path = Path::new("bin").join(&program.name);
                claims.entry(path).or_default().push(Claim::Program(at, index));
            }
        }
        Self { folder, interpreter, packages, wheels, claims }
    }

    /// Compares, and returns what the distributions bring.
    fn check(&mut self, manifest: &Manifest) -> Outcome<Vec<Brought>> {
        if manifest.len() > manifest.entries().len() as u64 || !manifest.unreadable().is_empty() {
            return Err(Failure::new("the new environment has more files than can be vouched for"));
        }
        let entries: BTreeMap<PathBuf, &Entry> =
            manifest.entries().iter().map(|entry| (self.usual(&entry.path), entry)).collect();
        let mut troubles = Vec::new();
        let mut brought = Vec::new();
        for (path, claims) in self.claims.clone() {
            if self.is_of_the_installer(&path) || source_of(&path).is_some() {
                continue;
            }
            interrupt::check()?;
            match entries.get(&path) {
                None => troubles.push(format!("{} of {} is missing", path.display(), self.whose(&claims))),
                Some(entry) if self.fits(entry, &claims)? => {
                    let sha256 = entry.digest.clone().unwrap_or_default();
                    brought.push(Brought { path: self.relative(&path), sha256 });
                }
                Some(_) => {
                    troubles.push(format!("{} is not what {} holds", path.display(), self.whose(&claims)))
                }
            }
        }
        for (path, entry) in &entries {
            if !self.claims.contains_key(path) && !self.is_explained(path, entry)? {
                troubles.push(format!("nothing explains {}", path.display()));
            }
        }
        if troubles.is_empty() {
            return Ok(brought);
        }
        let shown: Vec<String> = troubles.iter().take(3).cloned().collect();
        let rest = troubles.len() - shown.len();
        let more = if rest > 0 { format!(", and {rest} more") } else { String::new() };
        let why = Failure::new(format!("{}{more}", shown.join(", ")));
        Err(Failure::new("the new environment does not hold what its wheels hold").because(why))
    }

    /// A path with the one thing made even that installers spell differently: whose headers a folder holds.
    fn usual(&self, path: &Path) -> PathBuf {
        let headers = headers_folder(self.interpreter);
        let Ok(below) = path.strip_prefix(&headers) else { return path.to_path_buf() };
        let mut parts = below.components();
        let name = parts.next().map(|part| normal_name(&part.as_os_str().to_string_lossy()));
        let rest = parts.as_path();
        let folder = name.map_or(headers.clone(), |name| headers.join(name));
        if rest.as_os_str().is_empty() { folder } else { folder.join(rest) }
    }

    /// A path as `RECORD` would write it, relative to the packages.
    fn relative(&self, path: &Path) -> String {
        match path.strip_prefix(&self.packages) {
            Ok(path) => path.to_string_lossy().into_owned(),
            Err(_) => format!("../../../{}", path.to_string_lossy()),
        }
    }

    fn whose(&self, claims: &[Claim]) -> String {
        let names = claims.iter().map(|claim| match claim {
            Claim::Member(at, _) | Claim::Script(at, _) | Claim::Program(at, _) => {
                let package = &self.wheels[*at].package;
                format!("{} {}", package.name, package.version)
            }
        });
        let names: BTreeSet<String> = names.collect();
        names.into_iter().collect::<Vec<_>>().join(" and ")
    }

    /// Tells whether a file is what one of its claims says. Two distributions may bring the same path; one of them wins.
    fn fits(&mut self, entry: &Entry, claims: &[Claim]) -> Outcome<bool> {
        let Some(digest) = entry.digest.as_deref().filter(|_| entry.kind == Kind::File) else {
            return Ok(false);
        };
        for claim in claims {
            let fits = match *claim {
                Claim::Member(at, index) => self.is_member(digest, at, index)?,
                Claim::Script(at, index) => {
                    self.is_member(digest, at, index)? || self.is_script(entry, at, index)?
                }
                Claim::Program(at, index) => {
                    let program = self.wheels[at].programs[index].clone();
                    self.is_program(entry, &program)?
                }
            };
            if fits {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_member(&mut self, digest: &str, at: usize, index: usize) -> Outcome<bool> {
        let wheel = &mut self.wheels[at];
        let member = &wheel.members[index];
        if member.sha256.as_deref() == Some(digest) {
            return Ok(true);
        }
        // Some wheels have a RECORD that is wrong or not complete; what lies in them is the last word.
        let name = member.name.clone();
        Ok(wheel.digest(&name)? == digest)
    }

    fn is_script(&mut self, entry: &Entry, at: usize, index: usize) -> Outcome<bool> {
        let name = self.wheels[at].members[index].name.clone();
        let original = self.wheels[at].content(&name, TEXT_LIMIT)?;
        let installed = self.text(entry)?;
        let body = original.starts_with(b"#!python").then(|| after_first_line(&original));
        Ok(body.is_some() && self.after_interpreter(&installed) == body)
    }

    fn is_program(&self, entry: &Entry, program: &Program) -> Outcome<bool> {
        let installed = self.text(entry)?;
        let Some(body) = self.after_interpreter(&installed) else { return Ok(false) };
        let Program { module, call, .. } = program;
        let object = call.split('.').next().unwrap_or_default();
        let templates = [
            // As uv writes it.
            format!(
                "# -*- coding: utf-8 -*-\nimport sys\nfrom {module} import {object}\nif __name__ == \"__main__\":\n    \
                 if sys.argv[0].endswith(\"-script.pyw\"):\n        sys.argv[0] = sys.argv[0][:-11]\n    \
                 elif sys.argv[0].endswith(\".exe\"):\n        sys.argv[0] = sys.argv[0][:-4]\n    \
                 sys.exit({call}())\n"
            ),
            // As pip writes it.
            format!(
                "import sys\nfrom {module} import {object}\nif __name__ == '__main__':\n    \
                 sys.argv[0] = sys.argv[0].removesuffix('.exe')\n    sys.exit({call}())\n"
            ),
        ];
        Ok(templates.iter().any(|template| template.as_bytes() == body))
    }

    /// What follows the line that names the environment's own interpreter; `None` where another one is named. A path that is
    /// too long for the kernel, or has a blank in it, is written as a line for the shell that is also Python.
    fn after_interpreter<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let bin = self.folder.join("bin");
        let is_ours = |program: &str| {
            let program = Path::new(program);
            let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            program.parent() == Some(&bin)
                && (name == "python" || name == "python3" || name == versioned(self.interpreter))
        };
        let line = |text: &'t [u8]| std::str::from_utf8(text.split(|byte| *byte == b'\n').next()?).ok();
        let first = line(text)?;
        let rest = after_first_line(text);
        if first == "#!/bin/sh" {
            let program = line(rest)?.strip_prefix("'''exec' ")?.strip_suffix(" \"$0\" \"$@\"")?;
            let rest = after_first_line(rest);
            let is_whole = is_ours(program.trim_matches(['\'', '"'])) && line(rest)? == "' '''";
            return is_whole.then(|| after_first_line(rest));
        }
        is_ours(first.strip_prefix("#!")?).then_some(rest)
    }

    /// Tells whether a file that no wheel brings is there for another good reason.
    fn is_explained(&self, path: &Path, entry: &Entry) -> Outcome<bool> {
        Ok(match &entry.kind {
            Kind::Folder => true,
            Kind::Other => false,
            Kind::Link(target) => self.is_link_of_the_making(path, target),
            Kind::File if path == Path::new("pyvenv.cfg") => {
                let text = String::from_utf8_lossy(&self.text(entry)?).replace(' ', "");
                text.lines().any(|line| line == "include-system-site-packages=false")
            }
            Kind::File => {
                let is_known = OF_THE_MAKING.iter().any(|known| path == Path::new(known));
                let has_source = source_of(path).is_some_and(|source| self.claims.contains_key(&source));
                is_known
                    || has_source
                    || self.is_of_the_installer(path)
                    || self.is_versioned_pip(path, entry)?
            }
        })
    }

    /// `lib64`, and the interpreter under its names.
    fn is_link_of_the_making(&self, path: &Path, target: &Path) -> bool {
        if path == Path::new("lib64") {
            return target == Path::new("lib");
        }
        let is_in_bin = path.parent() == Some(Path::new("bin"));
        let real = |path: &Path| fs::canonicalize(path).ok();
        is_in_bin && real(&self.folder.join(path)).is_some_and(|it| Some(it) == real(&self.interpreter.path))
    }

    /// What an installer writes into the metadata of a distribution that a wheel brings.
    fn is_of_the_installer(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        OF_THE_INSTALLATION.contains(&name)
            && folder.parent() == Some(&self.packages)
            && self.claims.contains_key(&folder.join("METADATA"))
    }

    /// pip installs itself under one name more than its wheel says.
    fn is_versioned_pip(&self, path: &Path, entry: &Entry) -> Outcome<bool> {
        let version = versioned(self.interpreter).replace("python", "pip");
        let pip = self.wheels.iter().find(|wheel| wheel.package.name == "pip");
        let Some(program) = pip.and_then(|pip| pip.programs.first()) else { return Ok(false) };
        Ok(path == Path::new("bin").join(version) && self.is_program(entry, program)?)
    }

    /// Reads a small file of the environment, which still is the one of the manifest.
    fn text(&self, entry: &Entry) -> Outcome<Vec<u8>> {
        use std::io::Read as _;
        let path = self.folder.join(&entry.path);
        let told = || format!("cannot read {}", path.display());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::File::from(openat(CWD, &path, flags, Mode::empty()).context(told)?);
        let mut bytes = Vec::new();
        file.take(TEXT_LIMIT).read_to_end(&mut bytes).context(told)?;
        if Some(hexadecimal(&Sha256::digest(&bytes))) != entry.digest {
            return Err(Failure::new(format!("{} changes while it is looked at", path.display())));
        }
        Ok(bytes)
    }
}

fn headers_folder(interpreter: &Interpreter) -> PathBuf {
    Path::new("include/site").join(versioned(interpreter))
}

/// What follows the first line.
fn after_first_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    &text[end..]
}
