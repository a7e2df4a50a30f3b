//! Finds the program that root's units will run, and checks whether it can be trusted.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;

/// Returns the real path of the running program, for units that run it as root.
///
/// # Errors
/// Other users than root could replace it, or its path is not possible in a unit.
pub(super) fn program() -> Outcome<PathBuf> {
    let path = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .context(|| "cannot find the file of this program".to_owned())
        .map_err(|failure| failure.hint("install it again, then run the installed one"))?;
    let install = Hint::command("install -m 755", &[&path, &"/usr/local/bin/ladylinux-refresh"]);
    if let Some(loose) = replaceable_at(&path)? {
        return Err(Failure::new(format!(
            "others than root can change {}, and root's units would run {}",
            loose.display(),
            path.display()
        ))
        .hint(install)
        .command_for("then use that one", "/usr/local/bin/ladylinux-refresh init", &[]));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    if !path.to_str().is_some_and(|text| text.chars().all(plain)) {
        return Err(Failure::new(format!("{} cannot be named in a unit", path.display())).hint(install));
    }
    Ok(path)
}

/// Returns the part of a path, itself included, that users other than root can write.
///
/// # Errors
/// A part cannot be inspected.
pub(super) fn replaceable_at(path: &Path) -> Outcome<Option<PathBuf>> {
    for part in path.ancestors() {
        let found = part.metadata().context(|| format!("cannot read {}", part.display()))?;
        if found.uid() != 0 || found.mode() & 0o022 != 0 {
            return Ok(Some(part.to_path_buf()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_below_a_world_writable_directory_is_not_trusted() {
        assert_eq!(replaceable_at(Path::new("/tmp")).unwrap(), Some(PathBuf::from("/tmp")));
        assert_eq!(replaceable_at(Path::new("/usr/bin/env")).unwrap(), None);
    }
}
