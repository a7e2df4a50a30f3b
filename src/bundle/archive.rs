//! The form of a bundle: a tar archive (ustar) of regular files, without any freedom in its form. The names and sizes
//! of its members determine every byte except their content, so a reader compares the bytes. The first member is the
//! header, which lists the others with their digests; the second is the checksum of the header. Source: POSIX.1-2017,
//! pax, "ustar Interchange Format".

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use refresh_environments::Interpreter;
use refresh_settings::names::{BranchName, CommitId};
use refresh_system::error::{Context as _, Failure, Outcome};

/// The version of the form.
pub const SCHEMA: u32 = 2;

/// The name of the first member, the header.
pub(super) const HEADER: &str = "bundle.json";
/// The name of the second member, the digest of the header.
pub(super) const DIGEST: &str = "bundle.json.sha256";
/// The commits, packed by git.
pub(super) const COMMITS: &str = "commits.bundle";
/// The lock, in the form of the tool's records.
pub(super) const LOCK: &str = "lock.json";
/// The prefix of the name of uv.
pub(super) const TOOLS: &str = "tools/";
/// The part of uv's cache for the lock, as an archive.
pub(super) const CACHE: &str = "cache.tar";

/// The unit of an archive, in bytes.
pub(super) const BLOCK: u64 = 512;
/// The blocks of zeros that end an archive, in bytes.
pub(super) const END: u64 = 2 * BLOCK;
/// The largest size of a header, in bytes.
pub(super) const LARGEST_HEADER: u64 = 4 << 20;
/// The largest size of a lock, in bytes: it is read into memory.
pub(super) const LARGEST_LOCK: u64 = 64 << 20;
/// The largest size of a member that the form supports, in bytes.
pub(super) const LARGEST: u64 = (1 << 33) - 1;

/// The header of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the form, [`SCHEMA`].
    pub schema: u32,
    /// When it was made, in UTC.
    pub made_at: jiff::Timestamp,
    /// The version of this program that made it.
    pub made_by: String,
    /// The branch.
    pub branch: BranchName,
    /// The commit of the branch.
    pub commit: CommitId,
    /// The platform of the packages and of uv.
    pub platform: Platform,
    /// The sha256 of the definitions that the lock belongs to.
    pub definitions: String,
    /// The number of distributions in the lock.
    pub packages: usize,
    /// The members that follow in the file, in this order.
    pub members: Vec<Member>,
}

/// The platform of packages and of uv.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// `cpython`, `pypy` …
    pub implementation: String,
    /// The version without its last part, for instance `3.11`.
    pub python: String,
    /// The ABI of compiled modules.
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
    /// Returns the platform of an interpreter.
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
    /// It has another version, is not understood, or lists an unknown member.
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

    /// Refuses unknown and repeated members, and a bundle without a required member.
    fn check(&self) -> Outcome<()> {
        let mut names = BTreeSet::new();
        for Member { name, sha256, size } in &self.members {
            let largest = if name == LOCK { LARGEST_LOCK } else { LARGEST };
            if !is_known(name) {
                return Err(Failure::new(format!("{name:?} is not a part of a bundle")));
            }
            if hex::decode(sha256).map_or(0, |digest| digest.len()) != 32 || *size > largest {
                return Err(Failure::new(format!("size or digest of {name} cannot be")));
            }
            if !names.insert(name.as_str()) {
                return Err(Failure::new(format!("{name} is listed twice")));
            }
        }
        match [COMMITS, LOCK, CACHE].into_iter().find(|name| !names.contains(name)) {
            Some(missing) => Err(Failure::new(format!("{missing} is not listed"))),
            None => Ok(()),
        }
    }

    /// Refuses an interpreter for which the packages are not made.
    ///
    /// # Errors
    /// It has a different implementation, version, ABI or platform.
    pub fn fit(&self, interpreter: &Interpreter) -> Outcome<()> {
        let here = Platform::of(interpreter);
        if here == self.platform {
            return Ok(());
        }
        Err(Failure::new(format!("the bundle is for {}, and this machine has {here}", self.platform))
            .hint("make it on a machine like this one")
            .hint("or name the interpreter that it is for: python.interpreter in the host's refresh.toml")
            .command("ladylinux-refresh bundle create --output FILE", &[]))
    }
}

/// Returns whether a bundle can contain a member of this name: no name leads out of a directory, and all names are
/// short.
fn is_known(name: &str) -> bool {
    let is_plain = |word: &str| {
        (1..80).contains(&word.len())
            && !word.starts_with('.')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    [COMMITS, CACHE, LOCK].contains(&name) || name.strip_prefix(TOOLS).is_some_and(is_plain)
}

/// Returns the checksum line of the header in the form of `sha256sum -c`.
pub(super) fn digest_line(sha256: &str) -> String {
    format!("{sha256}  {HEADER}\n")
}

/// Returns the block before a member.
///
/// # Errors
/// The name has more than 100 bytes, or leads out of a directory.
pub(super) fn block(name: &str, size: u64) -> Outcome<tar::Header> {
    let context = || format!("{name:?} is not a part of a bundle");
    let mut block = tar::Header::new_ustar();
    block.set_path(name).context(context)?;
    block.set_entry_type(tar::EntryType::Regular);
    block.set_mode(0o644);
    block.set_uid(0);
    block.set_gid(0);
    block.set_mtime(0);
    block.set_size(size);
    for set in [tar::Header::set_username, tar::Header::set_groupname] {
        set(&mut block, "root").context(context)?;
    }
    for set in [tar::Header::set_device_major, tar::Header::set_device_minor] {
        set(&mut block, 0).context(context)?;
    }
    block.set_cksum();
    // POSIX has six digits, a zero byte and a blank; the library writes seven digits.
    let sum = format!("{:06o}\0 ", block.cksum().context(context)?);
    block.as_old_mut().cksum.copy_from_slice(sum.as_bytes());
    Ok(block)
}

/// Describes a block that is not the expected one.
pub(super) fn describe(block: &tar::Header) -> String {
    if block.as_bytes().iter().all(|byte| *byte == 0) {
        return "the end".to_owned();
    }
    if block.as_ustar().is_none() {
        return "an entry that is not a member".to_owned();
    }
    let name = format!("{:?}", String::from_utf8_lossy(&block.path_bytes()));
    match block.entry_type() {
        tar::EntryType::Regular => name,
        tar::EntryType::Link => format!("{name}, a hard link"),
        tar::EntryType::Symlink => format!("{name}, a symbolic link"),
        tar::EntryType::Char | tar::EntryType::Block => format!("{name}, a device"),
        tar::EntryType::Directory => format!("{name}, a directory"),
        kind => format!("{name}, of the kind {:?}", char::from(kind.as_byte())),
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
            assert!(refused.chain()[1].contains("not a part of a bundle"), "{name}: {refused:?}");
        }
    }

    #[test]
    fn members_that_are_missing_duplicate_or_too_large_are_refused() {
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
    fn a_newer_version_is_reported_as_newer_whatever_its_content() {
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

    #[test]
    fn a_block_names_its_member_and_carries_its_own_sum() {
        let bytes = *block("lock.json", 0o1234).unwrap().as_bytes();
        assert_eq!(&bytes[..10], b"lock.json\0");
        assert_eq!(&bytes[124..136], b"00000001234\0");
        let mut summed = bytes;
        summed[148..156].fill(b' ');
        let sum: u32 = summed.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(&bytes[148..156], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(block("a", LARGEST).unwrap().entry_size().unwrap(), LARGEST);
    }

    #[test]
    fn an_entry_that_is_not_a_regular_file_is_named_by_its_kind() {
        for (kind, word) in [
            (b'0', "\"x\""),
            (b'2', "symbolic link"),
            (b'1', "hard link"),
            (b'3', "device"),
            (b'L', "kind 'L'"),
        ] {
            let mut block = block("x", 0).unwrap();
            block.as_mut_bytes()[156] = kind;
            assert!(describe(&block).contains(word), "{}", describe(&block));
        }
        assert_eq!(describe(tar::Header::from_byte_slice(&[0; 512])), "the end");
        assert_eq!(describe(tar::Header::from_byte_slice(&[7; 512])), "an entry that is not a member");
    }
}
