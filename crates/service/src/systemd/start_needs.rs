//! The paths, users and groups that the unit of a running service needs for its start. If one was removed meanwhile, the
//! service would not start again, in any version. Reads the file system and the groups; changes nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refresh_programs::process::{ChildEnd, Program, Runner};
use refresh_programs::systemd::file::UnitFile;
use refresh_programs::systemd::start_needs::NeededPath;
use refresh_programs::systemd::unit::{ActiveState, UnitFacts};
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::disk::mounts;
use refresh_system::error::{Failure, Outcome};

/// The number of links in one path that the kernel follows too.
const MAX_LINKS: usize = 40;

/// Checks that the needs of the start of a running service still exist. A stopped service is not checked: it has
/// nothing to lose, and some of its paths exist only while it runs (`RuntimeDirectory=`).
///
/// # Errors
/// Something was removed, or something exists that must be missing.
pub(super) fn check(layout: &Layout, runner: &Runner, unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    if facts.active != ActiveState::Active {
        return Ok(());
    }
    let places = layout.of_application();
    // The next version may bring it.
    let may_come = |path: &Path| places.iter().any(|place| path.starts_with(place));
    for needed in &facts.start_needs.paths {
        let is_of_a_run = needed.path == layout.fence() || needed.path == layout.admit();
        let is_seen = || needed.is_inside && facts.main_pid.is_some_and(|main| sees(main, &needed.path));
        if is_of_a_run || may_come(&needed.path) || holds(needed) || is_seen() {
            continue;
        }
        return Err(gone(unit, &needed.key, &problem(needed)));
    }
    let alternatives = &facts.start_needs.alternatives;
    if let Some(first) = alternatives.first()
        && !alternatives.iter().any(|needed| may_come(&needed.path) || holds(needed))
    {
        let all: Vec<String> = alternatives.iter().map(problem).collect();
        return Err(gone(unit, &first.key, &all.join(", and ")));
    }
    let file = UnitFile::read(facts.fragment.iter().chain(&facts.drop_ins))?;
    if let Some((key, path)) = files_of_streams(&file).find(|(_, path)| !may_come(path) && !path.exists()) {
        return Err(gone(unit, key, &format!("{} does not exist", path.display())));
    }
    let names = |database, key, names: &[String]| -> Outcome<()> {
        match names.iter().find(|name| is_missing(runner, database, name)) {
            Some(name) => {
                Err(gone(unit, key, &format!("the {} {name} does not exist", key.to_ascii_lowercase())))
            }
            None => Ok(()),
        }
    };
    names("passwd", "User", &facts.start_needs.users)?;
    names("group", "Group", &facts.start_needs.groups)
}

/// Returns the result of the test that a key names, and the state of a path that passes it.
fn test(NeededPath { key, path, .. }: &NeededPath) -> (bool, &'static str) {
    let file = |is_good: fn(&fs::Metadata) -> bool| {
        path.metadata().is_ok_and(|found| found.is_file() && is_good(&found))
    };
    match key.trim_start_matches("Condition").trim_start_matches("Assert") {
        "PathIsDirectory" => (path.is_dir(), "a directory"),
        "PathIsSymbolicLink" => (path.is_symlink(), "a symbolic link"),
        "PathIsMountPoint" => {
            let point = path.canonicalize().unwrap_or_else(|_| path.clone());
            let is_it = mounts::all().map_or(true, |all| all.iter().any(|mount| mount.point == point));
            (is_it, "a mount point")
        }
        "DirectoryNotEmpty" => {
            let has_entry = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
            (has_entry, "a directory with content")
        }
        "FileNotEmpty" => (file(|found| found.len() > 0), "a file with content"),
        "FileIsExecutable" => (file(|found| found.mode() & 0o111 != 0), "an executable file"),
        _ => (path.exists(), ""),
    }
}

/// Returns whether a path exists in the file system as a process sees it. Follows links below the root directory of that
/// process, and opens nothing: a unit that may make no files with `setuid` has no openat2(2), which does the same.
fn sees(process: i32, path: &Path) -> bool {
    let root = PathBuf::from(format!("/proc/{process}/root"));
    let parts = |path: &Path| path.iter().rev().map(OsStr::to_owned).collect::<Vec<_>>();
    let (mut left, mut at, mut links) = (parts(path), PathBuf::new(), 0);
    while let Some(part) = left.pop() {
        if part == "/" {
            at = PathBuf::new();
        } else if part == ".." {
            at.pop();
        } else if let Ok(found) = root.join(&at).join(&part).symlink_metadata() {
            if !found.is_symlink() {
                at.push(part);
                continue;
            }
            let Ok(target) = fs::read_link(root.join(&at).join(&part)) else { return false };
            links += 1;
            left.extend(parts(&target));
        } else {
            return false;
        }
        if links > MAX_LINKS {
            return false;
        }
    }
    true
}

fn holds(needed: &NeededPath) -> bool {
    test(needed).0 != needed.is_unwanted
}

/// Returns the state that prevents the start.
fn problem(needed: &NeededPath) -> String {
    let path = needed.path.display();
    match (test(needed).1, needed.is_unwanted) {
        ("", true) => format!("{path} exists"),
        ("", false) => format!("{path} does not exist"),
        (state, true) => format!("{path} is {state}"),
        (state, false) => format!("{path} is not {state}"),
    }
}

/// Returns the paths that systemd needs to open the standard streams: a file for the input, and the directory of a file for the
/// output. The bus has no property for them. Paths with specifiers are left out, and
/// relative ones, which systemd ignores.
fn files_of_streams(file: &UnitFile) -> impl Iterator<Item = (&'static str, PathBuf)> {
    ["StandardInput", "StandardOutput", "StandardError"].into_iter().filter_map(|key| {
        let (kind, path) = file.value("Service", key)?.split_once(':')?;
        let is_file =
            matches!(kind, "file" | "append" | "truncate") && path.starts_with('/') && !path.contains('%');
        let path = Path::new(path);
        let needed = if key == "StandardInput" { path } else { path.parent()? };
        is_file.then(|| (key, needed.to_path_buf()))
    })
}

fn gone(unit: &UnitName, key: &str, what: &str) -> Failure {
    Failure::new(format!("{what}, and {unit} has {key}= of it: once stopped, {unit} would not start again"))
        .hint("put it back as it was when the service started")
        .command_for(&format!("or correct {key}= with"), "systemctl edit --full", &[unit])
}

/// Returns whether a user or a group is in no database of this machine. Without getent(1) that is unknown.
fn is_missing(runner: &Runner, database: &str, name: &str) -> bool {
    let found = runner.run(&Program::new("getent").args([database, "--"]).arg(name));
    // "One or more supplied key could not be found in the database."
    found.is_ok_and(|found| found.ended == ChildEnd::Exited(2))
}

#[cfg(test)]
mod tests {
    use refresh_programs::process::ProcessId;

    use super::*;

    #[test]
    fn rw_7_1b_a_condition_about_a_path_holds_as_systemd_tests_it() {
        let directory = tempfile::tempdir().unwrap();
        let (empty, file) = (directory.path().join("empty"), directory.path().join("file"));
        refresh_system::disk::make_directory(&empty, 0o755).unwrap();
        refresh_system::disk::replace_file(&file, b"x", 0o644).unwrap();
        let check = |key: &str, path: &Path, is_unwanted: bool| {
            let needed =
                NeededPath { key: key.to_owned(), path: path.to_path_buf(), is_unwanted, is_inside: true };
            (!holds(&needed)).then(|| problem(&needed).replace(&path.display().to_string(), "it"))
        };
        let root = Path::new("/");
        for (key, good, bad, state) in [
            ("ExecStart", file.as_path(), Path::new("/no/such"), "it does not exist"),
            ("ConditionPathIsDirectory", &empty, &file, "it is not a directory"),
            ("AssertPathIsMountPoint", root, &empty, "it is not a mount point"),
            ("ConditionDirectoryNotEmpty", root, &empty, "it is not a directory with content"),
            ("ConditionFileNotEmpty", &file, &empty, "it is not a file with content"),
            ("ConditionFileIsExecutable", Path::new("/bin/sh"), &file, "it is not an executable file"),
        ] {
            assert_eq!(check(key, good, false), None, "{key}");
            assert_eq!(check(key, bad, false).as_deref(), Some(state), "{key}");
            assert_eq!(check(key, bad, true), None, "{key}");
        }
        assert_eq!(check("ConditionPathIsDirectory", &empty, true).unwrap(), "it is a directory");
        let link = directory.path().join("link");
        refresh_system::disk::point_link(&link, Path::new("/proc")).unwrap();
        assert_eq!(check("ConditionPathIsMountPoint", &link, false), None, "systemd follows the link");
    }

    #[test]
    fn a_process_sees_a_path_through_links_below_its_own_root() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        refresh_system::disk::replace_file(&at("file"), b"x", 0o644).unwrap();
        for (link, target) in
            [("relative", "./file"), ("absolute", "/bin/../bin"), ("gone", "none"), ("circle", "circle")]
        {
            refresh_system::disk::point_link(&at(link), Path::new(target)).unwrap();
        }
        let sees = |path: PathBuf| sees(ProcessId::own().pid, &path);
        for good in [at("file"), at("relative"), at("absolute/sh"), "/usr/../../bin/sh".into()] {
            assert!(sees(good.clone()), "{}", good.display());
        }
        for bad in ["none", "gone", "circle", "file/x"] {
            assert!(!sees(at(bad)), "{bad}");
        }
    }

    #[test]
    fn the_directory_of_an_output_and_the_file_of_an_input_are_needed() {
        let found = |text: &str| {
            let file = UnitFile::parse(format!("[Service]\n{text}\n").as_bytes());
            files_of_streams(&file).map(|(key, path)| format!("{key} {}", path.display())).collect::<Vec<_>>()
        };
        let all =
            "StandardInput=file:/srv/in\nStandardOutput=append:/srv/log/out\nStandardError=truncate:/srv/err";
        assert_eq!(found(all), ["StandardInput /srv/in", "StandardOutput /srv/log", "StandardError /srv"]);
        for none in ["StandardOutput=journal", "StandardError=fd:x", "StandardOutput=append:/srv/%n/x", ""] {
            assert_eq!(found(none), [""; 0], "{none}");
        }
    }
}
