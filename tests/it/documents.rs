//! The links between the pages of the project: each link has a target, and each page of `docs/` can be reached from the
//! README.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read the documents")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the Markdown pages in a directory of the project.
fn pages(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect()
}

/// Returns the targets of the links and pictures of a page, without those on the web.
fn links(text: &str) -> Vec<String> {
    let targets = text.match_indices("](").filter_map(|(start, _)| {
        let rest = &text[start + 2..];
        Some(rest[..rest.find(')')?].to_owned())
    });
    targets.filter(|target| !target.contains("://")).collect()
}

/// Returns the anchors of a page's headings: lower case, words joined by dashes.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Returns the page or file that a link of `page` leads to, and the anchor in it.
fn target_of<'a>(page: &Path, link: &'a str) -> (PathBuf, Option<&'a str>) {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() { page.to_path_buf() } else { page.parent().unwrap().join(path) };
    (target, anchor)
}

#[test]
fn each_link_of_a_page_has_a_target() {
    let mut count = 0;
    for page in ["", "docs", "docs/adr", "demo/app", "demo/steps", "lab", "tests"].into_iter().flat_map(pages)
    {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (target, anchor) = target_of(&page, &link);
            assert!(target.exists(), "{}: {link}", page.display());
            if let Some(anchor) = anchor {
                let found = anchors(&fs::read_to_string(&target).unwrap());
                assert!(found.contains(anchor), "{}: {link} is none of {found:?}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 80, "only {count} links were found");
}

#[test]
fn each_page_can_be_reached_from_the_readme() {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![root().join("README.md").canonicalize().unwrap()];
    while let Some(page) = waiting.pop() {
        if !reached.insert(page.clone()) || page.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        waiting.extend(links(&text).iter().map(|link| target_of(&page, link).0.canonicalize().unwrap()));
    }
    for page in pages("docs").into_iter().chain(pages("docs/adr")) {
        assert!(reached.contains(&page.canonicalize().unwrap()), "no link leads to {}", page.display());
    }
}
