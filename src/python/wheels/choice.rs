//! Which wheels this machine takes of a lock: what its markers say, and which file of each package fits best.
//!
//! The interpreter is asked what it is, through the parts of the pinned pip that know, as the owner. The choice itself
//! is pure, so that one lock means the same files on every machine of one platform, whatever an index offers first.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::name::WheelName;
use crate::error::{Context as _, Failure, Outcome};
use crate::python::installer::Job;
use crate::python::lock::{Lock, Locked};
use crate::python::pip::Pip;
use crate::python::pylock::{Artifact, Pylock};

/// The largest wheel that is taken in where the lock does not say how large it is.
const LARGEST: u64 = 4 << 30;

/// What the interpreter is asked; markers come on standard input, one line of JSON goes back. A marker that asks for an
/// extra is one of an environment without it.
const QUESTION: &str = "\
import json, sys
sys.path.insert(0, sys.argv[1])
from pip._vendor.packaging.markers import Marker
from pip._vendor.packaging.tags import sys_tags
def holds(marker):
    environment = {'extra': '', 'extras': frozenset(), 'dependency_groups': frozenset()}
    return marker is None or Marker(marker).evaluate(environment, context='lock_file')
print(json.dumps({'tags': [str(tag) for tag in sys_tags()], 'wanted': [holds(it) for it in json.load(sys.stdin)]}))
";

/// What is chosen of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) name: String,
    pub(super) version: String,
    /// The files that will do, by their sha256: one, where the lock names its files.
    pub(super) digests: Vec<String>,
    /// Whether the lock names its files, and so which one is the best.
    pub(super) named: bool,
    /// The one place where it is, where that is not an index.
    pub(super) url: Option<String>,
    /// How large the file can be, in bytes.
    pub(super) limit: u64,
    /// How large the file is, in bytes, as far as the lock tells.
    pub(super) size: Option<u64>,
}

/// What is chosen of a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// What this machine takes.
    pub(super) wheels: Vec<Choice>,
    /// What has no wheel for it: source is all there is.
    pub(super) sources: Vec<Choice>,
    /// What the interpreter runs, the best first.
    pub(super) tags: Vec<String>,
}

/// Chooses for the interpreter of a job.
pub(super) fn choose(job: &Job<'_>, pip: &Pip, lock: &Lock) -> Outcome<Chosen> {
    let markers: Vec<Option<&str>> = lock.packages.iter().map(|package| package.marker.as_deref()).collect();
    let told = || "the interpreter does not tell which packages it takes".to_owned();
    let asked = pip.script(job, QUESTION).input(serde_json::to_vec(&markers).context(told)?);
    let said = job.ask(&asked, &told())?;
    let answer: Answer = serde_json::from_str(&said).context(told)?;
    if answer.wanted.len() != lock.packages.len() {
        return Err(Failure::new(told()));
    }
    let wanted =
        lock.packages.iter().zip(&answer.wanted).filter_map(|(package, wanted)| wanted.then_some(package));
    Ok(pick(wanted, &named_files(&lock.document), answer.tags))
}

#[derive(Deserialize)]
struct Answer {
    tags: Vec<String>,
    wanted: Vec<bool>,
}

/// A file as the lock's document names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    wheel: WheelName,
    sha256: String,
    size: Option<u64>,
}

/// What the document names, by the name and version of the package.
#[derive(Debug, Default)]
struct Files {
    wheels: BTreeMap<(String, String), Vec<Named>>,
}

fn pick<'a>(wanted: impl Iterator<Item = &'a Locked>, files: &Files, tags: Vec<String>) -> Chosen {
    let mut chosen = Chosen { tags, ..Chosen::default() };
    for package in wanted {
        let key = (package.name.clone(), package.version.clone());
        let known: Vec<&Named> = files
            .wheels
            .get(&key)
            .into_iter()
            .flatten()
            .filter(|named| named.wheel.is_of(&package.name, &package.version))
            .filter(|named| package.digests.contains(&named.sha256))
            .collect();
        let ranked = known.iter().filter_map(|named| Some((named.wheel.rank(&chosen.tags)?, *named)));
        // Two that fit alike are told apart by what they hold, so that every machine takes the same one.
        let best = ranked.min_by(|one, other| (&one.0, &one.1.sha256).cmp(&(&other.0, &other.1.sha256)));
        let (name, version) = key;
        let choice = |digests: Vec<String>, size: Option<u64>| Choice {
            name,
            version,
            digests,
            named: files.is_known(package) || package.url.is_some(),
            url: package.url.clone(),
            limit: size.unwrap_or(LARGEST),
            size,
        };
        match best {
            Some((_, best)) => chosen.wheels.push(choice(vec![best.sha256.clone()], best.size)),
            // Nothing is known of the files: the index tells.
            None if !files.is_known(package) => {
                chosen.wheels.push(choice(package.digests.clone(), None));
            }
            None => chosen.sources.push(choice(package.digests.clone(), None)),
        }
    }
    chosen
}

impl Files {
    fn is_known(&self, package: &Locked) -> bool {
        self.wheels.contains_key(&(package.name.clone(), package.version.clone()))
    }
}

/// Reads which files a document in the form of PEP 751 names. What is not understood counts as not named.
fn named_files(document: &str) -> Files {
    let mut files = Files::default();
    let Ok(read) = Pylock::parse(document) else { return files };
    for package in &read.packages {
        let Some((name, version, wheels)) = package.files() else { continue };
        // One distribution may stand in several entries, each for other machines or from another place.
        if let Some(named) = wheels.iter().map(named).collect::<Option<Vec<_>>>() {
            files.wheels.entry((name, version.to_owned())).or_default().extend(named);
        }
    }
    files
}

fn named(wheel: &Artifact) -> Option<Named> {
    Some(Named { wheel: WheelName::parse(&wheel.file()?)?, sha256: wheel.sha256()?, size: wheel.size })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::python::lock::Origin;
    use crate::python::lock::tests::written_out;

    const DOCUMENT: &str = "lock-version = '1.0'\ncreated-by = 'x'\n\
        [[packages]]\nname = 'Both'\nversion = '1.0'\nwheels = [\n\
        { url = 'https://x/both-1.0-py3-none-any.whl#sha256=<aa>', size = 7, hashes = { sha256 = '<aa>' } },\n\
        { url = 'https://x/both-1.0-cp311-cp311-linux_x86_64.whl', size = 9, hashes = { sha256 = '<BB>' } },\n\
        { url = 'https://x/both-1.0-cp311-cp311-win_amd64.whl', size = 9, hashes = { sha256 = '<cc>' } },\n]\n\
        [[packages]]\nname = 'elsewhere'\nversion = '2'\n\
        wheels = [{ name = 'elsewhere-2-cp311-cp311-win_amd64.whl', url = 'u', hashes = { sha256 = '<dd>' } }]\n\
        [[packages]]\nname = 'local'\nversion = '1+cpu'\n\
        wheels = [{ url = 'https://x/local-1%2Bcpu-py3-none-any.whl', hashes = { sha256 = '<ee>' } }]\n";

    fn lock(document: &str) -> Lock {
        let origin = Origin::Application { file: PathBuf::from("pylock.toml") };
        Lock::from_pylock("k", origin, written_out(document)).unwrap()
    }

    fn tags() -> Vec<String> {
        ["cp311-cp311-linux_x86_64", "py3-none-any"].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_best_wheel_of_each_package_is_chosen_and_what_runs_elsewhere_is_none() {
        let lock = lock(DOCUMENT);
        let chosen = pick(lock.packages.iter(), &named_files(&lock.document), tags());
        let taken: Vec<_> =
            chosen.wheels.iter().map(|it| (it.name.as_str(), it.digests.join(" "), it.limit)).collect();
        assert_eq!(taken, [("both", "bb".repeat(32), 9), ("local", "ee".repeat(32), LARGEST)]);
        assert_eq!(chosen.sources.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["elsewhere"]);
    }

    #[test]
    fn a_package_in_several_entries_is_chosen_among_the_files_of_all() {
        let entry = |file: &str, digest: &str| {
            let file = format!("https://x/{file}.whl");
            format!(
                "[[packages]]\nname = 'a'\nversion = '1'\n\
                 wheels = [{{ url = '{file}', hashes = {{ sha256 = '<{digest}>' }} }}]\n"
            )
        };
        let here = entry("a-1-cp311-cp311-linux_x86_64", "aa");
        let elsewhere = entry("a-1-cp311-cp311-win_amd64", "bb");
        let lock = lock(&here);
        for document in [format!("{here}{elsewhere}"), format!("{elsewhere}{here}")] {
            let chosen = pick(lock.packages.iter(), &named_files(&written_out(&document)), tags());
            assert!(chosen.sources.is_empty());
            assert_eq!(chosen.wheels[0].digests, ["aa".repeat(32)]);
        }
    }

    #[test]
    fn a_lock_that_names_no_files_leaves_the_choice_to_the_index() {
        let lock = lock(DOCUMENT);
        let chosen = pick(lock.packages.iter(), &named_files("not = [toml"), tags());
        assert!(chosen.sources.is_empty());
        assert_eq!(chosen.wheels[0].digests, ["aa", "bb", "cc"].map(|pair| pair.repeat(32)));
        assert!(!chosen.wheels[0].named);
    }
}
