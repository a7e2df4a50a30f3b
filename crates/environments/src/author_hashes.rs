//! Hashes that the author of the requirements gives: the lockfile uses these, and not those of the index.

use std::collections::BTreeMap;
use std::path::Path;

use refresh_system::error::{Failure, Outcome};

use super::definitions::Definitions;
use super::locked::{Locked, pinned};
use super::requirements::{self, Line, LineKind};

/// Returns the hashes that the authors give for some packages of a definition that is not a lock: uv alone uses the hashes
/// of the index. A constraint with hashes counts like a requirement with hashes.
///
/// # Errors
/// No hash of a requirement is among those of a constraint for the same package: a file can be verified with one list only.
pub(super) fn author_hashes(definitions: &Definitions) -> Outcome<BTreeMap<String, Vec<String>>> {
    let mut hashes = hashes_by_name(&definitions.package_lines());
    for (name, limits) in hashes_by_name(&definitions.constraint_lines()) {
        let named = hashes.entry(name.clone()).or_insert_with(|| limits.clone());
        named.retain(|hash| limits.contains(hash));
        if named.is_empty() {
            let what = format!("{name} has hashes in a requirement and other ones in a constraint");
            return Err(Failure::new(what).hint("keep one of them in the application's repository"));
        }
    }
    Ok(hashes)
}

fn hashes_by_name(lines: &[(&Path, &Line)]) -> BTreeMap<String, Vec<String>> {
    let mut hashes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, line) in lines {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(requirements: &str, constraints: &str) -> Result<Vec<String>, String> {
        let parsed = |text: &str| requirements::parse(text.as_bytes(), "x").unwrap();
        let definitions = Definitions {
            files: [
                ("requirements.txt".into(), parsed(&format!("-c limits.txt\n{requirements}"))),
                ("limits.txt".into(), parsed(constraints)),
            ]
            .into(),
            roots: vec!["requirements.txt".into()],
            ..Definitions::default()
        };
        let mut found = author_hashes(&definitions).map_err(|failure| failure.summary().to_owned())?;
        Ok(found.remove("six").unwrap_or_default())
    }

    #[test]
    fn hashes_of_a_constraint_count_and_contradict_no_requirement() {
        assert_eq!(hashes("six==1", "").unwrap(), [""; 0]);
        assert_eq!(hashes("six", "six==1 --hash=sha256:aa").unwrap(), ["sha256:aa"]);
        assert_eq!(hashes("six==1 --hash=sha256:aa", "six==1").unwrap(), ["sha256:aa"]);
        let both = hashes("six==1 --hash=sha256:aa --hash=sha256:bb", "six==1 --hash=sha256:bb");
        assert_eq!(both.unwrap(), ["sha256:bb"]);
        let contradiction = hashes("six==1 --hash=sha256:aa", "six==1 --hash=sha256:bb").unwrap_err();
        assert!(contradiction.contains("six has hashes in a requirement"), "{contradiction}");
    }
}
