//! Compares `docs/conformance.md` with the tests: every clause of the specification is in the document and has a test,
//! everything that the document names exists, and no test claims an unknown clause.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every clause of the specification.
const CLAUSES: [&str; 35] = [
    "RW-2.1", "RW-2.2", "RW-2.3", "RW-2.4", "RW-3.1", "RW-3.2", "RW-4.1", "RW-4.2", "RW-5.0", "RW-5.1",
    "RW-5.2a", "RW-5.2b", "RW-5.2c", "RW-5.3", "RW-5.3a", "RW-5.3b", "RW-5.4", "RW-5.5", "RW-5.6a",
    "RW-5.6b", "RW-5.6c", "RW-6.1", "RW-6.2a", "RW-6.2b", "RW-6.2c", "RW-6.2d", "RW-7.1a", "RW-7.1b",
    "RW-7.1c", "RW-7.2", "RW-8.1", "RW-8.2", "RW-8.3", "RW-8.4", "RW-8.5",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn clauses() -> BTreeSet<&'static str> {
    CLAUSES.into_iter().collect()
}

/// A clause's part of the document.
#[derive(Debug, Default)]
struct Section {
    code: Vec<String>,
    tests: Vec<String>,
}

fn sections() -> BTreeMap<String, Section> {
    let text = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let mut sections = BTreeMap::new();
    for part in text.split("\n### ").skip(1) {
        let clause = part.split(' ').next().unwrap().to_owned();
        let mut section = Section::default();
        let body = part.split("\n## ").next().unwrap();
        let (words, tests) = body.split_once("\nProved by\n").expect(&clause);
        let (_, code) = words.split_once("\nKept by ").expect(&clause);
        section.code.extend(quoted(code));
        section.tests.extend(quoted(tests));
        assert!(sections.insert(clause.clone(), section).is_none(), "{clause} is there twice");
    }
    sections
}

/// Returns the texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Returns the names of all test functions of the project.
fn tests() -> BTreeSet<String> {
    fn gather(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(in_file(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut names = BTreeSet::new();
    gather(&root().join("src"), &mut names);
    gather(&root().join("crates"), &mut names);
    gather(&root().join("tests"), &mut names);
    names
}

/// The attribute of tests that are ignored here because another test runs all of them, on a machine of the lab
/// (`tests/lab/service_systemd.rs`).
const RUN_ELSEWHERE: &str = "#[ignore = \"runs on a machine of the lab\"]";

/// Returns the functions directly below a `#[test]`, possibly with further attributes in between. An ignored test that
/// no other test runs is left out: it proves nothing.
fn in_file(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
            Some((name, _)) if is_test => names.push(name.to_owned()),
            _ => {}
        }
        let is_run = line == RUN_ELSEWHERE || !line.starts_with("#[ignore");
        is_test = line == "#[test]" || (is_test && line.starts_with("#[") && is_run);
    }
    names
}

/// Returns the clauses at the beginning of a test name: `rw_5_2b_rw_5_2c_subject_condition_result`.
fn claimed(name: &str) -> Vec<String> {
    let mut claimed = Vec::new();
    let mut rest = name;
    while let Some(after) = rest.strip_prefix("rw_") {
        let mut words = after.splitn(3, '_');
        let (Some(chapter), Some(clause), Some(left)) = (words.next(), words.next(), words.next()) else {
            break;
        };
        claimed.push(format!("RW-{chapter}.{clause}"));
        rest = left;
    }
    claimed
}

#[test]
fn every_clause_is_in_the_document_and_no_other() {
    let there = sections();
    let there: BTreeSet<&str> = there.keys().map(String::as_str).collect();
    assert_eq!(there, clauses());
}

#[test]
fn every_clause_has_a_test_that_carries_its_id() {
    let tests = tests();
    let proved: BTreeSet<String> = tests.iter().flat_map(|name| claimed(name)).collect();
    let bare: Vec<&str> = clauses().into_iter().filter(|clause| !proved.contains(*clause)).collect();
    assert!(bare.is_empty(), "clauses without any test: {bare:?}");
    for (clause, section) in sections() {
        let named = section.tests.iter().any(|name| claimed(name).contains(&clause));
        assert!(named, "{clause} names no test");
    }
}

#[test]
fn every_test_that_the_document_names_exists_and_is_of_that_clause() {
    let tests = tests();
    for (clause, section) in sections() {
        for name in section.tests {
            assert!(tests.contains(&name), "{clause}: there is no test {name}");
            let claimed = claimed(&name);
            assert!(claimed.is_empty() || claimed.contains(&clause), "{clause}: {name} is of another clause");
        }
    }
}

#[test]
fn every_test_that_the_page_of_unusual_hosts_names_exists() {
    let (tests, page) = (tests(), fs::read_to_string(root().join("docs/unusual-hosts.md")).unwrap());
    let named: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`')).collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(tests.contains(name), "there is no test {name}");
    }
}

#[test]
fn every_piece_of_code_that_the_document_names_exists() {
    for (clause, section) in sections() {
        assert!(!section.code.is_empty(), "{clause} names no code");
        for place in section.code {
            let (file, item) = place.split_once("::").unwrap_or((&place, ""));
            let text = fs::read_to_string(root().join(file))
                .unwrap_or_else(|error| panic!("{clause}: {place}: {error}"));
            let there = ["fn ", "struct ", "enum "].iter().any(|word| {
                text.match_indices(&format!("{word}{item}")).any(|(at, found)| {
                    !text[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
                })
            });
            assert!(item.is_empty() || there, "{clause}: {file} has no {item}");
        }
    }
}

#[test]
fn no_test_claims_an_unknown_clause() {
    let clauses = clauses();
    for name in tests() {
        for clause in claimed(&name) {
            assert!(clauses.contains(clause.as_str()), "{name} claims {clause}");
        }
        assert!(
            !name.starts_with("rw_") || !claimed(&name).is_empty(),
            "{name} claims nothing that can be read"
        );
    }
}

#[test]
fn names_and_attributes_of_tests_are_read_correctly() {
    assert_eq!(claimed("rw_5_2b_rw_8_2_x_y"), ["RW-5.2b", "RW-8.2"]);
    assert_eq!(claimed("a_test"), [""; 0]);
    let text = "#[test]\n#[cfg(x)]\nfn a() {}\nfn b() {}\n#[test]\n#[ignore = \"x\"]\nfn c() {}\n";
    assert_eq!(in_file(text), ["a"]);
    assert_eq!(in_file(&format!("#[test]\n{RUN_ELSEWHERE}\nfn d() {{}}\n")), ["d"]);
}
