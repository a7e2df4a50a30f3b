//! The proof of a generation, with real wheels and both installers.
#![expect(clippy::disallowed_methods, reason = "tests tamper with what they find")]

#[path = "common/python.rs"]
#[expect(dead_code, reason = "not every test uses everything")]
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{World, names, packages};
use ladylinux_refresh::python::Made;
use ladylinux_refresh::settings::{InstallerChoice, Strategy};

const BOTH: [InstallerChoice; 2] = [InstallerChoice::Uv, InstallerChoice::Pip];

/// Headers, scripts, programs, files below `share`, compiled modules, a `.pth` file, and sources that do not compile.
const ODD: &str = "greenlet==3.1.1\ndocutils==0.20.1\njupyterlab_widgets==3.0.13\nuvicorn==0.30.0\n\
                   coverage==7.6.10\nsetuptools==75.8.0\nblack==24.10.0\n";

#[test]
fn rw_8_2_both_installers_make_an_environment_of_the_same_digest() {
    let mut digests = Vec::new();
    for installer in BOTH {
        let mut world = World::new().with(installer);
        world.python.imports = vec!["greenlet".into(), "docutils.core".into()];
        world.python.command =
            ["{venv}/bin/uvicorn", "black:main", "api_layer:app"].map(str::to_owned).into();
        let ensured = world.ensure(ODD, "run-1").unwrap();
        assert!(packages(&ensured).contains(&"greenlet".to_owned()));
        assert!(world.environments().contamination_by_bytes(&ensured.generation).unwrap().is_none());
        digests.push(ensured.generation.record.digest.unwrap());
    }
    assert_eq!(digests[0], digests[1]);
    let other = World::new().ensure("six==1.17.0\n", "run-1").unwrap();
    assert_ne!(other.generation.record.digest.as_ref(), Some(&digests[0]));
}

#[test]
fn an_environment_that_cannot_import_what_the_host_declares_is_not_used() {
    let mut world = World::new();
    world.python.imports = vec!["six".into(), "no_such_module".into()];
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    let told = failure.chain().join(": ");
    assert!(told.contains("cannot be imported") && told.contains("no_such_module"), "{told}");
    assert!(
        names(&world.layout.environments()).is_empty()
            && names(&world.layout.environment_records()).is_empty()
    );
    world.python.imports = vec!["six".into()];
    let built = world.ensure("six==1.17.0\n", "run-2").unwrap();

    // One that is there already is held to what is declared now.
    world.python.imports = vec!["no_such_module".into()];
    let told = world.ensure("six==1.17.0\n", "run-3").unwrap_err().chain().join(": ");
    assert!(told.contains("does not serve any more") && told.contains("no_such_module"), "{told}");
    world.python.imports = vec!["six".into(), "json".into()];
    let tried = world.ensure("six==1.17.0\n", "run-4").unwrap();
    assert_eq!((tried.made, &tried.generation.name), (Made::Reused, &built.generation.name));
    assert!(world.environments().contamination_by_bytes(&tried.generation).unwrap().is_none());
    let again = world.ensure("six==1.17.0\n", "run-5").unwrap();
    assert_eq!(again.generation, tried.generation, "it was written down");
}

#[test]
fn a_damaged_wheel_in_the_store_never_becomes_an_environment() {
    let world = World::new();
    let first = world.ensure("six==1.17.0\n", "run-1").unwrap();
    let mut damaged = 0;
    for digest in names(&world.layout.wheels()) {
        for file in names(&world.layout.wheels().join(&digest)) {
            let path = world.layout.wheels().join(&digest).join(&file);
            if file.starts_with("six-1.17.0") {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                // Another file in its place: what is lent to tests is not written to.
                fs::remove_file(&path).unwrap();
                fs::write(&path, bytes).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
                damaged += 1;
            }
        }
    }
    // Other tests may have lent wheels of that name that hold something else; they are damaged too.
    assert!(damaged > 0);
    let files = [("requirements.txt", "six==1.17.0\n")];
    match world.ensure_with(&files, Strategy::Always, "run-2") {
        // Fetched again.
        Ok(second) => {
            assert_ne!(second.generation.name, first.generation.name);
            assert_eq!(second.generation.record.digest, first.generation.record.digest);
        }
        Err(_) => assert_eq!(names(&world.layout.environments()), [first.generation.name.as_str()]),
    }
}
