//! The real requirements of LadyLinux: built, verified and switched to, and the same on two installations, one of which
//! has no network.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests lay out files and start programs")]

use crate::host;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use host::{Host, SERVER};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The requirements of a real LadyLinux: 15 pins of 14 packages, without hashes.
const REQUIREMENTS: &str = include_str!("../data/ladylinux-requirements.txt");

/// The modules that it imports from them.
const MODULES: &str = "import fastapi, starlette, uvicorn, qdrant_client, psutil, jinja2, requests, httpx, numpy\n\
                       import multipart, watchdog.observers, grpc, grpc_tools.protoc, websockets, uvloop, httptools";

/// An installation that runs in the environment of these requirements.
fn installed(host: Host) -> Host {
    host.push(&[("server.py", SERVER), ("version.txt", "one\n")]);
    host.init();
    host.push(&[("requirements.txt", REQUIREMENTS)]);
    host.tool(["run"]).expect(0);
    host
}

/// Returns the `status --json` of the installation.
fn status(host: &Host) -> Value {
    serde_json::from_str(&host.tool(["status", "--json"]).expect(0).out).unwrap()
}

/// Every file of the installed packages that does not describe the installation itself, and its digest.
fn contents(host: &Host) -> BTreeMap<String, String> {
    fn gather(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let of_the_installation =
                ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "RECORD"];
            let file = name.rsplit('/').next().unwrap();
            if path.is_dir() {
                gather(root, &path, found);
            } else if !of_the_installation.contains(&file)
                && path.extension().is_none_or(|ending| ending != "pyc")
                && !name.starts_with("_virtualenv.")
            {
                let digest = Sha256::digest(fs::read(&path).unwrap());
                found.insert(name, digest.iter().map(|byte| format!("{byte:02x}")).collect());
            }
        }
    }
    let lib = host.layout.venv().canonicalize().unwrap().join("lib");
    let site = fs::read_dir(lib).unwrap().next().unwrap().unwrap().path().join("site-packages");
    let mut found = BTreeMap::new();
    gather(&site, &site, &mut found);
    found
}

#[test]
fn rw_5_3_rw_8_2_the_requirements_of_ladylinux_are_built_verified_and_the_same_on_two_installations() {
    let first = installed(Host::bare());
    let (report, found) = (first.report(), status(&first));
    assert_eq!(report["environment"]["built"], true);
    assert!(report["environment"]["packages"].as_u64() > Some(30), "{report:#}");
    assert_eq!(first.answer().unwrap()["environment"], report["environment"]["name"]);
    assert_eq!(found["environment_name"], report["environment"]["name"]);
    assert_eq!(found["contamination"], Value::Null);
    assert_eq!(found["lock"]["not_reproducible"], Value::Null, "{found:#}");
    first.tool(["verify", "--environment"]).expect(0);
    let import = std::process::Command::new(first.layout.venv().join("bin/python"))
        .args(["-I", "-B", "-c", MODULES])
        .output()
        .unwrap();
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));

    // The lock of the first installation, on another one that can reach no index.
    let second = Host::bare();
    second.configure_python("index_url = \"http://127.0.0.1:9/simple\"");
    second.push(&[("server.py", SERVER), ("version.txt", "one\n")]);
    second.init();
    let lock = first.tool(["lock"]).expect(0).out;
    second.push(&[("pylock.toml", &lock)]);
    second.tool(["run"]).expect(0);
    let contents = [&first, &second].map(contents);
    assert!(contents[0].len() > 1000);
    let names = contents[0].keys().chain(contents[1].keys());
    let differs: Vec<&String> =
        names.filter(|name| contents[0].get(*name) != contents[1].get(*name)).collect();
    assert!(differs.is_empty(), "{differs:#?}");
    let digests = [&first, &second].map(|host| status(host)["digest"].clone());
    assert!(digests[0].as_str().is_some_and(|digest| digest.len() == 64), "{digests:?}");
    assert_eq!(digests[0], digests[1]);
    assert_eq!(first.report()["environment"]["digest"], digests[0]);

    // A commit that changes none of it finds everything up to date.
    first.push(&[("version.txt", "two\n")]);
    first.tool(["run"]).expect(0);
    assert_eq!(first.report()["environment"]["built"], false);
    assert_eq!(status(&first)["digest"], digests[0]);
}
