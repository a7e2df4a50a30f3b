//! What the application asks for: small files in one folder that the service's user may write.
//!
//! The folder is in the hands of somebody who is not trusted with more than one question: "refresh to this branch, please".
//! So a worker with that user's own rights takes everything out of it, and only the bytes of small regular files come
//! back. Of these bytes root believes a branch, if it is one of those that the host's settings allow, and nothing else.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::disk;
use crate::error::{Context as _, Outcome};
use crate::process::{Owner, worker};
use crate::report::screen::harmless;
use crate::settings::names::BranchName;
use crate::units::{Job, Role, Units};

/// The unit that waits for requests.
pub const PATH_UNIT: &str = "ladylinux-refresh-request.path";
/// The unit that answers them.
pub const UNIT: &str = "ladylinux-refresh-request.service";

/// The worker's operation that empties the folder.
pub const OPERATION: &str = "take-requests";

/// How long it may take to empty the directory.
const DEADLINE: Duration = Duration::from_secs(60);

/// How many bytes a request may have.
const SIZE_LIMIT: u64 = 4096;
/// How many requests are looked at; what else lies there is removed unread.
const LOOKED_AT: usize = 16;
/// How many characters of a refused branch are told.
const TOLD: usize = 100;
/// What the worker calls an entry that it has taken.
const TAKEN: &str = ".taken-";
/// How long a hidden file, which is a request that is being written, may lie there.
const WRITING: Duration = Duration::from_secs(600);

/// What the worker is asked.
#[derive(Debug, Serialize, Deserialize)]
struct TakeRequests {
    folder: PathBuf,
}

/// What was in the folder, and is no longer.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The texts of the requests, in the order of their files' names.
    pub texts: Vec<String>,
    /// What was removed without being looked at, and why.
    pub unread: Vec<String>,
    /// What cannot be removed, and why.
    pub stuck: Vec<String>,
}

/// Takes everything out of `folder`, in a unit with the rights of `owner`.
///
/// # Errors
/// The folder cannot be read.
pub fn take(units: &Units, owner: Owner, folder: &Path) -> Outcome<Taken> {
    let job = Job::new(Role::Inspect, DEADLINE).writes(folder);
    units.call_as(&job, owner, OPERATION, &TakeRequests { folder: folder.to_path_buf() })
}

/// Does the worker's side of [`take`].
pub fn answer(request: &[u8]) -> Vec<u8> {
    worker::answer(request, |request: TakeRequests| empty(&request.folder))
}

fn empty(folder: &Path) -> Outcome<Taken> {
    let told = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).context(told)? {
        let name = entry.context(told)?.file_name();
        if !is_being_written(folder, &name) {
            names.push(name);
        }
    }
    names.sort();
    let mut taken = Taken::default();
    for (index, name) in names.iter().enumerate() {
        let shown = harmless(&name.to_string_lossy());
        // Out of the way first: what is written under the same name from now on is another request.
        let own = folder.join(format!("{TAKEN}{}-{index}", std::process::id()));
        let path = match disk::move_new(&folder.join(name), &own) {
            Ok(_) => own,
            Err(_) => folder.join(name),
        };
        if taken.texts.len() >= LOOKED_AT {
            taken.unread.push(format!("{shown}: there are too many"));
        } else {
            match read(&path) {
                Ok(text) => taken.texts.push(text),
                Err(why) => taken.unread.push(format!("{shown}: {why}")),
            }
        }
        if let Err(failure) = disk::remove_tree(&path) {
            taken.stuck.push(format!("{shown}: {}", failure.chain().join(": ")));
        }
    }
    // What is told has to stay small, whatever lies there.
    for list in [&mut taken.unread, &mut taken.stuck] {
        let more = list.len().saturating_sub(LOOKED_AT);
        list.truncate(LOOKED_AT);
        if more > 0 {
            list.push(format!("and {more} more"));
        }
    }
    Ok(taken)
}

/// Tells whether an entry is one that the application has not finished: hidden, a file, and young.
fn is_being_written(folder: &Path, name: &std::ffi::OsStr) -> bool {
    let hidden = name.to_str().is_some_and(|name| name.starts_with('.') && !name.starts_with(TAKEN));
    hidden
        && folder.join(name).symlink_metadata().is_ok_and(|found| {
            let written = found.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
            let age = written.map(|time| clock::now().duration_since(time).abs());
            found.is_file() && age.is_some_and(|age| age.unsigned_abs() < WRITING)
        })
}

/// Reads one request. No link is followed, and nothing that is no regular file is waited for.
fn read(path: &Path) -> Result<String, String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let found = path.symlink_metadata().map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(format!("it has more than {SIZE_LIMIT} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is no text".to_owned())
}

/// A request that is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The branch that it names, as far as it names one; safe to show.
    pub branch: Option<String>,
    /// Why it is not granted.
    pub why: String,
}

/// What a request looks like; nothing more may stand in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    branch: String,
}

/// Decides what of the requests is granted: the branches, each once, in the order in which they were asked for.
pub fn judge(texts: &[String], allowed: &[BranchName]) -> (Vec<BranchName>, Vec<Denied>) {
    let (mut granted, mut denied) = (Vec::new(), Vec::new());
    for text in texts {
        match judge_one(text, allowed) {
            Ok(branch) if granted.contains(&branch) => {}
            Ok(branch) => granted.push(branch),
            Err(no) => denied.push(no),
        }
    }
    (granted, denied)
}

/// Turns every request down for the same reason.
pub fn turn_down(texts: &[String], why: &str) -> Vec<Denied> {
    let denied = |text: &String| match parse(text) {
        Ok(request) => Denied { branch: Some(shown(&request)), why: why.to_owned() },
        Err(no) => no,
    };
    texts.iter().map(denied).collect()
}

fn parse(text: &str) -> Result<Request, Denied> {
    serde_json::from_str(text).map_err(|error| Denied {
        branch: None,
        why: format!("it is no request: {}", harmless(&error.to_string())),
    })
}

fn shown(request: &Request) -> String {
    harmless(&request.branch).chars().take(TOLD).collect()
}

fn judge_one(text: &str, allowed: &[BranchName]) -> Result<BranchName, Denied> {
    let request = parse(text)?;
    // Compared as text: what is not allowed need not even be looked at as a branch.
    allowed.iter().find(|branch| branch.as_str() == request.branch).cloned().ok_or_else(|| {
        let shown = shown(&request);
        let why = if allowed.is_empty() {
            "this host allows the application no branch (allowed_branches)".to_owned()
        } else {
            "this branch is not one that the application may ask for (allowed_branches)".to_owned()
        };
        Denied { branch: Some(shown), why }
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests lay out what is found")]
mod tests {
    use super::*;

    fn main() -> BranchName {
        BranchName::main()
    }

    #[test]
    fn only_an_allowed_branch_is_granted_and_each_only_once() {
        let texts = [
            r#"{"branch":"main"}"#,
            r#"{"branch": "main"}"#,
            r#"{"branch":"other"}"#,
            r#"{"branch":"main","always_rebuild":true}"#,
            r#"{"branch":["main"]}"#,
            "main",
            "",
        ];
        let texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
        let (granted, denied) = judge(&texts, &[main()]);
        assert_eq!(granted, [main()]);
        assert_eq!(denied.len(), 5);
        assert_eq!(denied[0].branch.as_deref(), Some("other"));
        let (granted, denied) = judge(&texts, &[]);
        assert!(granted.is_empty());
        assert!(denied[0].why.contains("no branch"), "{denied:?}");
    }

    #[test]
    fn what_is_turned_down_is_told_with_its_branch_where_it_has_one() {
        let denied = turn_down(&[r#"{"branch":"main"}"#.to_owned(), "main".to_owned()], "not now");
        assert_eq!((denied[0].branch.as_deref(), denied[0].why.as_str()), (Some("main"), "not now"));
        assert_eq!(denied[1].branch, None);
    }

    #[test]
    fn what_is_told_of_a_refused_branch_is_short_and_harmless() {
        let text = format!("{{\"branch\":\"\\u001b[2J{}\"}}", "x".repeat(4000));
        let (_, denied) = judge(&[text], &[main()]);
        let told = denied[0].branch.as_ref().unwrap();
        assert!(told.starts_with("\\u{1b}[2J") && told.chars().count() == TOLD, "{told}");
    }

    #[test]
    fn everything_is_taken_away_and_only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "secret").unwrap();
        fs::write(at("a"), "{}").unwrap();
        fs::write(at("b"), "x".repeat(5000)).unwrap();
        fs::write(at("c"), [0xff, 0xfe]).unwrap();
        fs::write(at(".unfinished"), "{\"bra").unwrap();
        std::os::unix::fs::symlink(outside.path(), at("d")).unwrap();
        fs::create_dir_all(at("e/f")).unwrap();
        fs::write(at("e/f/g"), "deep").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("h"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let taken = empty(folder.path()).unwrap();
        assert_eq!(taken.texts, ["{}"]);
        assert_eq!(taken.unread.len(), 5, "{taken:?}");
        assert!(taken.stuck.is_empty(), "{taken:?}");
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".unfinished"]);
        assert_eq!(fs::read_to_string(outside.path()).unwrap(), "secret");
    }

    #[test]
    fn a_flood_is_taken_away_whole_and_looked_at_in_part() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..100 {
            fs::write(folder.path().join(format!("{n:03}")), "{}").unwrap();
        }
        let taken = empty(folder.path()).unwrap();
        assert_eq!(taken.texts.len(), LOOKED_AT);
        assert_eq!(taken.unread.len(), LOOKED_AT + 1);
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
