//! Hashes that the author of the requirements gives: the lockfile uses these, and not those of the index.

use std::collections::BTreeMap;

use refresh_system::error::{Failure, Outcome};

use super::definitions::Definitions;
use super::locked::{Locked, pinned};
use super::requirements::{self, LineKind};

/// The hashes that the authors give for some packages of a definition that is not a lock: uv alone uses the hashes of
/// the index.
pub(super) fn author_hashes(definitions: &Definitions) -> BTreeMap<String, Vec<String>> {
    let mut hashes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, line) in definitions.package_lines() {
        let named = requirements::hashes_of(&line.text);
        if let (LineKind::Package(package), false) = (&line.meaning, named.is_empty()) {
            hashes.entry(package.name.clone()).or_default().extend(named);
        }
    }
    hashes
}

/// Reads lines that pin versions with hashes; if the author gives hashes of a package, only these count.
pub(super) fn hashed_lines(
    document: &str,
    hashes: &BTreeMap<String, Vec<String>>,
) -> Outcome<(Vec<Locked>, Vec<String>)> {
    let mut packages = Vec::new();
    let mut lines = Vec::new();
    for line in requirements::parse(document.as_bytes(), "the lock")? {
        let Some(mut package) = pinned(&line) else {
            return Err(Failure::new(format!("uv has locked {:?} without its hashes", line.text)));
        };
        if let Some(hashes) = hashes.get(&package.name) {
            package.hashes.clone_from(hashes);
        }
        let pin = line.text.split(" --hash").next().unwrap_or(&line.text).trim();
        let options: String = package.hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
        lines.push(format!("{pin}{options}\n"));
        packages.push(package);
    }
    Ok((packages, lines))
}
