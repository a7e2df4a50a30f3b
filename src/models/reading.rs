//! Reading files ahead of what is done with their bytes: a thread that opens, reads and looks again, in large pieces.
//!
//! Nothing is mapped into memory: a mapped file that somebody cuts off while it is read would end the whole program. The few
//! buffers go round between the two threads, so that memory does not grow with the files.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender};

use rustix::fs::{Access, Advice, AtFlags, CWD, accessat, fadvise};

use super::Algorithm;
use super::cache::Stamp;
use super::whole;
use super::work::{Job, Queue};
use crate::clock;

/// How many bytes are asked for at once: as many as keep a disk busy, and few enough that all pieces fit into the cache of
/// one core. With 1 MiB every byte goes through the memory once more, which costs a twentieth of the speed.
pub(super) const PIECE: usize = 256 << 10;

/// How many pieces are under way between reading and hashing.
pub(super) const PIECES: usize = 4;

/// How often a file that changes while it is read is read.
const ATTEMPTS: usize = 2;

/// What is at a path, without opening it.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing.
    Missing,
    /// A regular file that we may read.
    File(Stamp),
    /// Something else, or something that we may not read.
    Unreadable(String),
}

/// Looks at a path; a link in its last part is not followed, and nothing is opened.
pub(super) fn look(path: &Path) -> Look {
    let found = match whole::look(path) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Look::Missing;
        }
        Err(error) => return Look::Unreadable(error.to_string()),
    };
    if let Some(what) = whole::no_file(found.file_type()) {
        return Look::Unreadable(what);
    }
    match accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS) {
        Err(error @ (rustix::io::Errno::ACCESS | rustix::io::Errno::PERM)) => {
            Look::Unreadable(io::Error::from(error).to_string())
        }
        // Whatever else is wrong shows when the file is opened.
        _ => Look::File(Stamp::of(&found)),
    }
}

/// What a reader tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A file begins, perhaps once more from its first byte.
    Begin {
        /// What is to be computed.
        algorithms: Vec<Algorithm>,
        /// How many bytes will come.
        length: u64,
    },
    /// The next bytes: so many of the buffer.
    Piece(Vec<u8>, usize),
    /// The file with this number ends.
    End(usize, End),
}

/// How the reading of a file ended.
#[derive(Debug)]
pub(super) enum End {
    /// All of it was read, and it was the same before and after.
    Whole {
        /// The file as it was.
        stamp: Stamp,
        /// Whether a later change is sure to show.
        is_settled: bool,
    },
    /// It changed each time.
    Changing,
    /// It is gone.
    Missing,
    /// Why it cannot be read.
    Failed(String),
}

/// Reads one file after the other until none waits.
#[derive(Debug)]
pub(super) struct Reader {
    /// What waits.
    pub(super) queue: Arc<Queue<Job>>,
    /// Where to tell.
    pub(super) to: Sender<Told>,
    /// Where buffers come back from.
    pub(super) spare: Receiver<Vec<u8>>,
    /// How many buffers there are.
    pub(super) buffers: usize,
}

/// Nobody listens any more.
struct Unheard;

impl From<SendError<Told>> for Unheard {
    fn from(_: SendError<Told>) -> Self {
        Self
    }
}

impl Reader {
    /// Does all the work.
    pub(super) fn run(mut self) {
        while let Some(job) = self.queue.next() {
            if self.read(&job).is_err() {
                return;
            }
        }
    }

    fn read(&mut self, job: &Job) -> Result<(), Unheard> {
        let mut end = End::Changing;
        for _ in 0..ATTEMPTS {
            end = self.attempt(job)?;
            if !matches!(end, End::Changing) {
                break;
            }
        }
        self.to.send(Told::End(job.number, end))?;
        Ok(())
    }

    fn attempt(&mut self, job: &Job) -> Result<End, Unheard> {
        let begun = clock::file_time();
        // It may have been exchanged since it was looked at.
        let (mut file, found) = match whole::open(&job.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(End::Missing),
            Err(error) => return Ok(End::Failed(error.to_string())),
        };
        let before = Stamp::of(&found);
        // Advice only: without it the reading is slower, or pushes more out of the page cache.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        let _ = fadvise(&file, 0, None, Advice::NoReuse);
        self.to.send(Told::Begin { algorithms: job.algorithms.clone(), length: before.size })?;
        let read = match self.pieces(&mut file, before.size)? {
            Ok(read) => read,
            Err((at, error)) => return Ok(End::Failed(format!("{error}, at byte {at}"))),
        };
        let stayed = file.metadata().is_ok_and(|found| Stamp::of(&found) == before);
        let is_there = whole::look(&job.path).is_ok_and(|found| Stamp::of(&found) == before);
        Ok(if !stayed || !is_there {
            End::Changing
        } else if read < before.size {
            End::Failed(format!("it ends after {read} of {} bytes", before.size))
        } else {
            End::Whole { stamp: before, is_settled: before.is_settled(begun) }
        })
    }

    /// Sends the first `length` bytes of a file, or fewer where it ends before; returns how many, or where it failed.
    fn pieces(&mut self, file: &mut File, length: u64) -> Result<Result<u64, (u64, io::Error)>, Unheard> {
        let mut done = 0;
        while done < length {
            let mut buffer = self.buffer()?;
            let wanted = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
            let got = match fill(file, &mut buffer[..wanted]) {
                Ok(got) => got,
                Err((got, error)) => return Ok(Err((done + got as u64, error))),
            };
            self.to.send(Told::Piece(buffer, got))?;
            done += got as u64;
            if got < wanted {
                break;
            }
        }
        Ok(Ok(done))
    }

    fn buffer(&mut self) -> Result<Vec<u8>, Unheard> {
        if self.queue.is_given_up() {
            return Err(Unheard);
        }
        if let Ok(buffer) = self.spare.try_recv() {
            return Ok(buffer);
        }
        if self.buffers < PIECES {
            self.buffers += 1;
            return Ok(vec![0; PIECE]);
        }
        self.spare.recv().map_err(|_| Unheard)
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((got, error)),
        }
    }
    Ok(got)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is read, and change it meanwhile")]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::mpsc::channel;
    use std::thread::JoinHandle;

    use super::*;

    /// A reader whose pieces the test takes, so that it knows where the reader is.
    struct Taken {
        told: Receiver<Told>,
        back: Sender<Vec<u8>>,
        thread: JoinHandle<()>,
    }

    impl Taken {
        fn of(path: &Path) -> Self {
            let job = Job { number: 5, path: path.to_path_buf(), algorithms: Vec::new() };
            let ((to, told), (back, spare)) = (channel(), channel());
            let reader = Reader { queue: Arc::new(Queue::of(vec![job])), to, spare, buffers: 0 };
            Self { told, back, thread: std::thread::spawn(move || reader.run()) }
        }

        /// Waits for the beginning of an attempt.
        fn begin(&self) -> u64 {
            match self.told.recv().unwrap() {
                Told::Begin { length, .. } => length,
                other => panic!("{other:?}"),
            }
        }

        /// Waits until the reader has filled every buffer, so that it reads nothing until the test returns them.
        fn all_buffers(&self) -> Vec<Vec<u8>> {
            let piece = || match self.told.recv().unwrap() {
                Told::Piece(buffer, _) => buffer,
                other => panic!("{other:?}"),
            };
            (0..PIECES).map(|_| piece()).collect()
        }

        /// Takes all pieces of an attempt; returns them with what comes after them.
        fn rest(&self) -> (Vec<u8>, Told) {
            let mut bytes = Vec::new();
            loop {
                match self.told.recv().unwrap() {
                    Told::Piece(buffer, length) => {
                        bytes.extend_from_slice(&buffer[..length]);
                        // The reader may be through with its last piece.
                        let _ = self.back.send(buffer);
                    }
                    other => return (bytes, other),
                }
            }
        }

        fn end(self) -> (Vec<u8>, End) {
            let (bytes, told) = self.rest();
            self.thread.join().unwrap();
            match told {
                Told::End(5, end) => (bytes, end),
                other => panic!("{other:?}"),
            }
        }
    }

    /// A file with more pieces than there are buffers: nobody reads all of it before the test has taken some.
    fn long(folder: &Path) -> (PathBuf, Vec<u8>) {
        let bytes: Vec<u8> = (0..251).cycle().take(PIECE * (PIECES + 2) + 77).collect();
        let path = folder.join("long");
        fs::write(&path, &bytes).unwrap();
        (path, bytes)
    }

    fn append(path: &Path) {
        File::options().append(true).open(path).unwrap().write_all(b"x").unwrap();
    }

    #[test]
    fn a_file_is_read_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let (path, bytes) = long(folder.path());
        let reader = Taken::of(&path);
        assert_eq!(reader.begin(), bytes.len() as u64);
        let (read, end) = reader.end();
        assert!(read == bytes);
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        // It was only just written.
        assert!(matches!(end, End::Whole { stamp: found, is_settled: false } if found == stamp), "{end:?}");
    }

    #[test]
    fn a_file_that_changes_once_while_it_is_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, bytes) = long(folder.path());
        let reader = Taken::of(&path);
        reader.begin();
        append(&path);
        let (_, told) = reader.rest();
        assert!(matches!(told, Told::Begin { length, .. } if length == bytes.len() as u64 + 1), "{told:?}");
        let (read, end) = reader.end();
        assert_eq!(read.len(), bytes.len() + 1);
        assert!(matches!(end, End::Whole { .. }), "{end:?}");
    }

    #[test]
    fn a_file_that_changes_twice_while_it_is_read_is_not_judged() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = long(folder.path());
        let reader = Taken::of(&path);
        reader.begin();
        append(&path);
        assert!(matches!(reader.rest().1, Told::Begin { .. }));
        append(&path);
        assert!(matches!(reader.end().1, End::Changing));
    }

    #[test]
    fn a_file_that_is_cut_off_while_it_is_read_harms_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = long(folder.path());
        let reader = Taken::of(&path);
        reader.begin();
        // The size changes before the time does: between the two a second attempt would see one more change.
        let buffers = reader.all_buffers();
        File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
        for buffer in buffers {
            // The reader may have ended with one of them.
            let _ = reader.back.send(buffer);
        }
        assert!(matches!(reader.rest().1, Told::Begin { length: 3, .. }));
        let (read, end) = reader.end();
        assert_eq!(read.len(), 3);
        assert!(matches!(end, End::Whole { .. }), "{end:?}");
    }

    #[test]
    fn what_takes_a_files_place_while_it_is_read_is_read_in_its_stead() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = long(folder.path());
        let reader = Taken::of(&path);
        reader.begin();
        fs::write(folder.path().join("other"), "other").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert!(matches!(reader.rest().1, Told::Begin { length: 5, .. }));
        assert_eq!(reader.end().0, b"other");
    }

    #[test]
    fn a_folder_that_becomes_a_link_after_it_was_looked_at_leads_to_nothing_that_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (models, secret) = (folder.path().join("models"), folder.path().join("elsewhere/w"));
        fs::create_dir(&models).unwrap();
        fs::write(models.join("w"), "weights").unwrap();
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        fs::write(secret, "secret").unwrap();
        assert!(matches!(look(&models.join("w")), Look::File(_)));
        fs::rename(&models, folder.path().join("old")).unwrap();
        symlink("elsewhere", &models).unwrap();
        let told = Taken::of(&models.join("w")).end();
        assert!(
            matches!(&told, (read, End::Failed(why)) if read.is_empty() && why.contains("a link")),
            "{told:?}"
        );
        assert!(matches!(look(&models.join("w")), Look::Unreadable(_)));
    }

    #[test]
    fn a_file_that_is_removed_while_it_is_read_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = long(folder.path());
        let reader = Taken::of(&path);
        reader.begin();
        fs::remove_file(&path).unwrap();
        assert!(matches!(reader.end().1, End::Missing));
    }

    #[test]
    fn a_reader_that_nobody_listens_to_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = long(folder.path());
        let reader = Taken::of(&path);
        reader.begin();
        drop((reader.told, reader.back));
        reader.thread.join().unwrap();
    }

    #[test]
    fn a_file_that_gives_less_than_its_length_is_not_taken_for_read() {
        // A file of sysfs says 4096 and gives some bytes.
        let reader = Taken::of(Path::new("/sys/devices/system/cpu/online"));
        assert_eq!(reader.begin(), 4096);
        let (_, end) = reader.end();
        assert!(matches!(&end, End::Failed(why) if why.contains("of 4096 bytes")), "{end:?}");
    }

    #[test]
    fn what_is_no_file_is_neither_opened_nor_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        let cases = [
            (at("pipe"), "a pipe"),
            (at("socket"), "a socket"),
            (at("link"), "a symbolic link"),
            (at("loop"), "a symbolic link"),
            (at(""), "a folder"),
            (PathBuf::from("/dev/zero"), "a device"),
        ];
        for (path, what) in cases {
            let look = look(&path);
            assert!(matches!(&look, Look::Unreadable(why) if why.contains(what)), "{what}: {look:?}");
            // The same where it takes a file's place after that was looked at.
            if !matches!(what, "a device") {
                let end = Taken::of(&path).end().1;
                assert!(matches!(end, End::Failed(_)), "{what}: {end:?}");
            }
        }
        fs::write(at("file"), "").unwrap();
        for path in [at("none"), at("none/file"), at("file/below")] {
            assert!(matches!(look(&path), Look::Missing), "{}", path.display());
        }
        for path in [at("loop/file"), at("nul\0"), at(&"long".repeat(100))] {
            assert!(matches!(look(&path), Look::Unreadable(_)), "{path:?}");
        }
    }
}
