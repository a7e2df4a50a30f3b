//! Damaged, foreign and malicious bundles are refused, and nothing is touched.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BLOCK, Parts, block, create, cut_off, follower, from_bundle, offline};
use crate::host;
use crate::host::Host;
use ladylinux_refresh::bundle;
use serde_json::Value;

/// The parts that a refused run leaves unchanged.
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

/// Asserts that a bundle is refused with these texts, and that nothing was touched.
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

/// Asserts that a bundle is refused if its environment is built again.
#[track_caller]
fn refused_again(host: &Host, file: &Path, words: &[&str]) {
    refused(host, file, &["--always-rebuild-venv"], words);
    // This machine has the lock of the bundle by now.
    refresh_system::disk::remove_tree(&host.layout.locks()).unwrap();
}

/// Returns the position of `needle` in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap()
}

#[test]
fn a_bundle_that_differs_by_one_byte_or_ends_early_is_refused() {
    let maker = Host::running();
    let file = create(&maker, "a.bundle", &[]);
    let small = maker.beside("small.bundle");
    Parts::of(&file).without_uv().write(&small);
    let whole = fs::read(&small).unwrap();
    bundle::examine(&small).unwrap();
    let bad = maker.beside("bad.bundle");
    // Every kind of byte is changed: the step shares no factor with the size of a block.
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
    // The unchanged bundle is accepted.
    maker.tool(from_bundle(&small, &[])).expect(0);
}

#[test]
fn a_foreign_file_or_a_bundle_for_another_host_is_refused_with_the_reason() {
    let maker = Host::running();
    let file = create(&maker, "a.bundle", &[]);
    let parts = Parts::of(&file).without_uv();
    let bad = maker.beside("bad.bundle");

    refused(&maker, &maker.beside("missing"), &[], &["cannot read"]);
    refused(&maker, maker.layout.root(), &[], &["not a regular file"]);
    refused(&maker, Path::new("/dev/zero"), &[], &["not a regular file"]);
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
fn a_malicious_bundle_is_refused_before_anything_of_it_is_used() {
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
    // Names that lead out of the directory, listed or not.
    for name in ["../escaped", "/tmp/escaped", "tools/../../escaped", "cache.tar/x"] {
        settled(&|parts| parts.members.push((name.to_owned(), b"x".to_vec())));
        refused(&maker, &bad, &[], &["not a part of a bundle", name]);
    }
    // Listed and missing; present and not listed.
    with(&|parts| drop(parts.members.pop()));
    refused(&maker, &bad, &[], &["is cut"]);
    with(&|parts| parts.members.push(("tools/more".to_owned(), b"x".to_vec())));
    refused(&maker, &bad, &[], &["has been altered", "follows after its end"]);
    settled(&|parts| parts.members.retain(|(name, _)| name != "lock.json"));
    refused(&maker, &bad, &[], &["lock.json is not listed"]);
    // An entry that is not a regular file, in place of one.
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
    // Sizes that do not match the content.
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
    // All digests are right, and the content is different.
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
    refused_again(&maker, &bad, &["does not match its hash"]);
    // An archive whose entries lead out of the directory, or a file that is not an archive.
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
    maker.tool(from_bundle(&bad, &[])).expect(0).prints("which this version does not use");
}

#[test]
fn another_uv_than_the_pinned_one_in_a_bundle_is_refused() {
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
    // Without uv there is no attempt to use the network either.
    Parts::of(&file).without_uv().write(&bad);
    refused(&host, &bad, &["--always-rebuild-venv"], &["neither this machine nor the bundle has uv"]);
    offline(&host, from_bundle(&file, &["--always-rebuild-venv"])).expect(0);
}

#[test]
fn an_older_or_unrelated_bundle_is_refused_without_its_option() {
    let maker = Host::running();
    let old = create(&maker, "old.bundle", &[]);
    let first = maker.head();
    maker.push(&[("version.txt", "two\n")]);
    maker.tool(["run"]).expect(0);
    refused(&maker, &old, &[], &["older than the deployed version", "--allow-older"]);
    refused(&maker, &old, &["--no-stage"], &["older than the deployed version", "--allow-older"]);
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
