//! The drop-in that makes a unit respect the fence: its text, and whether systemd has loaded it.
//!
//! The unit waits for the file system of the fence: before it is mounted, there seems to be no fence. Two assertions
//! that trigger (systemd.unit(5), the `|`): the unit may start if at least one of them holds: if there is no fence, or
//! while a refresh starts the unit itself. A start that they forbid fails visibly; conditions would skip it silently.
//! The drop-in also names the file of the deployed version as an environment file, after the unit's own.

use std::fmt::Write as _;
use std::path::Path;

use refresh_programs::systemd::unit::UnitFacts;
use refresh_settings::layout::Layout;
use refresh_settings::names::UnitName;
use refresh_system::disk;
use refresh_system::error::{Failure, Outcome};
use refresh_system::hint::Hint;

/// Returns the text of the drop-in for `unit` of the installation at `layout`.
pub fn text(layout: &Layout, unit: &UnitName) -> String {
    let mut text = format!(
        "# Installed by `ladylinux-refresh init`, which also brings it up to date. Not to be edited: a refresh\n\
         # is refused when {unit} does not go by exactly this.\n\
         #\n\
         # While the fence stands, nothing but the refresh that raised it starts the service.\n\
         [Unit]\n"
    );
    let _ = writeln!(text, "RequiresMountsFor={}", escape_specifiers(&layout.state().to_string_lossy()));
    for (negated, path) in assertions(layout) {
        let _ = writeln!(
            text,
            "AssertPathExists=|{}{}",
            if negated { "!" } else { "" },
            escape_specifiers(&path)
        );
    }
    let _ = write!(
        text,
        "\n# The deployed version: LADYLINUX_COMMIT, _BRANCH, _REFRESHED_AT, _ENVIRONMENT.\n\
         [Service]\n\
         EnvironmentFile=-{}\n",
        escape_specifiers(&layout.deployed_env().to_string_lossy())
    );
    text
}

/// Checks that the unit has the drop-in.
///
/// # Errors
/// It is missing, has another text, or systemd has not read it, or something else in the unit cancels its effect.
pub fn check(layout: &Layout, unit: &UnitName, facts: &UnitFacts) -> Outcome<()> {
    let path = layout.drop_in(unit);
    let install = |what: String| {
        Failure::new(format!("{unit} has no fence: {what}")).command("ladylinux-refresh init", &[])
    };
    match disk::read_if_there(&path)? {
        None => return Err(install(format!("{} is missing", path.display()))),
        Some(found) if found != text(layout, unit).as_bytes() => {
            return Err(install(format!("{} is not the drop-in of this version", path.display())));
        }
        Some(_) => {}
    }
    check_loaded(layout, unit, facts, &path)
}

/// Checks the properties that systemd has loaded, from any file.
fn check_loaded(layout: &Layout, unit: &UnitName, facts: &UnitFacts, path: &Path) -> Outcome<()> {
    let missing = |what: String, hint: Hint| Failure::new(format!("{unit} has no fence: {what}")).hint(hint);
    if !facts.drop_ins.iter().any(|loaded| loaded == path) {
        return Err(missing(
            format!("systemd has not read {}", path.display()),
            Hint::command("systemctl daemon-reload", &[]),
        ));
    }
    let show = || Hint::command("systemctl cat", &[unit]);
    for (negated, path) in assertions(layout) {
        let is_ours = |assert: &refresh_programs::systemd::unit::Assertion| {
            assert.kind == "AssertPathExists"
                && assert.triggering
                && assert.negated == negated
                && assert.parameter == path
        };
        if !facts.assertions.iter().any(is_ours) {
            let what = format!("another drop-in takes the assertion on {path} away");
            return Err(missing(what, show()));
        }
    }
    // One triggering assertion that holds is enough, so a foreign one is a way around the fence; also one on our own
    // paths with the opposite meaning.
    let ours = assertions(layout);
    let is_ours = |assert: &&refresh_programs::systemd::unit::Assertion| {
        let named =
            ours.iter().any(|(negated, path)| *negated == assert.negated && *path == assert.parameter);
        assert.kind == "AssertPathExists" && named
    };
    let foreign = facts.assertions.iter().find(|assert| assert.triggering && !is_ours(assert));
    if let Some(foreign) = foreign {
        let what = format!("its {foreign} leads around it");
        return Err(missing(what, show()));
    }
    if !facts.environment_files.contains(&layout.deployed_env()) {
        let what =
            format!("another drop-in takes the environment file {} away", layout.deployed_env().display());
        return Err(missing(what, show()));
    }
    Ok(())
}

/// Returns the two assertions: whether the path must not exist, and the path.
fn assertions(layout: &Layout) -> [(bool, String); 2] {
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    [(true, text(layout.fence())), (false, text(layout.admit()))]
}

/// Escapes a path: systemd finds no specifier in it.
fn escape_specifiers(path: &str) -> String {
    path.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_programs::systemd::unit::Assertion;

    fn assertion(negated: bool, parameter: &str) -> Assertion {
        Assertion {
            kind: "AssertPathExists".to_owned(),
            triggering: true,
            negated,
            parameter: parameter.to_owned(),
            held: None,
        }
    }

    /// Returns a world whose unit has the drop-in.
    fn world() -> (tempfile::TempDir, Layout, UnitName, UnitFacts) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        let unit = UnitName::usual();
        let path = layout.drop_in(&unit);
        disk::make_directory(path.parent().unwrap(), 0o755).unwrap();
        disk::write_atomic(&path, text(&layout, &unit).as_bytes(), 0o644).unwrap();
        let facts = UnitFacts {
            drop_ins: vec![path],
            assertions: assertions(&layout).map(|(negated, path)| assertion(negated, &path)).into(),
            environment_files: vec![layout.env_file(), layout.deployed_env()],
            ..UnitFacts::default()
        };
        (directory, layout, unit, facts)
    }

    fn refusal(layout: &Layout, unit: &UnitName, facts: &UnitFacts) -> String {
        let failure = check(layout, unit, facts).unwrap_err();
        format!("{} [{}]", failure.chain().join(": "), failure.hint_texts().join(", "))
    }

    #[test]
    fn rw_7_1a_the_text_holds_the_mount_the_two_assertions_and_the_deployed_version() {
        let text = text(&Layout::below("/"), &UnitName::usual());
        let settings: Vec<&str> =
            text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(
            settings,
            [
                "[Unit]",
                "RequiresMountsFor=/var/lib/ladylinux-refresh",
                "AssertPathExists=|!/var/lib/ladylinux-refresh/fence",
                "AssertPathExists=|/run/ladylinux-refresh/admit",
                "[Service]",
                "EnvironmentFile=-/var/lib/ladylinux-refresh/deployed.env",
            ]
        );
    }

    #[test]
    fn a_percent_sign_in_a_path_is_no_specifier() {
        let text = text(&Layout::below("/100%n"), &UnitName::usual());
        assert!(text.contains("AssertPathExists=|!/100%%n/var/lib"), "{text}");
    }

    #[test]
    fn rw_7_1a_a_unit_that_uses_the_drop_in_is_accepted() {
        let (_directory, layout, unit, facts) = world();
        check(&layout, &unit, &facts).unwrap();
    }

    #[test]
    fn rw_7_1a_a_drop_in_that_is_missing_or_of_another_version_is_refused_with_the_command_that_installs_it()
    {
        let (_directory, layout, unit, facts) = world();
        disk::write_atomic(&layout.drop_in(&unit), b"[Unit]\n", 0o644).unwrap();
        assert!(refusal(&layout, &unit, &facts).ends_with("[ladylinux-refresh init]"));
        disk::remove_file_if_there(&layout.drop_in(&unit)).unwrap();
        assert!(refusal(&layout, &unit, &facts).ends_with("[ladylinux-refresh init]"));
    }

    #[test]
    fn rw_7_1a_a_drop_in_that_systemd_has_not_read_is_refused() {
        let (_directory, layout, unit, mut facts) = world();
        facts.drop_ins.clear();
        assert!(refusal(&layout, &unit, &facts).ends_with("[systemctl daemon-reload]"));
    }

    #[test]
    fn rw_7_1a_settings_that_cancel_the_drop_in_are_refused() {
        let (_directory, layout, unit, facts) = world();
        let without = UnitFacts { assertions: facts.assertions[1..].to_vec(), ..facts.clone() };
        assert!(refusal(&layout, &unit, &without).contains("takes the assertion"));
        let mut around = facts.clone();
        around.assertions.push(assertion(false, "/etc"));
        assert!(refusal(&layout, &unit, &around).contains("leads around it"));
        let mut opposite = facts.clone();
        opposite.assertions.push(assertion(false, &layout.fence().to_string_lossy()));
        assert!(refusal(&layout, &unit, &opposite).contains("leads around it"));
        let mut silent = facts;
        silent.environment_files.pop();
        assert!(refusal(&layout, &unit, &silent).contains("environment file"));
    }
}
