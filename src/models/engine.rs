//! Looking at the bytes: from claims to verdicts, at the speed of the hardware.
//!
//! Every file is looked at first, which opens nothing. What can be told without its bytes is told then: that it is missing,
//! of the wrong length, or still as it was when it was last read. What is left is read, several files at the same time and
//! the largest first, each once whatever the number of claims and of digests: one thread reads ahead
//! ([`reading`](super::reading)), one hashes.
//!
//! Whoever called waits beside all that, and touches no file itself: a disk or a server that does not answer holds up
//! neither progress nor an interruption.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache::{Cache, Stamp};
pub use super::progress::{Progress, Reached};
use super::reading::{End, Look, look};
use super::work::{Done, Job, Work, failed, start};
use super::{Algorithm, Claim, Digest, Finding, Need, Verdict};
use crate::clock;
use crate::error::Outcome;
use crate::process::interrupt;

/// How often whoever waits looks for an interruption and tells how far it is.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// How many files are looked at before that is told: to wake somebody up takes longer than to look.
const LOOKS: usize = 256;

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Whether they are there, of the right length, and may be read. The engine opens no file then.
    Presence,
    /// Their digests, too.
    Full,
    /// Their digests, and what is known from before does not count: everything is read.
    Afresh,
}

/// What an examination brought.
#[derive(Debug)]
#[must_use]
pub struct Examined {
    /// A verdict for each claim, in the order of the claims; where the work was given up, for those that were done.
    pub verdicts: Vec<Verdict>,
    /// What is known now. What is known of files that no claim names stays, as long as there is room.
    pub cache: Cache,
    /// The interruption that made it give up.
    pub ended: Outcome<()>,
}

/// Returns how many files are best read at the same time: as many as this process may use processors.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Looks at all files that are named, `threads` at the same time. `cache` is what is known from before; a digest that is
/// wrong is never told from it, but read again.
///
/// Never fails because of a file: what is wrong with one is its verdict.
pub fn examine(
    claims: &[Claim],
    how: How,
    cache: &Cache,
    threads: usize,
    progress: &dyn Progress,
) -> Examined {
    examine_unless(&interrupt::check, claims, how, cache, threads, progress)
}

/// Does so until `halted` says no.
fn examine_unless(
    halted: &dyn Fn() -> Outcome<()>,
    claims: &[Claim],
    how: How,
    cache: &Cache,
    threads: usize,
    progress: &dyn Progress,
) -> Examined {
    let mut examination = Examination::of(claims, cache);
    let ended = examination.look(halted).and_then(|()| examination.settle(how, threads, halted, progress));
    examination.finish(ended)
}

struct Examination<'a> {
    claims: &'a [Claim],
    /// Every path that is claimed, with the numbers of its claims.
    files: Vec<(&'a Path, Vec<usize>)>,
    looks: Vec<Look>,
    verdicts: Vec<Option<Verdict>>,
    cache: Cache,
}

impl<'a> Examination<'a> {
    fn of(claims: &'a [Claim], cache: &Cache) -> Self {
        let mut files: Vec<(&Path, Vec<usize>)> = Vec::new();
        let mut places: HashMap<&Path, usize> = HashMap::new();
        for (number, claim) in claims.iter().enumerate() {
            let place = *places.entry(&claim.path).or_insert_with(|| {
                files.push((&claim.path, Vec::new()));
                files.len() - 1
            });
            files[place].1.push(number);
        }
        let verdicts = vec![None; claims.len()];
        Self { claims, files, looks: Vec::new(), verdicts, cache: cache.clone() }
    }

    /// Looks at every file, in a thread of its own.
    fn look(&mut self, halted: &dyn Fn() -> Outcome<()>) -> Outcome<()> {
        let paths: Vec<PathBuf> = self.files.iter().map(|(path, _)| path.to_path_buf()).collect();
        let (to, looks) = mpsc::channel();
        let looker = start("look", move || {
            // An error means that nobody wants to know any more.
            let mut shares = paths.chunks(LOOKS);
            let _ =
                shares.try_for_each(|share| to.send(share.iter().map(|path| look(path)).collect::<Vec<_>>()));
        })?;
        while self.looks.len() < self.files.len() {
            halted()?;
            match looks.recv_timeout(TICK) {
                Ok(looks) => self.looks.extend(looks),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => failed(vec![looker]),
            }
        }
        Ok(())
    }

    /// Tells what can be told without reading, and reads the rest.
    fn settle(
        &mut self,
        how: How,
        threads: usize,
        halted: &dyn Fn() -> Outcome<()>,
        progress: &dyn Progress,
    ) -> Outcome<()> {
        let jobs = self.decide(how);
        let apart = self.read(&jobs, threads, halted, progress)?;
        self.read(&apart, threads, halted, progress).map(drop)
    }

    /// Tells what can be told without reading, and returns what has to be read.
    fn decide(&mut self, how: How) -> Vec<ToRead> {
        let mut jobs: Vec<ToRead> = Vec::new();
        let mut places: HashMap<(u64, u64), usize> = HashMap::new();
        for (file, look) in self.looks.iter().enumerate() {
            for &number in &self.files[file].1 {
                let claim = &self.claims[number];
                let stamp = match look {
                    Look::File(stamp) => stamp,
                    Look::Missing => {
                        self.verdicts[number] = Some(missing(claim));
                        continue;
                    }
                    Look::Unreadable(why) => {
                        self.verdicts[number] = Some(claim.verdict(Finding::Unreadable(why.clone())));
                        continue;
                    }
                };
                if let Some(verdict) = unread(claim, how, stamp, &self.cache) {
                    self.verdicts[number] = Some(verdict);
                    continue;
                }
                // A file of several names is read once.
                let place = *places.entry(stamp.identity).or_insert_with(|| {
                    let path = self.files[file].0.to_path_buf();
                    jobs.push(ToRead { path, stamp: *stamp, claims: Vec::new() });
                    jobs.len() - 1
                });
                jobs[place].claims.push(number);
            }
        }
        // The largest first, so that none of them is left to one thread at the end.
        jobs.sort_by_key(|job| std::cmp::Reverse(job.stamp.size));
        jobs
    }

    /// Reads files; returns what has to be read again, each name for itself.
    fn read(
        &mut self,
        jobs: &[ToRead],
        threads: usize,
        halted: &dyn Fn() -> Outcome<()>,
        progress: &dyn Progress,
    ) -> Outcome<Vec<ToRead>> {
        let mut apart = Vec::new();
        if jobs.is_empty() {
            return Ok(apart);
        }
        let mut reached = Reached { of_files: jobs.len(), ..Reached::default() };
        reached.of_bytes = jobs.iter().map(|job| job.stamp.size).sum();
        let begun = clock::monotonic();
        let numbered = jobs.iter().enumerate();
        let work =
            Work::begin(numbered.map(|(number, job)| job.numbered(number, self.claims)).collect(), threads)?;
        loop {
            reached.bytes = work.bytes();
            reached.elapsed = clock::monotonic().saturating_duration_since(begun);
            progress.take(&reached);
            if reached.files == jobs.len() {
                return Ok(apart);
            }
            let left =
                || TICK.saturating_sub(clock::monotonic().saturating_duration_since(begun + reached.elapsed));
            while reached.files < jobs.len() && !left().is_zero() {
                halted()?;
                match work.done.recv_timeout(left()) {
                    Ok(done) => {
                        reached.files += 1;
                        apart.extend(self.judge(&jobs[done.number], &done));
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => work.fail(),
                }
            }
        }
    }

    /// Makes the verdicts on a file that was read; returns its other names where they may be those of another file.
    fn judge(&mut self, job: &ToRead, done: &Done) -> Vec<ToRead> {
        match &done.end {
            End::Whole { stamp, is_settled: true } => {
                for digest in &done.digests {
                    self.cache.keep(*stamp, digest.clone());
                }
            }
            _ => self.cache.forget(job.stamp.identity),
        }
        // What is as it was looked at is what all of its names led to then. Anything else was found under this one name: a
        // download that is renamed into its place leaves the others where they were.
        let is_as_it_was = matches!(&done.end, End::Whole { stamp, .. } if *stamp == job.stamp);
        let mut apart: Vec<ToRead> = Vec::new();
        let mut bytes_read = done.bytes;
        for &number in &job.claims {
            let claim = &self.claims[number];
            if !is_as_it_was && claim.path != job.path {
                // The claims of one name follow each other.
                match apart.last_mut().filter(|other| other.path == claim.path) {
                    Some(other) => other.claims.push(number),
                    None => apart.push(ToRead { path: claim.path.clone(), claims: vec![number], ..*job }),
                }
                continue;
            }
            let verdict = match &done.end {
                End::Whole { stamp, .. } => {
                    let finding = of_size(claim, stamp).unwrap_or_else(|| compared(claim, &done.digests));
                    claim.verdict(finding)
                }
                End::Changing => claim.verdict(Finding::Changing),
                End::Missing => missing(claim),
                End::Failed(why) => claim.verdict(Finding::Unreadable(why.clone())),
            };
            // Once for all claims, so that a sum over the verdicts is what was read.
            self.verdicts[number] = Some(Verdict { bytes_read: std::mem::take(&mut bytes_read), ..verdict });
        }
        apart
    }

    fn finish(mut self, ended: Outcome<()>) -> Examined {
        if ended.is_ok() {
            let stamps = self.looks.iter().filter_map(|look| match look {
                Look::File(stamp) => Some(stamp.identity),
                _ => None,
            });
            self.cache.make_room(&stamps.collect());
        }
        Examined { verdicts: self.verdicts.into_iter().flatten().collect(), cache: self.cache, ended }
    }
}

/// A file that has to be read, and the claims that wait for it.
struct ToRead {
    path: PathBuf,
    stamp: Stamp,
    claims: Vec<usize>,
}

impl ToRead {
    fn numbered(&self, number: usize, claims: &[Claim]) -> Job {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for digest in self.claims.iter().filter_map(|&claim| claims[claim].digest.as_ref()) {
            if !algorithms.contains(&digest.algorithm) {
                algorithms.push(digest.algorithm);
            }
        }
        Job { number, path: self.path.clone(), algorithms }
    }
}

fn missing(claim: &Claim) -> Verdict {
    claim.verdict(match claim.need {
        Need::Required => Finding::MissingRequired,
        Need::Optional => Finding::MissingOptional,
    })
}

/// The verdict that needs no reading.
fn unread(claim: &Claim, how: How, stamp: &Stamp, cache: &Cache) -> Option<Verdict> {
    if let Some(finding) = of_size(claim, stamp) {
        return Some(claim.verdict(finding));
    }
    match &claim.digest {
        Some(digest) if how != How::Presence => {
            let is_known = how == How::Full && cache.digest(stamp, digest.algorithm) == Some(digest);
            is_known.then(|| Verdict { cached: true, ..claim.verdict(Finding::Verified) })
        }
        _ => Some(claim.verdict(Finding::Present)),
    }
}

/// The finding about a file's length, where one is said and it has another.
fn of_size(claim: &Claim, stamp: &Stamp) -> Option<Finding> {
    let expected = claim.size.filter(|size| *size != stamp.size)?;
    Some(Finding::SizeMismatch { expected, found: stamp.size })
}

fn compared(claim: &Claim, digests: &[Digest]) -> Finding {
    let Some(expected) = &claim.digest else { return Finding::Present };
    match digests.iter().find(|digest| digest.algorithm == expected.algorithm) {
        Some(found) if found == expected => Finding::Verified,
        Some(found) => Finding::DigestMismatch { expected: expected.hex.clone(), found: found.hex.clone() },
        None => Finding::Unreadable("its digest was not computed".to_owned()),
    }
}

#[cfg(test)]
mod tests;
