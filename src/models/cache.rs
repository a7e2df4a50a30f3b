//! What is known of files that were read before, so that an unchanged file is not read again.
//!
//! A file is the same as then if it is the same inode of the same device, with the same length and the same two times. The
//! time of change (ctime) is the kernel's own: nobody but who sets the machine's clock can give a file an older one. A file
//! that had changed only just before it was read is not remembered: a change within the same tick of the file system's
//! clock would not show (git calls this racy).
//!
//! The form on disk is text, a line for each file, with a digest over all of it at the end. A file that is cut off,
//! damaged, or of another version is as good as none: everything is read.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use super::{Algorithm, Digest, digest};
use crate::clock::FileTime;

/// The first line of the form on disk; the number is its version.
const HEAD: &str = "ladylinux-refresh models 1";

/// How long a file must have been unchanged to be remembered, in seconds: the coarsest clock of a file system (FAT) ticks
/// this often.
const SETTLED: i64 = 2;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The device and the inode.
    pub identity: (u64, u64),
    /// The length in bytes.
    pub size: u64,
    /// When the content changed.
    pub modified: FileTime,
    /// When content, name, owner or mode changed.
    pub changed: FileTime,
}

impl Stamp {
    /// Takes the stamp from what the kernel says of a file.
    pub fn of(found: &Metadata) -> Self {
        Self {
            identity: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Tells whether a change at `time` or later is sure to show in the times. Only the time of change tells: the other one
    /// anybody can set, to a year that is far away too.
    pub fn is_settled(&self, time: FileTime) -> bool {
        (self.changed.0.saturating_add(SETTLED), self.changed.1) <= time
    }
}

/// The digests of files by their stamps. In JSON it is the text of its form on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Cache {
    files: HashMap<(u64, u64), Known>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    stamp: Stamp,
    digests: Vec<Digest>,
}

impl Cache {
    /// How many bytes the form on disk has at most (that of about a hundred thousand files); more is not worth reading.
    pub const LIMIT: u64 = 32 << 20;

    /// How many files are known at most, but for those that were named last.
    pub const FILES: usize = 50_000;

    /// Returns how many files are known.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Tells whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the digest of a file that is still as it was.
    pub fn digest(&self, stamp: &Stamp, algorithm: Algorithm) -> Option<&Digest> {
        self.digests(stamp).iter().find(|digest| digest.algorithm == algorithm)
    }

    /// Returns all digests of a file that is still as it was.
    pub fn digests(&self, stamp: &Stamp) -> &[Digest] {
        match self.files.get(&stamp.identity) {
            Some(known) if known.stamp == *stamp => &known.digests,
            _ => &[],
        }
    }

    /// Keeps a digest; what was known of another state of the file, or by the same algorithm, is replaced.
    pub fn keep(&mut self, stamp: Stamp, digest: Digest) {
        let known = self.files.entry(stamp.identity).or_insert_with(|| Known { stamp, digests: Vec::new() });
        if known.stamp != stamp {
            *known = Known { stamp, digests: Vec::new() };
        }
        known.digests.retain(|other| other.algorithm != digest.algorithm);
        known.digests.push(digest);
    }

    /// Forgets the files that are not `named` now, where more are known than there is room for. Until then they stay: they
    /// may lie in a store that is looked at another time, or on a disk that is not there today.
    pub fn make_room(&mut self, named: &HashSet<(u64, u64)>) {
        if self.files.len() > Self::FILES {
            self.files.retain(|identity, _| named.contains(identity));
        }
    }

    /// Forgets a file.
    pub fn forget(&mut self, identity: (u64, u64)) {
        self.files.remove(&identity);
    }

    /// Returns a line for each file that `before` does not know as this does.
    pub fn lines_since(&self, before: &Self) -> Vec<String> {
        let is_new = |known: &&Known| before.files.get(&known.stamp.identity) != Some(*known);
        self.files.values().filter(is_new).map(Known::line).collect()
    }

    /// Keeps what a line of [`Self::lines_since`] names; returns `true` if it is one.
    pub fn keep_line(&mut self, line: &str) -> bool {
        let Some(known) = known(line) else { return false };
        self.files.insert(known.stamp.identity, known);
        true
    }

    /// Returns the form on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut files: Vec<&Known> = self.files.values().collect();
        files.sort_unstable_by_key(|known| known.stamp.identity);
        let mut text = format!("{HEAD}\n");
        for known in files {
            let _ = writeln!(text, "{}", known.line());
        }
        let end = digest::sha256(text.as_bytes());
        let _ = writeln!(text, "end {end}");
        text.into_bytes()
    }

    /// Reads the form on disk; `None` where it is damaged, cut off, or not ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let (body, end) = text.rsplit_once('\n')?;
        let body = &text[..=body.len()];
        if end.strip_prefix("end ")? != digest::sha256(body.as_bytes()) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let mut files = HashMap::new();
        for line in lines {
            let known = known(line)?;
            files.insert(known.stamp.identity, known);
        }
        Some(Self { files })
    }
}

impl Known {
    fn line(&self) -> String {
        let Self { stamp, digests } = self;
        let ((device, inode), (modified, changed)) = (stamp.identity, (stamp.modified, stamp.changed));
        let mut line = format!(
            "{device} {inode} {} {}.{:09} {}.{:09}",
            stamp.size, modified.0, modified.1, changed.0, changed.1
        );
        for digest in digests {
            let _ = write!(line, " {digest}");
        }
        line
    }
}

impl From<Cache> for String {
    fn from(cache: Cache) -> Self {
        Self::from_utf8_lossy(&cache.to_bytes()).into_owned()
    }
}

impl TryFrom<String> for Cache {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_bytes(text.as_bytes()).ok_or("what is known of models is damaged")
    }
}

fn known(line: &str) -> Option<Known> {
    let mut words = line.split(' ');
    let identity = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let size = words.next()?.parse().ok()?;
    let stamp = Stamp { identity, size, modified: time(words.next()?)?, changed: time(words.next()?)? };
    let digests = words.map(named).collect::<Option<Vec<_>>>()?;
    Some(Known { stamp, digests })
}

fn time(text: &str) -> Option<FileTime> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
}

fn named(text: &str) -> Option<Digest> {
    let (word, hex) = text.split_once(':')?;
    let all = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3, Algorithm::GitBlobSha1];
    let algorithm = all.into_iter().find(|algorithm| algorithm.word() == word)?;
    let is_whole = hex.len() == algorithm.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then(|| Digest { algorithm, hex: hex.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64) -> Stamp {
        Stamp { identity: (7, inode), size: 10, modified: (-1, 5), changed: (100, 999_999_999) }
    }

    fn digest_of(algorithm: Algorithm, digit: &str) -> Digest {
        Digest { algorithm, hex: digit.repeat(algorithm.digits()) }
    }

    fn filled() -> Cache {
        let mut cache = Cache::default();
        cache.keep(stamp(1), digest_of(Algorithm::Sha256, "a"));
        cache.keep(stamp(1), digest_of(Algorithm::GitBlobSha1, "b"));
        cache.keep(stamp(2), digest_of(Algorithm::Blake3, "c"));
        cache.keep(stamp(3), digest_of(Algorithm::Sha512, "d"));
        cache
    }

    #[test]
    fn what_is_written_is_read_again() {
        for cache in [Cache::default(), filled()] {
            let json = serde_json::to_string(&cache).unwrap();
            assert_eq!(serde_json::from_str::<Cache>(&json).unwrap(), cache);
            assert_eq!(Cache::from_bytes(&cache.to_bytes()), Some(cache));
        }
    }

    #[test]
    fn a_cache_that_is_cut_off_or_has_one_bit_changed_is_none() {
        let whole = filled().to_bytes();
        for end in 0..whole.len() {
            assert_eq!(Cache::from_bytes(&whole[..end]), None, "cut off at {end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(Cache::from_bytes(&changed), None, "changed at {at}");
        }
    }

    #[test]
    fn a_cache_of_another_version_or_with_other_lines_is_none() {
        let signed = |text: &str| format!("{text}end {}\n", digest::sha256(text.as_bytes())).into_bytes();
        let zeros = "0".repeat(64);
        assert!(Cache::from_bytes(&signed(&format!("{HEAD}\n"))).is_some());
        assert!(Cache::from_bytes(&signed(&format!("{HEAD}\n1 2 3 4.5 6.7 sha256:{zeros}\n"))).is_some());
        for other in [
            "ladylinux-refresh models 2\n".to_owned(),
            String::new(),
            format!("{HEAD}\n\n"),
            format!("{HEAD}\n1 2 3 4.5\n"),
            format!("{HEAD}\n1 -2 3 4.5 6.7\n"),
            format!("{HEAD}\n1 2 3 4.5 6.7 sha256:00\n"),
            format!("{HEAD}\n1 2 3 4.5 6.7 md5:{zeros}\n"),
            format!("{HEAD}\n1 2 3 4.5 6.7 sha256:{}x\n", &zeros[1..]),
        ] {
            assert_eq!(Cache::from_bytes(&signed(&other)), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_known_only_as_it_was() {
        let cache = filled();
        assert_eq!(cache.digests(&stamp(1)).len(), 2);
        assert_eq!(cache.digest(&stamp(1), Algorithm::Sha512), None);
        let others = [
            Stamp { identity: (8, 1), ..stamp(1) },
            Stamp { identity: (7, 9), ..stamp(1) },
            Stamp { size: 11, ..stamp(1) },
            Stamp { modified: (-1, 6), ..stamp(1) },
            Stamp { changed: (101, 0), ..stamp(1) },
        ];
        for other in others {
            assert!(cache.digests(&other).is_empty(), "{other:?}");
        }
    }

    #[test]
    fn another_state_of_a_file_replaces_what_was_known() {
        let mut cache = filled();
        let changed = Stamp { size: 11, ..stamp(1) };
        cache.keep(changed, digest_of(Algorithm::Sha256, "e"));
        assert!(cache.digests(&stamp(1)).is_empty());
        assert_eq!(cache.digests(&changed), [digest_of(Algorithm::Sha256, "e")]);
        cache.keep(changed, digest_of(Algorithm::Sha256, "f"));
        assert_eq!(cache.digests(&changed), [digest_of(Algorithm::Sha256, "f")]);
        cache.forget(changed.identity);
        assert!(cache.digests(&changed).is_empty());
    }

    #[test]
    fn what_is_new_survives_as_lines() {
        let (mut before, after) = (filled(), filled());
        before.forget(stamp(1).identity);
        before.keep(stamp(2), digest_of(Algorithm::Sha256, "e"));
        let lines = after.lines_since(&before);
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in &lines {
            assert!(before.keep_line(line), "{line}");
        }
        assert_eq!(before, after);
        assert!(!before.keep_line("7 1 10 no line"));
        assert_eq!(after.lines_since(&before), [""; 0]);
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_settled() {
        let settled = Stamp { modified: (50, 0), changed: (100, 500), ..stamp(1) };
        assert!(!settled.is_settled((100, 500)));
        assert!(!settled.is_settled((102, 499)));
        assert!(settled.is_settled((102, 500)));
        // A download may bear any date.
        assert!(Stamp { modified: (1000, 0), ..settled }.is_settled((102, 500)));
    }

    #[test]
    fn files_that_are_not_named_are_known_while_there_is_room() {
        let named = HashSet::from([(7, 1), (7, 3)]);
        let mut cache = Cache::default();
        for inode in 1..=Cache::FILES as u64 {
            cache.keep(stamp(inode), digest_of(Algorithm::Sha256, "a"));
        }
        cache.make_room(&named);
        assert_eq!(cache.len(), Cache::FILES);
        cache.keep(stamp(0), digest_of(Algorithm::Sha256, "a"));
        cache.make_room(&named);
        assert_eq!(cache.len(), 2);
        assert!(!cache.digests(&stamp(1)).is_empty() && !cache.digests(&stamp(3)).is_empty());
    }
}
