//! The scripts of a commit: read from Git, because the working tree is made from it.

use std::path::{Path, PathBuf};

use refresh_git::history::{EntryKind, TreeEntry};
use refresh_installation::installation::Installation;
use refresh_settings::names::CommitId;
use refresh_system::error::Outcome;

use super::{DoctorFinding, Examined, Findings, blemish, cleaning, edit, quoted_all, some_of};

/// The largest size of a script; a larger file is not a script.
const LARGEST: u64 = 1 << 20;
/// The largest number of scripts that are read.
const MOST: usize = 300;
/// The words by which a Python file starts programs.
const STARTERS: [&str; 10] = [
    "subprocess",
    "os.system",
    "os.popen",
    "os.exec",
    "os.spawn",
    "posix_spawn",
    "pty.spawn",
    "pexpect",
    "create_subprocess_exec",
    "create_subprocess_shell",
];

/// Checks that scripts and unit files contain nothing that the kernel, a shell or systemd misreads.
pub(super) fn text(examined: &Examined, on: &Installation) -> Findings {
    let mut found = Vec::new();
    let mut flawed = Vec::new();
    let mut how = "";
    for (entry, bytes) in read(examined, on, |path| is_script(path) || is_unit(path))? {
        if let Some(what) = blemish(&bytes) {
            how = what;
            flawed.push(entry.path.display().to_string());
        }
    }
    if !flawed.is_empty() {
        let what = if flawed.len() == 1 {
            format!("{} has {how}", flawed[0])
        } else {
            format!("byte order marks or Windows line endings in {}", some_of(&flawed))
        };
        found.push(DoctorFinding::problem(
            what,
            "the kernel takes the carriage return as a part of the interpreter's name, and a shell as a part of each last word",
            format!("in a clone: {} && git commit -am 'Use Unix line endings' && git push", cleaning(&flawed)),
        ));
    }
    Ok(found)
}

/// Checks that scripts with an interpreter line are executable.
pub(super) fn modes(examined: &Examined, on: &Installation) -> Findings {
    let scripts = read(examined, on, is_script)?;
    let flawed: Vec<String> = scripts
        .iter()
        .filter(|(entry, bytes)| {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            entry.kind == EntryKind::Regular && bytes.starts_with(b"#!")
        })
        .map(|(entry, _)| entry.path.display().to_string())
        .collect();
    if flawed.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::problem(
        format!("scripts without the executable bit: {}", some_of(&flawed)),
        "who starts them by their path gets \"Permission denied\", and a mode set manually in app/ is undone by the next refresh",
        format!(
            "in a clone: git update-index --chmod=+x -- {} && git commit -m 'Make scripts executable' && git push",
            quoted_all(&flawed)
        ),
    )])
}

/// Checks that no page of the application needs root's rights to refresh.
pub(super) fn root_calls(examined: &Examined, on: &Installation) -> Findings {
    let Some(commit) = examined.commit()? else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> = Vec::new();
    for word in ["sudo", "systemd-run"] {
        files.extend(on.mirror.files_with(&commit, word)?);
    }
    files.retain(|path| path.extension().is_some_and(|ending| ending == "py"));
    if files.is_empty() {
        return Ok(Vec::new());
    }
    // A word alone is no call: applications have a "sudo mode" of their own.
    let mut starters: Vec<PathBuf> = Vec::new();
    for call in STARTERS {
        starters.extend(on.mirror.files_with(&commit, call)?);
    }
    files.retain(|path| starters.contains(path));
    files.sort();
    files.dedup();
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    let more = if files.len() > 1 { format!(" (and {} more)", files.len() - 1) } else { String::new() };
    Ok(vec![DoctorFinding::note(
        format!(
            "the application calls sudo or systemd-run in {}{more}; for a refresh it can create a file in {}",
            first.display(),
            on.layout.requests().display()
        ),
        "a button that refreshes needs no rights of root: root decides, by the setting allowed_branches (docs/requests.md)",
        edit(&on.layout.host_file()),
    )])
}

/// Reads the files of the examined commit that `wanted` accepts.
fn read(
    examined: &Examined,
    on: &Installation,
    wanted: impl Fn(&Path) -> bool,
) -> Outcome<Vec<(TreeEntry, Vec<u8>)>> {
    let Some(commit) = examined.commit()? else { return Ok(Vec::new()) };
    let of = |entry: &&TreeEntry| {
        let is_file = matches!(entry.kind, EntryKind::Regular | EntryKind::Executable);
        is_file && entry.size.is_some_and(|size| size <= LARGEST) && wanted(&entry.path)
    };
    let files = on.mirror.files(&commit)?;
    files.iter().filter(of).take(MOST).cloned().map(|entry| content(on, &commit, entry)).collect()
}

fn content(on: &Installation, commit: &CommitId, entry: TreeEntry) -> Outcome<(TreeEntry, Vec<u8>)> {
    let bytes = on.mirror.read(commit, &entry.path)?.unwrap_or_default();
    Ok((entry, bytes))
}

fn is_script(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let in_scripts =
        path.parent().is_some_and(|directory| directory.ends_with("scripts") || directory.ends_with("bin"));
    matches!(ending, Some("sh" | "bash")) || (ending.is_none() && in_scripts)
}

fn is_unit(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("service" | "socket" | "timer" | "path" | "target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_recognized_by_their_names() {
        assert!(is_script(Path::new("scripts/refresh_vm.sh")) && is_script(Path::new("a/bin/start")));
        assert!(!is_script(Path::new("README")) && !is_script(Path::new("scripts/notes.md")));
        assert!(is_unit(Path::new("deploy/ladylinux-api.service")));
    }
}
