//! The verification of models in the report of a run. The module touches nothing.

use serde::{Deserialize, Serialize};

use refresh_system::text::{count, size};

/// The numbers of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelsSummary {
    /// `presence` or `full`.
    pub how: String,
    /// How many verdicts there are.
    // The name in the reports of 0.1.
    #[serde(alias = "looked_at")]
    pub verdicts: usize,
    /// How many files have the expected digest.
    pub verified: usize,
    /// How many files exist without a comparison of their digest.
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

impl ModelsSummary {
    /// Returns the numbers as a sentence.
    pub fn in_words(&self) -> String {
        if self.verdicts == 0 {
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
