//! `docs/commands.md` is generated from the command line. `LADYLINUX_REFRESH_UPDATE=1 cargo test --test it
//! commands_page` writes it, and without the variable the test compares it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests read and write the documents")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};
use ladylinux_refresh::cli::Cli;
use refresh_installation::installation::FOR_ROOT;

const TOP: &str = "\
# Commands

The commands and options of `ladylinux-refresh`. This page is generated from the command line. `--help` prints the same.

```sh
ladylinux-refresh run --help
```

[Configuration](configuration.md) has the settings and the variables, [exit codes](exit-codes.md) the results, and
[events](events.md) the JSON output.
";

/// Returns the page.
fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let for_root: Vec<String> = FOR_ROOT.iter().map(|command| format!("`{command}`")).collect();
    let mut page =
        format!("{TOP}\nThese commands need root, except with `--root`: {}.\n", for_root.join(", "));
    page.push_str("\n## Options of all commands\n");
    let (shared, _): (Vec<_>, Vec<_>) = root.get_arguments().partition(|argument| argument.is_global_set());
    push_table(&mut page, &shared);
    let groups = root.get_before_help().unwrap().to_string();
    for line in groups.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("  ").and_then(|line| line.split_whitespace().next()) {
            None => writeln!(page, "\n## {}", line.trim_end_matches(':')).unwrap(),
            Some("help") => {}
            Some(name) => push_command(&mut page, root.find_subcommand(name).unwrap(), &[name]),
        }
    }
    page
}

/// Adds a command with its subcommands.
fn push_command(page: &mut String, command: &Command, words: &[&str]) {
    let marks = "#".repeat(words.len() + 2);
    writeln!(page, "\n{marks} `{}`\n\n{}.", words.join(" "), command.get_about().unwrap()).unwrap();
    let subcommands: Vec<&Command> = command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help" && !inner.is_hide_set())
        .collect();
    if subcommands.is_empty() {
        let usage = command.clone().render_usage().to_string();
        let usage =
            usage.split_whitespace().skip_while(|word| *word != words[0]).collect::<Vec<_>>().join(" ");
        writeln!(page, "\nUsage: `{usage}`").unwrap();
        let own = |argument: &&Arg| {
            !argument.is_hide_set() && !argument.is_global_set() && argument.get_id() != "help"
        };
        let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
            command.get_arguments().filter(own).partition(|argument| argument.is_positional());
        push_table(page, &[positional, options].concat());
    }
    if let Some(text) = command.get_after_help().map(ToString::to_string) {
        let (note, examples) = text.split_once("Examples:\n").unwrap();
        if !note.is_empty() {
            writeln!(page, "\n{}", note.trim_end()).unwrap();
        }
        let examples: Vec<&str> = examples.lines().map(str::trim).collect();
        writeln!(page, "\n```sh\n{}\n```", examples.join("\n")).unwrap();
    }
    for inner in subcommands {
        push_command(page, inner, &[words, &[inner.get_name()]].concat());
    }
}

fn push_table(page: &mut String, arguments: &[&Arg]) {
    if arguments.is_empty() {
        return;
    }
    page.push_str("\n| argument or option | meaning |\n|---|---|\n");
    for argument in arguments {
        let meaning = meaning(argument).replace('|', "\\|");
        writeln!(page, "| {} | {meaning} |", spelling(argument)).unwrap();
    }
}

/// Returns an argument as it is typed: `-b BRANCH`, `--branch BRANCH`.
fn spelling(argument: &Arg) -> String {
    let takes_value = argument.get_num_args().is_some_and(|number| number.takes_values());
    let names = argument.get_value_names().unwrap_or_default();
    let value = names.iter().map(clap::builder::Str::as_str).collect::<Vec<_>>().join(" ");
    let Some(long) = argument.get_long() else { return format!("`{value}`") };
    let value = match argument.get_num_args() {
        _ if !takes_value => String::new(),
        Some(number) if number.min_values() == 0 => format!("[={value}]"),
        _ => format!(" {value}"),
    };
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    format!("{short}`--{long}{value}`")
}

/// Returns the help of an argument with its values and its default.
fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().unwrap().to_string();
    let values: Vec<String> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let is_flag = !argument.get_num_args().is_some_and(|number| number.takes_values());
    if !is_flag && !argument.is_hide_possible_values_set() && !values.is_empty() {
        write!(text, ": {}", values.join(", ")).unwrap();
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !is_flag && !argument.is_hide_default_value_set() && !defaults.is_empty() {
        write!(text, " [default: {}]", defaults.join(" ")).unwrap();
    }
    text
}

#[test]
fn the_page_of_commands_matches_the_command_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let page = page();
    if std::env::var_os("LADYLINUX_REFRESH_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differing = written.lines().zip(page.lines()).find(|(one, other)| one != other);
    assert!(
        written == page,
        "docs/commands.md is out of date ({differing:?}); write it with: \
         LADYLINUX_REFRESH_UPDATE=1 cargo test --test it commands_page"
    );
}
