//! The commands that sudo lets a user run as root. Sudo itself lists them (sudo(8), `-l -l -U USER`): it resolves every
//! file, alias, group and directory service. Starts `sudo`, and reads nothing else.

use std::time::Duration;

use refresh_programs::process::{Program, Runner};
use refresh_settings::layout::Layout;
use refresh_system::disk::Owner;
use refresh_system::environment;
use refresh_system::error::{Failure, Outcome};
use refresh_system::text::quoted;

/// The time limit of sudo: it may query a directory service on the network.
const DEADLINE: Duration = Duration::from_secs(20);

/// A command that a user may run as root, with sudo's password prompt or without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The command in the output of sudo: `ALL`, or a path, with arguments if they are limited.
    pub(super) command: String,
    /// The file of the rule; sudo prints it since 1.9.15.
    file: Option<String>,
}

impl Rule {
    /// Returns the shell command that opens the rule, or finds it if sudo does not print its file.
    pub(super) fn edit(&self) -> String {
        if let Some(file) = &self.file {
            return format!("visudo -f {}", quoted(file));
        }
        let program = self.command.split_whitespace().next().unwrap_or_default();
        format!("grep -rnwF -- {} /etc/sudoers /etc/sudoers.d", quoted(program))
    }
}

/// Returns the commands that `owner` may run as root, in the order of the rules. Without sudo on the machine there are
/// no rules.
///
/// # Errors
/// `layout` is not the real root or the caller is not root, so sudo cannot be queried; or sudo cannot read its rules.
pub(super) fn rules(layout: &Layout, runner: &Runner, owner: Owner) -> Outcome<Vec<Rule>> {
    if !layout.is_real() {
        return Err(Failure::new("sudo reads the rules of the machine, not those of a --root directory"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new("only root may ask sudo for the rules of another user"));
    }
    let Some(sudo) = environment::find_program("sudo", true) else { return Ok(Vec::new()) };
    // Sudo runs nothing for a user without a name.
    let Some(user) = owner.name() else { return Ok(Vec::new()) };
    let program =
        Program::new(sudo).args(["-n", "-l", "-l", "-U", &user]).env("LC_ALL", "C").deadline(DEADLINE);
    let finished = runner.run(&program)?.ok(|| format!("cannot list what sudo allows the user {user}"))?;
    Ok(parse(&finished.text()))
}

/// Reads sudo's long list. A user without rules has no entry in it.
fn parse(list: &str) -> Vec<Rule> {
    let (mut rules, mut file, mut is_root, mut in_commands) = (Vec::new(), None, false, false);
    for line in list.lines() {
        if !line.starts_with([' ', '\t']) {
            // "Sudoers entry:" is followed by a file since 1.9.15; "LDAP Role:" and "SSSD Role:" are followed by a
            // name.
            let path =
                line.strip_prefix("Sudoers entry:").map(str::trim).filter(|path| path.starts_with('/'));
            (file, is_root, in_commands) = (path.map(str::to_owned), false, false);
        } else if let Some(users) = line.trim_start().strip_prefix("RunAsUsers:").filter(|_| !in_commands) {
            is_root = includes_root(users);
        } else if line.trim() == "Commands:" {
            in_commands = true;
        } else if in_commands && is_root {
            let command = without_digests(line.trim());
            // A denied command gives no rights.
            if !command.starts_with('!') {
                rules.push(Rule { command: command.to_owned(), file: file.clone() });
            }
        }
    }
    rules
}

/// Returns a command without its digests (`sha256:…`). They pin the program, but not its arguments: a pinned
/// interpreter runs every script.
fn without_digests(mut command: &str) -> &str {
    while let Some((_, rest)) = command.split_once(' ').filter(|(word, _)| is_digest(word)) {
        command = rest.trim_start();
    }
    command
}

fn is_digest(word: &str) -> bool {
    word.strip_prefix("sha")
        .is_some_and(|rest| rest.split_once(':').is_some_and(|(bits, _)| bits.parse::<u16>().is_ok()))
}

/// Returns whether a list of users contains root: the last word that matches root decides (sudoers(5)).
fn includes_root(users: &str) -> bool {
    let is_root = |user: &&str| matches!(user.trim_start_matches('!'), "root" | "#0" | "ALL");
    users.split(',').map(str::trim).rfind(is_root).is_some_and(|user| !user.starts_with('!'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_pins_the_program_and_not_what_it_runs() {
        let command = "sha224:0a, sha256:Zm9v /bin/bash /opt/ladylinux/app/x.sh";
        assert_eq!(without_digests(command), "/bin/bash /opt/ladylinux/app/x.sh");
        assert_eq!(without_digests("/bin/sha256:x y"), "/bin/sha256:x y");
    }

    fn commands(list: &str) -> Vec<String> {
        parse(list).into_iter().map(|rule| rule.command).collect()
    }

    /// The output of sudo 1.9.13p3 (Debian 12) for these rules:
    ///
    /// ```text
    /// Cmnd_Alias R = /usr/local/bin/refresh, /bin/bash /opt/x.sh
    /// %ladies ALL=(ALL:ALL) ALL
    /// lady ALL=NOPASSWD: R
    /// lady ALL=(www-data) NOPASSWD: /a/b c\,d
    /// lady ALL=(root, nobody) NOPASSWD: !/x/y, SETENV: /q *
    /// lady ALL=(ALL, !root) /bin/b
    /// lady ALL=(#0) sha224:0GomF8mNN3wlDt1HD9XldjJ3SNgpFdbjO1+NsQ== /bin/ls, sudoedit /etc/motd
    /// lady ALL=(:adm) /bin/a
    /// ```
    const DEBIAN_12: &str = "\
Matching Defaults entries for lady on vm:
    env_reset, mail_badpass, secure_path=/usr/local/sbin\\:/usr/local/bin\\:/usr/sbin\\:/usr/bin\\:/sbin\\:/bin, use_pty

User lady may run the following commands on vm:

Sudoers entry:
    RunAsUsers: ALL
    RunAsGroups: ALL
    Commands:
\tALL

Sudoers entry:
    RunAsUsers: root
    Options: !authenticate
    Commands:
\t/usr/local/bin/refresh
\t/bin/bash /opt/x.sh

Sudoers entry:
    RunAsUsers: www-data
    Options: !authenticate
    Commands:
\t/a/b c\\,d

Sudoers entry:
    RunAsUsers: root, nobody
    Options: !authenticate
    Commands:
\t!/x/y

Sudoers entry:
    RunAsUsers: root, nobody
    Options: setenv, !authenticate
    Commands:
\t/q *

Sudoers entry:
    RunAsUsers: ALL, !root
    Commands:
\t/bin/b

Sudoers entry:
    RunAsUsers: #0
    Commands:
\tsha224:0GomF8mNN3wlDt1HD9XldjJ3SNgpFdbjO1+NsQ== /bin/ls
\tsudoedit /etc/motd

Sudoers entry:
    RunAsUsers: lady
    RunAsGroups: adm
    Commands:
\t/bin/a
";

    #[test]
    fn commands_as_root_are_read_from_the_list_of_debian_12() {
        let expected =
            ["ALL", "/usr/local/bin/refresh", "/bin/bash /opt/x.sh", "/q *", "/bin/ls", "sudoedit /etc/motd"];
        assert_eq!(commands(DEBIAN_12), expected);
        let edits: Vec<String> = parse(DEBIAN_12).iter().map(Rule::edit).collect();
        assert_eq!(edits[0], "grep -rnwF -- ALL /etc/sudoers /etc/sudoers.d");
        assert_eq!(edits[2], "grep -rnwF -- /bin/bash /etc/sudoers /etc/sudoers.d");
    }

    #[test]
    fn a_user_without_rules_has_none() {
        assert!(parse("User nobody is not allowed to run sudo on vm.\n").is_empty());
        assert!(parse("").is_empty());
    }

    #[test]
    fn the_file_of_a_rule_is_read_if_sudo_prints_it() {
        let list = "Sudoers entry: /etc/sudoers.d/lady\n    RunAsUsers: root\n    Commands:\n\t/a\n\
                    \nLDAP Role: button\n    RunAsUsers: root\n    Commands:\n\t/b\n";
        let edits: Vec<String> = parse(list).iter().map(Rule::edit).collect();
        assert_eq!(edits, ["visudo -f /etc/sudoers.d/lady", "grep -rnwF -- /b /etc/sudoers /etc/sudoers.d"]);
    }

    #[test]
    fn the_last_user_of_a_list_that_matches_root_decides() {
        for users in ["root", " ALL", "#0", "daemon, root", "!root, ALL"] {
            assert!(includes_root(users), "{users}");
        }
        for users in ["www-data", "ALL, !root", "!root", "%root-like", ""] {
            assert!(!includes_root(users), "{users}");
        }
    }

    #[test]
    fn a_root_directory_has_no_rules_that_sudo_can_list() {
        let runner = Runner::new(std::sync::Arc::new(refresh_events::event::Events::silent()));
        let failure = rules(&Layout::below("/trial"), &runner, Owner::own()).unwrap_err();
        assert!(failure.chain()[0].contains("not those of a --root directory"), "{failure:?}");
    }
}
