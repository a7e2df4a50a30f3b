//! The lock: every distribution of an environment by name, version and hashes, for one definition.
//!
//! It is kept as `locks/<key>.json` and holds the document that uv installs: requirements with hashes as the
//! application wrote them, or `pylock.toml` (PEP 751) for everything else. The key identifies the resolved input: the
//! definition, the interpreter, the indexes. Only a new resolution changes the content of a lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use refresh_events::run_report::LockSummary;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::normal_name;

use super::locked::{Locked, pinned};
use super::pylock::{Package, Pylock, without_credentials};
use super::requirements;

/// The version of the file.
const SCHEMA: u32 = 1;

/// Returns the differences between two tables by name, one per line: `+ name new`, `- name old`, `~ name old → new`.
/// `gap` separates a name from the only value.
pub fn differences(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    gap: &str,
) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let or_any = |text: &String| if text.is_empty() { "any version".to_owned() } else { text.clone() };
    let line = |name: &String| match (before.get(name), after.get(name)) {
        (None, Some(new)) => Some(format!("+ {name}{gap}{new}")),
        (Some(old), None) => Some(format!("- {name}{gap}{old}")),
        (Some(old), Some(new)) if old != new => Some(format!("~ {name} {} → {}", or_any(old), or_any(new))),
        _ => None,
    };
    names.into_iter().filter_map(line).collect()
}

/// The result of resolving a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    schema: u32,
    /// The resolved input, as sixteen hexadecimal digits.
    pub key: String,
    /// Its origin.
    pub origin: Origin,
    /// When it was made or first seen.
    pub made_at: jiff::Timestamp,
    /// The distributions, sorted by name.
    pub packages: Vec<Locked>,
    /// The form of the document.
    #[serde(default)]
    pub form: Form,
    /// The document itself.
    pub document: String,
    /// The selected extras of it.
    #[serde(default)]
    pub extras: Vec<String>,
    /// The selected dependency groups of it.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The options of uv that choose between wheels and sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) binary: Vec<String>,
}

/// The form of the document of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `pylock.toml` (PEP 751).
    #[default]
    Pylock,
    /// Requirements of which every line is pinned with hashes.
    Requirements,
}

/// The origin of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The application brings it; it is binding.
    Application {
        /// The file.
        file: PathBuf,
    },
    /// It was resolved by an installer.
    Resolved {
        /// The installer's kind and version.
        by: String,
        /// Releases after this instant were ignored.
        cutoff: Option<jiff::Timestamp>,
        /// Why the result may differ on another machine; `None` if it does not.
        not_reproducible: Option<String>,
    },
}

impl Lock {
    /// Reads a lock from a document in the form of PEP 751.
    ///
    /// # Errors
    /// The document is not understood, or a package in it has no version or no hash.
    pub fn from_pylock(key: &str, origin: Origin, document: impl AsRef<str>) -> Outcome<Self> {
        let document = without_credentials(document.as_ref());
        let packages = Pylock::parse(&document)?.packages;
        let locked = packages.into_iter().map(Package::into_locked).collect::<Outcome<Vec<_>>>()?;
        Self::new(key, origin, locked, Form::Pylock, document)
    }

    /// Creates a lock from requirements that are pinned with hashes, and from their lines.
    ///
    /// # Errors
    /// A word in them could be misread later.
    pub(super) fn from_requirements(
        key: &str,
        origin: Origin,
        packages: Vec<Locked>,
        lines: String,
    ) -> Outcome<Self> {
        Self::new(key, origin, packages, Form::Requirements, lines)
    }

    fn new(
        key: &str,
        origin: Origin,
        mut packages: Vec<Locked>,
        form: Form,
        document: String,
    ) -> Outcome<Self> {
        packages.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        // uv writes one distribution in several entries if its files come from several places.
        packages.dedup();
        for pair in packages.windows(2) {
            // Of two with markers, uv installs the one for this machine.
            if let [one, other] = pair
                && one.name == other.name
                && (one.marker.is_none() || other.marker.is_none())
                && (&one.version, &one.url) != (&other.version, &other.url)
            {
                let [one, other] =
                    [one, other].map(|package| format!("{}=={}", package.name, package.version));
                return Err(Failure::new(format!("the lock has {one} and {other} for the same machine")));
            }
        }
        let lock = Self {
            schema: SCHEMA,
            key: key.to_owned(),
            origin,
            made_at: refresh_system::clock::now(),
            packages,
            form,
            document,
            extras: Vec::new(),
            groups: Vec::new(),
            binary: Vec::new(),
        };
        lock.check()?;
        Ok(lock)
    }

    /// Returns the same lock with these extras and groups selected.
    pub(super) fn choosing(mut self, extras: Vec<String>, groups: Vec<String>) -> Self {
        (self.extras, self.groups) = (extras, groups);
        self
    }

    /// Returns the same lock with the options that choose between wheels and sources.
    pub(super) fn with_binary(mut self, options: Vec<String>) -> Outcome<Self> {
        self.binary = options;
        self.check()?;
        Ok(self)
    }

    /// Refuses a lock whose words could be misread as something else in the lines of a list.
    ///
    /// # Errors
    /// The first such word.
    pub(super) fn check(&self) -> Outcome<()> {
        let refuse = |what: &str, word: &str| {
            Err(Failure::new(format!("the lock names the {what} {word:?}, which cannot be")))
        };
        let is_option = |text: &&String| {
            let names =
                ["--no-binary=", "--only-binary="].iter().find_map(|option| text.strip_prefix(option));
            names.is_some_and(|name| name == ":all:" || is_name(name))
        };
        if let Some(option) = self.binary.iter().find(|text| !is_option(text)) {
            return refuse("option", option);
        }
        for package in &self.packages {
            let Locked { name, version, marker, hashes, url } = package;
            if !is_name(name) {
                return refuse("distribution", name);
            }
            if !is_version(version) {
                return refuse("version", version);
            }
            if let Some(hash) = hashes.iter().find(|hash| !is_hash(hash)) {
                return refuse("hash", hash);
            }
            if let Some(marker) = marker.as_ref().filter(|marker| marker.chars().any(char::is_control)) {
                return refuse("marker", marker);
            }
            if let Some(url) = url.as_ref().filter(|url| !is_web_address(url)) {
                return refuse("URL", url);
            }
        }
        Ok(())
    }

    /// Returns the document that uv installs. A lock of an older version of this program may have none.
    pub(super) fn to_install(&self) -> (Form, String) {
        if self.document.is_empty() && !self.packages.is_empty() {
            (Form::Requirements, self.requirements())
        } else {
            (self.form, self.document.clone())
        }
    }

    /// Returns the lock as a file of requirements with hashes.
    pub fn requirements(&self) -> String {
        let mut text = String::new();
        for package in &self.packages {
            match &package.url {
                // A blank must precede the marker: otherwise it could belong to the URL.
                Some(url) => text.push_str(&format!("{} @ {url}", package.name)),
                None => text.push_str(&format!("{}=={}", package.name, package.version)),
            }
            if let Some(marker) = &package.marker {
                text.push_str(&format!(" ; {marker}"));
            }
            for hash in &package.hashes {
                // Older versions of this program left the name of the algorithm out.
                let algorithm = if hash.contains(':') { "" } else { "sha256:" };
                text.push_str(&format!(" \\\n    --hash={algorithm}{hash}"));
            }
            text.push('\n');
        }
        text
    }

    /// Returns a short summary of the lock, for reports.
    pub fn summary(&self) -> LockSummary {
        let (source, cutoff, not_reproducible) = match &self.origin {
            Origin::Application { file } => (file.display().to_string(), None, None),
            Origin::Resolved { by, cutoff, not_reproducible } => {
                (format!("resolved by {by}"), *cutoff, not_reproducible.clone())
            }
        };
        LockSummary { source, cutoff, not_reproducible, digest: self.digest() }
    }

    /// Adds to a failure of the installation that the application's own lock is wrong, if the lock is one.
    pub(super) fn as_failure_of_lockfile(&self, failure: Failure) -> Failure {
        let Origin::Application { file } = &self.origin else { return failure };
        let file = file.display();
        Failure::new(format!("the application's {file} is not complete, or contradicts itself"))
            .because(failure)
            .hint(format!("update {file} in the application's repository, and commit it"))
    }

    /// Returns the differences of another lock, one per line: `+ name new`, `- name old`, `~ name old → new`.
    pub fn changes(&self, other: &Self) -> Vec<String> {
        let table = |lock: &Self| -> BTreeMap<String, String> {
            lock.packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect()
        };
        differences(&table(self), &table(other), " ")
    }

    /// Returns the sha256 over the content of the lock, in hexadecimal digits. Its origin and date do not count.
    pub(crate) fn digest(&self) -> String {
        let mut text = self.requirements();
        for (what, names) in [("extra", &self.extras), ("group", &self.groups)] {
            for name in names {
                text.push_str(&format!("# {what} {name}\n"));
            }
        }
        for option in &self.binary {
            text.push_str(&format!("# {option}\n"));
        }
        hex::encode(Sha256::digest(text.as_bytes()))
    }

    /// Reads the lock of a key; `None` if no lock exists that this version can use.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub(crate) fn read(layout: &Layout, key: &str) -> Outcome<Option<Self>> {
        let Some(bytes) = disk::read_own(&file(layout, key))? else { return Ok(None) };
        let read: Option<Self> = serde_json::from_slice(&bytes).ok();
        Ok(read.filter(|lock| lock.schema == SCHEMA && lock.key == key && lock.check().is_ok()))
    }

    /// Reads the lock of another machine.
    ///
    /// # Errors
    /// It has another version, is not understood, or has words that could be misread.
    pub(super) fn of_bytes(bytes: &[u8]) -> Outcome<Self> {
        let lock: Self = serde_json::from_slice(bytes).context(|| "the lock is not understood".to_owned())?;
        if lock.schema != SCHEMA {
            let what = format!("the lock is of version {}, and this program reads {SCHEMA}", lock.schema);
            return Err(Failure::new(what));
        }
        lock.check()?;
        lock.check_document()?;
        Ok(lock)
    }

    /// Refuses a lock whose document differs from its list. The document is installed; the list is compared.
    fn check_document(&self) -> Outcome<()> {
        let (form, document) = self.to_install();
        let again = match form {
            Form::Pylock => Self::from_pylock(&self.key, self.origin.clone(), &document)?,
            Form::Requirements => {
                let lines = requirements::parse(document.as_bytes(), "the lock")?;
                let packages = lines.iter().filter_map(pinned).collect();
                Self::from_requirements(&self.key, self.origin.clone(), packages, document)?
            }
        };
        if again.packages == self.packages {
            return Ok(());
        }
        Err(Failure::new("the lock lists other packages than its document names"))
    }

    /// Writes the lock, atomically and durably.
    pub(super) fn write(&self, layout: &Layout) -> Outcome<()> {
        disk::make_directory(&layout.locks(), 0o755)?;
        disk::write_json(&file(layout, &self.key), self, 0o644)
    }
}

fn file(layout: &Layout, key: &str) -> PathBuf {
    layout.locks().join(format!("{key}.json"))
}

/// Returns whether a text is a hash: the name of its algorithm, and lowercase hexadecimal digits.
fn is_hash(text: &str) -> bool {
    let (name, digits) = text.split_once(':').unwrap_or(("sha256", text));
    let length = match name {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    digits.len() == length && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a text is the name of a distribution in its normal form.
fn is_name(text: &str) -> bool {
    let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    text == normal_name(text) && !text.is_empty() && !text.starts_with('-') && text.bytes().all(known)
}

/// Returns whether a text contains only characters that are allowed in a version (PEP 440).
fn is_version(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'!' | b'-' | b'_');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(known)
}

/// Returns whether a text is one word with a web address, not a file.
fn is_web_address(text: &str) -> bool {
    let is_web = ["https://", "http://"].iter().any(|scheme| text.starts_with(scheme));
    is_web && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DOCUMENT: &str = "lock-version = '1.0'\ncreated-by = 'x'\n\
        [[packages]]\nname = 'Six'\nversion = '1.17.0'\nmarker = \"python_version >= '3'\"\n\
        wheels = [{ url = 'https://x/six.whl', hashes = { sha256 = '<BB>' } }]\n\
        sdist = { url = 'https://x/six.tar.gz', hashes = { sha256 = '<aa>' } }\n\
        [[packages]]\nname = 'idna'\nversion = '3.10'\nwheels = [{ url = 'u', hashes = { sha256 = '<cc>' } }]\n";

    /// Expands digests that a text contains as `<aa>`.
    pub(crate) fn written_out(text: &str) -> String {
        let pairs = ["aa", "bb", "cc", "dd", "ee", "BB"];
        pairs.iter().fold(text.to_owned(), |text, pair| text.replace(&format!("<{pair}>"), &pair.repeat(32)))
    }

    fn origin() -> Origin {
        Origin::Application { file: "pylock.toml".into() }
    }

    #[test]
    fn a_document_is_read_into_pins_with_hashes() {
        let lock = Lock::from_pylock("k", origin(), written_out(DOCUMENT)).unwrap();
        assert_eq!(
            lock.requirements(),
            written_out(
                "idna==3.10 \\\n    --hash=sha256:<cc>\nsix==1.17.0 ; python_version >= '3' \\\n    \
                 --hash=sha256:<aa> \\\n    --hash=sha256:<bb>\n"
            )
        );
    }

    #[test]
    fn a_lock_holds_one_version_of_each_package_and_lists_changes() {
        let lock = |text: &str| Lock::from_pylock("k", origin(), written_out(text));
        let one = |name: &str, version: &str| {
            format!(
                "[[packages]]\nname = '{name}'\nversion = '{version}'\nwheels = [{{ hashes = {{ sha256 = '<aa>' }} }}]\n"
            )
        };
        let before = lock(&(one("a", "1") + &one("b", "1"))).unwrap();
        let after = lock(&(one("a", "2") + &one("c", "1"))).unwrap();
        assert_eq!(before.changes(&after), ["~ a 1 → 2", "- b 1", "+ c 1"]);
        assert!(before.changes(&before).is_empty());
        let twice = lock(&(one("a", "1") + &one("A", "2"))).unwrap_err();
        assert!(twice.summary().contains("a==1 and a==2"));
    }

    #[test]
    fn a_lock_without_versions_or_hashes_is_refused() {
        for bad in ["[[packages]]\nname = 'a'\n", "[[packages]]\nname = 'a'\nversion = '1'\n", "x"] {
            assert!(Lock::from_pylock("k", origin(), bad).is_err(), "{bad}");
        }
    }

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn lock_with(change: impl Fn(&mut Locked)) -> Lock {
        let mut lock = Lock::from_pylock("k", origin(), String::new()).unwrap();
        let mut package = Locked {
            name: "six".to_owned(),
            version: "1.17.0".to_owned(),
            marker: None,
            hashes: vec![format!("sha256:{DIGEST}")],
            url: None,
        };
        change(&mut package);
        lock.packages.push(package);
        lock
    }

    #[test]
    fn a_valid_lock_is_accepted() {
        lock_with(|_| ()).check().unwrap();
    }

    #[test]
    fn fields_with_paths_options_or_several_lines_are_refused() {
        type Change = dyn Fn(&mut Locked);
        let bad: [&Change; 10] = [
            &|package| package.name = "Six".to_owned(),
            &|package| package.version = "1 --x".to_owned(),
            &|package| package.marker = Some("x\n-r y".to_owned()),
            &|package| package.hashes.push("x".to_owned()),
            &|package| package.hashes.push(format!("sha256:{}", DIGEST.to_ascii_uppercase())),
            &|package| package.hashes.push(format!("sha512:{DIGEST}")),
            &|package| package.hashes.push(format!("sha256:{}\n", &DIGEST[1..])),
            &|package| package.url = Some("file:///etc/six-1.17.0-py3-none-any.whl".to_owned()),
            &|package| package.url = Some("https://x/a b.whl".to_owned()),
            &|package| package.url = Some("https://x/a.whl\n--index-url=x".to_owned()),
        ];
        for (index, change) in bad.iter().enumerate() {
            assert!(lock_with(change).check().is_err(), "{index}");
        }
        for (index, change) in bad.iter().enumerate() {
            let bytes = serde_json::to_vec(&lock_with(change)).unwrap();
            assert!(Lock::of_bytes(&bytes).is_err(), "{index}");
            let directory = tempfile::tempdir().unwrap();
            let layout = Layout::below(directory.path());
            lock_with(change).write(&layout).unwrap();
            assert_eq!(Lock::read(&layout, "k").unwrap(), None, "{index}");
        }
        for bad in ["name = 'a\\n-r x'", "version = '1\\n-r x'", "sha256 = '/etc'", "sha256 = '../../x'"] {
            let (key, _) = bad.split_once(" = ").unwrap();
            let good = [("name", "a".to_owned()), ("version", "1".to_owned()), ("sha256", "a".repeat(64))];
            let said = |name: &str| match good.iter().find(|(known, _)| *known == name) {
                Some((known, _)) if *known == key => bad.replace('\'', "\""),
                Some((known, value)) => format!("{known} = \"{value}\""),
                None => String::new(),
            };
            let text = format!(
                "[[packages]]\n{}\n{}\nwheels = [{{ url = 'u', hashes = {{ {} }} }}]\n",
                said("name"),
                said("version"),
                said("sha256")
            );
            let failure = Lock::from_pylock("k", origin(), &text).unwrap_err();
            assert!(failure.summary().contains("which cannot be"), "{text}: {failure}");
        }
    }
}
