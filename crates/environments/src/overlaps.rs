//! Files that several distributions bring: which files, and which distribution wins. Only reads an environment.
//!
//! uv installs many wheels in parallel. If two bring the same file, the last one written wins, in no fixed order. The
//! lists in the wheels (`RECORD`) name such files in any case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refresh_events::run_report::Overlap;
use refresh_system::disk;
use refresh_system::error::Outcome;
use refresh_system::text::normal_name;

use super::record::{self, METADATA_LIMIT};

/// Finds the files of an environment that several distributions bring; `order` is that of the lock.
///
/// # Errors
/// The environment cannot be read.
pub(super) fn find(environment: &Path, order: &[String]) -> Outcome<Vec<Overlap>> {
    let mut brought: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for site in site_packages(environment)? {
        for directory in record::entries(&site)?.into_iter().filter(|name| name.ends_with(".dist-info")) {
            let name = directory.trim_end_matches(".dist-info");
            let name = normal_name(name.split_once('-').map_or(name, |(name, _)| name));
            let list = disk::read_at_most(&site.join(&directory).join("RECORD"), METADATA_LIMIT)?;
            for (path, hash) in parse(&String::from_utf8_lossy(&list.unwrap_or_default())) {
                brought.entry(path).or_default().push((name.clone(), hash));
            }
        }
    }
    let place = |name: &String| order.iter().position(|known| known == name).unwrap_or(usize::MAX);
    let overlaps = brought.into_iter().filter_map(|(path, by)| {
        // The same content from several distributions does no harm.
        by.iter().any(|(_, hash)| *hash != by[0].1).then(|| {
            let mut packages: Vec<String> = by.into_iter().map(|(name, _)| name).collect();
            packages.sort_by_key(|name| (place(name), name.clone()));
            packages.dedup();
            Overlap { path, packages }
        })
    });
    Ok(overlaps.filter(|overlap| overlap.packages.len() > 1).collect())
}

/// Returns the directories of an environment that contain packages.
pub(super) fn site_packages(environment: &Path) -> Outcome<Vec<PathBuf>> {
    let lib = environment.join("lib");
    let versions = record::entries(&lib)?.into_iter().filter(|name| name.starts_with("python"));
    Ok(versions.map(|version| lib.join(version).join("site-packages")).collect())
}

/// Reads path and hash of each line. An entry without a hash is not content of the distribution.
fn parse(list: &str) -> Vec<(String, String)> {
    let parse_line = |line: &str| {
        let (path, rest) = match line.strip_prefix('"') {
            // A path with a comma or a quote is quoted, and its quotes are doubled.
            Some(rest) => {
                let end = rest.find("\",")?;
                (rest[..end].replace("\"\"", "\""), &rest[end + 2..])
            }
            None => line.split_once(',').map(|(path, rest)| (path.to_owned(), rest))?,
        };
        let hash = rest.split(',').next().filter(|hash| !hash.is_empty())?;
        Some((path, hash.to_owned()))
    };
    list.lines().filter_map(parse_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_their_quotes() {
        let list = "a.py,sha256=x,1\n\"b,\"\"c.py\",sha256=y,2\na-1.dist-info/RECORD,,\n";
        let found = parse(list);
        assert_eq!(found, [("a.py".into(), "sha256=x".into()), ("b,\"c.py".into(), "sha256=y".into())]);
    }

    #[test]
    fn a_file_of_two_is_named_with_its_winner_and_one_of_the_same_content_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let site = directory.path().join("lib/python3.11/site-packages");
        for (name, hash) in [("Aa", "x"), ("b", "y"), ("c", "z")] {
            let info = site.join(format!("{name}-1.0.dist-info"));
            disk::make_directory(&info, 0o755).unwrap();
            let list = format!("{name}.py,sha256={name},1\nshared.py,sha256={hash},1\nsame.py,sha256=s,1\n");
            disk::write_unsynced(&info.join("RECORD"), list.as_bytes(), 0o644).unwrap();
        }
        let order = ["c", "aa", "b"].map(str::to_owned);
        let found = find(directory.path(), &order).unwrap();
        assert_eq!(found, [Overlap { path: "shared.py".into(), packages: order.to_vec() }]);
        assert_eq!(found[0].in_words(), "shared.py is brought by c and aa and b: the one of b is used");
    }
}
