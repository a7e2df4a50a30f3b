//! Getting the wheels that are missing: pip fetches them as the owner, in several processes side by side, each into a
//! folder of passage of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::choice::Choice;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::event::{Event, Events, Subscriber};
use crate::process::{Finished, Keep, Program, Runner};
use crate::python::installer::Job;
use crate::python::pip::Pip;
use crate::python::trouble::{self, Trouble};
use crate::report::screen::size;

/// How many processes fetch side by side.
const AT_ONCE: usize = 4;

/// How few wheels one process fetches as fast as two: the start of another one costs more.
const FEW: usize = 3;

/// What became of one attempt.
pub(super) struct Fetched {
    /// The folders that hold what came.
    pub(super) passages: Vec<PathBuf>,
    /// What the index has no wheel of.
    pub(super) without: Vec<Choice>,
}

/// Fetches wheels. What has none is told, not fetched; everything else has come.
///
/// # Errors
/// Something cannot be fetched, or the run is interrupted.
pub(super) fn fetch(job: &Job<'_>, pip: &Pip, wishes: &[Choice]) -> Outcome<Fetched> {
    if wishes.is_empty() {
        return Ok(Fetched { passages: Vec::new(), without: Vec::new() });
    }
    let runner = job.site.runner;
    let progress = Arc::new(Mutex::new(Progress { total: wishes.len(), ..Progress::default() }));
    let mut parts = Vec::new();
    for (index, part) in split(wishes).into_iter().enumerate() {
        let passage = job.scratch.join(format!("fetched-{index}"));
        disk::make_owned_folder(&passage, 0o755, &job.site.owner)?;
        parts.push((part, passage, job.scratch.join(format!("fetch-{index}.txt"))));
    }
    let told = |part: Vec<Choice>, passage: &Path, list: &Path| {
        let narrator = Narrator { outer: runner.clone(), progress: Arc::clone(&progress) };
        let watched = runner.clone().telling(Arc::new(Events::new(vec![Box::new(narrator)])));
        fetch_part(job, pip, &watched, part, passage, list)
    };
    let ended: Vec<Outcome<Vec<Choice>>> = std::thread::scope(|scope| {
        let started: Vec<_> = parts
            .iter()
            .map(|(part, passage, list)| scope.spawn(|| told(part.clone(), passage, list)))
            .collect();
        let broken = || Err(Failure::new("a thread that fetched wheels broke down"));
        started.into_iter().map(|part| part.join().unwrap_or_else(|_| broken())).collect()
    });
    let mut without = Vec::new();
    let mut failed: Option<Failure> = None;
    for part in ended {
        match part {
            Ok(none) => without.extend(none),
            // An interruption is what counts; of other reasons the first.
            Err(failure) if failed.is_none() || failure.interrupted_by().is_some() => failed = Some(failure),
            Err(_) => {}
        }
    }
    match failed {
        Some(failure) => Err(failure),
        None => Ok(Fetched { passages: parts.into_iter().map(|(_, passage, _)| passage).collect(), without }),
    }
}

/// Fetches one part; returns what has no wheel.
fn fetch_part(
    job: &Job<'_>,
    pip: &Pip,
    runner: &Runner,
    mut wishes: Vec<Choice>,
    passage: &Path,
    list: &Path,
) -> Outcome<Vec<Choice>> {
    let mut without = Vec::new();
    loop {
        if wishes.is_empty() {
            return Ok(without);
        }
        disk::write_atomic(list, requirements(&wishes).as_bytes(), 0o644)?;
        let download = pip.download(job, passage, list).keep(Keep::Narrated("pip".to_owned()));
        let finished = runner.run(&download)?;
        if finished.succeeded() {
            return Ok(without);
        }
        let Some(index) = lacks_a_wheel(&finished, &wishes) else {
            return Err(trouble::explain(&finished, "cannot fetch the packages"));
        };
        without.push(wishes.remove(index));
    }
}

/// Builds wheels from source, as the owner; returns the folder of passage that holds them.
///
/// # Errors
/// One does not build.
pub(super) fn build(job: &Job<'_>, pip: &Pip, wishes: &[Choice]) -> Outcome<PathBuf> {
    let passage = job.scratch.join("built");
    disk::make_owned_folder(&passage, 0o755, &job.site.owner)?;
    let list = job.scratch.join("build.txt");
    disk::write_atomic(&list, requirements(wishes).as_bytes(), 0o644)?;
    let program: Program = pip.build(job, &passage, &list).keep(Keep::Narrated("pip".to_owned()));
    let finished = job.site.runner.run(&program)?;
    if finished.succeeded() {
        return Ok(passage);
    }
    Err(trouble::explain(&finished, "cannot build from source"))
}

fn requirements(wishes: &[Choice]) -> String {
    let mut text = String::new();
    for wish in wishes {
        match &wish.url {
            Some(url) => text.push_str(&format!("{} @ {url}", wish.name)),
            None => text.push_str(&format!("{}=={}", wish.name, wish.version)),
        }
        for digest in &wish.digests {
            text.push_str(&format!(" --hash=sha256:{digest}"));
        }
        text.push('\n');
    }
    text
}

/// Splits what is wanted so that all parts take about as long: the largest first, each to the part that is the smallest.
fn split(wishes: &[Choice]) -> Vec<Vec<Choice>> {
    let number = wishes.len().div_ceil(FEW).clamp(1, AT_ONCE);
    let mut parts: Vec<(u64, Vec<Choice>)> = vec![(0, Vec::new()); number];
    let mut sorted: Vec<&Choice> = wishes.iter().collect();
    sorted.sort_by_key(|wish| std::cmp::Reverse(weight(wish)));
    for wish in sorted {
        if let Some(part) = parts.iter_mut().min_by_key(|part| part.0) {
            part.0 += weight(wish);
            part.1.push(wish.clone());
        }
    }
    parts.into_iter().map(|(_, part)| part).filter(|part| !part.is_empty()).collect()
}

/// What a wheel costs, in bytes: a request takes as long as some hundred kilobytes.
fn weight(wish: &Choice) -> u64 {
    wish.size.unwrap_or(1 << 20) + (256 << 10)
}

/// Which of the wishes pip could not fulfil because there is no wheel of it; `None` where it failed otherwise.
fn lacks_a_wheel(finished: &Finished, wishes: &[Choice]) -> Option<usize> {
    let text = String::from_utf8_lossy(&finished.stderr);
    if trouble::parse_trouble(&text) != Trouble::NoMatch {
        return None;
    }
    let (_, rest) = text.split_once("No matching distribution found for ")?;
    let named = rest.split_whitespace().next()?;
    wishes.iter().position(|wish| named == format!("{}=={}", wish.name, wish.version))
}

/// How far the fetching is.
#[derive(Debug, Default)]
struct Progress {
    done: usize,
    total: usize,
    bytes: f64,
}

/// Passes on what pip says, and counts the wheels in it.
struct Narrator {
    outer: Runner,
    progress: Arc<Mutex<Progress>>,
}

impl Subscriber for Narrator {
    fn take(&mut self, event: &Event) {
        let events = self.outer.events();
        match event {
            Event::Output { source, line, .. } => {
                events.output(source, line);
                let Some(bytes) = parse_arrival(line) else { return };
                let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.done = (progress.done + 1).min(progress.total);
                progress.bytes += bytes;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "shown to people"
                )]
                let told = format!("fetching wheels, {}", size(progress.bytes as u64));
                events.progress(&told, Some(progress.done as u64), Some(progress.total as u64));
            }
            Event::Warning { message, .. } => events.warn(message),
            _ => {}
        }
    }
}

/// Reads the size, in bytes, out of the line by which pip says that it gets a wheel; `None` for any other line.
fn parse_arrival(line: &str) -> Option<f64> {
    let line = line.trim();
    let rest = line.strip_prefix("Downloading ").or_else(|| line.strip_prefix("Using cached "))?;
    let (file, size) = rest.split_once(".whl (")?;
    if file.contains(' ') {
        return None;
    }
    let (number, unit) = size.strip_suffix(')')?.split_once(' ')?;
    let unit = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Ended;

    fn wish(name: &str, size: Option<u64>) -> Choice {
        let digests = vec!["aa".to_owned(), "bb".to_owned()];
        Choice { name: name.into(), version: "1.0".into(), digests, named: true, url: None, limit: 1, size }
    }

    #[test]
    fn what_is_wanted_is_split_evenly_and_nothing_is_lost() {
        let wishes: Vec<Choice> =
            (0..39).map(|number| wish(&format!("p{number}"), Some(number << 20))).collect();
        let parts = split(&wishes);
        assert_eq!(parts.len(), AT_ONCE);
        let weights: Vec<u64> = parts.iter().map(|part| part.iter().map(weight).sum()).collect();
        assert!(weights.iter().max().unwrap() - weights.iter().min().unwrap() < (40 << 20), "{weights:?}");
        let mut names: Vec<_> = parts.iter().flatten().map(|it| it.name.clone()).collect();
        names.sort();
        let mut expected: Vec<_> = wishes.iter().map(|it| it.name.clone()).collect();
        expected.sort();
        assert_eq!(names, expected);
        assert_eq!(split(&wishes[..2]).len(), 1);
    }

    #[test]
    fn a_package_is_asked_for_by_version_and_digest_only() {
        assert_eq!(requirements(&[wish("a", None)]), "a==1.0 --hash=sha256:aa --hash=sha256:bb\n");
    }

    #[test]
    fn only_the_lines_about_wheels_count_as_progress() {
        let size = |line: &str| parse_arrival(line).map(|bytes| format!("{bytes:.0}"));
        assert_eq!(size("Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)").as_deref(), Some("11000"));
        assert_eq!(size("  Using cached numpy-2.0.2-cp311.whl (19.5 MB)").as_deref(), Some("19500000"));
        for line in [
            "Downloading six-1.17.0-py2.py3-none-any.whl.metadata (1.7 kB)",
            "Collecting six",
            "Saved ./x.whl",
        ] {
            assert_eq!(size(line), None, "{line}");
        }
    }

    #[test]
    fn a_package_without_a_wheel_is_told_from_an_index_that_is_away() {
        let finished = |text: &str| Finished {
            program: "python".into(),
            ended: Ended::Exited(1),
            stdout: Vec::new(),
            stderr: text.as_bytes().to_vec(),
        };
        let wishes = [wish("a", None), wish("b", None)];
        let none = "ERROR: Could not find a version that satisfies the requirement b==1.0 (from versions: none)\n\
            ERROR: No matching distribution found for b==1.0\n";
        assert_eq!(lacks_a_wheel(&finished(none), &wishes), Some(1));
        let away = format!("WARNING: Retrying after connection broken by 'X': /simple/b/\n{none}");
        assert_eq!(lacks_a_wheel(&finished(&away), &wishes), None);
    }
}
