//! Tests of the health check.

use super::question::content_problem;
use super::*;
use refresh_settings::names::{BranchName, CommitId, EnvironmentName, RunId};

fn settings() -> settings::Probe {
    settings::Probe::default()
}

fn deployed() -> Deployment {
    Deployment {
        commit: CommitId::parse(&"a1".repeat(20)).unwrap(),
        branch: BranchName::parse("main").unwrap(),
        refreshed_at: jiff::Timestamp::UNIX_EPOCH,
        environment: EnvironmentName::parse("abc-1").unwrap(),
        run: RunId::parse("r-1").unwrap(),
    }
}

#[test]
fn without_settings_the_root_path_at_the_port_of_the_env_file_is_requested() {
    let url =
        |text: &str| resolve(&settings(), &EnvFile::parse(text.as_bytes()), None).map(|probe| probe.url);
    assert_eq!(url("").unwrap(), "http://127.0.0.1:8000/");
    assert_eq!(url("LADYLINUX_PORT=81").unwrap(), "http://127.0.0.1:81/");
    assert_eq!(url("LADYLINUX_PORT=").unwrap(), "http://127.0.0.1:8000/");
    for bad in ["0", "x", "70000", "-1"] {
        assert!(url(&format!("LADYLINUX_PORT={bad}")).is_err(), "{bad}");
    }
}

#[test]
fn an_unusable_url_is_refused_before_anything_happens() {
    for bad in ["unix:", "unix:x", "unix:x/y", &format!("unix:/{}", "x".repeat(107))] {
        let probe = settings::Probe { url: Some(bad.into()), ..settings() };
        assert!(resolve(&probe, &EnvFile::default(), None).is_err(), "{bad:?}");
    }
    for bad in ["", "x", "https:///x", "ftp://h/", "http:///x", "http://h:99999/", "/path"] {
        let probe = settings::Probe { url: Some(bad.into()), ..settings() };
        assert!(resolve(&probe, &EnvFile::default(), None).is_err(), "{bad:?}");
    }
}

#[test]
fn placeholders_are_replaced_by_the_deployed_version() {
    let (json_field, json_value) = (Some("v.commit".into()), Some("{commit}".into()));
    let probe = settings::Probe { json_field, json_value, ..settings() };
    let unfilled = resolve(&probe, &EnvFile::default(), None).unwrap();
    assert!(unfilled.json.is_some_and(|(_, value)| value.contains('{')));
    let resolved = resolve(&probe, &EnvFile::default(), Some(&deployed())).unwrap();
    assert_eq!(resolved.json.unwrap().1, "a1".repeat(20));
}

#[test]
fn fields_are_found_by_path_and_compared_as_text() {
    let base = resolve(&settings(), &EnvFile::default(), None).unwrap();
    let problem = |path: &str, value: &str, answer: &str| {
        let probe = ResolvedProbe { json: Some((path.into(), value.into())), ..base.clone() };
        content_problem(&probe, answer.as_bytes())
    };
    assert_eq!(problem("a.b", "x", r#"{"a":{"b":"x"}}"#), None);
    assert_eq!(problem("a.1", "2", r#"{"a":[1,2]}"#), None);
    assert_eq!(problem("ok", "true", r#"{"ok":true}"#), None);
    assert!(problem("ok", "true", r#"{"ok":false}"#).unwrap().contains("false"));
    assert!(problem("no", "true", r#"{"ok":false}"#).unwrap().contains("no field"));
    assert!(problem("ok", "true", "<html>").unwrap().contains("not JSON"));
}
