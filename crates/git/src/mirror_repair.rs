//! Replaces a mirror that has lost objects through a power cut, a disk error or a person. A new one is made from the
//! remote, and keeps the readable objects of the old one.

use refresh_settings::names::{BranchName, CommitId};
use refresh_system::error::{Failure, Outcome};

use super::heads::tip_of;
use super::mirror::Mirror;
use super::mirror_call::{Call, Ensured, Source};

impl Mirror {
    /// Ensures that the mirror has an earlier commit with all its files. A mirror that has lost a part of it is
    /// replaced by a new one.
    ///
    /// # Errors
    /// The remote cannot be reached, or `branch` no longer contains the commit.
    pub fn ensure_earlier(&self, branch: &BranchName, commit: &CommitId) -> Outcome<()> {
        if self.is_complete(commit)? {
            return Ok(());
        }
        let missing = || format!("the commit {} is not in the mirror", commit.short());
        let fetched = match &self.unit {
            Some(unit) => unit.renew(branch),
            None => self.renew_here(branch).map(drop),
        };
        fetched.map_err(|failure| {
            Failure::new(format!("{}, and cannot be fetched", missing())).because(failure)
        })?;
        if !self.is_complete(commit)? {
            return Err(Failure::new(format!(
                "{}, and {branch} of the remote does not contain it",
                missing()
            ))
            .command("ladylinux-refresh run", &[]));
        }
        Ok(())
    }

    /// Makes a new mirror.
    pub(super) fn renew_here(&self, branch: &BranchName) -> Outcome<Ensured> {
        let tip = tip_of(branch, &self.remote_heads(branch)?)?;
        self.recreate(branch, &tip, Source::Remote)?;
        Ok(Ensured::Replaced)
    }

    /// Returns whether the mirror has a commit and all its files.
    ///
    /// # Errors
    /// git cannot be started.
    pub(super) fn is_complete(&self, commit: &CommitId) -> Outcome<bool> {
        if let Some(unit) = &self.unit {
            return unit.ask(Call::IsComplete { commit: commit.clone() });
        }
        if !self.path.join("HEAD").exists() {
            return Ok(false);
        }
        let program = self.bare()?.args(["rev-list", "--objects", "--no-walk", "--quiet", commit.as_str()]);
        Ok(self.git.runner().run(&program)?.succeeded())
    }
}
