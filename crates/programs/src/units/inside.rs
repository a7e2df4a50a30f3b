//! The inside of a unit: the process reads its setup and gives up its rights if systemd has not removed them. Then it
//! answers one request, answers requests until its input ends, or becomes a program of others.
//!
//! Its standard input is a line of setup and then one line of JSON for each request; its standard output is one line of
//! JSON for each response; its standard error is progress.

use std::io::{BufRead as _, BufReader, Stdin, Write as _};
use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::gate;
use super::launcher::{self, Confinement};
use super::operations::{self, Operations};
use crate::process::replacement::Replacement;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::interrupt;

/// The hidden command that a process of a unit is started with; its argument only serves lists of processes.
pub const COMMAND: &str = "unit";

/// The first line on standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The version of the requesting program; a copy of another version answers nothing.
    pub(super) version: String,
    /// The rights that the process must give up itself.
    pub(super) confinement: Option<Confinement>,
    /// Whether it ends when the other end of its standard error is closed: then the conductor has ended.
    pub(super) ends_with_conductor: bool,
    /// Its work.
    pub(super) work: Work,
}

/// The work of a process of a unit.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// It answers the request of the second line.
    Answer(String),
    /// It answers the request of each line.
    AnswerEach(String),
    /// It becomes a program.
    Become(Box<Replacement>),
}

impl Setup {
    /// Returns the setup for `work`.
    pub(super) fn new(work: Work, confinement: Option<Confinement>, ends_with_conductor: bool) -> Self {
        Self { version: version(), confinement, ends_with_conductor, work }
    }
}

/// Returns the program's version, which keeps two versions from misunderstanding each other.
fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Does the work of this process; `others` are the operations of other crates. Returns when the work is done.
///
/// # Errors
/// The setup cannot be read or put into force, or the operation does not exist.
pub fn work(others: Operations) -> Outcome<()> {
    // Before anything else: a unit that had the sockets before may have been killed.
    gate::leave();
    let mut input = BufReader::new(std::io::stdin());
    let line = next_line(&mut input)?.unwrap_or_default();
    let setup: Setup = serde_json::from_slice(&line).context(|| "the setup cannot be read".to_owned())?;
    if setup.version != version() {
        return Err(Failure::new(format!("this is version {}, not {}", version(), setup.version)));
    }
    if let Some(confinement) = &setup.confinement {
        launcher::confine(confinement)?;
    }
    if setup.ends_with_conductor {
        std::thread::spawn(end_with_conductor);
    }
    gate::keep_watch();
    match setup.work {
        Work::Answer(operation) => {
            let request = next_line(&mut input)?.unwrap_or_default();
            respond(&operation, &request, others)
        }
        Work::AnswerEach(operation) => {
            while let Some(request) = next_line(&mut input)? {
                // After an earlier signal, every further request would fail. The conductor starts another unit.
                if interrupt::check().is_err() {
                    break;
                }
                respond(&operation, &request, others)?;
            }
            gate::leave();
            Ok(())
        }
        Work::Become(program) => Err(program.become_it()?),
    }
}

fn respond(operation: &str, request: &[u8], others: Operations) -> Outcome<()> {
    let mut response = operations::answer(operation, request, others)
        .ok_or_else(|| Failure::new(format!("the operation {operation:?} does not exist")))?;
    response.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&response)
        .and_then(|()| stdout.flush())
        .context(|| "the response cannot be written".to_owned())
}

fn next_line(input: &mut BufReader<Stdin>) -> Outcome<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let count = input.read_until(b'\n', &mut line).context(|| "the request cannot be read".to_owned())?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok((count > 0).then_some(line))
}

/// Waits until no process reads standard error any longer, and ends this one; its unit ends with it.
fn end_with_conductor() {
    let stderr = std::io::stderr();
    loop {
        // Without any wanted event only an error ends the wait: the reader has ended.
        let mut watched = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => {
                gate::leave_and_end();
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
