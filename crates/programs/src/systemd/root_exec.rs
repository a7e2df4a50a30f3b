//! Finds the application's own files that a unit runs as root. The module only reads: the text of the unit, and links
//! on the way to a program.
//!
//! Sources: systemd.service(5), "Command lines"; systemd.exec(5), `User=`.

use std::path::{Path, PathBuf};

use super::file::UnitFile;

/// The keys of commands in `[Service]`.
pub const COMMANDS: [&str; 7] =
    ["ExecStart", "ExecStartPre", "ExecStartPost", "ExecCondition", "ExecReload", "ExecStop", "ExecStopPost"];

/// The characters that may precede the program of a command.
pub const PREFIXES: [char; 6] = ['@', '-', ':', '+', '!', '|'];

/// Programs that run files of their working directory, or files in it that their arguments name.
const INTERPRETERS: [&str; 10] =
    ["sh", "bash", "dash", "zsh", "env", "python", "perl", "ruby", "node", "make"];

/// Programs that change the file at a path, and do not run it.
const HANDLERS: [&str; 7] = ["chown", "chgrp", "chmod", "mkdir", "touch", "test", "rm"];

/// A command that runs a file of the application as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootExec {
    /// Its key (`ExecStartPre`).
    pub key: String,
    /// The path of the application that is run, or the program that runs files of the application.
    pub path: String,
    /// Why it runs as root.
    pub why: String,
}

/// Returns the commands of a unit that run files below `places` as root. `user` is the user of the unit's processes;
/// `None` means root.
pub fn root_execs(file: &UnitFile, user: Option<&str>, places: &[PathBuf]) -> Vec<RootExec> {
    let is_roots = user.is_none_or(|user| user == "root" || user.parse() == Ok(0_u32));
    let starts_only = file.value("Service", "PermissionsStartOnly").is_some_and(is_yes);
    let directory = file.value("Service", "WorkingDirectory").map(|it| Path::new(it.trim_start_matches('-')));
    let mut found = Vec::new();
    for key in COMMANDS {
        for line in file.list("Service", key) {
            let command = line.trim_start_matches(PREFIXES);
            let prefix = &line[..line.len() - command.len()];
            let why = if let Some(sign) = prefix.chars().find(|c| "+!".contains(*c)) {
                format!("{key}= begins with \"{sign}\"")
            } else if is_roots {
                match user {
                    Some(user) => format!("the unit has User={user}"),
                    None => "the unit has no User=".to_owned(),
                }
            } else if starts_only && key != "ExecStart" {
                "the unit has PermissionsStartOnly=yes".to_owned()
            } else {
                continue;
            };
            if let Some(path) = of_application(command, directory, places) {
                found.push(RootExec { key: key.to_owned(), path, why });
            }
        }
    }
    found
}

/// Returns the file below `places` that a command runs; `None` if it names none of them.
fn of_application(command: &str, directory: Option<&Path>, places: &[PathBuf]) -> Option<String> {
    let is_inside = |path: &Path| {
        let leads = std::fs::canonicalize(path);
        places
            .iter()
            .any(|place| path.starts_with(place) || leads.as_ref().is_ok_and(|it| it.starts_with(place)))
    };
    let directory = directory.filter(|it| is_inside(it));
    // A shell separates words at more than blanks, and an option has its value after an equals sign.
    let words = command.split(|c: char| c.is_whitespace() || "\"'`;&|()<>=,:".contains(c));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let program = words.first()?;
    let name = Path::new(program).file_name()?.to_str()?;
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let run = if HANDLERS.contains(&name) { &words[..1] } else { &words[..] };
    let named = run.iter().find(|word| match directory {
        _ if word.starts_with('/') => is_inside(Path::new(word)),
        Some(directory) => directory.join(word).symlink_metadata().is_ok(),
        None => false,
    });
    if let Some(word) = named {
        let path = directory.filter(|_| !word.starts_with('/')).map(|directory| directory.join(word));
        return Some(path.map_or_else(|| (*word).to_owned(), |path| path.display().to_string()));
    }
    (directory.is_some() && INTERPRETERS.contains(&stem)).then(|| (*program).to_owned())
}

/// Returns whether systemd reads a value as yes.
pub fn is_yes(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "yes" | "y" | "true" | "t" | "on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<PathBuf> {
        ["/opt/ladylinux/app", "/opt/ladylinux/venv"].map(PathBuf::from).to_vec()
    }

    fn paths(user: Option<&str>, lines: &str) -> Vec<String> {
        let file = UnitFile::parse(format!("[Service]\n{lines}\n").as_bytes());
        root_execs(&file, user, &places()).into_iter().map(|it| it.path).collect()
    }

    #[test]
    fn a_command_with_roots_rights_that_names_a_file_of_the_application_is_found() {
        for line in [
            "ExecStartPre=+/opt/ladylinux/app/pre.sh",
            "ExecStartPre=-!/opt/ladylinux/app/pre.sh --all",
            "ExecStopPost=!!/bin/sh /opt/ladylinux/app/pre.sh",
            "ExecReload=+/bin/sh -c 'true;/opt/ladylinux/app/pre.sh'",
            "ExecCondition=+/usr/bin/env X=/opt/ladylinux/app/pre.sh",
            "PermissionsStartOnly=yes\nExecStartPre=/opt/ladylinux/app/pre.sh",
        ] {
            assert_eq!(paths(Some("ladylinux"), line), ["/opt/ladylinux/app/pre.sh"], "{line}");
        }
        let relative = "WorkingDirectory=-/opt/ladylinux/app\nExecStartPre=+/usr/bin/python3.11 -m hooks";
        assert_eq!(paths(Some("ladylinux"), relative), ["/usr/bin/python3.11"]);
    }

    #[test]
    fn every_command_of_a_unit_of_roots_is_one_with_roots_rights() {
        for user in [None, Some("root"), Some("0")] {
            let lines = "ExecStart=/opt/ladylinux/venv/bin/uvicorn a:b\nExecStop=/bin/kill 1";
            assert_eq!(paths(user, lines), ["/opt/ladylinux/venv/bin/uvicorn"]);
        }
    }

    #[test]
    fn a_command_of_the_user_or_outside_of_the_application_is_not_reported() {
        for line in [
            "ExecStart=/opt/ladylinux/venv/bin/uvicorn a:b",
            "ExecStartPre=+/usr/bin/mkdir -p /run/x",
            "ExecStartPre=+/usr/bin/chown -R ladylinux: /opt/ladylinux/app",
            "PermissionsStartOnly=no\nExecStartPre=/opt/ladylinux/app/pre.sh",
            "WorkingDirectory=/opt/ladylinux/app\nExecStartPre=+/usr/bin/mkdir -p /run/x",
            "ExecStartPre=+/opt/ladylinux/app/pre.sh\nExecStartPre=",
            "ExecStartPre=+/opt/ladylinux/application",
        ] {
            assert_eq!(paths(Some("ladylinux"), line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_link_to_a_file_of_the_application_and_a_name_beside_it_are_found() {
        let root = tempfile::tempdir().unwrap();
        let app = root.path().canonicalize().unwrap().join("app");
        refresh_system::disk::make_directory(&app, 0o755).unwrap();
        refresh_system::disk::write_atomic(&app.join("pre"), b"", 0o755).unwrap();
        let link = root.path().join("link");
        refresh_system::disk::point_link(&link, &app.join("pre")).unwrap();
        let of = |text: String| {
            let file = UnitFile::parse(text.as_bytes());
            root_execs(&file, Some("ladylinux"), std::slice::from_ref(&app))
        };
        let found = of(format!("[Service]\nExecStartPre=+{}\n", link.display()));
        assert_eq!(found[0].path, link.display().to_string());
        let shown = app.display();
        let found = of(format!("[Service]\nWorkingDirectory={shown}\nExecStartPre=+/usr/bin/nice pre\n"));
        assert_eq!(found[0].path, format!("{shown}/pre"));
        assert_eq!(found[0].why, "ExecStartPre= begins with \"+\"");
    }
}
