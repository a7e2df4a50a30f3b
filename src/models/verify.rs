//! The verification of all models: claims of every source, verdicts of every file, and their summary for a report.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Outcome;
use crate::process::interrupt;
use crate::report::screen::{count, harmless_line, size};
use crate::service::envfile::EnvFile;
use crate::settings::layout::Layout;

use super::cache::DigestCache;
use super::gather::{self, ManifestText, UNLISTED};
use super::progress::Progress;
pub use super::verify_files::Depth;
use super::verify_files::verify_files;
use super::{Finding, Severity, Verdict};

/// How many problems a summary lists.
const LISTED: usize = 10;

/// The result of a verification.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verified {
    /// Every verdict, sorted by path.
    pub verdicts: Vec<Verdict>,
    /// The manifest and the directories that were examined.
    pub sources: Vec<String>,
    /// The numbers.
    pub summary: Summary,
    /// What is known of the files now.
    pub cache: DigestCache,
}

/// The numbers of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// `presence` or `full`.
    pub how: String,
    /// How many verdicts there are.
    pub looked_at: usize,
    /// How many files have the expected digest.
    pub verified: usize,
    /// How many files are there, and no digest was compared.
    pub present: usize,
    /// How many findings are worth knowing.
    pub notes: usize,
    /// How many findings are problems.
    pub problems: usize,
    /// How many bytes were read.
    pub bytes_read: u64,
    /// The first problems, as sentences.
    pub first_problems: Vec<String>,
}

/// Examines all models. `env_file` is the service's environment file, `stores` are the directories that the host names,
/// `cache` is what is known of files from earlier runs.
///
/// # Errors
/// The interruption.
pub fn verify(
    layout: &Layout,
    text: &ManifestText,
    env_file: Outcome<EnvFile>,
    stores: &[PathBuf],
    (depth, cache): (Depth, DigestCache),
    report: &dyn Fn(&Progress),
) -> Outcome<Verified> {
    let gathered = gather::gather(layout, text, env_file, stores)?;
    let set = gathered.set.merged()?;
    let (verdicts, cache) = verify_files(&set.claims, depth, cache, report)?;
    let mut all = set.verdicts;
    all.extend(verdicts.into_iter().filter_map(of_unlisted));
    // A file that is reached by two paths has one verdict.
    let mut seen = HashSet::new();
    all.retain(|verdict| seen.insert((verdict.path.clone(), verdict.from.clone(), verdict.finding.clone())));
    all.sort_by(|one, other| one.path.cmp(&other.path));
    let summary = Summary::new(&all, depth);
    interrupt::check()?;
    Ok(Verified { verdicts: all, sources: gathered.sources, summary, cache })
}

/// Returns the verdict as it is for a file that no source lists: it may have gone meanwhile.
fn of_unlisted(verdict: Verdict) -> Option<Verdict> {
    match verdict.finding {
        Finding::MissingOptional if verdict.from == UNLISTED => None,
        Finding::Present if verdict.from == UNLISTED => {
            Some(Verdict { finding: Finding::Unexpected, ..verdict })
        }
        _ => Some(verdict),
    }
}

impl Summary {
    fn new(verdicts: &[Verdict], depth: Depth) -> Self {
        let of = |severity| verdicts.iter().filter(move |verdict| verdict.finding.severity() == severity);
        let are = |finding: &Finding| verdicts.iter().filter(|verdict| verdict.finding == *finding).count();
        let sentence = |verdict: &Verdict| {
            // Others may read a report than may read the file, so no digest of its content is in it.
            let finding = match &verdict.finding {
                Finding::DigestMismatch { .. } => "has another digest than expected".to_owned(),
                other => other.to_string(),
            };
            harmless_line(&format!("{}: {finding} ({})", verdict.shown, verdict.from))
        };
        Self {
            how: if depth == Depth::Presence { "presence" } else { "full" }.to_owned(),
            looked_at: verdicts.len(),
            verified: are(&Finding::Verified),
            present: are(&Finding::Present),
            notes: of(Severity::Note).count(),
            problems: of(Severity::Problem).count(),
            bytes_read: verdicts.iter().map(|verdict| verdict.bytes_read).sum(),
            first_problems: of(Severity::Problem).take(LISTED).map(sentence).collect(),
        }
    }

    /// Returns the numbers as a sentence.
    pub fn in_words(&self) -> String {
        if self.looked_at == 0 {
            return "no models, and none is expected".to_owned();
        }
        let mut parts = vec![format!("{} verified", self.verified)];
        if self.present > 0 {
            parts.push(format!("{} present", self.present));
        }
        if self.problems > 0 {
            parts.push(count(self.problems, "problem"));
        }
        if self.notes > 0 {
            parts.push(count(self.notes, "note"));
        }
        if self.bytes_read > 0 {
            parts.push(format!("{} read", size(self.bytes_read)));
        }
        parts.join(", ")
    }
}
