//! The verification of an environment, with real wheels.

use crate::python as common;

use common::{World, names, packages};
use refresh_environments::BuildOutcome;

/// Headers, scripts, programs, files below `share`, compiled modules, a `.pth` file, and sources that do not compile.
const ODD: &str = "greenlet==3.1.1\ndocutils==0.20.1\njupyterlab_widgets==3.0.13\nuvicorn==0.30.0\n\
                   coverage==7.6.10\nsetuptools==75.8.0\nblack==24.10.0\n";

#[test]
fn rw_8_2_two_installations_one_of_them_offline_make_an_environment_of_the_same_digest() {
    let digests = [false, true].map(|offline| {
        let mut world = World::new();
        world.offline = offline;
        world.python.imports = vec!["greenlet".into(), "docutils.core".into()];
        world.python.command =
            ["{venv}/bin/uvicorn", "black:main", "api_layer:app"].map(str::to_owned).into();
        let ensured = world.ensure(ODD, "run-1").unwrap();
        assert!(packages(&ensured).contains(&"greenlet".to_owned()));
        assert!(world.environments().contamination_by_bytes(&ensured.environment).unwrap().is_none());
        ensured.environment.record.digest.unwrap()
    });
    assert_eq!(digests[0], digests[1]);
    let other = World::new().ensure("six==1.17.0\n", "run-1").unwrap();
    assert_ne!(other.environment.record.digest.as_ref(), Some(&digests[0]));
}

#[test]
fn an_environment_that_cannot_import_a_declared_module_is_not_used() {
    let mut world = World::new();
    world.python.imports = vec!["six".into(), "no_such_module".into()];
    let failure = world.ensure("six==1.17.0\n", "run-1").unwrap_err();
    let error = failure.chain().join(": ");
    assert!(error.contains("cannot be imported") && error.contains("no_such_module"), "{error}");
    assert!(
        names(&world.layout.environments()).is_empty()
            && names(&world.layout.environment_records()).is_empty()
    );
    world.python.imports = vec!["six".into()];
    let built = world.ensure("six==1.17.0\n", "run-2").unwrap();

    // An existing environment is checked for the modules that are declared now.
    world.python.imports = vec!["no_such_module".into()];
    let error = world.ensure("six==1.17.0\n", "run-3").unwrap_err().chain().join(": ");
    assert!(error.contains("does not serve any more") && error.contains("no_such_module"), "{error}");
    world.python.imports = vec!["six".into(), "json".into()];
    let tried = world.ensure("six==1.17.0\n", "run-4").unwrap();
    assert_eq!((tried.made, &tried.environment.name), (BuildOutcome::Reused, &built.environment.name));
    assert!(world.environments().contamination_by_bytes(&tried.environment).unwrap().is_none());
    let again = world.ensure("six==1.17.0\n", "run-5").unwrap();
    assert_eq!(again.environment, tried.environment, "it was written down");
}
