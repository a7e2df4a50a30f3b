//! The result of a verification of models: its verdicts, and their summary for a report. It touches nothing.

use serde::{Deserialize, Serialize};

use crate::report::screen::{count, harmless_line, size};

use super::cache::DigestCache;
pub use super::verify_files::Depth;
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

impl Summary {
    pub(super) fn new(verdicts: &[Verdict], depth: Depth) -> Self {
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
        let mut sentence = format!("{} verified", self.verified);
        let counted =
            |number: usize, text: String| if number > 0 { format!(", {text}") } else { String::new() };
        sentence += &counted(self.present, format!("{} present", self.present));
        sentence += &counted(self.problems, count(self.problems, "problem"));
        sentence += &counted(self.notes, count(self.notes, "note"));
        if self.bytes_read > 0 {
            sentence += &format!(", {} read", size(self.bytes_read));
        }
        sentence
    }
}
