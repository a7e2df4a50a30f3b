//! Bundles: one host makes a file, and another host without any network is refreshed from it. Every invalid file is
//! refused with nothing touched.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]
#![allow(clippy::disallowed_macros, reason = "a test reports skipped parts")]

mod offline;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{Host, Ran, git, ran};
use crate::schema;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512;

/// Nothing listens or answers there.
const DEAD: &str = "http://127.0.0.1:9";

/// A host that follows the repository of another one.
fn follower(maker: &Host) -> Host {
    let host = Host::bare();
    let settings = host.settings("").replace(&host.url(), &maker.url());
    fs::write(host.layout.host_file(), settings).unwrap();
    host.init();
    host.tool(["run"]).expect(0);
    host
}

/// Removes everything that a host has from the network, and the ways to the network.
fn cut_off(host: &Host) {
    let settings = fs::read_to_string(host.layout.host_file()).unwrap();
    let start = settings.find("git://").unwrap();
    let end = start + settings[start..].find('"').unwrap();
    let dead = settings.replace(&settings[start..end], "git://127.0.0.1:9/app.git");
    fs::write(host.layout.host_file(), dead).unwrap();
    // The shared cache is behind a link, which alone is removed.
    for directory in [host.layout.uv(), host.layout.locks()] {
        refresh_system::disk::remove_tree(&directory).unwrap();
    }
}

/// Runs the program with every way to an index leading nowhere.
fn offline<A: AsRef<std::ffi::OsStr>>(host: &Host, arguments: impl IntoIterator<Item = A>) -> Ran {
    ran(cut_off_command(host, arguments).output().unwrap())
}

fn cut_off_command<A: AsRef<std::ffi::OsStr>>(
    host: &Host,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = host.command(arguments);
    for name in
        ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"]
    {
        command.env(name, DEAD);
    }
    for name in ["PIP_EXTRA_INDEX_URL", "UV_INDEX"] {
        command.env_remove(name);
    }
    command
}

fn create(host: &Host, name: &str, more: &[&str]) -> PathBuf {
    let file = host.beside(name);
    let mut arguments = vec!["bundle", "create", "--output", file.to_str().unwrap()];
    arguments.extend(more);
    host.tool(arguments).expect(0).prints("sha256");
    file
}

fn from_bundle<'a>(file: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", "--bundle", file.to_str().unwrap()];
    arguments.extend(more);
    arguments
}

/// A bundle, divided into its members, to be assembled in another way.
#[derive(Clone)]
struct Parts {
    header: Value,
    members: Vec<(String, Vec<u8>)>,
}

impl Parts {
    fn of(file: &Path) -> Self {
        let bytes = fs::read(file).unwrap();
        let (mut at, mut members) = (0, Vec::new());
        while bytes[at] != 0 {
            let text = |from: usize, to: usize| {
                let field = bytes[at + from..at + to].split(|byte| *byte == 0).next().unwrap();
                std::str::from_utf8(field).unwrap().to_owned()
            };
            let (name, size) = (text(0, 100), usize::from_str_radix(&text(124, 136), 8).unwrap());
            members.push((name, bytes[at + BLOCK..at + BLOCK + size].to_vec()));
            at += BLOCK + size.div_ceil(BLOCK) * BLOCK;
        }
        let header = serde_json::from_slice(&members[0].1).unwrap();
        Self { header, members: members.split_off(2) }
    }

    /// Without uv, which is large and not needed by the tests.
    fn without_uv(mut self) -> Self {
        self.members.retain(|(name, _)| !name.starts_with("tools/"));
        self.settle();
        self
    }

    /// Lists the members in the header, with their present sizes and digests.
    fn settle(&mut self) {
        let listed = self.members.iter().map(
            |(name, bytes)| serde_json::json!({ "name": name, "sha256": sha256(bytes), "size": bytes.len() }),
        );
        self.header["members"] = Value::Array(listed.collect());
    }

    fn member(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.members.iter_mut().find(|(known, _)| known == name).unwrap().1
    }

    fn bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.header).unwrap();
        let line = format!("{}  bundle.json\n", sha256(&header)).into_bytes();
        let first = [("bundle.json".to_owned(), header), ("bundle.json.sha256".to_owned(), line)];
        let mut bytes = Vec::new();
        for (name, content) in first.iter().chain(&self.members) {
            bytes.extend(block(name, content.len(), b'0'));
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn write(&self, file: &Path) {
        fs::write(file, self.bytes()).unwrap();
    }
}

/// The block before a member, written a second time here so that the form cannot change unnoticed.
fn block(name: &str, size: usize, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    for at in [108, 116, 329, 337] {
        put(at, b"0000000\0");
    }
    put(100, b"0000644\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000root");
    put(297, b"root");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn rw_8_2_a_bundle_is_an_archive_that_other_programs_can_list_and_check() {
    let maker = Host::running();
    let file = create(&maker, "a.bundle", &["--branch", "main"]);
    let directory = maker.beside("unpacked");
    fs::create_dir(&directory).unwrap();
    let tar = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&directory).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let sums = Command::new("sha256sum")
        .args(["-c", "bundle.json.sha256"])
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(sums.status.success());
    let header: Value = serde_json::from_slice(&fs::read(directory.join("bundle.json")).unwrap()).unwrap();
    for member in header["members"].as_array().unwrap() {
        let bytes = fs::read(directory.join(member["name"].as_str().unwrap())).unwrap();
        assert_eq!(sha256(&bytes), member["sha256"].as_str().unwrap());
    }
    let parts = Parts::of(&file);
    assert_eq!(
        Parts { header: header.clone(), ..parts.clone() }.members.len(),
        header["members"].as_array().unwrap().len()
    );
    git(&maker.work(), ["bundle", "verify", "--quiet", directory.join("commits.bundle").to_str().unwrap()]);
    // The bundle names neither the remote nor the host that made it.
    let whole = fs::read(&file).unwrap();
    for secret in [maker.url(), maker.layout.root().display().to_string()] {
        let lock = parts.clone().member("lock.json").clone();
        for bytes in [&whole[..4 * BLOCK], &lock] {
            assert!(!String::from_utf8_lossy(bytes).contains(&secret), "{secret}");
        }
    }
    let shown = maker.tool(["bundle", "show", file.to_str().unwrap()]).expect(0);
    for text in [maker.head().as_str(), &sha256(&whole), "cache.tar", "commits.bundle"] {
        assert!(shown.out.contains(text), "{text} is missing in\n{}", shown.out);
    }
    let json = maker.tool(["bundle", "show", "--json", file.to_str().unwrap()]).expect(0).out;
    let json = schema::valid(&json, "bundle.schema.json");
    assert_eq!((&json["header"], &json["sha256"]), (&header, &Value::from(sha256(&whole))));
    // An existing file is replaced completely. An entry that is not a file is left alone.
    create(&maker, "a.bundle", &[]);
    maker
        .tool(["bundle", "create", "--output", directory.to_str().unwrap()])
        .expect(3)
        .prints("not a regular file");
    let nowhere = maker.beside("missing/a.bundle");
    let printed = maker.tool(["bundle", "create", "--output", nowhere.to_str().unwrap()]).expect(3);
    assert!(
        printed.err.contains(" does not exist") && printed.err.contains("  hint         mkdir -p "),
        "{}",
        printed.err
    );
    assert!(
        printed.err.contains(" bundle create --output FILE\n") && !printed.all().contains("packing"),
        "{}",
        printed.all()
    );
    maker.tool(["bundle", "create", "--output", file.to_str().unwrap(), "--branch", "none"]).expect(3);
    maker.tool(["bundle", "show", file.to_str().unwrap()]).expect(0);
}
