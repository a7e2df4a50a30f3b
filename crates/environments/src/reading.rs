//! Reads a definition from the files of a tree, and from the files that they include or link to. Pure; the files come
//! from a [`TreeSource`].

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use refresh_system::error::{Context as _, Failure, Outcome};

use super::definitions::Definitions;
use super::locked::is_pinned;
use super::requirements::{self, Line, LineKind};
use super::tree_source::{DefinitionFilter, TreeSource, resolve};
use super::{find_project_lockfile, project, project_lockfile};

/// The largest length of a chain of links; a longer one is a cycle.
const LINKS: usize = 16;

/// Reads the definition from a tree.
///
/// # Errors
/// A pattern is wrong; an include is missing, leaves the tree or is cyclic; a line is not allowed for an application,
/// each with the file and the line; or an extra or group does not exist.
pub fn read(source: &dyn TreeSource, choice: &DefinitionFilter<'_>) -> Outcome<Definitions> {
    let wanted = globs(choice.patterns)?;
    let mut roots: Vec<PathBuf> =
        source.names_at_root()?.into_iter().filter(|name| wanted.is_match(name)).collect();
    roots.sort();
    let found = Definitions {
        extras: choice.extras.to_vec(),
        groups: choice.groups.to_vec(),
        allow_source: choice.allow_source,
        ..Definitions::default()
    };
    let mut reading = Reading { source, found, path_here: Vec::new() };
    let (locks, roots): (Vec<_>, Vec<_>) =
        roots.into_iter().partition(|root| project_lockfile::is_lock(root));
    for root in roots {
        let Some(bytes) = reading.follow(&root)? else { continue };
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
    if let Some((name, bytes)) = choice.also {
        found.also = read_also(name, bytes)?;
    }
    found.own_lock = find_project_lockfile::find(source, &locks, &found)?;
    check_required_hashes(&found)?;
    if found.is_empty() {
        found.notes.push("the tree names no packages: the environment will be empty".to_owned());
    }
    found.note_ignored_files(&locks);
    Ok(found)
}

/// Refuses requirements without hashes if a file requires hashes for all (`--require-hashes`).
fn check_required_hashes(found: &Definitions) -> Outcome<()> {
    let Some(by) = found.requires_hashes() else { return Ok(()) };
    if found.own_lock.is_some() {
        return Ok(());
    }
    let lines = found.package_lines();
    let Some((file, line)) = lines.into_iter().find(|(_, line)| !is_pinned(line)) else {
        return Ok(());
    };
    let text = line.text.split(" --hash").next().unwrap_or(&line.text).trim();
    Err(Failure::new(format!(
        "{} demands hashes (--require-hashes), and {}, line {}: {text:?} does not pin one version with its hashes",
        by.display(),
        file.display(),
        line.number
    ))
    .hint("pin it with its hashes in the application's repository: uv pip compile --generate-hashes"))
}

/// Reads the host's own file. It is outside the tree, so it cannot include other files.
fn read_also(name: &Path, bytes: &[u8]) -> Outcome<Vec<Line>> {
    let shown = name.display().to_string();
    let lines = requirements::parse(bytes, &shown)?;
    match lines.iter().find(|line| !matches!(line.meaning, LineKind::Package(_))) {
        None => Ok(lines),
        Some(line) => Err(Failure::new(format!(
            "{shown}, line {}: {:?} is not a requirement, and the host's own file can only have requirements",
            line.number, line.text
        ))),
    }
}

/// The state of reading the files.
struct Reading<'a> {
    source: &'a dyn TreeSource,
    found: Definitions,
    /// The files that are being read, each included by the one before.
    path_here: Vec<PathBuf>,
}

impl Reading<'_> {
    /// Reads a file; follows symbolic links.
    fn follow(&mut self, path: &Path) -> Outcome<Option<Vec<u8>>> {
        let mut at = path.to_path_buf();
        for _ in 0..LINKS {
            let Some(target) = self.source.link(&at)? else {
                let bytes = self.source.read(&at)?;
                if bytes.is_none() && at != path {
                    let (path, at) = (path.display(), at.display());
                    return Err(Failure::new(format!(
                        "{path} is a symbolic link that leads to {at}, which is not in the tree"
                    )));
                }
                if at != path {
                    self.found.followed.push(at);
                }
                return Ok(bytes);
            };
            at = resolve(&at, &target).ok_or_else(|| {
                let (path, target) = (path.display(), target.display());
                Failure::new(format!("{path} is a symbolic link to {target}, which lies outside of the tree"))
            })?;
        }
        Err(Failure::new(format!("the symbolic links of {} lead in a circle", path.display())))
    }

    fn file(&mut self, path: PathBuf, bytes: &[u8]) -> Outcome<()> {
        let shown = path.display().to_string();
        let lines = requirements::parse(bytes, &shown)?;
        self.path_here.push(path.clone());
        for line in &lines {
            if let LineKind::Include(other) | LineKind::Constrain(other) = &line.meaning {
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

    /// Finds the file that `from` includes as `other`; `None` if it was read already.
    fn include(&mut self, from: &Path, other: &Path) -> Outcome<Option<(PathBuf, Vec<u8>)>> {
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
        match self.follow(&path)? {
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
        self.found.has_project = true;
        self.found.is_dynamic = project.is_dynamic;
        self.found.unread = project.unread;
        self.found.requires_python = project.requires_python;
        self.found.files.insert(path.clone(), project.lines);
        self.found.roots.push(path);
        Ok(())
    }
}

fn globs(patterns: &[String]) -> Outcome<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.context(|| format!("{pattern:?} is not a pattern for definitions"))?);
    }
    set.build().context(|| "the patterns for definitions cannot be used together".to_owned())
}
