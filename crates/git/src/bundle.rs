//! Commits in a file: written from the mirror, and imported through a quarantine, a separate repository in which they
//! are verified before the mirror reads any of them. On a real machine git does all of this in units of the builder.

use std::path::{Path, PathBuf};

use refresh_settings::names::{BranchName, CommitId};
use refresh_system::disk;
use refresh_system::error::{Context as _, Failure, Outcome};

use super::mirror::Mirror;
use super::mirror_call::{Call, Quarantine};
use super::mirror_fetch::QUIETLY;
use super::mirror_layout::lay_out;
use super::{LONG, Repository, allowing, lenient};

impl Mirror {
    /// Writes a branch with its complete history to `commits` in the new directory `directory`, and returns that file.
    ///
    /// # Errors
    /// The mirror has no such branch, or the disk is full.
    pub fn write_bundle(&self, branch: &BranchName, directory: &Path) -> Outcome<PathBuf> {
        let file = directory.join("commits");
        let Some(unit) = &self.unit else {
            disk::make_new_directory(directory, 0o700)?;
            self.write_bundle_here(branch, &file)?;
            return Ok(file);
        };
        let call = Call::WriteBundle { branch: branch.clone(), file: file.clone().into() };
        unit.ask_in_directory::<()>(directory, call)?;
        Ok(file)
    }

    /// As [`Mirror::write_bundle`], inside a unit.
    pub(super) fn write_bundle_here(&self, branch: &BranchName, file: &Path) -> Outcome<()> {
        let program = self.bare()?.args(["bundle", "create", "--quiet"]).arg(file);
        let program = program.arg(format!("refs/heads/{branch}")).deadline(LONG);
        self.git.run(&program, || format!("cannot pack the commits of {branch}")).map(drop)
    }

    /// Unpacks a file of commits in a new repository at `directory`, and verifies it: it contains only this branch,
    /// which points to this commit, with its complete history, and every object is valid.
    ///
    /// # Errors
    /// The file does not match.
    pub fn quarantine(
        &self,
        file: &Path,
        directory: &Path,
        branch: &BranchName,
        commit: &CommitId,
    ) -> Outcome<Quarantine> {
        let (branch, commit) = (branch.clone(), commit.clone());
        let quarantine = Quarantine { directory: directory.to_path_buf(), branch, commit };
        match &self.unit {
            None => self.quarantine_here(file, &quarantine)?,
            Some(unit) => {
                let (file, quarantine) = (file.to_path_buf().into(), quarantine.clone());
                unit.ask_in_directory::<()>(directory, Call::Quarantine { file, quarantine })?;
            }
        }
        Ok(quarantine)
    }

    /// As [`Mirror::quarantine`], inside a unit.
    pub(super) fn quarantine_here(&self, file: &Path, quarantine: &Quarantine) -> Outcome<()> {
        let Quarantine { directory, branch, commit } = quarantine;
        lay_out(directory, commit)?;
        let name = format!("refs/heads/{branch}");
        let at = || self.git.at(&Repository::bare(directory).passing()).deadline(LONG);
        let listed = at().args(["bundle", "list-heads"]).arg(file);
        let heads = self.git.run(&listed, || "they are no commits that git packed".to_owned())?.text();
        let heads: Vec<&str> = heads.lines().map(str::trim).collect();
        if heads != [format!("{commit} {name}")] {
            return Err(Failure::new(format!(
                "they are not the commits that the header names: {} on {branch}",
                commit.short()
            )));
        }
        let verify = at().args(["bundle", "verify", "--quiet"]).arg(file);
        self.git.run(&verify, || "they build on commits that are not there".to_owned())?;
        let fetch = allowing(at(), "file").arg("fetch");
        let fetch = fetch.args(QUIETLY).args(["--quiet", "--"]).arg(file);
        let fetch = fetch.arg(format!("+{name}:{name}"));
        self.git.run(&fetch, || "git cannot take them in".to_owned())?;
        let check = at().args(lenient("fsck", "warn")).args(["fsck", "--no-dangling", "--no-progress"]);
        self.git.run(&check, || "they are damaged".to_owned()).map(drop)
    }

    /// Returns whether `older` is one of the commits in the mirror that `newer` builds on. A commit that is not in the
    /// mirror is not older: the mirror has every commit with its complete history.
    ///
    /// # Errors
    /// git cannot be started.
    pub fn is_before(&self, older: &CommitId, newer: &CommitId) -> Outcome<bool> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::IsBefore { older: older.clone(), newer: newer.clone() });
        }
        if older == newer || !self.contains(older)? || !self.contains(newer)? {
            return Ok(false);
        }
        let program = self.bare()?.args(["merge-base", "--is-ancestor", older.as_str(), newer.as_str()]);
        Ok(self.git.runner().run(&program)?.succeeded())
    }

    /// Returns whether a history in the mirror begins with the same commit as that of the bundle. An empty mirror is
    /// related to everything.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn is_related(&self, commits: &Quarantine) -> Outcome<bool> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::IsRelated { commits: commits.clone() });
        }
        let context = || "cannot read the history of the bundle".to_owned();
        if !self.has_commits()? {
            return Ok(true);
        }
        let program = self.git.at(&Repository::bare(&commits.directory)).deadline(LONG);
        let program = program.args(["rev-list", "--max-parents=0", commits.commit.as_str(), "--"]);
        for line in self.git.run(&program, context)?.text().lines() {
            if self.contains(&CommitId::parse(line.trim()).context(context)?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_commits(&self) -> Outcome<bool> {
        let program = self.bare()?.args(["for-each-ref", "--count=1", "--format=%(objectname)"]);
        // A directory that is not a repository, or a damaged repository, has nothing to compare.
        let found = self.git.runner().run(&program)?;
        Ok(found.succeeded() && !found.text().trim().is_empty())
    }
}
