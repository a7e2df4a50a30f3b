//! A folder of models as it is on the disk: one walk that follows no link, and everything else asked of that.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Failure, Outcome};
use crate::manifest::{self, Entry, Kind, Scan};
use crate::process::interrupt;
use crate::report::screen::harmless_line;

use super::{COMPLAINTS, Claim, Finding, Need, Said, Verdict, ollama};

/// A folder of models.
#[derive(Debug)]
pub struct Store {
    /// Where it is, with no link in the path.
    pub base: PathBuf,
    entries: manifest::Manifest,
    links: HashSet<PathBuf>,
    /// Where links may lead: every store.
    allowed: Vec<PathBuf>,
}

/// How models are laid out below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `manifests/` and `blobs/` of Ollama.
    Ollama,
    /// `blobs/` and `snapshots/` of one repository in a cache of Hugging Face.
    HuggingFace,
}

/// Where a path leads once links are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leads {
    /// To this place, which may be missing.
    To(PathBuf),
    /// Nowhere: a link on the way has no target.
    Nowhere,
    /// Somewhere it must not, or in circles.
    Astray(String),
}

/// The folders that hold the files of a repository in a cache of Hugging Face begin with these.
const REPOSITORIES: [&str; 3] = ["models--", "datasets--", "spaces--"];

impl Store {
    /// Looks at the folder `base`; links in its own path are followed. `None` where there is none.
    ///
    /// # Errors
    /// It cannot be looked at, is no folder, or the work is interrupted.
    pub fn open(base: &Path) -> Outcome<Option<Self>> {
        let told = || format!("cannot look at {}", base.display());
        let real = match base.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::new(told()).because(error)),
        };
        if !real.is_dir() {
            return Err(Failure::new(told()).because(Failure::new("it is no folder")));
        }
        // What cannot be looked at is told, and hides nothing else.
        let entries = Scan::metadata().list_trouble().of(&real).context(told)?;
        let links = entries.entries().iter().filter(|entry| matches!(entry.kind, Kind::Link(_)));
        let links = links.map(|entry| entry.path.clone()).collect();
        Ok(Some(Self { allowed: vec![real.clone()], base: real, entries, links }))
    }

    /// Makes a store that is not there.
    pub fn missing(base: &Path) -> Self {
        Self {
            base: base.to_path_buf(),
            entries: manifest::Manifest::default(),
            links: HashSet::new(),
            allowed: Vec::new(),
        }
    }

    /// Lets links lead to the other stores.
    pub fn allow(&mut self, others: &[PathBuf]) {
        self.allowed.extend_from_slice(others);
    }

    /// Returns what is there, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        self.entries.entries()
    }

    /// Returns what is at a path, links not followed.
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        let entries = self.entries();
        entries.binary_search_by(|entry| entry.path.as_path().cmp(path)).ok().map(|index| &entries[index])
    }

    /// Returns what lies below a folder, at any depth.
    pub fn below(&self, folder: &Path) -> &[Entry] {
        let entries = self.entries();
        let start = entries.partition_point(|entry| entry.path.as_path() <= folder);
        let length = entries[start..].partition_point(|entry| entry.path.starts_with(folder));
        &entries[start..start + length]
    }

    /// Tells whether a path is a folder.
    pub fn is_folder(&self, path: &Path) -> bool {
        self.entry(path).is_some_and(|entry| entry.kind == Kind::Folder)
    }

    /// Finds the parts of the store that have a form of their own, sorted by path; the outermost where one lies in another.
    ///
    /// # Errors
    /// The interruption.
    pub fn forms(&self) -> Outcome<Vec<(PathBuf, Form)>> {
        let mut found: Vec<(PathBuf, Form)> = Vec::new();
        for entry in self.entries().iter().filter(|entry| entry.kind == Kind::Folder) {
            interrupt::check()?;
            let folder = &entry.path;
            // Folders come sorted, so that no other can hold this one than the last that was found.
            if found.last().is_some_and(|(outer, _)| folder.starts_with(outer)) {
                continue;
            }
            let has = |name: &str| self.is_folder(&folder.join(name));
            let name = folder.file_name().or(self.base.file_name()).unwrap_or_default().to_string_lossy();
            if self.is_of_ollama(folder)? {
                found.push((folder.clone(), Form::Ollama));
            } else if REPOSITORIES.iter().any(|prefix| name.starts_with(prefix))
                && (has("blobs") || has("snapshots"))
            {
                found.push((folder.clone(), Form::HuggingFace));
            }
        }
        Ok(found)
    }

    /// Tells whether a folder is a store of Ollama: by `manifests/` beside `blobs/`, and where that is gone by a manifest.
    fn is_of_ollama(&self, folder: &Path) -> Outcome<bool> {
        let manifests = folder.join("manifests");
        match self.entry(&manifests).map(|entry| &entry.kind) {
            Some(Kind::Folder) if self.entry(&folder.join("blobs")).is_some() => Ok(true),
            Some(Kind::Folder) => {
                for entry in self.below(&manifests) {
                    interrupt::check()?;
                    let name = entry.path.strip_prefix(&manifests).unwrap_or(&entry.path);
                    if entry.kind != Kind::Folder && ollama::is_manifest_name(name) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Some(Kind::Link(_)) => Ok(matches!(self.follow(&manifests), Leads::To(real) if real.is_dir())),
            _ => Ok(false),
        }
    }

    /// Opens the folder that a link at `path` leads to; `None` where there is no such link.
    ///
    /// # Errors
    /// It cannot be looked at, or the work is interrupted.
    pub(super) fn linked(&self, path: &Path) -> Outcome<Option<Self>> {
        if !self.entry(path).is_some_and(|entry| matches!(entry.kind, Kind::Link(_))) {
            return Ok(None);
        }
        match self.follow(path) {
            Leads::To(real) if real.is_dir() => match Self::open(&real)? {
                // Led elsewhere since, its names are none of our business.
                Some(store) if store.base != real => {
                    let why = format!("{} changed while it was looked at", self.base.join(path).display());
                    Err(Failure::new(why))
                }
                opened => Ok(opened.map(|store| Self { allowed: self.allowed.clone(), ..store })),
            },
            _ => Ok(None),
        }
    }

    /// Tells whether somebody says something of what is at a path, or where a link there leads.
    pub(super) fn is_claimed(&self, path: &Path, claimed: &HashSet<PathBuf>) -> bool {
        claimed.contains(&self.base.join(path))
            || matches!(self.follow(path), Leads::To(real) if claimed.contains(&real))
    }

    /// Names a path for people.
    pub fn shown(&self, path: &Path) -> String {
        let path = if path.as_os_str().is_empty() { &self.base } else { path };
        harmless_line(&path.to_string_lossy())
    }

    /// Follows the links on the way to a path.
    pub(super) fn follow(&self, path: &Path) -> Leads {
        // Nothing can be followed in a store that is not there.
        if self.entries().is_empty() {
            return Leads::Nowhere;
        }
        let whole = self.base.join(path);
        let is_listed_whole = self.entries.len() == self.entries().len() as u64;
        let has_link = || path.ancestors().any(|part| self.links.contains(part));
        if is_listed_whole && (self.links.is_empty() || !has_link()) {
            return Leads::To(whole);
        }
        match whole.canonicalize() {
            Ok(real) if self.allowed.iter().any(|base| real.starts_with(base)) => Leads::To(real),
            Ok(real) => {
                let real = harmless_line(&real.to_string_lossy());
                Leads::Astray(format!("a link leads out of the store, to {real}"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && has_link() => Leads::Nowhere,
            Err(error) if error.kind() == ErrorKind::NotFound => Leads::To(whole),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Leads::Astray("a loop of symbolic links".to_owned())
            }
            Err(error) => Leads::Astray(error.to_string()),
        }
    }

    /// Makes a verdict about a path that needs no look at the bytes.
    pub fn verdict(&self, path: &Path, from: &str, finding: Finding) -> Verdict {
        Verdict {
            path: self.base.join(path),
            shown: self.shown(path),
            from: from.to_owned(),
            finding,
            bytes_read: 0,
            cached: false,
        }
    }

    /// Tells whether everything below a folder could be looked at.
    pub(super) fn is_whole(&self, folder: &Path) -> bool {
        let unreadable = self.entries.unreadable();
        let next = unreadable.partition_point(|path| path.as_path() < folder);
        let is_known = unreadable.get(next).is_none_or(|path| !path.starts_with(folder));
        is_known && self.entries.len() == self.entries().len() as u64
    }

    /// Says what could not be looked at.
    pub(super) fn unseen(&self) -> Vec<Verdict> {
        let unreadable = self.entries.unreadable();
        let about = |path: &Path, finding| self.verdict(path, "the store", finding);
        let one = |path: &PathBuf| about(path, Finding::Unreadable("it cannot be looked at".to_owned()));
        let mut verdicts: Vec<Verdict> = unreadable.iter().take(COMPLAINTS).map(one).collect();
        if unreadable.len() > COMPLAINTS {
            let why = format!("{} more entries cannot be looked at", unreadable.len() - COMPLAINTS);
            verdicts.push(about(Path::new(""), Finding::Unreadable(why)));
        }
        let more = self.entries.len() - self.entries().len() as u64;
        if more > 0 {
            let why = format!("{more} more entries were not looked at");
            verdicts.push(about(Path::new(""), Finding::Unsupported(why)));
        }
        verdicts
    }
}

impl Said {
    /// Adds a claim about the file at `path` of a store, wherever links lead from there.
    pub(super) fn push(&mut self, store: &Store, path: &Path, claim: Claim) {
        let shown = store.shown(path);
        match store.follow(path) {
            Leads::To(real) => self.claims.push(Claim { path: real, shown, ..claim }),
            Leads::Nowhere => {
                let finding = match claim.need {
                    Need::Required => Finding::MissingRequired,
                    Need::Optional => Finding::MissingOptional,
                };
                self.verdicts.push(store.verdict(path, &claim.from, finding));
            }
            Leads::Astray(why) => {
                self.verdicts.push(store.verdict(path, &claim.from, Finding::Inconsistent(why)));
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is looked at")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_inside_and_to_other_stores_only() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        for folder in ["models/sub", "more", "outside"] {
            fs::create_dir_all(place.join(folder)).unwrap();
            fs::write(place.join(folder).join("f"), b"x").unwrap();
        }
        let models = place.join("models");
        symlink("sub/f", models.join("inside")).unwrap();
        symlink("../more", models.join("more")).unwrap();
        symlink("../outside/f", models.join("out")).unwrap();
        symlink("nothing", models.join("dangling")).unwrap();
        symlink("loop", models.join("loop")).unwrap();
        let mut store = Store::open(&models).unwrap().unwrap();
        store.allow(&[place.join("more")]);
        let leads = |path: &str| store.follow(Path::new(path));
        assert_eq!(leads("inside"), Leads::To(models.join("sub/f")));
        assert_eq!(leads("more/f"), Leads::To(place.join("more/f")));
        assert_eq!(leads("sub/none"), Leads::To(models.join("sub/none")));
        assert_eq!(leads("dangling"), Leads::Nowhere);
        symlink("models", place.join("by link")).unwrap();
        assert_eq!(Store::missing(&place.join("by link/none")).follow(Path::new("f")), Leads::Nowhere);
        assert!(matches!(leads("out"), Leads::Astray(why) if why.contains("out of the store")));
        assert!(matches!(leads("loop"), Leads::Astray(why) if why.contains("loop")));
    }

    #[test]
    fn what_lies_below_a_folder_is_not_what_only_begins_like_it() {
        let place = tempfile::tempdir().unwrap();
        for file in ["a/x", "a/b/y", "a-b/z", "ab"] {
            fs::create_dir_all(place.path().join(file).parent().unwrap()).unwrap();
            fs::write(place.path().join(file), b"").unwrap();
        }
        let store = Store::open(place.path()).unwrap().unwrap();
        let names: Vec<_> = store.below(Path::new("a")).iter().map(|entry| entry.path.clone()).collect();
        assert_eq!(names, ["a/b", "a/b/y", "a/x"].map(PathBuf::from));
        assert!(store.entry(Path::new("ab")).is_some() && store.entry(Path::new("c")).is_none());
    }

    #[test]
    fn forms_are_found_wherever_they_lie() {
        let place = tempfile::tempdir().unwrap();
        for folder in ["x/ollama/blobs", "x/ollama/manifests", "hub/models--a--b/snapshots", "y/blobs"] {
            fs::create_dir_all(place.path().join(folder)).unwrap();
        }
        let forms = Store::open(place.path()).unwrap().unwrap().forms().unwrap();
        let expected = [("hub/models--a--b", Form::HuggingFace), ("x/ollama", Form::Ollama)];
        assert_eq!(forms, expected.map(|(path, form)| (PathBuf::from(path), form)));
        fs::create_dir_all(place.path().join("z/manifests/registry.ollama.ai/library/mistral")).unwrap();
        assert_eq!(Store::open(place.path()).unwrap().unwrap().forms().unwrap(), forms);
        let manifest = place.path().join("z/manifests/registry.ollama.ai/library/mistral/latest");
        fs::write(manifest, "{}").unwrap();
        let more = Store::open(place.path()).unwrap().unwrap().forms().unwrap();
        assert_eq!(more[2..], [(PathBuf::from("z"), Form::Ollama)], "its blobs are gone, and it is one");
        let itself = Store::open(&place.path().join("x/ollama")).unwrap().unwrap().forms().unwrap();
        assert_eq!(itself, [(PathBuf::new(), Form::Ollama)]);
        assert!(Store::open(&place.path().join("none")).unwrap().is_none());
    }
}
