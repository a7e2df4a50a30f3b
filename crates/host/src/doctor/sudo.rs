//! Rules of sudo that give root's rights to an attacker who controls the application: commands that the service user
//! may run as root, and can change or control. Sudo lists the rules ([`sudo_list`]); this module evaluates them, and
//! changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use refresh_events::event::Events;
use refresh_programs::process::Runner;

use super::account::Account;
use super::{DoctorFinding, Examined, Findings, sudo_list};

/// Programs that execute the commands in their arguments: a user who chooses the arguments gets the rights of root.
const STEERED: &str = "\
    apt apt-get awk bash chmod chown cp dash docker dpkg env find git install ladylinux-refresh less ln \
    mount mv nano nsenter perl pip python rsync sed setpriv sh su sudoedit systemctl systemd-run tar tee vi \
    vim";

/// Checks that no rule of sudo gives the rights of root to the service user.
pub(super) fn rules(examined: &Examined) -> Findings {
    let Some(owner) = examined.owner.filter(|owner| owner.uid != 0) else { return Ok(Vec::new()) };
    let account = Account::of(owner, &examined.layout)?;
    let runner = Runner::new(Arc::new(Events::silent()));
    let user = owner.name().unwrap_or_else(|| format!("uid {}", owner.uid));
    let mut found = Vec::new();
    for rule in sudo_list::rules(&examined.layout, &runner, owner)? {
        if let Some(how) = way_to_root(&account, &rule.command) {
            found.push(DoctorFinding::problem(
                format!("sudo lets {user}, the user of the application, {how}"),
                "an attacker who controls the application has root's rights by this rule",
                rule.edit(),
            ));
        }
    }
    Ok(found)
}

/// Returns how a command that the account may run as root gives root's rights; `None` if it does not.
fn way_to_root(account: &Account, command: &str) -> Option<String> {
    if command == "ALL" {
        return Some("run everything as root".to_owned());
    }
    if takes_any_arguments(command).is_some_and(is_steered) {
        return Some(format!("run {command} as root with any arguments"));
    }
    // Besides the program itself, scripts and directories among its arguments count.
    command.split_whitespace().map(|word| word.trim_matches('"')).enumerate().find_map(|(index, word)| {
        let path = Path::new(word);
        if !path.is_absolute() {
            return None;
        }
        // A device among the arguments is not a script.
        if index > 0 && fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir()) {
            return None;
        }
        let has_pattern = |part: &str| part.contains(['*', '?', '[']);
        let fixed: PathBuf =
            path.components().take_while(|part| !has_pattern(&part.as_os_str().to_string_lossy())).collect();
        let way = account.replaceable_part(&fixed)?;
        let by = if way == path { String::new() } else { format!(" (by {})", way.display()) };
        Some(format!("run {command} as root, and that user can change {word}{by}"))
    })
}

/// Returns the name of the program of a command that accepts any arguments; it is empty for a directory of programs.
fn takes_any_arguments(command: &str) -> Option<&str> {
    let mut words = command.split_whitespace();
    let program = words.next()?.rsplit('/').next()?;
    matches!(words.next(), None | Some("*")).then_some(program)
}

/// Returns whether a program is one of [`STEERED`], in any version, or all programs of a directory.
fn is_steered(program: &str) -> bool {
    let name = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    name.is_empty() || STEERED.split(' ').any(|steered| steered == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_settings::layout::Layout;
    use refresh_system::disk;
    use refresh_system::disk::Owner;

    #[test]
    fn a_command_that_the_user_can_change_or_steer_leads_to_root() {
        let root = tempfile::tempdir().unwrap();
        let (open, closed) = (root.path().join("open"), root.path().join("closed"));
        for directory in [&open, &closed] {
            disk::make_directory(directory, 0o755).unwrap();
            disk::write_atomic(&directory.join("x"), b"", 0o755).unwrap();
        }
        disk::set_mode(root.path(), 0o755).unwrap();
        disk::set_mode(&open, 0o777).unwrap();
        let user = Account::of(Owner { uid: 61_900, gid: 61_900 }, &Layout::below(root.path())).unwrap();
        let (open, closed) = (open.display(), closed.display());
        let ways = |command: String| way_to_root(&user, &command);
        assert!(ways(format!("{open}/x")).unwrap().ends_with(&format!("can change {open}/x (by {open})")));
        for command in [
            format!("{closed}/x {open}/x"),
            format!("/bin/sh {open}/x"),
            format!("{open}/*"),
            format!("sudoedit {open}/x"),
        ] {
            assert!(ways(command.clone()).is_some_and(|how| how.contains("can change")), "{command}");
        }
        assert_eq!(ways("ALL".to_owned()).unwrap(), "run everything as root");
        for command in
            ["/bin/systemctl", "/usr/bin/python3.11 *", "/usr/bin/", "/usr/local/bin/ladylinux-refresh"]
        {
            assert!(ways(command.to_owned()).is_some_and(|how| how.contains("any arguments")), "{command}");
        }
        for command in [
            "/bin/systemctl restart x".to_owned(),
            "/usr/local/bin/ladylinux-refresh run".to_owned(),
            format!("{closed}/x"),
            format!("{closed}/x /dev/null"),
        ] {
            assert_eq!(ways(command.clone()), None, "{command}");
        }
    }
}
