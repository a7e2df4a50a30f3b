//! The definition of an environment: the requirements in the files of a commit. Pure; the files come from a
//! [`super::TreeSource`].
//!
//! All files at the root of the tree that match the patterns count, and the files that they include. `pyproject.toml`
//! gives dependencies and `requires-python`; it is turned into a requirements file. A file that is a symbolic link
//! inside the tree is followed. The host may add its own requirements (`python.also`). If the application brings a
//! lock, the lock counts ([`ProjectLockfile`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_system::disk;
use refresh_system::error::Outcome;
use refresh_system::text::normal_name;

use super::project::Unread;
use super::project_lockfile::ProjectLockfile;
use super::requirements::{self, Line, LineKind, Requirement};
use super::tree_source::resolve;

/// The requirements of a tree.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Definitions {
    pub(super) files: BTreeMap<PathBuf, Vec<Line>>,
    pub(super) roots: Vec<PathBuf>,
    /// The targets of symbolic links among the files.
    pub(super) followed: Vec<PathBuf>,
    /// The lines of the host's own file.
    pub(super) also: Vec<Line>,
    /// Whether there is a `pyproject.toml` that extras and groups were compared with.
    pub(super) has_project: bool,
    /// Whether only the build of the project finds its dependencies.
    #[serde(default)]
    pub(super) is_dynamic: bool,
    /// Settings of tools in `pyproject.toml` that would change the packages, and that are not read.
    #[serde(default)]
    pub(super) unread: Vec<Unread>,
    /// Which versions of Python the project accepts, in its notation.
    pub requires_python: Option<String>,
    /// Remarks on the definition for the report.
    pub(super) notes: Vec<String>,
    /// The selected extras.
    pub(super) extras: Vec<String>,
    /// The selected groups.
    pub(super) groups: Vec<String>,
    /// The application's own lock, if it brings one.
    pub(super) own_lock: Option<ProjectLockfile>,
    /// Whether the host allows builds from source.
    #[serde(default)]
    pub(super) allow_source: bool,
}

/// A package that a definition requires, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedRequirement {
    /// The package.
    pub package: Requirement,
    /// The file, below the root of the tree.
    pub file: PathBuf,
    /// The line in it, counted from 1.
    pub line: usize,
}

impl Definitions {
    /// Returns whether the definition requires nothing.
    pub fn is_empty(&self) -> bool {
        self.own_lock.is_none() && self.also.is_empty() && self.files.values().all(Vec::is_empty)
    }

    /// Returns whether nothing is read that names packages, not even an empty list of them. A project that leaves its
    /// dependencies to its build names none.
    pub fn names_nothing(&self) -> bool {
        self.is_empty() && self.files().all(|file| self.is_dynamic && file == Path::new("pyproject.toml"))
    }

    /// Returns whether the dependencies of the project are left to its build, which does not run.
    pub fn is_dynamic(&self) -> bool {
        self.is_dynamic
    }

    /// Returns whether only the application's own lock determines the installed packages.
    pub(crate) fn is_locked(&self) -> bool {
        self.own_lock.is_some() && self.also.is_empty()
    }

    /// Returns whether pre-releases are allowed (`--pre`).
    pub(super) fn allows_pre_releases(&self) -> bool {
        self.options().any(|(_, line)| line.text.split_whitespace().any(|word| word == "--pre"))
    }

    /// Returns the lines that hold an option only.
    pub(super) fn options(&self) -> impl Iterator<Item = (&Path, &Line)> {
        let lines =
            self.files.iter().flat_map(|(path, lines)| lines.iter().map(|line| (path.as_path(), line)));
        lines.filter(|(_, line)| line.meaning == LineKind::Option)
    }

    /// Returns whether a file requires hashes for all packages.
    pub(super) fn requires_hashes(&self) -> Option<&Path> {
        let demands = |line: &Line| line.text.split_whitespace().any(|word| word == "--require-hashes");
        self.options().find(|(_, line)| demands(line)).map(|(path, _)| path)
    }

    /// Returns the options that choose between wheels and sources, one for each package or for all, as uv reads them.
    /// Without builds from source, `--only-binary` changes nothing. Beside a lockfile, lists of packages do not count.
    pub(super) fn binary_options(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.own_lock.as_ref().is_some_and(|lock| lock.content().is_some()) {
            return found;
        }
        let counts =
            |option: &str| option == "--no-binary" || (option == "--only-binary" && self.allow_source);
        for (_, line) in self.options() {
            let text = line.text.replace('=', " ");
            let words: Vec<&str> = text.split_whitespace().collect();
            for pair in words.windows(2).filter(|pair| counts(pair[0])) {
                let names = pair[1].split(',').filter(|name| !name.is_empty() && *name != ":none:");
                let plain = |name: &str| if name == ":all:" { name.to_owned() } else { normal_name(name) };
                found.extend(names.map(|name| format!("{}={}", pair[0], plain(name))));
            }
        }
        found
    }

    /// Returns the files that belong to the definition, the application's lock last.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let lock = self.own_lock.as_ref().filter(|lock| lock.content().is_some());
        let files = self.files.keys().chain(&self.followed).map(PathBuf::as_path);
        files.chain(lock.map(ProjectLockfile::file))
    }

    /// Returns the lines that name packages, in the requirements files and in the files that they include; constraints
    /// are left out.
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
                    LineKind::Package(_) => found.push((path.as_path(), line)),
                    LineKind::Include(other) => {
                        let other = resolve(path, other).and_then(|other| self.files.get_key_value(&other));
                        open.extend(other.map(|(path, _)| path.as_path()));
                    }
                    LineKind::Constrain(_) | LineKind::Option => {}
                }
            }
        }
        found
    }

    /// Returns the lines of constraints that name packages.
    pub(super) fn constraint_lines(&self) -> Vec<(&Path, &Line)> {
        let required = self.package_lines();
        let all = self.files.iter().flat_map(|(path, lines)| lines.iter().map(|line| (path.as_path(), line)));
        let named = all.filter(|(_, line)| matches!(line.meaning, LineKind::Package(_)));
        named.filter(|(path, _)| !required.iter().any(|(known, _)| known == path)).collect()
    }

    /// Adds a note with the files that do not count because of the application's lock.
    pub(super) fn note_ignored_files(&mut self, locks: &[PathBuf]) {
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

    /// Returns the content of the definition in a normal form. Comments, blank lines, line endings and byte order marks
    /// do not count: a change of them alone rebuilds nothing (RW-5.3b).
    pub(crate) fn normalized(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt as _;
        // If there is a lock, other lists of packages are not read: a change of them has no effect.
        let lock = self.own_lock.as_ref().and_then(ProjectLockfile::content);
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
        // A lock of an earlier version ignores them.
        if lock.is_none() {
            self.unread.iter().for_each(|unread| put(unread.setting.as_bytes()));
        }
        // A lock of an earlier version does not enforce them.
        if self.constraint_lines().iter().any(|(_, line)| !requirements::hashes_of(&line.text).is_empty()) {
            put(b"hashes of constraints");
        }
        // A lock of an earlier version has none.
        self.binary_options().iter().for_each(|option| put(option.as_bytes()));
        // Only if there is one: without it, the normal form is the same as before this setting existed.
        if !self.also.is_empty() {
            put(b"also");
            for line in &self.also {
                put(line.text.as_bytes());
            }
        }
        bytes
    }

    /// Returns the packages that are required by name, in the order of files and lines. The packages of constraints and
    /// of included files are listed with those files.
    pub fn requirements(&self) -> Vec<LocatedRequirement> {
        self.files
            .iter()
            .flat_map(|(file, lines)| {
                lines.iter().filter_map(|line| match &line.meaning {
                    LineKind::Package(package) => Some(LocatedRequirement {
                        package: package.clone(),
                        file: file.clone(),
                        line: line.number,
                    }),
                    _ => None,
                })
            })
            .collect()
    }

    /// Writes the definition below `directory`, which must exist, and returns the requirements files to install from.
    /// Only checked lines are written, each with its original line number.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn write_below(&self, directory: &Path) -> Outcome<Vec<PathBuf>> {
        for (path, lines) in &self.files {
            let path = directory.join(path.with_file_name(written_name(path)));
            if let Some(parent) = path.parent() {
                disk::make_directory(parent, 0o755)?;
            }
            let lines: Vec<Line> = lines.iter().cloned().map(renamed).collect();
            disk::write_atomic(&path, &requirements::render(&lines), 0o644)?;
        }
        let roots = self.roots.iter().map(|root| directory.join(root.with_file_name(written_name(root))));
        let mut roots: Vec<PathBuf> = roots.collect();
        if !self.also.is_empty() {
            roots.push(self.write_also(directory)?);
        }
        Ok(roots)
    }

    /// Writes the host's own requirements below `directory`, and returns the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write_also(&self, directory: &Path) -> Outcome<PathBuf> {
        let path = directory.join("python.also.txt");
        disk::write_unsynced(&path, &requirements::render(&self.also), 0o644)?;
        Ok(path)
    }
}

/// Returns the name under which a file is written. uv treats `pyproject.toml`, `setup.py` or a script specially; it
/// always reads a name that ends in `.txt` as a list of requirements.
fn written_name(path: &Path) -> std::ffi::OsString {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    if path.extension().is_none_or(|ending| ending != "txt") {
        name.push(".definition.txt");
    }
    name
}

/// Returns the line with the written name of an included file.
fn renamed(mut line: Line) -> Line {
    let (option, path) = match &line.meaning {
        LineKind::Include(path) => ("-r", path),
        LineKind::Constrain(path) => ("-c", path),
        LineKind::Package(_) | LineKind::Option => return line,
    };
    line.text = format!("{option} {}", path.with_file_name(written_name(path)).display());
    line
}

#[cfg(test)]
mod tests {
    use super::super::reading::read;
    use super::super::tree_source::{DefinitionFilter, TreeSource};
    use super::*;
    use refresh_settings::Python;

    struct Tree(Vec<(&'static str, &'static str)>);

    impl TreeSource for Tree {
        fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
            Ok(self.0.iter().map(|(name, _)| PathBuf::from(name.split('/').next().unwrap())).collect())
        }
        fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
            Ok(self.0.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).into()))
        }
        fn link(&self, path: &Path) -> Outcome<Option<PathBuf>> {
            let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
            Ok(found.and_then(|(_, text)| text.strip_prefix("-> ")).map(PathBuf::from))
        }
    }

    fn read_tree(files: &[(&'static str, &'static str)]) -> Outcome<Definitions> {
        let python = Python::default();
        read(&Tree(files.to_vec()), &DefinitionFilter::of(&python, None))
    }

    fn names(definitions: &Definitions) -> Vec<String> {
        definitions.requirements().into_iter().map(|asked| asked.package.name).collect()
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
        assert_eq!(definitions.requires_python.as_deref(), Some(">=3.10"));
        let none = read_tree(&[("pyproject.toml", "[tool.x]\ny = 1\n")]).unwrap();
        assert!(none.is_empty() && none.notes.len() == 2);
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
    fn files_of_any_name_are_written_as_lists_of_requirements() {
        let definitions = read_tree(&[
            ("requirements.txt", "-r deps/setup.py # c\n\n-c deps/../limits\nsix"),
            ("deps/setup.py", "idna"),
            ("limits", "six<2"),
            ("pyproject.toml", "[project]\nname='x'\ndependencies=['six']\n"),
        ])
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let roots = definitions.write_below(directory.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(
            read("requirements.txt"),
            "-r deps/setup.py.definition.txt\n\n-c deps/../limits.definition.txt\nsix\n"
        );
        assert_eq!(read("deps/setup.py.definition.txt"), "idna\n");
        assert_eq!(read("limits.definition.txt"), "six<2\n");
        let roots: Vec<_> = roots.iter().map(|root| root.strip_prefix(directory.path()).unwrap()).collect();
        assert_eq!(roots, [Path::new("pyproject.toml.definition.txt"), Path::new("requirements.txt")]);
    }

    #[test]
    fn no_definition_at_all_is_an_empty_environment() {
        let definitions = read_tree(&[("main.py", "")]).unwrap();
        assert!(definitions.is_empty());
        assert_eq!(definitions.notes.len(), 1);
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
    fn a_project_with_local_paths_or_hidden_options_is_refused() {
        for bad in ["x @ file:///y", "./y", "six --index-url https://y", "six # y", "six \\\\"] {
            let text = format!("[project]\nname='x'\ndependencies = [\n \"{bad}\"]\n").leak();
            assert!(refusal(&[("pyproject.toml", text)]).starts_with("pyproject.toml, line 4"), "{bad}");
        }
    }

    #[test]
    fn a_definition_that_is_a_symbolic_link_inside_the_tree_is_followed() {
        let found = read_tree(&[
            ("requirements.txt", "-> deploy/current/../base.txt"),
            ("deploy/base.txt", "-> real.txt"),
            ("deploy/real.txt", "six"),
        ])
        .unwrap();
        assert_eq!(names(&found), ["six"]);
        let files: Vec<&Path> = found.files().collect();
        assert_eq!(files, [Path::new("requirements.txt"), Path::new("deploy/real.txt")]);
        assert!(refusal(&[("requirements.txt", "-> ../../x")]).contains("which lies outside of the tree"));
        assert!(refusal(&[("requirements.txt", "-> requirements.txt")]).contains("lead in a circle"));
    }

    #[test]
    fn requirements_of_the_host_are_part_of_the_definition() {
        let python = Python::default();
        let tree = Tree(vec![("requirements.txt", "six")]);
        let read_with = |text: &'static str| {
            let also = Some((Path::new("/etc/also.txt"), text.as_bytes()));
            read(&tree, &DefinitionFilter { also, ..DefinitionFilter::of(&python, None) })
        };
        let [one, other] = ["idna", "idna<4"].map(|text| read_with(text).unwrap().normalized());
        assert_ne!(one, other);
        assert_eq!(one, read_with("# of the host\nidna\n").unwrap().normalized());
        assert!(read_with("idna\n-r x").unwrap_err().summary().starts_with("/etc/also.txt, line 2"));
    }

    #[test]
    fn the_options_for_hashes_and_pre_releases_are_obeyed() {
        let refused = refusal(&[("requirements.txt", "--require-hashes\nsix==1.0 --hash=sha256:ab\nidna\n")]);
        assert!(refused.contains("line 3: \"idna\" does not pin one version with its hashes"), "{refused}");
        let locked = [("requirements.txt", "--require-hashes\nsix==1.0 --hash=sha512:ab\n")];
        assert!(read_tree(&locked).unwrap().own_lock.is_some());
        // The hash of a URL counts where a line has a `--hash`, as in pip, or all must have one.
        let wheel = "a @ https://h/a-1-py3-none-any.whl#sha256=ab\n";
        for (more, is_lock) in
            [("--require-hashes\n", true), ("six==1.0 --hash=sha256:ab\n", true), ("", false)]
        {
            let text: &str = format!("{more}{wheel}").leak();
            let read = read_tree(&[("requirements.txt", text)]).unwrap();
            assert_eq!(read.own_lock.is_some(), is_lock, "{text}");
        }
        let text = "--no-binary :none:\n--only-binary=A_b,c --pre\n--no-binary :all:\nsix";
        let mut options = read_tree(&[("requirements.txt", text)]).unwrap();
        assert_eq!(options.binary_options(), ["--no-binary=:all:"]);
        options.allow_source = true;
        assert_eq!(options.binary_options(), ["--only-binary=a-b", "--only-binary=c", "--no-binary=:all:"]);
        let lock = ("pylock.toml", "lock-version = '1.0'");
        assert!(read_tree(&[lock, ("requirements.txt", text)]).unwrap().binary_options().is_empty());
        assert!(read_tree(&[("requirements.txt", "--pre\nsix")]).unwrap().allows_pre_releases());
        assert!(!read_tree(&[("requirements.txt", "six")]).unwrap().allows_pre_releases());
    }
}
