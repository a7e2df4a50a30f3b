//! The command line and its description in the documents: commands, options, keys, defaults and exit codes are compared
//! with the program.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use crate::host;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind::{DisplayHelp, InvalidValue, MissingRequiredArgument};
use clap::{CommandFactory as _, Parser as _};
use host::{Host, Ran, ran};
use ladylinux_refresh::cli::Cli;
use refresh_installation::exit::{Error, Refusal, Success, code};
use refresh_programs::process::ExitKind;
use refresh_settings::Settings;
use refresh_settings::keys::{application_keys, host_keys};
use refresh_settings::layers::{Layers, Overrides};
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::environment::NETWORK;
use refresh_system::error::Failure;

fn tool(arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"));
    ran(command.args(arguments).env_clear().output().unwrap())
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The cells of the rows of every table in a document, by the heading above it.
fn tables(document: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut found: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut heading = String::new();
    for line in document.lines() {
        if let Some(title) = line.strip_prefix('#') {
            title.trim_start_matches('#').trim().clone_into(&mut heading);
        }
        if let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) {
            let cells = row.split(" | ").map(|cell| cell.trim().to_owned()).collect();
            found.entry(heading.clone()).or_default().push(cells);
        }
    }
    found
}

/// Returns every visible command with its words, the program itself first.
pub(crate) fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn add(words: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
        all.push((words.to_vec(), command.clone()));
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            add(&[words, &[inner.get_name().to_owned()]].concat(), inner, all);
        }
    }
    let mut all = Vec::new();
    add(&[], &Cli::command(), &mut all);
    all
}

#[test]
fn every_command_has_a_help_text() {
    let all = commands();
    assert!(all.len() > 18, "{}", all.len());
    for (words, command) in &all {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let printed = tool(&arguments).expect(0);
        assert!(
            printed.out.contains("Usage: ladylinux-refresh") && printed.err.is_empty(),
            "{words:?}\n{}",
            printed.out
        );
        // The options of every command come after those of the command itself.
        let options = printed.out.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let mut last = options.skip_while(|line| !line.starts_with("--root <DIR>")).skip(1);
        assert!(last.all(|line| line.starts_with("-h, ") || line.starts_with("-V, ")), "{}", printed.out);
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        for option in shown.filter_map(clap::Arg::get_long) {
            assert!(printed.out.contains(&format!("--{option}")), "{words:?} --{option}\n{}", printed.out);
        }
        for hidden in ["supervise", "git-credential", "after-run", "answer-requests", "--worker"] {
            assert!(!printed.out.contains(hidden), "{hidden} shows in\n{}", printed.out);
        }
    }
    let version = tool(&["--version"]).expect(0).out;
    let built_from = version.strip_prefix(concat!("ladylinux-refresh ", env!("CARGO_PKG_VERSION"))).unwrap();
    assert_eq!(tool(&["-V"]).expect(0).out, version);
    let git = |arguments: &[&str]| {
        let root = env!("CARGO_MANIFEST_DIR");
        ran(std::process::Command::new("git")
            .env("TZ", "UTC")
            .args(["-C", root])
            .args(arguments)
            .output()
            .unwrap())
    };
    let parts = built_from.trim_end().strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    let parts = parts.and_then(|rest| rest.split_once(' '));
    if let Some((commit, date)) = parts {
        assert!(commit.len() >= 10 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()), "{version}");
        assert!(date.len() == 10 && date.parse::<jiff::civil::Date>().is_ok(), "{version}");
    }
    let is_repository = git(&["ls-files", "--error-unmatch", "build.rs"]).code == Some(0);
    assert_eq!(parts.is_some(), is_repository, "{version}");
    assert!(parts.is_some() || built_from == "\n", "{version}");
    if let Some((commit, date)) = parts {
        let shown = git(&["show", "--no-patch", "--format=%cd", "--date=format-local:%F", commit]);
        // A development build can be of a commit that this repository does not have any more.
        if shown.code == Some(0) && std::env::var("SOURCE_DATE_EPOCH").is_err() {
            assert_eq!(shown.out.trim(), date);
        }
    }
    Cli::command().debug_assert();
}

#[test]
fn color_follows_the_command_line_and_then_the_environment() {
    let colored = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ladylinux-refresh"));
        command.args(["--root", "/nonexistent"]).args(arguments).env_clear().envs(variables.iter().copied());
        ran(command.output().unwrap()).all().contains('\u{1b}')
    };
    let (no, force) = (("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1"));
    for refused in [&["status"][..], &["rum"], &["run", "-x"]] {
        let with = |more: &'static str| [refused, &["--color", more]].concat();
        assert!(colored(&with("always"), &[no]), "{refused:?}");
        assert!(!colored(&with("never"), &[force]), "{refused:?}");
        assert!(colored(refused, &[force]) && !colored(refused, &[]), "{refused:?}");
        assert!(!colored(refused, &[no, force]), "{refused:?}");
    }
    assert!(colored(&["--color=always", "--help"], &[]) && !colored(&["--help"], &[]));
    tool(&["status", "--color", "sometimes"]).expect(2);
}

#[test]
fn a_quiet_run_prints_warnings_and_the_result_only() {
    let host = Host::new();
    let printed = host.tool(["run", "--quiet"]).expect(0);
    let first = printed.out.lines().find(|line| !line.is_empty()).unwrap_or_default();
    assert!(first.starts_with("Refreshed main at "), "{}", printed.all());
    assert!(!printed.all().contains("preflight") && !printed.all().contains('✓'), "{}", printed.all());
    let printed = host.tool(["-q", "run", "nosuch"]).expect(3);
    assert!(printed.all().contains("error in staging: the remote has no branch nosuch"), "{}", printed.all());
    assert!(!printed.all().contains("preflight"), "{}", printed.all());
}

#[test]
fn a_dry_run_is_a_plan_and_neither_changes_anything() {
    let host = Host::running();
    host.push(&[("version.txt", "two\n"), ("requirements.txt", "six==1.17.0\n")]);
    host.write("local.txt", "mine\n");
    let before = (host.head(), host.report(), fs::read_link(host.layout.venv()).unwrap());
    let plan = host.tool(["plan"]).expect(0);
    let text = [
        "local.txt",
        "~ six ==1.16.0 → ==1.17.0",
        "would be built",
        "1 change would be kept in the stash",
        ", 1 commit, ",
    ];
    for text in text {
        assert!(plan.out.contains(text), "{text:?} is missing in\n{}", plan.out);
    }
    assert_eq!(host.tool(["run", "--dry-run"]).expect(0).out, plan.out);
    assert_eq!(host.tool(["run", "main", "--dry-run"]).expect(0).out, plan.out);
    assert_eq!(host.tool(["plan", "--exit-code"]).expect(5).out, plan.out);
    let json = host.tool(["plan", "--json"]).expect(0).out;
    assert_eq!(host.tool(["run", "--dry-run", "--format", "json"]).expect(0).out, json);
    assert_eq!((host.head(), host.report(), fs::read_link(host.layout.venv()).unwrap()), before);
    assert_eq!(host.read("local.txt").as_deref(), Some("mine\n"));
    assert_eq!(host.version().as_deref(), Some("one"));
    host.tool(["run"]).expect(0);
    let plan = host.tool(["plan", "--exit-code"]).expect(0);
    assert!(plan.out.contains("a refresh would change nothing"), "{}", plan.out);
    let plan = host.tool(["plan", "--always-rebuild-venv"]).expect(0);
    assert!(plan.out.contains("would be built"), "{}", plan.out);
}

#[test]
fn rw_8_3_the_documented_exit_codes_are_those_of_the_program() {
    let rows = tables(&read("docs/exit-codes.md")).remove("Exit codes").unwrap();
    let documented: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| row[0].split(", "))
        .filter(|cell| cell.parse::<u8>().is_ok())
        .map(str::to_owned)
        .collect();
    let failure = || Failure::new("x");
    let ends: Vec<Result<Success, Error>> = vec![
        Ok(Success::Done),
        Ok(Success::Findings),
        Err(Error::Usage(failure())),
        Err(Refusal::of("preflight", failure())),
        Err(Refusal::of("preflight", Failure::interrupted(2))),
        Err(Refusal::of("preflight", Failure::interrupted(15))),
        Err(Error::Locked { holder: None, next: String::new() }),
        Err(Error::Detached { run: RunId::parse("r-1").unwrap(), signal: 1, next: String::new() }),
        Err(Error::Lost {
            run: RunId::parse("r-1").unwrap(),
            end: Some(ExitKind::Signal(9)),
            service: String::new(),
            next: String::new(),
        }),
        Err(Error::Bug("x".into())),
    ];
    let number = |end: &Result<Success, Error>| -> String {
        // The number of an exit code has no accessor; its debug text contains it.
        let shown = format!("{:?}", code(end));
        shown.chars().filter(char::is_ascii_digit).collect()
    };
    let mut real: BTreeSet<String> = ends.iter().map(number).collect();
    // A run that halted has its code in its report; see the tests of halts.
    real.insert("1".to_owned());
    assert_eq!(documented, real);
    let help = tool(&["--help"]).expect(0).out;
    let help = help.split("Exit codes:").nth(1).unwrap().replace('\n', " ");
    for code in real.iter().filter(|code| code.len() < 3) {
        assert!(help.contains(&format!(" {code} ")), "{code} is missing in {help}");
    }
    assert!(help.contains("128+n"), "{help}");
}

/// The documents that show commands.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = ["", "docs", "docs/adr", "demo/app"].map(|directory| root.join(directory));
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    found.sort();
    found
}

/// The source files of the program.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { sources(&path, found) } else { found.push(path) }
    }
}

/// Splits a line as a shell does that has no quotes except single quotes around words.
fn shell_words(line: &str) -> impl Iterator<Item = &str> {
    line.split('\'')
        .enumerate()
        .flat_map(|(index, part)| if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
}

#[test]
fn every_command_that_a_document_or_a_message_shows_is_understood() {
    let mut shown = documents();
    for directory in ["src", "crates"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut shown);
    }
    let mut count = 0;
    for path in shown {
        let text = fs::read_to_string(&path).unwrap();
        for (start, _) in text.match_indices("ladylinux-refresh ") {
            // In documents a command is code; in sources it is a text between quotes, or a part of one.
            let document = path.extension().is_some_and(|end| end == "md");
            let opening = text[..start].chars().next_back().unwrap_or('\n');
            let code = if document { "` \n" } else { "\"` " }.contains(opening);
            let rest = &text[start + "ladylinux-refresh ".len()..];
            let end = rest.find(['`', '\n', '#', ';', '|', ',', '{', '\\', ':', '>']).unwrap_or(rest.len());
            let end = if document { end } else { rest.find('"').map_or(end, |quote| quote.min(end)) };
            let line = rest[..end].trim();
            let known = |word: &str| Cli::command().find_subcommand(word).is_some();
            let first = line.split_whitespace().find(|word| !word.starts_with('-')).unwrap_or("");
            // In prose another word follows the name of the program.
            if !code || !(known(first) || line.starts_with("--root")) {
                continue;
            }
            let mut words = vec!["ladylinux-refresh"];
            words.extend(shell_words(line).map(|word| match word {
                "SECONDS" | "N" => "1",
                "DURATION" => "5m",
                "SHELL" => "bash",
                "…" => "main",
                _ => word,
            }));
            // In a hint the words after the text are values.
            let after = rest[end..].trim_start_matches(['"', ',', ' ', '\n']);
            let has_values = after.starts_with("&[") && !after.starts_with("&[]");
            let cut_short = has_values || rest[end..].starts_with(['{', '\\']);
            match Cli::try_parse_from(&words) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == DisplayHelp => count += 1,
                // The rest of the line is filled in later, so a value may be missing here.
                Err(error) if cut_short && matches!(error.kind(), MissingRequiredArgument | InvalidValue) => {
                }
                Err(error) => panic!("{}: {line:?}: {error}", path.display()),
            }
        }
    }
    assert!(count > 30, "only {count} commands were found");
}

#[test]
fn the_documents_have_every_key_with_its_default() {
    let document = read("docs/configuration.md");
    let tables = tables(&document);
    let mut spelled: BTreeMap<&str, String> = BTreeMap::new();
    let mut without_default = BTreeSet::new();
    let host_keys = host_keys();
    for (table, keys) in host_keys {
        let heading = match table {
            "" => "Top level".to_owned(),
            "hook" => "`[[hook]]`".to_owned(),
            table => format!("`[{table}]`"),
        };
        let (_, rows) = tables.iter().find(|(title, _)| title.starts_with(&heading)).unwrap();
        let rows: BTreeMap<String, String> = rows
            .iter()
            .filter(|row| row[0].starts_with('`'))
            .map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()))
            .collect();
        let is_table = |key: &&str| table.is_empty() && host_keys.iter().any(|(name, _)| name == key);
        let expected: BTreeSet<String> =
            keys.iter().filter(|key| !is_table(key)).map(|&key| key.to_owned()).collect();
        assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), expected, "{heading}");
        for (key, default) in rows {
            let literal = default.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
            match literal.filter(|text| text.parse::<toml::Value>().is_ok()) {
                Some(literal) => spelled.entry(table).or_default().push_str(&format!("{key} = {literal}\n")),
                None => _ = without_default.insert(format!("{table}.{key}")),
            }
        }
    }
    let hook = "name = \"x\"\nkind = \"check\"\ncommand = [\"true\"]\n";
    let mut text = spelled[""].clone();
    for table in ["remote", "python", "service", "probe"] {
        text.push_str(&format!("[{table}]\n{}", spelled[table]));
    }
    text.push_str(&format!("[[hook]]\n{hook}{}", spelled["hook"]));
    let documented = resolve(&text);
    let real = resolve(&format!("[[hook]]\n{hook}"));
    assert_eq!(format!("{documented:#?}"), format!("{real:#?}"), "from\n{text}");

    let prose = [
        ".branch",
        "hook.command",
        "hook.kind",
        "hook.name",
        "probe.body",
        "probe.ca_file",
        "probe.json_field",
        "probe.json_value",
        "probe.status",
        "probe.url",
        "python.also",
        "python.index_url",
        "python.system_site_packages",
        "remote.ca_file",
        "remote.credential_helper",
        "remote.known_hosts",
        "remote.proxy",
        "remote.ssh_key",
        "remote.token_file",
        "remote.url",
    ];
    assert_eq!(without_default, prose.map(str::to_owned).into());
    assert!(real.branch.is_none() && real.python.index_url.is_none() && real.remote.url.is_none());
    assert!(real.probe.url.is_none() && real.probe.status.is_none() && real.probe.json_field.is_none());
    assert!(real.probe.body.is_none());

    // The settings that the application may have.
    let rows = &tables["Configuration"];
    let documented: BTreeSet<&str> = rows.iter().map(|row| row[0].trim_matches('`')).skip(1).collect();
    let mut real = BTreeSet::new();
    for (table, keys) in application_keys().iter().filter(|(table, _)| *table != "hook") {
        let of_table = keys.iter().filter(|key| **key != "probe");
        real.extend(
            of_table.map(|key| if table.is_empty() { (*key).to_owned() } else { format!("{table}.{key}") }),
        );
    }
    assert_eq!(documented, real.iter().map(String::as_str).collect());
}

/// The settings of the host file, with the values that are filled in only at their use, and without their origins.
fn resolve(text: &str) -> Settings {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::below(directory.path());
    fs::create_dir_all(layout.etc()).unwrap();
    fs::write(layout.host_file(), text).unwrap();
    let mut settings = Layers::read(&layout, Overrides::default()).unwrap().resolve().unwrap();
    let (python, probe) = (&mut settings.python, &mut settings.probe);
    python.definitions = Some(python.patterns().to_vec());
    python.extras.get_or_insert_default();
    python.groups.get_or_insert_default();
    probe.path = Some(probe.path().to_owned());
    Settings { layout: Layout::below("/"), origins: BTreeMap::new(), ..settings }
}

#[test]
fn rw_4_1_the_script_knows_every_command_from_a_branch() {
    let script = read("scripts/refresh_vm.sh");
    let known = script.lines().find(|line| line.trim_start().starts_with("run | ")).expect("its commands");
    let known: BTreeSet<&str> = known.trim().trim_end_matches(") ;;").split(" | ").collect();
    let real = commands();
    let real = real.iter().filter(|(words, _)| words.len() == 1).map(|(words, _)| words[0].as_str());
    // `drift` and `environments` are the former names of `stash` and `env`.
    assert_eq!(known, real.chain(["help", "drift", "environments"]).collect());
}

#[test]
fn the_documents_have_every_option_and_every_variable() {
    let document = read("docs/configuration.md");
    let rows = tables(&document).remove("Commands and their options").unwrap();
    for (words, command) in commands().iter().skip(1) {
        let row = rows.iter().find(|row| row[0].contains(&words[0])).unwrap_or_else(|| panic!("{words:?}"));
        assert!(words.iter().all(|word| row[0].contains(word.as_str())), "{words:?}");
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        let long = shown.filter_map(clap::Arg::get_long).filter(|name| *name != "help");
        for option in long {
            let shared = match option {
                "format" | "json" | "verbose" => row[1].contains("those of a report"),
                "wait" => row[1].contains("of the lock"),
                _ => false,
            };
            let documented = row[1].contains(&format!("--{option}")) || shared;
            assert!(documented && document.contains(&format!("--{option}")), "{words:?} --{option}");
        }
    }
    let names = NETWORK.iter().map(|name| name.to_uppercase());
    let own = ["LADYLINUX_REFRESH_ROOT", "NO_COLOR", "CLICOLOR_FORCE", "TERM", "GITHUB_ACTIONS"];
    for argument in Cli::command().get_arguments().filter_map(clap::Arg::get_long) {
        assert!(document.contains(&format!("`--{argument}")), "--{argument}");
    }
    for name in names.chain(own.map(str::to_owned)) {
        assert!(document.contains(&format!("`{name}`")), "{name} is not documented");
    }
}
