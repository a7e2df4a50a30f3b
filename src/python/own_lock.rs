//! The application's own lock: law where there is one.
//!
//! In this order: `uv.lock` (read through uv's own export), `pylock.toml` (PEP 751), requirements of which every line
//! is pinned with hashes. Which of its entries this machine takes, extras and groups are judged by the marker rules
//! that pip itself uses.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::definitions::{Definitions, TreeSource};
use super::generation::{Environments, Wanted};
use super::installer::Job;
use super::lock::{Lock, Locked, Origin};
use super::pip::Pip;
use super::pylock::{Package, Pylock};
use super::requirements::{self, Line, Meaning, normal_name};
use super::trouble;
use super::uv::Uv;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};

/// The lock of uv.
const UV: &str = "uv.lock";

/// The lock in standard form.
const STANDARD: &str = "pylock.toml";

/// Asks the rules of markers which entries are for this machine. It is run by the environment's interpreter, as the
/// owner, with the pinned pip.
const QUESTION: &str = "\
import json, sys
sys.path.insert(0, sys.argv[1])
from pip._vendor.packaging.markers import Marker
with open(sys.argv[2], encoding='utf-8') as file:
    asked = json.load(file)
given = {'extras': set(asked['extras']), 'dependency_groups': set(asked['groups'])}
answer = []
for text in asked['markers']:
    try:
        answer.append(text is None or Marker(text).evaluate(given, context='lock_file'))
    except Exception as error:
        sys.exit('%r: %s' % (text, error))
print(json.dumps(answer))
";

/// A lock that the application brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLock {
    file: PathBuf,
    form: Form,
}

/// In which form it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// uv's, with the project that it belongs to.
    Uv { lock: String, project: String },
    /// The standard one.
    Standard(String),
    /// Requirements of which every line is pinned with hashes.
    Requirements,
}

/// Where the programs that read a lock may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// What is missing is fetched.
    Fetched,
    /// Only what is there: no network is used.
    Present,
}

impl OwnLock {
    /// Tells whether only uv can read it.
    pub(super) fn is_of_uv(&self) -> bool {
        matches!(self.form, Form::Uv { .. })
    }

    /// Returns the file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Returns what the lock says, in one form: comments, order of tables and line endings do not count. `None` where
    /// the definition itself is the lock.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        match &self.form {
            Form::Uv { lock: text, .. } | Form::Standard(text) => {
                let read: Option<toml::Table> = toml::from_str(text).ok();
                Some(
                    read.and_then(|table| serde_json::to_vec(&sorted(&table.into())).ok())
                        .unwrap_or_default(),
                )
            }
            Form::Requirements => None,
        }
    }
}

/// The tables in the order of their keys.
fn sorted(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Table(table) => {
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect()
        }
        toml::Value::Array(all) => all.iter().map(sorted).collect(),
        other => serde_json::Value::String(other.to_string()),
    }
}

/// Tells whether a file of this name is a lock, and no list of requirements.
pub(super) fn is_lock(name: &Path) -> bool {
    name == Path::new(UV)
        || name == Path::new(STANDARD)
        || (name.extension().is_some_and(|ending| ending == "toml")
            && name.to_str().is_some_and(|name| name.starts_with("pylock.")))
}

/// Finds the lock that counts, among the lock files that the definition names and what it says itself.
///
/// # Errors
/// A lock is no text, or uv's comes without its project.
pub(super) fn find(
    source: &dyn TreeSource,
    locks: &[PathBuf],
    definitions: &Definitions,
) -> Outcome<Option<OwnLock>> {
    let text = |path: &Path| -> Outcome<Option<String>> {
        let Some(bytes) = source.read(path)? else { return Ok(None) };
        let told = || format!("{} is no text in UTF-8", path.display());
        let text = String::from_utf8(bytes).context(told)?;
        toml::from_str::<toml::Table>(&text).context(|| format!("{} cannot be read", path.display()))?;
        Ok(Some(text))
    };
    if locks.iter().any(|path| path == Path::new(UV))
        && let Some(lock) = text(Path::new(UV))?
    {
        let project = text(Path::new("pyproject.toml"))?
            .ok_or_else(|| Failure::new("uv.lock is there without the pyproject.toml that it belongs to"))?;
        return Ok(Some(OwnLock { file: UV.into(), form: Form::Uv { lock, project } }));
    }
    let mut standard: Vec<&PathBuf> = locks.iter().filter(|path| *path != Path::new(UV)).collect();
    standard.sort_by_key(|path| **path != Path::new(STANDARD));
    if let Some(file) = standard.first()
        && let Some(lock) = text(file)?
    {
        return Ok(Some(OwnLock { file: (*file).clone(), form: Form::Standard(lock) }));
    }
    let lines = definitions.package_lines();
    let mut listed = lines.iter().filter(|(file, _)| *file != Path::new("pyproject.toml"));
    let Some((file, _)) = listed.clone().next() else { return Ok(None) };
    let all = listed.all(|(_, line)| pinned(line).is_some());
    Ok(all.then(|| OwnLock { file: (*file).to_path_buf(), form: Form::Requirements }))
}

/// Reads a line that pins one version with hashes.
fn pinned(line: &Line) -> Option<Locked> {
    let Meaning::Package(package) = &line.meaning else { return None };
    let (wish, marker) = match package.specification.split_once(';') {
        Some((wish, marker)) => (wish, Some(marker.trim().to_owned())),
        None => (package.specification.as_str(), None),
    };
    let wish = wish.trim();
    let wish = if wish.starts_with('[') { wish.split_once(']')?.1.trim() } else { wish };
    let version = wish.strip_prefix("===").or_else(|| wish.strip_prefix("=="))?.trim();
    if version.is_empty() || version.contains([',', '*', '@', ' ', ')']) {
        return None;
    }
    let digests = requirements::sha256_of(&line.text);
    let name = package.name.clone();
    (!digests.is_empty()).then(|| Locked { name, version: version.to_owned(), marker, digests, url: None })
}

impl Environments<'_> {
    /// Reads the application's own lock for this machine.
    ///
    /// # Errors
    /// It is not for this machine, does not fit the project, or cannot be proved by digests.
    pub(super) fn read_own_lock(
        &self,
        wanted: &Wanted,
        own: &OwnLock,
        readers: Readers,
        scratch: &Path,
    ) -> Outcome<Lock> {
        let reading = Reading { wanted, job: self.job(wanted, scratch), readers, scratch };
        let origin = Origin::Application { file: own.file.clone() };
        let told = || format!("the application's {} cannot be used", own.file.display());
        let (packages, document) = match &own.form {
            Form::Requirements => (reading.pinned().context(told)?, String::new()),
            Form::Standard(text) => (reading.standard(text).context(told)?, text.clone()),
            Form::Uv { lock, project } => {
                let document = reading.export(lock, project).context(told)?;
                (reading.standard(&document).context(told)?, document)
            }
        };
        let lock = Lock::new(wanted.key(), origin, packages, &document).context(told)?;
        check_complete(wanted, own, &lock)?;
        Ok(lock)
    }
}

/// Refuses a lock that leaves out what the project asks for by name.
fn check_complete(wanted: &Wanted, own: &OwnLock, lock: &Lock) -> Outcome<()> {
    let asked = wanted.definitions.package_lines();
    let asked = asked.iter().filter(|(file, _)| *file == Path::new("pyproject.toml"));
    let lacks = asked
        .filter_map(|(_, line)| match &line.meaning {
            Meaning::Package(package) if !package.specification.contains(';') => Some(&package.name),
            _ => None,
        })
        .find(|name| !lock.packages.iter().any(|package| package.name == **name));
    let Some(name) = lacks else { return Ok(()) };
    let file = own.file.display();
    Err(Failure::new(format!("the application's {file} lacks {name}, which pyproject.toml asks for"))
        .hint(format!("make {file} anew in the application's repository, and commit it")))
}

/// Reading one lock.
struct Reading<'a> {
    wanted: &'a Wanted,
    job: Job<'a>,
    readers: Readers,
    scratch: &'a Path,
}

/// What the rules of markers are asked.
#[derive(Serialize)]
struct Asked<'a> {
    extras: Vec<String>,
    groups: Vec<String>,
    markers: Vec<Option<&'a str>>,
}

impl Reading<'_> {
    /// The lines of requirements that are for this machine.
    fn pinned(&self) -> Outcome<Vec<Locked>> {
        let lines = self.wanted.definitions.package_lines();
        let all: Vec<Locked> = lines.iter().filter_map(|(_, line)| pinned(line)).collect();
        let markers = all.iter().map(|package| package.marker.as_deref()).collect();
        let wanted = self.fit(&[], &[], markers)?;
        let mut packages: Vec<Locked> =
            all.into_iter().zip(wanted).filter_map(|(package, wanted)| wanted.then_some(package)).collect();
        for package in &mut packages {
            package.marker = None;
        }
        // A package may be named by several files, each time with the same pin.
        packages.sort_by(|one, other| one.name.cmp(&other.name));
        packages.dedup();
        Ok(packages)
    }

    /// The distributions of a standard document that are for this machine, with the chosen extras and groups.
    fn standard(&self, text: &str) -> Outcome<Vec<Locked>> {
        let lock = Pylock::parse(text)?;
        self.wanted.interpreter.accept(lock.requires_python.as_deref())?;
        let definitions = &self.wanted.definitions;
        let extras = chosen("extra", definitions.extras(), &lock.extras)?;
        let mut groups = chosen("group", definitions.groups(), &lock.dependency_groups)?;
        if groups.is_empty() {
            groups.clone_from(&lock.default_groups);
        }
        if !lock.environments.is_empty() {
            let markers = lock.environments.iter().map(|marker| Some(marker.as_str())).collect();
            if !self.fit(&extras, &groups, markers)?.contains(&true) {
                let told = format!("it is for other machines: {}", lock.environments.join(", or "));
                return Err(Failure::new(told).hint("lock it for this platform and Python as well"));
            }
        }
        let markers = lock.packages.iter().map(|package| package.marker.as_deref()).collect();
        let wanted = self.fit(&extras, &groups, markers)?;
        let packages = lock.packages.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        let mut locked =
            packages.map(|(package, _)| Package::into_locked(package)).collect::<Outcome<Vec<_>>>()?;
        for package in &mut locked {
            package.marker = None;
        }
        Ok(locked)
    }

    /// Tells of each marker whether it holds on this machine.
    fn fit(&self, extras: &[String], groups: &[String], markers: Vec<Option<&str>>) -> Outcome<Vec<bool>> {
        if markers.iter().all(Option::is_none) {
            return Ok(vec![true; markers.len()]);
        }
        let count = markers.len();
        let (site, interpreter) = (self.job.site, self.job.interpreter);
        let pip = match self.readers {
            Readers::Fetched => Pip::ensure(site, interpreter)?,
            Readers::Present => Pip::present(site, interpreter)?.ok_or_else(|| not_here("pip"))?,
        };
        let file = self.scratch.join("markers.json");
        let asked = Asked { extras: extras.to_vec(), groups: groups.to_vec(), markers };
        disk::write_json(&file, &asked, 0o644)?;
        let program = pip.script(&self.job, QUESTION).arg(&file);
        let answer = self.job.ask(&program, "its markers are not understood")?;
        let answer: Vec<bool> =
            serde_json::from_str(&answer).context(|| "its markers are not understood".to_owned())?;
        if answer.len() == count { Ok(answer) } else { Err(Failure::new("its markers are not understood")) }
    }

    /// Brings uv's lock into standard form, without any network; that it fits the project is checked first.
    fn export(&self, lock: &str, project: &str) -> Outcome<String> {
        let (site, interpreter) = (self.job.site, self.job.interpreter);
        let uv = match self.readers {
            Readers::Fetched => Uv::ensure(site, interpreter).map_err(|failure| {
                Failure::new("only uv can read a uv.lock, and uv cannot be had")
                    .because(failure)
                    .hint("commit its standard form beside it, and name that in python.definitions: uv export --format pylock.toml -o pylock.toml")
            })?,
            Readers::Present => Uv::present(site)?.ok_or_else(|| not_here("uv"))?,
        };
        self.job.site.owned_cache(&self.job.site.layout.cache().join("uv"))?;
        let folder = self.scratch.join("project");
        disk::make_folder(&folder, 0o755)?;
        disk::write_atomic(&folder.join(UV), lock.as_bytes(), 0o644)?;
        disk::write_atomic(&folder.join("pyproject.toml"), project.as_bytes(), 0o644)?;
        let job = Job { scratch: &folder, ..self.job };
        // With an empty cache and no network, uv has nothing but the lock itself to answer from.
        let offline = |command: &[&str]| {
            let program = uv.program(&job).args(["--offline", "--no-cache"]).args(command);
            let program = program.arg("--python").arg(&job.interpreter.path);
            registries(lock).into_iter().fold(program, |program, (name, value)| program.env(name, value))
        };
        let runner = job.site.runner;
        let checked = runner.run(&offline(&["lock", "--check"]))?;
        if !checked.succeeded() {
            return Err(trouble::explain(&checked, "it does not fit pyproject.toml")
                .hint("run `uv lock` in the application's repository, and commit uv.lock"));
        }
        let mut command =
            vec!["export", "--frozen", "--format", "pylock.toml", "--no-header", "--no-annotate", "--quiet"];
        command.extend(["--no-emit-project", "--no-default-groups"]);
        let definitions = &self.wanted.definitions;
        definitions.extras().iter().for_each(|extra| command.extend(["--extra", extra.as_str()]));
        definitions.groups().iter().for_each(|group| command.extend(["--group", group.as_str()]));
        let exported = runner.run(&offline(&command))?;
        if exported.succeeded() {
            return Ok(exported.text());
        }
        Err(trouble::explain(&exported, "uv cannot read it"))
    }
}

/// Says that a program which reads the lock is missing, where no network is used.
fn not_here(program: &str) -> Failure {
    let what = format!("neither this machine nor the bundle has the {program} that reads it");
    Failure::new(what).hint("ladylinux-refresh bundle create --output FILE")
}

/// The names that are chosen, as the lock writes them.
fn chosen(what: &str, chosen: &[String], known: &[String]) -> Outcome<Vec<String>> {
    let find = |name: &String| {
        let found = known.iter().find(|known| normal_name(known) == normal_name(name));
        found.cloned().ok_or_else(|| Failure::new(format!("it has no {what} {name:?}")))
    };
    // What was chosen when the lock was made is in it without a name.
    if known.is_empty() { Ok(Vec::new()) } else { chosen.iter().map(find).collect() }
}

/// The variables that make uv take the indexes of a lock for those that are configured. It asks none of them.
fn registries(lock: &str) -> Vec<(String, String)> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        package: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        source: toml::Table,
    }
    let Ok(read) = toml::from_str::<File>(lock) else { return Vec::new() };
    let named = read.package.iter().filter_map(|entry| entry.source.get("registry")?.as_str());
    let mut urls: Vec<&str> = named.filter(|url| url.contains("://")).collect();
    urls.sort_unstable();
    urls.dedup();
    let is_usual = |url: &&str| url.starts_with("https://pypi.org/");
    let default = urls.iter().copied().find(is_usual).or(urls.first().copied());
    let others: Vec<&str> = urls.iter().copied().filter(|url| Some(*url) != default).collect();
    [("UV_DEFAULT_INDEX", default.unwrap_or_default().to_owned()), ("UV_INDEX", others.join(" "))]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .filter(|(name, value)| name == "UV_INDEX" || !value.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::definitions::{Choice, DEFAULT_PATTERNS, read};
    use super::*;

    struct Tree(Vec<(&'static str, String)>);

    impl TreeSource for Tree {
        fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
            Ok(self.0.iter().map(|(name, _)| PathBuf::from(name)).collect())
        }
        fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
            Ok(self.0.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| text.clone().into()))
        }
    }

    fn definitions(files: &[(&'static str, &str)]) -> Outcome<Definitions> {
        let files = files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let patterns = DEFAULT_PATTERNS.map(str::to_owned);
        read(&Tree(files), &Choice { patterns: &patterns, extras: &[], groups: &[] })
    }

    fn lock_of(files: &[(&'static str, &str)]) -> Option<PathBuf> {
        definitions(files).unwrap().own_lock().map(|lock| lock.file().to_path_buf())
    }

    const PROJECT: (&str, &str) = ("pyproject.toml", "[project]\nname='x'\ndependencies=['six']\n");
    const PINNED: &str =
        "six==1.17.0 --hash=sha256:ab\nuvicorn[standard]==0.3 ; os_name == 'x' --hash=sha256:cd\n";

    #[test]
    fn rw_5_3_the_application_s_locks_count_in_a_fixed_order() {
        let (uv, standard) = (("uv.lock", "version = 1\n"), ("pylock.toml", "lock-version = '1.0'\n"));
        let listed = ("requirements.txt", PINNED);
        assert_eq!(lock_of(&[listed, standard, uv, PROJECT]), Some("uv.lock".into()));
        assert_eq!(lock_of(&[listed, standard, PROJECT]), Some("pylock.toml".into()));
        assert_eq!(lock_of(&[listed, PROJECT]), Some("requirements.txt".into()));
        assert_eq!(lock_of(&[PROJECT]), None);
        let notes = definitions(&[listed, standard, uv, PROJECT]).unwrap();
        assert_eq!(notes.notes(), ["uv.lock is the lock; requirements.txt, pylock.toml does not count"]);
        assert!(definitions(&[uv]).unwrap_err().summary().contains("without the pyproject.toml"));
    }

    #[test]
    fn requirements_are_a_lock_only_when_every_line_is_pinned_with_a_hash() {
        for line in [
            "six",
            "six==1.17.0",
            "six>=1 --hash=sha256:ab",
            "six==1.* --hash=sha256:ab",
            "six==1 --hash=md5:ab",
        ] {
            let text = format!("{PINNED}{line}\n");
            assert_eq!(lock_of(&[("requirements.txt", &text)]), None, "{line}");
        }
        let included = [
            ("requirements.txt", "-r more.txt\n-c limits.txt\n"),
            ("more.txt", PINNED),
            ("limits.txt", "six<2"),
        ];
        assert_eq!(lock_of(&included), Some("more.txt".into()));
    }

    #[test]
    fn rw_5_3b_only_what_a_lock_says_counts_beside_it() {
        let lock = |text: &str, listed: &str| {
            definitions(&[("pylock.toml", text), ("requirements.txt", listed)]).unwrap().normalized()
        };
        let plain = lock("lock-version = '1.0'\nx = 1\n", "six");
        assert_eq!(plain, lock("# c\r\nx = 1\r\nlock-version = \"1.0\"\r\n", "idna"));
        assert_ne!(plain, lock("lock-version = '1.0'\nx = 2\n", "six"));
    }

    #[test]
    fn the_indexes_of_a_lock_are_given_to_uv_as_its_own() {
        let of = |urls: &[&str]| {
            let text: String =
                urls.iter().map(|url| format!("[[package]]\nsource = {{ registry = '{url}' }}\n")).collect();
            registries(&text).into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(
            of(&["https://a/s", "https://pypi.org/simple"]),
            ["https://pypi.org/simple", "https://a/s"]
        );
        assert_eq!(of(&["https://a/s"]), ["https://a/s", ""]);
        assert_eq!(of(&["local"]), [""]);
    }
}
