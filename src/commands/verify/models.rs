//! `verify`: whether the models are there, whole, and what their checksums say (RW-6.2).
//!
//! Needs no service, no work tree and no rights beyond reading; root on a machine has it read in a unit as the service user.
//! The one thing that is written is what this program knows of files that were read, below its own state.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::cli::VerifyArgs;
use crate::clock;
use crate::error::{Failure, Outcome};
use crate::event::Events;
use crate::exit::{Ended, Error, Refusal};
use crate::models::engine::How;
use crate::models::examine::{ExamineModelsRequest, Manifest};
use crate::models::verify::{Summary, Verified};
use crate::models::{Finding, Severity, Verdict};
use crate::process::{Owner, Runner};
use crate::refresh::account::millis;
use crate::refresh::models::{examine, keep, known};
use crate::report::json;
use crate::report::progress::Bar;
use crate::report::screen::{Tone, count, duration, harmless_line, paint, say};
use crate::service::envfile::EnvFile;
use crate::settings::layers::Overrides;
use crate::settings::layout::Layout;

use super::settings;

/// The version of the format of `verify --json`.
const SCHEMA: u32 = 1;

/// How many verdicts of one kind people are shown.
const SHOWN: usize = 20;

/// What `verify --json` writes.
#[derive(Debug, Serialize)]
struct Told<'a> {
    schema: u32,
    sources: &'a [String],
    summary: &'a Summary,
    duration_ms: u64,
    /// Why what was read is not remembered.
    not_remembered: Option<String>,
    verdicts: Vec<ToldVerdict<'a>>,
}

#[derive(Debug, Serialize)]
struct ToldVerdict<'a> {
    path: String,
    name: &'a str,
    from: &'a str,
    finding: &'static str,
    severity: &'static str,
    /// All of it in words.
    told: String,
    /// What is said: a digest or a length.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    /// What was found instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    bytes_read: u64,
    cached: bool,
}

/// Looks at the models; changes nothing of them.
pub(super) fn verify(layout: &Layout, args: &VerifyArgs) -> Result<Ended, Error> {
    let settings = settings(layout, Overrides::default())?.resolve().map_err(Error::Usage)?;
    let start = clock::monotonic();
    let (verified, not_remembered) =
        look(layout, args, &settings.models.stores).map_err(|failure| Refusal::of("verify", failure))?;
    let duration_ms = millis(clock::monotonic().duration_since(start));
    if args.json {
        let told = Told {
            schema: SCHEMA,
            sources: &verified.sources,
            summary: &verified.summary,
            duration_ms,
            not_remembered,
            verdicts: verified.verdicts.iter().map(told).collect(),
        };
        say(&json::pretty(&told));
    } else {
        for line in lines(&verified, args.verbose) {
            say(&line);
        }
        if let Some(why) = not_remembered {
            say(&paint(Tone::Quiet, &format!("not remembered for the next time: {}", harmless_line(&why))));
        }
        say(&format!("{} in {}", verified.summary.in_words(), duration(duration_ms)));
    }
    Ok(if verified.summary.problems > 0 { Ended::Findings } else { Ended::Done })
}

fn look(layout: &Layout, args: &VerifyArgs, stores: &[PathBuf]) -> Outcome<(Verified, Option<String>)> {
    let mut stores = stores.to_vec();
    for store in &args.store {
        // What was typed is a path of this machine, with or without a root.
        let real = store.canonicalize().map_err(|error| {
            Failure::new(format!("--store {} cannot be used", store.display())).because(error)
        })?;
        stores.push(real);
    }
    let runner = Runner::new(Arc::new(Events::silent()));
    let owner = Owner::of(&layout.app()).or_else(|_| Owner::of(&layout.home())).unwrap_or(Owner::own());
    let env_file = EnvFile::read_at(layout, &runner);
    let how = match (args.presence, args.no_cache) {
        (true, _) => How::Presence,
        (_, true) => How::Afresh,
        _ => How::Full,
    };
    let cache = known(layout);
    let request =
        ExamineModelsRequest::new(layout, Manifest::Deployed, env_file, &stores, how, cache.clone());
    match examine(layout, &runner, owner, request, Box::new(Bar::new("models"))) {
        Ok(verified) => {
            let kept = if verified.cache == cache { Ok(()) } else { keep(layout, &verified.cache) };
            let why = kept.err().map(|failure| failure.chain().join(": "));
            Ok((verified, why))
        }
        Err((failure, cache)) => {
            // What was read is worth keeping, and the interruption is what counts.
            let _ = keep(layout, &cache);
            Err(failure)
        }
    }
}

fn told(verdict: &Verdict) -> ToldVerdict<'_> {
    let (expected, found) = match &verdict.finding {
        Finding::SizeMismatch { expected, found } => (Some(expected.to_string()), Some(found.to_string())),
        Finding::Truncated { needs, found } => (Some(needs.to_string()), Some(found.to_string())),
        Finding::DigestMismatch { expected, found } => (Some(expected.clone()), Some(found.clone())),
        _ => (None, None),
    };
    ToldVerdict {
        path: verdict.path.to_string_lossy().into_owned(),
        name: &verdict.shown,
        from: &verdict.from,
        finding: verdict.finding.word(),
        severity: match verdict.finding.severity() {
            Severity::Good => "good",
            Severity::Note => "note",
            Severity::Problem => "problem",
        },
        told: verdict.finding.to_string(),
        expected,
        found,
        bytes_read: verdict.bytes_read,
        cached: verdict.cached,
    }
}

fn lines(verified: &Verified, is_verbose: bool) -> Vec<String> {
    let sources = &verified.sources;
    let mut lines: Vec<String> =
        sources.iter().map(|source| format!("source   {}", harmless_line(source))).collect();
    for (severity, tone, word) in [
        (Severity::Good, Tone::Good, "good   "),
        (Severity::Note, Tone::Warning, "note   "),
        (Severity::Problem, Tone::Bad, "problem"),
    ] {
        let of_this = verified.verdicts.iter().filter(|verdict| verdict.finding.severity() == severity);
        if severity == Severity::Good && !is_verbose {
            continue;
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for verdict in of_this {
            let seen = kinds.entry(verdict.finding.word()).or_default();
            *seen += 1;
            if *seen <= SHOWN || is_verbose {
                let (told, from) =
                    (harmless_line(&verdict.finding.to_string()), harmless_line(&verdict.from));
                lines.push(format!(
                    "{}  {}: {told} [{from}]",
                    paint(tone, word),
                    harmless_line(&verdict.shown)
                ));
            }
        }
        for (kind, seen) in kinds.into_iter().filter(|(_, seen)| *seen > SHOWN && !is_verbose) {
            lines.push(format!("{}  and {} more: {kind}", paint(tone, word), count(seen - SHOWN, "file")));
        }
    }
    lines
}
