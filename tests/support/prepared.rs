//! Installations that each test process prepares once and copies for its tests.
//!
//! A copy has another name and other ports. Both have a fixed length, so they are replaced in place, also in byte code
//! and in the index of git. The records of the tool get the digests of the files that have changed by that.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::{Host, SERVER};

/// Returns an installation on which `init` has succeeded, with version `one` of the application.
pub(super) fn initialized() -> Host {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    let original = ORIGINAL.get_or_init(|| {
        let host = Host::bare();
        host.push(&[("server.py", SERVER), ("version.txt", "one\n"), ("requirements.txt", "six==1.16.0\n")]);
        host.init();
        Original::of(host)
    });
    original.copy()
}

/// Returns the same installation after its first refresh. Its service is up.
pub(super) fn refreshed() -> Host {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    let original = ORIGINAL.get_or_init(|| {
        let host = initialized();
        host.tool(["run"]).expect(0);
        host.tool(["service", "stop"]).expect(0);
        Original::of(host)
    });
    let host = original.copy();
    host.tool(["service", "start"]).expect(0);
    let end = Instant::now() + Duration::from_secs(60);
    while host.answer().is_none() {
        assert!(Instant::now() < end, "the copy does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    host
}

/// The content of an installation and of its remote.
struct Original {
    texts: Texts,
    /// Each directory before its content.
    entries: Vec<Entry>,
}

/// The texts that another copy has in their place.
struct Texts {
    name: String,
    port: String,
    git_port: String,
    /// The digest of each entry with such texts, as the tool records it; empty for the others.
    digests: Vec<String>,
}

#[derive(Clone, Copy)]
enum Text {
    Name,
    Port,
    GitPort,
    Digest(usize),
}

struct Entry {
    /// Relative to the directory of the host.
    path: PathBuf,
    mode: u32,
    modified: SystemTime,
    content: Content,
}

enum Content {
    Directory,
    Link(Data),
    File(Data),
    /// uv, which all installations share.
    Uv,
}

/// Bytes, and the offsets at which a copy has other texts.
struct Data {
    bytes: Vec<u8>,
    replaced: Vec<(usize, Text)>,
}

impl Original {
    /// Reads an installation whose service is down, and removes it.
    fn of(mut host: Host) -> Self {
        host.unplug();
        let texts = Texts {
            name: name(&host),
            port: host.port.to_string(),
            git_port: host.git_port.to_string(),
            digests: Vec::new(),
        };
        let mut original = Self { texts, entries: Vec::new() };
        original.read(&host, Path::new(""));
        original.find_digests();
        original
    }

    fn read(&mut self, host: &Host, below: &Path) {
        for entry in fs::read_dir(host.beside("").join(below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            let found = entry.metadata().unwrap();
            let content = if found.is_dir() {
                Content::Directory
            } else if found.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                Content::Link(self.texts.find_in(target.into_os_string().into_vec()))
            } else if super::pool::uv(&host.layout).ends_with(&path) {
                Content::Uv
            } else if found.is_file() {
                Content::File(self.texts.find_in(fs::read(entry.path()).unwrap()))
            } else {
                // A socket belongs to a process of the original.
                continue;
            };
            let (mode, modified) = (found.permissions().mode(), found.modified().unwrap());
            self.entries.push(Entry { path: path.clone(), mode, modified, content });
            if found.is_dir() {
                self.read(host, &path);
            }
        }
    }

    fn find_digests(&mut self) {
        self.texts.digests = self.digests(&self.texts);
        for entry in &mut self.entries {
            let Content::File(data) = &mut entry.content else { continue };
            if entry.path.extension().is_none_or(|end| end != "manifest") {
                continue;
            }
            for (index, digest) in
                self.texts.digests.iter().enumerate().filter(|(_, digest)| !digest.is_empty())
            {
                data.replaced
                    .extend(offsets(&data.bytes, digest).into_iter().map(|at| (at, Text::Digest(index))));
            }
        }
    }

    /// The digest of each entry that contains texts, in a copy with other texts.
    fn digests(&self, texts: &Texts) -> Vec<String> {
        let digest = |entry: &Entry| match &entry.content {
            Content::File(data) if data.is_replaced() => hex(&Sha256::digest(data.with(texts))),
            _ => String::new(),
        };
        self.entries.iter().map(digest).collect()
    }

    fn copy(&self) -> Host {
        let host = Host::served();
        let mut texts = Texts {
            name: name(&host),
            port: host.port.to_string(),
            git_port: host.git_port.to_string(),
            digests: vec!["0".repeat(64); self.entries.len()],
        };
        texts.digests = self.digests(&texts);
        for entry in &self.entries {
            let path = host.beside("").join(&entry.path);
            match &entry.content {
                Content::Directory => fs::create_dir_all(&path).unwrap(),
                Content::Link(target) => symlink(OsStr::from_bytes(&target.with(&texts)), &path).unwrap(),
                Content::Uv => super::pool::lend_uv(&host.layout),
                Content::File(data) => {
                    fs::write(&path, data.with(&texts)).unwrap();
                    entry.restore(&path);
                }
            }
        }
        // Last, since their times and permissions are those that the writes above need.
        for entry in self.entries.iter().rev().filter(|entry| matches!(entry.content, Content::Directory)) {
            entry.restore(&host.beside("").join(&entry.path));
        }
        host
    }
}

impl Texts {
    /// Finds the texts of this host in bytes.
    fn find_in(&self, bytes: Vec<u8>) -> Data {
        let mut replaced: Vec<_> =
            offsets(&bytes, &self.name).into_iter().map(|at| (at, Text::Name)).collect();
        // The same digits elsewhere, as in a digest, are no port.
        if std::str::from_utf8(&bytes).is_ok() {
            for before in ["127.0.0.1:", "PORT=", "\""] {
                for (port, text) in [(&self.port, Text::Port), (&self.git_port, Text::GitPort)] {
                    let found = offsets(&bytes, &format!("{before}{port}"));
                    replaced.extend(found.into_iter().map(|at| (at + before.len(), text)));
                }
            }
        }
        Data { bytes, replaced }
    }

    fn get(&self, text: Text) -> &str {
        match text {
            Text::Name => &self.name,
            Text::Port => &self.port,
            Text::GitPort => &self.git_port,
            Text::Digest(entry) => &self.digests[entry],
        }
    }
}

impl Data {
    fn is_replaced(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// The bytes with the texts of another host.
    fn with(&self, texts: &Texts) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for (at, text) in &self.replaced {
            let text = texts.get(*text).as_bytes();
            bytes[*at..at + text.len()].copy_from_slice(text);
        }
        bytes
    }
}

impl Entry {
    /// Gives a file or directory its time and its mode.
    fn restore(&self, path: &Path) {
        fs::File::open(path).unwrap().set_modified(self.modified).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(self.mode)).unwrap();
    }
}

/// The name of the directory of a host, which is different for each one.
fn name(host: &Host) -> String {
    host.directory.path().file_name().unwrap().to_str().unwrap().to_owned()
}

fn offsets(bytes: &[u8], text: &str) -> Vec<usize> {
    let text = text.as_bytes();
    let first = bytes.iter().enumerate().filter(|(_, byte)| **byte == text[0]);
    first.map(|(at, _)| at).filter(|at| bytes[*at..].starts_with(text)).collect()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
