//! How values are written as text: words of a shell command, numbers with units, text from elsewhere without control
//! characters. The module touches nothing.

use std::path::{Path, PathBuf};

/// Returns a word quoted for a shell. A name from outside remains one word when its command is pasted.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns a path quoted for a shell.
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Returns the name to which a person can move a file or directory out of the way: its own name with `.old`.
pub fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// Returns a duration in milliseconds as text for people: `48 ms`, `2.71 s`, `3 min 05 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        _ => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// Returns a number of things in words: `1 package`, `2 packages`, `2 directories`.
pub fn count(number: usize, thing: &str) -> String {
    match thing.strip_suffix('y') {
        _ if number == 1 => format!("1 {thing}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        _ => format!("{number} {thing}s"),
    }
}

/// Returns a number of bytes as text for people.
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

/// Escapes the control and bidirectional characters of text from elsewhere: they could redraw a terminal or reverse a
/// line.
pub fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) && c != '\t' && c != '\n' { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// Escapes as [`harmless`] does, and line breaks too: for text that must stay on one line.
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n")
}

/// Returns whether a terminal obeys a character instead of showing it: a control character, one that ends a line, or
/// one that changes the direction of the following text. Source: Unicode Standard Annex #9, 2.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a package name as indexes compare it: lower case, runs of `-`, `_` and `.` as one dash (PEP 503).
pub fn normal_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        if !"-_.".contains(c) {
            normal.push(c.to_ascii_lowercase());
        } else if !normal.ends_with('-') {
            normal.push('-');
        }
    }
    normal
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
    fn escape_sequences_of_others_are_shown_and_not_executed() {
        assert_eq!(harmless("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(harmless("a\u{85}b\u{202e}c\u{2028}d\ne\tf"), "a\\u{85}b\\u{202e}c\\u{2028}d\ne\tf");
        assert_eq!(harmless("\u{e4}\u{4e2d}"), "\u{e4}\u{4e2d}");
        assert_eq!(harmless_line("a\ngood  b"), "a\\ngood  b");
    }

    #[test]
    fn words_are_quoted_only_if_necessary() {
        assert_eq!(quoted("/tmp/demo-0"), "/tmp/demo-0");
        assert_eq!(quoted("--bundle=/tmp/it"), "--bundle=/tmp/it");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("a;$(reboot)"), "'a;$(reboot)'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted_path(Path::new("/a b")), "'/a b'");
    }
}
