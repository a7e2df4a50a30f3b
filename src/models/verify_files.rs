//! Reads model files: each file once, in one pool of threads. It opens files to read them and nothing else.
//!
//! Files are read, never mapped: a mapped file that is cut off while it is read ends the whole program.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cache::{DigestCache, Stamp};
use super::model_dirs::open_file;
use super::progress::Progress;
use super::{Claim, Finding, Format, Sha256Hex, Verdict, gguf, safetensors};
use crate::clock;
use crate::error::Outcome;
use crate::process::interrupt;

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
    /// Whether they are there, have the expected length, and are not truncated.
    Presence,
    /// The digests as well.
    Full,
    /// The digests as well, and no digest from an earlier run counts.
    Afresh,
}

/// Reads every claimed file. Returns a verdict for each claim, in their order, and what is known of files now. What is wrong
/// with a file is its verdict.
///
/// # Errors
/// The interruption.
pub(super) fn verify_files(
    claims: &[Claim],
    depth: Depth,
    mut cache: DigestCache,
    report: &dyn Fn(&Progress),
) -> Outcome<(Vec<Verdict>, DigestCache)> {
    let pool = Pool::new(claims, depth, &cache);
    let mut progress = Progress { of_files: pool.jobs.len(), ..Progress::default() };
    progress.of_bytes = pool.jobs.iter().map(|job| job.bytes).sum();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let mut results: Vec<Option<FileResult>> = pool.jobs.iter().map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads.min(pool.jobs.len()) {
            let sender = sender.clone();
            scope.spawn(|| pool.work(sender));
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(REPORT_EVERY) {
                Ok((number, result)) => {
                    results[number] = Some(result);
                    progress.files += 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    report(&Progress { bytes: pool.bytes.load(Ordering::Relaxed), ..progress });
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    interrupt::check()?;
    let mut verdicts: Vec<Option<Verdict>> = claims.iter().map(|_| None).collect();
    let mut learned = Vec::new();
    for (job, result) in pool.jobs.iter().zip(results) {
        let Some(result) = result else { continue };
        let mut bytes_read = result.bytes_read;
        for &number in &job.claims {
            let claim = &claims[number];
            let verdict =
                Verdict::unread(&claim.path, &claim.shown, &claim.expected.from, result.finding(claim));
            let cached = result.is_cached && verdict.finding == Finding::Verified;
            // Counted once, so that the sum over all verdicts is what was read.
            verdicts[number] =
                Some(Verdict { bytes_read: std::mem::take(&mut bytes_read), cached, ..verdict });
        }
        learned.extend(result.to_remember);
    }
    for (stamp, digest) in learned {
        cache.remember(&stamp, digest);
    }
    Ok((verdicts.into_iter().flatten().collect(), cache))
}

/// A file and the numbers of its claims.
struct Job<'a> {
    path: &'a Path,
    bytes: u64,
    claims: Vec<usize>,
}

struct Pool<'a> {
    claims: &'a [Claim],
    depth: Depth,
    cache: DigestCache,
    jobs: Vec<Job<'a>>,
    next: AtomicUsize,
    bytes: AtomicU64,
}

/// What was found out about a file.
#[derive(Debug)]
struct FileResult {
    content: Result<Content, FileFailure>,
    is_cached: bool,
    bytes_read: u64,
    to_remember: Option<(Stamp, Sha256Hex)>,
}

#[derive(Debug)]
struct Content {
    size: u64,
    digest: Option<Sha256Hex>,
    header: Option<Finding>,
}

#[derive(Debug)]
enum FileFailure {
    Missing,
    Unreadable(String),
    Changing,
}

impl<'a> Pool<'a> {
    fn new(claims: &'a [Claim], depth: Depth, cache: &DigestCache) -> Self {
        let mut jobs: Vec<Job<'a>> = Vec::new();
        let mut by_path: HashMap<&Path, usize> = HashMap::new();
        for (number, claim) in claims.iter().enumerate() {
            let job = *by_path.entry(&claim.path).or_insert_with(|| {
                jobs.push(Job { path: &claim.path, bytes: 0, claims: Vec::new() });
                jobs.len() - 1
            });
            jobs[job].claims.push(number);
        }
        if depth != Depth::Presence {
            for job in &mut jobs {
                let has_digest = job.claims.iter().any(|number| claims[*number].expected.digest.is_some());
                let size = || job.path.symlink_metadata().map_or(0, |found| found.len());
                job.bytes = if has_digest { size() } else { 0 };
            }
        }
        // The largest first, so that none of them is left to one thread at the end.
        jobs.sort_by_key(|job| std::cmp::Reverse(job.bytes));
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { claims, depth, cache: cache.clone(), jobs, next, bytes }
    }

    /// Does one job after the other until none is left or the work is interrupted.
    #[expect(clippy::needless_pass_by_value, reason = "the receiver waits for the end of every sender")]
    fn work(&self, sender: Sender<(usize, FileResult)>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.jobs.get(number) else { return };
            let Ok(result) = self.examine(job) else { return };
            if sender.send((number, result)).is_err() {
                return;
            }
        }
    }

    fn examine(&self, job: &Job<'_>) -> Outcome<FileResult> {
        interrupt::check()?;
        let mut result = FileResult {
            content: Err(FileFailure::Missing),
            is_cached: false,
            bytes_read: 0,
            to_remember: None,
        };
        let begun = clock::file_time();
        let opened = open_file(job.path).and_then(|file| match file {
            None => Ok(None),
            Some(file) => file.metadata().map(|found| Some((file, found))).map_err(|error| error.to_string()),
        });
        let (mut file, stamp) = match opened {
            Ok(Some((file, found))) => (file, Stamp::new(&found)),
            Ok(None) => return Ok(result),
            Err(why) => return Ok(FileResult { content: Err(FileFailure::Unreadable(why)), ..result }),
        };
        let mut header = self.header(job, &mut file, stamp.size);
        let mut digest = None;
        if self.needs_digest(job, stamp.size) {
            digest = self.cached(job, &stamp);
            result.is_cached = digest.is_some();
            if digest.is_none() {
                match self.read(&mut file, stamp.size, &mut result.bytes_read)? {
                    Ok(hex) => digest = Some(hex),
                    Err(why) => header = Some(Finding::Unreadable(why)),
                }
            }
        }
        let is_same = file.metadata().is_ok_and(|found| Stamp::new(&found) == stamp);
        if !is_same || (!result.is_cached && digest.is_some() && result.bytes_read != stamp.size) {
            return Ok(FileResult { content: Err(FileFailure::Changing), ..result });
        }
        let is_new = !result.is_cached && stamp.is_settled(begun);
        result.to_remember = digest.clone().filter(|_| is_new).map(|digest| (stamp, digest));
        result.content = Ok(Content { size: stamp.size, digest, header });
        Ok(result)
    }

    /// Returns what is wrong with the header of a file, where a claim says which format it has.
    fn header(&self, job: &Job<'_>, file: &mut File, length: u64) -> Option<Finding> {
        let format = job.claims.iter().find_map(|number| self.claims[*number].expected.format)?;
        let checked = match format {
            Format::Gguf => gguf::check(&*file, length, job.path),
            Format::Safetensors => safetensors::check(&*file, length),
        };
        let rewound = file.rewind().map_err(|error| Finding::Unreadable(error.to_string()));
        checked.and(rewound).err()
    }

    /// Returns `true` if a claim names a digest and does not name another length.
    fn needs_digest(&self, job: &Job<'_>, size: u64) -> bool {
        let claims = job.claims.iter().map(|number| &self.claims[*number].expected);
        self.depth != Depth::Presence
            && claims
                .filter(|expected| expected.size.is_none_or(|expected| expected == size))
                .any(|expected| expected.digest.is_some())
    }

    /// Returns the digest from an earlier run, if it is the expected one: a problem is never reported without reading.
    fn cached(&self, job: &Job<'_>, stamp: &Stamp) -> Option<Sha256Hex> {
        let digest = self.cache.digest(stamp).filter(|_| self.depth == Depth::Full)?;
        let mut expected =
            job.claims.iter().filter_map(|number| self.claims[*number].expected.digest.as_ref());
        expected.all(|expected| expected == digest).then(|| {
            self.bytes.fetch_add(stamp.size, Ordering::Relaxed);
            digest.clone()
        })
    }

    /// Reads a file to its end, or beyond `size`, where it has grown. Returns its digest, or why it cannot be read.
    fn read(&self, file: &mut File, size: u64, bytes_read: &mut u64) -> Outcome<Result<Sha256Hex, String>> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; PIECE];
        loop {
            interrupt::check()?;
            match file.read(&mut buffer) {
                Ok(length) if length == 0 || *bytes_read > size => {
                    return Ok(Ok(Sha256Hex(hex::encode(hasher.finalize()))));
                }
                Ok(length) => {
                    hasher.update(&buffer[..length]);
                    *bytes_read += length as u64;
                    self.bytes.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(format!("{error}, at byte {bytes_read}"))),
            }
        }
    }
}

impl Content {
    fn is_truncated(&self) -> bool {
        matches!(self.header, Some(Finding::Truncated { .. }))
    }
}

impl FileResult {
    /// Compares the file with a claim.
    fn finding(&self, Claim { expected, .. }: &Claim) -> Finding {
        let content = match &self.content {
            Ok(content) => content,
            Err(FileFailure::Missing) if expected.is_required => return Finding::MissingRequired,
            Err(FileFailure::Missing) => return Finding::MissingOptional,
            Err(FileFailure::Unreadable(why)) => return Finding::Unreadable(why.clone()),
            Err(FileFailure::Changing) => return Finding::Changing,
        };
        match (expected.size, &expected.digest, &content.digest) {
            (Some(size), _, _) if size != content.size => {
                Finding::SizeMismatch { expected: size, found: content.size }
            }
            (_, Some(expected), Some(found)) if expected == found => Finding::Verified,
            // That a file is cut off explains why its digest differs.
            (_, Some(expected), Some(found)) if !content.is_truncated() => Finding::DigestMismatch {
                expected: expected.as_str().to_owned(),
                found: found.as_str().to_owned(),
            },
            _ => content.header.clone().unwrap_or(Finding::Present),
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

    use super::super::Expected;
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
        let missing = claim(path.with_file_name("none"), "");
        let claims = [claim(path.clone(), "weights"), claim(path.clone(), "other"), sized, missing];
        let full = findings(&claims, Depth::Full);
        assert_eq!((&full[0], &full[3]), (&Finding::Verified, &Finding::MissingOptional));
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
        // To read a hole of this length takes much longer than one write.
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
    fn what_is_no_regular_file_is_neither_read_nor_waited_for() {
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
