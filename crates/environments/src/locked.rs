//! One distribution of a lock, and how a line of requirements pins it. Pure.

use serde::{Deserialize, Serialize};

use super::requirements::{self, Line, LineKind};

/// One distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// The name in its normal form.
    pub name: String,
    /// The version.
    pub version: String,
    /// The machines that need it (PEP 508), if not all do.
    pub marker: Option<String>,
    /// The hashes of all acceptable files, as `sha256:…`, sorted.
    #[serde(alias = "digests")]
    pub hashes: Vec<String>,
    /// The only location of its wheel, if that is not an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Returns whether a line pins one version with hashes.
pub(super) fn is_pinned(line: &Line) -> bool {
    pinned(line).is_some()
}

/// Reads a line that pins one version, or the URL of one wheel, with hashes.
pub(super) fn pinned(line: &Line) -> Option<Locked> {
    let LineKind::Package(package) = &line.meaning else { return None };
    let mut hashes = requirements::hashes_of(&line.text);
    let (specifier, marker) = match package.specification.split_once(';') {
        Some((specifier, marker)) => (specifier, Some(marker.trim().to_owned())),
        None => (package.specification.as_str(), None),
    };
    let specifier = specifier.trim();
    let specifier = if specifier.starts_with('[') { specifier.split_once(']')?.1.trim() } else { specifier };
    let name = package.name.clone();
    if let Some(url) = specifier.strip_prefix('@') {
        let (url, fragment) = url.trim().split_once('#').unwrap_or((url.trim(), ""));
        hashes.extend(requirements::hashes_of_fragment(fragment));
        hashes.sort();
        hashes.dedup();
        let url = url.to_owned();
        let version = url.rsplit('/').next()?.strip_suffix(".whl")?.split('-').nth(1)?.to_owned();
        return (!hashes.is_empty()).then_some(Locked { name, version, marker, hashes, url: Some(url) });
    }
    let version = specifier.strip_prefix("===").or_else(|| specifier.strip_prefix("=="))?.trim();
    let is_one = !hashes.is_empty() && !version.is_empty() && !version.contains([',', '*', '@', ' ', ')']);
    is_one.then(|| Locked { name, version: version.to_owned(), marker, hashes, url: None })
}
