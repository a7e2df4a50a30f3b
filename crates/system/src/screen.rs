//! The only module that writes to standard output and standard error.
//!
//! A closed output, a full disk behind a redirection or a terminal that went away never ends a run: lines that cannot
//! be written are dropped, and the reports on disk stay complete. A command whose product is its output checks [`lost`]
//! at its end.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anstyle::{AnsiColor, Style};

use crate::environment;
use crate::text::harmless_line;

/// Whether standard output is coloured.
static COLOUR_OUT: AtomicBool = AtomicBool::new(false);

/// Whether standard error is coloured.
static COLOUR_ERR: AtomicBool = AtomicBool::new(false);

/// Whether only warnings and results are written.
static QUIET: AtomicBool = AtomicBool::new(false);

/// The number of the error because of which standard output has lost something; 0 if it has not.
static LOST: AtomicI32 = AtomicI32::new(0);

/// The width of lines in a file or a pipe, in columns.
const WIDTH: usize = 80;

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorWhen {
    /// Returns whether a stream is coloured. `NO_COLOR` and `CLICOLOR_FORCE` count if the command line has no choice.
    fn applies(self, is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if variable("NO_COLOR").is_some() => false,
            Self::Auto if variable("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => is_terminal && variable("TERM").is_some_and(|term| term != "dumb"),
        }
    }
}

/// Decides once, for each stream, whether to colour it.
pub fn choose_color(color: ColorWhen) {
    COLOUR_OUT
        .store(color.applies(std::io::stdout().is_terminal(), environment::variable), Ordering::Relaxed);
    COLOUR_ERR
        .store(color.applies(std::io::stderr().is_terminal(), environment::variable), Ordering::Relaxed);
}

/// Makes the program write only warnings and results.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Returns whether only warnings and results are written.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Returns a line for a stream, without the sequences of [`paint`] if that stream is not coloured.
fn for_stream<'a>(line: &'a str, is_coloured: &AtomicBool) -> Cow<'a, str> {
    if is_coloured.load(Ordering::Relaxed) || !line.contains(ESCAPE) {
        line.into()
    } else {
        plain(line).into()
    }
}

/// The beginning of a sequence of [`paint`].
const ESCAPE: &str = "\u{1b}[";

/// Returns a text without the sequences of [`paint`].
fn plain(text: &str) -> String {
    let mut parts = text.split(ESCAPE);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// Returns whether standard output is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns whether one of the three standard streams is a terminal.
pub fn is_on_terminal() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}

/// Writes a line to standard output, with the symbols that the locale can show.
pub fn print_line(line: &str) {
    write_all(&[for_stream(&spelled(line), &COLOUR_OUT).as_bytes(), b"\n"]);
}

/// Writes lines to standard output.
pub fn print_lines(lines: &[String]) {
    for line in lines {
        print_line(line);
    }
}

/// Writes bytes to standard output as they are.
pub fn write(bytes: &[u8]) {
    write_all(&[bytes]);
}

fn write_all(parts: &[&[u8]]) {
    let mut out = std::io::stdout().lock();
    let written = parts.iter().try_for_each(|part| out.write_all(part)).and_then(|()| out.flush());
    if let Err(error) = written {
        let number = error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
        LOST.store(number, Ordering::Relaxed);
    }
}

/// Returns the error because of which standard output has lost something; `None` if it has lost nothing, or if its
/// reader has gone.
pub fn lost() -> Option<std::io::Error> {
    let number = LOST.load(Ordering::Relaxed);
    let error = (number != 0).then(|| std::io::Error::from_raw_os_error(number));
    error.filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
}

/// Returns whether standard output has accepted everything so far: its reader still exists, and its disk is not full.
pub fn is_taken() -> bool {
    LOST.load(Ordering::Relaxed) == 0
}

/// Returns how many columns a table has: those of `COLUMNS`, else those of the terminal; 80 if neither exists.
pub fn width() -> usize {
    columns().unwrap_or(WIDTH)
}

/// Returns at how many columns text is divided. In a file or a pipe it is not divided: a sentence stays on one line.
pub fn text_width() -> usize {
    columns().unwrap_or(usize::MAX)
}

/// Returns the columns of `COLUMNS`, else those of the terminal, at least 40.
fn columns() -> Option<usize> {
    let named = environment::variable("COLUMNS").and_then(|columns| columns.parse().ok());
    let terminal = || {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok().filter(|_| is_terminal());
        size.map(|size| usize::from(size.ws_col))
    };
    let columns: Option<usize> = named.or_else(terminal).filter(|columns| *columns > 0);
    columns.map(|columns| columns.max(40))
}

/// The symbols of this program, and how each is spelled in ASCII.
const SYMBOLS: [(char, &str); 7] =
    [('✓', "+"), ('✗', "x"), ('·', "-"), ('•', "*"), ('→', "->"), ('…', "..."), ('█', "#")];

/// Whether the locale has characters other than those of ASCII. Without a locale, as in a unit or a job, `true`.
static HAS_UTF8: LazyLock<bool> = LazyLock::new(|| {
    let of_variable = |name| environment::variable(name).filter(|value: &String| !value.is_empty());
    ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(of_variable).is_none_or(|locale| is_utf8(&locale))
});

/// Returns whether the encoding of a locale (`en_US.UTF-8`, `C`) is UTF-8.
fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Returns whether output is limited to ASCII.
pub fn is_ascii() -> bool {
    !*HAS_UTF8
}

/// Returns a text with the symbols of this program as the locale can show them. Other characters are left to the
/// terminal.
pub fn spelled(text: &str) -> Cow<'_, str> {
    if is_ascii() { in_ascii(text) } else { Cow::Borrowed(text) }
}

fn in_ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match SYMBOLS.iter().find(|(symbol, _)| *symbol == letter) {
            Some((_, ascii)) => plain.push_str(ascii),
            None => plain.push(letter),
        }
    }
    Cow::Owned(plain)
}

/// Returns the beginning of a text that fits into so many columns, with an ellipsis if the text is longer.
pub fn cut(text: &str, columns: usize) -> String {
    let (text, ellipsis) = (spelled(text), spelled("…"));
    if text.chars().count() <= columns {
        return text.into_owned();
    }
    let shown = columns.saturating_sub(ellipsis.chars().count());
    text.chars().take(shown).chain(ellipsis.chars()).collect()
}

/// How wide the labels of facts are, with the space before and the one after them.
const LABEL: usize = 15;

/// Returns a labelled fact as lines of at most `width` columns. A word that is longer than a line, such as a path, is
/// not divided, and neither is a command, which people copy.
pub fn fact(label: &str, text: &str, width: usize) -> Vec<String> {
    let is_command = text.strip_prefix("sudo ").unwrap_or(text).starts_with("ladylinux-refresh ");
    let width = if is_command { usize::MAX } else { width };
    let mut lines = wrapped(text, width.saturating_sub(LABEL)).into_iter();
    let first = lines.next().unwrap_or_default();
    let first = format!("  {label:<12} {first}");
    let rest = lines.map(|line| format!("{:LABEL$}{line}", ""));
    std::iter::once(first.trim_end().to_owned()).chain(rest).collect()
}

/// Lines of labelled facts, of at most `width` columns.
#[derive(Debug)]
pub struct Facts {
    /// The lines so far.
    pub lines: Vec<String>,
    width: usize,
}

impl Facts {
    /// Begins with a sentence.
    pub fn new(verdict: &str, width: usize) -> Self {
        Self { lines: wrapped(verdict, width), width }
    }

    /// Adds a fact. Without a label it continues the previous fact.
    pub fn add(&mut self, label: &str, text: &str) {
        self.lines.extend(fact(label, text, self.width));
    }

    /// Adds the first of `count` items, one a line, and how many more there are.
    pub fn list(&mut self, label: &str, items: impl Iterator<Item = String>, count: usize, named: usize) {
        for (index, item) in items.take(named).enumerate() {
            self.add(if index == 0 { label } else { "" }, &harmless_line(&item));
        }
        if count > named {
            self.add("", &format!("and {} more", count - named));
        }
    }

    /// Adds the command to type next, on one line.
    pub fn next(&mut self, command: &str) {
        self.lines.extend(fact("next", &paint(Tone::Strong, &harmless_line(command)), usize::MAX));
    }
}

/// Returns a table with a header. The columns are as wide as their longest cell; the last one is cut at `width`.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]], width: usize) -> Vec<String> {
    let mut columns = header.map(columns_of);
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row) {
            *column = (*column).max(columns_of(cell));
        }
    }
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (index, (cell, column)) in cells.iter().zip(columns).enumerate() {
            if index + 1 == N {
                line.push_str(&cut(cell, width.saturating_sub(columns_of(&line))));
            } else {
                let gap = column.saturating_sub(columns_of(cell)) + 2;
                line.push_str(&format!("{cell}{:gap$}", ""));
            }
        }
        line.trim_end().to_owned()
    };
    std::iter::once(line(header))
        .chain(rows.iter().map(|row| line(row.each_ref().map(String::as_str))))
        .collect()
}

/// Divides a text at its spaces into lines of at most `columns` columns. A number stays with its unit.
pub fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in spelled(text).lines() {
        let mut words: Vec<String> = Vec::new();
        let inner = paragraph.trim_start_matches(' ');
        let indent = paragraph.len() - inner.len();
        for word in inner.split(' ') {
            match words.last_mut() {
                Some(number) if is_unit(word) => number.push_str(&format!(" {word}")),
                _ => words.push(word.to_owned()),
            }
        }
        let mut line = " ".repeat(indent);
        for word in words {
            if line.len() > indent && columns_of(&line) + 1 + columns_of(&word) > columns {
                lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            } else if line.len() > indent {
                line.push(' ');
            }
            line.push_str(&word);
        }
        lines.push(line);
    }
    lines
}

/// Returns whether a word is a unit of time, with or without a punctuation mark behind it.
fn is_unit(word: &str) -> bool {
    ["ms", "s", "min"].contains(&word.trim_end_matches([',', ';', ':', ')']))
}

/// Returns how many columns a text takes, without its colours.
pub(crate) fn columns_of(text: &str) -> usize {
    let mut columns = 0;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            columns += 1;
        }
    }
    columns
}

/// Writes a line to standard error, with the symbols that the locale can show.
pub fn print_to_stderr(line: &str) {
    let mut out = std::io::stderr().lock();
    let line = spelled(line);
    let line = for_stream(&line, &COLOUR_ERR);
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// The meaning of a piece of text, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Success.
    Good,
    /// Failure.
    Bad,
    /// Something to check.
    Warning,
    /// Less important.
    Quiet,
    /// A heading or a name.
    Strong,
}

/// Colours text, if output is coloured. Writing to a stream without colours removes them.
pub fn paint(tone: Tone, text: &str) -> String {
    if !COLOUR_OUT.load(Ordering::Relaxed) && !COLOUR_ERR.load(Ordering::Relaxed) {
        return text.to_owned();
    }
    let style = match tone {
        Tone::Good => Style::new().fg_color(Some(AnsiColor::Green.into())),
        Tone::Bad => Style::new().fg_color(Some(AnsiColor::Red.into())).bold(),
        Tone::Warning => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
        Tone::Quiet => Style::new().dimmed(),
        Tone::Strong => Style::new().bold(),
    };
    format!("{style}{text}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_have_a_spelling_in_ascii_and_the_encoding_of_a_locale_is_read_from_its_name() {
        assert_eq!(in_ascii("✓ · a → b … █"), "+ - a -> b ... #");
        assert!(["C.UTF-8", "en_US.utf8", "de_DE.UTF-8@euro"].into_iter().all(is_utf8));
        assert!(!["C", "POSIX", "de_DE.ISO-8859-1"].into_iter().any(is_utf8));
    }

    #[test]
    fn a_long_fact_is_divided_at_spaces_and_a_long_word_stays_one() {
        let lines = fact("hint", "one two /a/very/long/path three", 24);
        assert_eq!(
            lines,
            ["  hint         one two", "               /a/very/long/path", "               three"]
        );
        for command in ["ladylinux-refresh run main", "sudo ladylinux-refresh run main"] {
            assert_eq!(fact("next", command, 24), [format!("  next         {command}")]);
        }
        assert_eq!(wrapped("a:\n    raise the error", 13), ["a:", "    raise the", "    error"]);
        assert_eq!(wrapped("stop 15 ms, start 302 ms", 22), ["stop 15 ms, start", "302 ms"]);
        assert_eq!(fact("run", "", 80), ["  run"]);
        assert_eq!(columns_of("\u{1b}[32mgood\u{1b}[0m"), 4);
    }

    #[test]
    fn the_command_line_decides_about_color_then_the_environment_then_the_terminal() {
        let applies = |color: ColorWhen, is_terminal: bool, set: &[(&str, &str)]| {
            color.applies(is_terminal, |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let (auto, term) = (ColorWhen::Auto, ("TERM", "xterm"));
        assert!(applies(auto, true, &[term]) && !applies(auto, false, &[term]));
        assert!(!applies(auto, true, &[]) && !applies(auto, true, &[("TERM", "dumb")]));
        assert!(applies(auto, false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!applies(auto, false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!applies(auto, true, &[term, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]));
        assert!(applies(ColorWhen::Always, false, &[("NO_COLOR", "1")]));
        assert!(!applies(ColorWhen::Never, true, &[term, ("CLICOLOR_FORCE", "1")]));
    }

    #[test]
    fn a_stream_without_color_gets_the_text_alone() {
        let style = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        assert_eq!(plain(&format!("{style}error{style:#}: [m]")), "error: [m]");
        assert_eq!(plain("m"), "m");
    }
}
