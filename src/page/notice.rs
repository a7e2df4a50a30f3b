//! The content of the answers: fixed sentences, and fields of the fence's record that cannot contain text of other
//! programs (a step, a time, a commit, a run ID). Causes are not shown, because they may quote programs. It reads the
//! fence.

use std::path::Path;

use serde::{Deserialize, Serialize};

use refresh_events::run_report::Phase;
use refresh_service::fence::Halt;
use refresh_settings::names::{CommitId, RunId};
use refresh_system::{clock, disk};

use super::request::{Form, Request};

/// The largest number of bytes of a fence that are read.
const LIMIT: u64 = 64 * 1024;

/// The version of the answer for programs.
const SCHEMA: u32 = 1;

/// The page, with placeholders for the facts.
const PAGE: &str = include_str!("page.html");

/// The fields of a fence that are shown.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Shown {
    run: RunId,
    since: jiff::Timestamp,
    #[serde(default)]
    halt: Option<Halt>,
}

/// The reason why the application is not available at this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice(Option<Shown>);

/// The answer for programs.
#[derive(Debug, Serialize)]
struct Json<'a> {
    schema: u32,
    state: &'a str,
    message: &'a str,
    step: Option<&'a str>,
    since: Option<String>,
    commit: Option<&'a str>,
    run: Option<&'a str>,
    next: &'a str,
    retry_after: u32,
}

/// The meaning of a state of the fence for visitors.
struct Words {
    state: &'static str,
    title: &'static str,
    message: &'static str,
    /// The time until the next request, in seconds.
    retry_after: u32,
}

const HALTED: Words = Words {
    state: "halted",
    title: "Out of service",
    message: "An update of this application did not succeed, so it is stopped until the cause is repaired.",
    retry_after: 60,
};

const UPDATING: Words = Words {
    state: "updating",
    title: "Back in a moment",
    message: "An update of this application is in progress.",
    retry_after: 5,
};

const STOPPED: Words = Words {
    state: "stopped",
    title: "Out of service",
    message: "This application is stopped.",
    retry_after: 60,
};

/// The command to type on the host.
const NEXT: &str = "ladylinux-refresh run";

impl Notice {
    /// Reads the fence. An unreadable one still stands.
    pub(super) fn read(fence: &Path) -> Self {
        let bytes = disk::read_at_most(fence, LIMIT).ok().flatten();
        Self(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn words(&self) -> &'static Words {
        match &self.0 {
            None => &STOPPED,
            Some(shown) if shown.halt.is_some() => &HALTED,
            Some(_) => &UPDATING,
        }
    }

    /// Returns the response to a request, header and body.
    pub(super) fn response(&self, request: Request) -> Vec<u8> {
        let (kind, body) = match request.form {
            Form::Html => ("text/html", self.html()),
            Form::Json => ("application/json", self.json()),
        };
        let retry = format!("Retry-After: {}\r\n", self.words().retry_after);
        response("503 Service Unavailable", kind, &retry, &body, request.is_head)
    }

    fn halt(&self) -> Option<&Halt> {
        self.0.as_ref()?.halt.as_ref()
    }

    fn json(&self) -> String {
        let words = self.words();
        let json = Json {
            schema: SCHEMA,
            state: words.state,
            message: words.message,
            step: self.halt().map(|halt| halt.phase.into()),
            since: self.0.as_ref().map(|shown| shown.since.to_string()),
            commit: self.halt().and_then(|halt| halt.commit.as_ref()).map(CommitId::as_str),
            run: self.0.as_ref().map(|shown| shown.run.as_str()),
            next: NEXT,
            retry_after: words.retry_after,
        };
        serde_json::to_string(&json).unwrap_or_default() + "\n"
    }

    fn html(&self) -> String {
        let words = self.words();
        let mut facts = Vec::new();
        if let Some(halt) = self.halt() {
            facts.push(("Step that failed", in_words(halt.phase)));
        }
        if let Some(shown) = &self.0 {
            facts.push(("Stopped since", clock::in_words(shown.since)));
        }
        if let Some(commit) = self.halt().and_then(|halt| halt.commit.as_ref()) {
            facts.push(("Commit", commit.short().to_owned()));
        }
        if let Some(shown) = &self.0 {
            facts.push(("Run", shown.run.to_string()));
        }
        let facts: String = facts
            .into_iter()
            .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(&value)))
            .collect();
        PAGE.replace("{{RETRY}}", &words.retry_after.to_string())
            .replace("{{STATE}}", words.state)
            .replace("{{TITLE}}", words.title)
            .replace("{{MESSAGE}}", words.message)
            .replace("{{NEXT}}", NEXT)
            .replace("{{FACTS}}", &facts)
    }
}

fn in_words(phase: Phase) -> String {
    match phase.step() {
        Some(number) => format!("{number} of {}: {}", Phase::STEPS.len(), phase),
        None => phase.to_string(),
    }
}

/// Returns the response to input that is not a request, or not a supported one.
pub(super) fn refusal(status: &str) -> Vec<u8> {
    response(status, "text/plain", "", &format!("{status}\n"), false)
}

fn response(status: &str, kind: &str, extra: &str, body: &str, is_head: bool) -> Vec<u8> {
    let date = clock::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n{extra}\
         Cache-Control: no-store\r\nVary: Accept\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\
         Connection: close\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    if !is_head {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

/// Escapes text for HTML: a fact may come from another program.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_escaped() {
        assert_eq!(
            escaped("<script>a & \"b\"</script>"),
            "&lt;script&gt;a &amp; &quot;b&quot;&lt;/script&gt;"
        );
    }

    const HALTED: &str = r#"{"run":"20261129T071000Z-1","since":"2026-11-29T07:10:00Z","reason":"<b>secret</b>",
        "cause":["its last lines:\npassword=hunter2"],
        "halt":{"phase":"prepare","commit":"0123456789abcdef0123456789abcdef01234567"}}"#;

    fn notice(fence: &str) -> Notice {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fence");
        disk::write_atomic(&path, fence.as_bytes(), 0o644).unwrap();
        Notice::read(&path)
    }

    #[test]
    fn the_page_shows_the_step_the_time_and_the_commit_and_nothing_that_a_program_wrote() {
        let page = notice(HALTED).html();
        for shown in ["4 of 6: prepare", "2026-11-29 07:10:00 UTC", "ladylinux-refresh run", "0123456"] {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
        for hidden in ["secret", "hunter2", "{{"] {
            assert!(!page.contains(hidden), "{hidden} is in {page}");
        }
        let json: serde_json::Value = serde_json::from_str(&notice(HALTED).json()).unwrap();
        assert_eq!((&json["state"], &json["step"]), (&"halted".into(), &"prepare".into()));
        assert_eq!(json["commit"], "0123456789abcdef0123456789abcdef01234567");
        assert_eq!(json["since"], "2026-11-29T07:10:00Z");
        assert!(!json.to_string().contains("secret") && !json.to_string().contains("hunter2"));
    }

    #[test]
    fn a_run_in_progress_is_an_update_and_a_torn_fence_only_a_stop() {
        let under_way = r#"{"run":"20261129T071000Z-1","since":"2026-11-29T07:10:00Z","reason":"x"}"#;
        assert_eq!(notice(under_way).words().state, "updating");
        for torn in ["", "{", "[]", r#"{"run":"../../x","since":"2026-11-29T07:10:00Z"}"#] {
            let notice = notice(torn);
            assert_eq!(notice.words().state, "stopped", "{torn}");
            assert!(notice.html().contains("ladylinux-refresh run"));
        }
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("fence");
        disk::write_atomic(&large, &vec![b' '; 70_000], 0o644).unwrap();
        assert_eq!(Notice::read(&large), Notice(None));
    }

    #[test]
    fn the_answer_for_programs_keeps_its_schema() {
        let schema = serde_json::from_str(include_str!("../../docs/page.schema.json")).unwrap();
        let schema = jsonschema::validator_for(&schema).unwrap();
        let under_way = r#"{"run":"20261129T071000Z-1","since":"2026-11-29T07:10:00Z","reason":"x"}"#;
        for fence in [HALTED, under_way, "torn"] {
            let json = serde_json::from_str(&notice(fence).json()).unwrap();
            let errors: Vec<String> = schema.iter_errors(&json).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{errors:#?}\nin {json:#}");
        }
    }

    #[test]
    fn the_head_of_an_answer_is_the_same_without_a_body() {
        let all = notice(HALTED).response(Request { form: Form::Html, is_head: false });
        let head = notice(HALTED).response(Request { form: Form::Html, is_head: true });
        let all = String::from_utf8(all).unwrap();
        let (start, body) = all.split_once("\r\n\r\n").unwrap();
        assert!(start.starts_with("HTTP/1.1 503 ") && start.contains("Retry-After: 60\r\n"));
        assert!(start.contains(&format!("Content-Length: {}\r\n", body.len())));
        let names = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("Date")).map(str::to_owned).collect()
        };
        assert_eq!(names(&String::from_utf8(head).unwrap()), names(&format!("{start}\r\n\r\n")));
    }
}
