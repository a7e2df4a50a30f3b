//! Tests of the layers of settings.

use super::*;
use std::time::Duration;

fn host(text: &str) -> Outcome<Settings> {
    let host = parse(text, Path::new("refresh.toml"), Author::Host)?;
    let layers = Layers {
        layout: Layout::below("/trial"),
        host,
        application: ApplicationFile::default(),
        overrides: Overrides::default(),
    };
    layers.resolve()
}

fn message<T>(result: Outcome<T>) -> String {
    result.err().map(|failure| failure.chain().join(": ")).unwrap_or_default()
}

#[test]
fn an_empty_file_gives_the_contract_s_defaults() {
    let settings = host("").unwrap();
    assert_eq!(settings.probe.deadline, Duration::from_secs(60));
    assert_eq!(settings.probe.settle, Duration::from_secs(3));
    assert!(settings.preserve.is_empty());
    assert!(settings.origins.is_empty());
}

#[test]
fn the_services_socket_is_on_the_loopback_interface_or_an_address() {
    let socket = |text: &str| host(&format!("[service]\nsocket = {text}\n")).map(|it| it.service.socket);
    assert_eq!(host("").unwrap().service.socket, None);
    assert_eq!(socket("false").unwrap(), None);
    assert_eq!(socket("true").unwrap(), Some("127.0.0.1".parse().unwrap()));
    assert_eq!(socket("\"::\"").unwrap(), Some("::".parse().unwrap()));
    for wrong in ["\"localhost\"", "8000"] {
        let text = message(host(&format!("[service]\nsocket = {wrong}\n")));
        assert!(text.contains("line 2") && text.contains("the IP address to listen on"), "{text}");
    }
}

#[test]
fn a_wrong_value_is_reported_with_line_and_column() {
    let text = message(host("branch = \"main\"\nkeep = \"three\"\n"));
    assert!(text.starts_with("refresh.toml, line 2, column 8: "), "{text}");
    let text = message(host("[probe]\nsettle = \"3\"\n"));
    assert!(text.contains("line 2") && text.contains("is not a duration"), "{text}");
    let text = message(host("branch = \n"));
    assert!(text.starts_with("refresh.toml, line 1, column "), "{text}");
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest_valid_one() {
    let text = message(host("[probe]\nsetle = \"3s\"\n"));
    assert_eq!(text, "refresh.toml, line 2, column 1: unknown key `probe.setle`; did you mean `settle`?");
}

#[test]
fn the_application_may_set_hooks_definitions_and_the_probe_s_path_only() {
    let layers = Layers {
        layout: Layout::below("/trial"),
        host: HostFile::default(),
        application: ApplicationFile::default(),
        overrides: Overrides::default(),
    };
    let refused = read_application(Some(b"[remote]\nurl = \"https://h/x\"\n"));
    assert!(message(refused).contains("the application may not set `remote`"));
    let refused = read_application(Some(b"[probe]\nurl = \"http://x\"\n"));
    assert!(message(refused).contains("line 2, column 1: the application may not set `probe.url`"));
    let given = b"definitions = [\"deps.txt\"]\n[probe]\npath = \"/s\"\n[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"true\"]\n";
    let settings = layers.with_application(read_application(Some(given)).unwrap()).resolve().unwrap();
    assert_eq!(settings.python.patterns(), ["deps.txt"]);
    assert_eq!(settings.probe.path(), "/s");
    assert_eq!(settings.origins["probe.path"], Origin::Application);
    assert_eq!(settings.hooks[0].origin, Origin::Application);
}

#[test]
fn a_store_is_absolute_and_overlaps_no_other_directory() {
    let at = |text: &str| Layers::of_text(&Layout::below("/trial"), text, Overrides::default());
    let layers = at("store = \"/srv/big\"\n").unwrap();
    assert_eq!(layers.resolve().unwrap().layout.trees(), Path::new("/trial/srv/big/trees"));
    for wrong in ["srv/big", "/srv/../etc", "/opt/ladylinux/app/store", "/opt", "/", "/var/lib/ladylinux/x"] {
        let message_text = message(at(&format!("store = \"{wrong}\"\n")));
        assert!(message_text.starts_with(&format!("`store` is {wrong}: it ")), "{message_text}");
    }
}

#[test]
fn only_checks_and_assets_may_be_staged_and_patterns_stay_inside_the_tree() {
    let hook = "[[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = [\"true\"]\nstage = true\n";
    assert!(message(host(hook)).contains("cannot be staged"));
    assert!(host(&hook.replace("migration", "assets")).is_ok());
    assert!(message(host("preserve = [\"../data\"]")).contains("leaves the working tree"));
    assert!(message(host("preserve = [\"a[\"]")).contains("is not a pattern"));
}
