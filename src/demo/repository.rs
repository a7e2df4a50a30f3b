//! The application's repository: a bare one to serve and a clone to commit in, filled version by version.

use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Program, Runner};
use crate::settings::environment;
use crate::settings::names::CommitId;

/// The application and its later versions, as they stand in `demo/` of the source.
static SHIPPED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/demo");

/// The name under which the bare repository is served.
pub(super) const NAME: &str = "ladylinux.git";

/// A version of the application, in the order in which they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// The first.
    Initial,
    /// Another headline: source only.
    Headline,
    /// One more pinned package.
    FriendlyTimes,
    /// A migration that fails as soon as there is data.
    BrokenMigration,
    /// The migration repaired.
    RepairedMigration,
}

impl Version {
    /// All of them, in their order.
    const ALL: [Self; 5] =
        [Self::Initial, Self::Headline, Self::FriendlyTimes, Self::BrokenMigration, Self::RepairedMigration];

    /// The folder in `demo/` whose files are laid over the version before.
    fn folder(self) -> &'static str {
        match self {
            Self::Initial => "app",
            Self::Headline => "steps/2-headline",
            Self::FriendlyTimes => "steps/3-friendly-times",
            Self::BrokenMigration => "steps/4-pinned-notes",
            Self::RepairedMigration => "steps/5-pinned-notes-repaired",
        }
    }

    /// The message of its commit.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Initial => "Keep notes in SQLite and show the deployed version",
            Self::Headline => "Give the second edition its headline and colour",
            Self::FriendlyTimes => "Tell the age of a note instead of its date",
            Self::BrokenMigration => "Let notes be pinned",
            Self::RepairedMigration => "Give the new column a default, for tables that hold notes",
        }
    }

    /// The time of its commit: fixed, so that every demo makes the same commits.
    fn date(self) -> String {
        format!("2026-01-{:02}T09:00:00Z", 12 + self as u8)
    }
}

/// The bare repository and the clone beside it.
#[derive(Debug)]
pub(super) struct Repository<'a> {
    runner: &'a Runner,
    git: PathBuf,
    bare: PathBuf,
    clone: PathBuf,
}

impl<'a> Repository<'a> {
    /// Makes both, empty: `<folder>/upstream/ladylinux.git` and `<folder>/work`.
    ///
    /// # Errors
    /// git is missing or fails.
    pub(super) fn make(runner: &'a Runner, folder: &Path) -> Outcome<Self> {
        let repository = Self {
            runner,
            git: find_git()?,
            bare: folder.join("upstream").join(NAME),
            clone: folder.join("work"),
        };
        disk::make_folder(&repository.bare, 0o700)?;
        disk::make_folder(&repository.clone, 0o700)?;
        repository.run(&repository.bare, &["init", "--quiet", "--bare", "--initial-branch=main"])?;
        repository.run(&repository.clone, &["init", "--quiet", "--initial-branch=main"])?;
        // In the clone's own configuration, so that whoever goes on from here can commit without any of theirs.
        repository.run(&repository.clone, &["config", "user.name", "LadyLinux Demo"])?;
        repository.run(&repository.clone, &["config", "user.email", "demo@localhost"])?;
        let origin =
            repository.program(&repository.clone).args(["remote", "add", "origin"]).arg(&repository.bare);
        runner.run(&origin)?.ok(|| "git remote add failed".to_owned())?;
        Ok(repository)
    }

    /// Commits a version in the clone and pushes it; returns its commit.
    ///
    /// # Errors
    /// A file cannot be written, or git fails.
    pub(super) fn publish(&self, version: Version) -> Outcome<CommitId> {
        let overlay = SHIPPED
            .get_dir(version.folder())
            .ok_or_else(|| Failure::new(format!("demo/{} is not part of this program", version.folder())))?;
        lay(overlay, overlay.path(), &self.clone)?;
        self.run(&self.clone, &["add", "--all"])?;
        let date = version.date();
        let commit = self
            .program(&self.clone)
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .args(["commit", "--quiet", "--message", version.message()]);
        self.runner.run(&commit)?.ok(|| format!("cannot commit {version:?}"))?;
        self.run(&self.clone, &["push", "--quiet", "--set-upstream", "origin", "main"])?;
        CommitId::parse(self.run(&self.clone, &["rev-parse", "HEAD"])?.trim())
    }

    /// Tells whether the clone of an earlier demo in `folder` holds work that is not the demo's own.
    ///
    /// # Errors
    /// git is missing.
    pub(super) fn is_touched(runner: &Runner, folder: &Path) -> Outcome<bool> {
        let clone = folder.join("work");
        if !clone.join(".git").exists() {
            return Ok(false);
        }
        let bare = folder.join("upstream").join(NAME);
        let repository = Repository { runner, git: find_git()?, bare, clone };
        let changed = repository.run(&repository.clone, &["status", "--porcelain"]);
        let last = repository.run(&repository.clone, &["log", "-1", "--format=%s", "--all"]);
        let own = |subject: &str| Version::ALL.iter().any(|version| version.message() == subject.trim());
        Ok(!changed.is_ok_and(|text| text.is_empty()) || !last.is_ok_and(|subject| own(&subject)))
    }

    /// Returns the git program.
    pub(super) fn git(&self) -> &Path {
        &self.git
    }

    fn program(&self, folder: &Path) -> Program {
        Program::new(&self.git)
            .folder(folder)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Outcome<String> {
        let finished = self.runner.run(&self.program(folder).args(arguments))?;
        Ok(finished.ok(|| format!("git {} failed", arguments.join(" ")))?.text())
    }
}

fn find_git() -> Outcome<PathBuf> {
    environment::find_program("git", rustix::process::geteuid().is_root())
        .ok_or_else(|| Failure::new("git is not installed").hint("apt-get install git"))
}

/// Writes the files of `from`, which lie below `base` in the program, to the same places below `to`.
fn lay(from: &Dir<'_>, base: &Path, to: &Path) -> Outcome<()> {
    for file in from.files() {
        let path = file.path().strip_prefix(base).context(|| "a shipped file lies elsewhere".to_owned())?;
        let target = to.join(path);
        if let Some(folder) = target.parent() {
            disk::make_folder(folder, 0o755)?;
        }
        disk::write_atomic(&target, file.contents(), 0o644)?;
    }
    // A build in a tree in which the application ran once ships its byte code; nobody wants that in a commit.
    from.dirs()
        .filter(|folder| !folder.path().ends_with("__pycache__"))
        .try_for_each(|folder| lay(folder, base, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Events;
    use std::sync::Arc;

    const ALL: [Version; 5] = [
        Version::Initial,
        Version::Headline,
        Version::FriendlyTimes,
        Version::BrokenMigration,
        Version::RepairedMigration,
    ];

    #[test]
    fn the_versions_become_commits_that_are_the_same_every_time() {
        let runner = Runner::new(Arc::new(Events::silent()));
        let histories: Vec<Vec<CommitId>> = (0..2)
            .map(|_| {
                let folder = tempfile::tempdir().unwrap();
                let repository = Repository::make(&runner, folder.path()).unwrap();
                let commits = ALL.map(|version| repository.publish(version).unwrap());
                let served = repository.run(&repository.bare, &["rev-list", "--reverse", "main"]).unwrap();
                assert_eq!(served.lines().collect::<Vec<_>>(), commits.each_ref().map(CommitId::as_str));
                commits.to_vec()
            })
            .collect();
        assert_eq!(histories[0], histories[1]);
    }

    #[test]
    fn each_version_changes_what_the_story_says() {
        let runner = Runner::new(Arc::new(Events::silent()));
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::make(&runner, folder.path()).unwrap();
        let changed = ALL.map(|version| {
            repository.publish(version).unwrap();
            repository
                .run(&repository.clone, &["show", "--format=", "--name-only", "HEAD"])
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        assert!(changed[0].iter().any(|path| path == "api_layer.py"));
        assert!(changed[0].iter().all(|path| !path.contains("__pycache__")));
        assert_eq!(changed[1], ["assets/20-theme.css", "templates/page.html"]);
        assert_eq!(changed[2], ["notebook/page.py", "requirements.txt"]);
        assert_eq!(changed[3], ["migrations/0003_pinned_notes.sql", "notebook/page.py"]);
        assert_eq!(changed[4], ["migrations/0003_pinned_notes.sql"]);
    }
}
