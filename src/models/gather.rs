//! From the sources to claims: the manifest, the checksum files, indexes and Ollama manifests of every model directory, and
//! the files that no source lists. It reads these sources.

use std::collections::HashSet;
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};
use crate::manifest::{Entry, Kind};
use crate::process::interrupt;
use crate::report::screen::{count, harmless_line};
use crate::service::envfile::EnvFile;
use crate::settings::layout::Layout;

use super::claims::ClaimSet;
use super::locations::{self, Location, NamedBy};
use super::manifest::{self, Manifest};
use super::model_dirs::{ModelDir, ModelDirs, Resolved, read_file, verdicts};
use super::ollama::{self, BlobName};
use super::{Expected, Finding, Format, Verdict, checksum_files, safetensors, shortened};

/// The source of a file that no source lists: only its own header is examined.
pub(super) const UNLISTED: &str = "not listed";

/// The text of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestText {
    /// There is none.
    Missing,
    /// The text.
    Bytes(Vec<u8>),
    /// It cannot be read, with the reason.
    Unreadable(String),
}

impl ManifestText {
    /// Reads the manifest of the deployed application. No link in `app/` is followed: a writer of `app/` must not choose
    /// what is read.
    pub fn read(layout: &Layout) -> Self {
        let app = match layout.app().canonicalize() {
            Ok(app) => app,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::Missing,
            Err(error) => return Self::Unreadable(error.to_string()),
        };
        match read_file(&app.join(manifest::PATH), manifest::LIMIT) {
            Ok(None) => Self::Missing,
            Ok(Some(bytes)) => Self::Bytes(bytes),
            Err(why) => Self::Unreadable(why),
        }
    }
}

/// Everything that is expected of models on this machine.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// The claims.
    pub(super) set: ClaimSet,
    /// The manifest and the directories that were found.
    pub(super) sources: Vec<String>,
    dirs: ModelDirs,
    /// The directories of Ollama stores.
    ollama: HashSet<PathBuf>,
    /// Whether a manifest of Ollama could not be read: then its blobs cannot be told from orphans.
    is_ollama_unclear: bool,
}

/// Gathers the claims of all sources; `stores` are the directories that the host names.
///
/// # Errors
/// The interruption.
pub(super) fn gather(
    layout: &Layout,
    text: &ManifestText,
    env_file: Outcome<EnvFile>,
    stores: &[PathBuf],
) -> Outcome<Gathered> {
    let mut gathered = Gathered::default();
    let manifest = gathered.manifest(layout, text);
    let base = manifest.base.as_ref().map_or_else(|| layout.models(), |base| locations::below(layout, base));
    let env_file = gathered.env_file(layout, env_file);
    gathered.open(layout, Location { path: base.clone(), named_by: NamedBy::Manifest })?;
    for location in locations::others(layout, &env_file, stores) {
        gathered.open(layout, location)?;
    }
    let base = base.canonicalize().unwrap_or(base);
    for (path, expected) in manifest.models {
        interrupt::check()?;
        gathered.set.push(&gathered.dirs, &base.join(path), expected);
    }
    gathered.read_sources()?;
    gathered.set.add_parts(&gathered.dirs)?;
    gathered.add_unlisted()?;
    gathered.set.add_parts(&gathered.dirs)?;
    let unlisted: Vec<Verdict> = gathered.dirs.dirs.iter().flat_map(ModelDir::unlisted).collect();
    for verdict in unlisted {
        gathered.set.report(verdict);
    }
    if gathered.set.is_full {
        let finding =
            Finding::Inconsistent("the sources name too many files; not all are examined".to_owned());
        gathered.set.verdicts.push(Verdict::unread(&base, "models", "models", finding));
    }
    Ok(gathered)
}

impl Gathered {
    fn manifest(&mut self, layout: &Layout, text: &ManifestText) -> Manifest {
        let path = layout.app().join(manifest::PATH);
        let about = |finding| Verdict::unread(&path, manifest::PATH, "manifest", finding);
        let refused = match text {
            ManifestText::Missing => return Manifest::default(),
            ManifestText::Unreadable(why) => Finding::Unreadable(why.clone()),
            ManifestText::Bytes(bytes) => match Manifest::parse(bytes) {
                Ok(manifest) => {
                    let models = count(manifest.models.len(), "model");
                    self.sources.push(format!("{} ({models})", manifest::PATH));
                    self.set.verdicts.extend(verdicts(&path, manifest::PATH, "manifest", &manifest.problems));
                    return manifest;
                }
                Err(why) => Finding::Inconsistent(why),
            },
        };
        self.set.report(about(refused));
        Manifest::default()
    }

    /// Returns the service's environment file, or an empty one with a note: it holds secrets, so not every caller may read it.
    fn env_file(&mut self, layout: &Layout, env_file: Outcome<EnvFile>) -> EnvFile {
        env_file.unwrap_or_else(|failure| {
            let why = shortened(&failure.chain().join(": "));
            let finding = Finding::Unsupported(format!("{} in it is not known: {why}", locations::OLLAMA));
            let path = layout.env_file();
            let shown = harmless_line(&path.to_string_lossy());
            self.set.report(Verdict::unread(&path, &shown, "environment file", finding));
            EnvFile::default()
        })
    }

    fn open(&mut self, layout: &Layout, Location { path, named_by }: Location) -> Outcome<()> {
        interrupt::check()?;
        let opened = match locations::refusal(layout, &path) {
            Some(why) => Err(Finding::Inconsistent(why)),
            None => match ModelDir::open(&path) {
                Ok(dir) => Ok(dir),
                Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
                Err(failure) => Err(closed(named_by, &failure)),
            },
        };
        let finding = match (opened, named_by) {
            (Ok(Some(dir)), _) => {
                self.dirs.add(dir);
                return Ok(());
            }
            (Ok(None), NamedBy::Manifest | NamedBy::Package) => return Ok(()),
            (Ok(None), NamedBy::Host) => Finding::MissingRequired,
            // It may be on a disk that is not mounted.
            (Ok(None), NamedBy::Ollama) => Finding::MissingOptional,
            (Err(finding), _) => finding,
        };
        let shown = harmless_line(&path.to_string_lossy());
        self.set.report(Verdict::unread(&path, &shown, named_by.source(), finding));
        Ok(())
    }

    /// Reads the checksum files, the indexes and the manifests of Ollama in every directory.
    fn read_sources(&mut self) -> Outcome<()> {
        let dirs = std::mem::take(&mut self.dirs);
        for dir in &dirs.dirs {
            if !dir.entries().is_empty() {
                self.sources.push(harmless_line(&dir.base.to_string_lossy()));
            }
            for entry in dir.entries() {
                interrupt::check()?;
                let path = dir.base.join(&entry.path);
                match Source::of_path(&path) {
                    Some(Source::ChecksumFile) => self.checksum_file(&dirs, &path)?,
                    Some(Source::Index) => self.index(&dirs, &path),
                    Some(Source::Ollama(store, model)) if entry.kind != Kind::Folder => {
                        self.ollama_manifest(&dirs, &path, store, &model);
                    }
                    _ => {}
                }
            }
        }
        self.dirs = dirs;
        Ok(())
    }

    fn checksum_file(&mut self, dirs: &ModelDirs, path: &Path) -> Outcome<()> {
        let shown = dirs.shown(path);
        let file = match dirs.read(path, checksum_files::LIMIT) {
            Ok(bytes) => checksum_files::parse(&bytes),
            Err(finding) => {
                self.set.report(Verdict::unread(path, &shown, &shown, finding));
                return Ok(());
            }
        };
        self.set.verdicts.extend(verdicts(path, &shown, &shown, &file.problems));
        for (name, digest) in file.entries {
            interrupt::check()?;
            let format = Format::of_name(&name);
            // Who publishes models lists every file in it, and a machine needs only some.
            let expected = Expected { digest: Some(digest), format, ..Expected::optional(&shown) };
            self.set.push(dirs, &path.with_file_name(name), expected);
        }
        Ok(())
    }

    fn index(&mut self, dirs: &ModelDirs, path: &Path) {
        let shown = dirs.shown(path);
        let shards = dirs.read(path, safetensors::INDEX_LIMIT);
        match shards.and_then(|bytes| safetensors::shards(&bytes).map_err(Finding::Inconsistent)) {
            Ok(shards) => {
                for shard in shards {
                    let format = Some(Format::Safetensors);
                    let expected = Expected { is_required: true, format, ..Expected::optional(&shown) };
                    self.set.push(dirs, &path.with_file_name(shard), expected);
                }
            }
            Err(finding) => self.set.report(Verdict::unread(path, &shown, &shown, finding)),
        }
    }

    fn ollama_manifest(&mut self, dirs: &ModelDirs, path: &Path, store: &Path, model: &str) {
        self.ollama.insert(store.to_path_buf());
        let read = dirs.read(path, ollama::LIMIT);
        match read.and_then(|bytes| ollama::parse(&bytes, model).map_err(Finding::Inconsistent)) {
            Ok(blobs) => {
                for (name, expected) in blobs {
                    self.set.push(dirs, &store.join("blobs").join(name), expected);
                }
            }
            Err(finding) => {
                self.is_ollama_unclear = true;
                let from = format!("ollama: {model}");
                self.set.report(Verdict::unread(path, &dirs.shown(path), &from, finding));
            }
        }
    }

    /// Adds what no source lists. A file whose name begins with a dot is a note of another tool, or a download.
    fn add_unlisted(&mut self) -> Outcome<()> {
        let listed = self.set.paths();
        let dirs = std::mem::take(&mut self.dirs);
        for dir in &dirs.dirs {
            for entry in dir.entries().iter().filter(|entry| entry.kind != Kind::Folder) {
                interrupt::check()?;
                let path = dir.base.join(&entry.path);
                let name = path.file_name().unwrap_or_default().as_encoded_bytes();
                if name.starts_with(b".") || listed.contains(&path) || Source::of_path(&path).is_some() {
                    continue;
                }
                match self.unlisted(&dirs, entry, &path) {
                    Some(Finding::Present) => {
                        let format = Format::of_name(&path);
                        self.set.push(&dirs, &path, Expected { format, ..Expected::optional(UNLISTED) });
                    }
                    Some(finding) => {
                        self.set.report(Verdict::unread(&path, &dirs.shown(&path), UNLISTED, finding));
                    }
                    None => {}
                }
            }
        }
        self.dirs = dirs;
        Ok(())
    }

    /// Returns the finding about an unlisted file; `Present` where its header is to be examined.
    fn unlisted(&self, dirs: &ModelDirs, entry: &Entry, path: &Path) -> Option<Finding> {
        if matches!(entry.kind, Kind::Link(_)) {
            return match dirs.resolve(path) {
                // What a link leads to is examined where it lies.
                Resolved::Path(_) | Resolved::NoFile => None,
                Resolved::Missing => Some(Finding::Inconsistent("a link that leads nowhere".to_owned())),
                Resolved::Refused(why) => Some(Finding::Inconsistent(why)),
            };
        }
        let blobs = path.parent().filter(|blobs| blobs.ends_with("blobs")).and_then(Path::parent);
        if blobs.is_some_and(|store| self.ollama.contains(store)) {
            return match ollama::blob_name(path) {
                Some(BlobName::Blob) if self.is_ollama_unclear => None,
                Some(BlobName::Blob) => Some(Finding::Orphaned),
                Some(BlobName::Partial) => Some(Finding::Partial),
                None => Some(Finding::Unexpected),
            };
        }
        let has_header = entry.kind == Kind::File && Format::of_name(path).is_some();
        Some(if has_header { Finding::Present } else { Finding::Unexpected })
    }
}

/// A file that names others.
enum Source<'a> {
    ChecksumFile,
    /// An index of safetensors shards.
    Index,
    /// A manifest of Ollama: the directory of its store, and the model.
    Ollama(&'a Path, String),
}

impl<'a> Source<'a> {
    fn of_path(path: &'a Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy();
        if name == checksum_files::NAME {
            Some(Self::ChecksumFile)
        } else if name.ends_with(safetensors::INDEX_NAME) {
            Some(Self::Index)
        } else {
            ollama::manifest_of(path).map(|(store, model)| Self::Ollama(store, model))
        }
    }
}

/// Returns the finding about a directory that cannot be read. Ollama runs as a user of its own, which may keep its store to
/// itself.
fn closed(named_by: NamedBy, failure: &Failure) -> Finding {
    let why = failure.chain().split_off(1).join(": ");
    if matches!(named_by, NamedBy::Ollama | NamedBy::Package) && is_denied(failure) {
        Finding::Unsupported(format!("not examined: {why}"))
    } else {
        Finding::Unreadable(why)
    }
}

/// Returns `true` if a failure is caused by a directory that this user may not enter.
fn is_denied(failure: &Failure) -> bool {
    failure.source().is_some_and(|cause| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
            || cause.downcast_ref::<Errno>() == Some(&Errno::ACCESS)
    })
}
