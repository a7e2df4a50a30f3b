//! `verify`: checks whether the models exist, are unchanged, and match their checksums (RW-6.2).
//!
//! It needs no service, no working tree and only the right to read. For root on a real machine, a unit reads as the
//! service user. It writes only the digests of the files that were read, below the tool's own state.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::cli::VerifyArgs;
use crate::commands::context::settings;
use crate::report::progress::ProgressLine;
use refresh_events::run_report::ModelsSummary;
use refresh_installation::exit::{Error, Refusal};
use refresh_models::examine::ExamineModelsRequest;
use refresh_models::verify::{Depth, Verified};
use refresh_models::{Finding, Severity, Verdict};
use refresh_programs::process::Runner;
use refresh_run::refresh::models::{examine, keep, known};
use refresh_service::envfile::EnvFile;
use refresh_settings::layers::Overrides;
use refresh_settings::layout::Layout;
use refresh_settings::users::owner_of_app;
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};
use refresh_system::screen::{Tone, paint};
use refresh_system::text::{count, duration, harmless_line};

/// The version of the format of `verify --json`.
const SCHEMA: u32 = 1;

/// The largest number of printed verdicts of one kind.
const SHOWN: usize = 20;

/// The object of `verify --json`.
#[derive(Debug, Serialize)]
struct VerifyOutput<'a> {
    schema: u32,
    sources: &'a [String],
    summary: &'a ModelsSummary,
    duration_ms: u64,
    /// The reason why the digests are not kept.
    not_remembered: Option<String>,
    verdicts: Vec<Value>,
}

/// The result for the models.
pub(super) struct Checked {
    verified: Verified,
    not_remembered: Option<String>,
    duration_ms: u64,
}

/// Verifies the models; changes nothing of them.
pub(super) fn verify(layout: &Layout, args: &VerifyArgs) -> Result<Checked, Error> {
    let settings = settings(layout, Overrides::default())?.resolve().map_err(Error::Usage)?;
    let start = clock::monotonic();
    let verified = examined(layout, args, &settings.models.stores);
    let (verified, not_remembered) = verified.map_err(|failure| Refusal::of("verify", failure))?;
    let duration_ms = clock::millis_since(start);
    Ok(Checked { verified, not_remembered, duration_ms })
}

impl Checked {
    /// Returns whether there is no problem.
    pub(super) fn is_ok(&self) -> bool {
        self.verified.summary.problems == 0
    }

    /// Returns the result for programs.
    pub(super) fn json(&self) -> Value {
        let Verified { sources, summary, verdicts, .. } = &self.verified;
        let verdicts = verdicts.iter().map(verdict_json).collect();
        let (duration_ms, not_remembered) = (self.duration_ms, self.not_remembered.clone());
        let output = VerifyOutput { schema: SCHEMA, sources, summary, duration_ms, not_remembered, verdicts };
        serde_json::to_value(output).unwrap_or_default()
    }

    /// Returns the verdict, then each source and each finding.
    pub(super) fn lines(&self, is_verbose: bool) -> Vec<String> {
        let (tone, word) = if self.is_ok() { (Tone::Good, "good") } else { (Tone::Bad, "problems") };
        let numbers = self.verified.summary.in_words();
        let mut all =
            vec![format!("Models: {}; {numbers} in {}", paint(tone, word), duration(self.duration_ms))];
        all.extend(lines(&self.verified, is_verbose));
        if let Some(why) = &self.not_remembered {
            all.push(paint(Tone::Quiet, &format!("the digests are not kept: {}", harmless_line(why))));
        }
        all
    }
}

/// Returns the result of the examination, and the reason why its digests are not kept.
fn examined(layout: &Layout, args: &VerifyArgs, stores: &[PathBuf]) -> Outcome<(Verified, Option<String>)> {
    let mut stores = stores.to_vec();
    for store in &args.store {
        // The typed path is one of this machine, with or without a root.
        let real = store.canonicalize().map_err(|error| {
            Failure::new(format!("--store {} cannot be used", store.display())).because(error)
        })?;
        stores.push(real);
    }
    let runner = Runner::silent();
    let owner = owner_of_app(layout)?;
    let env_file = EnvFile::read_at(layout, &runner);
    let depth = match (args.presence, args.no_cache) {
        (true, _) => Depth::Presence,
        (_, true) => Depth::Afresh,
        _ => Depth::Full,
    };
    let cache = known(layout);
    let request = ExamineModelsRequest::new(layout, None, env_file, &stores, (depth, cache.clone()));
    let line = ProgressLine::new("models");
    let report = Box::new(move |progress: &str| line.show(progress));
    let verified = examine(layout, &runner, owner, request, report)?;
    let kept = if verified.cache == cache { Ok(()) } else { keep(layout, &verified.cache) };
    let not_kept = kept.err().map(|failure| failure.chain().join(": "));
    Ok((verified, not_kept))
}

fn verdict_json(verdict: &Verdict) -> Value {
    // These are digests or numbers of bytes.
    let (expected, found) = match &verdict.finding {
        Finding::SizeMismatch { expected, found } | Finding::Truncated { needs: expected, found } => {
            (Some(expected.to_string()), Some(found.to_string()))
        }
        Finding::DigestMismatch { expected, found } => (Some(expected.clone()), Some(found.clone())),
        _ => (None, None),
    };
    serde_json::json!({
        "path": verdict.path.to_string_lossy(),
        "name": verdict.shown,
        "from": verdict.from,
        "finding": verdict.finding.as_ref(),
        "severity": verdict.finding.severity(),
        "description": verdict.finding.to_string(),
        "expected": expected,
        "found": found,
        "bytes_read": verdict.bytes_read,
        "cached": verdict.cached,
    })
}

fn lines(verified: &Verified, is_verbose: bool) -> Vec<String> {
    let sources = verified.sources.iter();
    let mut lines: Vec<String> =
        sources.map(|source| format!("source   {}", harmless_line(source))).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut verdicts: Vec<&Verdict> = verified.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| verdict.finding.severity());
    for verdict in verdicts {
        let (tone, word) = match verdict.finding.severity() {
            Severity::Good if !is_verbose => continue,
            Severity::Good => (Tone::Good, "good   "),
            Severity::Note => (Tone::Warning, "note   "),
            Severity::Problem => (Tone::Bad, "problem"),
        };
        let seen = kinds.entry(verdict.finding.as_ref()).or_default();
        *seen += 1;
        if *seen <= SHOWN || is_verbose {
            let line = format!("{}: {} [{}]", verdict.shown, verdict.finding, verdict.from);
            lines.push(format!("{}  {}", paint(tone, word), harmless_line(&line)));
        }
    }
    for (kind, seen) in kinds.into_iter().filter(|(_, seen)| *seen > SHOWN && !is_verbose) {
        lines.push(format!("and {} more: {kind}", count(seen - SHOWN, "file")));
    }
    lines
}
