//! The output on a terminal of 80 columns, compared with the files of `tests/data/screens/`. Parts that differ from run
//! to run (IDs, commits, times, ports, paths) are replaced first. `LADYLINUX_REFRESH_UPDATE_SCREENS=1` writes the
//! files.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests create the input of the program")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::commands;
use crate::host::{Host, Ran, git, ran};
use crate::refresh::help::hook;

/// The length of the longest line in columns, unless a command or a path is longer.
const WIDTH: usize = 80;

/// Compares a text with the file of this name, or writes the file.
#[track_caller]
fn matches_screen(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/screens").join(format!("{name}.txt"));
    if std::env::var_os("LADYLINUX_REFRESH_UPDATE_SCREENS").is_some() {
        fs::write(&file, text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    let differs = |(now, before): &(&str, &str)| now != before;
    let first = text.lines().zip(expected.lines()).find(differs);
    assert!(text == expected, "{} differs, at first in {first:?}; now it is:\n{text}", file.display());
}

#[test]
fn help_of_each_command_is_the_expected_one_at_80_columns() {
    let mut names = Vec::new();
    for (words, _) in commands() {
        let mut command = std::process::Command::new(crate::host::program());
        command.args(&words).arg("--help").env_clear().env("COLUMNS", "80");
        let help = ran(command.output().unwrap()).expect(0).out;
        let long = help.lines().find(|line| line.chars().count() > WIDTH);
        assert_eq!(long, None, "{words:?}");
        let name = ["help".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join("-");
        matches_screen(&name, &help);
        names.push(format!("{name}.txt"));
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/screens");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name());
    let stale = files.filter(|file| file.to_string_lossy().starts_with("help"));
    let stale: Vec<_> = stale.filter(|file| !names.iter().any(|name| file == name.as_str())).collect();
    assert!(stale.is_empty(), "{stale:?}: no command has these names");
}

/// A host, and the commits that it has seen.
struct Stage {
    host: Host,
    commits: Vec<String>,
}

impl Stage {
    fn push(&mut self, subject: &str, files: &[(&str, &str)]) {
        for (path, text) in files {
            fs::write(self.host.work().join(path), text).unwrap();
        }
        let work = self.host.work();
        git(&work, ["add", "--all"]);
        git(&work, ["commit", "--quiet", "--author", "Jo Doe <jo@localhost>", "--message", subject]);
        git(&work, ["push", "--quiet", "origin", "HEAD"]);
        self.commits.push(git(&work, ["rev-parse", "HEAD"]));
    }

    /// Runs a command with variables, and returns all of its output in the form of the files.
    #[track_caller]
    fn screen(&self, arguments: &[&str], variables: &[(&str, &str)], code: i32) -> String {
        // Runs of one second have longer IDs in the list.
        std::thread::sleep(std::time::Duration::from_millis(
            if ["run", "rollback"].contains(&arguments[0]) { 1000 } else { 0 },
        ));
        let mut command = self.host.command(arguments);
        let output = command.env("COLUMNS", "80").envs(variables.iter().copied()).output().unwrap();
        let printed: Ran = ran(output).expect(code);
        let columns = variables.iter().find(|(name, _)| *name == "COLUMNS");
        fits(&printed.all(), columns.map_or(WIDTH, |(_, columns)| columns.parse().unwrap()));
        let prompt = format!("$ ladylinux-refresh {}\n", arguments.join(" "));
        normal(&format!("{prompt}{}", printed.all()), self)
    }

    #[track_caller]
    fn matches(&self, name: &str, arguments: &[&str], code: i32) {
        matches_screen(name, &self.screen(arguments, &[], code));
    }
}

/// Checks that lines fit, except those with a command, a path, or output of other programs.
#[track_caller]
fn fits(text: &str, columns: usize) {
    let long = text.lines().find(|line| {
        let is_free = line.contains("ladylinux-refresh ") || line.contains('/') || line.contains("| ");
        line.chars().count() > columns && !is_free
    });
    assert_eq!(long, None, "{text}");
}

#[test]
fn status_plan_runs_and_history_are_the_expected_ones_at_80_columns_and_readable_at_others() {
    let mut stage = Stage { host: Host::bare(), commits: Vec::new() };
    let server = crate::host::SERVER;
    stage.push(
        "Serve notes",
        &[("server.py", server), ("version.txt", "one\n"), ("requirements.txt", "six==1.16.0\n")],
    );
    stage.host.init();
    stage.matches("status-new", &["status"], 0);
    stage.matches("run-first", &["run"], 0);

    stage.push("Show the age of a note instead of its date", &[("version.txt", "two\n")]);
    let requirements = "six==1.17.0\niniconfig==2.0.0\n";
    let migrate = hook("migrate", "migration", &["true"], "");
    stage.push("Migrate the notes", &[("requirements.txt", requirements), ("refresh.toml", &migrate)]);
    stage.host.write("todo.txt", "mine\n");
    stage.matches("plan", &["plan"], 0);
    stage.matches("status-local-changes", &["status"], 0);
    stage.matches("run", &["run"], 0);
    stage.matches("plan-nothing", &["plan"], 0);
    stage.matches("status", &["status"], 0);
    stage.matches("history-run", &["history", "latest"], 0);

    let broken = hook("migrate", "migration", &["sh", "-c", "echo no such table: notes >&2; exit 9"], "");
    stage.push("Let notes be pinned", &[("refresh.toml", &broken)]);
    stage.matches("run-halted", &["run"], 1);
    stage.matches("status-halted", &["status"], 0);
    stage.matches("service-start-fenced", &["service", "start"], 3);
    stage.matches("rollback-dry-run", &["rollback", "--dry-run"], 0);
    stage.matches("rollback", &["rollback"], 0);
    stage.matches("run-refused", &["run", "mian"], 3);
    stage.matches("history", &["history"], 0);

    for columns in ["60", "120"] {
        let variables = [("COLUMNS", columns)];
        for (name, arguments) in [("history", &["history"][..]), ("status", &["status"])] {
            let text = stage.screen(arguments, &variables, 0);
            matches_screen(&format!("{name}-{columns}"), &text);
        }
    }
    stage.push("Let notes be pinned again", &[("refresh.toml", "")]);
    for columns in ["60", "120"] {
        let text = stage.screen(&["run"], &[("COLUMNS", columns)], 0);
        // The rest is divided at the ends of its numbers.
        let view: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Refreshed")).collect();
        matches_screen(&format!("run-{columns}"), &(view.join("\n") + "\n"));
    }
    for locale in [("LC_ALL", "C"), ("LANG", "C")] {
        for (name, arguments, code) in [
            ("history-ascii", &["history"][..], 0),
            ("plan-ascii", &["plan"], 0),
            ("run-ascii", &["run", "mian"], 3),
        ] {
            // The first locale adds a refused run, which the list of the second one would have.
            if locale.0 == "LANG" && name == "history-ascii" {
                continue;
            }
            let text = stage.screen(arguments, &[locale], code);
            assert!(text.is_ascii(), "{text}");
            matches_screen(name, &text);
        }
    }
    let json = stage.host.command(["plan", "--json"]).env("LC_ALL", "C").output().unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(plan["branch"], "main");
}

/// Returns a text with constants for all parts that differ from run to run. The columns after them stay in their
/// positions.
fn normal(text: &str, stage: &Stage) -> String {
    let directory: PathBuf = stage.host.layout.root().parent().unwrap().to_path_buf();
    let text = text.replace(&directory.display().to_string(), "/tmp/.tmpABCDEF");
    text.lines().map(|line| normal_line(line, stage).trim_end().to_owned() + "\n").collect()
}

fn normal_line(line: &str, stage: &Stage) -> String {
    let mut line = line.to_owned();
    for (commit, letter) in stage.commits.iter().zip('a'..) {
        let name: String = std::iter::repeat_n(letter, 10).collect();
        line = line.replace(&commit[..10], &name).replace(&commit[..7], &name[..7]);
    }
    line = line.replace(&format!(":{}/", stage.host.port), ":8000/");
    if let Some(start) = line.find('█') {
        let bar = line[start..].chars().take_while(|letter| *letter == '█').count();
        line = line.replacen(&format!("{:12}", "█".repeat(bar)), &"█".repeat(12), 1);
    }
    if let Some(start) = line.find("(HTTP 200), s").filter(|_| line.contains('…')) {
        // The length of the part that fits depends on the durations before it.
        line = format!("{}… 1.00 s", &line[..start]);
    }
    line = replaced(&line, cut_environment, |found| {
        format!("{}…", &"0123456789abcdef"[..found - '…'.len_utf8()])
    });
    line = replaced(&line, run_id, |found| {
        "20260102T030405678Z-1234"[..if found == 15 { 15 } else { 24 }].to_owned()
    });
    line =
        replaced(&line, |text| digits(text, "dddd-dd-ddTdd:dd:ddZ"), |_| "2026-01-02T03:04:05Z".to_owned());
    line = replaced(&line, |text| digits(text, "dddd-dd-dd dd:dd:dd"), |_| "2026-01-02 03:04:05".to_owned());
    line = replaced(&line, |text| digits(text, "dddd-dd-dd dd:dd"), |_| "2026-01-02 03:04".to_owned());
    line = replaced(&line, environment, |_| "0123456789abcdef-1".to_owned());
    line = replaced(&line, |text| hex(text, 64), |_| "0".repeat(64));
    line = replaced(&line, |text| after(text, "cpython ", "0123456789."), |_| "cpython 3.12.0".to_owned());
    line = replaced(&line, |text| after(text, "pid ", "0123456789"), |_| "pid 1234".to_owned());
    replaced(&line, duration, |_| "1.00 s".to_owned())
}

/// Replaces the texts that `length` finds at the beginning of a word. A gap of several spaces after such a text absorbs
/// the difference; so does the gap before a duration at the end of a line, which is aligned to the right.
fn replaced(line: &str, length: fn(&str) -> Option<usize>, with: fn(usize) -> String) -> String {
    let mut done = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let is_start = !done.ends_with(|last: char| last.is_ascii_alphanumeric());
        let Some(found) = length(rest).filter(|_| is_start) else {
            done.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let new = with(found);
        let after = &rest[found..];
        let gap = after.find("  ").filter(|_| !after.trim_end().is_empty());
        if let Some(gap) = gap {
            let spaces = after[gap..].len() - after[gap..].trim_start_matches(' ').len();
            let wanted = (spaces + found).saturating_sub(new.len()).max(1);
            let (before_gap, behind_gap) = (&after[..gap], &after[gap + spaces..]);
            done.push_str(&new);
            // The text before the gap may contain more parts to replace.
            let remainder = format!("{before_gap}{:wanted$}{behind_gap}", "");
            return done + &replaced(&remainder, length, with);
        }
        if after.is_empty() && new.ends_with(" s") && done.ends_with("  ") {
            let spaces = done.len() - done.trim_end_matches(' ').len();
            let wanted = (spaces + found).saturating_sub(new.len()).max(1);
            done.truncate(done.len() - spaces);
            done.push_str(&format!("{:wanted$}", ""));
        }
        done.push_str(&new);
        rest = after;
    }
    done
}

/// Returns the length of a text like a pattern, in which each `d` is a digit.
fn digits(text: &str, pattern: &str) -> Option<usize> {
    let is_like = |(letter, wanted): (char, char)| {
        if wanted == 'd' { letter.is_ascii_digit() } else { letter == wanted }
    };
    let is_long = text.len() >= pattern.len();
    (is_long && text.chars().zip(pattern.chars()).all(is_like)).then_some(pattern.len())
}

/// The length of a run ID, or of its beginning to the second.
fn run_id(text: &str) -> Option<usize> {
    let start = digits(text, "ddddddddTdddddd")?;
    let Some(milliseconds) = digits(text, "ddddddddTdddddddddZ-") else { return Some(start) };
    let pid = text[milliseconds..].chars().take_while(char::is_ascii_digit).count();
    Some(milliseconds + pid)
}

/// The length of so many hexadecimal digits.
fn hex(text: &str, number: usize) -> Option<usize> {
    (text.chars().take_while(char::is_ascii_hexdigit).count() == number).then_some(number)
}

/// The length of the name of an environment.
fn environment(text: &str) -> Option<usize> {
    let name = hex(text, 16)?;
    let number = text[name..].strip_prefix('-')?.chars().take_while(char::is_ascii_digit).count();
    (number > 0).then_some(name + 1 + number)
}

/// The length of the name of an environment that is cut at 60 columns.
fn cut_environment(text: &str) -> Option<usize> {
    let name = text.chars().take_while(char::is_ascii_hexdigit).count();
    text[name..].starts_with('…').then(|| name + '…'.len_utf8()).filter(|_| name > 10)
}

/// The length of a word with the letters that follow it.
fn after(text: &str, word: &str, letters: &str) -> Option<usize> {
    let rest = text.strip_prefix(word)?;
    Some(word.len() + rest.chars().take_while(|letter| letters.contains(*letter)).count())
}

/// The length of a duration: `48 ms`, `2.71 s`, `3 min 05 s`.
fn duration(text: &str) -> Option<usize> {
    let number = text.chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').count();
    if number == 0 {
        return None;
    }
    let rest = &text[number..];
    let is_end = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric());
    [" ms", " s"]
        .into_iter()
        .find_map(|unit| rest.strip_prefix(unit).filter(|rest| is_end(rest)).map(|_| number + unit.len()))
}
