//! The journal on disk: JSON lines, appended one by one. An incomplete last line is tolerated.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_events::run_report::Phase;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::{checkpoint, clock, disk};

use super::record::{Entry, Status};

/// The name of the journal in the directory of a run.
pub(crate) const FILE: &str = "journal.jsonl";

/// A line of the journal: the record and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The position, from 0.
    pub seq: u64,
    /// When, in UTC.
    pub at: jiff::Timestamp,
    /// The record.
    #[serde(flatten)]
    pub entry: Entry,
}

/// An open journal, for the run that writes it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    next: u64,
    /// How many bytes the complete records take.
    length: u64,
    /// Whether a failed write may have left a part of a record after these.
    is_torn: bool,
    status: Status,
}

impl Journal {
    /// Makes the journal of a new run in its directory.
    ///
    /// # Errors
    /// The directory is not writable, or a journal already exists.
    pub fn create(directory: &Path) -> Outcome<Self> {
        let path = directory.join(FILE);
        if path.exists() {
            return Err(Failure::new(format!("{} already exists", path.display())));
        }
        let file = disk::append_own(&path, 0o644)?;
        disk::sync_parent(&path)?;
        Ok(Self { path, file, next: 0, length: 0, is_torn: false, status: Status::Empty })
    }

    /// Opens the journal of a run that was killed, to close it. An incomplete last line is cut off first.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub(crate) fn reopen(directory: &Path) -> Outcome<Self> {
        let path = directory.join(FILE);
        let context = || format!("cannot reopen {}", path.display());
        let bytes = disk::read_own(&path)?.unwrap_or_default();
        let read = parse(&bytes);
        let file = disk::append_own(&path, 0o644)?;
        file.set_len(read.complete_bytes).context(context)?;
        let next = read.lines.len() as u64;
        let status = read.status.unwrap_or(Status::Empty);
        Ok(Self { path, file, next, length: read.complete_bytes, is_torn: false, status })
    }

    /// Appends a record. When this returns, a power cut cannot take the record away, unless it is one of those that the
    /// fence covers ([`is_covered_by_the_fence`]): these become durable with the next record that is not covered.
    ///
    /// # Errors
    /// The record may not follow (a bug), or the disk refuses.
    pub fn append(&mut self, entry: Entry) -> Outcome<()> {
        let name = entry_name(&entry);
        checkpoint::reach(&format!("journal:before:{name}"));
        let status = self.status.next(&entry).context(|| "the run failed".to_owned())?;
        let covered = is_covered_by_the_fence(&entry);
        let line = Line { seq: self.next, at: clock::now(), entry };
        let context = || format!("cannot write {}", self.path.display());
        let mut bytes = serde_json::to_vec(&line).context(context)?;
        bytes.push(b'\n');
        let sync = |file: &File| if covered { Ok(()) } else { file.sync_data() };
        // After half a record, or a rejected one, the next record would make the journal foreign.
        if self.is_torn {
            self.file.set_len(self.length).context(context)?;
        }
        self.is_torn = true;
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| sync(&self.file)) {
            self.is_torn = self.file.set_len(self.length).is_err();
            return Err(error).context(context);
        }
        self.is_torn = false;
        self.next += 1;
        self.length += bytes.len() as u64;
        self.status = status;
        checkpoint::reach(&format!("journal:after:{name}"));
        Ok(())
    }
}

/// Returns `true` for records that are written while the service is down. A power cut may take them: the fence stands,
/// the exchange of trees has a separate record, and the next run does every step again. A sync would only cost
/// downtime.
fn is_covered_by_the_fence(entry: &Entry) -> bool {
    match entry {
        Entry::Intent { phase } => {
            matches!(phase, Phase::Sync | Phase::Environment | Phase::Prepare | Phase::Restart)
        }
        Entry::Done { phase } => {
            matches!(phase, Phase::Stop | Phase::Sync | Phase::Environment | Phase::Prepare)
        }
        _ => false,
    }
}

fn entry_name(entry: &Entry) -> String {
    match entry {
        Entry::Begun { .. } => "begun".into(),
        Entry::Aimed { .. } => "aimed".into(),
        Entry::Built { .. } => "built".into(),
        Entry::Intent { phase } => format!("intent-{phase}"),
        Entry::Done { phase } => format!("done-{phase}"),
        Entry::Failed { phase, .. } => format!("failed-{phase}"),
        Entry::Ended { ending } => format!("ended-{ending}"),
    }
}

/// The readable part of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The complete lines, up to the first one that is not valid.
    pub lines: Vec<Line>,
    /// The position of the run; `None` if the journal is foreign: a record in it is not ours, or the order is one that
    /// we never write. Then no part of it can be trusted.
    pub status: Option<Status>,
    /// How many bytes the complete lines take.
    pub complete_bytes: u64,
}

impl Read {
    /// Returns the entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().map(|line| &line.entry)
    }

    /// Returns the part that was begun last.
    pub fn last_phase(&self) -> Option<Phase> {
        self.lines.iter().rev().find_map(|line| match &line.entry {
            Entry::Intent { phase } => Some(*phase),
            _ => None,
        })
    }
}

/// Reads the journal of a run; `None` if the directory has none.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read(directory: &Path) -> Outcome<Option<Read>> {
    Ok(disk::read_own(&directory.join(FILE))?.map(|bytes| parse(&bytes)))
}

/// Returns the place of a run among all runs; 0 for one of an earlier version, and if the journal does not have it.
///
/// # Errors
/// The file exists and cannot be read.
pub fn sequence(directory: &Path) -> Outcome<u64> {
    let bytes = disk::read_own(&directory.join(FILE))?.unwrap_or_default();
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(match serde_json::from_slice::<Line>(first).map(|line| line.entry) {
        Ok(Entry::Begun { sequence, .. }) => sequence,
        _ => 0,
    })
}

/// Parses a journal's bytes. A power cut leaves an unfinished last line; any other fault makes the journal foreign.
pub(crate) fn parse(bytes: &[u8]) -> Read {
    let mut read = Read { lines: Vec::new(), status: Some(Status::Empty), complete_bytes: 0 };
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (text, after) = (&rest[..end], &rest[end + 1..]);
        let line =
            serde_json::from_slice::<Line>(text).ok().filter(|line| line.seq == read.lines.len() as u64);
        let next = line.as_ref().and_then(|line| read.status?.next(&line.entry).ok());
        let (Some(line), Some(next)) = (line, next) else {
            read.status = None;
            return read;
        };
        read.lines.push(line);
        read.status = Some(next);
        read.complete_bytes += end as u64 + 1;
        rest = after;
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::SCHEMA;
    use refresh_events::run_report::RunResult;
    use refresh_programs::process::ProcessId;
    use refresh_settings::names::{BranchName, RunId, UnitName};

    fn written() -> (tempfile::TempDir, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path()).unwrap();
        journal
            .append(Entry::Begun {
                schema: SCHEMA,
                run: RunId::parse("r-1").unwrap(),
                process: ProcessId::own(),
                branch: BranchName::parse("main").unwrap(),
                before: None,
                unit: UnitName::usual(),
                sequence: 1,
            })
            .unwrap();
        for phase in Phase::STEPS {
            journal.append(Entry::Intent { phase }).unwrap();
            journal.append(Entry::Done { phase }).unwrap();
        }
        journal.append(Entry::Ended { ending: RunResult::Refreshed }).unwrap();
        let bytes = std::fs::read(directory.path().join(FILE)).unwrap();
        (directory, bytes)
    }

    #[test]
    fn a_journal_cut_at_any_byte_keeps_its_complete_lines() {
        let (_directory, bytes) = written();
        let whole = parse(&bytes).lines;
        for cut in 0..bytes.len() {
            let read = parse(&bytes[..cut]);
            assert!(read.status.is_some(), "cut at {cut}");
            let lines = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(read.lines, whole[..lines], "cut at {cut}");
        }
    }

    #[test]
    fn a_journal_with_a_foreign_or_missing_line_is_unknown() {
        let (_directory, bytes) = written();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for index in 0..lines.len() - 1 {
            let missing: Vec<u8> = lines
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != index)
                .flat_map(|(_, line)| line.to_vec())
                .collect();
            assert_eq!(parse(&missing).status, None, "line {index} missing");
            let mut foreign = lines.clone();
            foreign[index] = b"{\"hello\":1}\n";
            assert_eq!(parse(&foreign.concat()).status, None, "line {index} foreign");
        }
    }

    #[test]
    fn a_partial_record_that_was_left_is_removed_before_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        let begun = || Entry::Begun {
            schema: SCHEMA,
            run: RunId::parse("r-1").unwrap(),
            process: ProcessId::own(),
            branch: BranchName::main(),
            before: None,
            unit: UnitName::usual(),
            sequence: 1,
        };
        // This device accepts no bytes, and cannot be truncated.
        let full = std::fs::OpenOptions::new().append(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut journal.file, full);
        assert!(journal.append(begun()).is_err());
        disk::write_atomic(&path, b"{\"seq\":0,", 0o644).unwrap();
        journal.file = disk::append_own(&path, 0o644).unwrap();
        drop(file);
        journal.append(begun()).unwrap();
        assert_eq!(read(directory.path()).unwrap().unwrap().lines.len(), 1);
    }

    #[test]
    fn a_torn_journal_can_be_closed() {
        let (directory, bytes) = written();
        disk::write_atomic(&directory.path().join(FILE), &bytes[..bytes.len() - 20], 0o644).unwrap();
        let mut journal = Journal::reopen(directory.path()).unwrap();
        journal.append(Entry::Ended { ending: RunResult::Interrupted }).unwrap();
        let read = read(directory.path()).unwrap().unwrap();
        assert_eq!(read.status, Some(Status::Ended { ending: RunResult::Interrupted }));
    }
}
