//! The branches of the remote, as git lists them. The module touches nothing.

use refresh_settings::names::{BranchName, CommitId};
use refresh_system::error::{Failure, Outcome};

/// The file in the mirror that lists the branches of the remote as of the last fetch.
pub(super) const REMOTE_HEADS: &str = "remote-heads";

/// Reads lines of `<hash> TAB refs/heads/<name>`.
fn parse_heads(text: &str) -> Vec<(String, CommitId)> {
    text.lines()
        .filter_map(|line| {
            let (hash, name) = line.split_once('\t')?;
            Some((name.strip_prefix("refs/heads/")?.to_owned(), CommitId::parse(hash).ok()?))
        })
        .collect()
}

/// Reads the branch that HEAD of the remote names, from the line `ref: refs/heads/<name> TAB HEAD`.
pub(super) fn parse_default(text: &str) -> Option<String> {
    let name = |line: &str| {
        let (target, name) = line.strip_prefix("ref: refs/heads/")?.split_once('\t')?;
        (name == "HEAD").then(|| target.to_owned())
    };
    text.lines().find_map(name)
}

/// Returns the commit that a branch points to, by the list of the remote.
pub(super) fn tip_of(branch: &BranchName, listed: &str) -> Outcome<CommitId> {
    let heads = parse_heads(listed);
    let found = heads.iter().find(|(name, _)| name == branch.as_str()).map(|(_, commit)| commit.clone());
    let names = || heads.iter().map(|(name, _)| name);
    found.ok_or_else(|| {
        no_branch_but(branch, listed, names()).unwrap_or_else(|| no_such_branch(branch, names()))
    })
}

/// Returns the tag that a name can mean.
pub(super) fn tag_of(name: &BranchName) -> &str {
    let name = name.as_str();
    name.strip_prefix("refs/tags/").or_else(|| name.strip_prefix("tags/")).unwrap_or(name)
}

/// Returns the failure for a name that is not a branch, but something else in git.
fn no_branch_but<'a>(
    wanted: &BranchName,
    listed: &str,
    mut names: impl Iterator<Item = &'a String>,
) -> Option<Failure> {
    let text = wanted.as_str();
    let of_another = |what: &str, revision: &str| {
        let pushed = format!("{revision}:refs/heads/NAME");
        let purpose = "make a branch of it in a clone, and run that";
        Failure::new(format!("{text} is {what}, and a refresh follows a branch"))
            .command_for(purpose, "git push origin", &[&pushed])
            .command("ladylinux-refresh plan", &[])
    };
    let tag = tag_of(wanted);
    let is_tag = listed.lines().any(|line| line.ends_with(&format!("\trefs/tags/{tag}")));
    if is_tag || text.starts_with("refs/tags/") {
        return Some(of_another("a tag", &format!("{tag}^{{commit}}")));
    }
    // `git log` shortens to seven digits.
    if (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(of_another("the ID of a commit", text));
    }
    let local =
        ["refs/remotes/", "remotes/"].iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
    let (remote, branch) = local.split_once('/')?;
    names.any(|name| name == branch).then(|| {
        Failure::new(format!("the remote has no branch {text}"))
            .hint(format!("{remote} is the name of a remote in a clone: type the branch alone"))
            .command("ladylinux-refresh run", &[&branch])
    })
}

/// Returns the failure for a branch that the remote does not have, with similar names.
fn no_such_branch<'a>(branch: &BranchName, names: impl Iterator<Item = &'a String>) -> Failure {
    let wanted = branch.as_str();
    let mut near: Vec<(f64, &String)> = names
        .map(|name| (strsim::jaro_winkler(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0));
    let failure = Failure::new(format!("the remote has no branch {wanted}"));
    let close: Vec<&str> =
        near.iter().take(3).filter(|(score, _)| *score > 0.7).map(|(_, name)| name.as_str()).collect();
    if !close.is_empty() {
        return failure
            .hint(format!("did you mean {}?", close.join(", ")))
            .command("ladylinux-refresh run", &[&close[0]]);
    }
    let some: Vec<&str> = near.iter().take(10).map(|(_, name)| name.as_str()).collect();
    let Some(first) = some.iter().find(|name| **name == "main").or(some.first()) else {
        return failure.hint(
            "the remote lists no branches: it is empty, or a page for a login answers in place of the repository",
        );
    };
    failure.hint(format!("the remote has {}", some.join(", "))).command("ladylinux-refresh run", &[first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_branch_is_reported_with_the_nearest_names() {
        let names = ["main", "feature/login", "feature/logout"].map(str::to_owned);
        let failure = no_such_branch(&BranchName::parse("feature/logni").unwrap(), names.iter());
        assert!(failure.hint_texts()[0].contains("feature/login"), "{failure:?}");
        let names = ["main;id>$(id)".to_owned()];
        let failure = no_such_branch(&BranchName::parse("main;id").unwrap(), names.iter());
        assert_eq!(failure.hint_texts()[1], "ladylinux-refresh run 'main;id>$(id)'");
        let failure = no_such_branch(&BranchName::parse("zzz").unwrap(), names.iter());
        assert!(failure.hint_texts()[0].contains("the remote has"), "{failure:?}");
    }

    #[test]
    fn a_name_that_is_not_a_branch_is_reported_with_the_command_to_type() {
        let hash = "0123456789012345678901234567890123456789";
        let listed = format!("{hash}\trefs/heads/main\n{hash}\trefs/heads/feature/x\n{hash}\trefs/tags/v1\n");
        let refused = |name: &str| {
            let failure = tip_of(&BranchName::parse(name).unwrap(), &listed).unwrap_err();
            format!("{} / {}", failure.summary(), failure.hint_texts().join(" / "))
        };
        for (name, what) in
            [("v1", "a tag"), ("refs/tags/v1", "a tag"), (hash, "the ID of a commit"), ("0123456", "the ID")]
        {
            assert!(
                refused(name).contains(what) && refused(name).contains(":refs/heads/NAME"),
                "{}",
                refused(name)
            );
        }
        assert!(refused("tags/v1").contains("'v1^{commit}:refs/heads/NAME'"), "{}", refused("tags/v1"));
        for (name, command) in [
            ("origin/main", "ladylinux-refresh run main"),
            ("refs/remotes/origin/feature/x", "ladylinux-refresh run feature/x"),
            ("remotes/upstream/main", "ladylinux-refresh run main"),
        ] {
            assert!(refused(name).ends_with(command), "{}", refused(name));
        }
        for name in ["main", "refs/heads/main", "refs/heads/feature/x"] {
            assert!(tip_of(&BranchName::parse(name).unwrap(), &listed).is_ok(), "{name}");
        }
        assert!(refused("feature/y").contains("did you mean feature/x"), "{}", refused("feature/y"));
    }

    #[test]
    fn lines_that_are_not_heads_are_left_out() {
        let hash = "0123456789012345678901234567890123456789";
        let heads = parse_heads(&format!("{hash}\trefs/heads/a/b\nnonsense\n{hash}\trefs/tags/v1\n"));
        assert_eq!(parse_default("ref: refs/heads/a/b\tHEAD\n").as_deref(), Some("a/b"));
        assert_eq!(parse_default(&format!("{hash}\tHEAD\n")), None);
        assert_eq!(heads.len(), 1);
        assert_eq!(heads[0].0, "a/b");
    }
}
