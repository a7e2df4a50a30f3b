//! The definition of an environment: what the files of a commit ask for. Pure; the files come from a [`TreeSource`].
//!
//! All files at the root of the tree that match the patterns count, and what they include. `pyproject.toml` gives
//! dependencies and `requires-python`; it is turned into a requirements file, so that both installers do the same with
//! it. Where the application brings a lock, that is what counts ([`OwnLock`]).

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::own_lock::{self, OwnLock};
use super::project;
use super::requirements::{self, Line, Meaning, Requirement};
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::settings::Python;

/// The patterns where the settings name none.
pub const DEFAULT_PATTERNS: [&str; 4] = ["requirements*.txt", "pyproject.toml", "uv.lock", "pylock.toml"];

/// The files of one commit, or of a folder.
pub trait TreeSource {
    /// Returns the names of what lies at the root of the tree.
    ///
    /// # Errors
    /// The tree cannot be read.
    fn names_at_root(&self) -> Outcome<Vec<PathBuf>>;

    /// Returns the content of a file; `None` where there is no file of that path.
    ///
    /// # Errors
    /// The tree cannot be read.
    fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>>;
}

/// What of a tree defines its environment.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Globs for names at its root.
    pub patterns: &'a [String],
    /// The extras of the project.
    pub extras: &'a [String],
    /// The dependency groups.
    pub groups: &'a [String],
}

impl<'a> Choice<'a> {
    /// Returns the choice that the settings make.
    pub fn of(python: &'a Python) -> Self {
        Self { patterns: &python.definitions, extras: &python.extras, groups: &python.groups }
    }
}

/// What a tree asks for.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    files: BTreeMap<PathBuf, Vec<Line>>,
    roots: Vec<PathBuf>,
    requires_python: Option<String>,
    notes: Vec<String>,
    extras: Vec<String>,
    groups: Vec<String>,
    own_lock: Option<OwnLock>,
}

/// A package that a definition asks for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The package.
    pub package: Requirement,
    /// The file, below the root of the tree.
    pub file: PathBuf,
    /// The line in it, counted from 1.
    pub line: usize,
}

/// Reads the definition out of a tree.
///
/// # Errors
/// A pattern is wrong, an include is missing, leaves the tree or runs in a circle, a line is one that an application
/// may not use, each with the file and the line; or there is no such extra or group.
pub fn read(source: &dyn TreeSource, choice: &Choice<'_>) -> Outcome<Definitions> {
    let wanted = globs(choice.patterns)?;
    let mut roots: Vec<PathBuf> =
        source.names_at_root()?.into_iter().filter(|name| wanted.is_match(name)).collect();
    roots.sort();
    let found = Definitions {
        extras: choice.extras.to_vec(),
        groups: choice.groups.to_vec(),
        ..Definitions::default()
    };
    let mut reading = Reading { source, found, path_here: Vec::new() };
    let (locks, roots): (Vec<_>, Vec<_>) = roots.into_iter().partition(|root| own_lock::is_lock(root));
    for root in roots {
        let Some(bytes) = source.read(&root)? else { continue };
        if root == Path::new("pyproject.toml") {
            reading.project(root, &bytes)?;
        } else {
            if !reading.found.files.contains_key(&root) {
                reading.file(root.clone(), &bytes)?;
            }
            reading.found.roots.push(root);
        }
    }
    let mut found = reading.found;
    found.own_lock = own_lock::find(source, &locks, &found)?;
    if found.is_empty() {
        found.notes.push("the tree names no packages: the environment will be empty".to_owned());
    }
    found.note_what_does_not_count(&locks);
    Ok(found)
}

impl Definitions {
    /// Tells whether nothing at all is asked for.
    pub fn is_empty(&self) -> bool {
        self.own_lock.is_none() && self.files.values().all(Vec::is_empty)
    }

    /// Returns the files that belong to the definition, the application's lock last.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let lock = self.own_lock.as_ref().filter(|lock| lock.content().is_some());
        self.files.keys().map(PathBuf::as_path).chain(lock.map(OwnLock::file))
    }

    /// Returns the application's own lock, where it brings one.
    pub fn own_lock(&self) -> Option<&OwnLock> {
        self.own_lock.as_ref()
    }

    /// Returns the extras that are chosen.
    pub(super) fn extras(&self) -> &[String] {
        &self.extras
    }

    /// Returns the groups that are chosen.
    pub(super) fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Returns the lines that name packages, in the files that are installed from and in what those include;
    /// constraints are left out.
    pub(super) fn package_lines(&self) -> Vec<(&Path, &Line)> {
        let mut open: Vec<&Path> = self.roots.iter().map(PathBuf::as_path).collect();
        let mut seen: Vec<PathBuf> = Vec::new();
        let mut found = Vec::new();
        while let Some(path) = open.pop() {
            if seen.iter().any(|known| known == path) {
                continue;
            }
            seen.push(path.to_path_buf());
            let Some((path, lines)) = self.files.get_key_value(path) else { continue };
            for line in lines {
                match &line.meaning {
                    Meaning::Package(_) => found.push((path.as_path(), line)),
                    Meaning::Include(other) => {
                        let other = resolve(path, other).and_then(|other| self.files.get_key_value(&other));
                        open.extend(other.map(|(path, _)| path.as_path()));
                    }
                    Meaning::Constrain(_) | Meaning::Option => {}
                }
            }
        }
        found
    }

    /// Says which files the application's lock puts out of force.
    fn note_what_does_not_count(&mut self, locks: &[PathBuf]) {
        let Some(lock) = self.own_lock.as_ref().filter(|lock| lock.content().is_some()) else { return };
        let idle: Vec<String> = self
            .roots
            .iter()
            .filter(|root| *root != Path::new("pyproject.toml"))
            .chain(locks.iter().filter(|other| *other != lock.file()))
            .map(|file| file.display().to_string())
            .collect();
        if !idle.is_empty() {
            let note = format!("{} is the lock; {} does not count", lock.file().display(), idle.join(", "));
            self.notes.push(note);
        }
    }

    /// Returns which versions of Python the project accepts, as it writes them.
    pub fn requires_python(&self) -> Option<&str> {
        self.requires_python.as_deref()
    }

    /// Returns what is worth telling about the definition.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns what the definition says, in one form: comments, blank lines, line endings and byte order marks do
    /// not count, so that changing them alone rebuilds nothing (RW-5.3b).
    pub fn normalized(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt as _;
        // Beside a lock, other lists of packages are not read: changing them changes nothing.
        let lock = self.own_lock.as_ref().and_then(OwnLock::content);
        let counts = |path: &Path| lock.is_none() || path == Path::new("pyproject.toml");
        let mut bytes = Vec::new();
        let mut put = |part: &[u8]| {
            bytes.extend_from_slice(part.len().to_string().as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(part);
            bytes.push(b'\n');
        };
        for root in self.roots.iter().filter(|root| counts(root)) {
            put(root.as_os_str().as_bytes());
        }
        put(self.requires_python.as_deref().unwrap_or_default().as_bytes());
        for name in self.extras.iter().chain([&String::new()]).chain(&self.groups) {
            put(name.as_bytes());
        }
        put(lock.as_deref().unwrap_or_default());
        for (path, lines) in self.files.iter().filter(|(path, _)| counts(path)) {
            put(path.as_os_str().as_bytes());
            for line in lines {
                put(line.text.as_bytes());
            }
            put(b"");
        }
        bytes
    }

    /// Returns the packages asked for by name, in the order of files and lines; what constraints and includes of
    /// other files say is listed with those.
    pub fn requirements(&self) -> Vec<Wish> {
        self.files
            .iter()
            .flat_map(|(file, lines)| {
                lines.iter().filter_map(|line| match &line.meaning {
                    Meaning::Package(package) => {
                        Some(Wish { package: package.clone(), file: file.clone(), line: line.number })
                    }
                    _ => None,
                })
            })
            .collect()
    }

    /// Writes the definition below `folder`, which has to be there, and returns the requirements files to install
    /// from. Only checked lines are written, each at its own line number.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_below(&self, folder: &Path) -> Outcome<Vec<PathBuf>> {
        for (path, lines) in &self.files {
            let path = folder.join(path.with_file_name(written_name(path)));
            if let Some(parent) = path.parent() {
                disk::make_folder(parent, 0o755)?;
            }
            let lines: Vec<Line> = lines.iter().cloned().map(renamed).collect();
            disk::write_atomic(&path, &requirements::render(&lines), 0o644)?;
        }
        Ok(self.roots.iter().map(|root| folder.join(root.with_file_name(written_name(root)))).collect())
    }
}

/// The name that a file is written under. uv reads `pyproject.toml`, `setup.py` or a script in ways of their own;
/// only a name that ends in `.txt` is sure to be taken for a list of requirements.
fn written_name(path: &Path) -> std::ffi::OsString {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    if path.extension().is_none_or(|ending| ending != "txt") {
        name.push(".definition.txt");
    }
    name
}

/// The line, with the name of an included file as it is written.
fn renamed(mut line: Line) -> Line {
    let (option, path) = match &line.meaning {
        Meaning::Include(path) => ("-r", path),
        Meaning::Constrain(path) => ("-c", path),
        Meaning::Package(_) | Meaning::Option => return line,
    };
    line.text = format!("{option} {}", path.with_file_name(written_name(path)).display());
    line
}

/// The way through the files.
struct Reading<'a> {
    source: &'a dyn TreeSource,
    found: Definitions,
    /// The files that are being read, each included by the one before.
    path_here: Vec<PathBuf>,
}

impl Reading<'_> {
    fn file(&mut self, path: PathBuf, bytes: &[u8]) -> Outcome<()> {
        let shown = path.display().to_string();
        let lines = requirements::parse(bytes, &shown)?;
        self.path_here.push(path.clone());
        for line in &lines {
            if let Meaning::Include(other) | Meaning::Constrain(other) = &line.meaning {
                self.include(&path, other)
                    .map_err(|failure| Failure::new(format!("{shown}, line {}: {failure}", line.number)))
                    .map(|next| next.map(|(path, bytes)| self.file(path, &bytes)))?
                    .unwrap_or(Ok(()))?;
            }
        }
        self.path_here.pop();
        self.found.files.insert(path, lines);
        Ok(())
    }

    /// Finds what `from` includes as `other`; `None` where it was read already.
    fn include(&self, from: &Path, other: &Path) -> Outcome<Option<(PathBuf, Vec<u8>)>> {
        let shown = other.display();
        let path = resolve(from, other)
            .ok_or_else(|| Failure::new(format!("the included file {shown} lies outside of the tree")))?;
        if let Some(start) = self.path_here.iter().position(|open| *open == path) {
            let mut circle: Vec<String> =
                self.path_here[start..].iter().map(|open| open.display().to_string()).collect();
            circle.push(path.display().to_string());
            return Err(Failure::new(format!(
                "files include each other in a circle: {}",
                circle.join(" -> ")
            )));
        }
        if self.found.files.contains_key(&path) {
            return Ok(None);
        }
        match self.source.read(&path)? {
            Some(bytes) => Ok(Some((path, bytes))),
            None => Err(Failure::new(format!("the included file {shown} is not in the tree"))),
        }
    }

    fn project(&mut self, path: PathBuf, bytes: &[u8]) -> Outcome<()> {
        let Some(project) = project::read(bytes, &self.found.extras, &self.found.groups)? else {
            self.found.notes.push("pyproject.toml has no [project] table: it adds no packages".to_owned());
            return Ok(());
        };
        self.found.notes.extend(project.notes);
        self.found.requires_python = project.requires_python;
        self.found.files.insert(path.clone(), project.lines);
        self.found.roots.push(path);
        Ok(())
    }
}

/// The path, from the root of the tree, of what `from` calls `other`; `None` where that leaves the tree.
fn resolve(from: &Path, other: &Path) -> Option<PathBuf> {
    let mut path = from.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in other.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

fn globs(patterns: &[String]) -> Outcome<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.context(|| format!("{pattern:?} is not a pattern for definitions"))?);
    }
    set.build().context(|| "the patterns for definitions cannot be used together".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(Vec<(&'static str, &'static str)>);

    impl TreeSource for Tree {
        fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
            Ok(self.0.iter().map(|(name, _)| PathBuf::from(name.split('/').next().unwrap())).collect())
        }
        fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
            Ok(self.0.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).into()))
        }
    }

    fn read_tree(files: &[(&'static str, &'static str)]) -> Outcome<Definitions> {
        let patterns = DEFAULT_PATTERNS.map(str::to_owned);
        read(&Tree(files.to_vec()), &Choice { patterns: &patterns, extras: &[], groups: &[] })
    }

    fn names(definitions: &Definitions) -> Vec<String> {
        definitions.requirements().into_iter().map(|wish| wish.package.name).collect()
    }

    fn refusal(files: &[(&'static str, &'static str)]) -> String {
        read_tree(files).unwrap_err().summary().to_owned()
    }

    #[test]
    fn rw_5_3_all_definition_files_at_the_root_and_their_includes_count() {
        let definitions = read_tree(&[
            ("requirements.txt", "six\n-r deps/base.txt\n"),
            ("requirements-web.txt", "flask\n-c deps/limits.txt"),
            ("deps/base.txt", "-r ./more.txt\n-c ../deps/limits.txt"),
            ("deps/more.txt", "idna"),
            ("deps/limits.txt", "idna<4"),
            ("deps/unused.txt", "unused"),
            ("notes.txt", "nothing"),
        ])
        .unwrap();
        assert_eq!(names(&definitions), ["idna", "idna", "flask", "six"]);
        assert_eq!(definitions.files().count(), 5);
        assert_eq!(definitions.roots, [Path::new("requirements-web.txt"), Path::new("requirements.txt")]);
    }

    #[test]
    fn rw_5_3b_comments_and_line_endings_do_not_count_and_an_included_change_does() {
        let plain = read_tree(&[("requirements.txt", "six\n-r a.txt"), ("a.txt", "idna==3.1")]).unwrap();
        let comments =
            read_tree(&[("requirements.txt", "# c\r\nsix\r\n\r\n-r a.txt # d\r\n"), ("a.txt", "idna==3.1")]);
        let changed = read_tree(&[("requirements.txt", "six\n-r a.txt"), ("a.txt", "idna==3.2")]).unwrap();
        assert_eq!(plain.normalized(), comments.unwrap().normalized());
        assert_ne!(plain.normalized(), changed.normalized());
    }

    #[test]
    fn a_project_gives_its_dependencies_and_its_python() {
        let definitions = read_tree(&[(
            "pyproject.toml",
            "[project]\nname = 'x'\nrequires-python = '>=3.10'\ndependencies = ['six>=1', \"idna\",\n'flask']\n",
        )])
        .unwrap();
        assert_eq!(names(&definitions), ["six", "idna", "flask"]);
        assert_eq!(definitions.requires_python(), Some(">=3.10"));
        let none = read_tree(&[("pyproject.toml", "[tool.x]\ny = 1\n")]).unwrap();
        assert!(none.is_empty() && none.notes().len() == 2);
    }

    #[test]
    fn the_tools_part_of_a_project_does_not_count() {
        let one = read_tree(&[("pyproject.toml", "[project]\nname='x'\ndependencies=['six']\n")]).unwrap();
        let other = read_tree(&[(
            "pyproject.toml",
            "[project]\nname='x'\ndependencies=['six']\n[tool.ruff]\nline-length=1\n",
        )]);
        assert_eq!(one.normalized(), other.unwrap().normalized());
    }

    #[test]
    fn files_are_written_as_lists_of_requirements_whatever_their_name() {
        let definitions = read_tree(&[
            ("requirements.txt", "-r deps/setup.py # c\n\n-c deps/../limits\nsix"),
            ("deps/setup.py", "idna"),
            ("limits", "six<2"),
            ("pyproject.toml", "[project]\nname='x'\ndependencies=['six']\n"),
        ])
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let roots = definitions.write_below(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            read("requirements.txt"),
            "-r deps/setup.py.definition.txt\n\n-c deps/../limits.definition.txt\nsix\n"
        );
        assert_eq!(read("deps/setup.py.definition.txt"), "idna\n");
        assert_eq!(read("limits.definition.txt"), "six<2\n");
        let roots: Vec<_> = roots.iter().map(|root| root.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(roots, [Path::new("pyproject.toml.definition.txt"), Path::new("requirements.txt")]);
    }

    #[test]
    fn no_definition_at_all_is_an_empty_environment() {
        let definitions = read_tree(&[("main.py", "")]).unwrap();
        assert!(definitions.is_empty());
        assert_eq!(definitions.notes().len(), 1);
    }

    #[test]
    fn files_that_include_each_other_are_refused_with_the_circle() {
        assert_eq!(
            refusal(&[("requirements.txt", "-r a/b.txt"), ("a/b.txt", "\n-r ../requirements.txt")]),
            "a/b.txt, line 2: files include each other in a circle: requirements.txt -> a/b.txt -> requirements.txt"
        );
    }

    #[test]
    fn includes_that_are_missing_or_leave_the_tree_are_refused_with_their_line() {
        assert_eq!(
            refusal(&[("requirements.txt", "six\n-r gone.txt")]),
            "requirements.txt, line 2: the included file gone.txt is not in the tree"
        );
        for outside in ["-r ../x.txt", "-r /etc/x.txt", "-c a/../../x.txt"] {
            assert!(refusal(&[("requirements.txt", outside)]).contains("outside of the tree"));
        }
    }

    #[test]
    fn a_project_may_not_name_local_paths_or_smuggle_options() {
        for bad in ["x @ file:///y", "./y", "six --index-url https://y", "six # y", "six \\\\"] {
            let text = format!("[project]\nname='x'\ndependencies = [\n \"{bad}\"]\n").leak();
            assert!(refusal(&[("pyproject.toml", text)]).starts_with("pyproject.toml, line 4"), "{bad}");
        }
    }
}
