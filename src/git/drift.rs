//! Observes how the work tree differs from what was deployed, without changing it.
//!
//! A path is no drift where some known commit accounts for it: it is tracked there and is on disk as that commit's
//! checkout would have it. The known commits are the one that HEAD names, the deployed one, the target of a run that
//! was interrupted, and the new target.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Outcome;
use crate::settings::names::CommitId;

use super::Repository;
use super::compare::Difference;
use super::made::Made;
use super::path::TreePath;
use super::saved;
use super::tree::{Files, Place, Tree};
use super::walk::{self, Access, Accounted, Preserve, Stray, Walked};

/// What a worker is asked to observe.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub place: Place,
    /// The folder of all runs, whose saved places tell which commits are safe already.
    pub runs: TreePath,
    /// The commits that account for files, the likeliest first; HEAD is always looked at before them.
    pub known: Vec<CommitId>,
    /// Patterns of application state that stays in place.
    pub preserve: Vec<String>,
    /// What the hooks of the last run made.
    pub made: Made,
}

/// The worker's operation.
pub const OPERATION: &str = "git-drift";

/// How the work tree differs from every known commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// The commit that was compared with first; `None` where none of the known ones could be read.
    pub base: Option<CommitId>,
    /// What differs.
    pub items: Vec<DriftItem>,
    /// What only local branches, tags, HEAD or stashes reach and no run has saved yet.
    pub tips: Vec<Tip>,
}

impl Drift {
    /// Tells whether there is nothing that a refresh would have to save.
    pub fn is_none(&self) -> bool {
        self.tips.is_empty() && self.items.iter().all(|item| item.preserved)
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftItem {
    /// Where.
    pub path: TreePath,
    /// What.
    pub kind: DriftKind,
    /// Whether a preserve pattern names it.
    pub preserved: bool,
}

/// The kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// A tracked file has other bytes.
    Modified,
    /// A tracked file has another executable bit.
    Mode,
    /// Something else than the tracked file or link is there.
    Type,
    /// A tracked file is missing.
    Deleted,
    /// A tracked file cannot be read by its owner.
    Unreadable,
    /// A file that no known commit tracks, ignored ones included.
    Untracked,
    /// A folder that no known commit tracks anything in.
    UntrackedFolder,
}

impl DriftKind {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Modified => "modified",
            Self::Mode => "mode",
            Self::Type => "type",
            Self::Deleted => "deleted",
            Self::Unreadable => "unreadable",
            Self::Untracked | Self::UntrackedFolder => "untracked",
        }
    }
}

/// A local name whose commits the remote does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// `HEAD`, `heads/x`, `tags/x`, `stash/0` …
    pub name: String,
    /// The commit.
    pub commit: CommitId,
}

/// Does the worker's side of [`OPERATION`].
///
/// # Errors
/// The tree cannot be read.
pub fn handle(request: &Request) -> Outcome<Drift> {
    let tree = Tree::enter(&request.place);
    let preserve = Preserve::patterns(&request.preserve)?;
    let observed = tree.observe(&request.known, &preserve, &request.made, Access::ReadOnly)?;
    let safe = saved::bundled(request.runs.as_path());
    let mut tips = tree.local_tips()?.unwrap_or_default();
    tips.retain(|tip| !safe.iter().any(|(_, commit)| *commit == tip.commit));
    tree.leave()?;
    Ok(observed.into_drift(&preserve, tips))
}

/// All that saving and aligning need to know.
#[derive(Debug)]
pub(super) struct Observed {
    /// The commit that was compared with first, with its files and the private index of that comparison.
    pub(super) base: Option<(CommitId, Files, PathBuf)>,
    /// Tracked files that differ from every known commit.
    pub(super) differing: BTreeMap<PathBuf, Difference>,
    /// Paths that a known commit accounts for though the private index does not show it: another commit than the
    /// base does, the checkout converts the file, or a hook made it what it is.
    pub(super) explained: BTreeSet<PathBuf>,
    /// What no known commit tracks.
    pub(super) walked: Walked,
}

impl Tree {
    /// Compares the work tree with the known commits.
    pub(super) fn observe(
        &self,
        known: &[CommitId],
        preserve: &Preserve,
        made: &Made,
        access: Access,
    ) -> Outcome<Observed> {
        let mut candidates: Vec<CommitId> = self.named_by_head()?.into_iter().collect();
        for commit in known {
            if !candidates.contains(commit) {
                candidates.push(commit.clone());
            }
        }
        let mut readable = candidates.into_iter().filter_map(|commit| match self.files(&commit) {
            Ok(files) => files.map(|files| Ok((commit, files))),
            Err(failure) => Some(Err(failure)),
        });
        let Some((base, files)) = readable.next().transpose()? else {
            let walked = walk::walk(&self.app, &Accounted::default(), preserve, made, access)?;
            return Ok(Observed {
                base: None,
                differing: BTreeMap::new(),
                explained: BTreeSet::new(),
                walked,
            });
        };
        let mut walked = walk::walk(&self.app, &Accounted::of(files.keys()), preserve, made, access)?;
        let compared = self.compare(&base, &files, "base")?;
        let mut differing = compared.differing;
        for path in files.keys().filter(|path| walked.closed.iter().any(|closed| path.starts_with(closed))) {
            differing.entry(path.clone()).or_insert(Difference::Unreadable);
        }
        let mut explained = compared.converted;
        differing.retain(|path, _| {
            let theirs = made.vouches(&self.app, path) && !preserve.covers(path);
            if theirs {
                explained.insert(path.clone());
            }
            !theirs
        });
        while !(differing.is_empty() && walked.strays.is_empty() && walked.preserved.is_empty()) {
            let Some((commit, others)) = readable.next().transpose()? else { break };
            let found = self.explained_by(&commit, &others, &files, &differing)?;
            differing.retain(|path, difference| {
                !(found.contains(path) || *difference == Difference::Missing && !others.contains_key(path))
            });
            if found.iter().any(|path| !files.contains_key(path)) {
                let accounted = files.keys().chain(&explained).chain(&found);
                let opened = std::mem::take(&mut walked.opened);
                walked = walk::walk(&self.app, &Accounted::of(accounted), preserve, made, access)?;
                walked.opened.extend(opened);
            }
            explained.extend(found);
        }
        Ok(Observed { base: Some((base, files, compared.index)), differing, explained, walked })
    }

    /// Finds, among the paths that the base does not account for, those that `commit` does.
    fn explained_by(
        &self,
        commit: &CommitId,
        others: &Files,
        base: &Files,
        differing: &BTreeMap<PathBuf, Difference>,
    ) -> Outcome<BTreeSet<PathBuf>> {
        let wanted: BTreeSet<PathBuf> = others
            .keys()
            .filter(|path| differing.contains_key(*path) || !base.contains_key(*path))
            .filter(|path| super::tree::is_there(&self.app.join(path)))
            .cloned()
            .collect();
        if wanted.is_empty() {
            return Ok(wanted);
        }
        // The attributes decide what a checkout of the others would look like.
        let is_attributes = |path: &PathBuf| path.file_name().is_some_and(|name| name == ".gitattributes");
        let subset: Files = others
            .iter()
            .filter(|(path, _)| wanted.contains(*path) || is_attributes(path))
            .map(|(path, entry)| (path.clone(), entry.clone()))
            .collect();
        let compared = self.compare(commit, &subset, commit.as_str())?;
        Ok(wanted.into_iter().filter(|path| !compared.differing.contains_key(path)).collect())
    }

    /// Finds the local names that reach commits which no ref of the mirror reaches; `None` where the application's
    /// repository is too damaged or too shallow to tell.
    pub(super) fn local_tips(&self) -> Outcome<Option<Vec<Tip>>> {
        let Some(names) = self.names()? else { return Ok(None) };
        if names.is_empty() {
            return Ok(Some(names));
        }
        let list = names.iter().map(|tip| tip.commit.as_str()).collect::<Vec<_>>().join("\n") + "\n";
        let program = self.git.at(&self.both()).args(["rev-list", "--stdin", "--not", "--all"]);
        let listed = self.git.runner().run(&program.input(list.into_bytes()))?;
        if !listed.succeeded() {
            return Ok(None);
        }
        let text = listed.text();
        let local: BTreeSet<&str> = text.lines().collect();
        let tips = names.into_iter().filter(|tip| local.contains(tip.commit.as_str())).collect();
        Ok(Some(once_per_commit(tips)))
    }

    /// Every local name of a commit: HEAD, branches, tags, and all that was ever stashed; `None` where git cannot list
    /// them all, as in a repository whose HEAD is broken: names that are not listed are not names that are not there.
    fn names(&self) -> Outcome<Option<Vec<Tip>>> {
        if !self.has_git_dir() {
            return Ok(Some(Vec::new()));
        }
        let format = "--format=%(objectname) %(*objectname) %(objecttype) %(refname)";
        let listed = self
            .git
            .runner()
            .run(&self.git.at(&Repository::bare(self.git_dir())).args(["for-each-ref", format]))?;
        if !listed.succeeded() {
            return Ok(None);
        }
        let mut tips = parse_names(&listed.text());
        if let Some(commit) = self.named_by_head()? {
            tips.insert(0, Tip { name: "HEAD".to_owned(), commit });
        }
        // `refs/stash` is only the newest of all stashes, and its name would be in the way of `stash/0`.
        let newest = tips.iter().position(|tip| tip.name == "stash").map(|at| tips.remove(at));
        let log = crate::disk::read_if_there(&self.git_dir().join("logs/refs/stash"))?.unwrap_or_default();
        let stashes = parse_stash_log(&log);
        if stashes.is_empty() {
            tips.extend(newest.map(|tip| Tip { name: "stash/0".to_owned(), ..tip }));
        }
        tips.extend(stashes);
        Ok(Some(tips))
    }
}

impl Observed {
    fn into_drift(self, preserve: &Preserve, tips: Vec<Tip>) -> Drift {
        let tracked = self.differing.into_iter().map(|(path, difference)| {
            let kind = match difference {
                Difference::Content => DriftKind::Modified,
                Difference::Mode => DriftKind::Mode,
                Difference::Kind => DriftKind::Type,
                Difference::Missing => DriftKind::Deleted,
                Difference::Unreadable => DriftKind::Unreadable,
            };
            let preserved = kind != DriftKind::Deleted && preserve.covers(&path);
            DriftItem { path: path.into(), kind, preserved }
        });
        let strays = self.walked.strays.into_iter().filter_map(|(path, stray)| {
            let kind = match stray {
                Stray::File => DriftKind::Untracked,
                Stray::Folder => DriftKind::UntrackedFolder,
                Stray::Regenerable => return None,
            };
            Some(DriftItem { path: path.into(), kind, preserved: false })
        });
        let kept = self.walked.preserved.into_iter().map(|path| DriftItem {
            path: path.into(),
            kind: DriftKind::Untracked,
            preserved: true,
        });
        Drift {
            base: self.base.map(|(commit, ..)| commit),
            items: tracked.chain(strays).chain(kept).collect(),
            tips,
        }
    }
}

/// Keeps one name of each commit: that of a person's branch, tag or stash rather than HEAD or what a restore left.
fn once_per_commit(mut tips: Vec<Tip>) -> Vec<Tip> {
    let rank = |tip: &Tip| match tip.name.as_str() {
        "HEAD" => 1,
        name if name.starts_with("saved/") => 2,
        _ => 0,
    };
    tips.sort_by_key(rank);
    let mut seen = BTreeSet::new();
    tips.retain(|tip| seen.insert(tip.commit.as_str().to_owned()));
    tips
}

/// Reads the list of refs; those that follow the remote and those that are no commits are left out.
fn parse_names(text: &str) -> Vec<Tip> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let (object, peeled, kind) = (words.next()?, words.next()?, words.next()?);
            let name = words.next()?.strip_prefix("refs/")?;
            if name.starts_with("remotes/") {
                return None;
            }
            let commit = match kind {
                "commit" => object,
                "tag" => peeled,
                _ => return None,
            };
            Some(Tip { name: name.to_owned(), commit: CommitId::parse(commit).ok()? })
        })
        .collect()
}

/// Reads the log of the stash: the second word of each line is what was stashed; the newest comes last.
fn parse_stash_log(bytes: &[u8]) -> Vec<Tip> {
    let text = String::from_utf8_lossy(bytes);
    let commits: Vec<CommitId> =
        text.lines().filter_map(|line| CommitId::parse(line.split(' ').nth(1)?).ok()).collect();
    commits
        .into_iter()
        .rev()
        .enumerate()
        .map(|(index, commit)| Tip { name: format!("stash/{index}"), commit })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_commits_are_read_and_those_of_the_remote_left_out() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let text = format!(
            "{one}  commit refs/heads/a b\n{one} {two} tag refs/tags/v1\n{one}  commit refs/remotes/origin/x\n{one}  blob refs/b\n"
        );
        let tips = parse_names(&text);
        assert_eq!(tips.len(), 2);
        assert_eq!(tips[0].name, "heads/a b");
        assert_eq!(tips[1].commit.as_str(), two);
    }

    #[test]
    fn a_commit_of_several_names_is_named_once_by_what_a_person_called_it() {
        let commit = |digit: &str| CommitId::parse(&digit.repeat(40)).unwrap();
        let tip = |name: &str, digit: &str| Tip { name: name.to_owned(), commit: commit(digit) };
        let tips =
            vec![tip("HEAD", "1"), tip("heads/main", "1"), tip("saved/r1/x", "2"), tip("heads/x", "2")];
        assert_eq!(once_per_commit(tips), [tip("heads/main", "1"), tip("heads/x", "2")]);
        assert_eq!(once_per_commit(vec![tip("saved/r1/x", "3"), tip("HEAD", "3")]), [tip("HEAD", "3")]);
    }

    #[test]
    fn every_stash_is_found_the_newest_first() {
        let (zero, one, two) = ("0".repeat(40), "1".repeat(40), "2".repeat(40));
        let log = format!("{zero} {one} A <a> 1 +0000\tx\n{one} {two} A <a> 2 +0000\ty\n");
        let tips = parse_stash_log(log.as_bytes());
        assert_eq!(tips[0], Tip { name: "stash/0".into(), commit: CommitId::parse(&two).unwrap() });
        assert_eq!(tips.len(), 2);
    }
}
