//! Copies an environment for use at another path: `init --undo` leaves the copy in the place of the link. Runs as the
//! owner of the new place and writes only there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use refresh_system::disk;
use refresh_system::error::{Context as _, Outcome};

/// The worker's operation.
pub const OPERATION: &str = "relocate-environment";

/// The largest size in bytes of files with start paths of programs; larger files are not searched.
const LIMIT: u64 = 1 << 20;

/// The environment to copy, and the paths in it that change.
#[derive(Debug, Serialize, Deserialize)]
pub struct RelocateRequest {
    /// The environment.
    pub from: PathBuf,
    /// The copy: an empty directory.
    pub to: PathBuf,
    /// The paths in the environment's programs.
    pub old: Vec<String>,
    /// The path that replaces them.
    pub new: String,
}

/// Performs the worker's side of [`OPERATION`].
///
/// # Errors
/// Something cannot be read or copied.
pub fn handle(request: &RelocateRequest) -> Outcome<()> {
    copy(request, &request.from, &request.to)?;
    disk::sync_file_system(&request.to)
}

fn copy(request: &RelocateRequest, from: &Path, to: &Path) -> Outcome<()> {
    let context = || format!("cannot read {}", from.display());
    for entry in fs::read_dir(from).context(context)? {
        let entry = entry.context(context)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().context(context)?;
        if kind.is_dir() {
            disk::make_new_directory(&target, 0o755)?;
            copy(request, &source, &target)?;
        } else if kind.is_symlink() {
            let leads_to = fs::read_link(&source).context(context)?;
            disk::point_link(&target, Path::new(&renamed(request, &leads_to.to_string_lossy())))?;
        } else {
            let found = entry.metadata().context(context)?;
            let mode = found.permissions().mode() & 0o777 | 0o200;
            if let Some(text) = rewritten(request, &source, found.len())? {
                disk::replace_file(&target, text.as_bytes(), mode)?;
            } else {
                disk::copy_new(&source, &target)?;
                disk::set_mode(&target, mode)?;
            }
        }
    }
    Ok(())
}

/// Returns the text of a file with an old path, with the new path instead; `None` for every other file. The entry of
/// such a program in `RECORD` is then no longer true, but no installer checks it.
fn rewritten(request: &RelocateRequest, path: &Path, size: u64) -> Outcome<Option<String>> {
    let is_program = path.parent().is_some_and(|directory| directory.ends_with("bin"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names_paths = name == "pyvenv.cfg" || name.ends_with(".pth") || name == "direct_url.json";
    if size > LIMIT || !(is_program || names_paths) {
        return Ok(None);
    }
    let Some(bytes) = disk::read_at_most(path, LIMIT)? else { return Ok(None) };
    let Ok(text) = String::from_utf8(bytes) else { return Ok(None) };
    let new = renamed(request, &text);
    Ok((new != text).then_some(new))
}

fn renamed(request: &RelocateRequest, text: &str) -> String {
    request.old.iter().fold(text.to_owned(), |text, old| text.replace(old, &request.new))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the test lays out an environment")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn programs_name_the_new_path_and_all_other_files_are_unchanged() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("environments/a-1"), place.path().join("venv.new"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::create_dir_all(from.join("lib/site-packages")).unwrap();
        let old = from.to_str().unwrap();
        let write = |path: &str, text: &[u8], mode: u32| {
            fs::write(from.join(path), text).unwrap();
            fs::set_permissions(from.join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("bin/tool", format!("#!{old}/bin/python\nprint()\n").as_bytes(), 0o555);
        write("bin/native", b"\x7fELF\xff", 0o555);
        write("pyvenv.cfg", b"home = /usr/bin\n", 0o444);
        write("lib/site-packages/module.py", old.as_bytes(), 0o444);
        symlink("/usr/bin/python3", from.join("bin/python")).unwrap();
        symlink(format!("{old}/lib"), from.join("lib64")).unwrap();
        fs::create_dir(&to).unwrap();
        let request = RelocateRequest {
            from: from.clone(),
            to: to.clone(),
            old: vec![old.to_owned()],
            new: "/opt/ladylinux/venv".to_owned(),
        };
        handle(&request).unwrap();
        let count = |directory: &str| fs::read_dir(to.join(directory)).unwrap().count();
        assert_eq!(["", "bin", "lib", "lib/site-packages"].map(count), [4, 3, 1, 1]);
        assert_eq!(fs::read_to_string(to.join("pyvenv.cfg")).unwrap(), "home = /usr/bin\n");
        let tool = fs::read_to_string(to.join("bin/tool")).unwrap();
        assert_eq!(tool, "#!/opt/ladylinux/venv/bin/python\nprint()\n");
        assert_eq!(fs::metadata(to.join("bin/tool")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(to.join("bin/native")).unwrap(), b"\x7fELF\xff");
        assert_eq!(fs::read_to_string(to.join("lib/site-packages/module.py")).unwrap(), old);
        assert_eq!(fs::read_link(to.join("bin/python")).unwrap(), Path::new("/usr/bin/python3"));
        assert_eq!(fs::read_link(to.join("lib64")).unwrap(), Path::new("/opt/ladylinux/venv/lib"));
    }
}
