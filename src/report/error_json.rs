//! The failure of a command, for people, and as one JSON object on standard output for commands with `--json`.

use serde::Serialize;

use refresh_installation::exit::{Error, Refusal};
use refresh_installation::journal::run_lock::Holder;
use refresh_system::clock;

/// The output of a command with `--json` if it fails (`docs/error.schema.json`).
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ErrorObject {
    schema: u32,
    error: Explained,
    exit_code: u8,
}

/// The parts of an error.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Explained {
    /// The step that failed; `None` for a wrong command line or configuration.
    pub(super) step: Option<String>,
    /// The causes: the outermost sentence first, the root cause last.
    pub(super) cause: Vec<String>,
    /// The state of the service.
    pub(super) service: String,
    /// The hints, the closest to the cause first.
    pub(super) hints: Vec<String>,
    /// The command to type next.
    pub(super) next: String,
}

impl Explained {
    /// Returns the parts of the error that ended a command; `None` if its output already contains the error, or if
    /// nothing failed. `typed` converts a command of this program to the form to type for this installation.
    pub(super) fn new(error: &Error, typed: impl Fn(&str) -> String) -> Option<Self> {
        let (step, cause, service, hints, next) = match error {
            Error::Run(_) | Error::Reported(_) | Error::Detached { .. } => return None,
            Error::Usage(failure) => {
                let mut hints = failure.hints();
                let next = hints.pop_if(|last| last.own_command().is_some());
                let next =
                    next.map_or_else(|| "ladylinux-refresh --help".to_owned(), |hint| hint.to_string());
                (None, failure.chain(), "not touched", hints, next)
            }
            Error::Refused(refusal) => {
                let Refusal { during, failure, service, next } = refusal.as_ref();
                (Some(during.as_str()), failure.chain(), service.as_str(), failure.hints(), next.clone())
            }
            Error::Locked { holder, next } => {
                let cause = vec![described(holder.as_deref())];
                (Some("preflight"), cause, "left to that run", Vec::new(), next.clone())
            }
            Error::Lost { run, end, service, next } => {
                let how = end.map_or("the result is unknown".to_owned(), |end| end.to_string());
                let cause = vec![format!("run {run} is over without a report"), how];
                (None, cause, service.as_str(), Vec::new(), next.clone())
            }
            Error::Bug(what) => {
                let cause = vec!["this is a bug in ladylinux-refresh".to_owned(), what.clone()];
                (None, cause, "unknown", Vec::new(), "ladylinux-refresh status".to_owned())
            }
        };
        let next = typed(&next);
        let hints = hints.iter().map(|hint| typed(&hint.to_string())).filter(|hint| *hint != next).collect();
        Some(Self { step: step.map(str::to_owned), cause, service: service.to_owned(), hints, next })
    }
}

/// Returns a description of the holder of the run lock.
fn described(holder: Option<&Holder>) -> String {
    let Some(holder) = holder else { return "another run is in progress".to_owned() };
    let run = holder.run.as_ref().map(|run| format!(" {run}")).unwrap_or_default();
    let (pid, since) = (holder.process.pid, clock::in_words(holder.since));
    format!("{}{run} (pid {pid}) is in progress since {since}", holder.command)
}

impl ErrorObject {
    /// Returns the object of the error that ended a command; `None` if its output already contains the error, or if
    /// nothing failed. `typed` converts a command of this program to the form to type for this installation.
    pub fn new(error: &Error, typed: impl Fn(&str) -> String) -> Option<Self> {
        let explained = Explained::new(error, typed)?;
        Some(Self { schema: 1, error: explained, exit_code: error.code() })
    }

    /// Returns the object of a command line that the parser refuses; `lines` are those for people; the first one is the
    /// cause.
    pub fn of_usage(lines: &[String]) -> Self {
        let of = |label: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(label));
            found.unwrap_or_default().trim_start().to_owned()
        };
        let is_labelled =
            |line: &&String| ["  service ", "  next "].iter().any(|label| line.starts_with(label));
        let rest = lines.iter().skip(1).filter(|line| !is_labelled(line));
        let explained = Explained {
            step: None,
            cause: vec![of("error: ")],
            service: of("  service "),
            hints: rest.map(|line| line.trim().to_owned()).collect(),
            next: of("  next "),
        };
        Self { schema: 1, error: explained, exit_code: 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::error::Failure;

    #[test]
    fn an_error_object_has_the_parts_of_the_error_and_its_exit_code() {
        let failure =
            Failure::new("a").because(Failure::new("b")).command("ladylinux-refresh init", &[]).hint("c");
        let object = ErrorObject::new(&Refusal::of("status", failure), str::to_owned).unwrap();
        let expected = serde_json::json!({ "schema": 1, "exit_code": 3, "error": {
            "step": "status", "cause": ["a", "b"], "service": "not touched", "hints": ["c"],
            "next": "ladylinux-refresh init" } });
        assert_eq!(serde_json::to_value(object).unwrap(), expected);
        assert_eq!(ErrorObject::new(&Error::Reported(1), str::to_owned), None);
    }

    #[test]
    fn a_wrong_command_line_is_an_error_object() {
        let lines = ["error: unexpected argument '-x'", "Usage: a", "  service      s", "  next         n"];
        let object = ErrorObject::of_usage(&lines.map(str::to_owned));
        assert_eq!(object.error.cause, ["unexpected argument '-x'"]);
        assert_eq!((object.error.hints, object.error.next), (vec!["Usage: a".to_owned()], "n".to_owned()));
    }
}
