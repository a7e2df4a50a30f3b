//! The digest of an environment: what is installed in it, as one value that is the same on every machine. Pure.
//!
//! It covers the distributions (name and version) and every file that they bring: the path as `RECORD` writes it, relative
//! to the folder of the packages, and the sha256 of the content. It leaves out what tells of the installation and not of
//! the distribution: who installed it and how (`INSTALLER`, `REQUESTED`, `direct_url.json`, `uv_cache.json`, `RECORD`),
//! scripts, which name the environment's own path, and byte code, which holds times. So uv and pip agree, and so do two
//! machines.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::record::Package;
use crate::hexadecimal::hexadecimal;

/// What starts every digest, so that another way of reckoning gives another one.
const VERSION: &str = "ladylinux-refresh environment 1\n";

/// A file that a distribution brings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Brought {
    /// Its path relative to the folder of the packages.
    pub path: String,
    /// The sha256 of its content in hexadecimal digits.
    pub sha256: String,
}

/// What stands in the metadata of a distribution and tells of its installation.
pub const OF_THE_INSTALLATION: [&str; 5] =
    ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "RECORD"];

/// Returns the digest of distributions and the files that they bring, in whatever order they are given.
pub fn of(packages: &[Package], files: &[Brought]) -> String {
    let mut packages: Vec<&Package> = packages.iter().collect();
    packages.sort_unstable();
    packages.dedup();
    let mut files: Vec<&Brought> = files.iter().filter(|file| counts(&file.path)).collect();
    files.sort_unstable();
    files.dedup();
    let mut state = Sha256::new();
    state.update(VERSION);
    // Lengths in front: no name can be taken for a part of another.
    let mut add = |kind: &str, parts: [&str; 2]| {
        state.update(kind);
        for part in parts {
            state.update((part.len() as u64).to_be_bytes());
            state.update(part);
        }
    };
    for package in packages {
        add("p", [&package.name, &package.version]);
    }
    for file in files {
        add("f", [&file.path, &file.sha256]);
    }
    hexadecimal(&state.finalize())
}

/// Tells whether a path is a part of what is installed and not of how.
fn counts(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let of_the_installation = folder.ends_with(".dist-info") && OF_THE_INSTALLATION.contains(&name);
    let is_script = path.starts_with("../../../bin/");
    let is_byte_code = Path::new(name).extension().is_some_and(|end| end == "pyc");
    !(of_the_installation || is_script || is_byte_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into() }
    }

    fn brought(path: &str, sha256: &str) -> Brought {
        Brought { path: path.into(), sha256: sha256.into() }
    }

    #[test]
    fn the_order_of_looking_does_not_count() {
        let packages = [package("a", "1"), package("b", "2")];
        let files = [brought("a.py", "1"), brought("b.py", "2")];
        let reversed = of(&[packages[1].clone(), packages[0].clone()], &[files[1].clone(), files[0].clone()]);
        assert_eq!(of(&packages, &files), reversed);
    }

    #[test]
    fn names_versions_paths_and_contents_count() {
        let digest = of(&[package("a", "1")], &[brought("a.py", "1")]);
        let others = [
            of(&[package("b", "1")], &[brought("a.py", "1")]),
            of(&[package("a", "2")], &[brought("a.py", "1")]),
            of(&[package("a", "1")], &[brought("b.py", "1")]),
            of(&[package("a", "1")], &[brought("a.py", "2")]),
            of(&[package("a", "1")], &[]),
            of(&[package("a", "1")], &[brought("a.py", "1"), brought("../../../share/a", "1")]),
            // What is moved from one name to its neighbour is something else.
            of(&[package("a1", "")], &[brought("a.py", "1")]),
        ];
        for other in others {
            assert_ne!(other, digest);
        }
    }

    #[test]
    fn rw_8_2_paths_and_times_of_an_installation_do_not_count() {
        let files = [brought("a.py", "1"), brought("a-1.dist-info/METADATA", "2")];
        let digest = of(&[package("a", "1")], &files);
        let mut more = files.to_vec();
        more.extend(OF_THE_INSTALLATION.map(|name| brought(&format!("a-1.dist-info/{name}"), "3")));
        more.push(brought("__pycache__/a.cpython-312.pyc", "4"));
        more.push(brought("../../../bin/a", "5"));
        assert_eq!(of(&[package("a", "1")], &more), digest);
        more.push(brought("a/RECORD", "6"));
        assert_ne!(
            of(&[package("a", "1")], &more),
            digest,
            "a file of that name that the distribution brings"
        );
    }
}
