//! Repositories in a cache of Hugging Face: `blobs/` under their digests, and `snapshots/<commit>/` with a link to a blob for
//! every file.
//!
//! Source: the documentation of `huggingface_hub`. A blob that is named by 64 hexadecimal digits has that sha256; one of 40
//! is a small file, and they are the id that git gives it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::Outcome;
use crate::manifest::Kind;
use crate::process::interrupt;

use super::store::{Leads, Store};
use super::{Algorithm, Claim, Digest, Finding, Header, Need, Said, is_gguf_name, told_short};

/// What snapshots say about a blob.
struct Use {
    file: String,
    header: Header,
}

/// Says what the names in the repository at `folder` claim about its files.
///
/// # Errors
/// The interruption.
pub fn claims(store: &Store, folder: &Path, said: &mut Said) -> Outcome<()> {
    let from = format!("huggingface: {}", repository(store, folder));
    let mut uses: BTreeMap<PathBuf, Use> = BTreeMap::new();
    for entry in store.below(&folder.join("snapshots")) {
        interrupt::check()?;
        let header = if is_gguf_name(&entry.path) { Header::Gguf } else { Header::None };
        let file = entry.path.file_name().unwrap_or_default().to_string_lossy();
        let file = told_short(&file);
        match (&entry.kind, store.follow(&entry.path)) {
            (Kind::Folder, _) => {}
            (Kind::Link(_), Leads::To(real)) => {
                let known = uses.entry(real).or_insert(Use { file, header });
                if header == Header::Gguf {
                    known.header = header;
                }
            }
            (Kind::Link(_), Leads::Nowhere) => {
                said.verdicts.push(store.verdict(&entry.path, &from, Finding::MissingRequired));
            }
            (Kind::Link(_), Leads::Astray(why)) => {
                said.verdicts.push(store.verdict(&entry.path, &from, Finding::Inconsistent(why)));
            }
            // Where links cannot be made, the files themselves lie there, and nothing names their digest.
            (Kind::File | Kind::Other, _) => {
                said.push(store, &entry.path, claim(&from, None, header));
            }
        }
    }
    for (real, known) in uses {
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        // Of this repository or of another one.
        let is_blob = real.parent().and_then(Path::file_name).is_some_and(|name| name == "blobs");
        let digest = if is_blob { digest(&name) } else { None };
        if digest.is_none() && real.is_dir() {
            continue;
        }
        let shown = store.shown(real.strip_prefix(&store.base).unwrap_or(&real));
        let claim = claim(&format!("{from} {}", known.file), digest, known.header);
        said.claims.push(Claim { path: real, shown, ..claim });
    }
    Ok(())
}

/// Says what else lies among the blobs of the repository at `folder`; `claimed` is what somebody says something about.
///
/// # Errors
/// The interruption.
pub(super) fn others(
    store: &Store,
    folder: &Path,
    claimed: &HashSet<PathBuf>,
    said: &mut Said,
) -> Outcome<()> {
    let from = format!("huggingface: {}", repository(store, folder));
    for entry in store.below(&folder.join("blobs")) {
        interrupt::check()?;
        if entry.kind == Kind::Folder || store.is_claimed(&entry.path, claimed) {
            continue;
        }
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        let finding = match digest(&name) {
            Some(_) => Finding::Orphaned,
            None if name.ends_with(".incomplete") => Finding::Partial,
            None if name.starts_with('.') => continue,
            None => Finding::Unexpected,
        };
        said.verdicts.push(store.verdict(&entry.path, &from, finding));
    }
    Ok(())
}

fn claim(from: &str, digest: Option<Digest>, header: Header) -> Claim {
    Claim {
        path: PathBuf::new(),
        shown: String::new(),
        need: Need::Required,
        size: None,
        digest,
        from: from.to_owned(),
        header,
    }
}

fn digest(name: &str) -> Option<Digest> {
    [Algorithm::Sha256, Algorithm::GitBlobSha1]
        .into_iter()
        .find_map(|algorithm| Digest::parse(algorithm, name).ok().filter(|digest| digest.hex == name))
}

/// `org/name` for `models--org--name`.
fn repository(store: &Store, folder: &Path) -> String {
    let name = folder.file_name().or(store.base.file_name()).unwrap_or_default().to_string_lossy();
    told_short(&name.split_once("--").map_or(name.clone().into_owned(), |(_, rest)| rest.replace("--", "/")))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out a cache")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn blobs_are_claimed_by_their_names_and_broken_snapshots_are_told() {
        let place = tempfile::tempdir().unwrap();
        let repository = place.path().join("models--nomic--embed");
        let snapshot = repository.join("snapshots/0123");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("blobs")).unwrap();
        let (large, small, orphan) = ("a".repeat(64), "b".repeat(40), "c".repeat(64));
        for name in [&large, &small, &orphan, "d.incomplete"] {
            fs::write(repository.join("blobs").join(name), b"x").unwrap();
        }
        for (file, blob) in [("model.gguf", large.as_str()), ("config.json", &small), ("gone.bin", "gone")] {
            symlink(Path::new("../../blobs").join(blob), snapshot.join(file)).unwrap();
        }
        let store = Store::open(place.path()).unwrap().unwrap();
        let mut said = Said::default();
        claims(&store, Path::new("models--nomic--embed"), &mut said).unwrap();
        others(&store, Path::new("models--nomic--embed"), &said.paths(), &mut said).unwrap();
        let told: Vec<_> = said
            .claims
            .iter()
            .map(|claim| (claim.from.as_str(), claim.digest.as_ref().unwrap().algorithm, claim.header))
            .collect();
        assert_eq!(
            told,
            [
                ("huggingface: nomic/embed model.gguf", Algorithm::Sha256, Header::Gguf),
                ("huggingface: nomic/embed config.json", Algorithm::GitBlobSha1, Header::None)
            ]
        );
        let found: Vec<_> = said.verdicts.iter().map(|verdict| verdict.finding.clone()).collect();
        assert_eq!(found, [Finding::MissingRequired, Finding::Orphaned, Finding::Partial]);
        assert!(said.verdicts[0].shown.ends_with("snapshots/0123/gone.bin"));
    }
}
