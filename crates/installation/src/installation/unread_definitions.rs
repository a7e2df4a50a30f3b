//! Definitions of packages that are not read. If a commit has nothing else, its environment would be empty, and the service
//! could not start in it.

use std::path::{Path, PathBuf};

use refresh_system::error::{Failure, Outcome};
use refresh_system::text::quoted_path;

use super::{Installation, Release};

/// Files of other tools at the root of the tree.
const FILES: [&str; 6] =
    ["Pipfile", "poetry.lock", "pdm.lock", "environment.yml", "environment.yaml", "requirements.in"];

/// Files at the root of the tree that name packages only if they contain this word.
const WORDS: [(&str, &str); 3] = [
    ("pyproject.toml", "tool.poetry.dependencies"),
    ("setup.py", "install_requires"),
    ("setup.cfg", "install_requires"),
];

/// The directory that many applications use for files of requirements.
const DIRECTORY: &str = "requirements";

/// Refuses a commit that names its packages only in files that are not read.
///
/// # Errors
/// There is such a file; or the mirror cannot be read.
pub(super) fn check(on: &Installation, release: &Release) -> Outcome<()> {
    // Chosen patterns are a decision of the host or of the application.
    if !release.definitions.names_nothing() || release.settings.python.definitions.is_some() {
        return Ok(());
    }
    let Some(file) = unread(on, release)? else { return Ok(()) };
    let link = if file.starts_with(DIRECTORY) {
        format!("commit a requirements.txt with the line `-r {}`", file.display())
    } else {
        "commit its packages as requirements.txt, pylock.toml, uv.lock or [project] of pyproject.toml"
            .to_owned()
    };
    let why = if file == Path::new("pyproject.toml") && release.definitions.is_dynamic() {
        "pyproject.toml leaves its dependencies to its build (dynamic), which does not run".to_owned()
    } else {
        format!("{} is not read", file.display())
    };
    Err(Failure::new(format!("commit {} cannot be deployed", release.commit.short()))
        .because(Failure::new(format!(
            "{why}, and nothing else names packages: the environment would be empty"
        )))
        .hint(link)
        .hint(format!(
            "where it needs no packages, set `definitions = []` under [python] in {}",
            quoted_path(&on.layout.host_file())
        )))
}

/// Returns the first file that names packages and is not read.
fn unread(on: &Installation, release: &Release) -> Outcome<Option<PathBuf>> {
    let files = on.mirror.files(&release.commit)?;
    let is_list = |path: &Path| {
        path.parent() == Some(Path::new(DIRECTORY))
            && path.extension().is_some_and(|ending| ending == "txt" || ending == "in")
    };
    let is_known = |path: &Path| FILES.iter().any(|name| path == Path::new(name));
    if let Some(found) = files.iter().find(|entry| is_known(&entry.path) || is_list(&entry.path)) {
        return Ok(Some(found.path.clone()));
    }
    for (name, word) in WORDS {
        let exists = files.iter().any(|entry| entry.path == Path::new(name));
        if exists && on.mirror.files_with(&release.commit, word)?.iter().any(|path| path == Path::new(name)) {
            return Ok(Some(PathBuf::from(name)));
        }
    }
    Ok(release.definitions.is_dynamic().then(|| PathBuf::from("pyproject.toml")))
}
