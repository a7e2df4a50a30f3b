//! Sudo rules of the time before this program: of the service user, or for something that the application can write.
//!
//! Only looked for: what to do about one is told, and done by people.

use std::path::Path;

use crate::doctor::sudo::{self, Line};
use crate::error::Outcome;
use crate::settings::layout::Layout;

use super::SERVICE_USER;

/// Finds the rules and aliases that name something below `app/`, and the rules of the service user.
///
/// # Errors
/// A file of rules cannot be read.
pub(super) fn risky(layout: &Layout) -> Outcome<Vec<Line>> {
    let app = layout.app();
    Ok(sudo::lines(layout)?.into_iter().filter(|(_, _, line)| is_risky(line, &app)).collect())
}

fn is_risky(line: &str, app: &Path) -> bool {
    let who = line.split_whitespace().next().unwrap_or_default();
    let theirs = who.split(',').any(|name| name.strip_prefix('%').unwrap_or(name) == SERVICE_USER);
    theirs || line.contains(&format!("{}/", app.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;

    #[test]
    fn rules_for_scripts_below_app_and_of_the_service_user_are_found_with_their_lines() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::below(folder.path());
        let app = layout.app().display().to_string();
        let more = layout.sudoers().with_file_name("sudoers.d");
        disk::make_folder(&more, 0o755).unwrap();
        let text = format!(
            "# ladylinux ALL=(ALL) ALL\nDefaults env_reset\nroot ALL=(ALL:ALL) ALL\n\
             www ALL=(root) \\\n  NOPASSWD: {app}/scripts/refresh_vm.sh\n\
             %sudo ALL=(ALL:ALL) ALL\nCmnd_Alias REFRESH = {app}/r.sh\nx ALL={app}le\n@includedir sudoers.d\n"
        );
        disk::write_atomic(&layout.sudoers(), text.as_bytes(), 0o440).unwrap();
        disk::write_atomic(&more.join("button"), b"me,ladylinux ALL=(ALL) NOPASSWD: /bin/x\n", 0o440)
            .unwrap();
        let found = risky(&layout).unwrap();
        let places: Vec<(&str, usize)> = found
            .iter()
            .map(|(file, line, _)| (file.file_name().unwrap().to_str().unwrap(), *line))
            .collect();
        assert_eq!(places, [("sudoers", 4), ("sudoers", 7), ("button", 1)]);
    }
}
