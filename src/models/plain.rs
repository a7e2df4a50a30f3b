//! Weights that lie in folders as they are: described by files of checksums beside them, or by nobody.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::error::Outcome;
use crate::manifest::{Entry, Kind};
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
    for entry in outside(store, except) {
        interrupt::check()?;
        if said.is_full() {
            break;
        }
        let path = entry.path.as_path();
        let Some(usual) = path.file_name().and_then(sums::algorithm) else { continue };
        let from = store.shown(path);
        let sums = match read(store, entry) {
            Ok(bytes) => sums::parse(&bytes, usual),
            Err(finding) => {
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

/// Reads a file of checksums, wherever links lead from there.
fn read(store: &Store, entry: &Entry) -> Result<Vec<u8>, Finding> {
    let unreadable = |why: &str| Err(Finding::Unreadable(why.to_owned()));
    let real = match (&entry.kind, store.follow(&entry.path)) {
        (Kind::Folder | Kind::Other, _) => return unreadable("it is no regular file"),
        (Kind::File | Kind::Link(_), Leads::To(real)) => real,
        (_, Leads::Nowhere) => return unreadable("a link that leads nowhere"),
        (_, Leads::Astray(why)) => return Err(Finding::Inconsistent(why)),
    };
    whole::read(&real, sums::LIMIT).map_err(|error| Finding::Unreadable(error.to_string()))
}

/// Says what lies in a store that nobody says something about (`claimed` is the rest), leaving out the folders `except`.
///
/// # Errors
/// The interruption.
pub(super) fn others(
    store: &Store,
    except: &HashSet<PathBuf>,
    claimed: &HashSet<PathBuf>,
    said: &mut Said,
) -> Outcome<()> {
    for entry in outside(store, except).filter(|entry| entry.kind != Kind::Folder) {
        interrupt::check()?;
        let path = entry.path.as_path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || sums::is_sums(path) || claimed.contains(&store.base.join(path)) {
            continue;
        }
        match (&entry.kind, store.follow(path)) {
            (Kind::File, _) if is_gguf_name(path) => {
                said.push(store, path, unplaced(NOBODY, Header::Gguf));
            }
            // What a link leads to inside of the stores is looked at where it lies.
            (Kind::Link(_), Leads::To(_)) => {}
            (Kind::Link(_), Leads::Nowhere) => {
                let finding = Finding::Inconsistent("a link that leads nowhere".to_owned());
                said.verdicts.push(store.verdict(path, NOBODY, finding));
            }
            (Kind::Link(_), Leads::Astray(why)) => {
                said.verdicts.push(store.verdict(path, NOBODY, Finding::Inconsistent(why)));
            }
            _ => said.verdicts.push(store.verdict(path, NOBODY, Finding::Unexpected)),
        }
    }
    Ok(())
}

fn outside<'a>(store: &'a Store, except: &'a HashSet<PathBuf>) -> impl Iterator<Item = &'a Entry> {
    let is_outside = |entry: &&Entry| !entry.path.ancestors().any(|folder| except.contains(folder));
    store.entries().iter().filter(is_outside)
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
