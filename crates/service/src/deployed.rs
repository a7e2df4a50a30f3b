//! The deployed version: in `status.json`, as a rollback target, and as environment variables for the service. With
//! these an application shows its version, and that its process is the new one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::envfile::EnvFile;
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName, RunId};
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

/// The variables: commit, branch, time of the refresh, environment, run.
const NAMES: [&str; 5] = [
    "LADYLINUX_COMMIT",
    "LADYLINUX_BRANCH",
    "LADYLINUX_REFRESHED_AT",
    "LADYLINUX_ENVIRONMENT",
    "LADYLINUX_RUN",
];

/// The name of the environment's variable in version 0.1, for applications that read it.
const FORMER_ENVIRONMENT: &str = "LADYLINUX_GENERATION";

/// A commit and an environment that belong together, and the run that deployed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The commit of the application.
    pub commit: CommitId,
    /// The branch of the commit.
    pub branch: BranchName,
    /// The environment it runs in.
    #[serde(alias = "generation")]
    pub environment: EnvironmentName,
    /// When the refresh that deployed it began, in UTC.
    pub refreshed_at: Timestamp,
    /// The run.
    pub run: RunId,
}

impl Deployment {
    /// Writes the environment file of the service, atomically and durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, layout: &Layout) -> Outcome<()> {
        disk::write_atomic(&layout.deployed_env(), self.render().as_bytes(), 0o644)
    }

    /// Reads the file; `None` if nothing was deployed yet.
    ///
    /// # Errors
    /// The file cannot be read, or its content does not come from [`Deployment::write`].
    pub fn read(layout: &Layout) -> Outcome<Option<Self>> {
        let path = layout.deployed_env();
        let Some(bytes) = disk::read_if_there(&path)? else { return Ok(None) };
        Self::parse(&EnvFile::parse(&bytes))
            .map(Some)
            .context(|| format!("{} has unexpected content", path.display()))
    }

    /// Returns the variables of the service and of hooks.
    pub fn variables(&self) -> [(&'static str, String); 6] {
        let [commit, branch, refreshed_at, environment, run] = NAMES;
        [
            (commit, self.commit.to_string()),
            (branch, self.branch.to_string()),
            (refreshed_at, self.refreshed_at.to_string()),
            (environment, self.environment.to_string()),
            (FORMER_ENVIRONMENT, self.environment.to_string()),
            (run, self.run.to_string()),
        ]
    }

    fn render(&self) -> String {
        // A value never contains a backslash. A branch can contain quotes and dollar signs.
        let quoted = |text: String| text.replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`");
        let lines = self.variables().map(|(name, value)| format!("{name}=\"{}\"\n", quoted(value)));
        lines.concat()
    }

    fn parse(file: &EnvFile) -> Outcome<Self> {
        let [commit, branch, refreshed_at, environment, run] = NAMES;
        let value = |name: &str| file.value(name).ok_or_else(|| Failure::new(format!("{name} is missing")));
        Ok(Self {
            commit: CommitId::parse(value(commit)?)?,
            branch: BranchName::parse(value(branch)?)?,
            refreshed_at: value(refreshed_at)?.parse().context(|| format!("{refreshed_at} is not a time"))?,
            environment: EnvironmentName::parse(value(environment).or_else(|_| value(FORMER_ENVIRONMENT))?)?,
            // A file of an earlier version has none.
            run: RunId::parse(value(run).unwrap_or("unknown"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deployed_version_is_read_back_as_written_for_any_branch_name() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        assert_eq!(Deployment::read(&layout).unwrap(), None);
        for branch in ["main", "feature/x", "a\"b$c`d'e;f#g", "ä"] {
            let deployed = Deployment {
                commit: CommitId::parse(&"a1".repeat(20)).unwrap(),
                branch: BranchName::parse(branch).unwrap(),
                refreshed_at: Timestamp::from_second(1_700_000_000).unwrap(),
                environment: EnvironmentName::parse("abc-1").unwrap(),
                run: RunId::parse("r-1").unwrap(),
            };
            deployed.write(&layout).unwrap();
            assert_eq!(Deployment::read(&layout).unwrap(), Some(deployed));
        }
    }

    #[test]
    fn the_former_name_of_the_environment_is_read_in_the_file_and_in_json() {
        let text = format!(
            "LADYLINUX_COMMIT={}\nLADYLINUX_BRANCH=main\nLADYLINUX_REFRESHED_AT=2026-01-02T03:04:05Z\n\
             LADYLINUX_GENERATION=abc-1\n",
            "a1".repeat(20)
        );
        let deployed = Deployment::parse(&EnvFile::parse(text.as_bytes())).unwrap();
        assert_eq!(deployed.environment.as_str(), "abc-1");
        let mut json = serde_json::to_value(&deployed).unwrap();
        let name = json.as_object_mut().unwrap().remove("environment").unwrap();
        json["generation"] = name;
        assert_eq!(serde_json::from_value::<Deployment>(json).unwrap(), deployed);
    }

    #[test]
    fn a_foreign_file_is_an_error_and_not_a_version() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.state(), 0o755).unwrap();
        disk::write_atomic(&layout.deployed_env(), b"LADYLINUX_COMMIT=x\n", 0o644).unwrap();
        assert!(Deployment::read(&layout).is_err());
    }
}
