//! Python versions and what a project says of them: the part of PEP 440 that `requires-python` uses. Pure.

use crate::error::{Failure, Outcome};

/// Tells whether a release such as `3.12.1` fulfils a list such as `>=3.10,<4,!=3.11.*`.
///
/// # Errors
/// A part of the list is not understood.
pub(super) fn satisfies(release: &str, wanted: &str) -> Outcome<bool> {
    let release = numbers(release).ok_or_else(|| Failure::new(format!("{release:?} is not a version")))?;
    for part in wanted.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let fulfilled =
            one(&release, part).ok_or_else(|| Failure::new(format!("{part:?} is not understood")))?;
        if !fulfilled {
            return Ok(false);
        }
    }
    Ok(true)
}

fn one(release: &[u64], part: &str) -> Option<bool> {
    let at = part.find(|c: char| c.is_ascii_digit())?;
    let (operator, version) = part.split_at(at);
    let (version, any_below) = match version.strip_suffix(".*") {
        Some(version) => (version, true),
        None => (version, false),
    };
    let version = numbers(version)?;
    let starts = release.iter().chain(std::iter::repeat(&0)).zip(&version).all(|(one, other)| one == other);
    let order = padded(release).cmp(&padded(&version));
    Some(match (operator.trim(), any_below) {
        ("==", true) => starts,
        ("!=", true) => !starts,
        ("==" | "===", false) => order.is_eq(),
        ("!=", false) => order.is_ne(),
        (">=", false) => order.is_ge(),
        ("<=", false) => order.is_le(),
        (">", false) => order.is_gt(),
        ("<", false) => order.is_lt(),
        ("~=", false) if version.len() > 1 => {
            order.is_ge() && padded(release)[..version.len() - 1] == version[..version.len() - 1]
        }
        _ => return None,
    })
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    let numbers: Vec<u64> = text.trim().split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    (numbers.len() <= 4).then_some(numbers)
}

fn padded(numbers: &[u64]) -> [u64; 4] {
    let mut padded = [0; 4];
    padded[..numbers.len()].copy_from_slice(numbers);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_versions_mean_what_they_mean_to_pip() {
        for (wanted, is) in [
            (">=3.10", true),
            (">=3.10,<4", true),
            (">3.11.2", false),
            ("<3.11", false),
            ("~=3.9", true),
            ("~=3.11.1", true),
            ("~=3.10.1", false),
            ("==3.11.*", true),
            ("!=3.11.*", false),
            ("==3.11.2", true),
            ("==3.11", false),
            (" >= 3.9 , != 3.9.1 ", true),
            ("", true),
        ] {
            assert_eq!(satisfies("3.11.2", wanted).unwrap(), is, "{wanted}");
        }
        for wrong in ["3.9", "python", ">=3.x", ">=3.*", "~=3"] {
            assert!(satisfies("3.11.2", wrong).is_err(), "{wrong}");
        }
    }
}
