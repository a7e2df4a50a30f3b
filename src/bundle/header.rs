//! The header of a bundle: what it brings, for whom, and the digest of every member. Pure.

use serde::{Deserialize, Serialize};

use super::blocks;
use crate::error::{Context as _, Failure, Outcome};
use crate::python::Interpreter;
use crate::settings::names::{BranchName, CommitId};

/// The version of the form.
pub const SCHEMA: u32 = 2;

/// The name of the header's own member, the first.
pub(super) const HEADER: &str = "bundle.json";
/// The name of the member with the header's digest, the second.
pub(super) const DIGEST: &str = "bundle.json.sha256";
/// The commits, as git packs them.
pub(super) const COMMITS: &str = "commits.bundle";
/// The lock, as the tool keeps it.
pub(super) const LOCK: &str = "lock.json";
/// Before the name of uv.
pub(super) const TOOLS: &str = "tools/";
/// What uv's cache has of the lock, as an archive.
pub(super) const CACHE: &str = "cache.tar";

/// The most bytes that a header may have.
pub(super) const LARGEST: u64 = 4 << 20;
/// The most bytes that a lock may have: it is read whole.
pub(super) const LARGEST_LOCK: u64 = 64 << 20;

/// What a bundle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the form, [`SCHEMA`].
    pub schema: u32,
    /// When it was made, in UTC.
    pub made_at: jiff::Timestamp,
    /// By which version of this program.
    pub made_by: String,
    /// The branch.
    pub branch: BranchName,
    /// The commit that it points to.
    pub commit: CommitId,
    /// What packages and uv are made for.
    pub platform: Platform,
    /// The sha256 of the definitions that the lock belongs to.
    pub definitions: String,
    /// How many distributions the lock names.
    pub packages: usize,
    /// What follows in the file, in this order.
    pub members: Vec<Member>,
}

/// What packages and uv are made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// `cpython`, `pypy` …
    pub implementation: String,
    /// The version without its last part, for instance `3.11`.
    pub python: String,
    /// The ABI that compiled modules follow.
    pub abi: String,
    /// The platform, for instance `linux-x86_64`.
    pub platform: String,
}

/// One file in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name in the archive.
    pub name: String,
    /// The sha256 of its content.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Platform {
    /// Returns what an interpreter takes.
    pub fn of(interpreter: &Interpreter) -> Self {
        let parts: Vec<&str> = interpreter.version.split('.').take(2).collect();
        Self {
            implementation: interpreter.implementation.clone(),
            python: parts.join("."),
            abi: interpreter.abi.clone(),
            platform: interpreter.platform.clone(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({}) on {}", self.implementation, self.python, self.abi, self.platform)
    }
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// It is of another version, not understood, or lists what no bundle holds.
    pub(super) fn parse(bytes: &[u8]) -> Outcome<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let context = || "the header of the bundle is not understood".to_owned();
        let Version { schema } = serde_json::from_slice(bytes).context(context)?;
        if schema != SCHEMA {
            return Err(Failure::new(format!(
                "the bundle is of version {schema}, and this program reads version {SCHEMA}"
            ))
            .hint("install the version of this program that made it, or a newer one"));
        }
        let header: Self = serde_json::from_slice(bytes).context(context)?;
        header.check().context(context)?;
        Ok(header)
    }

    /// Refuses members that no bundle has, twice the same, and a bundle without what each one has.
    fn check(&self) -> Outcome<()> {
        let mut names: Vec<&str> = Vec::new();
        for member in &self.members {
            let name = member.name.as_str();
            if !is_known(member) {
                return Err(Failure::new(format!("{name:?} is nothing that a bundle holds")));
            }
            if !is_digest(&member.sha256) || member.size > blocks::LARGEST {
                return Err(Failure::new(format!("size or digest of {name} cannot be")));
            }
            names.push(name);
        }
        names.sort_unstable();
        if let Some([twice, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Failure::new(format!("{twice} is listed twice")));
        }
        for needed in [COMMITS, LOCK, CACHE] {
            self.member(needed).ok_or_else(|| Failure::new(format!("{needed} is not listed")))?;
        }
        Ok(())
    }

    /// Returns a member by its name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Returns the members whose names begin so.
    pub(super) fn members_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |member| member.name.starts_with(prefix))
    }

    /// Refuses an interpreter that the packages are not made for.
    ///
    /// # Errors
    /// It is another implementation, version, ABI or platform.
    pub fn fit(&self, interpreter: &Interpreter) -> Outcome<()> {
        let here = Platform::of(interpreter);
        if here == self.platform {
            return Ok(());
        }
        Err(Failure::new(format!("the bundle is for {}, and this machine has {here}", self.platform))
            .hint("make it on a machine like this one")
            .hint("or name the interpreter that it is for: python.interpreter in the host's refresh.toml")
            .hint("ladylinux-refresh bundle create --output FILE"))
    }
}

/// Returns whether a text is a sha256 as this program writes it.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a bundle can hold a member of this name: no name leads out of a directory, and all are short.
fn is_known(member: &Member) -> bool {
    let name = member.name.as_str();
    let plain = |word: &str| {
        !word.is_empty()
            && word.len() < 80
            && !word.starts_with('.')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    match name {
        COMMITS | CACHE => true,
        LOCK => member.size <= LARGEST_LOCK,
        _ => name.strip_prefix(TOOLS).is_some_and(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn member(name: &str) -> Member {
        Member { name: name.to_owned(), sha256: DIGEST.to_owned(), size: 1 }
    }

    fn header(members: Vec<Member>) -> Header {
        Header {
            schema: SCHEMA,
            made_at: jiff::Timestamp::UNIX_EPOCH,
            made_by: "ladylinux-refresh 1".to_owned(),
            branch: BranchName::main(),
            commit: CommitId::parse("0123456789012345678901234567890123456789").unwrap(),
            platform: Platform {
                implementation: "cpython".to_owned(),
                python: "3.11".to_owned(),
                abi: "cpython-311-x86_64-linux-gnu".to_owned(),
                platform: "linux-x86_64".to_owned(),
            },
            definitions: String::new(),
            packages: 0,
            members,
        }
    }

    fn parsed(members: Vec<Member>) -> Outcome<Header> {
        Header::parse(&serde_json::to_vec(&header(members)).unwrap())
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let members = vec![member(COMMITS), member(LOCK), member("tools/uv"), member(CACHE)];
        assert_eq!(parsed(members.clone()).unwrap(), header(members));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let mut bad =
            vec!["/etc/passwd", "../lock.json", "tools/../x", "tools/a/b", "tools/.x", "wheels/x.whl", ""];
        bad.extend(["tools/", "commits.bundle/x", "bundle.json"]);
        for name in bad {
            let refused = parsed(vec![member(COMMITS), member(LOCK), member(name)]).unwrap_err();
            assert!(refused.chain()[1].contains("nothing that a bundle holds"), "{name}: {refused:?}");
        }
    }

    #[test]
    fn what_is_missing_twice_or_too_large_is_refused() {
        assert!(parsed(vec![member(COMMITS)]).unwrap_err().chain()[1].contains("lock.json is not listed"));
        let twice = parsed(vec![member(COMMITS), member(LOCK), member(LOCK)]).unwrap_err();
        assert!(twice.chain()[1].contains("twice"));
        for size in [LARGEST_LOCK + 1, u64::MAX] {
            let large = Member { size, ..member(LOCK) };
            assert!(parsed(vec![member(COMMITS), large]).is_err());
        }
        let large = Member { size: u64::MAX, ..member(COMMITS) };
        assert!(parsed(vec![large, member(LOCK)]).is_err());
    }

    #[test]
    fn a_newer_version_says_so_whatever_else_it_holds() {
        let refused = Header::parse(br#"{"schema": 3, "other": []}"#).unwrap_err();
        assert!(refused.summary().contains("of version 3"), "{refused:?}");
    }

    #[test]
    fn only_the_last_part_of_a_version_may_differ() {
        let interpreter = |version: &str, abi: &str| Interpreter {
            path: "/usr/bin/python3".into(),
            implementation: "cpython".to_owned(),
            version: version.to_owned(),
            abi: abi.to_owned(),
            platform: "linux-x86_64".to_owned(),
        };
        let header = header(Vec::new());
        header.fit(&interpreter("3.11.9", "cpython-311-x86_64-linux-gnu")).unwrap();
        assert!(header.fit(&interpreter("3.12.1", "cpython-312-x86_64-linux-gnu")).is_err());
        assert!(header.fit(&interpreter("3.11.9", "cpython-311-x86_64-linux-musl")).is_err());
    }
}
