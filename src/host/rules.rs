//! Sudo rules that let somebody run, as root, what the application can write. Source: sudoers(5).
//!
//! Only looked for: what to do about one is told, and done by people.

use std::fs;
use std::path::{Path, PathBuf};

use crate::settings::layout::Layout;

use super::SERVICE_USER;

/// One such rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The file that it stands in.
    pub(super) file: PathBuf,
    /// The number of its first line.
    pub(super) line: usize,
    /// Its text.
    pub(super) text: String,
}

/// Finds the rules that name something below `app/`, or that the service user has.
pub(super) fn risky(layout: &Layout) -> Vec<Rule> {
    let main = layout.root().join("etc/sudoers");
    let mut files = vec![main.clone()];
    let folder = layout.root().join("etc/sudoers.d");
    let mut more: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more);
    let app = layout.app();
    files
        .into_iter()
        .filter_map(|file| Some((fs::read(&file).ok()?, file)))
        .flat_map(|(bytes, file)| risky_in(&String::from_utf8_lossy(&bytes), &file, &app))
        .collect()
}

fn risky_in(text: &str, file: &Path, app: &Path) -> Vec<Rule> {
    let below = format!("{}/", app.display());
    let group = format!("%{SERVICE_USER}");
    logical_lines(text)
        .into_iter()
        .filter(|(_, line)| {
            // `#1000` is a user by number; nobody writes this one that way.
            let is_comment = line.starts_with('#') || line.is_empty();
            let who = line.split_whitespace().next().unwrap_or_default();
            let theirs = who == SERVICE_USER || who == group;
            !is_comment && (theirs || line.contains(&below))
        })
        .map(|(number, text)| Rule { file: file.to_path_buf(), line: number, text })
        .collect()
}

/// The lines with their continuations joined, each with the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let (number, mut joined) = begun.take().unwrap_or((index + 1, String::new()));
        if let Some(part) = line.strip_suffix('\\') {
            joined.push_str(part);
            begun = Some((number, joined));
        } else {
            joined.push_str(line);
            let words: Vec<&str> = joined.split_whitespace().collect();
            lines.push((number, words.join(" ")));
        }
    }
    lines.extend(begun.map(|(number, line)| (number, line.trim().to_owned())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_scripts_below_app_and_of_the_service_user_are_found_with_their_lines() {
        let text = "# ladylinux ALL=(ALL) ALL\nDefaults env_reset\nroot ALL=(ALL:ALL) ALL\n\
                    www ALL=(root) \\\n  NOPASSWD: /opt/ladylinux/app/scripts/refresh_vm.sh\n\
                    ladylinux ALL=(ALL) NOPASSWD: /bin/systemctl\n%sudo ALL=(ALL:ALL) ALL\n\
                    Cmnd_Alias REFRESH = /opt/ladylinux/app/r.sh\nx ALL=/opt/ladylinux/apple\n";
        let found = risky_in(text, Path::new("/etc/sudoers"), Path::new("/opt/ladylinux/app"));
        let lines: Vec<usize> = found.iter().map(|rule| rule.line).collect();
        assert_eq!(lines, [4, 6, 8]);
        assert_eq!(found[0].text, "www ALL=(root) NOPASSWD: /opt/ladylinux/app/scripts/refresh_vm.sh");
    }
}
