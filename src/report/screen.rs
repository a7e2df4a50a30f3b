//! The one door to standard output and standard error.
//!
//! A closed output, a full disk behind a redirection or a terminal that went away never ends a run: lines that cannot be
//! written are dropped, and the reports on disk stay complete. A command whose product is its output asks [`lost`] at its end.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anstyle::{AnsiColor, Style};

use crate::settings::environment;

static COLOUR: AtomicBool = AtomicBool::new(false);

/// Why standard output has lost something, the number of the error.
static LOST: AtomicI32 = AtomicI32::new(0);

/// The width of lines in a file or a pipe, in columns.
const WIDTH: usize = 80;

/// Decides once whether to colour: on a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
pub fn settle_colour() {
    let wanted = std::io::stdout().is_terminal()
        && environment::variable("NO_COLOR").is_none()
        && environment::variable("TERM").is_none_or(|term| term != "dumb");
    COLOUR.store(wanted, Ordering::Relaxed);
}

/// Returns whether standard output is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns whether one of the three standard streams is a terminal.
pub fn is_on_terminal() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}

/// Writes a line to standard output.
pub fn say(line: &str) {
    write_all(&[line.as_bytes(), b"\n"]);
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

/// Returns why standard output has lost something; `None` if it has lost nothing, or if its reader has gone.
pub fn lost() -> Option<std::io::Error> {
    let number = LOST.load(Ordering::Relaxed);
    let error = (number != 0).then(|| std::io::Error::from_raw_os_error(number));
    error.filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
}

/// Returns how many columns a line of standard output has: those of the terminal, at least 40; 80 without one.
pub fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok().filter(|_| is_terminal());
    size.map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .map_or(WIDTH, |columns| columns.max(40))
}

/// Returns the beginning of a text that fits into so many columns, with an ellipsis if the text is longer.
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// Writes a line to standard error.
pub fn complain(line: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n"));
}

/// What a piece of text is, which decides how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Success.
    Good,
    /// Failure.
    Bad,
    /// Something to look at.
    Warning,
    /// Less important.
    Quiet,
    /// A heading or a name.
    Strong,
}

/// Colours text, where output is coloured.
pub fn paint(tone: Tone, text: &str) -> String {
    if !COLOUR.load(Ordering::Relaxed) {
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

/// Writes a duration given in milliseconds as people read it: `48 ms`, `2.71 s`, `3 min 05 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        _ => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// Writes a number of things: `1 package`, `2 packages`.
pub fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Writes a number of bytes as people read it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut whole = bytes;
    let mut tenths = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{tenths} {}", UNITS[unit]) }
}

/// Makes text from elsewhere safe to show: characters that could redraw a terminal, or turn a line round, become visible.
pub fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && c != '\t' && c != '\n' { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// Does so for text that is part of a line, and must not make another one.
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n")
}

/// Returns whether a terminal obeys a character instead of showing it: a control character, one that ends a line, or one that
/// changes the direction of what follows. Source: Unicode Standard Annex #9, 2.
pub(super) fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_carry_their_unit() {
        assert_eq!(duration(48), "48 ms");
        assert_eq!(duration(2_714), "2.71 s");
        assert_eq!(duration(185_000), "3 min 05 s");
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }

    #[test]
    fn escape_sequences_of_others_are_shown_not_obeyed() {
        assert_eq!(harmless("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(harmless("a\u{85}b\u{202e}c\u{2028}d\ne\tf"), "a\\u{85}b\\u{202e}c\\u{2028}d\ne\tf");
        assert_eq!(harmless("\u{e4}\u{4e2d}"), "\u{e4}\u{4e2d}");
        assert_eq!(harmless_line("a\ngood  b"), "a\\ngood  b");
    }
}
