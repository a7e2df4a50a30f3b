//! Words of commands that people are told to type. A name may be anybody's choice, and what it holds must stay one word
//! when the command is pasted.

use std::path::Path;

/// Writes a word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes a path as a shell takes it.
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_they_must_be() {
        assert_eq!(quoted("/tmp/demo-0"), "/tmp/demo-0");
        assert_eq!(quoted("--bundle=/tmp/it"), "--bundle=/tmp/it");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("a;$(reboot)"), "'a;$(reboot)'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted_path(Path::new("/a b")), "'/a b'");
    }
}
