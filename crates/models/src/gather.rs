//! From the sources to claims: the manifest, the checksum files, indexes and Ollama manifests of every model directory,
//! and the files that no source lists. The module reads these sources.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use refresh_settings::layout::Layout;
use refresh_settings::model_stores;
use refresh_system::error::Outcome;
use refresh_system::interrupt;
use refresh_system::manifest::Kind;
use refresh_system::text::{count, harmless_line};

use super::gguf::Part;
use super::locations::{self, Location};
use super::manifest::{self, Manifest};
use super::model_dirs::{ModelDir, ModelDirs, read_file};
use super::{Claim, Expected, Finding, Format, Problems, Verdict, checksum_files, ollama, safetensors};

/// The source of a file that no source lists: only its own header is examined.
pub(super) const UNLISTED: &str = "not listed";

/// How many claims and verdicts are allowed: a source must not fill the memory.
const MOST_CLAIMS: usize = 200_000;

/// The text of a manifest; `None` if it does not exist, and the reason if it cannot be read.
pub(crate) type ManifestText = Result<Option<Vec<u8>>, String>;

/// Reads the manifest of the deployed application. No link in `app/` is followed: a writer of `app/` must not choose
/// the file that is read.
pub(super) fn deployed_manifest(layout: &Layout) -> ManifestText {
    match layout.app().canonicalize() {
        Ok(app) => read_file(&app.join(manifest::PATH), manifest::LIMIT),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The expectations of the sources about models on this machine.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// The claims to compare with files.
    pub(super) claims: Vec<Claim>,
    /// The verdicts that need no reading.
    pub(super) verdicts: Vec<Verdict>,
    /// The manifest and the directories that were found.
    pub(super) sources: Vec<String>,
    dirs: ModelDirs,
}

/// Gathers the claims of all sources. `ollama` is the value of the variable in the environment file, or why the file
/// cannot be read; `stores` are the directories that the host names.
///
/// # Errors
/// The interruption.
pub(super) fn gather(
    layout: &Layout,
    text: &ManifestText,
    ollama: &Result<Option<String>, String>,
    stores: Vec<PathBuf>,
) -> Outcome<Gathered> {
    let mut gathered = Gathered::default();
    let manifest = gathered.manifest(layout, text);
    if let Err(why) = ollama {
        let why = format!("{} in it does not count: {}", locations::OLLAMA, harmless_line(why));
        gathered.report(&layout.env_file(), "environment file", Finding::Unsupported(why));
    }
    let base =
        manifest.base.as_ref().map_or_else(|| layout.models(), |base| model_stores::below(layout, base));
    for location in locations::all(layout, base.clone(), ollama.clone().unwrap_or_default(), stores) {
        gathered.open(layout, location)?;
    }
    gathered.sources.extend(gathered.dirs.sources());
    let base = base.canonicalize().unwrap_or(base);
    for (path, expected) in manifest.models {
        interrupt::check()?;
        gathered.expect(&base.join(path), expected);
    }
    let files = gathered.dirs.files(&[checksum_files::NAME]);
    for (path, _) in &files {
        interrupt::check()?;
        if let Some(source) = Source::of_path(path) {
            gathered.read_source(path, &source)?;
        }
    }
    gathered.add_parts()?;
    gathered.add_unlisted(&files)?;
    gathered.add_parts()?;
    gathered.verdicts.extend(gathered.dirs.unlisted());
    if !gathered.has_room() {
        let why = "the sources name too many files; not all are examined".to_owned();
        gathered.verdicts.push(Verdict::unread(&base, "models", "models", Finding::Inconsistent(why)));
    }
    Ok(gathered)
}

/// A file that names others.
enum Source {
    ChecksumFile,
    /// An index of safetensors shards.
    Index,
    /// A manifest of Ollama: the directory of its blobs, and the model.
    Ollama(PathBuf, String),
}

impl Source {
    fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy();
        if name == checksum_files::NAME {
            Some(Self::ChecksumFile)
        } else if name.ends_with(safetensors::INDEX_NAME) {
            Some(Self::Index)
        } else {
            ollama::manifest_of(path).map(|(blobs, model)| Self::Ollama(blobs, model))
        }
    }
}

impl Gathered {
    fn has_room(&self) -> bool {
        self.claims.len() + self.verdicts.len() < MOST_CLAIMS
    }

    fn report(&mut self, path: &Path, from: &str, finding: Finding) {
        if self.has_room() {
            self.verdicts.push(Verdict::unread(path, &self.dirs.shown(path), from, finding));
        }
    }

    fn report_all(&mut self, path: &Path, from: &str, problems: &Problems) {
        for why in problems.sentences() {
            self.report(path, from, Finding::Inconsistent(why));
        }
    }

    /// Adds an expectation about the file at `path`, which may lead through links.
    fn expect(&mut self, path: &Path, expected: Expected) {
        match self.dirs.resolve(path) {
            Ok(Some(real)) if self.has_room() => {
                self.claims.push(Claim { path: real, shown: self.dirs.shown(path), expected });
            }
            Ok(Some(_)) => {}
            Ok(None) => self.report(path, &expected.from, expected.missing()),
            Err(finding) => self.report(path, &expected.from, finding),
        }
    }

    fn manifest(&mut self, layout: &Layout, text: &ManifestText) -> Manifest {
        let path = layout.app().join(manifest::PATH);
        let read = match text {
            Ok(None) => return Manifest::default(),
            Err(why) => Err(Finding::Unreadable(why.clone())),
            Ok(Some(bytes)) => Manifest::parse(bytes).map_err(Finding::Inconsistent),
        };
        match read {
            Ok(manifest) => {
                self.sources.push(format!("{} ({})", manifest::PATH, count(manifest.models.len(), "model")));
                self.report_all(&path, "manifest", &manifest.problems);
                manifest
            }
            Err(finding) => {
                self.report(&path, "manifest", finding);
                Manifest::default()
            }
        }
    }

    fn open(&mut self, layout: &Layout, location: Location) -> Outcome<()> {
        interrupt::check()?;
        let Location { path, from, missing, closed } = location;
        let finding = match model_stores::refusal(layout, &path) {
            Some(why) => Some(Finding::Inconsistent(why)),
            None => match ModelDir::open(&path) {
                Ok(Some(dir)) => {
                    self.dirs.add(dir);
                    None
                }
                Ok(None) => missing,
                Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
                Err(failure) => Some(closed(failure.chain().split_off(1).join(": "))),
            },
        };
        if let Some(finding) = finding {
            self.report(&path, from, finding);
        }
        Ok(())
    }

    fn read_source(&mut self, path: &Path, source: &Source) -> Outcome<()> {
        let shown = self.dirs.shown(path);
        let claims = match source {
            Source::ChecksumFile => self.dirs.read(path, checksum_files::LIMIT).map(|bytes| {
                let file = checksum_files::parse(&bytes);
                self.report_all(path, &shown, &file.problems);
                file.claims(path, &shown)
            }),
            Source::Index => self
                .dirs
                .read(path, safetensors::INDEX_LIMIT)
                .and_then(|bytes| safetensors::shards(&bytes, path, &shown).map_err(Finding::Inconsistent)),
            Source::Ollama(blobs, model) => self
                .dirs
                .read(path, ollama::LIMIT)
                .and_then(|bytes| ollama::parse(&bytes, blobs, model).map_err(Finding::Inconsistent)),
        };
        match claims {
            Err(finding) => self.report(path, &shown, finding),
            Ok(claims) => {
                for (path, expected) in claims {
                    interrupt::check()?;
                    self.expect(&path, expected);
                }
            }
        }
        Ok(())
    }

    /// Returns every path that a source names.
    fn paths(&self) -> HashSet<PathBuf> {
        let claims = self.claims.iter().map(|claim| &claim.path);
        claims.chain(self.verdicts.iter().map(|verdict| &verdict.path)).cloned().collect()
    }

    /// Adds expectations for all parts of a split GGUF of which one part is expected: no part works without the others.
    fn add_parts(&mut self) -> Outcome<()> {
        let known = self.paths();
        let mut sets: BTreeMap<PathBuf, (Part, bool)> = BTreeMap::new();
        for claim in &self.claims {
            interrupt::check()?;
            if let Some(part) = Part::of_name(&claim.path) {
                let first = claim.path.with_file_name(part.name(1));
                sets.entry(first).or_insert((part, false)).1 |= claim.expected.is_required;
            }
        }
        for (first, (part, is_required)) in sets {
            for number in 1..=part.count {
                interrupt::check()?;
                let path = first.with_file_name(part.name(number));
                if !known.contains(&path) {
                    let from = format!("part {number} of {}", part.count);
                    let format = Some(Format::Gguf);
                    self.expect(&path, Expected { is_required, format, ..Expected::optional(from) });
                }
            }
        }
        Ok(())
    }

    /// Adds the files that no source lists. A file whose name begins with a dot is a note of another tool, or a
    /// download.
    fn add_unlisted(&mut self, files: &[(PathBuf, Kind)]) -> Outcome<()> {
        let listed = self.paths();
        for (path, kind) in files {
            interrupt::check()?;
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if is_hidden || listed.contains(path) || Source::of_path(path).is_some() {
                continue;
            }
            match (kind, self.dirs.resolve(path)) {
                (Kind::Link(_), Ok(None)) => {
                    self.report(
                        path,
                        UNLISTED,
                        Finding::Inconsistent("a link that leads nowhere".to_owned()),
                    );
                }
                (Kind::Link(_), Err(finding @ Finding::Inconsistent(_))) => {
                    self.report(path, UNLISTED, finding);
                }
                // The target of a link is examined at its own path.
                (Kind::Link(_), _) => {}
                (Kind::File, _) if Format::of_name(path).is_some() => {
                    let format = Format::of_name(path);
                    self.expect(path, Expected { format, ..Expected::optional(UNLISTED) });
                }
                _ => self.report(path, UNLISTED, Finding::Unexpected),
            }
        }
        Ok(())
    }
}
