//! Finds the lock of the application that counts. It reads the requested tree.

use std::path::{Path, PathBuf};

use refresh_system::error::{Context as _, Failure, Outcome};

use super::definitions::Definitions;
use super::locked::is_pinned;
use super::project_lockfile::{ProjectLockfile, ProjectLockfileForm, STANDARD, UV};
use super::requirements;
use super::tree_source::TreeSource;

/// Finds the lock that counts, among the lockfiles that the definition names and its own lines.
///
/// # Errors
/// A lock is not text, or a lock of uv comes without its project.
pub(super) fn find(
    source: &dyn TreeSource,
    locks: &[PathBuf],
    definitions: &Definitions,
) -> Outcome<Option<ProjectLockfile>> {
    let text = |path: &Path| -> Outcome<Option<String>> {
        let Some(bytes) = source.read(path)? else { return Ok(None) };
        let context = || format!("{} is no text in UTF-8", path.display());
        let text = String::from_utf8(bytes).context(context)?;
        toml::from_str::<toml::Table>(&text).context(|| format!("{} cannot be read", path.display()))?;
        Ok(Some(text))
    };
    if locks.iter().any(|path| path == Path::new(UV))
        && let Some(lock) = text(Path::new(UV))?
    {
        let project = text(Path::new("pyproject.toml"))?
            .ok_or_else(|| Failure::new("uv.lock exists without its pyproject.toml"))?;
        return Ok(Some(ProjectLockfile {
            file: UV.into(),
            form: ProjectLockfileForm::Uv { lock, project },
        }));
    }
    let mut standard: Vec<&PathBuf> = locks.iter().filter(|path| *path != Path::new(UV)).collect();
    standard.sort_by_key(|path| **path != Path::new(STANDARD));
    if let Some(file) = standard.first()
        && let Some(lock) = text(file)?
    {
        return Ok(Some(ProjectLockfile {
            file: (*file).clone(),
            form: ProjectLockfileForm::Standard(lock),
        }));
    }
    let lines = definitions.package_lines();
    let mut listed = lines.iter().filter(|(file, _)| *file != Path::new("pyproject.toml"));
    let Some((file, _)) = listed.clone().next() else { return Ok(None) };
    // As in pip, the hash of a URL alone does not require hashes of the others.
    let has_hashes = listed.clone().any(|(_, line)| !requirements::hashes_of(&line.text).is_empty());
    let all =
        (has_hashes || definitions.requires_hashes().is_some()) && listed.all(|(_, line)| is_pinned(line));
    Ok(all.then(|| ProjectLockfile { file: (*file).to_path_buf(), form: ProjectLockfileForm::Requirements }))
}

#[cfg(test)]
mod tests {
    use super::super::reading::read;
    use super::*;
    use crate::DefinitionFilter;
    use refresh_settings::Python;

    struct Tree(Vec<(&'static str, String)>);

    impl TreeSource for Tree {
        fn names_at_root(&self) -> Outcome<Vec<PathBuf>> {
            Ok(self.0.iter().map(|(name, _)| PathBuf::from(name)).collect())
        }
        fn read(&self, path: &Path) -> Outcome<Option<Vec<u8>>> {
            Ok(self.0.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| text.clone().into()))
        }
        fn link(&self, _: &Path) -> Outcome<Option<PathBuf>> {
            Ok(None)
        }
    }

    fn definitions(files: &[(&'static str, &str)]) -> Outcome<Definitions> {
        let files = files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        let python = Python::default();
        read(&Tree(files), &DefinitionFilter::of(&python, None))
    }

    fn lock_of(files: &[(&'static str, &str)]) -> Option<PathBuf> {
        definitions(files).unwrap().own_lock.map(|lock| lock.file().to_path_buf())
    }

    const PROJECT: (&str, &str) = ("pyproject.toml", "[project]\nname='x'\ndependencies=['six']\n");
    const PINNED: &str =
        "six==1.17.0 --hash=sha256:ab\nuvicorn[standard]==0.3 ; os_name == 'x' --hash=sha256:cd\n";

    #[test]
    fn rw_5_3_the_application_s_locks_count_in_a_fixed_order() {
        let (uv, standard) = (("uv.lock", "version = 1\n"), ("pylock.toml", "lock-version = '1.0'\n"));
        let listed = ("requirements.txt", PINNED);
        assert_eq!(lock_of(&[listed, standard, uv, PROJECT]), Some("uv.lock".into()));
        assert_eq!(lock_of(&[listed, standard, PROJECT]), Some("pylock.toml".into()));
        assert_eq!(lock_of(&[listed, PROJECT]), Some("requirements.txt".into()));
        assert_eq!(lock_of(&[PROJECT]), None);
        let notes = definitions(&[listed, standard, uv, PROJECT]).unwrap();
        assert_eq!(notes.notes, ["uv.lock is the lock; requirements.txt, pylock.toml does not count"]);
        assert!(definitions(&[uv]).unwrap_err().summary().contains("without its pyproject.toml"));
    }

    #[test]
    fn requirements_are_a_lock_only_when_every_line_is_pinned_with_a_hash() {
        for line in ["six", "six==1.17.0", "six>=1 --hash=sha256:ab", "six==1.* --hash=sha256:ab"] {
            let text = format!("{PINNED}{line}\n");
            assert_eq!(lock_of(&[("requirements.txt", &text)]), None, "{line}");
        }
        let included = [
            ("requirements.txt", "-r more.txt\n-c limits.txt\n"),
            ("more.txt", PINNED),
            ("limits.txt", "six<2"),
        ];
        assert_eq!(lock_of(&included), Some("more.txt".into()));
    }

    #[test]
    fn rw_5_3b_only_the_content_of_a_lock_counts_beside_it() {
        let lock = |text: &str, listed: &str| {
            definitions(&[("pylock.toml", text), ("requirements.txt", listed)]).unwrap().normalized()
        };
        let plain = lock("lock-version = '1.0'\nx = 1\n", "six");
        assert_eq!(plain, lock("# c\r\nx = 1\r\nlock-version = \"1.0\"\r\n", "idna"));
        assert_eq!(plain, lock("lock-version = '1.0'\nx = 1\n", "--no-binary six\nsix"));
        assert_ne!(plain, lock("lock-version = '1.0'\nx = 2\n", "six"));
    }
}
