//! Finds the run that a user names: by its ID, a unique beginning of it, `latest`, `-N`, or the run in progress.

use refresh_installation::exit::{Error, Refusal};
use refresh_installation::journal::recover;
use refresh_installation::status_file;
use refresh_run::relay::spool;
use refresh_settings::layout::Layout;
use refresh_settings::names::RunId;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::count;

/// Returns the run that `text` names: `latest` and `-1` are the last run, `-2` is the one before. A text with which no
/// run begins is read as an ID, because a run without a record may still have an output. If the caller cannot list the
/// runs, every text is read as an ID. `during` is the command.
///
/// # Errors
/// The text cannot be a run ID, or it fits no run or several.
pub(super) fn resolve(layout: &Layout, during: &str, text: &str) -> Result<RunId, Error> {
    choose(during, text, recover::in_order(layout))
}

/// Returns the run with a stash that `text` names: `latest` and `-N` count the stashes. `during` is the command.
///
/// # Errors
/// The errors of [`resolve`].
pub(super) fn resolve_stash(layout: &Layout, during: &str, text: &str) -> Result<RunId, Error> {
    let stashes = recover::all(&layout.stashes()).and_then(|runs| recover::sorted(layout, runs));
    choose(during, text, stashes)
}

fn choose(during: &str, text: &str, runs: Outcome<Vec<RunId>>) -> Result<RunId, Error> {
    let refused = |cause: String| {
        Err(Refusal::of(during, Failure::new(cause).command("ladylinux-refresh history", &[])))
    };
    let runs = match runs {
        Ok(runs) if !text.is_empty() => runs,
        _ => return RunId::parse(text).map_err(Error::Usage),
    };
    if let Some(back) = back(text) {
        return match runs.len().checked_sub(back).filter(|_| back > 0) {
            Some(index) => Ok(runs[index].clone()),
            None => refused(format!("run {text} does not exist: {} are kept", count(runs.len(), "run"))),
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

/// Returns the run that `text` names; without a text the run in progress.
///
/// # Errors
/// The errors of [`resolve`], or no run is in progress.
pub(super) fn resolve_or_current(layout: &Layout, during: &str, text: Option<&str>) -> Result<RunId, Error> {
    if let Some(text) = text {
        return resolve(layout, during, text);
    }
    // A run writes the file in its preflight, which may not have begun in a detached one.
    let current = status_file::read(layout).current.map(|current| current.run);
    current.or_else(|| spool::in_progress(layout)).ok_or_else(|| {
        Refusal::of(during, Failure::new("no run is in progress").command("ladylinux-refresh history", &[]))
    })
}

/// Returns the position from the end that a text names; `None` for an ID.
fn back(text: &str) -> Option<usize> {
    if text == "latest" { Some(1) } else { text.strip_prefix('-')?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_programs::process::{ExitKind, ProcessId};
    use refresh_run::relay::spool::Spool;
    use refresh_system::disk;

    #[test]
    fn the_latest_stash_is_that_of_the_last_run_that_has_one() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let runs = ["20260101T000000000Z-1", "20260102T000000000Z-1"].map(|name| RunId::parse(name).unwrap());
        for run in &runs {
            disk::make_directory(&layout.run(run), 0o755).unwrap();
        }
        disk::make_directory(&layout.stashes().join(runs[0].as_str()), 0o755).unwrap();
        assert_eq!(resolve_stash(&layout, "stash", "latest").unwrap(), runs[0]);
        assert_eq!(resolve_stash(&layout, "stash", "2026").unwrap(), runs[0]);
        assert!(resolve_stash(&layout, "stash", "-2").is_err());
    }

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
        let run = RunId::parse("20260103T000000000Z-1").unwrap();
        let spool = Spool::of(&layout, &run);
        spool.make().unwrap();
        assert!(resolve_or_current(&layout, "wait", None).is_err(), "it has no process");
        spool.set_worker(ProcessId::own()).unwrap();
        assert_eq!(resolve_or_current(&layout, "wait", None).unwrap(), run);
        spool.set_end(ExitKind::Code(0)).unwrap();
        assert!(resolve_or_current(&layout, "wait", None).is_err(), "it has ended");
    }
}
