//! The result of a verification of models: its verdicts, and their summary for a report. The module touches nothing.

use serde::{Deserialize, Serialize};

use refresh_system::text::harmless_line;

use super::cache::DigestCache;
pub use super::verify_files::Depth;
use super::{Finding, Severity, Verdict};
use refresh_events::run_report::ModelsSummary;

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
    pub summary: ModelsSummary,
    /// The digests that are known now.
    pub cache: DigestCache,
}

/// Returns the numbers of `verdicts`, the result of a verification to `depth`.
pub(super) fn summary_of(verdicts: &[Verdict], depth: Depth) -> ModelsSummary {
    let of = |severity| verdicts.iter().filter(move |verdict| verdict.finding.severity() == severity);
    let are = |finding: &Finding| verdicts.iter().filter(|verdict| verdict.finding == *finding).count();
    let sentence = |verdict: &Verdict| {
        // Users who cannot read the file may be able to read the report, so it contains no digest of the content.
        let finding = match &verdict.finding {
            Finding::DigestMismatch { .. } => "has another digest than expected".to_owned(),
            other => other.to_string(),
        };
        harmless_line(&format!("{}: {finding} ({})", verdict.shown, verdict.from))
    };
    ModelsSummary {
        how: if depth == Depth::Presence { "presence" } else { "full" }.to_owned(),
        verdicts: verdicts.len(),
        verified: are(&Finding::Verified),
        present: are(&Finding::Present),
        notes: of(Severity::Note).count(),
        problems: of(Severity::Problem).count(),
        bytes_read: verdicts.iter().map(|verdict| verdict.bytes_read).sum(),
        first_problems: of(Severity::Problem).take(LISTED).map(sentence).collect(),
    }
}
