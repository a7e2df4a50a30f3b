//! Checks of a resolution: uv only warns of a release or an extra that the application does not get as required. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use refresh_system::error::{Failure, Outcome};

use super::definitions::Definitions;
use super::interpreter::satisfies;
use super::lock::Lock;
use super::project::Unread;
use super::project_lockfile::{ProjectLockfile, ProjectLockfileForm};
use super::requirements::{LineKind, Requirement};

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

/// Refuses options that demand a build from source if the host does not allow one: in uv they override its own option.
pub(super) fn refuse_source(binary: &[String], allow_source: bool) -> Outcome<()> {
    match binary.iter().find(|option| option.starts_with("--no-binary")) {
        Some(option) if !allow_source => Err(Failure::new(format!(
            "the requirements demand a build from source, which is not allowed: {option}"
        ))
        .hint("remove the line, or allow builds: python.allow_source = true in the host's refresh.toml")),
        _ => Ok(()),
    }
}

/// Refuses to resolve a project whose tools would install other packages: settings of tools are not read. `indexes` are
/// those that the host names for single packages.
pub(super) fn refuse_unread(definitions: &Definitions, indexes: &BTreeMap<String, String>) -> Outcome<()> {
    let is_replaced = |package: &String| indexes.contains_key(package);
    let Some(unread) = definitions.unread.iter().find(|it| !it.of_index.as_ref().is_some_and(is_replaced))
    else {
        return Ok(());
    };
    let failure = Failure::new(format!(
        "{} in pyproject.toml is not read: without a lockfile, other packages would be installed",
        unread.setting
    ));
    let failure = match &unread.of_index {
        Some(package) => failure.hint(format!(
            "name that index: indexes = {{ {package} = \"URL\" }} under [python] in the host's refresh.toml"
        )),
        None => failure,
    };
    Err(failure.hint("commit a lockfile: uv.lock, pylock.toml, or requirements.txt with a hash on each line"))
}

/// Refuses a lock of the application that lacks a package that the project requires by name, or that has a version
/// which the project or a constraint excludes. A requirement with a marker may be for another machine.
pub(super) fn refuse_unfit_lock(
    definitions: &Definitions,
    own: &ProjectLockfile,
    lock: &Lock,
) -> Outcome<()> {
    // uv compares its lock itself, and its overrides replace or remove requirements of the project.
    let overrides = |unread: &Unread| {
        ["override-dependencies", "exclude-dependencies"].iter().any(|key| unread.setting.ends_with(key))
    };
    let is_compared =
        !matches!(own.form, ProjectLockfileForm::Uv { .. }) && !definitions.unread.iter().any(overrides);
    let required = definitions.package_lines().into_iter();
    let required = required.filter(|(file, _)| is_compared && *file == Path::new("pyproject.toml"));
    // Beside a lockfile, other lists are not read.
    let limits = if own.content().is_some() { Vec::new() } else { definitions.constraint_lines() };
    let lines = required.map(|line| (line, true)).chain(limits.into_iter().map(|line| (line, false)));
    for ((file, line), is_required) in lines {
        let LineKind::Package(package) = &line.meaning else { continue };
        if package.specification.contains(';') {
            continue;
        }
        let mut locked = lock.packages.iter().filter(|locked| locked.name == package.name).peekable();
        let (name, file, own) = (&package.name, file.display(), own.file().display());
        let why = match locked.peek() {
            None if is_required => format!("lacks {name}, which {file} asks for"),
            None => continue,
            Some(first) => {
                let (version, wanted) = (&first.version, versions(package));
                let is_fit = |version: &str| satisfies(version, wanted).unwrap_or(true);
                if locked.any(|locked| locked.url.is_some() || is_fit(&locked.version)) {
                    continue;
                }
                format!("has {name} {version}, and {file} asks for {name}{wanted}")
            }
        };
        return Err(Failure::new(format!("the application's {own} {why}"))
            .hint(format!("update {own} in the application's repository, and commit it")));
    }
    Ok(())
}

/// Returns the versions that a requirement accepts, without its extras; empty for a URL.
fn versions(package: &Requirement) -> &str {
    let text = package.specification.trim();
    let text =
        text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(_, rest)| rest).trim();
    let text = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(text);
    if text.starts_with('@') { "" } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::author_hashes::pinned_lines;
    use super::super::lock::Origin;
    use super::super::requirements;
    use super::*;

    fn refusal(project: &str, requirements: &str, constraints: &str) -> Option<String> {
        refusal_with(Vec::new(), project, requirements, constraints)
    }

    fn refusal_with(
        unread: Vec<Unread>,
        project: &str,
        requirements: &str,
        constraints: &str,
    ) -> Option<String> {
        let hash = format!("--hash=sha256:{}", "a".repeat(64));
        let parsed = |text: &str| requirements::parse(text.replace("HASH", &hash).as_bytes(), "x").unwrap();
        let definitions = Definitions {
            files: [
                ("pyproject.toml".into(), parsed(project)),
                ("requirements.txt".into(), parsed(&format!("-c limits.txt\n{requirements}"))),
                ("limits.txt".into(), parsed(constraints)),
            ]
            .into(),
            roots: vec!["pyproject.toml".into(), "requirements.txt".into()],
            unread,
            ..Definitions::default()
        };
        let file = std::path::PathBuf::from("requirements.txt");
        let own = ProjectLockfile { file: file.clone(), form: ProjectLockfileForm::Requirements };
        let (packages, lines) = pinned_lines(&definitions).unwrap();
        let lock = Lock::from_requirements("k", Origin::Application { file }, packages, lines).unwrap();
        let refused = refuse_unfit_lock(&definitions, &own, &lock).err()?;
        Some(refused.summary().to_owned())
    }

    #[test]
    fn a_lock_without_a_required_package_or_with_an_excluded_version_is_refused() {
        let locked = "six==1.16.0 HASH\nweb[all]==2.0rc1 HASH\n";
        for (project, constraints) in [
            ("", ""),
            ("six>=1,<2\nweb[all]>=1", "six==1.16.*\nidna<3"),
            ("", "six (<1.17)\nsix>=2 ; os_name == 'x'"),
        ] {
            assert_eq!(refusal(project, locked, constraints), None, "{project} {constraints}");
        }
        for (project, constraints, why) in [
            ("idna", "", "lacks idna, which pyproject.toml asks for"),
            ("six>=1.17", "", "has six 1.16.0, and pyproject.toml asks for six>=1.17"),
            ("", "six>=1.17", "has six 1.16.0, and limits.txt asks for six>=1.17"),
            ("", "six==1.17 HASH", "has six 1.16.0, and limits.txt asks for six==1.17"),
        ] {
            let refused = refusal(project, locked, constraints).unwrap();
            assert!(refused.ends_with(why), "{refused}");
        }
        for setting in ["tool.uv.override-dependencies", "tool.uv.exclude-dependencies"] {
            let unread = Unread { setting: setting.to_owned(), of_index: None };
            assert_eq!(refusal_with(vec![unread], "six>=1.17\nidna", locked, ""), None);
        }
    }

    #[test]
    fn a_build_from_source_is_refused_unless_the_host_allows_it() {
        let options = |option: &str| [option.to_owned()];
        assert!(refuse_source(&options("--no-binary=six"), false).is_err());
        assert!(refuse_source(&options("--no-binary=:all:"), false).is_err());
        assert!(refuse_source(&options("--only-binary=six"), false).is_ok());
        assert!(refuse_source(&options("--no-binary=six"), true).is_ok());
    }

    #[test]
    fn a_setting_that_is_not_read_is_refused_unless_the_host_names_the_index() {
        let refused = |of_index: Option<&str>| {
            let unread =
                Unread { setting: "tool.uv.sources.six".to_owned(), of_index: of_index.map(str::to_owned) };
            let definitions = Definitions { unread: vec![unread], ..Definitions::default() };
            let indexes = [("six".to_owned(), "https://h/simple".to_owned())].into();
            refuse_unread(&definitions, &indexes).err().map(|failure| failure.hint_texts())
        };
        assert_eq!(refused(Some("six")), None);
        assert_eq!(refused(None).unwrap().len(), 1);
        assert!(refused(Some("idna")).unwrap()[0].contains("indexes = { idna = \"URL\" }"));
    }
}
