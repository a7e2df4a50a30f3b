//! Requests of the application for a refresh: entries of one directory that the service user may write to.
//!
//! The existence of an entry is the request; its content is never read. The directory belongs to an untrusted user, so
//! a worker with that user's rights empties it, and root gets only the number of entries.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use refresh_programs::process::worker;
use refresh_programs::units::{Role, UnitOptions, Units};
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Outcome};
use refresh_system::text::harmless;

/// The unit that waits for requests.
pub(crate) const PATH_UNIT: &str = "ladylinux-refresh-request.path";
/// The unit that answers them.
pub(crate) const UNIT: &str = "ladylinux-refresh-request.service";

/// The worker's operation that empties the directory.
pub const OPERATION: &str = "take-requests";

/// The time limit for emptying the directory.
const DEADLINE: Duration = Duration::from_secs(60);

/// The request to the worker.
#[derive(Debug, Serialize, Deserialize)]
struct TakeRequests {
    directory: PathBuf,
}

/// The result of the worker.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The number of entries that were removed.
    pub count: usize,
    /// Why the first remaining entry cannot be removed.
    pub stuck: Option<String>,
}

/// Removes every request from `directory`, in a unit with the rights of `owner`.
///
/// # Errors
/// The directory cannot be read.
pub fn take(units: &Units, owner: Owner, directory: &Path) -> Outcome<Taken> {
    let options = UnitOptions::new(Role::Inspect, DEADLINE).writes(directory);
    units.call_as(&options, owner, OPERATION, &TakeRequests { directory: directory.to_path_buf() })
}

/// Performs the worker's side of [`take`].
pub fn answer(request: &[u8]) -> Vec<u8> {
    worker::answer(request, |request: TakeRequests| empty(&request.directory))
}

/// Removes every entry but hidden ones, which start no answer (systemd.path(5), `DirectoryNotEmpty=`).
fn empty(directory: &Path) -> Outcome<Taken> {
    let names = || -> io::Result<Vec<_>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    };
    let mut taken = Taken::default();
    for name in names().context(|| format!("cannot read {}", directory.display()))? {
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match disk::remove_tree(&directory.join(name)) {
            Ok(()) => taken.count += 1,
            // The application chooses the name.
            Err(failure) => {
                taken.stuck.get_or_insert_with(|| harmless(&failure.chain().join(": ")));
            }
        }
    }
    Ok(taken)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write what is found")]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_a_request_and_is_removed_unread() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "secret").unwrap();
        fs::write(at("empty"), "").unwrap();
        fs::write(at("binary"), [0xff; 5000]).unwrap();
        fs::write(at(".hidden"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), at("link")).unwrap();
        fs::create_dir_all(at("tree/deep")).unwrap();
        fs::write(at("tree/deep/file"), "").unwrap();
        // A pipe without a writer blocks everything that opens it.
        let (cwd, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(cwd, at("pipe"), fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(empty(directory.path()).unwrap(), Taken { count: 5, stuck: None });
        let left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, [".hidden"]);
        assert_eq!(fs::read_to_string(outside.path()).unwrap(), "secret");
        assert_eq!(empty(directory.path()).unwrap(), Taken::default());
    }

    #[test]
    fn a_directory_that_is_missing_is_an_error() {
        let failure = empty(Path::new("/nonexistent/request")).unwrap_err();
        assert!(failure.chain()[0].contains("cannot read /nonexistent/request"), "{failure:?}");
    }
}
