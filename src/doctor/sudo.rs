//! What sudo lets people do as root that the service's user can change: a root shell for whoever controls the
//! application.
//!
//! Source: sudoers(5), as much of it as such rules use: lists, aliases, tags, several hosts, included files. Rights are
//! read from modes and owners; access control lists are not looked at.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::error::Outcome;
use crate::process::Owner;
use crate::report::shell::quoted;
use crate::settings::layout::Layout;

use super::{Examined, Findings, Found};

/// How deep files are included in each other.
const DEEPEST: usize = 8;

/// Programs that do whatever their arguments say: who may give them any is root.
const WAYS_OUT: [&str; 34] = [
    "apt",
    "apt-get",
    "awk",
    "bash",
    "chmod",
    "chown",
    "cp",
    "dash",
    "docker",
    "dpkg",
    "env",
    "find",
    "git",
    "install",
    "less",
    "ln",
    "mount",
    "mv",
    "nano",
    "nsenter",
    "perl",
    "pip",
    "python",
    "rsync",
    "sed",
    "setpriv",
    "sh",
    "su",
    "systemctl",
    "systemd-run",
    "tar",
    "tee",
    "vi",
    "vim",
];

/// A user with all its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    names: Vec<String>,
    groups: Vec<u32>,
    /// What these groups are called.
    group_names: Vec<String>,
}

impl Account {
    /// Looks up what `owner` is called and which groups it is in (passwd(5), group(5)).
    ///
    /// # Errors
    /// The files are there and cannot be read.
    pub(super) fn of(owner: Owner, layout: &Layout) -> Outcome<Self> {
        let read = |path: PathBuf| -> Outcome<String> {
            Ok(String::from_utf8_lossy(&disk::read_if_there(&path)?.unwrap_or_default()).into_owned())
        };
        let [passwd, group] = layout.accounts();
        Ok(Self::parse(owner, &read(passwd)?, &read(group)?))
    }

    fn parse(owner: Owner, passwd: &str, group: &str) -> Self {
        let rows = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
        };
        let names: Vec<String> = rows(passwd)
            .into_iter()
            .filter(|row| row.get(2).and_then(|uid| uid.parse().ok()) == Some(owner.uid))
            .map(|row| row[0].clone())
            .collect();
        let (mut groups, mut group_names) = (vec![owner.gid], Vec::new());
        for row in rows(group) {
            let Some(gid) = row.get(2).and_then(|gid| gid.parse::<u32>().ok()) else { continue };
            let members = row.get(3).map(String::as_str).unwrap_or_default();
            let is_member = members.split(',').any(|member| names.iter().any(|name| name == member));
            if is_member && gid != owner.gid {
                groups.push(gid);
            }
            if is_member || gid == owner.gid {
                group_names.push(row[0].clone());
            }
        }
        Self { uid: owner.uid, names, groups, group_names }
    }

    /// Tells whether a word of a rule is this user.
    fn is(&self, word: &str) -> bool {
        self.names.iter().any(|name| name == word) || word == format!("#{}", self.uid)
    }

    /// Tells whether a word of a rule means this user, by itself, by a group or with everybody.
    fn is_meant_by(&self, word: &str) -> bool {
        let by_group = word.strip_prefix('%').is_some_and(|group| {
            let number = group.strip_prefix('#').and_then(|gid| gid.parse().ok());
            self.group_names.iter().any(|name| name == group)
                || number.is_some_and(|gid: u32| self.groups.contains(&gid))
        });
        self.is(word) || by_group || word == "ALL"
    }

    /// Tells whether the permission bits give it what `bits` says (4 read, 2 write, 1 execute).
    pub(super) fn may(&self, found: &Metadata, bits: u32) -> bool {
        let mode = found.mode();
        let granted = if self.uid == 0 {
            return true;
        } else if found.uid() == self.uid {
            mode >> 6
        } else if self.groups.contains(&found.gid()) {
            mode >> 3
        } else {
            mode
        };
        granted & bits == bits
    }

    /// Tells whether it may go through a folder.
    pub(super) fn may_enter(&self, folder: &Path) -> bool {
        fs::metadata(folder).is_ok_and(|found| self.may(&found, 0o1))
    }

    /// Returns the part of a path by which it can put something else there; `None` where it cannot.
    fn way_into(&self, path: &Path) -> Option<PathBuf> {
        let mut inner = path.to_path_buf();
        if fs::metadata(path).is_ok_and(|found| self.may_change(&found)) {
            return Some(inner);
        }
        for folder in path.ancestors().skip(1) {
            if let Ok(found) = fs::metadata(folder) {
                let sticky = found.mode() & 0o1000 != 0;
                let theirs = fs::symlink_metadata(&inner)
                    .is_ok_and(|it| it.uid() != self.uid && found.uid() != self.uid);
                if self.may_change(&found) && !(sticky && theirs) {
                    return Some(folder.to_path_buf());
                }
            }
            folder.clone_into(&mut inner);
        }
        let real = path.canonicalize().ok().filter(|real| real != path)?;
        self.way_into(&real)
    }

    /// Tells whether it can write something, or give itself the right to.
    fn may_change(&self, found: &Metadata) -> bool {
        found.uid() == self.uid || self.may(found, 0o2)
    }
}

/// No rule of sudo leads from the service's user to root.
pub(super) fn rules(examined: &Examined) -> Findings {
    let Some(owner) = examined.owner.filter(|owner| owner.uid != 0) else { return Ok(Vec::new()) };
    let account = Account::of(owner, &examined.layout)?;
    let book = Book::of(&lines(&examined.layout)?);
    let mut found = Vec::new();
    for rule in &book.rules {
        let edit = format!("visudo -f {}", quoted(&rule.file.display().to_string()));
        for command in book.commands(rule) {
            if let Some(what) = book.leads_to_root(&examined.layout, &account, rule, &command) {
                found.push(Found::problem(
                    format!("line {} of {}: {what}", rule.line, rule.file.display()),
                    "whoever controls the application can put another program there and has root's rights",
                    edit.clone(),
                ));
            }
        }
    }
    Ok(found)
}

/// A logical line of a file, and the number that it begins at.
pub(crate) type Line = (PathBuf, usize, String);

/// Returns the lines of all files that sudo reads, without comments.
///
/// # Errors
/// One of them cannot be read.
pub(crate) fn lines(layout: &Layout) -> Outcome<Vec<Line>> {
    let mut read = Vec::new();
    collect(layout, &layout.sudoers(), 0, &mut read)?;
    Ok(read)
}

/// Reads a file and those that it includes.
fn collect(layout: &Layout, path: &Path, depth: usize, read: &mut Vec<Line>) -> Outcome<()> {
    let Some(bytes) = disk::read_if_there(path)? else { return Ok(()) };
    for (number, line) in logical(&String::from_utf8_lossy(&bytes)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let named = words.get(1).map(|name| below(layout, path, name.trim_matches('"')));
        match (words.first().copied(), named) {
            (Some("@include" | "#include"), Some(file)) if depth < DEEPEST => {
                collect(layout, &file, depth + 1, read)?;
            }
            (Some("@includedir" | "#includedir"), Some(folder)) if depth < DEEPEST => {
                for file in files(&folder)? {
                    collect(layout, &file, depth + 1, read)?;
                }
            }
            (Some(first), _) if !first.starts_with('#') => read.push((path.to_path_buf(), number, line)),
            _ => {}
        }
    }
    Ok(())
}

/// The files of a folder that sudo reads: none with a dot in its name or a tilde at its end.
fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => crate::error::Context::context(entries, || format!("cannot read {}", folder.display()))?,
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            !name.contains('.') && !name.ends_with('~')
        })
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    Ok(found)
}

/// A path of a rule as it lies below the root.
fn below(layout: &Layout, from: &Path, name: &str) -> PathBuf {
    match name.strip_prefix('/') {
        Some(rest) => layout.root().join(rest),
        None => from.with_file_name(name),
    }
}

/// The lines of a text, continued ones joined, comments left out, with the number that each begins at.
fn logical(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let (number, mut whole) = begun.take().unwrap_or((index + 1, String::new()));
        if let Some(line) = line.strip_suffix('\\') {
            whole.push_str(line);
            begun = Some((number, whole));
            continue;
        }
        whole.push_str(line);
        let is_include = whole.trim_start().starts_with("#include");
        // A number behind the sign is a user's id, not a comment.
        let comment = whole.char_indices().find(|(at, c)| {
            *c == '#'
                && !whole[at + 1..].starts_with(|next: char| next.is_ascii_digit())
                && !whole[..*at].ends_with('\\')
        });
        if let (Some((at, _)), false) = (comment, is_include) {
            whole.truncate(at);
        }
        if !whole.trim().is_empty() {
            lines.push((number, whole.trim().to_owned()));
        }
    }
    lines
}

/// One part of a rule: who may do what as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    file: PathBuf,
    line: usize,
    who: Vec<String>,
    /// Each command with the users that it may be run as.
    what: Vec<Allowed>,
}

/// A command that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Allowed {
    as_whom: Vec<String>,
    command: String,
}

/// Rules and aliases.
#[derive(Debug, Default)]
struct Book {
    rules: Vec<Rule>,
    aliases: BTreeMap<String, Vec<String>>,
}

impl Book {
    fn of(lines: &[Line]) -> Self {
        let mut book = Self::default();
        for (file, line, text) in lines {
            let first = text.split_whitespace().next().unwrap_or_default();
            if first.starts_with("Defaults") {
                continue;
            }
            if first.ends_with("_Alias") {
                for definition in separated(&text[first.len()..], ':') {
                    if let Some((name, list)) = definition.split_once('=') {
                        book.aliases.insert(name.trim().to_owned(), separated(list, ','));
                    }
                }
                continue;
            }
            let Some((left, right)) = text.split_once('=') else { continue };
            let left = left.trim();
            // Users and hosts are lists; what parts them is the blank that no comma stands beside.
            let Some(at) = parting(left) else { continue };
            let who = separated(&left[..at], ',');
            book.rules.push(Rule { file: file.clone(), line: *line, who, what: allowed(right) });
        }
        book
    }

    /// What a rule allows, aliases put in.
    fn commands(&self, rule: &Rule) -> Vec<Allowed> {
        let mut all = Vec::new();
        for allowed in &rule.what {
            for command in self.resolved(&allowed.command, 0) {
                all.push(Allowed { command, as_whom: allowed.as_whom.clone() });
            }
        }
        all
    }

    fn resolved(&self, word: &str, depth: usize) -> Vec<String> {
        match self.aliases.get(word) {
            Some(list) if depth < DEEPEST => {
                list.iter().flat_map(|word| self.resolved(word, depth + 1)).collect()
            }
            _ => vec![word.to_owned()],
        }
    }

    /// Tells how a command of a rule leads the account to root; `None` where it does not.
    fn leads_to_root(
        &self,
        layout: &Layout,
        account: &Account,
        rule: &Rule,
        allowed: &Allowed,
    ) -> Option<String> {
        // As themselves they may do what they want.
        if !allowed.as_whom.is_empty() && allowed.as_whom.iter().all(|name| account.is(name)) {
            return None;
        }
        let command = allowed.command.trim();
        if command.starts_with('!') || command.starts_with("sha") && command.contains(':') {
            return None;
        }
        let who: Vec<String> = rule.who.iter().flat_map(|who| self.resolved(who, 0)).collect();
        // Of a list the last word that means somebody counts.
        let them = who.iter().rfind(|word| account.is_meant_by(word.trim_start_matches('!')));
        let them = them.filter(|word| !word.starts_with('!')).map(|word| {
            let how = if account.is(word) {
                "whom the application runs as"
            } else {
                "the application's user among them"
            };
            format!("{word}, {how},")
        });
        if command == "ALL" {
            return them.map(|them| format!("{them} may run everything as root"));
        }
        // Without arguments in the rule any may be given.
        if let (Some(them), Some(program)) = (them, any_arguments(command))
            && WAYS_OUT
                .iter()
                .any(|known| program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.') == *known)
        {
            return Some(format!("{them} may run {command} as root with any arguments"));
        }
        // Besides the program itself, scripts that an interpreter is told to run.
        command.split_whitespace().map(|word| word.trim_matches('"')).enumerate().find_map(|(index, word)| {
            let named = word.strip_prefix('/')?;
            // A device that a program is given is no script.
            if index > 0
                && fs::metadata(layout.root().join(named)).is_ok_and(|it| !it.is_file() && !it.is_dir())
            {
                return None;
            }
            let fixed: PathBuf = Path::new(named)
                .components()
                .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']))
                .collect();
            let way = account.way_into(&layout.root().join(fixed))?;
            let who = rule.who.join(", ");
            let by = if way == layout.root().join(named) {
                String::new()
            } else {
                format!(" (by {})", way.display())
            };
            Some(format!("{who} may run {command} as root, and the application's user can change {word}{by}"))
        })
    }
}

/// The name of the program of a command that may be given any arguments.
fn any_arguments(command: &str) -> Option<&str> {
    let mut words = command.split_whitespace();
    let program = words.next()?.rsplit('/').next()?;
    matches!(words.next(), None | Some("*")).then_some(program)
}

/// Reads what stands behind the equals sign of a rule.
fn allowed(text: &str) -> Vec<Allowed> {
    let mut found = Vec::new();
    let mut as_whom: Vec<String> = Vec::new();
    // Another host's part of the rule begins behind a colon with blanks around it.
    for part in text.split(" : ") {
        let part = part
            .split_once('=')
            .filter(|(host, _)| !host.contains(['/', ',']))
            .map_or(part, |(_, rest)| rest);
        for item in separated(part, ',') {
            let mut rest = item.as_str();
            if let Some((users, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
                let users = users.split(':').next().unwrap_or_default();
                as_whom = separated(users, ',');
                rest = after.trim_start();
            }
            while let Some((tag, after)) = rest.split_once(':') {
                if tag.is_empty() || !tag.trim().chars().all(|c| c.is_ascii_uppercase() || c == '_') {
                    break;
                }
                rest = after.trim_start();
            }
            if !rest.is_empty() {
                found.push(Allowed { as_whom: as_whom.clone(), command: rest.to_owned() });
            }
        }
    }
    found
}

/// Splits a list; what is escaped or stands in brackets is no separator.
fn separated(text: &str, separator: char) -> Vec<String> {
    let mut items = vec![String::new()];
    let (mut escaped, mut depth) = (false, 0_usize);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if c == separator && depth == 0 => {
                items.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = items.last_mut() {
            last.push(c);
        }
    }
    items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Where the list of users ends and that of hosts begins.
fn parting(left: &str) -> Option<usize> {
    left.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at).find(|at| {
        !left[..*at].trim_end().ends_with(',')
            && !left[*at..].trim_start().starts_with(',')
            && !left[..*at].ends_with('\\')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(text: &str) -> Book {
        let lines: Vec<Line> =
            logical(text).into_iter().map(|(number, line)| (PathBuf::from("s"), number, line)).collect();
        Book::of(&lines)
    }

    fn commands(text: &str) -> Vec<String> {
        let book = book(text);
        book.rules.iter().flat_map(|rule| book.commands(rule)).map(|allowed| allowed.command).collect()
    }

    #[test]
    fn commands_are_read_past_users_tags_and_continuations() {
        let text = "# no\nDefaults env_reset\nlady, %web  ALL = (root) NOPASSWD: /a/x.sh, \\\n  SETENV: /b -f, !/c\n";
        assert_eq!(commands(text), ["/a/x.sh", "/b -f", "!/c"]);
        assert_eq!(book(text).rules[0].who, ["lady", "%web"]);
        assert_eq!(book(text).rules[0].line, 3);
        assert_eq!(commands("u ALL=(ALL:ALL) ALL"), ["ALL"]);
        assert_eq!(commands("u H1=/a : H2=/b"), ["/a", "/b"]);
        assert_eq!(commands("u ALL=NOPASSWD:/a\\,b # why"), ["/a\\,b"]);
        assert_eq!(commands("#1000 ALL=/a"), ["/a"]);
    }

    #[test]
    fn aliases_are_put_in_also_within_each_other() {
        let text = "Cmnd_Alias ONE = /a, TWO : TWO = /b\nCmnd_Alias LOOP = LOOP\nu ALL=NOPASSWD: ONE, LOOP";
        assert_eq!(commands(text), ["/a", "/b", "LOOP"]);
    }

    #[test]
    fn groups_come_from_both_files() {
        let account = Account::parse(
            Owner { uid: 998, gid: 997 },
            "root:x:0:0::/:/bin/sh\nladylinux:x:998:997::/:/usr/sbin/nologin\n",
            "lady:x:997:\nvideo:x:44:a,ladylinux\nother:x:45:lady\n",
        );
        assert_eq!(account.group_names, ["lady", "video"]);
        assert_eq!((account.groups, account.names), (vec![997, 44], vec!["ladylinux".to_owned()]));
    }

    #[test]
    fn a_program_can_be_changed_through_any_part_of_its_path() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::below(root.path());
        let (mine, theirs) = (root.path().join("mine"), root.path().join("theirs"));
        for folder in [&mine, &theirs] {
            disk::make_folder(folder, 0o755).unwrap();
            disk::write_atomic(&folder.join("x"), b"", 0o755).unwrap();
        }
        disk::set_mode(root.path(), 0o755).unwrap();
        // Somebody who owns nothing here.
        let stranger = Account {
            uid: 61_900,
            names: vec!["lady".into()],
            groups: vec![61_900, 61_901],
            group_names: vec!["ladies".into()],
        };
        assert_eq!(stranger.way_into(&theirs.join("x")), None);
        disk::set_mode(&mine, 0o777).unwrap();
        assert_eq!(stranger.way_into(&mine.join("x")), Some(mine.clone()));
        disk::set_mode(&mine, 0o1777).unwrap();
        assert_eq!(stranger.way_into(&mine.join("x")), None, "others' files in a sticky folder stay");
        disk::set_mode(&mine, 0o777).unwrap();
        disk::point_link(&theirs.join("link"), &mine.join("x")).unwrap();
        assert_eq!(stranger.way_into(&theirs.join("link")), Some(mine.clone()));
        let led = |rule: &str| {
            let book = book(rule);
            let rule = &book.rules[0];
            book.commands(rule).iter().find_map(|it| book.leads_to_root(&layout, &stranger, rule, it))
        };
        assert!(led("u ALL=NOPASSWD: /mine/x").unwrap().contains("can change /mine/x"));
        assert!(led("u ALL=NOPASSWD: /theirs/x, /bin/sh /mine/x").is_some());
        assert!(led("u ALL=NOPASSWD: /mine/*").is_some());
        assert!(led("lady ALL=(ALL) NOPASSWD: ALL").unwrap().contains("everything as root"));
        for who in ["%ladies", "%#61901", "#61900", "ALL", "other, ALL", "!lady, %ladies"] {
            let told = led(&format!("{who} ALL=(ALL) NOPASSWD: ALL")).unwrap();
            assert!(told.contains("everything as root"), "{told}");
        }
        assert!(led("%ladies ALL=NOPASSWD: /bin/systemctl").is_some());
        for who in ["%others", "%#61902", "ladies", "ALL, !lady", "%ladies, !%#61901", "%lady"] {
            assert_eq!(led(&format!("{who} ALL=(ALL) NOPASSWD: ALL")), None, "{who}");
        }
        assert!(led("lady ALL=NOPASSWD: /bin/systemctl").unwrap().contains("with any arguments"));
        assert!(led("lady ALL=NOPASSWD: /usr/bin/python3.11 *").is_some());
        assert_eq!(led("lady ALL=NOPASSWD: /bin/systemctl restart x"), None);
        assert_eq!(led("u ALL=NOPASSWD: /bin/systemctl"), None);
        assert_eq!(led("u ALL=NOPASSWD: /theirs/x"), None);
        assert_eq!(led("%sudo ALL=(ALL:ALL) ALL"), None);
        assert_eq!(led("u ALL=(lady) NOPASSWD: /mine/x"), None);
        assert_eq!(led("u ALL= sha256:00 /mine/x"), None);
    }
}
