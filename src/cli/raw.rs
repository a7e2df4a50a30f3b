//! Requests in the words of a command line, read before or without the parser: the parser refuses a line only as a
//! unit.

use std::ffi::OsString;

use clap::{CommandFactory as _, ValueEnum as _};

use refresh_system::screen::ColorWhen;

use super::Cli;

/// Returns the words before `--`; the words after it are values. A word that is not UTF-8 is empty: it is a value.
fn options(words: &[OsString]) -> impl Iterator<Item = &str> {
    words.iter().map(|word| word.to_str().unwrap_or_default()).take_while(|word| *word != "--")
}

/// Returns the last value of an option: `--color WHEN` or `--color=WHEN`.
fn value<'a>(words: &'a [OsString], option: &str) -> Option<&'a str> {
    let words: Vec<&str> = options(words).collect();
    let joined = |word: &&'a str| word.strip_prefix(option)?.strip_prefix('=');
    let at = words.iter().rposition(|word| *word == option || joined(word).is_some())?;
    joined(&words[at]).or_else(|| words.get(at + 1).copied())
}

/// Returns whether a refused command line requests JSON. Only runs have `--format json`.
pub fn json(words: &[OsString]) -> bool {
    let command = command(words);
    let has_format = [" run", " rollback", " wait"].iter().any(|name| command.ends_with(name));
    match value(words, "--format").filter(|_| has_format) {
        Some(format) => format == "json",
        None => options(words).any(|word| word == "--json"),
    }
}

/// Returns the program and the command that the words name, as far as they name one.
pub fn command(words: &[OsString]) -> String {
    let (program, mut names) = (Cli::command(), Vec::new());
    let takes_value = |word: &str| {
        let known = |name| program.get_arguments().find(|known| known.get_long() == Some(name));
        word.strip_prefix("--").and_then(known).is_some_and(|option| option.get_action().takes_values())
    };
    let (mut command, mut rest) = (&program, options(words).skip(1));
    while let Some(word) = rest.next() {
        if takes_value(word) {
            rest.next();
        } else if let Some(inner) = command.find_subcommand(word) {
            command = inner;
            names.push(inner.get_name());
        }
    }
    [program.get_name()].iter().chain(&names).copied().collect::<Vec<_>>().join(" ")
}

/// Returns the requested color of the output, from the words.
pub fn color(words: &[OsString]) -> ColorWhen {
    value(words, "--color").and_then(|word| ColorWhen::from_str(word, false).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_requested_by_options_and_not_by_values() {
        let json = |line: &str| json(&format!("x {line}").split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in ["rum --json", "run --format json -x", "--root plan run --format=json -x"] {
            assert!(json(line), "{line}");
        }
        let command = |line: &str| command(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(command("x --root run verify model"), "ladylinux-refresh verify");
        assert_eq!(command("x --root status run --x"), "ladylinux-refresh run");
        assert!(command("x --color run stash --root list show").ends_with("refresh stash show"));
        assert_eq!(command("x --root=run status"), "ladylinux-refresh status");
        assert!(command("x stash show --x").ends_with(" stash show"));
        assert_eq!(command("x rum"), "ladylinux-refresh");
        let color = |line: &str| color(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(color("run --color never -x"), ColorWhen::Never);
        assert_eq!(color("run --color=always --colour"), ColorWhen::Always);
        assert_eq!(color("run --color"), ColorWhen::Auto);
        for line in ["run -- --json", "run json", "run --json --format human", "status --format json"] {
            assert!(!json(line), "{line}");
        }
        assert!(!json("--root run status --format json"));
    }
}
