//! What every file of an environment is there for: a wheel brings it, or the making of an environment does.
//!
//! What is compared with is the wheel, which the service's user cannot write, and not the `RECORD` that the installer left
//! in the environment. Where a file of a wheel belongs, and which few files an installer changes or adds, the
//! specification of binary distributions says; the rest must be the same byte for byte. Only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};

use super::digest::{Brought, OF_THE_INSTALLATION};
use super::interpreter::Interpreter;
use super::requirements::normal_name;
use super::wheel_file::{Place, Program, WheelFile};
use crate::error::{Context as _, Failure, Outcome};
use crate::hexadecimal::hexadecimal;
use crate::manifest::{Entry, Kind, Manifest};
use crate::process::interrupt;

/// The folder of the packages, below an environment's own.
pub(super) fn packages_folder(interpreter: &Interpreter) -> PathBuf {
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
pub(super) struct Explanation<'a> {
    folder: &'a Path,
    interpreter: &'a Interpreter,
    packages: PathBuf,
    wheels: &'a mut [WheelFile],
    claims: BTreeMap<PathBuf, Vec<Claim>>,
}

impl<'a> Explanation<'a> {
    /// Notes what the wheels bring into the environment in `folder`.
    pub(super) fn new(folder: &'a Path, interpreter: &'a Interpreter, wheels: &'a mut [WheelFile]) -> Self {
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
    ///
    /// # Errors
    /// Something is missing, is not what its wheel holds, or is not explained.
    pub(super) fn check(&mut self, manifest: &Manifest) -> Outcome<Vec<Brought>> {
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
                    troubles.push(format!("{} is not what {} holds", path.display(), self.whose(&claims)));
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

/// Returns the source that cached byte code was made of: `a/__pycache__/b.cpython-312.opt-1.pyc` of `a/b.py`.
pub(super) fn source_of(path: &Path) -> Option<PathBuf> {
    let cache =
        path.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "__pycache__"))?;
    let name = path.file_name()?.to_str()?.strip_suffix(".pyc")?;
    let (stem, tag) = name.rsplit_once('.')?;
    let stem = if tag.starts_with("opt-") { stem.rsplit_once('.')?.0 } else { stem };
    Some(cache.parent()?.join(format!("{stem}.py")))
}

fn headers_folder(interpreter: &Interpreter) -> PathBuf {
    Path::new("include/site").join(versioned(interpreter))
}

/// What follows the first line.
fn after_first_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    &text[end..]
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests install by hand")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::wheel_file::tests::wheel;
    use super::*;
    use crate::manifest::Scan;

    const PACKAGES: &str = "lib/python3.12/site-packages";

    /// An environment that was installed by hand, with the wheel that it was installed from.
    struct World {
        folder: tempfile::TempDir,
        interpreter: Interpreter,
    }

    /// A wheel with a RECORD that names no digests: what lies in the wheel is the last word.
    const WHEEL: [(&str, &[u8]); 8] = [
        ("a-1.dist-info/RECORD", b"a/__init__.py,,\n"),
        ("a-1.dist-info/METADATA", b"Name: A\nVersion: 1\n"),
        ("a-1.dist-info/WHEEL", b"Wheel-Version: 1.0\n"),
        ("a-1.dist-info/entry_points.txt", b"[console_scripts]\na-program = a:main\n"),
        ("a/__init__.py", b"def main(): pass\n"),
        ("a-1.data/scripts/a-script", b"#!python\nprint()\n"),
        ("a-1.data/data/share/a.txt", b"data"),
        ("a-1.data/headers/a.h", b"header"),
    ];

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let python = folder.path().join("python3.12");
            fs::write(&python, "").unwrap();
            let interpreter = Interpreter {
                path: python.clone(),
                implementation: "cpython".into(),
                version: "3.12.1".into(),
                abi: String::new(),
                platform: String::new(),
                pip: String::new(),
            };
            let world = Self { folder, interpreter };
            world.put("pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n");
            world.put("bin/activate", "for people");
            world.put("bin/a-script", &world.script("#!{bin}/python\nprint()\n"));
            world.put(
                "bin/a-program",
                &world.script(
                    "#!{bin}/python\nimport sys\nfrom a import main\nif __name__ == '__main__':\n    \
                     sys.argv[0] = sys.argv[0].removesuffix('.exe')\n    sys.exit(main())\n",
                ),
            );
            world.put("share/a.txt", "data");
            world.put("include/site/python3.12/A/a.h", "header");
            for (name, content) in &WHEEL[1..5] {
                world.put(&format!("{PACKAGES}/{name}"), std::str::from_utf8(content).unwrap());
            }
            for name in ["RECORD", "INSTALLER", "REQUESTED"] {
                world.put(&format!("{PACKAGES}/a-1.dist-info/{name}"), "as installed");
            }
            world.put(&format!("{PACKAGES}/a/__pycache__/__init__.cpython-312.pyc"), "code");
            symlink(&python, world.environment().join("bin/python")).unwrap();
            symlink("lib", world.environment().join("lib64")).unwrap();
            fs::write(world.wheel(), wheel(&WHEEL)).unwrap();
            world
        }

        fn environment(&self) -> PathBuf {
            self.folder.path().join("environment")
        }

        fn wheel(&self) -> PathBuf {
            self.folder.path().join("a-1-py3-none-any.whl")
        }

        fn script(&self, text: &str) -> String {
            text.replace("{bin}", self.environment().join("bin").to_str().unwrap())
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.environment().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn check(&self) -> Result<Vec<Brought>, String> {
            let mut wheels = [WheelFile::open(&self.wheel()).unwrap()];
            let manifest = Scan::digests().of(&self.environment()).unwrap();
            Explanation::new(&self.environment(), &self.interpreter, &mut wheels)
                .check(&manifest)
                .map_err(|failure| failure.chain().join(": "))
        }
    }

    #[test]
    fn rw_5_3_what_a_wheel_brings_and_what_an_installer_adds_is_explained() {
        let brought = World::new().check().unwrap();
        let paths: Vec<&str> = brought.iter().map(|file| file.path.as_str()).collect();
        for path in ["a/__init__.py", "../../../share/a.txt", "../../../include/site/python3.12/a/a.h"] {
            assert!(paths.contains(&path), "{path} is missing in {paths:?}");
        }
        assert!(
            !paths.iter().any(|path| path.ends_with("RECORD") || path.ends_with("INSTALLER")),
            "{paths:?}"
        );
    }

    #[test]
    fn rw_5_3_what_was_tampered_with_after_the_installation_is_found() {
        let packages = |name: &str| format!("{PACKAGES}/{name}");
        let cases = [
            (packages("a/__init__.py"), "def main(): evil()\n", "is not what a 1 holds"),
            (packages("a-1.dist-info/METADATA"), "Name: A\nVersion: 2\n", "is not what a 1 holds"),
            (packages("evil.pth"), "import evil", "nothing explains"),
            (packages("sitecustomize.py"), "", "nothing explains"),
            (packages("a/__pycache__/evil.cpython-312.pyc"), "", "nothing explains"),
            (packages("b-1.dist-info/INSTALLER"), "", "nothing explains"),
            ("bin/a-script".into(), "#!/usr/bin/python3\nprint()\n", "is not what a 1 holds"),
            ("bin/a-program".into(), "#!/bin/sh\nevil\n", "is not what a 1 holds"),
            ("bin/evil".into(), "#!/bin/sh\n", "nothing explains"),
            ("share/a.txt".into(), "date", "is not what a 1 holds"),
            ("pyvenv.cfg".into(), "include-system-site-packages = true\n", "nothing explains pyvenv.cfg"),
        ];
        for (path, text, expected) in cases {
            let world = World::new();
            world.put(&path, text);
            let told = world.check().unwrap_err();
            assert!(told.contains(expected), "{path}: {told}");
        }
        let world = World::new();
        fs::remove_file(world.environment().join(packages("a/__init__.py"))).unwrap();
        let told = world.check().unwrap_err();
        assert!(told.contains("a/__init__.py of a 1 is missing"), "{told}");
        let world = World::new();
        symlink("/bin/sh", world.environment().join("bin/python3")).unwrap();
        let told = world.check().unwrap_err();
        assert!(told.contains("nothing explains bin/python3"), "{told}");
    }

    #[test]
    fn a_script_may_name_its_interpreter_for_the_shell() {
        let world = World::new();
        for program in ["{bin}/python", "'{bin}/python3.12'"] {
            let text = format!("#!/bin/sh\n'''exec' {program} \"$0\" \"$@\"\n' '''\nprint()\n");
            world.put("bin/a-script", &world.script(&text));
            world.check().unwrap();
        }
        let other = "#!/bin/sh\n'''exec' {bin}/other \"$0\" \"$@\"\n' '''\nprint()\n";
        world.put("bin/a-script", &world.script(other));
        assert!(world.check().is_err());
    }

    #[test]
    fn byte_code_belongs_to_its_source() {
        let of = |path: &str| source_of(Path::new(path));
        assert_eq!(of("a/__pycache__/b.cpython-312.pyc"), Some("a/b.py".into()));
        assert_eq!(of("a/__pycache__/b.c.cpython-312.opt-2.pyc"), Some("a/b.c.py".into()));
        assert_eq!(of("a/b.pyc"), None);
        assert_eq!(of("a/__pycache__/b.txt"), None);
    }
}
