//! The environment in the report of a run. The module touches nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use refresh_settings::names::EnvironmentName;
use refresh_system::manifest::contamination::Finding;

/// The environment at the end of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Environment {
    /// The path that the service uses: the link.
    pub path: PathBuf,
    /// The name of the environment that it leads to.
    #[serde(alias = "generation")]
    pub name: Option<EnvironmentName>,
    /// The name of the environment that it led to before.
    #[serde(alias = "generation_before")]
    pub name_before: Option<EnvironmentName>,
    /// The interpreter: implementation and version.
    pub interpreter: Option<String>,
    /// How many distributions are installed.
    pub packages: Option<usize>,
    /// Whether this run built it.
    pub built: bool,
    /// Why it was built or reused.
    pub reason: String,
    /// The lock that it was built from; `None` if that is not known.
    #[serde(default)]
    pub lock: Option<LockSummary>,
    /// The digest of the installed files, the same on every machine; `None` if it is not known.
    #[serde(default)]
    pub digest: Option<String>,
    /// Files that several packages contain, and the package whose file is used.
    #[serde(default)]
    pub overlaps: Vec<Overlap>,
    /// Environments that were changed manually, and that are no longer used.
    #[serde(default)]
    pub contaminated: Vec<Contaminated>,
}

/// An environment that was changed manually.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contaminated {
    /// Its name.
    #[serde(alias = "generation")]
    pub name: EnvironmentName,
    /// How many files and directories differed.
    pub count: usize,
    /// The first of them.
    pub found: Vec<Finding>,
}

/// A lock in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSummary {
    /// The application's file, or the program that resolved it.
    pub source: String,
    /// Releases after this instant were ignored.
    pub cutoff: Option<jiff::Timestamp>,
    /// Why another machine can get a different result; `None` if it cannot.
    pub not_reproducible: Option<String>,
    /// The sha256 of its content.
    pub digest: String,
}

impl LockSummary {
    /// Returns it in a line.
    pub fn in_words(&self) -> String {
        let until = self.cutoff.map(|cutoff| format!(" from releases until {cutoff}"));
        let doubt = self.not_reproducible.as_ref().map(|why| format!(", not reproducible: {why}"));
        format!("{}{}{}", self.source, until.unwrap_or_default(), doubt.unwrap_or_default())
    }
}

/// A file that several distributions contain, with different contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The file, as the lists name it: relative to the directory of the packages.
    pub path: String,
    /// The distributions that contain it, in the order of the lock; the last one wins.
    pub packages: Vec<String>,
}

impl Overlap {
    /// Returns it in a line.
    pub fn in_words(&self) -> String {
        let winner = self.packages.last().map_or("", String::as_str);
        format!("{} is brought by {}: the one of {winner} is used", self.path, self.packages.join(" and "))
    }
}
