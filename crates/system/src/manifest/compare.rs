//! Comparison of two manifests.

use std::cmp::Ordering;
use std::path::PathBuf;

use super::{Entry, Manifest};

/// The differences between two manifests of the same directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the later one only.
    pub added: Vec<PathBuf>,
    /// In the earlier one only.
    pub removed: Vec<PathBuf>,
    /// In both, but different.
    pub changed: Vec<(PathBuf, Change)>,
    /// The entries that were folded together differ, or the directories that could not be read.
    pub beyond_the_limit: bool,
}

/// The first respect in which an entry changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is of another kind, or a link with another target.
    Kind,
    /// Its content, or the signs of its content (size, time) if contents were not read.
    Content,
    /// Its permission bits.
    Mode,
}

impl Difference {
    /// Returns whether nothing differs.
    pub(crate) fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && !self.beyond_the_limit
    }
}

impl Manifest {
    /// Compares this manifest with a later one.
    pub fn compare(&self, later: &Self) -> Difference {
        let mut difference = Difference {
            beyond_the_limit: self.rest != later.rest || self.unreadable != later.unreadable,
            ..Difference::default()
        };
        let (mut before, mut after) = (self.entries.iter().peekable(), later.entries.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return difference,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => one.path.cmp(&other.path),
            };
            let one = before.next_if(|_| order != Ordering::Greater);
            let other = after.next_if(|_| order != Ordering::Less);
            match (one, other) {
                (Some(one), Some(other)) => {
                    difference.changed.extend(change(one, other).map(|what| (one.path.clone(), what)));
                }
                (Some(gone), None) => difference.removed.push(gone.path.clone()),
                (None, Some(new)) => difference.added.push(new.path.clone()),
                (None, None) => return difference,
            }
        }
    }
}

fn change(one: &Entry, other: &Entry) -> Option<Change> {
    if one.kind != other.kind {
        return Some(Change::Kind);
    }
    let same_content = match (&one.digest, &other.digest) {
        (Some(one), Some(other)) => one == other,
        _ => (one.size, one.modified) == (other.size, other.modified),
    };
    if !same_content {
        return Some(Change::Content);
    }
    (one.mode != other.mode).then_some(Change::Mode)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn file(path: &str, digest: Option<&str>, modified: i64) -> Entry {
        let digest = digest.map(str::to_owned);
        Entry {
            path: path.into(),
            kind: Kind::File,
            mode: 0o644,
            size: 1,
            modified,
            touched: 0,
            inode: 0,
            digest,
        }
    }

    fn manifest(entries: Vec<Entry>) -> Manifest {
        Manifest { entries, ..Manifest::default() }
    }

    #[test]
    fn added_removed_and_changed_paths_are_distinguished() {
        let before = manifest(vec![file("a", None, 1), file("b", None, 1), file("d", None, 1)]);
        let after = manifest(vec![file("b", None, 2), file("c", None, 1), file("d", None, 1)]);
        let difference = before.compare(&after);
        assert_eq!(difference.removed, [PathBuf::from("a")]);
        assert_eq!(difference.added, [PathBuf::from("c")]);
        assert_eq!(difference.changed, [(PathBuf::from("b"), Change::Content)]);
        assert!(before.compare(&before).is_none());
    }

    #[test]
    fn digests_take_precedence_over_times() {
        let before = manifest(vec![file("a", Some("1"), 1), file("b", Some("1"), 1)]);
        let after = manifest(vec![file("a", Some("1"), 2), file("b", Some("2"), 1)]);
        assert_eq!(before.compare(&after).changed, [(PathBuf::from("b"), Change::Content)]);
    }
}
