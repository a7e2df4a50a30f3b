//! Checks of a resolution: uv only warns of a release or an extra that the application does not get as required. Pure.

use refresh_system::error::{Failure, Outcome};

use super::definitions::Definitions;
use super::requirements::LineKind;

/// Refuses releases that their authors have withdrawn (PEP 592): uv installs a pinned one, with a warning that is
/// easily missed on a fleet.
pub(super) fn refuse_withdrawn(yanked: &[String]) -> Outcome<()> {
    if yanked.is_empty() {
        return Ok(());
    }
    let what = yanked.join(", ");
    Err(Failure::new(format!(
        "the requirements pin releases that their authors have withdrawn (yanked): {what}"
    ))
    .hint("pin another version in the requirements"))
}

/// Refuses a requirement with an extra that its package does not have: uv installs the package without it, with a
/// warning. A package that requires another one in that way is the business of its authors.
pub(super) fn refuse_unknown_extras(definitions: &Definitions, unknown: &[(String, String)]) -> Outcome<()> {
    let of_files = definitions.requirements().into_iter();
    let of_files = of_files.map(|it| (format!("{}, line {}", it.file.display(), it.line), it.package));
    let of_host = definitions.also.iter().filter_map(|line| match &line.meaning {
        LineKind::Package(package) => Some(("python.also".to_owned(), package.clone())),
        _ => None,
    });
    for (place, required) in of_files.chain(of_host) {
        let extras = required.extras();
        let is_required =
            |(name, extra): &&(String, String)| *name == required.name && extras.contains(extra);
        if let Some((name, extra)) = unknown.iter().find(is_required) {
            return Err(Failure::new(format!("{place}: {name} has no extra {extra:?}"))
                .hint("remove the extra from the requirement, or require a release that has it"));
        }
    }
    Ok(())
}
