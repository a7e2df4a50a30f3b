//! A Python that the system replaces after the build of the environment: `status` and the command for apt report it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::host::{Host, pool};

/// Puts a copy of the interpreter of the system beside the host, by a rename as dpkg does.
fn python(host: &Host, name: &str) -> PathBuf {
    let (copy, new) = (host.beside(name), host.beside("new"));
    fs::copy(pool::interpreter().canonicalize().unwrap(), &new).unwrap();
    fs::rename(new, &copy).unwrap();
    copy.canonicalize().unwrap()
}

fn link_to(link: &Path, target: &Path) {
    let _ = fs::remove_file(link);
    symlink(target, link).unwrap();
}

/// Returns the output of the command that apt starts.
#[track_caller]
fn report(host: &Host) -> String {
    host.tool(["status", "--if-python-changed"]).expect(0).out
}

#[track_caller]
fn replaced(host: &Host) -> Value {
    let status: Value = serde_json::from_str(&host.tool(["status", "--json"]).expect(0).out).unwrap();
    status["replaced_python"].clone()
}

#[test]
fn a_replaced_python_is_reported_in_two_lines_and_an_unchanged_one_in_none() {
    let host = Host::new();
    assert_eq!(report(&host), "");
    let (one, two, link) = (python(&host, "one"), python(&host, "two"), host.beside("python-of-host"));
    link_to(&link, &one);
    host.configure_python(&format!("interpreter = {link:?}"));
    host.tool(["run"]).expect(0);
    assert_eq!((report(&host), replaced(&host)), (String::new(), Value::Null));

    // The same version comes again, or through a wrapper.
    python(&host, "one");
    assert_eq!((report(&host), replaced(&host)), (String::new(), Value::Null));
    let wrapper = host.beside("wrapper");
    fs::write(&wrapper, format!("#!/bin/sh\nexec {} \"$@\"\n", one.display())).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    link_to(&link, &wrapper);
    assert_eq!((report(&host), replaced(&host)), (String::new(), Value::Null));

    link_to(&link, &two);
    let next = host.as_typed("run");
    let lines = report(&host);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains(&format!("({})", one.display())), "{lines:?}");
    assert!(lines[0].contains(&format!("({}) now", two.display())), "{lines:?}");
    assert!(lines[1].ends_with(&format!("a run builds another one; next: {next}")), "{lines:?}");
    let found = replaced(&host);
    assert_eq!((&found["is_lost"], &found["now"]["path"]), (&json!(false), &json!(two)));
    host.tool(["status"]).expect(0).prints("the environment was built with Python ");

    // The environment starts another Python.
    link_to(&one, &two);
    assert_eq!(replaced(&host)["is_lost"], json!(false));
    assert!(report(&host).contains("a run builds another one; next: "), "{}", report(&host));

    fs::remove_file(&one).unwrap();
    assert!(report(&host).contains("the service cannot start again; next: "), "{}", report(&host));
    assert_eq!(replaced(&host)["is_lost"], json!(true));
    // A Python that cannot be queried may be usable.
    fs::write(&wrapper, "#!/bin/sh\nexit 1\n").unwrap();
    link_to(&link, &wrapper);
    let lines = report(&host);
    assert!(lines.contains(&format!("({}), which it can no longer start\n", one.display())), "{lines}");
    link_to(&link, &two);
    fs::remove_file(&two).unwrap();
    assert!(report(&host).contains("this host has no usable Python now"), "{}", report(&host));
    assert_eq!(replaced(&host)["now"], Value::Null);

    let two = python(&host, "two");
    link_to(&link, &two);
    host.tool(["run"]).expect(0);
    assert_eq!((report(&host), replaced(&host)), (String::new(), Value::Null));
}
