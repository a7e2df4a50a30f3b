//! The run that a user means: its ID, a unique beginning of it, `latest`, `-N`, or the run in progress.

use crate::error::Failure;
use crate::exit::{Error, Refusal};
use crate::installation::as_typed;
use crate::journal::recover;
use crate::report::screen::count;
use crate::settings::layout::Layout;
use crate::settings::names::RunId;
use crate::status_file;

/// Returns the run that `text` stands for: `latest` and `-1` are the last run, `-2` is the one before. A text of which no
/// run begins is read as an ID, since a run without a record may still have an output. So is every text if the caller may
/// not list the runs. `during` is the command.
///
/// # Errors
/// The text cannot be a run ID, or it fits no run or several.
pub(super) fn resolve(layout: &Layout, during: &str, text: &str) -> Result<RunId, Error> {
    let refused = |cause: String| {
        let failure = Failure::new(cause).hint(as_typed(layout, "ladylinux-refresh history"));
        Err(Refusal::of(during, failure))
    };
    let runs = match recover::all(&layout.runs()) {
        Ok(runs) if !text.is_empty() => runs,
        _ => return RunId::parse(text).map_err(Error::Usage),
    };
    if let Some(back) = back(text) {
        return match runs.len().checked_sub(back).filter(|_| back > 0) {
            Some(index) => Ok(runs[index].clone()),
            None => refused(format!("there is no run {text}: {} are kept", count(runs.len(), "run"))),
        };
    }
    let fitting: Vec<&RunId> = runs.iter().filter(|run| run.as_str().starts_with(text)).collect();
    match fitting.as_slice() {
        [only] => Ok((*only).clone()),
        [first, .., last] if runs.iter().all(|run| run.as_str() != text) => {
            refused(format!("{text} is the beginning of {} run IDs, from {first} to {last}", fitting.len()))
        }
        _ => RunId::parse(text).map_err(Error::Usage),
    }
}

/// Returns the run that `text` stands for; without a text the run in progress.
///
/// # Errors
/// As [`resolve`], or no run is in progress.
pub(super) fn resolve_or_current(layout: &Layout, during: &str, text: Option<&str>) -> Result<RunId, Error> {
    if let Some(text) = text {
        return resolve(layout, during, text);
    }
    status_file::read(layout).current.map(|current| current.run).ok_or_else(|| {
        let failure = Failure::new("no run is in progress");
        Refusal::of(during, failure.hint(as_typed(layout, "ladylinux-refresh history")))
    })
}

/// Returns how many runs back from the end a text counts; `None` for an ID.
fn back(text: &str) -> Option<usize> {
    if text == "latest" { Some(1) } else { text.strip_prefix('-')?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;

    #[test]
    fn a_run_is_named_by_its_id_a_beginning_or_its_place_from_the_end() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        for name in ["20260101T000000000Z-1", "20260102T000000000Z-1", "20260102T000000000Z-12"] {
            disk::make_directory(&layout.run(&RunId::parse(name).unwrap()), 0o755).unwrap();
        }
        let found = |text: &str| resolve(&layout, "history", text).map(|run| run.as_str().to_owned());
        assert_eq!(found("latest").unwrap(), "20260102T000000000Z-12");
        assert_eq!(found("-3").unwrap(), "20260101T000000000Z-1");
        assert_eq!(found("20260101").unwrap(), "20260101T000000000Z-1");
        assert_eq!(
            found("20260102T000000000Z-1").unwrap(),
            "20260102T000000000Z-1",
            "an ID, and a beginning"
        );
        assert!(matches!(found("20260102"), Err(Error::Refused(_))), "it fits two runs");
        assert!(matches!(found("../lock"), Err(Error::Usage(_))));
        assert!(matches!(found(""), Err(Error::Usage(_))), "an unset variable of a script");
        assert!(found("-4").is_err() && found("-0").is_err());
        assert_eq!(found("20270101T000000000Z-1").unwrap(), "20270101T000000000Z-1");
        assert!(resolve_or_current(&layout, "wait", None).is_err());
    }
}
