//! The set of claims that all sources make together. It reads nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::error::Outcome;
use crate::process::interrupt;

use super::gguf::Part;
use super::model_dirs::{ModelDirs, Resolved};
use super::{Claim, Expected, Finding, Format, Verdict};

/// How many claims and verdicts there may be: a source must not fill the memory.
const MOST_CLAIMS: usize = 200_000;

/// How many different expectations about one file are compared.
const MOST_CONTRADICTIONS: usize = 16;

/// How many sources of one expectation are named.
const NAMED_SOURCES: usize = 3;

/// Claims to compare with files, and verdicts that need no reading.
#[derive(Debug, Default)]
pub(super) struct ClaimSet {
    /// The claims.
    pub(super) claims: Vec<Claim>,
    /// The verdicts.
    pub(super) verdicts: Vec<Verdict>,
    /// Whether claims were left out because there are too many.
    pub(super) is_full: bool,
}

impl ClaimSet {
    /// Adds what `expected` says about the file at `path`, which may lead through links to another model directory.
    pub(super) fn push(&mut self, dirs: &ModelDirs, path: &Path, expected: Expected) {
        let shown = dirs.shown(path);
        let finding = match dirs.resolve(path) {
            Resolved::Path(path) => {
                if self.has_room() {
                    self.claims.push(Claim { path, shown, expected });
                }
                return;
            }
            Resolved::Missing if expected.is_required => Finding::MissingRequired,
            Resolved::Missing => Finding::MissingOptional,
            Resolved::NoFile => Finding::Unreadable("it is not a regular file".to_owned()),
            Resolved::Refused(why) => Finding::Inconsistent(why),
        };
        self.report(Verdict::unread(path, &shown, &expected.from, finding));
    }

    /// Adds a verdict.
    pub(super) fn report(&mut self, verdict: Verdict) {
        if self.has_room() {
            self.verdicts.push(verdict);
        }
    }

    fn has_room(&mut self) -> bool {
        self.is_full |= self.claims.len() + self.verdicts.len() >= MOST_CLAIMS;
        !self.is_full
    }

    /// Returns every path that a source names.
    pub(super) fn paths(&self) -> HashSet<PathBuf> {
        let claims = self.claims.iter().map(|claim| &claim.path);
        claims.chain(self.verdicts.iter().map(|verdict| &verdict.path)).cloned().collect()
    }

    /// Adds a claim for each part of a split GGUF of which some part is claimed: no part works without the others.
    ///
    /// # Errors
    /// The interruption.
    pub(super) fn add_parts(&mut self, dirs: &ModelDirs) -> Outcome<()> {
        let known = self.paths();
        let mut names: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut sets = BTreeSet::new();
        for claim in self.claims.iter().filter(|claim| claim.expected.format == Some(Format::Gguf)) {
            interrupt::check()?;
            let Some(part) = Part::of_name(&claim.path) else { continue };
            let is_required = claim.expected.is_required;
            if !sets.insert((claim.path.with_file_name(part.name(1)), is_required)) {
                continue;
            }
            for number in 1..=part.count {
                let path = claim.path.with_file_name(part.name(number));
                if !known.contains(&path) {
                    *names.entry(path).or_default() |= is_required;
                }
            }
        }
        for (path, is_required) in names {
            let Some(part) = Part::of_name(&path) else { continue };
            let from = format!("part {} of {}", part.number, part.count);
            let format = Some(Format::Gguf);
            self.push(dirs, &path, Expected { is_required, format, ..Expected::optional(from) });
        }
        Ok(())
    }

    /// Merges the claims that agree about a file; contradictions stay side by side, up to a number.
    ///
    /// # Errors
    /// The interruption.
    pub(super) fn merged(self) -> Outcome<Self> {
        let Self { claims: all, mut verdicts, is_full } = self;
        let mut claims: Vec<Claim> = Vec::with_capacity(all.len());
        let mut by_path: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        let mut crowded: HashSet<PathBuf> = HashSet::new();
        for claim in all {
            interrupt::check()?;
            let known = by_path.entry(claim.path.clone()).or_default();
            if let Some(index) = known.iter().find(|index| claims[**index].expected.agrees(&claim.expected)) {
                claims[*index].expected.merge(claim.expected);
            } else if known.len() < MOST_CONTRADICTIONS {
                known.push(claims.len());
                claims.push(claim);
            } else if crowded.insert(claim.path.clone()) {
                let why = format!("sources name more than {MOST_CONTRADICTIONS} different contents for it");
                let finding = Finding::Inconsistent(why);
                verdicts.push(Verdict::unread(&claim.path, &claim.shown, &claim.expected.from, finding));
            }
        }
        Ok(Self { claims, verdicts, is_full })
    }
}

impl Expected {
    fn agrees(&self, other: &Self) -> bool {
        let same_size = self.size.is_none() || other.size.is_none() || self.size == other.size;
        let same_digest = self.digest.is_none() || other.digest.is_none() || self.digest == other.digest;
        same_size && same_digest
    }

    fn merge(&mut self, other: Self) {
        self.size = self.size.or(other.size);
        self.digest = self.digest.take().or(other.digest);
        self.format = self.format.or(other.format);
        self.is_required |= other.is_required;
        let named = self.from.matches(", ").count() + 1;
        if named < NAMED_SOURCES {
            self.from = format!("{}, {}", self.from, other.from);
        } else if !self.from.ends_with(" …") {
            self.from.push_str(" …");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Severity, Sha256Hex};
    use super::*;

    fn claim(from: &str, digest: Option<usize>) -> Claim {
        let digest = digest.map(|number| Sha256Hex::parse(&format!("{number:064x}")).unwrap());
        let expected = Expected { digest, ..Expected::optional(from) };
        Claim { path: PathBuf::from("/m/a"), shown: "a".into(), expected }
    }

    fn merged(claims: Vec<Claim>) -> ClaimSet {
        ClaimSet { claims, ..ClaimSet::default() }.merged().unwrap()
    }

    #[test]
    fn agreeing_sources_are_named_together_and_contradictions_stay() {
        let mut required = claim("manifest: a", None);
        required.expected.is_required = true;
        let set = merged(vec![claim("SHA256SUMS", Some(1)), required, claim("other", Some(2))]);
        assert_eq!(set.claims.len(), 2);
        assert_eq!(set.claims[0].expected.from, "SHA256SUMS, manifest: a");
        assert!(set.claims[0].expected.is_required);
        let many = (0..10).map(|number| claim(&format!("m{number}"), None)).collect();
        assert_eq!(merged(many).claims[0].expected.from, "m0, m1, m2 …");
    }

    #[test]
    fn rw_6_2c_too_many_contradictions_about_one_file_are_a_problem() {
        let many = (0..MOST_CONTRADICTIONS + 5).map(|number| claim("SHA256SUMS", Some(number))).collect();
        let set = merged(many);
        assert_eq!((set.claims.len(), set.verdicts.len()), (MOST_CONTRADICTIONS, 1));
        assert_eq!(set.verdicts[0].finding.severity(), Severity::Problem);
    }
}
