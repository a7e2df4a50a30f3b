//! Makes one of the tool's own bare repositories, empty, with its configuration.

use std::path::Path;

use refresh_settings::names::CommitId;
use refresh_system::disk;
use refresh_system::error::Outcome;

/// The mirror's own configuration. The owner of `app/` reads the mirror because every process of this program has the
/// umask 022; `sharedRepository` would set the set-group-ID bit, which a run is not allowed to set.
const SHA1: &str = "\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
";

/// The same for a remote whose objects have SHA-256 names.
const SHA256: &str = "\
[core]
\trepositoryformatversion = 1
\tfilemode = true
\tbare = true
[extensions]
\tobjectformat = sha256
";

/// Returns the configuration of a repository whose commit IDs have the length of `commit`.
pub(super) fn configuration_for(commit: &CommitId) -> &'static str {
    if commit.as_str().len() == 64 { SHA256 } else { SHA1 }
}

/// Returns the configuration that one of the tool's own repositories must have, by the one that it has.
pub(super) fn configuration_of(git_dir: &Path) -> &'static str {
    let found = disk::read_at_most(&git_dir.join("config"), 4096).ok().flatten();
    if found.as_deref() == Some(SHA256.as_bytes()) { SHA256 } else { SHA1 }
}

/// Makes one of the tool's own bare repositories, empty, for commit IDs with the length of `commit`.
pub(super) fn lay_out(directory: &Path, commit: &CommitId) -> Outcome<()> {
    for inner in ["objects/info", "objects/pack", "refs/heads", "refs/runs"] {
        disk::make_directory(&directory.join(inner), 0o755)?;
    }
    disk::write_atomic(&directory.join("config"), configuration_for(commit).as_bytes(), 0o644)?;
    disk::write_atomic(&directory.join("HEAD"), b"ref: refs/heads/main\n", 0o644)
}
