//! Bundles: one host makes a file, another one without any network is refreshed from it; and every file that is not what
//! it should be is refused with nothing touched.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests lay out what the program finds")]
#![allow(clippy::disallowed_macros, reason = "a test says what it leaves out")]

use crate::host;
use crate::schema;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::{Host, Ran, git, ran};
use ladylinux_refresh::bundle;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 512;
/// Nothing listens there, and nothing ever answers there.
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

/// Takes everything away that a host has from the network, and the ways to it.
fn cut_off(host: &Host) {
    let settings = fs::read_to_string(host.layout.host_file()).unwrap();
    let start = settings.find("git://").unwrap();
    let end = start + settings[start..].find('"').unwrap();
    let dead = settings.replace(&settings[start..end], "git://127.0.0.1:9/app.git");
    fs::write(host.layout.host_file(), dead).unwrap();
    // The shared cache is behind a link, which alone is removed.
    for directory in [host.layout.uv(), host.layout.locks()] {
        ladylinux_refresh::disk::remove_tree(&directory).unwrap();
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
    host.tool(arguments).expect(0).says("sha256");
    file
}

fn from_bundle<'a>(file: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", "--bundle", file.to_str().unwrap()];
    arguments.extend(more);
    arguments
}

/// The files of the live environment that every machine has alike: path below `site-packages`, and content.
fn installed(host: &Host) -> BTreeMap<PathBuf, Vec<u8>> {
    fn gather(top: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let own = ["RECORD", "INSTALLER", "REQUESTED", "uv_cache.json", "direct_url.json", "__pycache__"];
            if own.contains(&name) || name.starts_with("_virtualenv") {
                continue;
            }
            if path.is_dir() {
                gather(top, &path, found);
            } else {
                found.insert(path.strip_prefix(top).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let lib = fs::canonicalize(host.layout.venv()).unwrap().join("lib");
    let python = fs::read_dir(&lib).unwrap().next().unwrap().unwrap().path();
    let mut found = BTreeMap::new();
    gather(&python.join("site-packages"), &python.join("site-packages"), &mut found);
    found
}

/// What a refused run leaves as it was.
fn picture(host: &Host) -> (String, PathBuf, Option<Value>, bool, Value) {
    let status: Value = serde_json::from_slice(&fs::read(host.layout.status_file()).unwrap()).unwrap();
    (
        host.head(),
        fs::read_link(host.layout.venv()).unwrap(),
        host.answer(),
        host.fenced(),
        status["deployed"].clone(),
    )
}

/// Insists that a bundle is refused in these words, and that nothing was touched.
#[track_caller]
fn refused(host: &Host, file: &Path, more: &[&str], words: &[&str]) {
    let before = picture(host);
    let ran = host.tool(from_bundle(file, more)).expect(3);
    for word in words {
        assert!(ran.all().contains(word), "{word:?} is missing in\n{}", ran.all());
    }
    assert!(ran.all().contains("  next  "), "{}", ran.all());
    assert_eq!(picture(host), before);
    assert!(!host.layout.cache().join("bundle").exists(), "something of the bundle was left");
}

/// Insists that a bundle is refused where its environment is built again.
#[track_caller]
fn refused_anew(host: &Host, file: &Path, words: &[&str]) {
    refused(host, file, &["--always-rebuild-venv"], words);
    // The lock of the bundle is one of this machine by now.
    ladylinux_refresh::disk::remove_tree(&host.layout.locks()).unwrap();
}

/// A bundle, taken apart as the form says, to be put together differently.
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

    /// Without uv, which is large and in no test's way.
    fn without_uv(mut self) -> Self {
        self.members.retain(|(name, _)| !name.starts_with("tools/"));
        self.settle();
        self
    }

    /// Lists the members in the header, as they are.
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

/// The block before a member, written down a second time so that the form cannot change unnoticed.
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

/// Where `needle` stands in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap()
}

#[test]
fn rw_5_3_a_machine_without_a_network_becomes_the_same_from_a_bundle() {
    let maker = Host::running();
    let host = follower(&maker);
    cut_off(&host);
    let commit =
        maker.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\niniconfig==2.0.0\n")]);
    let file = create(&maker, "two.bundle", &[]);
    assert_ne!(maker.head(), commit, "making a bundle refreshes nothing");
    host.tool(["run"]).expect(3).says("cannot be reached");

    let planned = offline(&host, ["plan", "--bundle", file.to_str().unwrap()]).expect(0);
    assert!(planned.out.contains("~ six ==1.16.0 → ==1.17.0"), "{}", planned.out);
    for arguments in [&["plan", "--json"][..], &["run", "--dry-run", "--format", "json"]] {
        let planned = offline(&host, arguments.iter().chain(&["--bundle", file.to_str().unwrap()])).expect(0);
        assert!(planned.err.contains("reading the bundle"), "{}", planned.err);
        let json: Value = serde_json::from_str(&planned.out).expect(&planned.out);
        assert_eq!(json["commit"], commit.as_str());
    }
    assert!(!host.layout.cache().join("bundle").exists());

    offline(&host, from_bundle(&file, &[])).expect(0).says("Refreshed").says("bundle ");
    assert_eq!((host.head(), host.version().as_deref()), (commit.clone(), Some("two")));
    let report = host.report();
    assert_eq!(report["bundle"]["file"], file.to_str().unwrap());
    assert_eq!(report["bundle"]["sha256"], sha256(&fs::read(&file).unwrap()));
    maker.tool(["run"]).expect(0);
    assert_eq!(maker.report()["bundle"], Value::Null);
    let (there, here) = (installed(&maker), installed(&host));
    assert!(here.len() > 5, "{:?}", here.keys());
    assert_eq!(here, there);
    let digest = |host: &Host| host.report()["environment"].get("digest").cloned();
    assert_eq!(digest(&host), digest(&maker));

    offline(&host, from_bundle(&file, &["--if-changed"])).expect(0).says("Already current");
    // Nothing of the file is needed any more.
    fs::remove_file(&file).unwrap();
    offline(&host, ["rollback"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("one"));
    assert!(!host.layout.cache().join("bundle").exists());
}

#[test]
fn rw_5_3_a_bundle_serves_where_there_is_no_network_at_all() {
    let alone = |inner: &[&str]| {
        let mut command = Command::new("unshare");
        let user = if rustix::process::geteuid().is_root() { "--net" } else { "--map-root-user" };
        command.args([user, "--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).args(inner);
        command.stdin(Stdio::null());
        command
    };
    if !alone(&["true"]).output().is_ok_and(|done| done.status.success()) {
        eprintln!("left out: this machine makes no network namespaces");
        return;
    }
    let maker = Host::running();
    let host = follower(&maker);
    cut_off(&host);
    let commit = maker.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\n")]);
    let file = create(&maker, "two.bundle", &[]);
    let reach = "import socket; socket.create_connection(('127.0.0.1', int(__import__('sys').argv[1])), 5)";
    let port = maker.url().split([':', '/']).nth(4).unwrap().to_owned();
    let reached = alone(&["python3", "-c", reach, &port]).output().unwrap();
    assert!(!reached.status.success(), "the remote can be reached from in there");

    // The service runs in another network, where this run cannot ask it.
    host.tool(["service", "stop"]).expect(0);
    let program = host::program();
    let mut words = vec![program.to_str().unwrap(), "--root", host.layout.root().to_str().unwrap()];
    words.extend(from_bundle(&file, &[]));
    let mut command = alone(&words);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    ran(command.output().unwrap()).expect(0).says("Refreshed");
    assert_eq!(host.head(), commit);
    assert_eq!(host.report()["service"]["state"], "running");
    host.tool(["service", "stop"]).expect(0);
}

#[test]
fn rw_8_2_a_bundle_is_an_archive_that_others_can_look_into_and_check() {
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
    // Neither the remote nor where it is made is told.
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
    let json = schema::told(&json, "bundle.schema.json");
    assert_eq!((&json["header"], &json["sha256"]), (&header, &Value::from(sha256(&whole))));
    // A file that is there is replaced whole; what is no file is left alone.
    create(&maker, "a.bundle", &[]);
    maker
        .tool(["bundle", "create", "--output", directory.to_str().unwrap()])
        .expect(3)
        .says("no regular file");
    let nowhere = maker.beside("missing/a.bundle");
    let said = maker.tool(["bundle", "create", "--output", nowhere.to_str().unwrap()]).expect(3);
    assert!(
        said.err.contains("there is no directory ") && said.err.contains("  try        mkdir -p "),
        "{}",
        said.err
    );
    assert!(
        said.err.contains(" bundle create --output FILE\n") && !said.all().contains("packing"),
        "{}",
        said.all()
    );
    maker.tool(["bundle", "create", "--output", file.to_str().unwrap(), "--branch", "none"]).expect(3);
    maker.tool(["bundle", "show", file.to_str().unwrap()]).expect(0);
}

#[test]
fn a_bundle_that_differs_by_one_byte_or_ends_early_is_never_taken() {
    let maker = Host::running();
    let file = create(&maker, "a.bundle", &[]);
    let small = maker.beside("small.bundle");
    Parts::of(&file).without_uv().write(&small);
    let whole = fs::read(&small).unwrap();
    bundle::examine(&small).unwrap();
    let bad = maker.beside("bad.bundle");
    // Every kind of byte is met: the step shares no factor with the size of a block.
    for at in (0..whole.len()).step_by(29) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&bad, &bytes).unwrap();
        assert!(bundle::examine(&bad).is_err(), "byte {at} of {}", whole.len());
    }
    for end in (0..whole.len()).step_by(211).chain([whole.len() - 1]) {
        fs::write(&bad, &whole[..end]).unwrap();
        assert!(bundle::examine(&bad).is_err(), "cut at {end} of {}", whole.len());
    }
    fs::write(&bad, [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(bundle::examine(&bad).is_err(), "something more at the end");

    let before_all = maker.runs();
    for end in [600, 3000, whole.len() / 2, whole.len() - BLOCK, whole.len() - 1] {
        fs::write(&bad, &whole[..end]).unwrap();
        refused(&maker, &bad, &[], &["is cut", "sha256sum", "copy it again"]);
    }
    for (needle, word) in [
        (&b"\"branch\""[..], "its header"),
        (b"# v2 git bundle", "commits.bundle"),
        (b"\"packages\": [", "lock.json"),
        (b"archive-v0/", "cache.tar"),
    ] {
        let mut bytes = whole.clone();
        bytes[find(&whole, needle) + 3] ^= 1;
        fs::write(&bad, &bytes).unwrap();
        for way in [&[][..], &["--no-stage"], &["--if-changed"]] {
            refused(&maker, &bad, way, &["has been altered", word, "copy it again"]);
        }
    }
    assert!(maker.runs().len() < before_all.len() + 40);
    // The untouched one is good.
    maker.tool(from_bundle(&small, &[])).expect(0);
}

#[test]
fn what_is_no_bundle_or_one_for_elsewhere_is_refused_by_name() {
    let maker = Host::running();
    let file = create(&maker, "a.bundle", &[]);
    let parts = Parts::of(&file).without_uv();
    let bad = maker.beside("bad.bundle");

    refused(&maker, &maker.beside("missing"), &[], &["cannot read"]);
    refused(&maker, maker.layout.root(), &[], &["no regular file"]);
    refused(&maker, Path::new("/dev/zero"), &[], &["no regular file"]);
    for bytes in [&b""[..], b"hello", &[0; 4096], &[7; 4096]] {
        fs::write(&bad, bytes).unwrap();
        refused(&maker, &bad, &[], &["no bundle of this program", "bundle create"]);
    }
    fs::write(&bad, [&block("notes.txt", 0, b'0')[..], &[0; 1024]].concat()).unwrap();
    refused(&maker, &bad, &[], &["no bundle of this program"]);

    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts.clone();
        change(&mut parts);
        parts.write(&bad);
    };
    with(&|parts| parts.header["schema"] = 3.into());
    refused(&maker, &bad, &[], &["of version 3", "install the version"]);
    for (key, value) in
        [("python", "2.7"), ("platform", "linux-riscv64"), ("abi", "other"), ("implementation", "pypy")]
    {
        with(&|parts| parts.header["platform"][key] = value.into());
        refused(&maker, &bad, &[], &["the bundle is for", value, "bundle create"]);
    }
    with(&|parts| parts.header["definitions"] = "0".repeat(64).into());
    refused(&maker, &bad, &[], &["other definitions"]);
    with(&|parts| parts.header["commit"] = "0".repeat(40).into());
    refused(&maker, &bad, &[], &["not the commits that the header names"]);
    refused(&maker, &bad, &["other"], &["brings branch main, not other"]);
}

#[test]
fn a_bundle_made_to_do_harm_is_refused_before_anything_of_it_is_used() {
    let maker = Host::running();
    let file = create(&maker, "a.bundle", &[]);
    let parts = Parts::of(&file).without_uv();
    let bad = maker.beside("bad.bundle");
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts.clone();
        change(&mut parts);
        parts.write(&bad);
    };
    let settled = |change: &dyn Fn(&mut Parts)| {
        with(&|parts| {
            change(parts);
            parts.settle();
        });
    };
    // Names that lead elsewhere, listed or not.
    for name in ["../escaped", "/tmp/escaped", "tools/../../escaped", "cache.tar/x"] {
        settled(&|parts| parts.members.push((name.to_owned(), b"x".to_vec())));
        refused(&maker, &bad, &[], &["nothing that a bundle holds", name]);
    }
    // Listed and not there, there and not listed.
    with(&|parts| drop(parts.members.pop()));
    refused(&maker, &bad, &[], &["is cut"]);
    with(&|parts| parts.members.push(("tools/more".to_owned(), b"x".to_vec())));
    refused(&maker, &bad, &[], &["has been altered", "follows after its end"]);
    settled(&|parts| parts.members.retain(|(name, _)| name != "lock.json"));
    refused(&maker, &bad, &[], &["lock.json is not listed"]);
    // What is no plain file, in the place of one.
    for (kind, word) in
        [(b'2', "a symbolic link"), (b'1', "a hard link"), (b'3', "a device"), (b'5', "a directory")]
    {
        let mut bytes = parts.bytes();
        let at = find(&bytes, b"lock.json\0");
        bytes[at..at + BLOCK].copy_from_slice(&block(
            "lock.json",
            parts.clone().member("lock.json").len(),
            kind,
        ));
        fs::write(&bad, bytes).unwrap();
        refused(&maker, &bad, &[], &["has been altered", word]);
    }
    // Sizes that are not there.
    for size in [1_u64 << 33, 1 << 40, u64::MAX] {
        with(&|parts| parts.header["members"][0]["size"] = size.into());
        refused(&maker, &bad, &[], &["size or digest"]);
    }
    with(&|parts| parts.header["members"][0]["size"] = ((1_u64 << 33) - 1).into());
    refused(&maker, &bad, &[], &["is cut"]);
    let mut bytes = parts.bytes();
    bytes[..BLOCK].copy_from_slice(&block("bundle.json", (1 << 33) - 1, b'0'));
    fs::write(&bad, bytes).unwrap();
    refused(&maker, &bad, &[], &["has been altered", "the size of its header"]);
    // All digests right, and the content another.
    settled(&|parts| *parts.member("commits.bundle") = b"# v2 git bundle\nnonsense".to_vec());
    refused(&maker, &bad, &[], &["the commits of the bundle", "bundle create"]);
    settled(&|parts| {
        let end = parts.member("commits.bundle").len();
        parts.member("commits.bundle")[end - 40] ^= 1;
    });
    refused(&maker, &bad, &[], &["git cannot take them in"]);
    settled(&|parts| *parts.member("lock.json") = b"{}".to_vec());
    refused(&maker, &bad, &[], &["the lock is not understood"]);
    let lock = |change: &dyn Fn(&mut Value)| {
        settled(&|parts| {
            let mut lock: Value = serde_json::from_slice(parts.member("lock.json")).unwrap();
            change(&mut lock);
            *parts.member("lock.json") = serde_json::to_vec(&lock).unwrap();
        });
    };
    lock(&|lock| lock["packages"][0]["name"] = "../../../escaped".into());
    refused(&maker, &bad, &[], &["the lock names", "escaped"]);
    lock(&|lock| {
        let text = lock["document"].as_str().unwrap().replace("sha256 = \"", "sha256 = \"0");
        lock["document"] = text.into();
    });
    refused(&maker, &bad, &[], &["the lock names the hash"]);
    lock(&|lock| {
        let known =
            lock["packages"][0]["hashes"][0].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let document = lock["document"].as_str().unwrap().replace(&known, &"0".repeat(64));
        lock["document"] = document.into();
        lock["packages"][0]["hashes"] = Value::Array(vec![format!("sha256:{}", "0".repeat(64)).into()]);
    });
    refused_anew(&maker, &bad, &["not what its hash says"]);
    // An archive that leads elsewhere, or is none.
    settled(&|parts| *parts.member("cache.tar") = vec![7; 4 * BLOCK]);
    refused(&maker, &bad, &[], &["cannot unpack"]);
    settled(&|parts| {
        let mut archive = block("../../../../escaped", 1, b'0').to_vec();
        archive.extend([b'x'; BLOCK]);
        archive.extend([0; 2 * BLOCK]);
        *parts.member("cache.tar") = archive;
    });
    let escaped = maker.layout.store().join("escaped");
    drop(maker.tool(from_bundle(&bad, &[])));
    assert!(!escaped.exists() && !maker.layout.root().join("escaped").exists());
    settled(&|parts| parts.members.push(("tools/uv-0.0.1".to_owned(), b"#!/bin/sh\n".to_vec())));
    maker.tool(from_bundle(&bad, &[])).expect(0).says("which this version does not use");
}

#[test]
fn uv_in_a_bundle_has_to_be_the_pinned_one() {
    let maker = Host::running();
    let host = follower(&maker);
    let file = create(&maker, "a.bundle", &[]);
    cut_off(&host);
    let mut parts = Parts::of(&file);
    let name =
        parts.members.iter().map(|(name, _)| name).find(|name| name.starts_with("tools/uv")).unwrap().clone();
    *parts.member(&name) = b"#!/bin/sh\necho uv 0.13.9\n".to_vec();
    parts.settle();
    let bad = host.beside("bad.bundle");
    parts.write(&bad);
    refused(&host, &bad, &["--always-rebuild-venv"], &["not the pinned uv"]);
    // Without uv the network is not tried either.
    Parts::of(&file).without_uv().write(&bad);
    refused(&host, &bad, &["--always-rebuild-venv"], &["neither this machine nor the bundle has uv"]);
    offline(&host, from_bundle(&file, &["--always-rebuild-venv"])).expect(0);
}

#[test]
fn a_step_back_and_a_foreign_history_have_to_be_meant() {
    let maker = Host::running();
    let old = create(&maker, "old.bundle", &[]);
    let first = maker.head();
    maker.push(&[("version.txt", "two\n")]);
    maker.tool(["run"]).expect(0);
    refused(&maker, &old, &[], &["older than what is deployed", "--allow-older"]);
    refused(&maker, &old, &["--no-stage"], &["older than what is deployed", "--allow-older"]);
    maker.tool(from_bundle(&old, &["--allow-older"])).expect(0);
    assert_eq!((maker.head(), maker.version().as_deref()), (first, Some("one")));

    let other = Host::bare();
    other.push(&[("server.py", host::SERVER), ("version.txt", "other\n"), ("mark.txt", "x\n")]);
    other.init();
    let foreign = create(&other, "foreign.bundle", &[]);
    refused(&maker, &foreign, &[], &["of another repository", "--allow-unrelated"]);
    maker.tool(from_bundle(&foreign, &["--allow-unrelated"])).expect(0);
    assert_eq!(maker.version().as_deref(), Some("other"));
    for flag in ["--allow-older", "--allow-unrelated"] {
        maker.tool(["run", flag]).expect(2);
    }
}

#[test]
fn a_bundle_of_another_branch_is_a_run_of_that_branch_in_both_modes() {
    let maker = Host::running();
    let host = follower(&maker);
    git(&maker.work(), ["checkout", "--quiet", "-b", "side/work"]);
    let commit = maker.push(&[("version.txt", "side\n")]);
    // No branch of that name can stand beside it; the bundle does not care what the remote has.
    let file = create(&maker, "side.bundle", &["--branch", "side/work"]);
    cut_off(&host);
    for way in [&["--no-stage"][..], &[]] {
        offline(&host, from_bundle(&file, way)).expect(0);
        assert_eq!((host.head(), host.version().as_deref()), (commit.clone(), Some("side")));
        assert_eq!(host.report()["branch"], "side/work");
    }
    // A relative path is the caller's.
    let mut command = cut_off_command(&host, ["run", "--if-changed", "--bundle", "side.bundle"]);
    let ran = ran(command.current_dir(file.parent().unwrap()).output().unwrap());
    ran.expect(0).says("Already current");
    // A mirror that is gone is made again from the bundle.
    ladylinux_refresh::disk::remove_tree(&host.layout.mirror()).unwrap();
    offline(&host, from_bundle(&file, &[])).expect(0);
}
