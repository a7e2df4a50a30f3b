//! Weights that lie in folders as they are: described by files of checksums beside them, or by nobody.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::Outcome;
use crate::manifest::Kind;
use crate::process::interrupt;

use super::store::{Leads, Store};
use super::{Claim, Finding, Header, Need, Said, is_gguf_name, sums, whole};

/// Who says something about a file that nobody says anything about: only its own header does.
pub(super) const NOBODY: &str = "nobody";

/// Says what the files of checksums in a store claim, leaving out the folders `except`.
///
/// # Errors
/// The interruption.
pub(super) fn claims(store: &Store, except: &HashSet<PathBuf>, said: &mut Said) -> Outcome<()> {
    for path in outside(store, except) {
        interrupt::check()?;
        if said.is_full() {
            break;
        }
        let name = path.file_name().unwrap_or_default();
        let Some(usual) = sums::algorithm(name) else { continue };
        let from = store.shown(path);
        let is_file = store.entry(path).is_some_and(|entry| entry.kind == Kind::File);
        let read = if is_file { whole::read(&store.base.join(path), sums::LIMIT) } else { continue };
        let sums = match read {
            Ok(bytes) => sums::parse(&bytes, usual),
            Err(error) => {
                let finding = Finding::Unreadable(error.to_string());
                said.verdicts.push(store.verdict(path, &from, finding));
                continue;
            }
        };
        for why in sums.complaints {
            said.verdicts.push(store.verdict(path, &from, Finding::Inconsistent(why)));
        }
        if sums.more > 0 {
            let why = format!("{} more lines cannot be used", sums.more);
            said.verdicts.push(store.verdict(path, &from, Finding::Inconsistent(why)));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for (file, digest) in sums.entries {
            interrupt::check()?;
            let file = folder.join(file);
            let header = if is_gguf_name(&file) { Header::Gguf } else { Header::None };
            // Whoever publishes weights lists all of them, and nobody needs all.
            let claim = unplaced(&from, header);
            said.push(store, &file, Claim { digest: Some(digest), ..claim });
        }
    }
    Ok(())
}

/// Says what lies in a store that none of `said` is about, leaving out the folders `except`.
///
/// # Errors
/// The interruption.
pub(super) fn others(store: &Store, except: &HashSet<PathBuf>, said: &mut Said) -> Outcome<()> {
    let paths = said.claims.iter().map(|claim| claim.path.as_path());
    let claimed: HashSet<&Path> =
        paths.chain(said.verdicts.iter().map(|verdict| verdict.path.as_path())).collect();
    let mut others = Said::default();
    for path in outside(store, except) {
        interrupt::check()?;
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || sums::is_sums(path) || claimed.contains(store.base.join(path).as_path()) {
            continue;
        }
        let kind = store.entry(path).map(|entry| &entry.kind);
        match (kind, store.follow(path)) {
            (Some(Kind::File), _) if is_gguf_name(path) => {
                others.push(store, path, unplaced(NOBODY, Header::Gguf));
            }
            // What a link leads to inside of the stores is looked at where it lies.
            (Some(Kind::Link(_)), Leads::To(_)) => {}
            (Some(Kind::Link(_)), Leads::Nowhere) => {
                let finding = Finding::Inconsistent("a link that leads nowhere".to_owned());
                others.verdicts.push(store.verdict(path, NOBODY, finding));
            }
            (Some(Kind::Link(_)), Leads::Astray(why)) => {
                others.verdicts.push(store.verdict(path, NOBODY, Finding::Inconsistent(why)));
            }
            _ => others.verdicts.push(store.verdict(path, NOBODY, Finding::Unexpected)),
        }
    }
    said.claims.extend(others.claims);
    said.verdicts.extend(others.verdicts);
    Ok(())
}

fn outside<'a>(store: &'a Store, except: &'a HashSet<PathBuf>) -> impl Iterator<Item = &'a Path> {
    let entries = store.entries().iter().filter(|entry| entry.kind != Kind::Folder);
    let paths = entries.map(|entry| entry.path.as_path());
    paths.filter(|path| !path.ancestors().any(|folder| except.contains(folder)))
}

fn unplaced(from: &str, header: Header) -> Claim {
    Claim {
        path: PathBuf::new(),
        shown: String::new(),
        need: Need::Optional,
        size: None,
        digest: None,
        from: from.to_owned(),
        header,
    }
}
