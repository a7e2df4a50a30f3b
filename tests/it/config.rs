//! `config show` and `config check`, and the schema of `refresh.toml`: keys, defaults and examples are those of the
//! program.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::host::{Host, Ran, ran};
use crate::schema;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use refresh_settings::keys::{TableKeys, application_keys, host_keys};
use refresh_settings::layout::Layout;
use serde_json::{Value, json};

/// A root that contains only a settings file.
struct Root {
    _directory: tempfile::TempDir,
    layout: Layout,
}

impl Root {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path().canonicalize().unwrap());
        fs::create_dir_all(layout.etc()).unwrap();
        Self { _directory: directory, layout }
    }

    fn with(text: &str) -> Self {
        let root = Self::new();
        fs::write(root.layout.host_file(), text).unwrap();
        root
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"));
        command.env_clear().current_dir(self.layout.root());
        command.arg("--root").arg(self.layout.root()).args(arguments);
        command
    }

    fn tool(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments).output().unwrap())
    }

    fn file(&self) -> String {
        self.layout.host_file().display().to_string()
    }

    /// Returns the settings of `config show --json` by key: value and origin.
    fn shown(&self, arguments: &[&str]) -> Value {
        let printed = self.tool(&[&["config", "show", "--json"][..], arguments].concat()).expect(0);
        by_key(&schema::valid(&printed.out, "config.schema.json"))
    }
}

fn by_key(shown: &Value) -> Value {
    let settings = shown["settings"].as_array().unwrap().iter();
    settings.map(|setting| (setting["key"].as_str().unwrap().to_owned(), setting.clone())).collect()
}

fn read_schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/refresh.schema.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Returns a part of the schema, or the part that it refers to.
fn resolved<'a>(schema: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => part,
    }
}

fn validator(part: &str) -> jsonschema::Validator {
    let mut schema = read_schema();
    schema["anyOf"] = json!([{ "$ref": format!("#/$defs/{part}") }]);
    jsonschema::validator_for(&schema).unwrap()
}

#[track_caller]
fn assert_fits(validator: &jsonschema::Validator, text: &str) {
    let value = serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(&value).map(|error| format!("{error:?}")).collect();
    assert!(errors.is_empty(), "{errors:#?}\nin {text}");
}

#[test]
fn config_show_writes_a_file_that_has_the_same_settings_in_force() {
    let text = "branch = \"next\"\nkeep = 5\n[remote]\nurl = \"git://h/x\"\nallow = [\"git\"]\nproxy = \"http://u:secret@p/\"\n\
                [python]\nindexes = { torch = \"https://t/cpu\" }\n[probe]\nsettle = \"90s\"\nbody = \"a\\\"b\"\n\
                [[hook]]\nname = \"m\"\nkind = \"check\"\ncommand = [\"true\"]\n";
    for text in ["", text] {
        let root = Root::with(text);
        let printed = root.tool(&["config", "show"]).expect(0);
        assert!(printed.out.starts_with(&format!("# {}\n", root.file())), "{}", printed.out);
        assert!(!printed.out.contains("secret"), "{}", printed.out);
        assert_fits(&validator("host"), &printed.out);
        let (before, again) = (root.shown(&[]), Root::with(&printed.out));
        let after = again.shown(&[]);
        for (key, setting) in before.as_object().unwrap() {
            assert_eq!(setting["value"], after[key]["value"], "{key}");
        }
        // With origins it is the same file.
        let with_origins = root.tool(&["config", "show", "--origin"]).expect(0).out;
        let table = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
        assert_eq!(table(&with_origins), table(&printed.out));
        again.tool(&["config", "check"]).expect(0);
    }
}

#[test]
fn config_show_names_the_origin_of_each_value_and_the_file_that_counts() {
    let root = Root::with("keep = 5\n[remote]\nurl = \"https://h/x\"\n[python]\nstrict = false\n");
    let mut command = root.command(&["config", "show", "--origin", "--strict"]);
    command.env("HTTPS_PROXY", "http://u:secret@p:3128/").env("PIP_INDEX_URL", "https://i/simple");
    let printed = ran(command.output().unwrap()).expect(0);
    for line in [
        format!("keep = 5  # {}:1", root.file()),
        "strict_order = false  # default".to_owned(),
        "strict = true  # option --strict".to_owned(),
        "proxy = \"http://p:3128/\"  # environment HTTPS_PROXY".to_owned(),
        "index_url = \"https://i/simple\"  # environment PIP_INDEX_URL".to_owned(),
        "# branch is not set".to_owned(),
    ] {
        assert!(printed.out.lines().any(|it| it == line), "{line:?} is missing in\n{}", printed.out);
    }
    let shown = root.shown(&["--verify-models=presence", "--no-stage", "--always-rebuild-venv"]);
    let option = |key: &str| (shown[key]["value"].clone(), shown[key]["name"].clone());
    assert_eq!(option("models.verify"), (json!("presence"), json!("--verify-models")));
    assert_eq!(option("strict_order"), (json!(true), json!("--no-stage")));
    assert_eq!(option("python.strategy"), (json!("always"), json!("--always-rebuild-venv")));
    assert_eq!(shown["keep"], json!({ "key": "keep", "value": 5, "origin": "file", "line": 1 }));

    let [first, second] = root.layout.host_files();
    fs::write(&second, "keep = 7\n").unwrap();
    let printed = root.tool(&["config", "show"]).expect(0);
    let ignored = format!("# {} does not count: {} does\n", second.display(), first.display());
    assert!(printed.out.contains(&ignored), "{}", printed.out);
    let none = Root::new();
    none.tool(&["config", "show"]).expect(0).prints("does not exist: the defaults are in force");
}

#[test]
fn config_show_has_the_settings_of_the_application_that_is_deployed() {
    let host = Host::new();
    let file = "definitions = [\"requirements.txt\"]\n[[hook]]\nname = \"theirs\"\nkind = \"check\"\ncommand = [\"true\"]\n";
    host.push(&[("refresh.toml", file)]);
    host.configure("", "[[hook]]\nname = \"ours\"\nkind = \"check\"\ncommand = [\"true\"]\n");
    host.tool(["run"]).expect(0);
    let printed = host.tool(["config", "show", "--origin"]).expect(0);
    let definitions = "definitions = [\"requirements.txt\"]  # the application's refresh.toml\n";
    assert!(printed.out.contains(definitions), "{}", printed.out);
    assert!(printed.out.contains("# [[hook]]\n# name = \"theirs\""), "{}", printed.out);
    assert!(printed.out.contains("\n[[hook]]\nname = \"ours\""), "{}", printed.out);
    let json: Value =
        schema::valid(&host.tool(["config", "show", "--json"]).expect(0).out, "config.schema.json");
    let shown = by_key(&json);
    assert_eq!(shown["hook[0].name"]["origin"], "application");
    let line =
        fs::read_to_string(host.layout.host_file()).unwrap().lines().position(|it| it == "name = \"ours\"");
    assert_eq!(shown["hook[1].name"]["line"], json!(line.unwrap() + 1));
}

#[test]
fn config_check_prints_every_fault_with_its_place_and_what_is_expected() {
    let root = Root::with("kep = 5\n[python]\nstrategy = \"never\"\n[probe]\npath = \"x\"\nsetle = \"3s\"\n");
    let printed = root.tool(&["config", "check"]).expect(2);
    let file = root.file();
    let lines: Vec<&str> = printed.out.lines().collect();
    let expected = [
        format!("{file}:1:1: unknown key `kep`; did you mean `keep`?"),
        format!("{file}:3:12: python.strategy: \"never\" is none of when-changed, always"),
        format!("{file}:5:8: probe.path: probe.path \"x\" must start with a slash and hold no blanks"),
        format!("{file}:6:1: unknown key `probe.setle`; did you mean `settle`?"),
        format!("4 faults in {file}"),
        format!("  next         ${{EDITOR:-vi}} +1 {file}"),
    ];
    assert_eq!(lines, expected.iter().map(String::as_str).collect::<Vec<_>>());
    let printed = root.tool(&["config", "check", "--json"]).expect(2);
    let json = schema::valid(&printed.out, "config.schema.json");
    assert_eq!((&json["ok"], &json["file"]), (&json!(false), &json!(file)));
    let strategy = json!({ "line": 3, "column": 12, "key": "python.strategy", "nearest": null,
        "message": "\"never\" is none of when-changed, always", "expected": ["when-changed", "always"] });
    assert_eq!(json["faults"][1], strategy);
    assert_eq!(json["faults"][0]["nearest"], "keep");
    // Commands that need the settings name the check.
    let printed = root.tool(&["config", "show"]).expect(2);
    let next =
        format!("  next         ladylinux-refresh --root {} config check\n", root.layout.root().display());
    assert!(printed.err.ends_with(&next), "{}", printed.err);
}

#[test]
fn config_check_reads_a_named_file_as_that_of_the_host_or_of_the_application() {
    let root = Root::with("keep = \"wrong\"\n");
    let path = root.layout.root().join("refresh.toml");
    fs::write(&path, "definitions = [\"x.txt\"]\n").unwrap();
    root.tool(&["config", "check", "refresh.toml", "--application"])
        .expect(0)
        .prints("refresh.toml: no fault");
    root.tool(&["config", "check", "refresh.toml"])
        .expect(2)
        .prints("refresh.toml:1:1: unknown key `definitions`");
    fs::write(&path, b"keep = 3\n# \xff\n").unwrap();
    root.tool(&["config", "check", "refresh.toml"])
        .expect(2)
        .prints("refresh.toml:2:3: the file is not UTF-8");
    let printed = root.tool(&["config", "check", "nowhere.toml"]).expect(3);
    assert!(printed.err.contains("nowhere.toml does not exist"), "{}", printed.err);
    Root::new().tool(&["config", "check"]).expect(0).prints("does not exist: the defaults are in force");
}

/// Asserts that the tables of a part of the schema have the keys that the program reads, and no others.
fn assert_keys(schema: &Value, part: &Value, known: &[TableKeys]) {
    let keys = |part: &Value| -> BTreeSet<String> {
        part["properties"].as_object().unwrap().keys().cloned().collect()
    };
    for (table, of_table) in known {
        let mut found = part;
        if !table.is_empty() {
            found = resolved(schema, &part["properties"][table]);
            found = if *table == "hook" { resolved(schema, &found["items"]) } else { found };
        }
        assert_eq!(found["additionalProperties"], false, "[{table}]");
        assert_eq!(keys(found), of_table.iter().map(|&key| key.to_owned()).collect(), "[{table}]");
    }
}

#[test]
fn the_schema_of_refresh_toml_has_the_keys_and_defaults_of_the_program() {
    let schema = read_schema();
    assert_keys(&schema, &schema["$defs"]["host"], &host_keys());
    assert_keys(&schema, &schema["$defs"]["application"], &application_keys());
    let host = &schema["$defs"]["host"]["properties"];
    let mut defaults = 0;
    for (key, setting) in Root::new().shown(&[]).as_object().unwrap() {
        let part = match key.split_once('.') {
            Some((table, key)) => &host[table]["properties"][key],
            None => &host[key],
        };
        let default = part.get("default").or_else(|| resolved(&schema, part).get("default"));
        assert_eq!(setting["value"], default.cloned().unwrap_or_default(), "{key}");
        defaults += usize::from(default.is_some());
    }
    assert!(defaults > 25, "only {defaults} defaults were compared");
}

#[test]
fn the_schema_of_refresh_toml_accepts_what_the_program_accepts_and_refuses_what_it_refuses() {
    let both = validator("host");
    for (text, is_right) in [
        ("[service]\nsocket = true\n", true),
        ("[service]\nsocket = \"::1\"\n", true),
        ("[service]\nsocket = 8000\n", false),
        ("[service]\nunit = \"x\"\n", false),
        ("[probe]\nsettle = \"2m 30s\"\n", true),
        ("[probe]\nsettle = \"3\"\n", false),
        ("[probe]\nsettle = 3\n", false),
        ("[probe]\njson_field = \"a\"\n", false),
        ("[probe]\npath = \"x\"\n", false),
        ("[remote]\nallow = [\"ftp\"]\n", false),
        ("[[hook]]\nname = \"x\"\nkind = \"check\"\n", false),
        ("[[hook]]\nname = \"x\"\nkind = \"check\"\ncommand = []\n", false),
        ("keep = -1\n", false),
        ("nonsense = 1\n", false),
    ] {
        let value = serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
        assert_eq!(both.is_valid(&value), is_right, "{text}");
        let code = if is_right { 0 } else { 2 };
        Root::with(text).tool(&["config", "check"]).expect(code);
    }
}

#[test]
fn the_examples_of_the_documents_fit_the_schema_of_refresh_toml() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (host, application) = (validator("host"), validator("application"));
    let mut count = 0;
    for name in
        ["docs/configuration.md", "docs/adoption.md", "docs/models.md", "docs/environments.md", "README.md"]
    {
        let text = fs::read_to_string(root.join(name)).unwrap();
        for block in text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let value = serde_json::to_value(toml::from_str::<toml::Table>(block).unwrap()).unwrap();
            assert!(host.is_valid(&value) || application.is_valid(&value), "{name}:\n{block}");
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
    // The files that the demo and the tests deploy.
    assert_fits(&application, &fs::read_to_string(root.join("demo/app/refresh.toml")).unwrap());
    assert_fits(&host, &Host::bare().settings(""));
}
