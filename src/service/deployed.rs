//! The deployed version, as environment variables for the service: what an application shows as its version, and what
//! proves that the running process is the new one.

use jiff::Timestamp;

use super::envfile::EnvFile;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, CommitId, GenerationName};

/// The variable that holds the commit.
pub const COMMIT: &str = "LADYLINUX_COMMIT";
/// The variable that holds the branch.
pub const BRANCH: &str = "LADYLINUX_BRANCH";
/// The variable that holds the time of the refresh.
pub const REFRESHED_AT: &str = "LADYLINUX_REFRESHED_AT";
/// The variable that holds the generation of the environment.
pub const GENERATION: &str = "LADYLINUX_GENERATION";

/// The version that the service is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The commit of the application.
    pub commit: CommitId,
    /// The branch it was taken from.
    pub branch: BranchName,
    /// When the refresh that put it there began.
    pub refreshed_at: Timestamp,
    /// The environment it runs in.
    pub generation: GenerationName,
}

impl Deployed {
    /// Writes the file that the service's environment is taken from, atomically and durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, layout: &Layout) -> Outcome<()> {
        disk::write_atomic(&layout.deployed_env(), self.render().as_bytes(), 0o644)
    }

    /// Reads it back; `None` where nothing was deployed yet.
    ///
    /// # Errors
    /// The file cannot be read, or does not hold what [`Deployed::write`] wrote.
    pub fn read(layout: &Layout) -> Outcome<Option<Self>> {
        let path = layout.deployed_env();
        let Some(bytes) = disk::read_if_there(&path)? else { return Ok(None) };
        Self::parse(&EnvFile::parse(&bytes))
            .map(Some)
            .context(|| format!("{} does not hold what it should", path.display()))
    }

    fn render(&self) -> String {
        // No name contains a quote's own escapes: a branch may hold quotes and dollars, but no backslash.
        let branch = self.branch.as_str().replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`");
        format!(
            "{COMMIT}={}\n{BRANCH}=\"{branch}\"\n{REFRESHED_AT}={}\n{GENERATION}={}\n",
            self.commit, self.refreshed_at, self.generation
        )
    }

    fn parse(file: &EnvFile) -> Outcome<Self> {
        let value = |name: &str| file.value(name).ok_or_else(|| Failure::new(format!("{name} is missing")));
        Ok(Self {
            commit: CommitId::parse(value(COMMIT)?)?,
            branch: BranchName::parse(value(BRANCH)?)?,
            refreshed_at: value(REFRESHED_AT)?.parse().context(|| format!("{REFRESHED_AT} is not a time"))?,
            generation: GenerationName::parse(value(GENERATION)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deployed_is_read_back_as_it_was_written_whatever_the_branch_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        assert_eq!(Deployed::read(&layout).unwrap(), None);
        for branch in ["main", "feature/x", "a\"b$c`d'e;f#g", "ä"] {
            let deployed = Deployed {
                commit: CommitId::parse(&"a1".repeat(20)).unwrap(),
                branch: BranchName::parse(branch).unwrap(),
                refreshed_at: Timestamp::from_second(1_700_000_000).unwrap(),
                generation: GenerationName::parse("abc-1").unwrap(),
            };
            deployed.write(&layout).unwrap();
            assert_eq!(Deployed::read(&layout).unwrap(), Some(deployed));
        }
    }

    #[test]
    fn a_foreign_file_is_an_error_and_not_a_version() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        disk::write_atomic(&layout.deployed_env(), b"LADYLINUX_COMMIT=x\n", 0o644).unwrap();
        assert!(Deployed::read(&layout).is_err());
    }
}
