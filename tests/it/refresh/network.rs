//! The network and the remote as they are: a remote that has moved, a proxy that does not answer.

use std::fs;

use serde_json::Value;

use crate::git::{Web, serve_web};
use crate::host::{Host, ran};
use crate::index::{Index, release};

/// Returns the findings of the doctor on the remote.
fn notes_on_the_remote(host: &Host) -> Vec<String> {
    let printed = host.tool(["doctor", "--json"]).out;
    let report: Value = serde_json::from_str(&printed).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let of_remote = findings.filter(|finding| finding["check"] == "remote");
    of_remote.map(|finding| finding["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_remote_that_has_moved_is_followed_and_named_with_the_setting_to_write() {
    let host = Host::running();
    let follow = |url: &str| {
        let settings =
            host.settings("").replace(&host.url(), url).replace("allow = [\"git\"]", "allow = [\"http\"]");
        fs::write(host.layout.host_file(), settings).unwrap();
    };
    let new = format!("http://127.0.0.1:{}", serve_web(Web::Public { base: host.beside("srv") }));
    let old = format!("http://127.0.0.1:{}", serve_web(Web::Moved { to: new.clone() }));
    follow(&format!("{old}/app.git"));
    host.push(&[("version.txt", "two\n")]);
    let warning = format!(
        "the remote redirects to {new}/app.git; if it has moved, set `url = \"{new}/app.git\"` under [remote] in {}",
        host.layout.host_file().display()
    );
    host.tool(["run"]).expect(0);
    assert_eq!(host.version().as_deref(), Some("two"));
    let warnings = host.report()["warnings"].clone();
    assert!(warnings.as_array().unwrap().iter().any(|found| *found == warning.as_str()), "{warnings}");
    let notes = notes_on_the_remote(&host);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains(&format!("url = \"{new}/app.git\"")), "{notes:?}");

    follow(&format!("{new}/app.git"));
    assert_eq!(notes_on_the_remote(&host), Vec::<String>::new(), "the new URL is set");
    host.push(&[("version.txt", "three\n")]);
    host.tool(["run"]).expect(0);
    let warnings = host.report()["warnings"].to_string();
    assert!(!warnings.contains("redirects"), "{warnings}");
    assert_eq!(notes_on_the_remote(&host), Vec::<String>::new());
}

#[test]
fn an_index_behind_a_proxy_that_does_not_answer_is_reported_with_the_proxy_and_its_variable() {
    let host = Host::running();
    host.configure_python("index_url = \"http://127.0.0.1:9/simple\"");
    host.push(&[("requirements.txt", "six==1.17.0\n")]);
    let mut command = host.command(["run"]);
    let printed = ran(command.env("http_proxy", "http://me:hidden@127.0.0.1:1").output().unwrap()).expect(3);
    let printed = printed
        .prints("requests go through the proxy http://127.0.0.1:1, which the variable http_proxy names")
        .prints("the package index cannot be reached");
    assert!(!printed.all().contains("hidden"), "{}", printed.all());
    // The variables of the service are for the service.
    fs::write(
        host.layout.env_file(),
        format!("LADYLINUX_PORT={}\nhttp_proxy=http://127.0.0.1:1\n", host.port),
    )
    .unwrap();
    let index = Index::new(&[release("onlyhere", "1.0")]);
    host.configure_python(&format!("index_url = {:?}", index.url()));
    host.push(&[("requirements.txt", "onlyhere==1.0\n")]);
    host.tool(["run"]).expect(0);
}
