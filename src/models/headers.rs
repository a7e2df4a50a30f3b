//! The headers of GGUF files, several at the same time, beside whoever waits for them.
//!
//! A header has a few pages, as a rule, but nobody vouches for that: one that was made to take long, or one on a disk that
//! does not answer, must hold up neither the others nor an interruption.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};

use super::engine::TICK;
use super::gguf::{self, Told};
use super::progress::{Progress, Reached};
use super::whole;
use super::work::{Queue, failed, start};
use crate::clock;
use crate::error::Outcome;

/// What the header of each file tells, and how long the file is.
pub(super) type Headers = HashMap<PathBuf, (Told, u64)>;

/// Reads the headers of these files, `threads` at the same time.
///
/// # Errors
/// No thread can be started; or `halted` says no.
pub(super) fn examine(
    files: Vec<PathBuf>,
    threads: usize,
    halted: &dyn Fn() -> Outcome<()>,
    progress: &dyn Progress,
) -> Outcome<Headers> {
    // Where nothing had to be read, nobody has asked yet.
    halted()?;
    let mut reached = Reached { of_files: files.len(), ..Reached::default() };
    let mut headers = Headers::new();
    if files.is_empty() {
        return Ok(headers);
    }
    let queue = Arc::new(Queue::of(files));
    let (to, told) = mpsc::channel();
    let mut workers = Vec::new();
    for _ in 0..threads.clamp(1, reached.of_files) {
        let (queue, to) = (Arc::clone(&queue), to.clone());
        let work = move || {
            // An error means that nobody wants to know any more.
            while let Some(file) = queue.next() {
                let found = header(&file);
                if to.send((file, found)).is_err() {
                    return;
                }
            }
        };
        match start("look into", work) {
            Ok(worker) => workers.push(worker),
            Err(failure) if workers.is_empty() => return Err(failure),
            // The others do the work.
            Err(_) => break,
        }
    }
    drop(to);
    let begun = clock::monotonic();
    while headers.len() < reached.of_files {
        if let Err(interruption) = halted() {
            queue.give_up();
            return Err(interruption);
        }
        match told.recv_timeout(TICK) {
            Ok((file, found)) => {
                headers.insert(file, found);
                headers.extend(told.try_iter());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => failed(workers),
        }
        let elapsed = clock::monotonic().saturating_duration_since(begun);
        if elapsed >= reached.elapsed + TICK {
            reached = Reached { files: headers.len(), elapsed, ..reached };
            progress.take(&reached);
        }
    }
    halted()?;
    Ok(headers)
}

fn header(file: &Path) -> (Told, u64) {
    match whole::open(file) {
        Ok((file, about)) => (gguf::examine(file, about.len()), about.len()),
        Err(error) => (Told::Unreadable(error.to_string()), 0),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests lay out what is looked into")]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::error::Failure;

    /// A header that takes as long as one may: an array that claims to have more texts than any file could hold.
    fn slow() -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        for number in [0, 1, 1_u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(b'k');
        for kind in [9, 8_u32] {
            bytes.extend(kind.to_le_bytes());
        }
        bytes.extend((1_u64 << 62).to_le_bytes());
        bytes
    }

    #[test]
    fn headers_that_take_long_are_read_at_the_same_time_and_an_interruption_waits_for_none() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let files = ["a", "b", "c"].map(|name| place.join(name));
        for file in &files {
            fs::write(file, slow()).unwrap();
            fs::File::options().write(true).open(file).unwrap().set_len(1 << 40).unwrap();
        }
        let is_open = |file: &Path| {
            let mut open =
                fs::read_dir("/proc/self/fd").unwrap().flatten().flat_map(|fd| fs::read_link(fd.path()));
            open.any(|path| path == file)
        };
        let were_open = Cell::new(false);
        let halted = || {
            were_open.set(were_open.get() || files.iter().all(|file| is_open(file)));
            if were_open.get() { Err(Failure::interrupted(2)) } else { Ok(()) }
        };
        let ended = examine(files.to_vec(), 3, &halted, &());
        assert!(were_open.get(), "not all of them were looked into at the same time");
        assert_eq!(ended.unwrap_err().interrupted_by(), Some(2));
    }

    #[test]
    fn every_file_has_its_own_answer_whatever_the_number_of_threads() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let files: Vec<PathBuf> = (0..50).map(|number| place.join(number.to_string())).collect();
        for (number, file) in files.iter().enumerate().skip(1) {
            fs::write(file, if number % 2 == 0 { &b"GGUF"[..] } else { b"other" }).unwrap();
        }
        for threads in [0, 1, 7] {
            let headers = examine(files.clone(), threads, &|| Ok(()), &()).unwrap();
            assert!(matches!(headers[&files[0]], (Told::Unreadable(_), 0)));
            assert_eq!(headers[&files[1]], (Told::NotGguf, 5));
            assert!(matches!(headers[&files[48]], (Told::TooShort { .. }, 4)));
            assert_eq!(headers.len(), files.len());
        }
    }
}
