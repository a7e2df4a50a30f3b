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
            return Err(contradiction(&name, "a requirement and other ones in a constraint"));
        }
    }
    Ok(hashes)
}

fn contradiction(name: &str, places: &str) -> Failure {
    Failure::new(format!("{name} has hashes in {places}"))
        .hint("keep one of them in the application's repository")
}

/// Returns the lines that pin a version with hashes, each once, in the order of the files. Only the hashes that all lines
/// and constraints for a package have in common count, as in pip.
///
/// # Errors
/// They have no hash in common.
pub(super) fn pinned_lines(definitions: &Definitions) -> Outcome<(Vec<Locked>, String)> {
    let limits = hashes_by_name(&definitions.constraint_lines());
    let mut found: Vec<(&str, Locked)> = Vec::new();
    for (_, line) in definitions.package_lines() {
        if let Some(package) = pinned(line)
            && !found.iter().any(|(text, _)| *text == line.text)
        {
            found.push((&line.text, package));
        }
    }
    let key = |package: &Locked| {
        let Locked { name, version, marker, url, .. } = package.clone();
        (name, version, marker, url)
    };
    let mut packages = Vec::new();
    let mut document = String::new();
    for (text, package) in &found {
        let same =
            found.iter().filter(|(_, other)| key(other) == key(package)).map(|(_, other)| &other.hashes);
        let mut counting = package.clone();
        for hashes in same.chain(limits.get(&package.name)) {
            counting.hashes.retain(|hash| hashes.contains(hash));
        }
        if counting.hashes.is_empty() {
            return Err(contradiction(&package.name, "one line and other ones in another"));
        }
        if counting == *package {
            document.push_str(&format!("{text}\n"));
        } else {
            document.push_str(&with_hashes(text, &counting.hashes));
        }
        packages.push(counting);
    }
    Ok((packages, document))
}

/// Returns a line that pins a version, with these hashes.
fn with_hashes(text: &str, hashes: &[String]) -> String {
    let pin = text.split(" --hash").next().unwrap_or(text).trim();
    let options: String = hashes.iter().map(|hash| format!(" --hash={hash}")).collect();
    format!("{pin}{options}\n")
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
        lines.push(with_hashes(&line.text, &package.hashes));
        packages.push(package);
    }
    Ok((packages, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions(requirements: &str, constraints: &str) -> Definitions {
        let parsed = |text: &str| requirements::parse(text.as_bytes(), "x").unwrap();
        Definitions {
            files: [
                ("requirements.txt".into(), parsed(&format!("-c limits.txt\n{requirements}"))),
                ("limits.txt".into(), parsed(constraints)),
            ]
            .into(),
            roots: vec!["requirements.txt".into()],
            ..Definitions::default()
        }
    }

    fn hashes(requirements: &str, constraints: &str) -> Result<Vec<String>, String> {
        let mut found = author_hashes(&definitions(requirements, constraints))
            .map_err(|failure| failure.summary().to_owned())?;
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

    #[test]
    fn of_a_pinned_list_the_hashes_count_that_all_lines_and_constraints_have() {
        let lines = |requirements: &str, constraints: &str| {
            pinned_lines(&definitions(requirements, constraints)).map(|(_, document)| document)
        };
        let both = "six==1 --hash=sha256:aa --hash=sha256:bb\n";
        assert_eq!(lines(both, "six<2").unwrap(), both);
        let fewer = lines(&format!("{both}six==1 --hash=sha256:aa\n"), "").unwrap();
        assert_eq!(fewer, "six==1 --hash=sha256:aa\nsix==1 --hash=sha256:aa\n");
        assert_eq!(lines(both, "six==1 --hash=sha256:bb").unwrap(), "six==1 --hash=sha256:bb\n");
        for (requirements, constraints) in [(both, "six --hash=sha256:cc"), ("six==1 --hash=sha256:cc\n", "")]
        {
            let refused = lines(&format!("{both}{requirements}"), constraints).unwrap_err();
            assert!(refused.summary().contains("six has hashes in one line"), "{refused}");
        }
    }
}
