//! Reads model files: each file once, in one pool of threads. The module opens files to read them and does nothing
//! else.
//!
//! Files are read, never mapped: a mapped file that is cut off while it is read ends the program.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use refresh_system::disk::FileVersion;
use refresh_system::error::Outcome;
use refresh_system::text::{count, size};
use refresh_system::{clock, interrupt};

use super::cache::{self, DigestCache};
use super::model_dirs::open_file;
use super::{Claim, Expected, Finding, Format, Sha256Hex, Verdict, gguf, safetensors};

/// How many threads read at most: more of them fill the disk's queue and leave no processor to the service.
const MOST_THREADS: usize = 4;

/// How many bytes are read at once: as many as fit into the cache of one core.
const PIECE: usize = 256 << 10;

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// How closely files are examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Whether they exist, have the expected length, and are not truncated.
    Presence,
    /// The digests as well.
    Full,
    /// The digests as well, and no digest from an earlier run counts.
    Afresh,
}

/// Reads every claimed file. Returns a verdict for each claim, and the digests that are known now. A fault of a file is
/// its verdict, not an error. `report` receives the progress as text.
///
/// # Errors
/// The interruption.
pub(super) fn verify_files(
    claims: &[Claim],
    depth: Depth,
    mut cache: DigestCache,
    report: &dyn Fn(&str),
) -> Outcome<(Vec<Verdict>, DigestCache)> {
    let checks = checks(claims, depth);
    let (mut files, of_files) = (0, count(checks.len(), "file"));
    let of_bytes = size(checks.iter().map(|check| check.bytes).sum());
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(checks.len());
    let pool =
        Pool { depth, known: cache.clone(), checks, next: AtomicUsize::new(0), bytes: AtomicU64::new(0) };
    let mut verdicts = Vec::with_capacity(claims.len());
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| pool.work(sender));
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(REPORT_EVERY) {
                Ok((of_file, to_remember)) => {
                    verdicts.extend::<Vec<Verdict>>(of_file);
                    files += 1;
                    if let Some((version, digest)) = to_remember {
                        cache.remember(&version, digest);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let bytes = size(pool.bytes.load(Ordering::Relaxed));
                    report(&format!("{bytes} of {of_bytes}, {files} of {of_files}"));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    interrupt::check()?;
    Ok((verdicts, cache))
}

/// A file and its claims.
struct FileCheck<'a> {
    path: &'a Path,
    bytes: u64,
    claims: Vec<&'a Claim>,
}

/// Returns one check for each file; the largest first: else one of them could keep a single thread busy at the end.
fn checks(claims: &[Claim], depth: Depth) -> Vec<FileCheck<'_>> {
    let mut checks: HashMap<&Path, FileCheck<'_>> = HashMap::new();
    for claim in claims {
        let new = || FileCheck { path: &claim.path, bytes: 0, claims: Vec::new() };
        checks.entry(&claim.path).or_insert_with(new).claims.push(claim);
    }
    let mut checks: Vec<FileCheck<'_>> = checks.into_values().collect();
    for check in
        checks.iter_mut().filter(|check| depth != Depth::Presence && check.digests().next().is_some())
    {
        check.bytes = check.path.symlink_metadata().map_or(0, |found| found.len());
    }
    checks.sort_by_key(|check| std::cmp::Reverse(check.bytes));
    checks
}

impl FileCheck<'_> {
    fn digests(&self) -> impl Iterator<Item = &Sha256Hex> {
        self.claims.iter().filter_map(|claim| claim.expected.digest.as_ref())
    }

    /// Returns the fault of the header of a file, if a claim names its format.
    fn header(&self, file: &mut File, length: u64) -> Option<Finding> {
        let checked = match self.claims.iter().find_map(|claim| claim.expected.format)? {
            Format::Gguf => gguf::check(&*file, length, self.path),
            Format::Safetensors => safetensors::check(&*file, length),
        };
        let rewound = file.rewind().map_err(|error| Finding::Unreadable(error.to_string()));
        checked.and(rewound).err()
    }
}

struct Pool<'a> {
    depth: Depth,
    known: DigestCache,
    checks: Vec<FileCheck<'a>>,
    next: AtomicUsize,
    bytes: AtomicU64,
}

/// The verdicts about a file, and the digest to remember.
type FileResult = (Vec<Verdict>, Option<(FileVersion, Sha256Hex)>);

/// The knowledge about a file after reading it.
#[derive(Debug, Default)]
struct Content {
    /// Why the file could not be read; `MissingOptional` for any missing file.
    failure: Option<Finding>,
    size: u64,
    digest: Option<Sha256Hex>,
    is_cached: bool,
    bytes_read: u64,
    /// The fault of the header.
    header: Option<Finding>,
    to_remember: Option<FileVersion>,
}

impl Pool<'_> {
    /// Does one check after another until none is left or the work is interrupted.
    #[expect(clippy::needless_pass_by_value, reason = "the receiver waits for the end of every sender")]
    fn work(&self, sender: Sender<FileResult>) {
        while let Some(check) = self.checks.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let Ok(content) = self.read(check) else { return };
            let mut bytes_read = content.bytes_read;
            let verdicts = check.claims.iter().map(|Claim { path, shown, expected }| {
                let finding = content.finding(expected);
                let cached = content.is_cached && finding == Finding::Verified;
                // Counted once: the sum over all verdicts is the number of bytes that were read.
                let bytes_read = std::mem::take(&mut bytes_read);
                Verdict { bytes_read, cached, ..Verdict::unread(path, shown, &expected.from, finding) }
            });
            let verdicts = verdicts.collect();
            if sender.send((verdicts, content.to_remember.zip(content.digest))).is_err() {
                return;
            }
        }
    }

    fn read(&self, check: &FileCheck<'_>) -> Outcome<Content> {
        interrupt::check()?;
        let failed = |finding| Ok(Content { failure: Some(finding), ..Content::default() });
        let begun = clock::file_time();
        let (mut file, found) = match open_file(check.path) {
            Ok(Some(opened)) => opened,
            Ok(None) => return failed(Finding::MissingOptional),
            Err(why) => return failed(Finding::Unreadable(why)),
        };
        let version = FileVersion::new(&found);
        let header = check.header(&mut file, version.size);
        let mut content = Content { size: version.size, header, ..Content::default() };
        if self.depth != Depth::Presence && check.digests().next().is_some() {
            // A digest of an earlier run is never used to report a problem.
            let known = self.known.digest(&version).filter(|_| self.depth == Depth::Full);
            if let Some(known) = known.filter(|known| check.digests().all(|expected| expected == *known)) {
                self.bytes.fetch_add(version.size, Ordering::Relaxed);
                (content.digest, content.is_cached) = (Some(known.clone()), true);
            } else if let Err(why) = self.digest(&mut file, &mut content)? {
                return failed(Finding::Unreadable(why));
            } else if content.bytes_read != version.size {
                return failed(Finding::Changing);
            } else if cache::is_settled(&version, begun) {
                content.to_remember = Some(version);
            }
        }
        match file.metadata() {
            Ok(found) if FileVersion::new(&found) == version => Ok(content),
            _ => failed(Finding::Changing),
        }
    }

    /// Reads a file to its end, or beyond its size if it has grown. Returns why it cannot be read.
    fn digest(&self, file: &mut File, content: &mut Content) -> Outcome<Result<(), String>> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; PIECE];
        while content.bytes_read <= content.size {
            interrupt::check()?;
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    hasher.update(&buffer[..length]);
                    content.bytes_read += length as u64;
                    self.bytes.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(format!("{error}, at byte {}", content.bytes_read))),
            }
        }
        content.digest = Some(Sha256Hex(hex::encode(hasher.finalize())));
        Ok(Ok(()))
    }
}

impl Content {
    /// Compares the file with an expectation.
    fn finding(&self, expected: &Expected) -> Finding {
        let is_truncated = matches!(self.header, Some(Finding::Truncated { .. }));
        match (&self.failure, expected.size, &expected.digest, &self.digest) {
            (Some(Finding::MissingOptional), ..) => expected.missing(),
            (Some(failure), ..) => failure.clone(),
            (_, Some(size), ..) if size != self.size => {
                Finding::SizeMismatch { expected: size, found: self.size }
            }
            (_, _, Some(expected), Some(found)) if expected == found => Finding::Verified,
            // Truncation explains why the digest of a file differs.
            (_, _, Some(expected), Some(found)) if !is_truncated => Finding::DigestMismatch {
                expected: expected.as_str().to_owned(),
                found: found.as_str().to_owned(),
            },
            _ => self.header.clone().unwrap_or(Finding::Present),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make the files that are read, and change them")]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn claim(path: PathBuf, text: &str) -> Claim {
        let digest = Some(Sha256Hex(hex::encode(Sha256::digest(text))));
        Claim { path, shown: "f".into(), expected: Expected { digest, ..Expected::optional("SHA256SUMS") } }
    }

    fn findings(claims: &[Claim], depth: Depth) -> Vec<Finding> {
        let (verdicts, _) = verify_files(claims, depth, DigestCache::default(), &|_| {}).unwrap();
        verdicts.into_iter().map(|verdict| verdict.finding).collect()
    }

    #[test]
    fn rw_6_2b_every_claim_about_a_file_has_its_own_verdict() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().canonicalize().unwrap().join("f");
        fs::write(&path, "weights").unwrap();
        let mut sized = claim(path.clone(), "weights");
        sized.expected.size = Some(8);
        let claims = [claim(path.clone(), "weights"), claim(path.clone(), "other"), sized];
        let full = findings(&claims, Depth::Full);
        assert_eq!(full[0], Finding::Verified);
        let missing = [claim(path.with_file_name("none"), "")];
        assert_eq!(findings(&missing, Depth::Full), [Finding::MissingOptional]);
        assert!(matches!(&full[1], Finding::DigestMismatch { .. }), "{full:?}");
        assert_eq!(full[2], Finding::SizeMismatch { expected: 8, found: 7 });
        assert_eq!(findings(&claims, Depth::Presence)[..2], [Finding::Present, Finding::Present]);
        let (verdicts, _) = verify_files(&claims, Depth::Full, DigestCache::default(), &|_| {}).unwrap();
        assert_eq!(verdicts.iter().map(|verdict| verdict.bytes_read).sum::<u64>(), 7, "read more than once");
    }

    #[test]
    fn rw_6_2b_a_file_that_changes_while_it_is_read_is_reported_as_such() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().canonicalize().unwrap().join("f");
        // Reading a hole of this length takes much longer than one write.
        File::create(&path).unwrap().set_len(256 << 20).unwrap();
        let claims = [claim(path.clone(), "")];
        let (is_done, writes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = File::options().append(true).open(&path).unwrap();
                while is_done.load(Ordering::SeqCst) == 0 {
                    file.write_all(b"x").unwrap();
                    writes.fetch_add(1, Ordering::SeqCst);
                }
            });
            while writes.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let found = findings(&claims, Depth::Full);
            is_done.store(1, Ordering::SeqCst);
            assert_eq!(found, [Finding::Changing]);
        });
    }

    #[test]
    fn an_entry_that_is_not_a_regular_file_is_neither_read_nor_waited_for() {
        let temporary = tempfile::tempdir().unwrap();
        let top = temporary.path().canonicalize().unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, top.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::create_dir_all(top.join("dir")).unwrap();
        fs::write(top.join("dir/f"), "secret").unwrap();
        symlink("dir/f", top.join("link")).unwrap();
        symlink("dir", top.join("way")).unwrap();
        for name in ["pipe", "dir", "link", "way/f"] {
            let found = findings(&[claim(top.join(name), "secret")], Depth::Full);
            assert!(matches!(&found[..], [Finding::Unreadable(_)]), "{name}: {found:?}");
        }
        assert!(matches!(
            findings(&[claim("/dev/zero".into(), "")], Depth::Full)[..],
            [Finding::Unreadable(_)]
        ));
    }
}
