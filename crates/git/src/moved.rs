//! The URL to which a remote redirected the last fetch: text of others, which is checked and only ever printed. The module
//! may touch `mirror.git`.

use std::path::Path;

use refresh_settings::{RemoteUrl, Transport};
use refresh_system::disk;
use refresh_system::error::Outcome;

use super::mirror::Mirror;
use super::mirror_call::Call;

/// The file in the mirror with the URL.
const FILE: &str = "remote-moved";
/// The beginning of the line in which git reports a redirect.
const REPORT: &str = "warning: redirecting to ";
/// A longer URL is of no use to a person.
const LONGEST: usize = 300;

impl Mirror {
    /// Returns the URL to which the remote redirected the last fetch; `None` if it did not, or if that is the URL of the
    /// settings.
    ///
    /// # Errors
    /// The mirror cannot be read.
    pub fn moved_to(&self) -> Outcome<Option<String>> {
        let text = match &self.unit {
            Some(unit) => unit.ask::<Option<String>>(Call::MovedTo)?,
            None => self.moved_to_here()?,
        };
        // The unit reads data of others, so its answer is checked like theirs.
        let moved = text.as_deref().and_then(checked);
        Ok(moved.filter(|moved| self.shown_url().is_none_or(|configured| !is_same(moved, &configured))))
    }

    pub(super) fn moved_to_here(&self) -> Outcome<Option<String>> {
        let bytes = disk::read_if_there(&self.path.join(FILE))?;
        Ok(bytes.and_then(|bytes| checked(&String::from_utf8_lossy(&bytes))))
    }
}

/// Records where the remote redirected a fetch, by the output of git.
///
/// # Errors
/// The mirror cannot be written.
pub(super) fn record(mirror: &Path, output: &[u8]) -> Outcome<()> {
    let file = mirror.join(FILE);
    match parse(&String::from_utf8_lossy(output)) {
        Some(url) => disk::replace_file(&file, url.as_bytes(), 0o644),
        None => disk::remove_file_if_there(&file),
    }
}

/// Returns the URL of the last redirect in the output of git.
fn parse(output: &str) -> Option<String> {
    output.lines().rev().find_map(|line| line.strip_prefix(REPORT)).and_then(checked)
}

/// Returns a URL without credentials and final slash; `None` if it is not one that a remote can have.
fn checked(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches('/');
    if text.len() > LONGEST || !text.chars().all(|c| c.is_ascii_graphic() && !"\"'`\\$".contains(c)) {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let (place, path) = rest.split_once('/')?;
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    let url = RemoteUrl::parse(&format!("{scheme}://{host}/{path}"), &[Transport::Http]).ok()?;
    matches!(url.transport, Transport::Https | Transport::Http).then_some(url.text)
}

/// Returns whether two URLs name the same repository. A forge always redirects from a URL without `.git`.
fn is_same(moved: &str, configured: &str) -> bool {
    let plain = |url: &str| checked(url).map(|url| url.trim_end_matches(".git").to_owned());
    plain(configured).is_some_and(|configured| plain(moved) == Some(configured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_differs_only_in_its_ending_or_user_is_the_same() {
        let moved = "https://h/you/app.git";
        for same in [moved, "https://h/you/app", "https://h/you/app/", "https://me@h/you/app.git"] {
            assert!(is_same(moved, same), "{same}");
        }
        for other in
            ["http://h/you/app.git", "https://h/you/app2", "https://x/you/app", "ssh://h/you/app.git"]
        {
            assert!(!is_same(moved, other), "{other}");
        }
    }

    fn parsed(url: &str) -> Option<String> {
        parse(&format!("remote: hello\n{REPORT}{url}\nfatal: later\n"))
    }

    #[test]
    fn the_url_of_a_redirect_is_read_without_its_credentials() {
        for (url, expected) in [
            ("https://new.example/app.git/", "https://new.example/app.git"),
            ("http://127.0.0.1:81/app", "http://127.0.0.1:81/app"),
            ("https://me:secret@new.example/app.git", "https://new.example/app.git"),
            ("https://secret@new.example/app.git", "https://new.example/app.git"),
        ] {
            assert_eq!(parsed(url).as_deref(), Some(expected), "{url}");
        }
        assert_eq!(parse("From https://h/app\n"), None);
    }

    #[test]
    fn a_redirect_to_a_text_that_could_mislead_a_person_or_a_shell_is_dropped() {
        let long = format!("https://h/{}", "a".repeat(LONGEST));
        for url in [
            "ssh://h/app",
            "file:///etc/passwd",
            "ext::sh -c id",
            "https://h/a b",
            "https://h/$(id)",
            "https://h/`id`",
            "https://h/a\"; x = \"",
            "https://h/a\\",
            "https://-o/app",
            "https://h/\u{1b}[31m",
            "https://h/\u{202e}app",
            "https://",
            "",
            &long,
        ] {
            assert_eq!(parsed(url), None, "{url}");
        }
    }
}
