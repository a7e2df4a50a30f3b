//! From the sources of truth to verdicts, and to the sentence that a report carries.

use std::collections::HashSet;
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};
use crate::process::interrupt;
use crate::report::screen::{count, harmless_line, size};
use crate::service::envfile::EnvFile;
use crate::settings::layout::Layout;

use super::cache::Cache;
use super::engine::{self, Examined, How};
use super::gguf::Told;
use super::headers::{self, Headers};
use super::manifest::{self, Manifest};
use super::places::{self, Named, Place};
use super::progress::Progress;
use super::store::{Form, Store};
use super::{AT_MOST, Claim, Finding, Header, Said, Severity, Verdict};
use super::{huggingface, ollama, plain, told_short, whole};

/// The manifest as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    /// There is none.
    Missing,
    /// What it says.
    Bytes(Vec<u8>),
    /// It cannot be read, and why.
    Unreadable(String),
}

impl Text {
    /// Reads the manifest of the deployed application, whether or not its folder is a work tree.
    pub fn of_app(layout: &Layout) -> Self {
        let place = layout.app().join(manifest::PLACE);
        let found = layout.app().canonicalize().and_then(|app| Ok((place.canonicalize()?, app)));
        let (path, app) = match found {
            Ok(found) => found,
            Err(error) if is_nothing(&error) => {
                return match place.symlink_metadata() {
                    Ok(_) => Self::Unreadable("a link that leads nowhere".to_owned()),
                    Err(error) if is_nothing(&error) => Self::Missing,
                    Err(error) => Self::Unreadable(error.to_string()),
                };
            }
            // What may not be looked at may well expect models.
            Err(error) => return Self::Unreadable(error.to_string()),
        };
        // Whoever can write in app/ must not choose what is read with the rights of whoever looks.
        if !path.starts_with(&app) {
            return Self::Unreadable("a link leads out of the application".to_owned());
        }
        match whole::read(&path, manifest::LIMIT) {
            Ok(bytes) => Self::Bytes(bytes),
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// Tells whether an error says that there is nothing at a path.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Returns `true` if a failure is caused by a place that this user may not enter.
fn is_denied(failure: &Failure) -> bool {
    let cause = failure.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == ErrorKind::PermissionDenied)
}

/// Everything that is said about models on this machine.
#[derive(Debug)]
pub struct Gathered {
    said: Said,
    /// Whether every manifest of Ollama was read.
    is_ollama_read: bool,
    /// Where models were looked for and found, and who named these places.
    pub sources: Vec<String>,
}

/// Gathers what the manifest, files of checksums and stores say. `env_file` is the service's environment file as it was
/// read, `stores` are the places that the host names.
///
/// # Errors
/// The interruption, or a folder that a store of Ollama links to cannot be looked at.
pub fn gather(
    layout: &Layout,
    text: &Text,
    env_file: Outcome<EnvFile>,
    stores: &[PathBuf],
) -> Outcome<Gathered> {
    let mut gathered = Gathered { said: Said::default(), is_ollama_read: true, sources: Vec::new() };
    let manifest = gathered.manifest(layout, text);
    let base = manifest.as_ref().and_then(|manifest| manifest.base.clone());
    let base = base.map_or_else(|| layout.models(), |base| places::below(layout, &base));
    let mut all = vec![Place { path: base.clone(), named: Named::Base }];
    let env_file = gathered.usable(layout, env_file);
    all.extend(places::others(layout, &env_file, stores));
    let mut stores = gathered.open(layout, &all)?;
    let bases: Vec<PathBuf> = stores.iter().map(|(_, store)| store.base.clone()).collect();
    for (_, store) in &mut stores {
        store.allow(&bases);
    }
    // Of a base that is not there, or that cannot be opened, no file is.
    let has_base = stores.iter().any(|(named, _)| *named == Named::Base);
    if !has_base && places::refusal(layout, &base).is_none() {
        stores.insert(0, (Named::Base, Store::missing(&base)));
    }
    let mut parts = Vec::new();
    for (named, store) in &stores {
        let covered = bases.iter().filter_map(|other| other.strip_prefix(&store.base).ok());
        let covered = covered.filter(|inner| !inner.as_os_str().is_empty());
        let part = Part::of(store, covered.map(Path::to_path_buf).collect())?;
        let manifest = manifest.as_ref().filter(|_| *named == Named::Base);
        gathered.listen(&part, manifest)?;
        parts.push(part);
    }
    if gathered.said.is_full() {
        let why = format!("more than {AT_MOST} things are said of models; the others were not looked at");
        let about = Store::missing(&base).verdict(Path::new(""), "models", Finding::Inconsistent(why));
        gathered.said.verdicts.push(about);
    }
    // Only now is known of every file whether nobody says anything about it: stores refer to each other.
    let claimed = gathered.said.paths();
    for part in &parts {
        gathered.look_into_forms(part, &claimed)?;
    }
    let claimed = gathered.said.paths();
    for part in &parts {
        plain::others(part.store, &part.except, &claimed, &mut gathered.said)?;
        gathered.said.verdicts.extend(part.store.unseen());
    }
    Ok(gathered)
}

/// A store, and what in it is looked at as what.
struct Part<'a> {
    store: &'a Store,
    forms: Vec<(PathBuf, Form)>,
    /// What is not looked at file by file: the folders of a form, and those that are stores of their own.
    except: HashSet<PathBuf>,
}

impl<'a> Part<'a> {
    fn of(store: &'a Store, covered: HashSet<PathBuf>) -> Outcome<Self> {
        let mut forms = store.forms()?;
        forms.retain(|(folder, _)| !folder.ancestors().any(|outer| covered.contains(outer)));
        let mut except = covered;
        except.extend(forms.iter().map(|(folder, _)| folder.clone()));
        Ok(Self { store, forms, except })
    }
}

impl Gathered {
    fn manifest(&mut self, layout: &Layout, text: &Text) -> Option<Manifest> {
        let finding = match text {
            Text::Missing => return None,
            Text::Unreadable(why) => Finding::Unreadable(why.clone()),
            Text::Bytes(bytes) => match Manifest::parse(bytes) {
                Ok(manifest) => {
                    let models = count(manifest.models.len(), "model");
                    self.sources.push(format!("{} ({models})", manifest::PLACE));
                    self.said.verdicts.extend(manifest.verdicts(&about_manifest(layout)));
                    return Some(manifest);
                }
                Err(why) => Finding::Inconsistent(why),
            },
        };
        self.said.verdicts.push(Verdict { finding, ..about_manifest(layout) });
        None
    }

    /// Opens each place once; one that lies in another is looked at there.
    fn open(&mut self, layout: &Layout, all: &[Place]) -> Outcome<Vec<(Named, Store)>> {
        let mut stores: Vec<(Named, Store)> = Vec::new();
        for place in all {
            interrupt::check()?;
            let about = |finding: Finding| Verdict {
                path: place.path.clone(),
                shown: harmless_line(&place.path.to_string_lossy()),
                from: place.named.in_words(),
                finding,
                bytes_read: 0,
                cached: false,
            };
            if let Some(why) = places::refusal(layout, &place.path) {
                self.said.verdicts.push(about(Finding::Inconsistent(why)));
                continue;
            }
            match Store::open(&place.path) {
                Ok(Some(store)) => {
                    if stores.iter().all(|(_, other)| !store.base.starts_with(&other.base)) {
                        stores.push((place.named, store));
                    }
                }
                Ok(None) if place.named == Named::Host => {
                    self.said.verdicts.push(about(Finding::MissingRequired));
                }
                // It may be on a disk that is not there.
                Ok(None) if matches!(place.named, Named::Variable(_)) => {
                    self.said.verdicts.push(about(Finding::MissingOptional));
                }
                Ok(None) => {}
                Err(failure) if failure.interrupted_by().is_some() => return Err(failure),
                Err(failure) => {
                    let why = failure.chain().split_off(1).join(": ");
                    // Another service may keep it to itself.
                    let is_of_others = matches!(place.named, Named::Variable(_) | Named::Package);
                    self.said.verdicts.push(about(if is_of_others && is_denied(&failure) {
                        Finding::Unsupported(format!("not looked at: {why}"))
                    } else {
                        Finding::Unreadable(why)
                    }));
                }
            }
        }
        // A place that was opened first may lie in one that came later.
        let bases: Vec<PathBuf> = stores.iter().map(|(_, store)| store.base.clone()).collect();
        let is_inner = |base: &Path| bases.iter().any(|other| base != other && base.starts_with(other));
        stores.retain(|(named, store)| *named == Named::Base || !is_inner(&store.base));
        Ok(stores)
    }

    /// Returns the service's environment file, which names places; an empty one where it could not be read. It may hold
    /// secrets, so not everybody may read it.
    fn usable(&mut self, layout: &Layout, env_file: Outcome<EnvFile>) -> EnvFile {
        let path = layout.env_file();
        env_file.unwrap_or_else(|failure| {
            let why = failure.chain().join(": ");
            let why = format!("places that it names are not looked at: {}", told_short(&why));
            let about = Store::missing(&path).verdict(Path::new(""), "places", Finding::Unsupported(why));
            self.said.verdicts.push(Verdict { path, ..about });
            EnvFile::default()
        })
    }

    /// Takes up what is said about the files of a store.
    fn listen(&mut self, part: &Part<'_>, manifest: Option<&Manifest>) -> Outcome<()> {
        let said = &mut self.said;
        if let Some(manifest) = manifest {
            manifest.claims(part.store, said)?;
        }
        for (folder, form) in &part.forms {
            match form {
                Form::Ollama => self.is_ollama_read &= ollama::claims(part.store, folder, said)?,
                Form::HuggingFace => huggingface::claims(part.store, folder, said)?,
            }
        }
        plain::claims(part.store, &part.except, said)?;
        if !part.store.entries().is_empty() {
            self.sources.push(harmless_line(&part.store.base.to_string_lossy()));
        }
        Ok(())
    }

    /// Tells what in a form nobody refers to; `claimed` is what somebody says something about.
    fn look_into_forms(&mut self, part: &Part<'_>, claimed: &HashSet<PathBuf>) -> Outcome<()> {
        let said = &mut self.said;
        for (folder, form) in &part.forms {
            match form {
                Form::Ollama => ollama::others(part.store, folder, claimed, self.is_ollama_read, said)?,
                Form::HuggingFace => huggingface::others(part.store, folder, claimed, said)?,
            }
        }
        Ok(())
    }
}

fn about_manifest(layout: &Layout) -> Verdict {
    Verdict {
        path: layout.app().join(manifest::PLACE),
        shown: manifest::PLACE.to_owned(),
        from: "manifest".to_owned(),
        finding: Finding::Present,
        bytes_read: 0,
        cached: false,
    }
}

/// What a verification found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verified {
    /// Every verdict, sorted by path.
    pub verdicts: Vec<Verdict>,
    /// Where models were looked for.
    pub sources: Vec<String>,
    /// All of it in numbers.
    pub summary: Summary,
    /// What is known now of what was read.
    pub cache: Cache,
}

/// A verification in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How closely was looked: `presence` or `full`.
    pub how: String,
    /// How many files and claims there are verdicts about.
    pub looked_at: usize,
    /// How many of them have the digest that is said.
    pub verified: usize,
    /// How many are there, and no digest was compared.
    pub present: usize,
    /// How many are worth knowing of.
    pub notes: usize,
    /// How many are problems.
    pub problems: usize,
    /// How many bytes were read.
    pub bytes_read: u64,
    /// The first problems, in words.
    pub first_problems: Vec<String>,
}

/// How many problems a summary names.
const FIRST: usize = 10;

/// Looks at everything that something is said about.
///
/// # Errors
/// The interruption, with the cache of what was read until then.
pub fn verify(
    gathered: Gathered,
    how: How,
    cache: &Cache,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Verified, (Failure, Cache)> {
    let said = gathered.said.united().map_err(|failure| (failure, cache.clone()))?;
    let Examined { verdicts, cache, ended } = engine::examine(&said.claims, how, cache, threads, progress);
    if let Err(failure) = ended {
        return Err((failure, cache));
    }
    let open = said.claims.iter().zip(&verdicts).filter(|(claim, verdict)| is_open(claim, verdict));
    let files: HashSet<&Path> = open.map(|(claim, _)| claim.path.as_path()).collect();
    let files = files.into_iter().map(Path::to_path_buf).collect();
    let headers = match headers::examine(files, threads, &interrupt::check, progress) {
        Ok(headers) => headers,
        Err(failure) => return Err((failure, cache)),
    };
    let mut all = said.verdicts;
    let verdicts = said.claims.iter().zip(verdicts);
    all.extend(verdicts.filter_map(|(claim, verdict)| settled(claim, verdict, &headers)));
    // One file that is reached by two ways has one verdict.
    let mut seen = HashSet::new();
    all.retain(|verdict| seen.insert((verdict.path.clone(), verdict.from.clone(), verdict.finding.clone())));
    all.sort_by(|one, other| one.path.cmp(&other.path));
    let summary = Summary::of(&all, how);
    // Whoever asked for a halt in the meantime must not be told that all is well.
    if let Err(failure) = interrupt::check() {
        return Err((failure, cache));
    }
    Ok(Verified { verdicts: all, sources: gathered.sources, summary, cache })
}

/// Tells whether the header is what settles it, because no digest has.
fn is_open(claim: &Claim, verdict: &Verdict) -> bool {
    claim.header == Header::Gguf
        && matches!(verdict.finding, Finding::Present | Finding::DigestMismatch { .. })
}

/// Compares the header where the digest has not settled it.
fn settled(claim: &Claim, verdict: Verdict, headers: &Headers) -> Option<Verdict> {
    let finding = match headers.get(&claim.path) {
        Some((told, length)) if is_open(claim, &verdict) => of_header(told, *length, &verdict.finding),
        _ => verdict.finding.clone(),
    };
    let finding = match finding {
        // Nobody says that it has to be there; it may have gone meanwhile.
        Finding::MissingOptional if claim.from == plain::NOBODY => return None,
        Finding::Present if claim.from == plain::NOBODY => Finding::Unexpected,
        other => other,
    };
    Some(Verdict { finding, ..verdict })
}

fn of_header(told: &Told, found: u64, known: &Finding) -> Finding {
    let is_present = *known == Finding::Present;
    match told {
        Told::TooShort { needs } => Finding::Truncated { needs: *needs, found },
        Told::NotGguf if is_present => Finding::Inconsistent("it is no GGUF file".to_owned()),
        Told::Broken(why) if is_present => Finding::Inconsistent(format!("its GGUF header: {why}")),
        Told::Unsupported(why) if is_present => Finding::Unsupported(why.clone()),
        Told::Unreadable(why) if is_present => Finding::Unreadable(why.clone()),
        _ => known.clone(),
    }
}

impl Summary {
    fn of(verdicts: &[Verdict], how: How) -> Self {
        let of = |severity| verdicts.iter().filter(move |verdict| verdict.finding.severity() == severity);
        let are = |finding: &Finding| verdicts.iter().filter(|verdict| verdict.finding == *finding).count();
        let first = of(Severity::Problem).take(FIRST);
        Self {
            how: match how {
                How::Presence => "presence".to_owned(),
                How::Full | How::Afresh => "full".to_owned(),
            },
            looked_at: verdicts.len(),
            verified: are(&Finding::Verified),
            present: are(&Finding::Present),
            notes: of(Severity::Note).count(),
            problems: of(Severity::Problem).count(),
            bytes_read: verdicts.iter().map(|verdict| verdict.bytes_read).sum(),
            first_problems: first
                .map(|verdict| {
                    // Others may read this than may read the file, so nothing of its content is in it, no digest either.
                    let told = match &verdict.finding {
                        Finding::DigestMismatch { .. } => "has another digest than is said".to_owned(),
                        other => other.to_string(),
                    };
                    harmless_line(&format!("{}: {told} ({})", verdict.shown, verdict.from))
                })
                .collect(),
        }
    }

    /// Returns the whole as a sentence.
    pub fn in_words(&self) -> String {
        if self.looked_at == 0 {
            return "no models, and nobody expects any".to_owned();
        }
        let mut parts = vec![format!("{} verified", self.verified)];
        if self.present > 0 {
            parts.push(format!("{} present", self.present));
        }
        if self.problems > 0 {
            parts.push(count(self.problems, "problem"));
        }
        if self.notes > 0 {
            parts.push(count(self.notes, "note"));
        }
        if self.bytes_read > 0 {
            parts.push(format!("{} read", size(self.bytes_read)));
        }
        parts.join(", ")
    }
}
