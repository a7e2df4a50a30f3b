//! The paths that a refresh writes and those that it only reads, for the sandbox of its unit. Reads the host's settings
//! as text, to check whether they name a path below `/tmp`.

use std::path::{Path, PathBuf};

use refresh_programs::systemd::sandbox::Places;
use refresh_settings::layout::Layout;
use refresh_system::disk;
use refresh_system::error::Outcome;

/// Directories that a unit with its own `/tmp` does not see.
const TMP: [&str; 2] = ["/tmp", "/var/tmp"];

/// The largest part of the settings that is searched for a path, in bytes.
const LIMIT: u64 = 1 << 20;

/// Returns the places of a refresh. The files that a refresh renames are in one directory, so a rename stays on one
/// mount. A part that is a link to another place is a separate place.
pub fn of_refresh(layout: &Layout, own_tmp: bool) -> Places {
    let mut parts = vec![layout.home(), layout.store()];
    if let (Some(parent), true) = (layout.home().parent(), layout.home().parent() == layout.store().parent())
    {
        parts = vec![parent.to_path_buf()];
    }
    parts.extend([layout.persistent(), layout.state(), layout.volatile(), layout.app()]);
    // The drop-in of the unit that holds a socket of the service.
    parts.push(layout.volatile_units());
    parts.extend(layout.data());
    Places {
        writable: outermost(parts),
        read_only: vec![layout.models(), layout.containers(), layout.etc()],
        own_tmp,
    }
}

/// Leaves out paths that are below an earlier path.
fn outermost(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.iter().any(|outer| real(&path).starts_with(real(outer))) {
            kept.push(path);
        }
    }
    kept
}

/// Returns whether a run may get its own `/tmp`: neither its program, its arguments, its variables nor the settings
/// name a path in the shared one, such as a bundle.
///
/// # Errors
/// The settings cannot be read.
pub(crate) fn may_have_own_tmp(
    layout: &Layout,
    program: &Path,
    arguments: &[String],
    variables: &[(String, String)],
) -> Outcome<bool> {
    let settings = disk::read_at_most(&layout.host_file(), LIMIT)?.unwrap_or_default();
    let mut texts = vec![program.display().to_string(), String::from_utf8_lossy(&settings).into_owned()];
    texts.extend(arguments.iter().cloned());
    texts.extend(variables.iter().map(|(_, value)| value.clone()));
    Ok(!texts.iter().any(|text| names_tmp(text)))
}

/// Returns whether a path is below a `/tmp`.
pub fn is_below_tmp(path: &str) -> bool {
    TMP.iter().any(|tmp| Path::new(path).starts_with(tmp))
}

/// Returns whether a text contains a path below a `/tmp`, alone, as a value (`--bundle=/tmp/it`) or in a URL.
fn names_tmp(text: &str) -> bool {
    TMP.iter().any(|tmp| text.contains(&format!("{tmp}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_paths_are_in_one_writable_directory() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path().canonicalize().unwrap());
        let places = of_refresh(&layout, true);
        let (opt, state) = (layout.root().join("opt"), layout.state());
        let units = layout.volatile_units();
        let usual = [opt.clone(), layout.persistent(), state.clone(), layout.volatile(), units.clone()];
        assert_eq!(places.writable, usual);
        let elsewhere = of_refresh(&layout.clone().with_store(Path::new("/srv/big")), true).writable;
        assert_eq!(elsewhere[..2], [layout.home(), layout.root().join("srv/big")]);
        disk::make_directory(&layout.home(), 0o755).unwrap();
        let away = layout.root().join("away");
        disk::make_directory(&away, 0o755).unwrap();
        disk::point_link(&layout.app(), &away).unwrap();
        let places = of_refresh(&layout, true);
        assert_eq!(
            places.writable,
            [opt, layout.persistent(), state, layout.volatile(), layout.app(), units]
        );
    }

    #[test]
    fn a_run_that_needs_a_path_in_tmp_shares_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let own = |program: &str, argument: &str, value: &str| {
            let variables = [("PIP_INDEX_URL".to_owned(), value.to_owned())];
            may_have_own_tmp(&layout, Path::new(program), &[argument.to_owned()], &variables).unwrap()
        };
        assert!(own("/usr/local/bin/it", "main", "https://pypi.org/simple"));
        assert!(!own("/tmp/it", "main", ""));
        assert!(!own("/usr/local/bin/it", "--bundle=/tmp/it.bundle", ""));
        assert!(!own("/usr/local/bin/it", "main", "file:///var/tmp/wheels"));
        disk::make_directory(&layout.etc(), 0o755).unwrap();
        disk::write_atomic(&layout.host_file(), b"[remote]\nurl = \"file:///tmp/app.git\"\n", 0o644).unwrap();
        assert!(!own("/usr/local/bin/it", "main", ""));
    }
}
