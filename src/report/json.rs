//! JSON on standard output: events as lines, and the results of commands as one value.
//!
//! Programs read it, but people also view it on terminals. Control characters of terminals are escaped, and read back
//! as the same text: JSON itself requires that only for the first control characters.

use std::fmt::Write as _;

use serde::Serialize;

use refresh_events::event::{Event, Subscriber};
use refresh_system::text::acts;

use refresh_system::screen;

/// Writes every event as a line of JSON.
#[derive(Debug, Default)]
pub struct Json;

impl Subscriber for Json {
    fn take(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            screen::print_line(&escaped(&line));
        }
    }
}

/// Returns a value as JSON for people and programs.
pub fn pretty(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// Returns a value as JSON on one line.
pub fn line(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string(value).unwrap_or_default())
}

/// Escapes the control characters of terminals, and characters that a locale without UTF-8 cannot show. Outside
/// strings, JSON has none of these characters except the ends of its lines.
fn escaped(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    let is_escaped = |c: char| (acts(c) && c != '\n') || (screen::is_ascii() && !c.is_ascii());
    for c in json.chars() {
        if is_escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_are_escaped_and_read_back_unchanged() {
        let text = "a\u{7f}b\u{9b}2Jc\u{202e}d\ne\u{1b}f\u{e4}";
        let json = pretty(&[text]);
        assert!(json.chars().all(|c| c == '\n' || !acts(c)), "{json:?}");
        assert!(json.contains("\\u009b") && json.contains('\u{e4}'), "{json:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }
}
