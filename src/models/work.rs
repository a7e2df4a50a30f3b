//! The threads that read and hash, in pairs: while one hashes a piece, the other reads the next ones.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::digest::Hashing;
use super::reading::{End, Reader, Told};
use super::{Algorithm, Digest};
use crate::error::{Context as _, Outcome};

/// A file that is to be read.
#[derive(Debug)]
pub(super) struct Job {
    /// Its number among all jobs.
    pub(super) number: usize,
    /// Where it is.
    pub(super) path: PathBuf,
    /// What is to be computed.
    pub(super) algorithms: Vec<Algorithm>,
}

/// What became of a file.
#[derive(Debug)]
pub(super) struct Done {
    /// The job's number.
    pub(super) number: usize,
    /// How the reading ended.
    pub(super) end: End,
    /// The digests, where it was read to its end.
    pub(super) digests: Vec<Digest>,
    /// How many bytes were read, all attempts together.
    pub(super) bytes: u64,
}

/// The files that wait, and whether to go on.
#[derive(Debug)]
pub(super) struct Queue<J> {
    waiting: Mutex<VecDeque<J>>,
    given_up: AtomicBool,
}

impl<J> Queue<J> {
    /// Lets them wait in this order.
    pub(super) fn of(jobs: Vec<J>) -> Self {
        Self { waiting: Mutex::new(jobs.into()), given_up: AtomicBool::new(false) }
    }

    /// Says that nobody wants to know any more.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Tells whether nobody wants to know any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Returns the next file.
    pub(super) fn next(&self) -> Option<J> {
        if self.is_given_up() {
            return None;
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The work under way. Whoever drops it gives it up: every thread ends with the piece that it has in hand, and nobody waits
/// for one that a disk holds up.
#[derive(Debug)]
pub(super) struct Work {
    /// What is done, in the order in which it is.
    pub(super) done: Receiver<Done>,
    queue: Arc<Queue<Job>>,
    bytes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Work {
    /// Begins with the first of the jobs, `threads` at the same time.
    ///
    /// # Errors
    /// Not even one thread can be started.
    pub(super) fn begin(jobs: Vec<Job>, threads: usize) -> Outcome<Self> {
        let pairs = threads.clamp(1, jobs.len().max(1));
        let (to, done) = mpsc::channel();
        let queue = Arc::new(Queue::of(jobs));
        let mut work = Self { done, queue, bytes: Arc::default(), threads: Vec::new() };
        for pair in 0..pairs {
            match work.start_pair(to.clone()) {
                Err(failure) if pair == 0 => return Err(failure),
                // The others do the work.
                Err(_) => break,
                Ok(()) => {}
            }
        }
        Ok(work)
    }

    /// Returns how many bytes are hashed. What has to be read again counts once.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Passes on the panic that ended a thread before its time.
    pub(super) fn fail(mut self) -> ! {
        failed(std::mem::take(&mut self.threads))
    }

    fn start_pair(&mut self, done: Sender<Done>) -> Outcome<()> {
        let (to, told) = mpsc::channel();
        let (back, spare) = mpsc::channel();
        let hasher =
            Hasher { told, back, done, queue: Arc::clone(&self.queue), bytes: Arc::clone(&self.bytes) };
        // First the one that takes no file: alone, it does no harm.
        self.threads.push(start("hash", move || hasher.run())?);
        let reader = Reader { queue: Arc::clone(&self.queue), to, spare, buffers: 0 };
        self.threads.push(start("read", move || reader.run())?);
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.queue.give_up();
    }
}

/// Starts a thread that nobody has to wait for.
///
/// # Errors
/// The system has no room for one more.
pub(super) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Outcome<JoinHandle<()>> {
    Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .context(|| format!("cannot start a thread to {name} files"))
}

/// Passes on the panic that ended one of the threads.
pub(super) fn failed(threads: Vec<JoinHandle<()>>) -> ! {
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    unreachable!("threads that read files ended before their time");
}

struct Hasher {
    told: Receiver<Told>,
    back: Sender<Vec<u8>>,
    done: Sender<Done>,
    queue: Arc<Queue<Job>>,
    bytes: Arc<AtomicU64>,
}

impl Hasher {
    fn run(self) {
        let mut hashing: Vec<Hashing> = Vec::new();
        let (mut bytes, mut of_attempt) = (0, 0);
        for told in &self.told {
            if self.queue.is_given_up() {
                return;
            }
            match told {
                Told::Begin { algorithms, length } => {
                    self.bytes.fetch_sub(of_attempt, Ordering::Relaxed);
                    of_attempt = 0;
                    let fresh = algorithms.into_iter().map(|algorithm| Hashing::new(algorithm, length));
                    hashing = fresh.collect();
                }
                Told::Piece(buffer, length) => {
                    for one in &mut hashing {
                        one.update(&buffer[..length]);
                    }
                    // The reader may have ended: then nobody needs the buffer.
                    let _ = self.back.send(buffer);
                    of_attempt += length as u64;
                    bytes += length as u64;
                    self.bytes.fetch_add(length as u64, Ordering::Relaxed);
                }
                Told::End(number, end) => {
                    let hashed = std::mem::take(&mut hashing);
                    let digests = match end {
                        End::Whole { .. } => hashed.into_iter().map(Hashing::finish).collect(),
                        _ => Vec::new(),
                    };
                    if self.done.send(Done { number, end, digests, bytes }).is_err() {
                        return;
                    }
                    (bytes, of_attempt) = (0, 0);
                }
            }
        }
    }
}
