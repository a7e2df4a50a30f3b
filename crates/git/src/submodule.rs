//! Entries of other repositories in a commit: submodules, and entries that resemble them. The module touches nothing.

use std::path::Path;

use refresh_settings::names::CommitId;
use refresh_system::error::Failure;

use super::path::TreePath;

/// Returns the refusal of an entry that `git add` makes from a repository inside the repository: a commit of that
/// repository, without its files.
pub(super) fn orphan(commit: &CommitId, path: &Path) -> Failure {
    let shown = TreePath::from(path);
    Failure::new(format!(
        "{} has an entry of another repository at {shown}, and no submodule of that path",
        commit.short()
    ))
    .because(Failure::new(format!(
        "`git add` of a directory that has a `.git` makes it; the files below {shown} are not in the commit"
    )))
    .command_for("in the application's repository", "git rm --cached", &[&shown.to_string()])
    .hint("then commit, and add the files themselves if they are needed")
}

/// Returns `true` if a `.gitmodules` names a submodule at `path`.
pub(super) fn is_known(modules: &str, path: &Path) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "path").then(|| value.trim().trim_matches('"').trim_end_matches('/').to_owned())
    };
    modules.lines().filter_map(value).any(|named| Path::new(&named) == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_another_repository_is_a_submodule_only_by_its_path() {
        let modules = "[submodule \"x\"]\n\tpath = lib/x\n\turl = https://h/x\n";
        assert!(is_known(modules, Path::new("lib/x")));
        assert!(!is_known(modules, Path::new("x")) && !is_known("", Path::new("lib/x")));
        let commit = CommitId::parse(&"1".repeat(40)).unwrap();
        let failure = orphan(&commit, Path::new("a b"));
        assert_eq!(failure.hint_texts()[0], "in the application's repository: git rm --cached 'a b'");
    }
}
