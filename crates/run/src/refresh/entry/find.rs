//! Finds the application's entry module in the start command of the service, and the file of the module.
//!
//! Pure: reads words and the list of a commit's files. A command that is not understood has no entry; it is not
//! checked.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use refresh_git::history::{EntryKind, TreeEntry};
use refresh_service::ServiceProgram;

/// Servers that get the application as `module:attribute`.
const SERVERS: [&str; 5] = ["uvicorn", "gunicorn", "hypercorn", "daphne", "waitress-serve"];

/// Shells that get a script as their first argument.
const SHELLS: [&str; 3] = ["sh", "bash", "dash"];

/// Options of those servers that name the search directory for modules.
const SEARCH_OPTIONS: [&str; 3] = ["--app-dir", "--chdir", "--pythonpath"];

/// The entry of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A module, searched in these directories.
    Module {
        /// Its dotted name.
        name: String,
        /// The directories, absolute, in the order of the search.
        bases: Vec<PathBuf>,
    },
    /// A file.
    File {
        /// Its path, absolute.
        path: PathBuf,
    },
}

impl Entry {
    /// Returns the module to import, and the directories that Python searches. `None` for a file whose name cannot be
    /// that of a module. A file is imported under its own name, so the code that it runs only as a program is not
    /// executed.
    pub(super) fn into_module(self) -> Option<(String, Vec<PathBuf>)> {
        match self {
            Self::Module { name, bases } => Some((name, bases)),
            Self::File { path } => {
                let name = path.file_stem()?.to_str()?.to_owned();
                let is_source = path.extension().is_some_and(|extension| extension == "py");
                (is_source && is_dotted_name(&name) && !name.contains('.'))
                    .then_some((name, vec![path.parent()?.to_path_buf()]))
            }
        }
    }
}

/// The place of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Located {
    /// In the commit: a Python source, relative to the tree.
    Source(PathBuf),
    /// In the commit, but not a Python source; or outside the tree, where it is not checked.
    Elsewhere,
    /// Nowhere: these paths of the tree were searched.
    Missing(Vec<PathBuf>),
}

/// The files of a commit.
#[derive(Debug, Default)]
pub(super) struct Tree {
    files: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
}

impl Tree {
    pub(super) fn of(entries: &[TreeEntry]) -> Self {
        let mut tree = Self::default();
        for entry in entries {
            let set = if entry.kind == EntryKind::Symlink { &mut tree.links } else { &mut tree.files };
            set.insert(entry.path.clone());
        }
        tree
    }

    fn has(&self, path: &Path) -> bool {
        self.files.contains(path)
    }

    /// Returns whether a path is a symbolic link or leads through one; such a path is not followed.
    fn leads_through_a_link(&self, path: &Path) -> bool {
        path.ancestors().any(|part| self.links.contains(part))
    }

    /// Returns whether an entry is below a directory.
    fn has_below(&self, directory: &Path) -> bool {
        self.files.iter().any(|file| file.starts_with(directory))
    }

    /// Returns whether a module or a package with a file is at `stem`.
    pub(super) fn has_module(&self, stem: &Path) -> bool {
        self.has(&stem.with_extension("py")) || self.has(&stem.join("__init__.py"))
    }

    /// Returns whether an entry is below a directory, or has its name and any ending.
    pub(super) fn has_any(&self, stem: &Path) -> bool {
        let prefix = format!("{}.", stem.display());
        self.files.iter().any(|file| file.starts_with(stem) || file.to_string_lossy().starts_with(&prefix))
    }
}

/// Returns the entry of `program`; `None` if its command does not name one.
pub(super) fn entry_of(program: &ServiceProgram) -> Option<Entry> {
    let (first, rest) = program.words.split_first()?;
    let name = program.path.file_name()?.to_str()?;
    if is_python(name) || is_python(Path::new(first).file_name()?.to_str()?) {
        return python_entry(program, rest);
    }
    if SERVERS.contains(&name) {
        return server_entry(program, rest);
    }
    // A script of the application.
    program.path.is_absolute().then(|| Entry::File { path: program.path.clone() })
}

/// Returns the script or module that an interpreter starts; `None` for any other program.
pub(super) fn entry_of_interpreter(program: &ServiceProgram) -> Option<Entry> {
    let (first, rest) = program.words.split_first()?;
    let name = Path::new(first).file_name()?.to_str()?;
    if is_python(name) {
        return python_entry(program, rest);
    }
    let script = rest.first().filter(|word| SHELLS.contains(&name) && !word.starts_with('-'))?;
    Some(Entry::File { path: program.directory.join(script) })
}

fn is_python(name: &str) -> bool {
    let version = name.strip_prefix("python").or_else(|| name.strip_prefix("pypy"));
    version.is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// Reads the arguments of an interpreter: `-m module`, or a script.
fn python_entry(program: &ServiceProgram, words: &[String]) -> Option<Entry> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let rest = words.get(at + 1..).unwrap_or_default();
        if !word.starts_with('-') {
            return Some(Entry::File { path: program.directory.join(word) });
        }
        match word.as_str() {
            "-" | "-c" => return None,
            "-W" | "-X" | "--check-hash-based-pycs" => at += 1,
            long if long.starts_with("--") => {}
            // Options of one letter may be combined, and the module may follow without a blank.
            cluster => {
                if cluster.contains('c') {
                    return None;
                }
                if let Some((_, attached)) = cluster.split_once('m') {
                    let (module, rest) = if attached.is_empty() {
                        (rest.first()?.as_str(), rest.get(1..).unwrap_or_default())
                    } else {
                        (attached, rest)
                    };
                    return if SERVERS.contains(&module) {
                        server_entry(program, rest)
                    } else {
                        module_entry(program, module, &[])
                    };
                }
            }
        }
        at += 1;
    }
    None
}

/// Reads the arguments of a server: the first one with the form `module:attribute` is the application.
fn server_entry(program: &ServiceProgram, words: &[String]) -> Option<Entry> {
    let mut searched = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let value = match word.split_once('=') {
            Some((option, value)) if SEARCH_OPTIONS.contains(&option) => Some(value),
            _ if SEARCH_OPTIONS.contains(&word.as_str()) => words.get(at + 1).map(String::as_str),
            _ => None,
        };
        searched.extend(value.into_iter().flat_map(|value| value.split(',')));
    }
    let module = words.iter().find_map(|word| {
        let (module, attribute) = word.split_once(':')?;
        (is_dotted_name(module) && attribute.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))
            .then_some(module)
    })?;
    module_entry(program, module, &searched)
}

fn module_entry(program: &ServiceProgram, name: &str, searched: &[&str]) -> Option<Entry> {
    if !is_dotted_name(name) {
        return None;
    }
    let mut bases: Vec<PathBuf> = searched.iter().map(|path| program.directory.join(path)).collect();
    bases.push(program.directory.clone());
    bases.extend(program.python_path.iter().cloned());
    Some(Entry::Module { name: name.to_owned(), bases })
}

fn is_dotted_name(text: &str) -> bool {
    let is_identifier = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    !text.is_empty() && text.split('.').all(is_identifier)
}

/// Finds an entry in the `tree` of a commit, which is at `app`; `is_installed` returns whether the environment has a
/// module of that first name.
pub(super) fn locate(entry: &Entry, app: &Path, tree: &Tree, is_installed: impl Fn(&str) -> bool) -> Located {
    match entry {
        Entry::File { path } => {
            let Some(path) = below(path, app).filter(|path| !tree.leads_through_a_link(path)) else {
                return Located::Elsewhere;
            };
            let is_python = path.extension().is_some_and(|end| end == "py");
            match (tree.has(&path), is_python) {
                // Python also starts a directory with a `__main__.py`.
                (false, _) if tree.has_below(&path) => Located::Elsewhere,
                (false, _) => Located::Missing(vec![path]),
                (true, true) => Located::Source(path),
                (true, false) => Located::Elsewhere,
            }
        }
        Entry::Module { name, bases } => {
            let inside: Vec<PathBuf> = bases.iter().filter_map(|base| below(base, app)).collect();
            let located = locate_module(name, &inside, tree);
            let first = name.split('.').next().unwrap_or_default();
            // A directory without an `__init__.py` is a package only if Python finds no other one of that name.
            let is_elsewhere = is_installed(first);
            let is_ours = inside
                .iter()
                .map(|base| base.join(first))
                .any(|stem| tree.has_module(&stem) || tree.has_any(&stem) && !is_elsewhere);
            match located {
                Located::Missing(_) if !is_ours && (inside.len() < bases.len() || is_elsewhere) => {
                    Located::Elsewhere
                }
                located => located,
            }
        }
    }
}

fn locate_module(name: &str, bases: &[PathBuf], tree: &Tree) -> Located {
    let module: PathBuf = name.split('.').collect();
    let mut searched = Vec::new();
    for base in bases {
        let stem = base.join(&module);
        for source in [stem.with_extension("py"), stem.join("__init__.py")] {
            if tree.leads_through_a_link(&source) {
                return Located::Elsewhere;
            }
            if tree.has(&source) {
                return Located::Source(source);
            }
            searched.push(source);
        }
        // A compiled module, or a package without its own file.
        if tree.has_any(&stem) {
            return Located::Elsewhere;
        }
    }
    Located::Missing(searched)
}

/// Returns the part of a path below `app`, without `.` and `..`; `None` if the path is outside `app`.
fn below(path: &Path, app: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain.strip_prefix(app).ok().map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "/opt/ladylinux/app";

    fn program(line: &str) -> ServiceProgram {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        ServiceProgram {
            path: PathBuf::from(&words[0]),
            words,
            directory: PathBuf::from(APP),
            python_path: Vec::new(),
            change: String::new(),
        }
    }

    fn module(line: &str) -> Option<(String, Vec<String>)> {
        match entry_of(&program(line))? {
            Entry::Module { name, bases } => {
                Some((name, bases.iter().map(|base| base.display().to_string()).collect()))
            }
            Entry::File { .. } => None,
        }
    }

    fn file(line: &str) -> Option<String> {
        match entry_of(&program(line))? {
            Entry::File { path } => Some(path.display().to_string()),
            Entry::Module { .. } => None,
        }
    }

    #[test]
    fn the_module_of_a_server_is_found_with_any_options_and_any_way_to_start_it() {
        let of = |line: &str| module(line).map(|(name, _)| name);
        for line in [
            "/v/bin/uvicorn api_layer:app --host 0.0.0.0 --port 8000",
            "/v/bin/uvicorn --host ::1 --port 8000 api_layer:app",
            "/v/bin/python3.12 -m uvicorn api_layer:app",
            "/v/bin/python -Bum uvicorn --log-level info api_layer:app",
            "/v/bin/gunicorn -k uvicorn.workers.UvicornWorker -b 0.0.0.0:8000 api_layer:create_app()",
            "/v/bin/hypercorn -b [::]:8000 api_layer:app",
            "/v/bin/python -m api_layer",
            "/v/bin/python -mapi_layer --fast",
        ] {
            assert_eq!(of(line).as_deref(), Some("api_layer"), "{line}");
        }
        assert_eq!(of("/v/bin/uvicorn web.api.main:app").as_deref(), Some("web.api.main"));
        for line in ["/v/bin/uvicorn --help", "/bin/sh -c x", "/v/bin/python -c pass", "/v/bin/python -"] {
            assert_eq!(of(line), None, "{line}");
        }
        let (_, bases) = module("/v/bin/uvicorn --app-dir src api:app").unwrap();
        assert_eq!(bases, ["/opt/ladylinux/app/src", APP]);
        let (_, bases) = module("/v/bin/gunicorn --chdir=/opt/ladylinux/app/web api:app").unwrap();
        assert_eq!(bases[0], "/opt/ladylinux/app/web");
    }

    #[test]
    fn a_script_is_found_behind_the_options_of_its_interpreter() {
        assert_eq!(
            file("/v/bin/python -u -X dev server.py --port 1").unwrap(),
            "/opt/ladylinux/app/server.py"
        );
        assert_eq!(file("/v/bin/python /srv/x.py").unwrap(), "/srv/x.py");
        assert_eq!(file("/opt/ladylinux/app/run.sh").unwrap(), "/opt/ladylinux/app/run.sh");
    }

    /// Returns a tree; a name that ends in `@` is a link.
    fn tree(files: &[&str]) -> Tree {
        let (links, files): (Vec<&str>, Vec<&str>) = files.iter().partition(|file| file.ends_with('@'));
        let links = links.iter().map(|link| PathBuf::from(link.trim_end_matches('@'))).collect();
        Tree { files: files.iter().map(PathBuf::from).collect(), links }
    }

    fn located(line: &str, files: &[&str], installed: &str) -> Located {
        locate(&entry_of(&program(line)).unwrap(), Path::new(APP), &tree(files), |name| name == installed)
    }

    #[test]
    fn rw_7_1b_an_entry_is_searched_in_the_commit_and_missing_only_if_it_is_nowhere() {
        let source = |path: &str| Located::Source(PathBuf::from(path));
        let server = "/v/bin/uvicorn web.api:app";
        assert_eq!(located(server, &["web/api.py"], ""), source("web/api.py"));
        assert_eq!(located(server, &["web/api/__init__.py"], ""), source("web/api/__init__.py"));
        assert_eq!(located(server, &["web/api.cpython-312.so"], ""), Located::Elsewhere);
        assert_eq!(located(server, &["README"], "web"), Located::Elsewhere);
        assert_eq!(located("/v/bin/python -m http.server", &["http/notes.txt"], "http"), Located::Elsewhere);
        // The tree comes before the environment.
        let missing = Located::Missing(vec!["web/api.py".into(), "web/api/__init__.py".into()]);
        assert_eq!(located(server, &["web/__init__.py"], "web"), missing);
        assert_eq!(located(server, &["README"], ""), missing);
        for links in [&["web@"][..], &["web/api.py@"], &["web/api.py@", "web/__init__.py"]] {
            assert_eq!(located(server, links, ""), Located::Elsewhere, "{links:?}");
        }
        assert_eq!(located("/v/bin/python ./a/../x.py", &["x.py"], ""), source("x.py"));
        assert_eq!(located("/v/bin/python x.py", &[], ""), Located::Missing(vec!["x.py".into()]));
        assert_eq!(located("/v/bin/python /srv/x.py", &[], ""), Located::Elsewhere);
        assert_eq!(located("/opt/ladylinux/app/run.sh", &["run.sh"], ""), Located::Elsewhere);
    }

    #[test]
    fn a_search_path_outside_of_the_tree_may_hold_the_module() {
        let mut program = program("/v/bin/uvicorn api:app");
        program.python_path.push("/srv/lib".into());
        let entry = entry_of(&program).unwrap();
        assert_eq!(locate(&entry, Path::new(APP), &tree(&[]), |_| false), Located::Elsewhere);
    }

    #[test]
    fn a_file_is_imported_under_its_name_from_its_directory() {
        let file = |path: &str| Entry::File { path: path.into() }.into_module();
        assert_eq!(file("/a/server.py"), Some(("server".to_owned(), vec!["/a".into()])));
        for path in ["/a/my-server.py", "/a/my.server.py", "/a/server", "/a/server.sh"] {
            assert_eq!(file(path), None, "{path}");
        }
    }
}
